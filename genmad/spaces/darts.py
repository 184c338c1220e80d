"""The DARTS space of NAS-Bench-301: normal and reduction cell. Liu et al., arXiv 1806.09055; Zela et al. 2008.09777.

A word lists, for each node of each cell, which two values it reads and the operation on each. Costs and graphs are
those of the network that DARTS trains from scratch on CIFAR-10: 20 cells, 36 channels, without the auxiliary head.
"""

from functools import cache, cached_property
from itertools import combinations, permutations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from genmad.ir import Diagnostic, Graph
from genmad.spaces import darts_rules
from genmad.spaces.darts_graph import OPS, edge_cost, read_cells, write_graph
from genmad.spaces.grammar import Costs, Grammar, SpaceError, Step, Words
from genmad.spaces.space import Adjacency, LabelTable, Space, Word
from genmad.spaces.tables import find_table, json_lines

NODES = (2, 3, 4, 5)
PAIRS = {node: tuple(combinations(range(node), 2)) for node in NODES}
CELL_STEPS = 3 * len(NODES)
_ORDERS = tuple(permutations(range(4)))


class Darts(Space):
    name = "darts"
    title = "DARTS / NAS-Bench-301"
    depth_is = "operations other than skip_connect on the longest path of the deeper cell"
    source = "Liu et al., DARTS, ICLR 2019; Zela et al., NAS-Bench-301"

    @property
    def size(self) -> int:
        return (180 * 7**8) ** 2

    @property
    def num_classes(self) -> int:
        return count_cells() ** 2

    def grammar_for(self, metrics: tuple[str, ...]) -> Grammar:
        rules = _Rules(metrics)
        base = {"params": 0, "macs": 0, "depth": 0}
        if rules.wide:
            base |= dict(zip(("params", "macs"), self._base, strict=True))
        return Grammar.build(_steps(), ((), 0), rules.step, metrics=metrics, base=tuple(base[m] for m in metrics))

    @cached_property
    def _base(self) -> tuple[int, int]:
        """(params, MACs) of the network around the operations, counted on a graph whose operations cost nothing."""
        return self.graph_costs((0,) * (2 * CELL_STEPS))

    def to_text(self, word: Word) -> str:
        normal, reduce = (", ".join(f"('{op}', {source})" for op, source in cell) for cell in edges_of(word))
        return f"Genotype(normal=[{normal}], normal_concat=range(2, 6), reduce=[{reduce}], reduce_concat=range(2, 6))"

    def from_text(self, text: str) -> Word:
        found = self.problems(text)
        if found:
            expected = "Genotype(normal=[('sep_conv_3x3', 0), ...], normal_concat=range(2, 6), reduce=[...], ...)"
            raise SpaceError(Diagnostic(where=f"genotype {text[:300]!r}", got="; ".join(found), expected=expected))
        cells = darts_rules.parse(text)
        assert cells is not None
        return word_of(*cells)

    def problems(self, text: str) -> list[str]:
        return darts_rules.problems(text)

    def keys(self, words: Words) -> list[str]:
        normal, reduce = self._codes(words)
        return [f"{a:013x}{b:013x}" for a, b in zip(normal.tolist(), reduce.tolist(), strict=True)]

    def fingerprints(self, words: Words) -> NDArray[np.uint64]:
        normal, reduce = (code.astype(np.uint64) for code in self._codes(words))
        return normal * np.uint64(0x9E3779B97F4A7C15) ^ (reduce * np.uint64(0xC2B2AE3D27D4EB4F) + np.uint64(1))

    def _codes(self, words: Words) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """A number per cell: the least code over all orders of its nodes that keep inputs before readers."""
        return least_code(words[:, :CELL_STEPS]), least_code(words[:, CELL_STEPS:])

    def canonical(self, words: Words) -> Words:
        """The nodes in the order of their least code."""
        return np.concatenate([_from_code(code) for code in self._codes(words)], axis=1)

    def adjacency(self, word: Word) -> tuple[Adjacency, ...]:
        """Operations as vertices, one pair per node; each node's sum is where its readers' edges start."""
        return tuple(_adjacency(cell) for cell in edges_of(word))

    def to_graph(self, word: Word) -> Graph:
        return write_graph(*edges_of(word))

    def read_graph(self, graph: Graph) -> Word:
        return word_of(*read_cells(graph))

    def read_labels(self, data: Path) -> LabelTable | None:
        path = find_table(data, "darts_random214/darts_random214.jsonl.gz", "darts_random214.jsonl.gz")
        if path is None:
            return None
        rows = list(json_lines(path))
        words = []
        for line, row in enumerate(rows, 1):
            parts = (", ".join(f"('{op}', {int(s)})" for op, s in row[cell]) for cell in ("normal", "reduce"))
            text = "Genotype(normal=[{}], normal_concat=range(2, 6), reduce=[{}], reduce_concat=range(2, 6))"
            words.append(self.word_of_row(path, line, text.format(*parts)))
        table = np.array(words, np.int16)
        columns = {name: np.array([float(row[name]) for row in rows]) for name in ("best_acc", "final_acc")}
        return LabelTable(path=path, keys=tuple(self.keys(table)), words=table, columns=columns)


class _Rules:
    """A state is (what the ops of the node at hand read or, for `depth`, how deep each node is; deepest so far)."""

    def __init__(self, metrics: tuple[str, ...]) -> None:
        self.metrics = metrics
        self.wide = "params" in metrics or "macs" in metrics
        self.tall = "depth" in metrics

    def step(self, t: int, state: object, choice: int) -> tuple[object, Costs] | None:
        cell, at = divmod(t, CELL_STEPS)
        node, part = NODES[at // 3], at % 3
        assert isinstance(state, tuple)
        known, deepest = state
        depths, pair, grown = known or ((0, 0), (), 0)
        if part == 0:
            pair = PAIRS[node][choice]
            kept = pair if self.tall else tuple(source >= 2 for source in pair)
            return ((depths, kept, 0) if self.wide or self.tall else (), deepest), self._cost()
        cost = (0, 0)
        if self.wide:
            inner = pair[part - 1] if not self.tall else pair[part - 1] >= 2
            cost = edge_cost(OPS[choice], reduction=cell == 1, strided=cell == 1 and not inner)
        if self.tall:
            grown = max(grown, depths[pair[part - 1]] + (OPS[choice] != "skip_connect"))
        done = (depths, pair, grown) if self.wide or self.tall else ()
        if part == 1:
            return (done, deepest), self._cost(*cost)
        if not self.tall:
            return ((), 0), self._cost(*cost)
        depths, deepest = (*depths, grown), max(deepest, grown)
        done = () if node == NODES[-1] else (depths, (), 0)
        return (done, deepest), self._cost(*cost, deepest if t == 2 * CELL_STEPS - 1 else 0)

    def _cost(self, params: int = 0, macs: int = 0, depth: int = 0) -> Costs:
        known = {"params": params, "macs": macs, "depth": depth}
        return tuple(known[m] for m in self.metrics)


def _steps() -> list[Step]:
    steps = []
    for cell in ("normal", "reduce"):
        for node in NODES:
            pairs = tuple(f"{a}+{b}" for a, b in PAIRS[node])
            steps.append(Step(name=f"{cell} node {node} reads", kind=f"reads{node}", choices=pairs))
            steps += [Step(name=f"{cell} node {node} op {i}", kind="op", choices=OPS) for i in (0, 1)]
    return steps


def edges_of(word: Word) -> tuple[list[tuple[str, int]], list[tuple[str, int]]]:
    """(operation, input) pairs of both cells, two per node."""
    cells = []
    for start in (0, CELL_STEPS):
        edges = []
        for i, node in enumerate(NODES):
            pair, a, b = word[start + 3 * i : start + 3 * i + 3]
            edges += [(OPS[op], source) for op, source in zip((a, b), PAIRS[node][pair], strict=True)]
        cells.append(edges)
    return cells[0], cells[1]


def word_of(normal: list[tuple[str, int]], reduce: list[tuple[str, int]]) -> Word:
    """The word of two cells; the two inputs of a node in either order."""
    word: list[int] = []
    for edges in (normal, reduce):
        for i, node in enumerate(NODES):
            (a, first), (b, second) = sorted(edges[2 * i : 2 * i + 2], key=lambda edge: edge[1])
            word += [PAIRS[node].index((first, second)), OPS.index(a), OPS.index(b)]
    return tuple(word)


def least_code(cells: Words) -> NDArray[np.int64]:
    """int64[B]: 12 bits per node (input, operation, input, operation), the least number over all valid orders."""
    sources = np.stack([np.array(PAIRS[node])[cells[:, 3 * i]] for i, node in enumerate(NODES)], 1)
    ops = np.stack([cells[:, [3 * i + 1, 3 * i + 2]] for i in range(4)], 1).astype(np.int64)
    best = np.full(len(cells), np.iinfo(np.int64).max)
    for order in _ORDERS:
        # order[old] is the new place of a node.
        place = np.array([0, 1, *(2 + new for new in order)])
        moved = place[sources]
        edge = np.sort(moved * 8 + ops, axis=2)
        node_code = edge[:, :, 0] * 64 + edge[:, :, 1]
        own = place[2:]
        valid = (moved.max(2) < own[None]).all(1)
        code = (node_code << (12 * (5 - own))[None]).sum(1)
        best = np.where(valid, np.minimum(best, code), best)
    return best


def _from_code(codes: NDArray[np.int64]) -> Words:
    """int16[B, 12]: the steps of the cells with these codes."""
    columns: list[NDArray[np.int64]] = []
    for i, node in enumerate(NODES):
        part = codes >> (12 * (3 - i)) & 0xFFF
        a, b = part >> 6, part & 63
        index = np.full((8, 8), -1)
        for k, (low, high) in enumerate(PAIRS[node]):
            index[low, high] = k
        columns += [index[a >> 3, b >> 3], a & 7, b & 7]
    return np.stack(columns, 1).astype(np.int16)


@cache
def count_cells(num_ops: int = len(OPS)) -> int:
    """Cells up to the order of their nodes, exactly, without listing them.

    A wiring has `valid` relabellings; an assignment of operations with `a` automorphisms therefore stands for
    valid / a words. Summing a / valid over words, and a over assignments by the cycles of each automorphism on the
    eight edges (Burnside), counts classes.
    """
    total = 0.0
    pairs = [(a, b, c, d) for a in PAIRS[2] for b in PAIRS[3] for c in PAIRS[4] for d in PAIRS[5]]
    for wiring in pairs:
        edges = [(source, node) for node, pair in zip(NODES, wiring, strict=True) for source in pair]
        valid = fixed = 0
        for order in _ORDERS:
            place = {0: 0, 1: 1, **{node: 2 + new for node, new in zip(NODES, order, strict=True)}}
            moved = [(place[a], place[b]) for a, b in edges]
            valid += all(a < b for a, b in moved)
            if set(moved) == set(edges):
                fixed += num_ops ** _cycles([edges.index(edge) for edge in moved])
        total += fixed / valid
    return round(total)


def _cycles(mapping: list[int]) -> int:
    seen: set[int] = set()
    count = 0
    for start in range(len(mapping)):
        count += start not in seen
        at = start
        while at not in seen:
            seen.add(at)
            at = mapping[at]
    return count


def _adjacency(cell: list[tuple[str, int]]) -> Adjacency:
    ops = ("input0", "input1", *(op for op, _ in cell), "output")
    makers = {0: [0], 1: [1], **{node: [2 + 2 * i, 3 + 2 * i] for i, node in enumerate(NODES)}}
    edges = [(v, 2 + i) for i, (_, source) in enumerate(cell) for v in makers[source]]
    edges += [(2 + i, 2 + len(cell)) for i in range(len(cell))]
    return Adjacency(ops=ops, edges=tuple(sorted(edges)))
