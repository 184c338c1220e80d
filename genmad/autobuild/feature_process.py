"""A Gaussian process on graph features that are scaled by how much a forest uses them.

A process with a length per feature has more lengths than a hundred labels can settle; the importances of extremely
randomised trees (Geurts et al., 2006) stand for them. The process is smooth where boosting is made of steps: the two
err in different places (see `blend`).

N labelled, M asked, F features.
"""

from collections.abc import Sequence
from itertools import product

import numpy as np

from genmad.autobuild.architecture import ArchGraph, FeatureSchema, Floats
from genmad.autobuild.boosting import sklearn_ensemble
from genmad.autobuild.graph_features import GraphColumns, distinct, features, reaches_output
from genmad.autobuild.kernel_process import evidence
from genmad.autobuild.normal_scores import NormalScores

LENGTHS = (0.5, 0.7, 1.0, 1.4)
"""In units of the median distance between labelled points."""
NOISES = (3e-3, 1e-2, 3e-2, 0.1)
POWER = 0.5
"""A standardised feature is multiplied by its importance to this power."""
TREES = 200


class FeatureProcess:
    """The process; length and noise are those of the greatest marginal likelihood on a small grid.

    Attributes:
        columns: more columns, such as zero-cost proxies; what is not known counts as the mean.
        settings: (length, share of noise) that were found.
    """

    def __init__(self, schema: FeatureSchema, *, columns: GraphColumns | None = None) -> None:
        self.schema = schema
        self.columns = columns
        self.settings: tuple[float, float] | None = None
        self._scores: NormalScores | None = None
        self._ranks: list[Floats] = []
        self._scale: tuple[Floats, Floats] = (np.zeros(0), np.zeros(0))
        self._known: Floats = np.zeros((0, 0))
        self._weights: Floats = np.zeros(0)
        self._unit = 1.0

    def fit(self, graphs: Sequence[ArchGraph], targets: Floats, *, seed: int) -> None:
        """Learns from float64[N] targets; the forest follows from `seed`."""
        self._scores = NormalScores.fit(targets)
        y = self._scores.score(targets)
        raw = self._read(graphs)
        # Of further columns only the order matters: each is a share of the labelled that it is above.
        self._ranks = [np.sort(column[np.isfinite(column)]) for column in raw.T]
        x = self._ranked(raw)
        shift, deviation = x.mean(0), x.std(0)
        forest = sklearn_ensemble("ExtraTreesRegressor")(
            TREES, min_samples_leaf=2, max_features=0.3, random_state=seed
        ).fit(x, y)
        weight = np.where(deviation > 1e-9, forest.feature_importances_**POWER / np.maximum(deviation, 1e-9), 0.0)
        self._scale = shift, weight
        self._known = (x - shift) * weight
        squares = _squares(self._known, self._known)
        self._unit = float(np.median(squares[squares > 0])) if (squares > 0).any() else 1.0
        best = -np.inf
        for length, noise in product(LENGTHS, NOISES):
            found, weights = evidence(np.exp(-0.5 * squares / (self._unit * length**2)), y, noise)
            if found > best:
                best, self.settings, self._weights = found, (length, noise), weights

    def predict(self, graphs: Sequence[ArchGraph]) -> Floats:
        """float64[M] in the units of the targets. Raises `RuntimeError` before `fit`."""
        if self._scores is None or self.settings is None:
            raise RuntimeError("predict before fit")
        shift, weight = self._scale
        unique, at = distinct(graphs)
        asked = (self._ranked(self._read(unique)) - shift) * weight
        kernel = np.exp(-0.5 * _squares(asked, self._known) / (self._unit * self.settings[0] ** 2))
        mean = self._scores.target(kernel @ self._weights)
        return np.where(reaches_output(self.schema, unique), mean, self._scores.levels[0])[at]

    def _read(self, graphs: Sequence[ArchGraph]) -> Floats:
        found = features(self.schema, graphs)
        return found if self.columns is None else np.concatenate([found, self.columns(graphs)], axis=1)

    def _ranked(self, raw: Floats) -> Floats:
        out = raw.copy()
        for c, known in enumerate(self._ranks):
            if self.columns is None or not len(known):
                out[:, c] = np.where(np.isfinite(raw[:, c]), raw[:, c], 0.0)
                continue
            share = (np.searchsorted(known, raw[:, c]) + np.searchsorted(known, raw[:, c], "right")) / (2 * len(known))
            out[:, c] = np.where(np.isfinite(raw[:, c]), share, 0.5)
        return out


def _squares(a: Floats, b: Floats) -> Floats:
    out: Floats = np.maximum((a * a).sum(1)[:, None] + (b * b).sum(1)[None] - 2 * a @ b.T, 0)
    return out
