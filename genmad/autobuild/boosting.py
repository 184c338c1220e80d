"""Gradient boosting on graph features, with further columns (zero-cost proxies) where they are given."""

from collections.abc import Sequence
from importlib import import_module
from typing import Any

import numpy as np

from genmad.autobuild.architecture import ArchGraph, FeatureSchema, Floats
from genmad.autobuild.graph_features import Bools, GraphColumns, distinct, features, reaches_output
from genmad.autobuild.normal_scores import NormalScores
from genmad.ir import Diagnostic, GenmadError


class MissingPackageError(GenmadError):
    """A predictor needs a package that is not installed."""

    exit_code = 2

    def __init__(self, diagnostic: Diagnostic) -> None:
        self.diagnostic = diagnostic
        super().__init__(str(diagnostic))


class Boosting:
    """The mean of a few runs of histogram gradient boosting that differ in the features their splits may choose from.

    Targets are learned as normal scores. A cell in which no path leads from input to output computes a constant: it is
    predicted as the least of the targets.

    Attributes:
        columns: more columns, such as zero-cost proxies.
        runs: how many runs are averaged.
    """

    def __init__(self, schema: FeatureSchema, *, columns: GraphColumns | None = None, runs: int = 3) -> None:
        self.schema = schema
        self.columns = columns
        self.runs = runs
        self._models: list[Any] = []
        self._kept: Bools = np.zeros(0, bool)
        self._scores: NormalScores | None = None

    def fit(self, graphs: Sequence[ArchGraph], targets: Floats, *, seed: int) -> None:
        """Learns from float64[N] targets, higher is better."""
        regressor = sklearn_ensemble("HistGradientBoostingRegressor")
        self._scores = NormalScores.fit(targets)
        found, y = self._features(graphs), self._scores.score(targets)
        self._kept = np.asarray(np.isfinite(found).any(0))
        x = found[:, self._kept]
        self._models = [
            regressor(
                max_iter=300, learning_rate=0.05, max_leaf_nodes=15, min_samples_leaf=min(5, max(1, len(y) // 10)),
                l2_regularization=1.0, max_features=0.2, early_stopping=False, random_state=seed * 1000 + run,
            ).fit(x, y)
            for run in range(self.runs)
        ]  # fmt: skip

    def predict(self, graphs: Sequence[ArchGraph]) -> Floats:
        """float64[N] in the units of the targets. Raises `RuntimeError` before `fit`."""
        if self._scores is None:
            raise RuntimeError("predict before fit")
        unique, at = distinct(graphs)
        x = self._features(unique)[:, self._kept]
        mean = np.mean([model.predict(x) for model in self._models], axis=0)
        return np.where(reaches_output(self.schema, unique), self._scores.target(mean), self._scores.levels[0])[at]

    def _features(self, graphs: Sequence[ArchGraph]) -> Floats:
        found = features(self.schema, graphs)
        if self.columns is None:
            return found
        more = self.columns(graphs)
        return np.concatenate([found, np.where(np.isfinite(more), more, np.nan)], axis=1)


def sklearn_ensemble(name: str) -> Any:
    """A class of sklearn.ensemble. Raises `MissingPackageError` where scikit-learn is not installed."""
    try:
        return getattr(import_module("sklearn.ensemble"), name)
    except ImportError as error:
        raise MissingPackageError(
            Diagnostic(where=f"predictor with {name}", got="no scikit-learn", expected="it installed",
                       fix='pip install "genmad[predictors]"')
        ) from error  # fmt: skip
