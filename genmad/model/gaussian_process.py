"""A Gaussian process over feature vectors: the predictor for a few dozen to a few hundred labels.

N labelled, M asked, F features. The kernel is linear plus squared exponential over scaled features; its settings are
those of the greatest marginal likelihood on a small grid (Rasmussen and Williams, 2006, equation 5.8). Targets are
replaced by normal scores of their ranks, because accuracies have a long tail of broken networks; predictions are mapped
back.
"""

from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
LENGTHS = (0.5, 1.0, 2.0)
NOISES = (1e-3, 1e-2, 1e-1)
LINEAR = (0.0, 1.0)
Settings = tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class GaussianProcess:
    """A fitted process. Make one with `GaussianProcess.fit`.

    Attributes:
        shift, scale: float64[F], how features are scaled.
        x: float64[N, F], scaled features of the labelled.
        lower: float64[N, N], Cholesky factor of the kernel matrix.
        weights: float64[N].
        settings: length of the squared exponential, share of noise, weight of the linear kernel.
        unit: median distance between labelled points, the unit of length.
        levels, scores: sorted targets and their normal scores.
    """

    shift: Floats
    scale: Floats
    x: Floats
    lower: Floats
    weights: Floats
    settings: Settings
    unit: float
    levels: Floats
    scores: Floats

    @classmethod
    def fit(cls, features: Floats, targets: Floats, settings: Settings | None = None) -> "GaussianProcess":
        """A process through float64[N] targets; with `settings` the search for them is left out."""
        shift, deviation = features.mean(0), features.std(0)
        scale = np.where(deviation > 1e-9, deviation, 1.0) * np.sqrt(features.shape[1])
        x = (features - shift) / scale
        squares = _squares(x, x)
        unit = float(np.sqrt(np.median(squares[squares > 0]))) if (squares > 0).any() else 1.0
        order = np.sort(targets)
        scores = _normal_scores(len(targets))
        y = np.interp(targets, order, scores)
        grid = [settings] if settings is not None else list(product(LENGTHS, NOISES, LINEAR))
        found = [(*_evidence(x, squares, y, each, unit), each) for each in grid]
        _, lower, weights, best = max(found, key=lambda item: item[0])
        return cls(
            shift=shift, scale=scale, x=x, lower=lower, weights=weights, settings=best, unit=unit, levels=order,
            scores=scores,
        )  # fmt: skip

    def normal(self, features: Floats) -> tuple[Floats, Floats]:
        """Mean and standard deviation, float64[M] each, in normal scores."""
        x = (features - self.shift) / self.scale
        cross = _kernel(_squares(x, self.x), x @ self.x.T, self.settings, self.unit)
        mean = cross @ self.weights
        half = np.linalg.solve(self.lower, cross.T)
        prior = 1.0 + self.settings[2] * (x * x).sum(1)
        return mean, np.sqrt(np.maximum(prior - (half * half).sum(0), 1e-9))

    def predict(self, features: Floats) -> tuple[Floats, Floats]:
        """Mean and half the width of one standard deviation on both sides, in the units of the targets."""
        mean, deviation = self.normal(features)
        ends = [np.interp(mean + side * deviation, self.scores, self.levels) for side in (-1, 0, 1)]
        return ends[1], (ends[2] - ends[0]) / 2


def _squares(a: Floats, b: Floats) -> Floats:
    return np.maximum((a * a).sum(1)[:, None] + (b * b).sum(1)[None] - 2 * a @ b.T, 0)


def _kernel(squares: Floats, inner: Floats, settings: Settings, unit: float) -> Floats:
    length, _, linear = settings
    found: Floats = np.exp(-0.5 * squares / (length * unit) ** 2) + linear * inner
    return found


def _evidence(x: Floats, squares: Floats, y: Floats, settings: Settings, unit: float) -> tuple[float, Floats, Floats]:
    """Log marginal likelihood without its constant, Cholesky factor, weights."""
    kernel = _kernel(squares, x @ x.T, settings, unit)
    lower = np.linalg.cholesky(kernel + (settings[1] + 1e-6) * np.eye(len(y)))
    weights = np.linalg.solve(lower.T, np.linalg.solve(lower, y))
    evidence = float(-0.5 * y @ weights - np.log(np.diag(lower)).sum())
    return evidence, np.asarray(lower, np.float64), np.asarray(weights, np.float64)


def _normal_scores(n: int) -> Floats:
    """Normal quantiles of (i - 0.375) / (n + 0.25) (Blom, 1958)."""
    from statistics import NormalDist

    return np.array([NormalDist().inv_cdf((i + 0.625) / (n + 0.25)) for i in range(n)])
