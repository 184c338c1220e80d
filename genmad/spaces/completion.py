"""Neighbours in spaces where one choice decides what other steps may say."""

from collections.abc import Iterator

import numpy as np

from genmad.spaces.grammar import Grammar, iterate
from genmad.spaces.space import Word


def completed_neighbours(grammar: Grammar, word: Word) -> Iterator[Word]:
    """Every word that one other choice leads to; later steps stay where they may, else take their first choice."""
    pairs = [(t, c) for t, step in enumerate(grammar.steps) for c in range(len(step.choices)) if c != word[t]]
    at, to = (np.array(column, np.int64) for column in zip(*pairs, strict=True))
    rows = np.arange(len(pairs))
    walk, good, columns = grammar.start(len(pairs)), np.ones(len(pairs), np.bool_), []
    for t, kept in enumerate(word):
        mask, want = grammar.allowed(walk), np.where(at == t, to, kept)
        fits = mask[rows, want]
        good &= fits | (at != t)
        columns.append(np.where(fits, want, mask.argmax(1)))
        walk = grammar.advance(walk, columns[-1])
    table = np.stack(columns, axis=1).astype(np.int16)[good]
    return iter(dict.fromkeys(iterate(table)))
