"""A transformer whose heads attend along the edges of the graph, after NN-Former.

Xu et al., NN-Former: Rethinking Graph Structure in Neural Architecture Representation, CVPR 2025, arXiv 2507.00880:
heads attend to what a node reads (A^T), to what reads it (A), to nodes with a common reader (A A^T) and to nodes with a
common source (A^T A); the feed-forward mixes neighbours on both sides (its equations 6 to 9).
"""

# B graphs, V nodes of the largest, H heads, D width, K width of a head

import torch
from einops import rearrange
from torch import Tensor, nn

from genmad.autobuild.architecture import FeatureSchema
from genmad.autobuild.batching import DenseGraphs, GraphBatch
from genmad.autobuild.peers.encoder import ChoiceEmbedding, Encoder, PeerPredictor, mean_at, sinks

NUM_RELATIONS = 4


def relations(dense: DenseGraphs) -> Tensor:
    """What each relation lets a node (third axis) attend to (fourth), itself always; bool[B, 4, V, V]."""
    a = dense.adjacency
    found = torch.stack([a, a.mT, a @ a.mT, a.mT @ a], 1) > 0
    return found | torch.eye(a.shape[1], dtype=torch.bool)


class AdjacencyAttention(nn.Module):
    """Attention with as many heads for each of the four relations."""

    def __init__(self, width: int, heads_each: int) -> None:
        super().__init__()
        self.heads = NUM_RELATIONS * heads_each
        self.heads_each = heads_each
        self.read = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x_BVD: Tensor, allowed_BRVV: Tensor) -> Tensor:
        q, k, v = rearrange(self.read(x_BVD), "b v (part h k) -> part b h v k", part=3, h=self.heads)
        allowed = allowed_BRVV.repeat_interleave(self.heads_each, 1)
        found = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=allowed)
        out: Tensor = self.out(rearrange(found, "b h v k -> b v (h k)"))
        return out


class TwoWayFeedForward(nn.Module):
    """W2 act(W1 x + [A^T, A] (W x)): half of the hidden numbers come from what a node reads, half from its readers."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.own = nn.Linear(width, 2 * width)
        self.read = nn.Linear(width, width, bias=False)
        self.readers = nn.Linear(width, width, bias=False)
        self.out = nn.Linear(2 * width, width)

    def forward(self, x_BVD: Tensor, adjacency_BVV: Tensor) -> Tensor:
        both = torch.cat([adjacency_BVV.mT @ self.read(x_BVD), adjacency_BVV @ self.readers(x_BVD)], -1)
        out: Tensor = self.out(nn.functional.silu(self.own(x_BVD) + both))
        return out


class AttentionEncoder(Encoder):
    """Layers of attention and feed-forward; the embedding joins the sinks' and the mean state."""

    def __init__(self, schema: FeatureSchema, *, width: int = 64, layers: int = 3, heads_each: int = 1) -> None:
        super().__init__()
        if width % (NUM_RELATIONS * heads_each):
            raise ValueError(f"width {width}: expected a multiple of {NUM_RELATIONS * heads_each} heads")
        self.width = width
        self.embed = ChoiceEmbedding(schema, width)
        self.layers = nn.ModuleList(
            nn.ModuleList(
                [nn.LayerNorm(width), AdjacencyAttention(width, heads_each), nn.LayerNorm(width),
                 TwoWayFeedForward(width)]
            )
            for _ in range(layers)
        )  # fmt: skip
        self.mix = nn.Sequential(nn.LayerNorm(2 * width), nn.Linear(2 * width, width), nn.SiLU())

    def forward(self, batch: GraphBatch) -> Tensor:
        dense = batch.dense()
        mask, allowed = dense.mask[..., None].float(), relations(dense)
        h_BVD = self.embed(dense.x) * mask
        for layer in self.layers:
            assert isinstance(layer, nn.ModuleList)
            before, attend, after, feed = layer
            h_BVD = h_BVD + attend(before(h_BVD), allowed)
            h_BVD = (h_BVD + feed(after(h_BVD), dense.adjacency)) * mask
        out: Tensor = self.mix(torch.cat([mean_at(h_BVD, sinks(dense)), h_BVD.sum(1)], -1))
        return out


class AttentionPredictor(PeerPredictor):
    def encoder(self) -> Encoder:
        return AttentionEncoder(self.schema, width=self.width)
