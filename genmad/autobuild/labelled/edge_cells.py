"""Cells whose operations stand on the six edges between four points: NAS-Bench-201 and TransNAS-Bench-101.

Operations are nodes (the line graph of the cell), so that a predictor sees which operation reads which. Two forms:
`nb201_edges` keeps all six, `none` and `skip_connect` too, each with its place; `nb201` and `transnas` are the form of
the computation: `none` and what is dead because of it is gone, a skip is an edge, and where k > 1 ways of skips lead
from one operation to another, k - 1 of them pass through a `skip_connect` node. Nodes stand in an order that does not
depend on the places, so cells that compute the same are the same graph.

Those graphs and the benchmark's unique strings (6,466) do not make the same classes. The strings keep the zeros that a
point adds, so that they tell cells apart that compute the same; and they do not tell an operation that two others read
from two equal operations with a reader each, which are different networks. Rows of one class (`groups`, 4,930) share a
string or a graph, by way of others too: no split by classes has equal cells on both sides, whichever notion is meant.
"""

from collections.abc import Sequence
from functools import lru_cache
from itertools import permutations, product
from pathlib import Path

import numpy as np

from genmad.autobuild.architecture import ArchGraph, FeatureSchema, Floats, Ints, LabelledSet
from genmad.autobuild.labelled.reading import bad_row, class_numbers, lower_is_better, present, table_path
from genmad.ir import Diagnostic
from genmad.spaces.grammar import SpaceError
from genmad.spaces.nb201 import EDGES, NB201, OPS, unique_string
from genmad.spaces.space import Word
from genmad.spaces.tables import csv_rows, float_columns

NONE, SKIP = OPS.index("none"), OPS.index("skip_connect")
NODE_OPS = ("input", "output", *OPS)
"""The choices of the category `op`: the two ends, then the benchmark's operations in its own order."""
MERGED_SCHEMA = FeatureSchema(names=("op",), choices=(NODE_OPS,))
EDGES_SCHEMA = FeatureSchema(names=("op", "edge"), choices=(NODE_OPS, ("end", *(f"{a}-{b}" for a, b in EDGES))))
_LINKS = np.array([(0, 1), (0, 2), (0, 4), (1, 3), (1, 5), (2, 6), (3, 6), (4, 7), (5, 7), (6, 7)], np.int64)
_STAGES = np.array([-1, 0, 0, 0, 0, 0, 0, -1], np.int64)
_ORIGINAL = "NAS-Bench-201 (github.com/D-X-Y/NATS-Bench)"
_PROXY_SETS = {"cifar10": "c10", "imagenet16-120": "in16"}
Links = tuple[tuple[int, int], ...]


def edges_graph(word: Word) -> ArchGraph:
    """Input, the six edges in the benchmark's order, output: nodes 1 to 6 are edges 0 to 5."""
    ops = [0, *(op + 2 for op in word), 1]
    return ArchGraph(features=np.array([ops, [0, *range(1, 7), 0]], np.int64).T.copy(), edges=_LINKS, stages=_STAGES)


@lru_cache(maxsize=20_000)
def merged_graph(word: Word) -> ArchGraph:
    """What the cell computes: operations and how they read each other."""
    ops, links = _canonical(*_computing(word))
    return ArchGraph(
        features=np.array(ops, np.int64)[:, None], edges=np.array(links, np.int64).reshape(-1, 2),
        stages=np.array([-1, *[0] * (len(ops) - 2), -1], np.int64),
    )  # fmt: skip


def _computing(word: Word) -> tuple[list[int], Links]:
    """Choices of `op`, the input first and the output last, and links between them in no particular order."""
    op = dict(zip(EDGES, word, strict=True))
    filled, used = {0}, {3}
    for a, b in EDGES:
        if op[a, b] != NONE and a in filled:
            filled.add(b)
    for a, b in reversed(EDGES):
        if op[a, b] != NONE and b in used:
            used.add(a)
    alive = [(a, b) for a, b in EDGES if op[a, b] != NONE and a in filled and b in used]
    ways = np.eye(4, dtype=np.int64)
    for a, b in EDGES:
        if (a, b) in alive and op[a, b] == SKIP:
            ways[:, b] += ways[:, a]
    kept = [edge for edge in alive if op[edge] != SKIP]
    # Where a node writes and where it reads; the input writes point 0, the output reads point 3.
    nodes = [(-1, 0), *kept, (3, -1)]
    ops, links = [0, *(op[edge] + 2 for edge in kept), 1], []
    last = len(nodes) - 1
    for i, j in product(range(last), range(1, last + 1)):
        count = int(ways[nodes[i][1], nodes[j][0]])
        links += [(i, j)] if count else []
        for _ in range(count - 1):
            ops.insert(-1, SKIP + 2)
            links += [(i, -len(ops)), (-len(ops), j)]
    return _numbered(ops, links, last)


def _numbered(ops: list[int], links: list[tuple[int, int]], last: int) -> tuple[list[int], Links]:
    """Skip nodes, named by minus the number of nodes at their making, and the output under their final numbers."""

    def number(node: int) -> int:
        return -node - 2 if node < 0 else (len(ops) - 1 if node == last else node)

    return ops, tuple((number(a), number(b)) for a, b in links)


def _canonical(ops: Sequence[int], links: Links) -> tuple[list[int], Links]:
    """The same graph in an order that follows from its structure: topological, smallest links among ties."""
    size = len(ops)
    above: list[list[int]] = [[] for _ in ops]
    below: list[list[int]] = [[] for _ in ops]
    for a, b in links:
        above[b].append(a)
        below[a].append(b)
    heights, ups, downs = [0] * size, [""] * size, [""] * size
    waiting = list(range(size))
    done: list[int] = []
    while waiting:
        node = next(v for v in waiting if all(a in done for a in above[v]))
        waiting.remove(node)
        done.append(node)
        heights[node] = max((heights[a] + 1 for a in above[node]), default=0)
        ups[node] = f"{ops[node]}({','.join(sorted(ups[a] for a in above[node]))})"
    for node in reversed(done):
        downs[node] = f"{ops[node]}({','.join(sorted(downs[b] for b in below[node]))})"
    ends = {0: -1, size - 1: size}
    labels = [(ends.get(v, heights[v]), ops[v], ups[v], downs[v]) for v in range(size)]
    tied = [[v for v in range(size) if labels[v] == label] for label in sorted(set(labels))]
    best: tuple[Links, list[int]] | None = None
    for choice in product(*(permutations(group) for group in tied)):
        order = [v for group in choice for v in group]
        at = {v: i for i, v in enumerate(order)}
        found = tuple(sorted((at[a], at[b]) for a, b in links))
        if best is None or found < best[0]:
            best = found, order
    assert best is not None
    return [ops[v] for v in best[1]], best[0]


def load_nb201(name: str, data: Path) -> LabelledSet:
    """All 15,625 cells with every column of the table, and those of latency, zero-cost and zen tables beside it.

    Zero-cost columns are named `zc_c10_synflow`; the HELP latencies `help_pixel3`, the HW-NAS-Bench ones as they are.
    """
    table = present(NB201().read_labels(data), name, data, _ORIGINAL)
    words = [tuple(word) for word in table.words.tolist()]
    columns: dict[str, Floats] = {k: v for k, v in table.columns.items() if k not in ("idx", "rep_idx", "ops")}
    if "idx" in table.columns:
        columns |= _beside(table.path.parent, table.columns["idx"])
    merged = name == "nb201"
    graph = merged_graph if merged else edges_graph
    space = NB201()
    return LabelledSet(
        name=name, schema=MERGED_SCHEMA if merged else EDGES_SCHEMA, graphs=tuple(map(graph, words)),
        groups=_classes(words), targets=columns, texts=tuple(map(space.to_text, words)),
        lower_is_better=lower_is_better([*columns]),
    )  # fmt: skip


def _classes(words: Sequence[Word]) -> Ints:
    """int64[N]: equal where two cells share a unique string or a graph, or are joined by such pairs."""
    strings = class_numbers([unique_string(word) for word in words])
    graphs = class_numbers([_text_of(merged_graph(word)) for word in words])
    while True:
        # The least string class among those of a graph, then the least of those among the rows of a string.
        least = _least(strings, graphs)
        joined = _least(least, strings)
        if np.array_equal(joined, strings):
            return np.unique(joined, return_inverse=True)[1].astype(np.int64)
        strings = _least(joined, graphs)


def _least(values: Ints, groups: Ints) -> Ints:
    """int64[N]: the least value among the rows of the same group."""
    least = np.full(groups.max() + 1, values.max() + 1, np.int64)
    np.minimum.at(least, groups, values)
    return least[groups]


def _text_of(graph: ArchGraph) -> str:
    return f"{graph.features.tolist()}{graph.edges.tolist()}"


def _beside(folder: Path, index: Floats) -> dict[str, Floats]:
    """The columns of other tables in the folder that join on `idx`; those that are not there are left out."""
    at = {int(number): row for row, number in enumerate(index)}
    found: dict[str, Floats] = {}
    for file, prefix in (("nb201_hwnasbench", ""), ("nb201_latency_help_ms", "help_"), ("nb201_zen_naswot_all", "")):
        found |= _joined(folder / f"{file}.csv.gz", at, prefix)
    path = folder / "nb201_zero_cost.csv.gz"
    for dataset, short in _PROXY_SETS.items():
        found |= _joined(path, at, f"zc_{short}_", {"dataset": dataset})
    return found


def _joined(path: Path, at: dict[int, int], prefix: str, where: dict[str, str] | None = None) -> dict[str, Floats]:
    if not path.is_file():
        return {}
    rows = [row for row in csv_rows(path, ["idx", *(where or {})])
            if all(row[name] == value for name, value in (where or {}).items())]  # fmt: skip
    try:
        places = [at.get(int(row["idx"])) for row in rows]
    except ValueError as error:
        expected = "a cell's number in the column idx"
        raise SpaceError(Diagnostic(where=str(path), got=str(error), expected=expected)) from error
    known = [(i, place) for i, place in enumerate(places) if place is not None]
    out: dict[str, Floats] = {}
    for name, values in float_columns(rows, ("idx", *(where or {}))).items():
        out[prefix + name] = np.full(len(at), np.nan)
        out[prefix + name][[place for _, place in known]] = values[[i for i, _ in known]]
    return out


_TRANSNAS_OPS = {"0": "none", "1": "skip_connect", "2": "nor_conv_1x1", "3": "nor_conv_3x3"}


def load_transnas(name: str, data: Path) -> LabelledSet:
    """The 4,096 micro cells with their metric on seven tasks; the operations are four of NAS-Bench-201's."""
    path = table_path(data, "TransNAS-Bench-101 as stored by github.com/automl/NASLib",
                      "transnas-bench-101/transnas_micro_val.csv.gz", "transnas_micro_val.csv.gz")  # fmt: skip
    rows = csv_rows(path, ["arch"])
    words: list[Word] = []
    for line, row in enumerate(rows, 2):
        try:
            word = tuple(OPS.index(_TRANSNAS_OPS[digit]) for digit in row["arch"].split("-"))
            if len(word) != len(EDGES):
                raise ValueError(f"{len(word)} operations")
        except (KeyError, ValueError) as error:
            raise bad_row(path, line, error, "six digits 0 to 3 joined by -") from error
        words.append(word)
    columns = float_columns(rows, ("arch", "idx"))
    return LabelledSet(
        name=name, schema=MERGED_SCHEMA, graphs=tuple(map(merged_graph, words)),
        groups=_classes(words), targets=columns,
        texts=tuple(row["arch"] for row in rows), lower_is_better=frozenset(),
    )  # fmt: skip
