"""Search spaces: members as words of a grammar, as benchmark text and as graphs.

>>> from genmad.spaces import get_space
>>> space = get_space("nb201")
>>> space.size, space.num_classes
(15625, 6466)
"""

from genmad.spaces.grammar import Grammar, SpaceError, Step, Walk, Words, draw
from genmad.spaces.registry import SPACES, get_space
from genmad.spaces.space import METRICS, Adjacency, LabelTable, Space, Word

__all__ = [
    "METRICS",
    "SPACES",
    "Adjacency",
    "Grammar",
    "LabelTable",
    "Space",
    "SpaceError",
    "Step",
    "Walk",
    "Word",
    "Words",
    "draw",
    "get_space",
]
