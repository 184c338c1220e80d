"""Data only: the checkpoints that ship with the package."""
