"""Graph isomorphism network on a directed graph, along and against its edges.

Xu et al., How Powerful are Graph Neural Networks?, ICLR 2019, arXiv 1810.00826, equation 4.1, with a sum over what a
node reads and another over what reads it.
"""

# B graphs, V nodes of the largest, D width

import torch
from torch import Tensor, nn

from genmad.autobuild.architecture import FeatureSchema
from genmad.autobuild.batching import GraphBatch
from genmad.autobuild.peers.encoder import ChoiceEmbedding, Encoder, PeerPredictor


class GinLayer(nn.Module):
    """h' = h + MLP([(1 + e) h, sum over read, sum over readers])."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.epsilon = nn.Parameter(torch.zeros(()))
        self.norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(3 * width, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, h_BVD: Tensor, adjacency_BVV: Tensor) -> Tensor:
        x_BVD = self.norm(h_BVD)
        parts = [(1 + self.epsilon) * x_BVD, adjacency_BVV.mT @ x_BVD, adjacency_BVV @ x_BVD]
        out: Tensor = self.mlp(torch.cat(parts, -1))
        return h_BVD + out


class GinEncoder(Encoder):
    """The sums over nodes after every layer, mixed: what makes isomorphic graphs equal and others mostly not."""

    def __init__(self, schema: FeatureSchema, *, width: int = 64, layers: int = 4) -> None:
        super().__init__()
        self.width = width
        self.embed = ChoiceEmbedding(schema, width)
        self.layers = nn.ModuleList(GinLayer(width) for _ in range(layers))
        self.mix = nn.Sequential(nn.LayerNorm((layers + 1) * width), nn.Linear((layers + 1) * width, width), nn.SiLU())

    def forward(self, batch: GraphBatch) -> Tensor:
        dense = batch.dense()
        mask = dense.mask[..., None].float()
        h_BVD = self.embed(dense.x) * mask
        sums = [h_BVD.sum(1)]
        for layer in self.layers:
            h_BVD = layer(h_BVD, dense.adjacency) * mask
            sums.append(h_BVD.sum(1))
        out: Tensor = self.mix(torch.cat(sums, -1))
        return out


class GinPredictor(PeerPredictor):
    """The default peer of plain message passing."""

    def encoder(self) -> Encoder:
        return GinEncoder(self.schema, width=self.width)
