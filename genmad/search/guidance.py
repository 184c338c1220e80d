"""Pools guided by a label: a predictor learned from a few labels teaches a conditional generator of its own.

Labels are rare, draws are free: a Gaussian process learns the labels and grades draws of the unconditional generator,
and a small conditional network is trained on the graded draws, its condition being the grade. Drawing then goes beyond
the conditional law, away from the unconditional one (classifier-free guidance, Ho and Salimans, arXiv 2207.12598).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from genmad.ir import Diagnostic
from genmad.model.choice_net import ChoiceNet
from genmad.model.gaussian_process import GaussianProcess
from genmad.spaces import LabelTable, Space, SpaceError, Words
from genmad.spaces.split import in_training, representatives

Fit = Callable[[Space, Words, NDArray[np.int64], int], ChoiceNet]
DrawMany = Callable[[int], Words]
GRADES = (0.03, 0.1, 0.25, 0.5, 0.75, 0.9, 0.97)
"""Quantiles between grades; the last grade is the best 3 %."""
GUIDANCE = 1.5
DRAWS = 12_000
_CHUNK = 4096


@dataclass(frozen=True, kw_only=True)
class Guided:
    """What guidance learned.

    Attributes:
        net: the conditional network.
        condition: the grade to ask for.
        process: the predictor.
        num_labels: how many labels it saw.
    """

    space: Space
    net: ChoiceNet
    condition: int
    process: GaussianProcess
    num_labels: int

    def score(self, words: Words) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Predicted label and uncertainty of each word."""
        parts = [
            self.process.predict(self.space.features(words[i : i + _CHUNK]))
            for i in range(0, max(len(words), 1), _CHUNK)
        ]
        return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])


def labelled(
    space: Space, table: LabelTable, column: str, count: int, *, share: float | None, seed: int
) -> tuple[Words, NDArray[np.float64]]:
    """`count` members with their labels, each class once, only from the training split where there is one.

    Raises `SpaceError` naming the columns, or saying how many labels there are.
    """
    values = table.column(column)
    usable = np.isfinite(values)
    if share is not None:
        usable &= in_training(space, table.words, share)
    words, values = table.words[usable], values[usable]
    _, first = np.unique(space.fingerprints(words), return_index=True)
    if len(first) < count:
        raise SpaceError(
            Diagnostic(where="--labels", got=f"{count}", expected=f"at most the {len(first)} labelled classes")
        )
    rows = np.random.default_rng(seed).permutation(np.sort(first))[:count]
    return words[rows], values[rows]


def learn(
    space: Space, words: Words, values: NDArray[np.float64], draw: DrawMany, fit: Fit, *, invert: bool = False,
    seed: int = 0,
) -> Guided:  # fmt: skip
    """A guided generator from labelled members; `draw` gives unconditional members, `fit` trains the network."""
    process = GaussianProcess.fit(space.features(words), values)
    drawn = representatives(space, draw(DRAWS))
    parts = [process.normal(space.features(drawn[i : i + _CHUNK]))[0] for i in range(0, len(drawn), _CHUNK)]
    graded = np.concatenate(parts)
    grades = 1 + np.searchsorted(np.quantile(graded, GRADES), graded, side="right")
    # Rare grades are shown as often as common ones.
    balanced = _balanced(grades, np.random.default_rng(seed))
    net = fit(space, drawn[balanced], grades[balanced].astype(np.int64), seed)
    condition = 1 if invert else int(grades.max())
    return Guided(space=space, net=net, condition=condition, process=process, num_labels=len(words))


def _balanced(grades: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Row numbers in which every grade stands equally often."""
    each = max(1, len(grades) // len(np.unique(grades)))
    return np.concatenate([rng.choice(np.flatnonzero(grades == g), each) for g in np.unique(grades)])
