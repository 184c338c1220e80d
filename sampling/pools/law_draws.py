"""Independent draws from a law, from a whole space or from given members of it: what search proposes from."""

from collections.abc import Callable

import numpy as np

from genmad.sampling.pools.drawing import PoolSampler
from genmad.sampling.pools.laws import Law
from genmad.spaces import Space, Words


def law_draw(space: Space, law: Law, among: Words | None = None) -> Callable[[np.random.Generator, int], Words]:
    """A function that draws so many words; with `among`, int16[N, T], from the law restricted to these words."""
    if among is not None:
        return _restricted(space, law, among)

    def draw(rng: np.random.Generator, n: int) -> Words:
        return PoolSampler(space=space, law=law, seed=int(rng.integers(2**31))).independent(n)[0]

    return draw


def _restricted(space: Space, law: Law, among: Words) -> Callable[[np.random.Generator, int], Words]:
    chances = PoolSampler(space=space, law=law).log_likelihood(among)
    shares = np.exp(chances - chances.max())
    shares /= shares.sum()

    def draw(rng: np.random.Generator, n: int) -> Words:
        drawn: Words = among[rng.choice(len(shares), n, p=shares)]
        return drawn

    return draw
