"""Targets as normal scores of their ranks: accuracies have a long tail of broken networks that would rule a fit."""

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from genmad.autobuild.architecture import Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class NormalScores:
    """A rising map between targets and normal scores. Make one with `NormalScores.fit`.

    Attributes:
        levels: the distinct targets, rising.
        scores: the mean normal score of each.
    """

    levels: Floats
    scores: Floats

    @classmethod
    def fit(cls, targets: Floats) -> "NormalScores":
        """Normal quantiles of (rank - 0.375) / (N + 0.25) (Blom, 1958), averaged over equal targets.

        Raises `ValueError` on targets that are none or not finite.
        """
        if not len(targets) or not np.isfinite(targets).all():
            raise ValueError(f"{len(targets)} targets, {int((~np.isfinite(targets)).sum())} of them not finite")
        law, n = NormalDist(), len(targets)
        quantiles = np.array([law.inv_cdf((i + 0.625) / (n + 0.25)) for i in range(n)])
        levels, places, counts = np.unique(np.sort(targets), return_inverse=True, return_counts=True)
        return cls(levels=levels, scores=np.bincount(places, weights=quantiles) / counts)

    def score(self, targets: Floats) -> Floats:
        """float64[N]: the scores of targets."""
        return _mapped(targets, self.levels, self.scores)

    def target(self, scores: Floats) -> Floats:
        """float64[N]: the targets of scores; beyond the ends it goes on with the mean slope, so that order is kept."""
        return _mapped(scores, self.scores, self.levels)


def _mapped(x: Floats, known: Floats, values: Floats) -> Floats:
    inside: Floats = np.interp(x, known, values)
    slope = (values[-1] - values[0]) / (known[-1] - known[0]) if len(known) > 1 else 0.0
    return inside + slope * (np.minimum(x - known[0], 0) + np.maximum(x - known[-1], 0))
