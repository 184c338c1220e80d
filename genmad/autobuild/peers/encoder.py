"""What the peers share: an encoder of graphs, a head on it, and the predictor that trains several of them.

Axes: B graphs, V nodes of the largest, F feature categories, D width, N architectures, K numbers per graph.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from genmad.autobuild.architecture import ArchGraph, FeatureSchema, Floats
from genmad.autobuild.batching import DenseGraphs, GraphBatch, collate
from genmad.autobuild.fitting import FitSettings, FittedNetwork, Network, Prediction, fit_network
from genmad.autobuild.graph_features import GraphColumns, distinct
from genmad.autobuild.normal_scores import NormalScores

RANKING = FitSettings(epochs=150, lr=3e-3, weight_decay=1e-3, batch_size=64, loss="hinge", hop_loss="none")
"""How peers are trained: the pairwise hinge of GATES, some hundred short epochs."""


class Encoder(nn.Module):
    """A torch module from a batch to an embedding per graph. Subclass it, set `width`, write `forward`."""

    width: int

    def forward(self, batch: GraphBatch) -> Tensor:
        """[B, width]."""
        raise NotImplementedError


class ChoiceEmbedding(nn.Module):
    """A vector per choice; the vectors of a node's categories are added."""

    starts: Tensor

    def __init__(self, schema: FeatureSchema, width: int) -> None:
        super().__init__()
        self.table = nn.Embedding(sum(schema.sizes), width)
        nn.init.normal_(self.table.weight, std=len(schema.sizes) ** -0.5)
        self.register_buffer("starts", torch.tensor([0, *np.cumsum(schema.sizes)[:-1].tolist()]), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """[..., F] choice numbers to [..., D]."""
        out: Tensor = self.table(x + self.starts).sum(-2)
        return out


def sources(dense: DenseGraphs) -> Tensor:
    """1 at nodes that read nothing, 0 elsewhere and where padded; float32[B, V, 1]."""
    return ((dense.adjacency.sum(1) == 0) & dense.mask).float()[..., None]


def sinks(dense: DenseGraphs) -> Tensor:
    """1 at nodes that nothing reads, 0 elsewhere and where padded; float32[B, V, 1]."""
    return ((dense.adjacency.sum(2) == 0) & dense.mask).float()[..., None]


def mean_at(h: Tensor, where: Tensor) -> Tensor:
    """Mean of h [B, V, D] over the nodes with 1 in `where` [B, V, 1]; [B, D]."""
    return (h * where).sum(1) / where.sum(1).clamp_min(1.0)


class HeadedNetwork(Network):
    """An encoder, the numbers of the whole graph beside its embedding, and a feed-forward to one value."""

    def __init__(self, encoder: Encoder, extra: int = 0) -> None:
        super().__init__()
        self.encoder = encoder
        inner = encoder.width + extra
        self.head = nn.Sequential(nn.Linear(inner, encoder.width), nn.SiLU(), nn.Linear(encoder.width, 1))

    def forward(self, batch: GraphBatch) -> Prediction:
        embedding = torch.cat([self.encoder(batch), batch.graph_features], -1)
        return Prediction(self.head(embedding).squeeze(-1))


@dataclass(frozen=True, slots=True)
class Scaling:
    """How columns are brought to mean 0 and deviation 1; what is not finite becomes the mean."""

    shift: Floats
    scale: Floats

    @classmethod
    def of(cls, columns: Floats) -> "Scaling":
        known = np.where(np.isfinite(columns), columns, np.nan)
        empty = np.isnan(known).all(0)
        known[:, empty] = 0.0
        deviation = np.nanstd(known, 0)
        return cls(np.nanmean(known, 0), np.where(deviation > 1e-12, deviation, 1.0))

    def __call__(self, columns: Floats) -> Floats:
        scaled = (columns - self.shift) / self.scale
        return np.where(np.isfinite(scaled), np.clip(scaled, -5, 5), 0.0)


class PeerPredictor:
    """Members of one kind of encoder, from several seeds; predictions are the mean of theirs, standardised each.

    A ranking loss knows only the order of the targets, so the members' values are taken for normal scores.
    """

    settings = RANKING
    most_steps = 1000
    """Of training, whatever the number of labels."""
    in_target_units = False
    """A ranking loss: predictions have the mean and deviation of the targets, but not their law."""

    def __init__(
        self, schema: FeatureSchema, *, width: int = 64, members: int = 3, settings: FitSettings | None = None,
        columns: GraphColumns | None = None,
    ) -> None:  # fmt: skip
        """`columns` gives what is known of each whole graph beside its structure (zero-cost proxies, latencies)."""
        if members < 1:
            raise ValueError(f"members {members}: expected 1 or more")
        self.schema, self.width, self.members, self.columns = schema, width, members, columns
        self.settings = settings or self.settings
        self.fitted: list[FittedNetwork] = []
        self._scaling: Scaling | None = None
        self._said: list[tuple[float, float]] = []
        self._scores: NormalScores | None = None

    def encoder(self) -> Encoder:
        """A new encoder. Subclasses give theirs."""
        raise NotImplementedError

    def network(self, _number: int) -> nn.Module:
        """A new network for the member of that number: an encoder with a head."""
        return HeadedNetwork(self.encoder(), self._num_columns)

    def fit(self, graphs: Sequence[ArchGraph], targets: Floats, *, seed: int) -> None:
        """Trains every member on float64[N] targets. Raises `ValueError` on targets that are not finite."""
        found = self.columns(graphs) if self.columns else None
        self._scaling = None if found is None else Scaling.of(found)
        batch = collate(graphs, None if found is None or self._scaling is None else self._scaling(found))
        settings = at_most(self.most_steps, self.settings, len(targets))
        self.fitted = [
            fit_network(partial(self.network, number), batch, targets, settings, seed=seed * 1009 + number)
            for number in range(self.members)
        ]
        said = [member.predict(batch) for member in self.fitted]
        self._said = [(float(each.mean()), float(each.std()) or 1.0) for each in said]
        self._scores = NormalScores.fit(targets)

    def predict(self, graphs: Sequence[ArchGraph]) -> Floats:
        """float64[N]: the mean of the members is read as a normal score of the labelled targets.

        Raises `RuntimeError` before `fit`.
        """
        if not self.fitted or self._scores is None:
            raise RuntimeError(f"{type(self).__name__} was not fitted: call fit(graphs, targets, seed=...) first")
        unique, at = distinct(graphs)
        known = self._scaling(self.columns(unique)) if self.columns and self._scaling else None
        batch = collate(unique, known)
        parts = [
            (member.predict(batch) - shift) / scale
            for member, (shift, scale) in zip(self.fitted, self._said, strict=True)
        ]
        return self._scores.target(np.asarray(np.mean(parts, 0), np.float64))[at]

    @property
    def _num_columns(self) -> int:
        return 0 if self._scaling is None else len(self._scaling.shift)


def at_most(steps: int, settings: FitSettings, num_labels: int) -> FitSettings:
    """The same settings with no more epochs than make so many steps."""
    per_epoch = max(1, round(num_labels / settings.batch_size))
    return replace(settings, epochs=min(settings.epochs, max(1, steps // per_epoch)))
