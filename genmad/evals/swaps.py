"""Pairs of architectures that differ in one operation, and how a change of score goes with the change of accuracy.

Axes: S swaps, N architectures of a labelled set, M nodes of all 2S graphs of a batch of swaps.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from genmad.autobuild.architecture import ArchGraph, Floats, Ints, LabelledSet
from genmad.evals.rank_correlation import kendall, kendall_within

DRAWS_PER_SWAP = 50
PLACES = 1000
"""More than a graph has nodes or a category choices."""


@dataclass(frozen=True, kw_only=True)
class Swaps:
    """Architectures before and after one node got another operation.

    Attributes:
        labelled: the set they are rows of; its graphs all have the same edges.
        before, after: int64[S], rows.
        node: int64[S], the node that differs.
    """

    labelled: LabelledSet
    before: Ints
    after: Ints
    node: Ints

    @cached_property
    def _ops(self) -> Ints:
        """int64[S, 2]: the operation before and after."""
        op, graphs = self.labelled.schema.column("op"), self.labelled.graphs
        pairs = zip(self.before, self.after, self.node, strict=True)
        return np.array([(graphs[b].features[v, op], graphs[a].features[v, op]) for b, a, v in pairs], np.int64)

    @property
    def direction(self) -> Ints:
        """int64[S]: 1 where the operation after has the higher number, else -1."""
        found: Ints = np.sign(self._ops[:, 1] - self._ops[:, 0])
        return found

    @property
    def kinds(self) -> Ints:
        """int64[S]: a number per pair of operations, the same both ways round."""
        low_high = np.sort(self._ops, axis=1)
        found: Ints = low_high[:, 0] * PLACES + low_high[:, 1]
        return found

    @cached_property
    def graphs(self) -> list[ArchGraph]:
        """2S graphs: all before, then all after."""
        return [self.labelled.graphs[row] for row in (*self.before, *self.after)]

    def change(self, column: Floats) -> Floats:
        """float64[S] of a number per row of the set, float64[N]."""
        found: Floats = column[self.after] - column[self.before]
        return found

    def change_of_graphs(self, values: Floats) -> Floats:
        """float64[S] of a number per graph of `graphs`, float64[2S]."""
        size = len(self.node)
        found: Floats = values[size:] - values[:size]
        return found

    def change_of_nodes(self, values: Floats) -> Floats:
        """float64[S] of a number per node of `graphs`, float64[M]: of the node that differs."""
        start = np.cumsum([0, *(graph.num_nodes for graph in self.graphs)])[:-1]
        return self.change_of_graphs(values[start + np.tile(self.node, 2)])


def draw_swaps(labelled: LabelledSet, allowed: NDArray[np.bool_], count: int, seed: int) -> Swaps:
    """Swaps between allowed rows of different isomorphism classes; fewer than `count` where the set has no more.

    Two members of one class compute the same: what differs between them is the noise of training.
    """
    op = labelled.schema.column("op")
    row_of = {graph.features.tobytes(): row for row, graph in enumerate(labelled.graphs)}
    choices = np.unique(np.concatenate([graph.features[graph.stages >= 0, op] for graph in labelled.graphs]))
    rng = np.random.default_rng(seed)
    rows = np.flatnonzero(allowed)
    found: dict[tuple[int, int], int] = {}
    for _ in range(DRAWS_PER_SWAP * count):
        before = int(rng.choice(rows))
        graph = labelled.graphs[before]
        node = int(rng.choice(np.flatnonzero(graph.stages >= 0)))
        features = graph.features.copy()
        features[node, op] = rng.choice(choices[choices != features[node, op]])
        after = row_of.get(features.tobytes())
        if after is None or not allowed[after] or labelled.groups[before] == labelled.groups[after]:
            continue
        if (after, before) not in found:
            found[before, after] = node
        if len(found) == count:
            break
    pairs = np.array(list(found), np.int64).reshape(-1, 2)
    return Swaps(labelled=labelled, before=pairs[:, 0], after=pairs[:, 1], node=np.array([*found.values()], np.int64))


def twin_changes(swaps: Swaps, column: Floats, seed: int) -> tuple[Floats, NDArray[np.bool_]]:
    """The change between other members of both classes, float64[S], and where both classes have any, bool[S].

    Twins compute the same and were trained apart: no score that sees only the graph can go with the true change better
    than this (with one caveat: it may, a little, where it is free of the noise that the twin has).
    """
    rng = np.random.default_rng(seed)
    groups = swaps.labelled.groups
    members: dict[int, list[int]] = {}
    for row, group in enumerate(groups.tolist()):
        members.setdefault(group, []).append(row)

    def twin(row: int) -> int:
        others = [other for other in members[int(groups[row])] if other != row]
        return int(rng.choice(others)) if others else row

    before, after = (np.array([twin(int(row)) for row in rows]) for rows in (swaps.before, swaps.after))
    return column[after] - column[before], (before != swaps.before) & (after != swaps.after)


def agreement(change: Floats, true: Floats, swaps: Swaps | None = None) -> dict[str, float]:
    """How a change of score goes with the true change, both float64[S]; a score that never changes has 0.5, 0, 0, 0.

    `sign`: share of swaps whose direction is right (no change counts half). `kendall`: tau-b of the two changes. Given
    `swaps`, also `kendall_ops`: tau-b among swaps of the same two operations, which no ranking of operations can earn,
    and `kendall_place`: among those at the same place too, which only a score that sees the rest of the graph can.
    """
    moved = true != 0
    right = np.sign(change[moved]) * np.sign(true[moved])
    found = {"sign": float((right + 1).mean() / 2), "kendall": kendall(change, true)}
    if swaps is not None:
        turn = swaps.direction
        found["kendall_ops"] = kendall_within(change * turn, true * turn, swaps.kinds)
        found["kendall_place"] = kendall_within(change * turn, true * turn, swaps.kinds * PLACES + swaps.node)
    return {name: 0.0 if np.isnan(value) else value for name, value in found.items()}


def spread(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard deviation over seeds, to four places."""
    return round(float(np.mean(values)), 4), round(float(np.std(values)), 4)
