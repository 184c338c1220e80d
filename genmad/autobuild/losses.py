"""Losses of predictors: each takes predictions [B] and targets [B] of one batch and gives a number.

Targets are standardised by the training loop (divided by their mean for `mape`), so margins are in standard deviations.
"""

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from genmad.autobuild.soft_rank import hard_rank, soft_rank, spearman

Loss = Callable[[Tensor, Tensor], Tensor]
HINGE_MARGIN = 0.1
RANK_STRENGTH = 0.01


def mean_squared(predictions: Tensor, targets: Tensor) -> Tensor:
    return F.mse_loss(predictions, targets)


def mean_absolute(predictions: Tensor, targets: Tensor) -> Tensor:
    return F.l1_loss(predictions, targets)


def mean_absolute_percentage(predictions: Tensor, targets: Tensor) -> Tensor:
    """Mean of |prediction - target| / |target|, a fraction."""
    return ((predictions - targets).abs() / targets.abs().clamp_min(1e-9)).mean()


def pairwise_hinge(predictions: Tensor, targets: Tensor) -> Tensor:
    """Mean over pairs with target i above target j of max(0, margin - (prediction i - prediction j))."""
    return F.relu(HINGE_MARGIN - _gaps(predictions, targets)).sum() / _num_pairs(targets)


def bayesian_personalised(predictions: Tensor, targets: Tensor) -> Tensor:
    """BPR: mean over such pairs of -log sigmoid(prediction i - prediction j) (Rendle et al., 2009)."""
    return -F.logsigmoid(_gaps(predictions, targets)).sum() / _num_pairs(targets)


def soft_spearman(predictions: Tensor, targets: Tensor) -> Tensor:
    """1 - Spearman: standardised predictions, nearly hard ranks, against hard ranks of the targets."""
    return 1 - rank_correlation(predictions, targets, strength=RANK_STRENGTH)


LOSSES: Mapping[str, Loss] = {
    "mse": mean_squared,
    "l1": mean_absolute,
    "mape": mean_absolute_percentage,
    "hinge": pairwise_hinge,
    "bpr": bayesian_personalised,
    "spearman": soft_spearman,
}


def rank_correlation(values: Tensor, targets: Tensor, *, strength: float) -> Tensor:
    """Spearman of values [..., B] with targets [B], differentiable in the values. [...]

    Values are standardised first, so that `strength` means the same whatever their scale: it is the strength of the
    regularisation for values whose standard deviation is B / sqrt(12), that of ranks.
    """
    count = values.shape[-1]
    deviation = values.std(-1, keepdim=True).clamp_min(1e-9)
    scaled = (values - values.mean(-1, keepdim=True)) / deviation * (count / 12**0.5)
    return spearman(soft_rank(scaled, strength), hard_rank(targets))


def published_correlation(values: Tensor, targets: Tensor) -> Tensor:
    """Spearman as AutoBuild's code computes it: values [..., B] soft-ranked as they are, strength 1, targets too.

    Norms lie much closer together than 1, so all are one pool, ranks are linear in values, and this is Pearson.
    """
    return spearman(soft_rank(values, 1.0), targets.expand_as(values))


def _gaps(predictions: Tensor, targets: Tensor) -> Tensor:
    first, second = torch.nonzero(targets[:, None] > targets[None], as_tuple=True)
    return predictions[first] - predictions[second]


def _num_pairs(targets: Tensor) -> Tensor:
    return (targets[:, None] > targets[None]).sum().clamp_min(1)
