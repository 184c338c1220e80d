"""What the graph transformer is trained to do: prompted edits, graph completion, masked ops, hidden links."""
