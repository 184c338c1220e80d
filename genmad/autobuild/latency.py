"""Our own latency predictor: graph convolutions with sum aggregation and mean absolute percentage error.

Latency is a sum over layers before anything else, so messages and the read-out are sums, never means (the paper's
appendix on latency predictors); and a millisecond weighs more for a fast network, so the loss is relative.

M nodes of all graphs, B graphs, D width, K numbers per graph.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from genmad.autobuild.architecture import ArchGraph, FeatureSchema, Floats, Ints
from genmad.autobuild.batching import GraphBatch
from genmad.autobuild.fitting import FitSettings, FittedNetwork, Network, Prediction, fit_network


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencySettings:
    """Shape of the network.

    Attributes:
        width: of node embeddings.
        hops: number of graph convolutions.
        numbers: how many numbers per graph it reads, such as those of `resolution_features`.
    """

    width: int = 32
    hops: int = 2
    numbers: int = 0


class LatencyNetwork(Network):
    """Node embeddings, sums of the predecessors' messages, a sum over nodes, a positive number."""

    starts: Tensor

    def __init__(self, schema: FeatureSchema, settings: LatencySettings) -> None:
        super().__init__()
        width = settings.width
        self.settings = settings
        starts = torch.tensor([0, *schema.sizes[:-1]]).cumsum(0)
        self.register_buffer("starts", starts, persistent=False)
        self.embed = nn.Embedding(sum(schema.sizes), width)
        self.numbers = nn.Linear(settings.numbers, width, bias=False) if settings.numbers else None
        self.mix = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))
        self.root = nn.ModuleList(nn.Linear(width, width) for _ in range(settings.hops))
        self.before = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(settings.hops))
        self.after = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(settings.hops))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(settings.hops))
        self.per_node = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Linear(width, 1))
        self.per_graph = nn.Sequential(
            nn.LayerNorm(width + settings.numbers), nn.Linear(width + settings.numbers, width), nn.GELU(),
            nn.Linear(width, 1),
        )  # fmt: skip

    def forward(self, batch: GraphBatch) -> Prediction:
        """Values [B]: a sum of what each layer takes, times a factor of the whole graph."""
        h = self.embed(batch.x + self.starts).sum(1)
        if self.numbers is not None:
            h = h + self.numbers(batch.graph_features)[batch.batch]
        h = h + self.mix(h)
        for root, before, after, norm in zip(self.root, self.before, self.after, self.norms, strict=True):
            x = norm(h)
            h = h + nn.functional.leaky_relu(root(x) + self._messages(before(x), after(x), batch.edge_index))
        count = batch.ptr.diff()[:, None].float()
        layers = _sums(nn.functional.softplus(self.per_node(h)), batch)
        whole = _sums(h, batch) / count.sqrt()
        factor = self.per_graph(torch.cat([whole, batch.graph_features[:, : self.settings.numbers]], 1))
        return Prediction((layers / 16 * factor.exp()).squeeze(-1))

    def _messages(self, before: Tensor, after: Tensor, edge_index: Tensor) -> Tensor:
        """Sums over the nodes before and after each node."""
        source, target = edge_index
        found = torch.zeros_like(before).index_add_(0, target, before[source])
        return found.index_add_(0, source, after[target])


def _sums(h: Tensor, batch: GraphBatch) -> Tensor:
    return h.new_zeros(batch.num_graphs, h.shape[1]).index_add_(0, batch.batch, h)


def resolution_features(resolution: Ints | Sequence[int]) -> Floats:
    """float64[N, 2]: side and area of the input image, about -1 to 1 for 128 to 224 pixels."""
    side = np.asarray(resolution, np.float64)
    return np.stack([(side - 176) / 48, ((side / 176) ** 2 - 1) * 2], axis=1)


# Chosen on three settings of HELP, split seed 100: 64 wide with 3 hops is worse (3.3 against 2.7 % on titan_rtx_1).
LATENCY_FIT = FitSettings(epochs=80, lr=4e-3, batch_size=128, loss="mape", hop_loss="none", weight_decay=1e-4)


class LatencyPredictor:
    """A `Predictor` of positive numbers that may also read numbers per graph."""

    def __init__(
        self, schema: FeatureSchema, *, settings: LatencySettings = LatencySettings(), fit: FitSettings = LATENCY_FIT
    ) -> None:
        self.schema, self.settings, self.how = schema, settings, fit
        self.fitted: FittedNetwork | None = None

    def fit(
        self,
        graphs: Sequence[ArchGraph] | GraphBatch,
        targets: Floats,
        *,
        seed: int,
        graph_features: Floats | None = None,
    ) -> None:
        """Learns from float64[N] positive targets and float64[N, K] numbers. Raises `ValueError` on others."""
        if not (targets > 0).all():
            raise ValueError("latencies must be positive")
        numbers = 0 if graph_features is None else graph_features.shape[1]
        settings = replace(self.settings, numbers=numbers)
        self.fitted = fit_network(
            lambda: LatencyNetwork(self.schema, settings), graphs, targets, self.how, seed=seed,
            graph_features=graph_features,
        )  # fmt: skip

    def predict(self, graphs: Sequence[ArchGraph] | GraphBatch, graph_features: Floats | None = None) -> Floats:
        """float64[N], in the unit of the targets."""
        if self.fitted is None:
            raise RuntimeError("fit it first")
        return self.fitted.predict(graphs, graph_features)
