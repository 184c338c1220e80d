"""Data only: shipped configurations and constraints.txt, as genmad.configs."""
