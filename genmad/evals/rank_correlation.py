"""Rank correlations in numpy, ties as in the usual definitions.

>>> from genmad.evals.rank_correlation import kendall, spearman
>>> import numpy as np
>>> spearman(np.array([1.0, 2.0, 3.0]), np.array([1.0, 4.0, 9.0]))
1.0
>>> kendall(np.array([1.0, 2.0, 3.0]), np.array([1.0, 9.0, 4.0]))
0.3333333333333333
"""

import math

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def ranks(values: Floats) -> Floats:
    """float64[N]: ranks from 0; equal values share the mean of theirs."""
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    found: Floats = (last - (counts + 1) / 2)[places]
    return found


def spearman(left: Floats, right: Floats) -> float:
    """Pearson correlation of ranks [N]; NaN where one side has no spread."""
    a, b = ranks(left), ranks(right)
    a, b = a - a.mean(), b - b.mean()
    size = math.sqrt(float((a**2).sum() * (b**2).sum()))
    return float((a * b).sum()) / size if size else math.nan


def kendall(left: Floats, right: Floats) -> float:
    """Kendall's tau-b of [N]: (agreeing - disagreeing pairs) / sqrt(pairs untied left * untied right).

    NaN where one side has no spread.
    """
    return _tau(_pairs(left, right))


def kendall_within(left: Floats, right: Floats, strata: NDArray[np.int64]) -> float:
    """The same over pairs of equal strata [N] only, all strata counted together."""
    parts = [_pairs(left[strata == each], right[strata == each]) for each in np.unique(strata)]
    return _tau(np.sum(parts, axis=0))


def _pairs(left: Floats, right: Floats) -> Floats:
    """float64[3]: agreeing - disagreeing, untied left, untied right; every pair counts twice."""
    order = np.lexsort((right, left))
    _, a = np.unique(left[order], return_inverse=True)
    _, b = np.unique(right[order], return_inverse=True)
    size, tied = len(left) * (len(left) - 1), [_tied(x) for x in (a, b, a.astype(np.int64) * (len(left) + 1) + b)]
    # Sorted by left and then right, the disagreeing pairs are the inversions of right.
    agreeing = size - tied[0] - tied[1] + tied[2] - 4 * _inversions(b)
    return np.array([agreeing, size - tied[0], size - tied[1]], np.float64)


def _tied(values: NDArray[np.intp]) -> int:
    """Ordered pairs of equal values."""
    counts = np.unique(values, return_counts=True)[1]
    return int((counts * (counts - 1)).sum())


def _inversions(values: NDArray[np.intp]) -> int:
    """Pairs whose earlier value [N] is the larger: bit by bit, ones before zeros among those of equal higher bits."""
    total = 0
    for bit in range(int(values.max(initial=0)).bit_length()):
        order = np.argsort(values >> (bit + 1), kind="stable")
        group, one = values[order] >> (bit + 1), (values[order] >> bit & 1).astype(np.int64)
        ones = np.cumsum(one)
        first = np.searchsorted(group, group, side="left")
        before = ones - np.where(first > 0, ones[first - 1], 0)
        total += int(before[one == 0].sum())
    return total


def _tau(pairs: Floats) -> float:
    size = math.sqrt(float(pairs[1] * pairs[2]))
    return float(pairs[0]) / size if size else math.nan
