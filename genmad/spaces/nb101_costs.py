"""Parameters and MACs of NAS-Bench-101 cells in the benchmark's network. One MAC is a multiplication and an addition.

The network (section 2.1): a 3x3 convolution to 128 channels, three stacks of three cells with 128, 256 and 512
channels, max pooling between stacks, mean pooling and a linear layer. Inside a cell the channels of the vertices that
the output reads sum to the cell's channels, the first ones taking what the division leaves over (section 2.2).
"""

from functools import cache

import numpy as np
from numpy.typing import NDArray

STACKS = ((128, 32), (256, 16), (512, 8))
"""(channels, image size) of each stack."""
CELLS_PER_STACK = 3
CLASSES = 10
Ranks = tuple[int, ...]

BASE = (
    27 * 128 + 2 * 128 + 512 * CLASSES + CLASSES,
    27 * 128 * 32 * 32 + 512 * CLASSES,
)
"""(params, MACs) of stem and classifier."""


@cache
def rank_classes(degree: int) -> Ranks:
    """For the inner vertices that the output reads, in order: the first rank with the same channels in every stack."""
    widths = [tuple(_width(channels, degree, rank) for channels, _ in STACKS) for rank in range(degree)]
    return tuple(widths.index(width) for width in widths)


def _width(channels: int, degree: int, rank: int) -> int:
    """Channels of a vertex of this rank; never more for a later rank."""
    return channels // degree + (rank < channels % degree) if degree else channels


def _inputs(stack: int) -> list[int]:
    """Channels that enter each cell of a stack."""
    before = STACKS[stack - 1][0] if stack else STACKS[0][0]
    return [before, *[STACKS[stack][0]] * (CELLS_PER_STACK - 1)]


@cache
def vertex_cost(op: int, degree: int, rank: int) -> tuple[int, int]:
    """(params, MACs) over all cells of a vertex of one operation; `op` -1 is the projection of the cell's input."""
    params = macs = 0
    for stack, (channels, size) in enumerate(STACKS):
        width = _width(channels, degree, rank)
        for entering in _inputs(stack):
            weights = {-1: entering * width, 0: 9 * width * width, 1: width * width, 2: 0}[op]
            params += weights + (2 * width if weights else 0)
            macs += weights * size * size
    return params, macs


@cache
def out_cost(reads_input: bool) -> tuple[int, int]:
    """(params, MACs) of the output's projection of the cell's input."""
    return vertex_cost(-1, 0, 0) if reads_input else (0, 0)


def cell_costs(matrix: NDArray[np.int8], ops: NDArray[np.int64], sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """int64[B, 3]: params, MACs and depth of cells int8[B, 7, 7] with `sizes` vertices."""
    B, V = ops.shape
    rows = np.arange(B)
    reads = matrix[rows, :, sizes - 1].astype(np.int64)
    inner = (np.arange(V) >= 1) & (np.arange(V) < sizes[:, None] - 1)
    fixed = (reads == 1) & inner
    degree = fixed.sum(1)
    rank = np.where(fixed, np.cumsum(fixed, axis=1) - 1, V)
    height = np.where(inner, 1, 0)
    for v in range(V - 2, 0, -1):
        after = (matrix[:, v, :] == 1) & inner
        widest = np.where(after, rank, V).min(1)
        rank[:, v] = np.where(fixed[:, v], rank[:, v], widest)
        height[:, v] += np.where(after, height, 0).max(1)
    table = _table()
    rank = np.where(inner, rank, 0)
    total = np.array(BASE, np.int64) + table[0, 0, 0] * reads[:, :1]
    for v in range(1, V - 1):
        here = inner[:, v]
        total[here] += table[ops[here, v] + 1, degree[here], rank[here, v]]
        total[here] += table[0, degree[here], rank[here, v]] * matrix[here, 0, v, None]
    depth = np.where((matrix[:, 0, :] == 1) & inner, height, 0).max(1)
    return np.concatenate([total, depth[:, None]], axis=1)


@cache
def _table() -> NDArray[np.int64]:
    """int64[1 + ops, degrees, ranks, 2] of `vertex_cost`."""
    return np.array([[[vertex_cost(op, d, r) for r in range(6)] for d in range(6)] for op in (-1, 0, 1, 2)], np.int64)
