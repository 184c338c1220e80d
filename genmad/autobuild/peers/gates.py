"""GATES: data flows along the graph and every operation gates what passes through it.

Ning et al., A Generic Graph-based Neural Architecture Encoding Scheme for Predictor-based NAS, ECCV 2020, arXiv
2004.01899, section 3.2: the information of a node is the sum of what it reads, transformed, times a gate that its
operation's embedding opens. Operations stand on nodes here; cells with operations on edges come as their line graph,
where the same formula is the paper's for edges.
"""

# B graphs, V nodes of the largest, D width

import torch
from torch import Tensor, nn

from genmad.autobuild.architecture import FeatureSchema
from genmad.autobuild.batching import GraphBatch
from genmad.autobuild.peers.encoder import ChoiceEmbedding, Encoder, PeerPredictor, mean_at, sinks, sources


class GatedFlow(nn.Module):
    """One layer: h' = norm(gate(op) * (A h + h) W + h); `adjacency` is [B, reader, read]."""

    def __init__(self, width: int, op_width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.through = nn.Linear(width, width)
        self.gate = nn.Linear(op_width, width)

    def forward(self, h_BVD: Tensor, ops_BVD: Tensor, adjacency_BVV: Tensor) -> Tensor:
        x_BVD = self.through(self.norm(h_BVD))
        flowing = adjacency_BVV @ x_BVD + x_BVD
        return h_BVD + torch.sigmoid(self.gate(ops_BVD)) * torch.nn.functional.silu(flowing)


class GatesEncoder(Encoder):
    """Layers of gated flow from the sources; the embedding is what reaches the sinks."""

    def __init__(self, schema: FeatureSchema, *, width: int = 64, layers: int = 5) -> None:
        super().__init__()
        self.width = width
        self.embed = ChoiceEmbedding(schema, width)
        self.start = nn.Parameter(torch.randn(2, width) * 0.5)
        self.layers = nn.ModuleList(GatedFlow(width, width) for _ in range(layers))
        self.mix = nn.Sequential(nn.LayerNorm(2 * width), nn.Linear(2 * width, width), nn.SiLU())

    def forward(self, batch: GraphBatch) -> Tensor:
        dense = batch.dense()
        mask, first = dense.mask[..., None].float(), sources(dense)
        ops_BVD = self.embed(dense.x) * mask
        h_BVD = (first * self.start[0] + (1 - first) * self.start[1]) * mask
        for layer in self.layers:
            h_BVD = layer(h_BVD, ops_BVD, dense.adjacency.mT) * mask
        out: Tensor = self.mix(torch.cat([mean_at(h_BVD, sinks(dense)), mean_at(h_BVD, mask)], -1))
        return out


class GatesPredictor(PeerPredictor):
    def encoder(self) -> Encoder:
        return GatesEncoder(self.schema, width=self.width)
