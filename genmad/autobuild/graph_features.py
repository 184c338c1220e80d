"""Numbers that describe an architecture, for predictors that do not read graphs themselves.

Cells (spaces whose category `op` has `input` and `output`): the properties of GRAF (Kadlecova et al., Surprisingly
Strong Performance Prediction with Neural Graph Features, ICML 2024), for every set of operations: how often they stand
in the cell, the shortest and the longest path from input to output over them alone, how many such paths there are, how
many of them read the input and feed the output, their mean degrees. Chains of layers: every choice at its place, and
counts and sums by stage and in all.

N architectures, V nodes, F features.
"""

from collections.abc import Callable, Sequence
from itertools import combinations, product

import numpy as np
from numpy.typing import NDArray

from genmad.autobuild.architecture import ArchGraph, FeatureSchema, Floats, Ints

Bools = NDArray[np.bool_]
GraphColumns = Callable[[Sequence[ArchGraph]], Floats]
"""Further columns, float64[N, C]: zero-cost proxies, a latency ... NaN where one is not known."""
PLACES = ("stage", "layer", "edge")
"""Categories that say where a node stands."""
ALL_SUBSETS = 5
"""Up to so many operations every set of them is looked at; beyond, one, two, or all but one."""
_FAR = 99.0


def is_cell(schema: FeatureSchema) -> bool:
    """Whether graphs have an input and an output node."""
    return "op" in schema.names and {"input", "output"} <= set(schema.choices[schema.column("op")])


def key_of(graph: ArchGraph) -> bytes:
    """Equal where two graphs are equal node by node."""
    return graph.features.tobytes() + b"|" + graph.edges.tobytes()


def distinct(graphs: Sequence[ArchGraph]) -> tuple[list[ArchGraph], Ints]:
    """The different ones among the graphs, and int64[N]: the number of each in that list."""
    numbers: dict[bytes, int] = {}
    first: list[ArchGraph] = []
    at = np.empty(len(graphs), np.int64)
    for i, graph in enumerate(graphs):
        key = key_of(graph)
        if key not in numbers:
            numbers[key] = len(first)
            first.append(graph)
        at[i] = numbers[key]
    return first, at


def features(schema: FeatureSchema, graphs: Sequence[ArchGraph]) -> Floats:
    """float64[N, F]: what trees read: of cells their graph properties, of chains choices by place and sums."""
    unique, at = distinct(graphs)
    parts = [places(schema, unique, ordinal=True), cell_properties(schema, unique), sums(schema, unique)]
    return np.concatenate(parts, axis=1)[at]


def one_hot(schema: FeatureSchema, graphs: Sequence[ArchGraph]) -> Floats:
    """float64[N, F]: what a linear model reads: every choice at its place; of cells also how often each sequence of
    operations leads from input to output."""
    unique, at = distinct(graphs)
    parts = [places(schema, unique, ordinal=False), paths(schema, unique)]
    return np.concatenate(parts, axis=1)[at]


def _values(schema: FeatureSchema) -> list[int]:
    """The columns of categories that are choices and not places."""
    return [c for c, name in enumerate(schema.names) if name not in PLACES]


def _place_numbers(schema: FeatureSchema, graph: ArchGraph) -> tuple[Ints, int]:
    """int64[V] a number per node from the categories that say its place, and how many such numbers there are."""
    number, size = np.zeros(graph.num_nodes, np.int64), 1
    for name in PLACES:
        if name in schema.names:
            column = schema.column(name)
            number = number * schema.sizes[column] + graph.features[:, column]
            size *= schema.sizes[column]
    return number, size


def places(schema: FeatureSchema, graphs: Sequence[ArchGraph], *, ordinal: bool) -> Floats:
    """The choice of each category at each place: its number counted from 1 and 0 where no node stands (`ordinal`), or
    a column per choice. No columns where nodes have no places."""
    if not set(PLACES) & set(schema.names):
        return np.zeros((len(graphs), 0))
    columns = _values(schema)
    sizes = [1 if ordinal else schema.sizes[c] for c in columns]
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    _, count = _place_numbers(schema, graphs[0])
    out = np.zeros((len(graphs), count, offsets[-1]))
    for i, graph in enumerate(graphs):
        number, _ = _place_numbers(schema, graph)
        for c, offset in zip(columns, offsets, strict=False):
            chosen = graph.features[:, c]
            if ordinal:
                out[i, number, offset] = chosen + 1
            else:
                out[i, number, offset + chosen] = 1
    return out.reshape(len(graphs), -1)


def sums(schema: FeatureSchema, graphs: Sequence[ArchGraph]) -> Floats:
    """How many nodes take each choice, and the sum of choice numbers, in all and by stage, with numbers of nodes."""
    columns = _values(schema)
    stages = range(schema.sizes[schema.column("stage")]) if "stage" in schema.names else range(0)
    rows = []
    for graph in graphs:
        row: list[float] = []
        for stage in (None, *stages):
            kept = graph.features if stage is None else graph.features[graph.stages == stage]
            row.append(len(kept))
            for c in columns:
                row += [*np.bincount(kept[:, c], minlength=schema.sizes[c]), kept[:, c].sum()]
        rows.append(row)
    return np.array(rows, np.float64)


def cell_properties(schema: FeatureSchema, graphs: Sequence[ArchGraph]) -> Floats:
    """float64[N, F] of the properties named above; no columns where graphs are no cells."""
    if not is_cell(schema):
        return np.zeros((len(graphs), 0))
    adjacency, ops, real = _padded(schema, graphs)
    out = (ops == _ends(schema)[1]).argmax(1)
    found: list[NDArray[np.float64]] = []
    for subset in _subsets(real):
        found += _of_subset(adjacency, ops, out, subset, _ends(schema))
    return np.stack(found, axis=1)


def reaches_output(schema: FeatureSchema, graphs: Sequence[ArchGraph]) -> Bools:
    """bool[N]: whether a path leads from input to output. A cell without one computes a constant."""
    if not is_cell(schema):
        return np.ones(len(graphs), bool)
    unique, at = distinct(graphs)
    adjacency, ops, real = _padded(schema, unique)
    ends = _ends(schema)
    lengths = _lengths(adjacency > 0, np.isin(ops, [*real, *ends]))
    reached: Bools = lengths[0][np.arange(len(unique)), (ops == ends[1]).argmax(1)] < _FAR
    return reached[at]


def _ends(schema: FeatureSchema) -> tuple[int, int]:
    names = schema.choices[schema.column("op")]
    return names.index("input"), names.index("output")


def _padded(schema: FeatureSchema, graphs: Sequence[ArchGraph]) -> tuple[NDArray[np.int16], Ints, list[int]]:
    """int16[N, V, V] numbers of edges, int64[N, V] operations (-1: no node, or one that gives nothing), and the
    operations that are neither ends nor `none`."""
    column = schema.column("op")
    names = schema.choices[column]
    most = max(graph.num_nodes for graph in graphs)
    adjacency = np.zeros((len(graphs), most, most), np.int16)
    ops = np.full((len(graphs), most), -1, np.int64)
    for i, graph in enumerate(graphs):
        ops[i, : graph.num_nodes] = graph.features[:, column]
        np.add.at(adjacency[i], (graph.edges[:, 0], graph.edges[:, 1]), 1)
    if "none" in names:
        dead = ops == names.index("none")
        ops[dead] = -1
        adjacency[dead] = 0
        adjacency.transpose(0, 2, 1)[dead] = 0
    return adjacency, ops, [i for i, name in enumerate(names) if name not in ("input", "output", "none")]


def _subsets(real: Sequence[int]) -> list[tuple[int, ...]]:
    sizes = range(1, len(real) + 1) if len(real) <= ALL_SUBSETS else (1, 2, len(real) - 1, len(real))
    return [subset for size in sizes for subset in combinations(real, size)]


def _of_subset(
    adjacency: NDArray[np.int16], ops: Ints, out: Ints, subset: tuple[int, ...], ends: tuple[int, int]
) -> list[Floats]:
    """Count, shortest, longest and number of paths, readers of the input, feeders of the output, mean degrees."""
    rows = np.arange(len(ops))
    inside = np.isin(ops, subset)
    shortest, longest, ways = _lengths(adjacency, inside | np.isin(ops, ends))
    least, most = shortest[rows, out], longest[rows, out]
    count = inside.sum(1)
    share = np.maximum(count, 1)
    return [
        count.astype(np.float64), np.where(least >= _FAR, -1.0, least), np.where(most < 0, -1.0, most),
        ways[rows, out], (adjacency[:, 0] * inside).sum(1).astype(np.float64),
        (adjacency[rows, :, out] * inside).sum(1).astype(np.float64),
        (adjacency * inside[:, :, None]).sum((1, 2)) / share, (adjacency * inside[:, None, :]).sum((1, 2)) / share,
    ]  # fmt: skip


def _lengths(adjacency: NDArray[np.int16] | Bools, allowed: Bools) -> tuple[Floats, Floats, Floats]:
    """Edges on the shortest and on the longest path from node 0 to each node through allowed ones, and the number of
    paths: float64[N, V] each. Nodes stand in topological order."""
    shape = allowed.shape
    shortest, longest, ways = np.full(shape, _FAR), np.full(shape, -_FAR), np.zeros(shape)
    shortest[:, 0] = longest[:, 0] = 0
    ways[:, 0] = 1
    for v in range(1, shape[1]):
        edge = (adjacency[:, :, v] > 0) & allowed & allowed[:, v, None]
        shortest[:, v] = np.minimum(_FAR, np.where(edge, shortest, _FAR).min(1) + 1)
        longest[:, v] = np.where(edge, longest, -_FAR).max(1) + 1
        ways[:, v] = (ways * adjacency[:, :, v] * edge).sum(1)
    return shortest, longest, ways


def paths(schema: FeatureSchema, graphs: Sequence[ArchGraph]) -> Floats:
    """float64[N, F]: how often each sequence of at most three operations leads from input to output, longer ones cut
    behind the third (the path encoding of BANANAS, White et al., arXiv 1910.11858); skips leave a sequence as it is."""
    if not is_cell(schema):
        return np.zeros((len(graphs), 0))
    column = schema.column("op")
    names = schema.choices[column]
    real = [i for i, name in enumerate(names) if name not in ("input", "output", "none", "skip_connect", "skip")]
    sequences = [s for size in range(4) for s in product(real, repeat=size)]
    number = {sequence: i for i, sequence in enumerate(sequences)}
    out = np.zeros((len(graphs), len(sequences)))
    for i, graph in enumerate(graphs):
        for sequence in _sequences(graph, graph.features[:, column].tolist(), names, set(real)):
            out[i, number[sequence[:3]]] += 1
    return out


def _sequences(graph: ArchGraph, ops: list[int], names: Sequence[str], real: set[int]) -> list[tuple[int, ...]]:
    """The operations along every path from input to output."""
    after: list[list[int]] = [[] for _ in ops]
    for a, b in graph.edges.tolist():
        after[a].append(b)
    found: list[tuple[int, ...]] = []
    waiting: list[tuple[int, tuple[int, ...]]] = [(ops.index(names.index("input")), ())]
    while waiting:
        node, before = waiting.pop()
        if names[ops[node]] == "output":
            found.append(before)
        elif names[ops[node]] != "none":
            waiting += [(b, (*before, ops[node]) if ops[node] in real else before) for b in after[node]]
    return found
