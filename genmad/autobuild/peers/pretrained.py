"""A head on embeddings that another network, trained on something else, gives of whole architectures.

The embeddings come as a callable, so this room needs no checkpoint: `genmad.evals` hands in the encoder of the shipped
graph transformer, which has read whole networks of many kinds but no label of a benchmark.

N architectures, D numbers of an embedding, P principal components.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
from torch import Tensor, nn

from genmad.autobuild.architecture import ArchGraph, FeatureSchema, Floats
from genmad.autobuild.batching import GraphBatch, collate
from genmad.autobuild.fitting import FitSettings, FittedNetwork, Network, Prediction, fit_network
from genmad.autobuild.graph_features import GraphColumns, distinct, features
from genmad.autobuild.normal_scores import NormalScores
from genmad.model.gaussian_process import GaussianProcess

MOST_COMPONENTS = 48
STRENGTHS = (1e-2, 1e-1, 1.0, 10.0, 100.0)
HEAD = FitSettings(epochs=200, lr=2e-3, weight_decay=1e-2, batch_size=64, loss="hinge", hop_loss="none")


class Head(Protocol):
    """Learns normal scores float64[N] from float64[N, P] and predicts some."""

    def fit(self, x: Floats, targets: Floats, *, seed: int) -> None: ...

    def predict(self, x: Floats) -> Floats: ...


class ProcessHead:
    """A Gaussian process."""

    def fit(self, x: Floats, targets: Floats, *, seed: int) -> None:  # noqa: ARG002
        self._process = GaussianProcess.fit(x, targets)

    def predict(self, x: Floats) -> Floats:
        return self._process.normal(x)[0]


class RidgeHead:
    """Ridge regression; its strength is that of the least squared error of each label left out."""

    def fit(self, x: Floats, targets: Floats, *, seed: int) -> None:  # noqa: ARG002
        ones = np.concatenate([x, np.ones((len(x), 1))], 1)
        found = [_ridge(ones, targets, strength) for strength in STRENGTHS]
        self._weights = min(found, key=lambda item: item[0])[1]

    def predict(self, x: Floats) -> Floats:
        return np.asarray(x @ self._weights[:-1] + self._weights[-1], np.float64)


class _Columns(Network):
    """A feed-forward over the graph's numbers alone."""

    def __init__(self, columns: int, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(columns, width), nn.SiLU(), nn.Dropout(0.1), nn.Linear(width, width), nn.SiLU(),
            nn.Linear(width, 1),
        )  # fmt: skip

    def forward(self, batch: GraphBatch) -> Prediction:
        values: Tensor = self.layers(batch.graph_features)
        return Prediction(values.squeeze(-1))


class MlpHead:
    """A feed-forward trained with the pairwise hinge, in the loop of all networks here."""

    _node = ArchGraph(features=np.zeros((1, 1), np.int64), edges=np.zeros((0, 2), np.int64),
                      stages=np.zeros(1, np.int64))  # fmt: skip

    def fit(self, x: Floats, targets: Floats, *, seed: int) -> None:
        self._fitted: FittedNetwork = fit_network(
            lambda: _Columns(x.shape[1], 64), collate([self._node] * len(x), x), targets, HEAD, seed=seed
        )

    def predict(self, x: Floats) -> Floats:
        return self._fitted.predict(collate([self._node] * len(x), x))


HEADS: Mapping[str, type[ProcessHead] | type[RidgeHead] | type[MlpHead]] = {
    "process": ProcessHead,
    "ridge": RidgeHead,
    "mlp": MlpHead,
}


class PretrainedPredictor:
    """Embeddings, their principal components over the labelled, a head.

    Without `embed` it reads the structure of the graphs: the yardstick for embeddings.
    """

    def __init__(self, schema: FeatureSchema, *, embed: GraphColumns | None = None, head: str = "process") -> None:
        """`embed` gives float64[N, D]. Raises `ValueError` on a head that is not in `HEADS`."""
        if head not in HEADS:
            raise ValueError(f"head {head!r}: expected one of {', '.join(HEADS)}")
        self.schema, self.embed, self._head = schema, embed, HEADS[head]()
        self._scores: NormalScores | None = None

    def fit(self, graphs: Sequence[ArchGraph], targets: Floats, *, seed: int) -> None:
        """Learns from float64[N] targets."""
        found = self._numbers(graphs)
        self._shift = found.mean(0)
        deviation = found.std(0)
        self._scale = np.where(deviation > 1e-9, deviation, 1.0)
        _, sizes, axes = np.linalg.svd((found - self._shift) / self._scale, full_matrices=False)
        kept = axes[: min(MOST_COMPONENTS, int((sizes > 1e-6 * sizes[:1]).sum()))]
        self._axes = kept.T
        self._scores = NormalScores.fit(targets)
        self._head.fit(self._components(found), self._scores.score(targets), seed=seed)

    def predict(self, graphs: Sequence[ArchGraph]) -> Floats:
        """float64[N], in the units of the targets. Raises `RuntimeError` before `fit`."""
        if self._scores is None:
            raise RuntimeError("PretrainedPredictor was not fitted: call fit(graphs, targets, seed=...) first")
        unique, at = distinct(graphs)
        return self._scores.target(self._head.predict(self._components(self._numbers(unique))))[at]

    def _numbers(self, graphs: Sequence[ArchGraph]) -> Floats:
        return self.embed(graphs) if self.embed is not None else features(self.schema, graphs)

    def _components(self, found: Floats) -> Floats:
        return np.asarray((found - self._shift) / self._scale @ self._axes, np.float64)


def _ridge(x: Floats, y: Floats, strength: float) -> tuple[float, Floats]:
    """Mean squared error of each label left out (the usual identity with the hat matrix), and the weights."""
    inverse = np.linalg.inv(x.T @ x + strength * np.eye(x.shape[1]))
    weights = inverse @ x.T @ y
    left_out = (y - x @ weights) / (1 - np.einsum("np,pq,nq->n", x, inverse, x)).clip(1e-9)
    return float((left_out**2).mean()), np.asarray(weights, np.float64)
