"""Exact differentiable ranks (Blondel, Teboul, Berthet and Djolonga, Fast Differentiable Sorting and Ranking, 2020).

The soft rank of s [n] is the Euclidean projection of s / strength onto the permutahedron of (1, ..., n) (their equation
4 with quadratic regularisation; ascending here: the greatest value gets rank n). By their proposition 3 the projection
is z - v, where v is the isotonic regression of the sorted z minus the sorted ranks. Ranks are exact for small
strengths; as the strength grows, or when values lie closer together than the strength, values are pooled, and a pool's
ranks are linear in its values.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx


def soft_rank(values: Tensor, strength: float = 1.0) -> Tensor:
    """Ranks 1 to n of values [..., n] along the last axis, ascending, the same shape and dtype.

    Raises `ValueError` on a strength that is not positive.
    """
    if not strength > 0:
        raise ValueError(f"strength {strength} of the regularisation must be positive")
    ranks: Tensor = _SoftRank.apply(values, strength)  # type: ignore[no-untyped-call]
    return ranks


def hard_rank(values: Tensor) -> Tensor:
    """Ranks 1 to n along the last axis, ascending; equal values share the mean of their ranks. No gradient."""
    ordered = values.detach().sort(-1).values.contiguous()
    inner = values.detach().contiguous()
    below = torch.searchsorted(ordered, inner, right=False)
    up_to = torch.searchsorted(ordered, inner, right=True)
    return (below + up_to + 1).to(values.dtype) / 2


def spearman(a: Tensor, b: Tensor) -> Tensor:
    """Pearson correlation of ranks a [..., n] with ranks b [..., n]: Spearman's rho where they are ranks. [...]

    0 where one side is constant.
    """
    a = a - a.mean(-1, keepdim=True)
    b = b - b.mean(-1, keepdim=True)
    scale = (a.square().sum(-1) * b.square().sum(-1)).clamp_min(1e-12).sqrt()
    return (a * b).sum(-1) / scale


def isotonic_blocks(values: Sequence[float]) -> list[int]:
    """Sizes of the pools of the non-increasing isotonic regression, by pooling adjacent violators."""
    sums: list[float] = []
    sizes: list[int] = []
    for value in values:
        size = 1
        # A later pool may not lie above an earlier one.
        while sums and value * sizes[-1] > sums[-1] * size:
            value += sums.pop()
            size += sizes.pop()
        sums.append(value)
        sizes.append(size)
    return sizes


class _SoftRank(torch.autograd.Function):
    """Forward by sorting and pooling; backward by the exact Jacobian, which averages inside pools (proposition 4)."""

    @staticmethod
    def forward(ctx: FunctionCtx, values: Tensor, strength: float) -> Tensor:
        rows = values.detach().reshape(-1, values.shape[-1]).double() / strength
        z, order = rows.sort(-1, descending=True)
        count = z.shape[-1]
        gaps = z - torch.arange(count, 0, -1, dtype=z.dtype)
        sizes = [isotonic_blocks(row) for row in gaps.tolist()]
        # The pools of all rows numbered one after another.
        lengths = torch.tensor([size for row in sizes for size in row])
        pools = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
        ranks = z - _pooled(gaps.flatten(), pools, lengths).view_as(z)
        ctx.strength, ctx.shape = strength, values.shape  # type: ignore[attr-defined]
        ctx.save_for_backward(order, pools, lengths)
        return torch.empty_like(rows).scatter_(-1, order, ranks).view(values.shape).to(values.dtype)

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        order, pools, lengths = ctx.saved_tensors  # type: ignore[attr-defined]
        ordered = grad.reshape(order.shape).double().gather(-1, order)
        flowing = ordered - _pooled(ordered.flatten(), pools, lengths).view_as(ordered)
        found = torch.empty_like(ordered).scatter_(-1, order, flowing) / ctx.strength  # type: ignore[attr-defined]
        return found.view(ctx.shape).to(grad.dtype), None  # type: ignore[attr-defined]


def _pooled(values: Tensor, pools: Tensor, lengths: Tensor) -> Tensor:
    """Each value replaced by the mean of its pool."""
    means = torch.zeros(len(lengths), dtype=values.dtype).index_add_(0, pools, values) / lengths
    return means[pools]
