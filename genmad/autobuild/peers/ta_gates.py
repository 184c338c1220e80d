"""TA-GATES: the encoding imitates training: information flows forward, an answer flows back, operations change.

Ning et al., TA-GATES: An Encoding Scheme for Neural Network Architectures, NeurIPS 2022, section 4: T steps, each a
gated flow along the edges, a gated flow against them, and an update of every operation's embedding from both. Stopped
after fewer steps, the encoding is that of a shorter training ("anytime").
"""

# B graphs, V nodes of the largest, D width

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from genmad.autobuild.architecture import ArchGraph, FeatureSchema, Floats
from genmad.autobuild.batching import GraphBatch
from genmad.autobuild.fitting import FitSettings
from genmad.autobuild.graph_features import GraphColumns
from genmad.autobuild.peers.encoder import (
    ChoiceEmbedding,
    Encoder,
    HeadedNetwork,
    PeerPredictor,
    mean_at,
    sinks,
    sources,
)
from genmad.autobuild.peers.gates import GatedFlow


class TaGatesEncoder(Encoder):
    """T steps with the same weights; with `anytime` a batch in training stops after a random number of them."""

    def __init__(
        self, schema: FeatureSchema, *, width: int = 64, steps: int = 2, layers: int = 3, anytime: bool = False
    ) -> None:
        super().__init__()
        self.width, self.steps, self.anytime = width, steps, anytime
        self.stop_after = steps
        self.embed = ChoiceEmbedding(schema, width)
        self.start = nn.Parameter(torch.randn(2, width) * 0.5)
        self.onward = nn.ModuleList(GatedFlow(width, width) for _ in range(layers))
        self.back = nn.ModuleList(GatedFlow(width, width) for _ in range(layers))
        self.answer = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.update = nn.Sequential(nn.Linear(3 * width, width), nn.SiLU(), nn.Linear(width, width))
        self.norm = nn.LayerNorm(width)
        self.mix = nn.Sequential(nn.LayerNorm(2 * width), nn.Linear(2 * width, width), nn.SiLU())

    def forward(self, batch: GraphBatch) -> Tensor:
        dense = batch.dense()
        mask, first, last = dense.mask[..., None].float(), sources(dense), sinks(dense)
        ops_BVD = self.embed(dense.x) * mask
        begin_BVD = (first * self.start[0] + (1 - first) * self.start[1]) * mask
        h_BVD = begin_BVD
        for step in range(self._num_steps()):
            if step:
                ops_BVD = (ops_BVD + self._change(h_BVD, ops_BVD, dense.adjacency, last)) * mask
            h_BVD = begin_BVD
            for layer in self.onward:
                h_BVD = layer(h_BVD, ops_BVD, dense.adjacency.mT) * mask
        out: Tensor = self.mix(torch.cat([mean_at(h_BVD, last), mean_at(h_BVD, mask)], -1))
        return out

    def _num_steps(self) -> int:
        if self.training and self.anytime:
            return int(torch.randint(1, self.steps + 1, ()))
        return self.stop_after

    def _change(self, h_BVD: Tensor, ops_BVD: Tensor, adjacency_BVV: Tensor, last_BV1: Tensor) -> Tensor:
        """What a step of training does to the operations: an answer to the sinks' state flows back from them."""
        back_BVD = self.answer(mean_at(h_BVD, last_BV1))[:, None] * last_BV1
        for layer in self.back:
            back_BVD = layer(back_BVD, ops_BVD, adjacency_BVV)
        out: Tensor = self.update(torch.cat([self.norm(h_BVD), self.norm(back_BVD), ops_BVD], -1))
        return out


class TaGatesPredictor(PeerPredictor):
    def __init__(
        self, schema: FeatureSchema, *, width: int = 64, members: int = 3, settings: FitSettings | None = None,
        columns: GraphColumns | None = None, steps: int = 2, anytime: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(schema, width=width, members=members, settings=settings, columns=columns)
        self.steps, self.anytime = steps, anytime

    def encoder(self) -> Encoder:
        return TaGatesEncoder(self.schema, width=self.width, steps=self.steps, anytime=self.anytime)

    def predict_after(self, graphs: Sequence[ArchGraph], steps: int) -> Floats:
        """float64[N]: predictions when the encoding stops after so many steps, 1 to those it was made with.

        Raises `ValueError` on another number of steps.
        """
        if not 1 <= steps <= self.steps:
            raise ValueError(f"steps {steps}: expected 1 to {self.steps}")
        encoders = [net.encoder for member in self.fitted if isinstance(net := member.network, HeadedNetwork)]
        known = [encoder for encoder in encoders if isinstance(encoder, TaGatesEncoder)]
        for encoder in known:
            encoder.stop_after = steps
        try:
            return np.asarray(self.predict(graphs), np.float64)
        finally:
            for encoder in known:
                encoder.stop_after = self.steps
