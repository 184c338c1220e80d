"""Search over spaces: operators on words, guidance by labels, and methods that query one member at a time."""
