"""Training the graph transformer: loop, optimiser, checkpoints, collation."""

if __name__ != "genmad.training":
    raise ImportError(f"this folder is the package genmad.training, got {__name__!r}: write 'import genmad.training'")
