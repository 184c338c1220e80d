"""The one training loop of all neural predictors: a network, a loss and settings give a fitted network.

Axes: N architectures, B of a batch, H hops with the 0-hop.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from genmad.autobuild.architecture import ArchGraph, Floats
from genmad.autobuild.batching import GraphBatch, collate
from genmad.autobuild.losses import LOSSES, published_correlation, rank_correlation

CHUNK = 1024


class Prediction(NamedTuple):
    """What a network says of a batch: values [B], standardised; hop_norms [B, H] of graph embeddings, or None."""

    values: Tensor
    hop_norms: Tensor | None = None


class Network(nn.Module):
    """A torch module that reads a batch. Subclass it and write `forward`."""

    def forward(self, batch: GraphBatch) -> Prediction:
        raise NotImplementedError


@dataclass(frozen=True, slots=True, kw_only=True)
class FitSettings:
    """How a network is trained.

    Attributes:
        epochs: passes over the labelled.
        lr: largest learning rate of AdamW; it falls to 0 along half a cosine after a warm-up of a twentieth.
        weight_decay: of AdamW, on matrices only.
        batch_size: architectures per step.
        loss: a name in `losses.LOSSES`.
        hop_loss: `corrected`, `published` or `none`: mean over hops of 1 - Spearman of norms and targets.
        hop_weight: the weight of that term.
        hop_strength: regularisation of its soft ranks where `corrected`.
        clip: largest norm of the gradient.
    """

    epochs: int = 200
    lr: float = 2e-3
    weight_decay: float = 1e-5
    batch_size: int = 128
    loss: str = "mse"
    hop_loss: str = "corrected"
    hop_weight: float = 1.0
    hop_strength: float = 0.1
    clip: float = 5.0

    def __post_init__(self) -> None:
        if self.loss not in LOSSES:
            raise ValueError(f"loss {self.loss!r}: expected one of {', '.join(LOSSES)}")
        if self.hop_loss not in HOP_LOSSES:
            raise ValueError(f"hop_loss {self.hop_loss!r}: expected one of {', '.join(HOP_LOSSES)}")
        if self.epochs < 0 or self.batch_size < 2:
            raise ValueError(f"epochs {self.epochs}, batch_size {self.batch_size}: at least 0 and 2")


def _corrected(norms: Tensor, targets: Tensor, settings: FitSettings) -> Tensor:
    return 1 - rank_correlation(norms.T, targets, strength=settings.hop_strength).mean()


def _published(norms: Tensor, targets: Tensor, _: FitSettings) -> Tensor:
    return 1 - published_correlation(norms.T, targets).mean()


def _no_hop_loss(norms: Tensor, _targets: Tensor, _: FitSettings) -> Tensor:
    return norms.new_zeros(())


# norms [B, H], targets [B], settings -> number
HOP_LOSSES: Mapping[str, Callable[[Tensor, Tensor, FitSettings], Tensor]] = {
    "corrected": _corrected,
    "published": _published,
    "none": _no_hop_loss,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedNetwork:
    """A trained network with the moments of its targets: predictions are values * scale + shift."""

    network: nn.Module
    shift: float
    scale: float
    settings: FitSettings

    def predict(self, graphs: Sequence[ArchGraph] | GraphBatch, graph_features: Floats | None = None) -> Floats:
        """float64[N], in the units of the targets (a ranking loss knows only their order)."""
        values = torch.cat([said.values for said in self._said(graphs, graph_features)])
        return np.asarray(values.double().numpy() * self.scale + self.shift, np.float64)

    def hop_norms(self, graphs: Sequence[ArchGraph] | GraphBatch) -> Floats:
        """float64[N, H]. Raises `TypeError` where the network gives none."""
        norms = [said.hop_norms for said in self._said(graphs, None)]
        known = [each for each in norms if each is not None]
        if len(known) < len(norms):
            raise TypeError(f"{type(self.network).__name__} has no hop embeddings")
        return torch.cat(known).double().numpy()

    @torch.no_grad()
    def _said(self, graphs: Sequence[ArchGraph] | GraphBatch, graph_features: Floats | None) -> list[Prediction]:
        whole = graphs if isinstance(graphs, GraphBatch) else collate(graphs, graph_features)
        self.network.eval()
        return [self.network(part) for part in whole.chunks(CHUNK)]


def fit_network(
    build: Callable[[], nn.Module], graphs: Sequence[ArchGraph] | GraphBatch, targets: Floats, settings: FitSettings,
    *, seed: int, graph_features: Floats | None = None,
) -> FittedNetwork:  # fmt: skip
    """Trains what `build()` makes on float64[N] targets. Everything random, the making included, follows from `seed`.

    Targets may be float64[N, K] for a network whose values are [B, K] and a loss by item (`mse`, `l1`).
    `graph_features` float64[N, K] come to the network as `batch.graph_features`. A network that was trained before is
    tuned further by a `build` that gives a copy of it.

    Raises `ValueError` on targets of another number than the graphs, not finite, or fewer than two.
    """
    whole = graphs if isinstance(graphs, GraphBatch) else collate(graphs, graph_features)
    if targets.shape[:1] != (whole.num_graphs,) or len(targets) < 2 or not np.isfinite(targets).all():
        raise ValueError(f"targets {targets.shape} of {whole.num_graphs} graphs: expected as many, finite, two or more")
    shift, scale = _moments(targets, settings.loss)
    wanted = torch.from_numpy((targets - shift) / scale).float()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build()
        network.train()
        _train(network, whole, wanted, settings)
    network.eval()
    return FittedNetwork(network=network, shift=shift, scale=scale, settings=settings)


def _train(network: nn.Module, whole: GraphBatch, wanted: Tensor, settings: FitSettings) -> None:
    optimizer = torch.optim.AdamW(_parameter_groups(network, settings.weight_decay), lr=settings.lr, fused=True)
    per_epoch = max(1, round(len(wanted) / settings.batch_size))
    total = per_epoch * settings.epochs
    warm = max(1, total // 20)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warm, 0.5 + 0.5 * np.cos(np.pi * step / max(total, 1)))
    )
    for _ in range(settings.epochs):
        for numbers in torch.randperm(len(wanted)).tensor_split(per_epoch):
            loss = _loss(network(whole.rows(numbers)), wanted[numbers], settings)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), settings.clip, foreach=True)
            optimizer.step()
            schedule.step()


def _loss(said: Prediction, targets: Tensor, settings: FitSettings) -> Tensor:
    loss = LOSSES[settings.loss](said.values, targets)
    if said.hop_norms is None or settings.hop_loss == "none":
        return loss
    return loss + settings.hop_weight * HOP_LOSSES[settings.hop_loss](said.hop_norms, targets, settings)


def _parameter_groups(network: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Biases, gains and other vectors are not decayed."""
    matrices = [p for p in network.parameters() if p.ndim > 1 and p.requires_grad]
    vectors = [p for p in network.parameters() if p.ndim <= 1 and p.requires_grad]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]


def _moments(targets: Floats, loss: str) -> tuple[float, float]:
    """Mean and deviation; for percentages no shift and the mean size. A constant target is scaled by 1."""
    if loss == "mape":
        return 0.0, float(np.abs(targets).mean()) or 1.0
    deviation = float(targets.std())
    return float(targets.mean()), deviation if deviation > 1e-12 else 1.0
