"""NAS-Bench-201: four nodes, each edge one of five operations. Dong and Yang, ICLR 2020, arXiv 2001.00326.

The network (section 2.1): a 3x3 convolution to 16 channels, three stages of five cells with 16, 32 and 64 channels, a
residual block of stride 2 between stages, mean pooling and a linear layer.
"""

import re
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from genmad.ir import Block, BlockBuilder, Diagnostic, Graph, GraphBuilder
from genmad.ops import OPSET
from genmad.spaces import nb201_rules
from genmad.spaces.cells import IMAGE, add_all, classifier, conv, maker, norm, pool, relu, relu_conv_norm, terms
from genmad.spaces.grammar import Costs, Grammar, SpaceError, Step, Words
from genmad.spaces.space import Adjacency, LabelTable, Space, Word
from genmad.spaces.tables import csv_rows, find_table, float_columns

OPS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
EDGES = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))
CHANNELS = (16, 32, 64)
CELLS_PER_STAGE = 5
_EDGE = re.compile(r"(\w+)~(\d)\Z")
_GRAPH_OPS = {"MulScalar": "none", "Identity": "skip_connect", "AveragePool": "avg_pool_3x3"}


class NB201(Space):
    name = "nb201"
    title = "NAS-Bench-201"
    depth_is = "convolutions and poolings on the longest path of the cell that no `none` cuts"
    source = "Dong and Yang, NAS-Bench-201, ICLR 2020"

    @property
    def size(self) -> int:
        return 15_625

    @property
    def num_classes(self) -> int:
        return 6_466

    def grammar_for(self, metrics: tuple[str, ...]) -> Grammar:
        steps = [Step(name=f"edge {a}-{b}", kind="op", choices=OPS) for a, b in EDGES]
        base, edge = self._edge_costs
        tracked = "depth" in metrics

        def transition(t: int, state: object, choice: int) -> tuple[object, Costs]:
            assert isinstance(state, tuple)
            depths = _deeper(state, t, choice) if tracked else ()
            depth = max(depths[3], 0) if tracked and t == len(EDGES) - 1 else 0
            cost = {"params": edge[choice][0], "macs": edge[choice][1], "depth": depth}
            return depths, tuple(cost[m] for m in metrics)

        start = (0, -1, -1, -1) if tracked else ()
        known = {"params": base[0], "macs": base[1], "depth": 0}
        return Grammar.build(steps, start, transition, metrics=metrics, base=tuple(known[m] for m in metrics))

    @cached_property
    def _edge_costs(self) -> tuple[tuple[int, int], tuple[tuple[int, int], ...]]:
        """(params, MACs) of the network without the edges, and what one edge of each op adds; counted on graphs."""
        none = self.graph_costs((0,) * 6)
        one = [self.graph_costs((0, 0, 0, 0, 0, op)) for op in range(len(OPS))]
        return none, tuple((params - none[0], macs - none[1]) for params, macs in one)

    def to_text(self, word: Word) -> str:
        ops = {edge: OPS[c] for edge, c in zip(EDGES, word, strict=True)}
        nodes = ("|".join(f"{ops[a, b]}~{a}" for a in range(b)) for b in (1, 2, 3))
        return "+".join(f"|{node}|" for node in nodes)

    def from_text(self, text: str) -> Word:
        found = nb201_rules.problems(text)
        if found:
            expected = "|op~0|+|op~0|op~1|+|op~0|op~1|op~2|"
            raise SpaceError(Diagnostic(where=f"cell {text[:200]!r}", got="; ".join(found), expected=expected))
        matches = [_EDGE.match(item) for item in re.split(r"[|+]+", text.strip("|"))]
        return tuple(OPS.index(m[1]) for m in matches if m)

    def problems(self, text: str) -> list[str]:
        return nb201_rules.problems(text)

    def keys(self, words: Words) -> list[str]:
        return [unique_string(word) for word in map(tuple, words.tolist())]

    def features(self, words: Words) -> NDArray[np.float64]:
        """Operations by edge, and how often each sequence of operations leads from input to output: the path encoding
        of BANANAS (White et al., arXiv 1910.11858) without skips and without paths that `none` cuts."""
        return np.concatenate([super().features(words), _path_counts(words)], axis=1)

    def adjacency(self, word: Word) -> tuple[Adjacency, ...]:
        """Operations as vertices: input, the six edges in order, output; `none` stays a vertex without effect."""
        into = {b: [i + 1 for i, edge in enumerate(EDGES) if edge[1] == b] for b in range(4)}
        into[0] = [0]
        edges = [(v, i + 1) for i, (a, _) in enumerate(EDGES) for v in into[a]]
        ops = ("input", *(OPS[c] for c in word), "output")
        return (Adjacency(ops=ops, edges=tuple(sorted([*edges, *((v, 7) for v in into[3])]))),)

    def to_graph(self, word: Word) -> Graph:
        builder = GraphBuilder(OPSET)
        for channels, size in zip(CHANNELS, (32, 16, 8), strict=True):
            _cell(builder.block(f"Cell{channels}", x=f"float32[batch,{channels},{size},{size}]"), word, channels)
            if channels > CHANNELS[0]:
                wide = f"float32[batch,{channels // 2},{size * 2},{size * 2}]"
                _reduction(builder.block(f"Residual{channels}", x=wide), channels)
        main = builder.block("NASBench201", image=IMAGE)
        x = norm(main, conv(main, "image", "stem.0", CHANNELS[0], 3), "stem.1")
        index = 0
        for channels in CHANNELS:
            if channels > CHANNELS[0]:
                x = main.add(f"@Residual{channels}", x, name=f"cells.{index}")
                index += 1
            for _ in range(CELLS_PER_STAGE):
                x = main.add(f"@Cell{channels}", x, name=f"cells.{index}")
                index += 1
        x = relu(main, norm(main, x, "lastact.0"), "lastact.1")
        return builder.build(main.finish(classifier(main, x, "classifier")))

    def read_graph(self, graph: Graph) -> Word:
        first = next(node for node in graph.main.nodes if node.is_call)
        cell = graph.block_map[first.callee]
        source = {cell.inputs[0].name: 0}
        word: dict[tuple[int, int], int] = {}
        node_values = [cell.inputs[0].name]
        sums = [cell.outputs[0]]
        for count in (3, 2):
            last = terms(cell, sums[0], count)[-1]
            sums.insert(0, _edge_source(cell, last)[1])
        for b, total in enumerate(sums, 1):
            source[total] = b
            node_values.append(total)
            for a, value in enumerate(terms(cell, total, b)):
                op, start = _edge_source(cell, value)
                if source[start] != a:
                    raise ValueError(f"edge {a}-{b} starts at node {source[start]}")
                word[a, b] = OPS.index(op)
        return tuple(word[edge] for edge in EDGES)

    def read_labels(self, data: Path) -> LabelTable | None:
        path = find_table(data, "nas-bench-201/nb201.csv.gz", "nb201.csv.gz", "nb201.csv")
        if path is None:
            return None
        rows = csv_rows(path, ["arch"])
        words = np.array([self.word_of_row(path, i, row["arch"]) for i, row in enumerate(rows, 2)], np.int16)
        return LabelTable(
            path=path, keys=tuple(self.keys(words)), words=words, columns=float_columns(rows, ("arch", "ops"))
        )


def _deeper(depths: tuple[int, ...], edge: int, choice: int) -> tuple[int, ...]:
    """Longest path to each node (-1: none) once this edge stands."""
    a, b = EDGES[edge]
    if OPS[choice] == "none" or depths[a] < 0:
        return depths
    reach = max(depths[b], depths[a] + (OPS[choice] != "skip_connect"))
    return (*depths[:b], reach, *depths[b + 1 :])


def _cell(block: BlockBuilder, word: Word, channels: int) -> Block:
    values = ["x"]
    for b in (1, 2, 3):
        ops = {a: OPS[word[i]] for i, (a, end) in enumerate(EDGES) if end == b}
        edges = [_edge(block, values[a], ops[a], f"edges.{b}<-{a}".replace("<-", "_"), channels) for a in range(b)]
        values.append(add_all(block, edges, f"node_{b}"))
    return block.finish(values[-1])


def _edge(block: BlockBuilder, x: str, op: str, name: str, channels: int) -> str:
    """An operation as the benchmark runs it: `none` multiplies by zero, so that what feeds it still exists."""
    if op == "none":
        return str(block.add("MulScalar", x, name=name, scope=name, value=0.0))
    if op == "skip_connect":
        return str(block.add("Identity", x, name=name, scope=name))
    if op == "avg_pool_3x3":
        return pool(block, "AveragePool", x, name)
    return relu_conv_norm(block, x, name, channels, 1 if op == "nor_conv_1x1" else 3)


def _edge_source(cell: Block, value: str) -> tuple[str, str]:
    """The operation whose output a value is, and the value it starts from."""
    node = maker(cell, value)
    if node.op in _GRAPH_OPS:
        return _GRAPH_OPS[node.op], node.inputs[0]
    convolution = maker(cell, node.inputs[0])
    kernel = convolution.attr_map["kernel_size"][0]
    return f"nor_conv_{kernel}x{kernel}", maker(cell, convolution.inputs[0]).inputs[0]


def _reduction(block: BlockBuilder, channels: int) -> Block:
    """The residual block between stages: stride 2, twice the channels, a pooled 1x1 shortcut."""
    x = relu_conv_norm(block, "x", "conv_a", channels, 3, stride=2)
    x = relu_conv_norm(block, x, "conv_b", channels, 3)
    short = block.add(
        "AveragePool", "x", name="downsample.0", scope="downsample.0", kernel_size=(2, 2), stride=(2, 2),
        padding=(0, 0),
    )  # fmt: skip
    return block.finish(block.add("Add", conv(block, short, "downsample.1", channels, 1), x))


def _path_counts(words: Words) -> NDArray[np.float64]:
    """float64[B, 64]: a column per sequence of at most three operations that compute, read as a number in base 4."""
    counts = np.zeros((len(words), 4**3))
    rows = np.arange(len(words))
    digit = np.array([0, 0, 1, 2, 3])
    for path in ((3,), (0, 4), (1, 5), (0, 2, 5)):
        ops = words[:, path]
        code = np.zeros(len(words), np.int64)
        for column in ops.T:
            # A skip leaves the sequence as it is.
            code = np.where(column == 1, code, code * 4 + digit[column])
        alive = (ops != 0).all(1)
        counts[rows[alive], code[alive]] += 1
    return counts


@lru_cache(maxsize=20_000)
def unique_string(word: Word) -> str:
    """The benchmark's isomorphism key: what each node computes, with `none` as zero and `skip_connect` as nothing."""
    ops = dict(zip(EDGES, word, strict=True))
    nodes = ["0"]
    for b in (1, 2, 3):
        parts = []
        for a in range(b):
            op = OPS[ops[a, b]]
            if op == "none" or nodes[a] == "#":
                parts.append("#")
            else:
                parts.append(nodes[a] if op == "skip_connect" else f"({nodes[a]})@{op}")
        nodes.append("+".join(sorted(parts)))
    return nodes[-1]
