"""Numbers that people ask for, and the ways to say them."""

import random
from collections.abc import Sequence

from genmad.intents.phrasing import Phrases
from genmad.intents.wordings.slots import numbered


def usual(rng: random.Random, common: Sequence[int], low: int, high: int) -> int:
    """Mostly a common number, else any from `low` to `high`."""
    return rng.choice(common) if rng.random() < 0.75 else rng.randrange(low, high + 1)


def window_phrases(w: int) -> Phrases:
    return Phrases(
        (f"a window of {w}", f"window size {w}", f"window {w}", f"window={w}", f"a {w}-token window",
        f"a window size of {w}",
         f"a window of {w} tokens", f"a sliding window of {w}", *numbered("window", w)),
        (f"a span of {w} tokens", f"a receptive field of {w}", f"attention span {w}"),
    )  # fmt: skip


def rank_phrases(r: int) -> Phrases:
    return Phrases(
        (f"rank {r}", f"rank={r}", f"r={r}", f"a rank of {r}", f"rank-{r}", f"r {r}", *numbered("rank", r)),
        (f"{r} as its rank", f"rank equal to {r}", f"lora_r {r}"),
    )


def number_phrases(n: int, noun: str) -> Phrases:
    """`8 heads` and other forms."""
    return Phrases((f"{n} {noun}",), (f"{n} {noun} in total", f"exactly {n} {noun}"))
