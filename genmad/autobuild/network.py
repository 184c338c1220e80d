"""AutoBuild's network: FE-MLP, GATv2 hops, an embedding of the graph at every hop, a prediction (section 4.1).

M nodes, E edges, F feature categories, B graphs, D width, H hops with the 0-hop.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from genmad.autobuild.architecture import FeatureSchema
from genmad.autobuild.batching import GraphBatch
from genmad.autobuild.fitting import Network, Prediction


@dataclass(frozen=True, slots=True, kw_only=True)
class HopSettings:
    """Shape of the network.

    Attributes:
        width: of node embeddings from the first hop on.
        hops: number of GATv2 layers.
        both_ways: whether messages also run against the direction of the data; such edges are told apart.
        norm: 1 or 2, the norm of embeddings that scores a graph or module.
        feature_width: of the hidden layer of each category's feed-forward.
    """

    width: int = 32
    hops: int = 4
    both_ways: bool = False
    norm: int = 1
    feature_width: int = 32


class Embeddings(NamedTuple):
    """One tensor per hop from 0 on: nodes [M, F or D], graphs [B, F or D]."""

    nodes: list[Tensor]
    graphs: list[Tensor]


class FeatureMLP(nn.Module):
    """FE-MLP: a feed-forward per category from a choice to one scalar; absolute values side by side (section 4.2).

    Choices are few, so a category's feed-forward is run once per choice, not per node, and all categories' at once: one
    tensor holds the same layer of each. C choices of the category with the most, W width.
    """

    starts: Tensor

    def __init__(self, schema: FeatureSchema, width: int) -> None:
        super().__init__()
        count, most = len(schema.sizes), max(schema.sizes)
        self.embed_FCW = nn.Parameter(torch.randn(count, most, width))
        self.hidden_FWW = nn.Parameter(torch.randn(count, width, width) / width**0.5)
        self.hidden_bias_F1W = nn.Parameter(torch.zeros(count, 1, width))
        self.out_FW1 = nn.Parameter(torch.randn(count, width, 1) / width**0.5)
        self.out_bias_F11 = nn.Parameter(torch.ones(count, 1, 1))
        self.register_buffer("starts", torch.arange(count) * most, persistent=False)

    def table(self) -> Tensor:
        """The scalar of every choice of every category, [F, C]; what stands beyond a category's choices is unused."""
        hidden = torch.relu(self.embed_FCW @ self.hidden_FWW + self.hidden_bias_F1W)
        return (hidden @ self.out_FW1 + self.out_bias_F11).squeeze(-1).abs()

    def forward(self, x: Tensor) -> Tensor:
        """0-hop embeddings [M, F] of choices [M, F]."""
        return self.table().flatten()[x + self.starts]


class HopNetwork(Network):
    """Embeddings of nodes and graphs at every hop, and a prediction from the last."""

    def __init__(self, schema: FeatureSchema, settings: HopSettings) -> None:
        super().__init__()
        from torch_geometric.nn import GATv2Conv

        self.settings = settings
        self.features = FeatureMLP(schema, settings.feature_width)
        widths = [len(schema.names), *[settings.width] * settings.hops]
        self.convs = nn.ModuleList(
            GATv2Conv(
                before,
                after,
                add_self_loops=False,
                residual=before != after,
                edge_dim=1 if settings.both_ways else None,
            )
            for before, after in pairwise(widths)
        )
        self.head = nn.Sequential(
            nn.Linear(widths[-1], settings.width), nn.ReLU(), nn.Linear(settings.width, settings.width), nn.ReLU(),
            nn.Linear(settings.width, 1),
        )  # fmt: skip

    def forward(self, batch: GraphBatch) -> Prediction:
        found = self.embeddings(batch)
        norms = torch.stack([graph.norm(p=self.settings.norm, dim=-1) for graph in found.graphs], -1)
        return Prediction(self.head(found.graphs[-1]).squeeze(-1), norms)

    def embeddings(self, batch: GraphBatch) -> Embeddings:
        links, kinds = self._links(batch)
        h = self.features(batch.x)
        nodes = [h]
        for conv in self.convs:
            out = torch.nn.functional.leaky_relu(conv(h, links, kinds))
            h = out + h if out.shape == h.shape else out
            nodes.append(h)
        return Embeddings(nodes, _means(nodes, batch))

    def _links(self, batch: GraphBatch) -> tuple[Tensor, Tensor | None]:
        """Edges with a loop at every node, [2, E], and a number per kind where there are several, [E, 1]."""
        loops = torch.arange(len(batch.x)).expand(2, -1)
        if not self.settings.both_ways:
            return torch.cat([batch.edge_index, loops], 1), None
        links = torch.cat([batch.edge_index, batch.edge_index.flip(0), loops], 1)
        count = batch.edge_index.shape[1]
        kinds = torch.cat([torch.ones(count), -torch.ones(count), torch.zeros(len(batch.x))])
        return links, kinds[:, None]


def _means(nodes: list[Tensor], batch: GraphBatch) -> list[Tensor]:
    """The mean over each graph's nodes, hop by hop."""
    h = torch.cat(nodes, 1)
    total = h.new_zeros(batch.num_graphs, h.shape[1]).index_add_(0, batch.batch, h)
    return list((total / batch.ptr.diff()[:, None]).split([each.shape[1] for each in nodes], 1))
