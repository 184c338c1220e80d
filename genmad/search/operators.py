"""Mutation, crossover and completion under a grammar: every result is a member within the limits, none is repaired."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from genmad.spaces import Grammar, Words, draw

Limits = Sequence[int | None]


def mutate(grammar: Grammar, words: Words, rng: np.random.Generator, limits: Limits = ()) -> Words:
    """int16[B, T]: each word with at least one choice changed where the grammar has another member.

    One step is redrawn, never as it was; the choices after it stay where they are still allowed and are drawn
    uniformly where they are not.
    """
    B, T = words.shape
    open_steps = np.array([len(step.choices) > 1 for step in grammar.steps])
    at = _redrawable(grammar, words, rng, limits, open_steps)
    wish = np.zeros((B, T), np.int16)
    walk = grammar.start(B)
    for t in range(T):
        mask = grammar.allowed(walk, limits)
        law = np.where(mask, grammar.uniform[t][walk.states], 0.0)
        here = at == t
        rows = np.flatnonzero(here)
        law[rows, words[rows, t]] = 0.0
        keep = ~here & mask[np.arange(B), words[:, t]]
        law[keep] = 0.0
        law[keep, words[keep, t]] = 1.0
        wish[:, t] = draw(law, rng)
        walk = grammar.advance(walk, wish[:, t])
    return wish


def _redrawable(
    grammar: Grammar, words: Words, rng: np.random.Generator, limits: Limits, open_steps: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """int64[B]: for each word a random step at which something else is allowed; -1 where there is none."""
    B, T = words.shape
    free = np.zeros((B, T), np.bool_)
    walk = grammar.start(B)
    for t in range(T):
        free[:, t] = (grammar.allowed(walk, limits).sum(1) > 1) & open_steps[t]
        walk = grammar.advance(walk, words[:, t])
    noise = np.where(free, rng.random((B, T)), -1.0)
    return np.where(free.any(1), noise.argmax(1), -1)


def cross(grammar: Grammar, a: Words, b: Words, rng: np.random.Generator, limits: Limits = ()) -> Words:
    """int16[B, T]: each choice from one parent or the other, where the grammar allows it, else drawn uniformly."""
    B, T = a.shape
    out = np.zeros((B, T), np.int16)
    walk = grammar.start(B)
    rows = np.arange(B)
    for t in range(T):
        mask = grammar.allowed(walk, limits)
        law = np.zeros(mask.shape)
        for parent in (a, b):
            law[rows, parent[:, t]] += mask[rows, parent[:, t]]
        orphan = law.sum(1) == 0
        law[orphan] = np.where(mask[orphan], grammar.uniform[t][walk.states[orphan]], 0.0)
        out[:, t] = draw(law, rng)
        walk = grammar.advance(walk, out[:, t])
    return out


def fixed_choices(grammar: Grammar, partial: Mapping[str, str]) -> dict[int, int]:
    """Step -> choice of a partial member given by names. Raises `LookupError` naming the step or choice at fault."""
    places = {step.name: t for t, step in enumerate(grammar.steps)}
    found: dict[int, int] = {}
    for name, label in partial.items():
        if name not in places:
            raise LookupError(f"no step {name!r}; the steps are {', '.join(places)}")
        choices = grammar.steps[places[name]].choices
        if label not in choices:
            raise LookupError(f"step {name!r} has no choice {label!r}, but {', '.join(choices)}")
        found[places[name]] = choices.index(label)
    return found
