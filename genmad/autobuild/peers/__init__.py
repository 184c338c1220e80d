"""Neural predictors beside AutoBuild's own: encoders of small graphs behind one interface and one training loop.

Each file names its paper; all are written anew here, at the width of a few dozen numbers that hundreds of labels bear.
"""
