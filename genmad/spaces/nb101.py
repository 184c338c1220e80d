"""NAS-Bench-101: cells of at most seven vertices and nine edges. Ying et al., ICML 2019, arXiv 1902.09635.

A word is written from the output backwards, because the channels of a vertex follow from what it feeds (section 2.2):
the number of vertices, what the output reads, then for each vertex from the last to the first its operation and what it
reads. A vertex nobody reads is not allowed, so every word is a cell that needs no pruning.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from genmad.ir import Diagnostic, Graph
from genmad.spaces import nb101_rules
from genmad.spaces.grammar import Costs, Grammar, Ints, SpaceError, Step, Words
from genmad.spaces.nb101_costs import BASE, cell_costs, out_cost, rank_classes, vertex_cost
from genmad.spaces.nb101_graph import read_cell, write_graph
from genmad.spaces.space import Adjacency, LabelTable, Space, Word
from genmad.spaces.tables import csv_rows, find_table, float_columns

OPS = ("conv3x3-bn-relu", "conv1x1-bn-relu", "maxpool3x3")
MAX_VERTICES = 7
MAX_EDGES = 9
INNER = MAX_VERTICES - 2
_ROUNDS = MAX_VERTICES - 2
_ONES, _ZERO = np.uint64(0xFFFFFFFFFFFFFFFF), np.uint64(0)


class NB101(Space):
    name = "nb101"
    title = "NAS-Bench-101"
    depth_is = "vertices on the longest path of the cell, input and output left out"
    source = "Ying et al., NAS-Bench-101, ICML 2019"

    @property
    def size(self) -> int:
        return 423_624

    def grammar_for(self, metrics: tuple[str, ...]) -> Grammar:
        rules = _Rules(metrics)
        known = {"params": BASE[0], "macs": BASE[1], "depth": 0}
        return Grammar.build(_steps(), rules.start, rules.step, metrics=metrics, base=tuple(known[m] for m in metrics))

    def to_text(self, word: Word) -> str:
        matrix, ops = unpack(np.array([word], np.int16))
        size = word[0] + 2
        bits = "".join(str(int(matrix[0, a, b])) for a in range(size) for b in range(a + 1, size))
        return " ".join([bits, *(OPS[op] for op in ops[0, 1 : size - 1].tolist())])

    def from_text(self, text: str) -> Word:
        found = self.problems(text)
        if found:
            expected = "the upper triangle of at most 7 vertices as digits, then the operations, separated by spaces"
            raise SpaceError(Diagnostic(where=f"cell {text[:200]!r}", got="; ".join(found), expected=expected))
        rows, ops, _ = nb101_rules.parse(text)
        kept = nb101_rules.prune(rows)
        matrix = [[rows[a][b] for b in kept] for a in kept]
        return pack(matrix, [OPS.index(ops[v - 1]) for v in kept[1:-1]])

    def problems(self, text: str) -> list[str]:
        return nb101_rules.problems(text)

    def keys(self, words: Words) -> list[str]:
        """The benchmark's own MD5 keys."""
        matrix, ops = unpack(words)
        sizes = (words[:, 0] + 2).tolist()
        return [
            nb101_rules.fingerprint([row[:n] for row in rows[:n]], [-1, *labels[1 : n - 1], -2])
            for n, rows, labels in zip(sizes, matrix.tolist(), ops.tolist(), strict=True)
        ]

    def hashes(self, words: Words) -> list[str]:
        return self.keys(words)

    def fingerprints(self, words: Words) -> NDArray[np.uint64]:
        """The same iteration as the benchmark's keys, with 64-bit mixing of sums in place of MD5, over the batch."""
        matrix, ops = unpack(words)
        # Vertices first, so that every operation below runs over contiguous batches; an edge is a mask of 64 ones.
        edges = {
            (a, b): np.where(matrix[:, a, b] == 1, _ONES, _ZERO)
            for a in range(MAX_VERTICES)
            for b in range(a + 1, MAX_VERTICES)
        }
        degrees = (matrix.sum(2, dtype=np.uint64) * np.uint64(16) + matrix.sum(1, dtype=np.uint64)).T
        hashes = _mix(degrees * np.uint64(16) + (ops.T + 3).astype(np.uint64))
        for _ in range(_ROUNDS):
            sent = hashes * np.uint64(0xD6E8FEB86659FD93)
            sent ^= sent >> np.uint64(32)
            into, out = np.zeros_like(hashes), np.zeros_like(hashes)
            for (a, b), mask in edges.items():
                into[b] += sent[a] & mask
                out[a] += sent[b] & mask
            hashes = _mix(hashes + into * np.uint64(0x9E3779B97F4A7C15) + out * np.uint64(0xC2B2AE3D27D4EB4F))
        present = np.arange(MAX_VERTICES)[:, None] < words[:, 0].astype(np.int64) + 2
        return _mix(np.where(present, hashes, _ZERO).sum(0) + words[:, 0].astype(np.uint64))

    def features(self, words: Words) -> NDArray[np.float64]:
        """float64[B, 153]: how often each operation stands in the cell, and for every length how many walks lead from
        one operation (or the input) to another (or the output): the same for isomorphic cells, unlike the choices."""
        matrix, ops = unpack(words)
        kinds = np.stack([ops == kind for kind in (*range(len(OPS)), -1, -2)], axis=2).astype(np.float64)
        parts, walks = [kinds.sum(1)[:, : len(OPS)]], kinds
        for _ in range(MAX_VERTICES - 1):
            walks = matrix @ walks
            parts.append((kinds.transpose(0, 2, 1) @ walks).reshape(len(words), -1))
        return np.concatenate(parts, axis=1)

    def costs(self, words: Words) -> Ints:
        return cell_costs(*unpack(words), words[:, 0].astype(np.int64) + 2)

    def adjacency(self, word: Word) -> tuple[Adjacency, ...]:
        matrix, ops = unpack(np.array([word], np.int16))
        size = word[0] + 2
        edges = tuple((a, b) for a in range(size) for b in range(a + 1, size) if matrix[0, a, b])
        return (Adjacency(ops=("input", *(OPS[op] for op in ops[0, 1 : size - 1].tolist()), "output"), edges=edges),)

    def neighbours(self, word: Word) -> Iterator[Word]:
        """Cells with one operation changed, or one edge added or removed (then pruned); each class once."""
        (cell,) = self.adjacency(word)
        size, ops = len(cell.ops), list(cell.ops[1:-1])
        seen = {self.key(word)}
        flips = [(a, b) for a in range(size) for b in range(a + 1, size)]
        texts = [_text({*cell.edges} ^ {flip}, ops, size) for flip in flips]
        texts += [_text({*cell.edges}, [*ops[:v], op, *ops[v + 1 :]], size) for v in range(len(ops)) for op in OPS]
        for text in texts:
            if not self.problems(text):
                other = self.from_text(text)
                if (key := self.key(other)) not in seen:
                    seen.add(key)
                    yield other

    def to_graph(self, word: Word) -> Graph:
        (cell,) = self.adjacency(word)
        return write_graph(cell)

    def read_graph(self, graph: Graph) -> Word:
        ops, edges = read_cell(graph)
        size = len(ops) + 2
        matrix = [[int((a, b) in edges) for b in range(size)] for a in range(size)]
        return pack(matrix, [OPS.index(op) for op in ops])

    def read_labels(self, data: Path) -> LabelTable | None:
        path = find_table(data, "nas-bench-101/nb101_20k.csv.gz", "nb101_20k.csv.gz", "nb101.csv")
        if path is None:
            return None
        rows = csv_rows(path, ["adj", "ops"])
        texts = [" ".join([row["adj"], *(OPS[int(op)] for op in row["ops"])]) for row in rows]
        words = np.array([self.word_of_row(path, i, text) for i, text in enumerate(texts, 2)], np.int16)
        columns = float_columns(rows, ("hash", "adj", "ops"))
        return LabelTable(path=path, keys=tuple(self.keys(words)), words=words, columns=columns)


class _Rules:
    """The transition function; its states hold channels and heights only where the metrics need them.

    A state is (vertices, edges left, inner vertices that the output reads, marks, deepest path so far). A mark stands
    for each vertex still to be written, nearest to the input first: None while nobody reads it, else
    (whether the output reads it, class of its channels, vertices below it).
    """

    def __init__(self, metrics: tuple[str, ...]) -> None:
        self.metrics = metrics
        self.wide = "params" in metrics or "macs" in metrics
        self.tall = "depth" in metrics
        self.start = ()

    def step(self, t: int, state: object, choice: int) -> tuple[object, Costs] | None:
        if t == 0:
            return (choice + 2,), self._cost()
        assert isinstance(state, tuple)
        if t == 1:
            return self._output(state[0], choice)
        vertex = INNER - (t - 2) // 2
        if vertex > state[0] - 2:
            return (state, self._cost()) if choice == 0 else None
        if choice == 0:
            return None
        return self._op(state, vertex, choice) if t % 2 == 0 else self._reads(state, vertex, choice)

    def _output(self, size: int, mask: int) -> tuple[object, Costs] | None:
        inner = [v for v in range(1, size - 1) if mask >> v & 1]
        edges = mask.bit_count()
        if not edges or mask >> (size - 1) or edges > MAX_EDGES:
            return None
        ranks = rank_classes(len(inner)) if self.wide else ()
        marks: list[tuple[bool, int, int] | None] = [None] * (size - 2)
        for rank, v in enumerate(inner):
            marks[v - 1] = (self.wide, ranks[rank] if self.wide else 0, 0)
        cost = out_cost(bool(mask & 1)) if self.wide else (0, 0)
        state = (size, MAX_EDGES - edges, len(inner) if self.wide else 0, tuple(marks), 0)
        return state, self._cost(*cost, 0 if len(marks) else None)

    def _op(self, state: tuple[object, ...], vertex: int, choice: int) -> tuple[object, Costs] | None:
        """The operation is paid for here: the channels are known."""
        _, _, degree, marks, _ = state
        assert isinstance(marks, tuple)
        assert isinstance(degree, int)
        if marks[vertex - 1] is None:
            return None
        cost = vertex_cost(choice - 1, degree, marks[vertex - 1][1]) if self.wide else (0, 0)
        return state, self._cost(*cost)

    def _reads(self, state: tuple[object, ...], vertex: int, mask: int) -> tuple[object, Costs] | None:
        size, left, degree, marks, deepest = state
        assert isinstance(marks, tuple)
        assert isinstance(left, int)
        assert isinstance(degree, int)
        assert isinstance(deepest, int)
        if mask >> vertex or mask.bit_count() > left:
            return None
        _, channels, below = marks[vertex - 1]
        height = below + 1 if self.tall else 0
        rest: list[tuple[bool, int, int] | None] = list(marks[: vertex - 1])
        for v in range(1, vertex):
            if mask >> v & 1:
                rest[v - 1] = _marked(rest[v - 1], channels, height)
        if mask & 1:
            deepest = max(deepest, height)
        cost = vertex_cost(-1, degree, channels) if self.wide and mask & 1 else (0, 0)
        done = (size, left - mask.bit_count(), degree, tuple(rest), deepest)
        if vertex == 1:
            return (1, 0, 0, (), 0), self._cost(*cost, deepest)
        return done, self._cost(*cost)

    def _cost(self, params: int = 0, macs: int = 0, depth: int | None = 0) -> Costs:
        known = {"params": params, "macs": macs, "depth": depth or 0}
        return tuple(known[m] for m in self.metrics)


def _marked(mark: tuple[bool, int, int] | None, channels: int, height: int) -> tuple[bool, int, int]:
    """A vertex that one more vertex reads: as wide as the widest of its readers, unless the output decides."""
    if mark is None:
        return (False, channels, height)
    fixed, own, below = mark
    return (fixed, own if fixed else min(own, channels), max(below, height))


def _steps() -> list[Step]:
    sizes = tuple(f"{n} vertices" for n in range(2, MAX_VERTICES + 1))
    steps = [Step(name="vertices", kind="vertices", choices=sizes), _reading("output", MAX_VERTICES - 1)]
    for v in range(INNER, 0, -1):
        steps += [Step(name=f"vertex {v}", kind="op", choices=("-", *OPS)), _reading(f"vertex {v}", v)]
    return steps


def _reading(name: str, count: int) -> Step:
    sets = ("+".join(str(v) for v in range(count) if mask >> v & 1) or "-" for mask in range(1 << count))
    return Step(name=f"{name} reads", kind=f"reads{count}", choices=tuple(sets))


def unpack(words: Words) -> tuple[NDArray[np.int8], NDArray[np.int64]]:
    """Adjacency int8[B, 7, 7] and operations int64[B, 7] (-1 input, -2 output, -3 absent), vertices in order."""
    B = len(words)
    sizes = words[:, 0].astype(np.int64) + 2
    matrix = np.zeros((B, MAX_VERTICES, MAX_VERTICES), np.int8)
    ops = np.full((B, MAX_VERTICES), -3, np.int64)
    rows = np.arange(B)
    bits = np.arange(MAX_VERTICES)
    matrix[rows, :, sizes - 1] = words[:, 1, None] >> bits & 1
    for v in range(1, MAX_VERTICES - 1):
        at = 2 + 2 * (INNER - v)
        here = v <= sizes - 2
        matrix[here, :, v] = (words[here, at + 1, None] >> bits & 1).astype(np.int8)
        ops[here, v] = words[here, at].astype(np.int64) - 1
    ops[:, 0] = -1
    ops[rows, sizes - 1] = -2
    return matrix, ops


def pack(matrix: list[list[int]], ops: list[int]) -> Word:
    """The word of a pruned cell."""
    size = len(matrix)
    masks = [sum(matrix[a][b] << a for a in range(b)) for b in range(size)]
    word = [size - 2, masks[-1]]
    for v in range(INNER, 0, -1):
        word += [ops[v - 1] + 1, masks[v]] if v <= size - 2 else [0, 0]
    return tuple(word)


def _text(edges: set[tuple[int, int]], ops: list[str], size: int) -> str:
    bits = "".join(str(int((a, b) in edges)) for a in range(size) for b in range(a + 1, size))
    return " ".join([bits, *ops])


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of splitmix64: a bijection whose output looks random."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
