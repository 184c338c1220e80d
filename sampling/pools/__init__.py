"""Candidate pools: distinct members of a search space, drawn under its grammar. Loads numpy, never torch."""

from genmad.sampling.pools.drawing import Conditions, Drawn, PoolSampler, conditions_for
from genmad.sampling.pools.laws import Law, NetLaw, UniformLaw, load_law

__all__ = ["Conditions", "Drawn", "Law", "NetLaw", "PoolSampler", "UniformLaw", "conditions_for", "load_law"]
