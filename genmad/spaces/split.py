"""Named splits of a space by class: which members a generator may be trained on. Nothing is stored, hashing decides."""

import numpy as np
from numpy.typing import NDArray

from genmad.spaces.grammar import Bools, Words
from genmad.spaces.space import Space

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def in_training(space: Space, words: Words, share: float) -> Bools:
    """bool[B]: whether the class of each word is among the `share` of classes that are for training.

    All words of a class, and all spaces' runs on any machine, get the same answer: it follows from the fingerprint.
    """
    return _position(space.fingerprints(words)) < share


def _position(fingerprints: NDArray[np.uint64]) -> NDArray[np.float64]:
    """float64[B] in [0, 1): evenly spread, also where fingerprints are not."""
    mixed = (fingerprints ^ (fingerprints >> np.uint64(31))) * _GOLDEN
    mixed = (mixed ^ (mixed >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
    return (mixed >> np.uint64(11)).astype(np.float64) / float(1 << 53)


def representatives(space: Space, words: Words) -> Words:
    """One word per class, the first in the given order; the order is kept."""
    _, first = np.unique(space.fingerprints(words), return_index=True)
    out: Words = words[np.sort(first)]
    return out
