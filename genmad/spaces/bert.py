"""NAS-Bench-BERT: the FlexiBERT space of small encoders. Serianni and Kalita, ACL 2023; Tuli et al., arXiv 2205.11656.

One hidden size, two or four layers, 48 kinds of each: 2 (48^2 + 48^4) = 10,621,440 members.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any, cast

import numpy as np

from genmad.ir import Diagnostic, Graph, GraphBuilder
from genmad.ops import OPSET
from genmad.spaces import bert_rules
from genmad.spaces.bert_graph import Layer, layer_block, make_graph, read_layers
from genmad.spaces.completion import completed_neighbours
from genmad.spaces.grammar import Costs, Grammar, SpaceError, Step
from genmad.spaces.language import sequence_costs
from genmad.spaces.space import Adjacency, LabelTable, Space, Word
from genmad.spaces.tables import find_table, json_lines

HIDDEN = (128, 256)
LAYERS = (2, 4)
OPS = ("SDP", "WMA", "DFT", "DCT", "DSC5", "DSC9")
HEADS = (2, 4)
FFN = (512, 1024)
NUM_FFN = (1, 3)
SIZES: Mapping[str, int] = {"batch": 1, "seq": 128}
"""Sequences of pre-training; what parameters and MACs are counted at."""
_LAYER = re.compile(r"(\w+) h(\d+) f(\d+) n(\d+)")
Pair = tuple[int, int]


class NasBenchBert(Space):
    name = "nas_bench_bert"
    title = "NAS-Bench-BERT"
    depth_is = "layers"
    source = "Serianni and Kalita, ACL 2023; Tuli et al., FlexiBERT, JAIR 2023"

    @property
    def size(self) -> int:
        kinds = len(OPS) * len(HEADS) * len(FFN) * len(NUM_FFN)
        return len(HIDDEN) * sum(kinds**n for n in LAYERS)

    def grammar_for(self, metrics: tuple[str, ...]) -> Grammar:
        counted = bool(set(metrics) - {"depth"})
        steps = [Step(name="hidden", kind="hidden", choices=tuple(map(str, HIDDEN)))]
        for n in range(1, LAYERS[-1] + 1):
            none = ("-",) if n > LAYERS[0] else ()
            steps += [
                Step(name=f"layer {n}", kind="op", choices=(*OPS, *none)),
                Step(name=f"layer {n} heads", kind="heads", choices=(*map(str, HEADS), *none)),
                Step(name=f"layer {n} ffn", kind="ffn", choices=(*map(str, FFN), *none)),
                Step(name=f"layer {n} depth", kind="ffn depth", choices=(*map(str, NUM_FFN), *none)),
            ]

        def transition(t: int, state: object, choice: int) -> tuple[object, Costs] | None:
            hidden, ended, before = cast("tuple[int, bool, int]", state)
            if t == 0:
                cost = self._costs[0][choice] if counted else (0, 0)
                return (choice if counted else 0, False, 0), _pay(metrics, cost)
            kind, none = steps[t].kind, steps[t].choices[choice] == "-"
            # Two layers or four: only the third decides.
            opening = kind == "op" and t == 1 + 4 * LAYERS[0]
            if none != ended and not (opening and none):
                return None
            if none:
                return (hidden, True, 0), _pay(metrics, (0, 0))
            if kind in ("op", "ffn"):
                return (hidden, False, choice if counted else 0), _pay(metrics, (0, 0), depth=int(kind == "op"))
            if not counted:
                return (hidden, False, 0), _pay(metrics, (0, 0))
            _, ops, more = self._costs
            return (hidden, False, 0), _pay(metrics, (ops if kind == "heads" else more)[hidden, before, choice])

        return Grammar.build(steps, (0, False, 0), transition, metrics=metrics)

    @cached_property
    def _costs(self) -> tuple[dict[int, Pair], dict[tuple[int, int, int], Pair], dict[tuple[int, int, int], Pair]]:
        """(params, MACs): without layers by hidden size; of an operation with the smallest feed-forward part, by hidden
        size, operation and heads; of what a larger one adds, by hidden size, width and depth. Counted on graphs."""
        outside, ops, more = {}, {}, {}
        for i, hidden in enumerate(HIDDEN):
            outside[i] = sequence_costs(make_graph(hidden, []), SIZES)
            for (a, op), (b, heads) in product(enumerate(OPS), enumerate(HEADS)):
                ops[i, a, b] = _layer_cost(hidden, Layer(op=op, heads=heads, ffn=FFN[0], num_ffn=NUM_FFN[0]))
            for (a, ffn), (b, depth) in product(enumerate(FFN), enumerate(NUM_FFN)):
                found = _layer_cost(hidden, Layer(op=OPS[0], heads=HEADS[0], ffn=ffn, num_ffn=depth))
                more[i, a, b] = found[0] - ops[i, 0, 0][0], found[1] - ops[i, 0, 0][1]
        return outside, ops, more

    def unpack(self, word: Word) -> tuple[int, list[Layer]]:
        """Hidden size and layers."""
        rows = [word[i : i + 4] for i in range(1, len(word), 4)]
        layers = [
            Layer(op=OPS[a], heads=HEADS[b], ffn=FFN[c], num_ffn=NUM_FFN[d]) for a, b, c, d in rows if a < len(OPS)
        ]
        return HIDDEN[word[0]], layers

    def word_of(self, hidden: int, layers: Sequence[Layer]) -> Word:
        """The word of a member. Raises `ValueError` on what is none."""
        if len(layers) not in LAYERS:
            raise ValueError(f"{len(layers)} layers")
        none = (len(OPS), len(HEADS), len(FFN), len(NUM_FFN))
        rows = [(OPS.index(x.op), HEADS.index(x.heads), FFN.index(x.ffn), NUM_FFN.index(x.num_ffn)) for x in layers] + [
            none
        ] * (LAYERS[-1] - len(layers))
        return (HIDDEN.index(hidden), *(x for row in rows for x in row))

    def to_text(self, word: Word) -> str:
        hidden, layers = self.unpack(word)
        return " | ".join([f"hidden{hidden}", *(f"{x.op} h{x.heads} f{x.ffn} n{x.num_ffn}" for x in layers)])

    def from_text(self, text: str) -> Word:
        found = self.problems(text)
        if found:
            expected = "hidden128 | SDP h2 f512 n1 | DSC5 h4 f1024 n3"
            raise SpaceError(Diagnostic(where=f"network {text[:200]!r}", got="; ".join(found), expected=expected))
        head, *parts = text.split(" | ")
        matches = [_LAYER.fullmatch(part) for part in parts]
        layers = [Layer(op=m[1], heads=int(m[2]), ffn=int(m[3]), num_ffn=int(m[4])) for m in matches if m]
        return self.word_of(int(head.removeprefix("hidden")), layers)

    def problems(self, text: str) -> list[str]:
        return bert_rules.problems(text)

    def adjacency(self, word: Word) -> tuple[Adjacency, ...]:
        """A chain: every layer reads the one before it."""
        ops = [f"{x.op} h{x.heads} f{x.ffn} n{x.num_ffn}" for x in self.unpack(word)[1]]
        edges = tuple((i, i + 1) for i in range(len(ops) + 1))
        return (Adjacency(ops=("input", *ops, "output"), edges=edges),)

    def neighbours(self, word: Word) -> Iterator[Word]:
        """Every member that one other choice leads to; a third layer brings a fourth, both the first ones there are."""
        return completed_neighbours(self.grammar(), word)

    def graph_costs(self, word: Word) -> tuple[int, int]:
        """Params and MACs of one sequence of 128 tokens; fixed transforms count as matrix products."""
        return sequence_costs(self.to_graph(word), SIZES)

    def to_graph(self, word: Word) -> Graph:
        hidden, layers = self.unpack(word)
        return make_graph(hidden, layers)

    def read_graph(self, graph: Graph) -> Word:
        hidden = int(str(graph.main.output_types[0].shape[-1]))
        return self.word_of(hidden, read_layers(graph))

    def read_labels(self, data: Path) -> LabelTable | None:
        path = find_table(data, "nas-bench-bert/nas_bench_bert.jsonl.gz", "nas_bench_bert.jsonl.gz")
        if path is None:
            return None
        rows = list(json_lines(path))
        words = np.array([self._word_of_row(path, i, row) for i, row in enumerate(rows, 1)], np.int16)
        columns = _columns(rows)
        return LabelTable(path=path, keys=tuple(self.keys(words)), words=words, columns=columns)

    def _word_of_row(self, path: Path, line: int, row: Mapping[str, Any]) -> Word:
        try:
            layers = [
                Layer(
                    op=f"DSC{x['param']}" if x["op"] == "DSC" else x["param"], heads=x["heads"], ffn=x["ffn_dim"],
                    num_ffn=x["n_ffn"],
                )
                for x in row["layers"]
            ]  # fmt: skip
            return self.word_of(row["hidden_size"], layers)
        except (LookupError, TypeError, ValueError) as error:
            got = f"{type(error).__name__}: {error}"
            expected = f"a member of {self.name}"
            raise SpaceError(Diagnostic(where=f"{path} line {line}", got=got, expected=expected)) from error


def _pay(metrics: tuple[str, ...], cost: Pair, depth: int = 0) -> Costs:
    known = {"params": cost[0], "macs": cost[1], "depth": depth}
    return tuple(known[m] for m in metrics)


def _layer_cost(hidden: int, layer: Layer) -> Pair:
    builder = GraphBuilder(OPSET)
    return sequence_costs(Graph(main=builder.blocks[layer_block(builder, hidden, layer)]), SIZES)


def _columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """Every number of the rows, those one level down by their own names."""
    flat = [
        {name: value for part in (row, row.get("scores", {}), row.get("proxies", {})) for name, value in part.items()}
        for row in rows
    ]
    names = [name for name, value in (flat[0] if flat else {}).items() if isinstance(value, int | float)]
    return {
        name: np.array([x if isinstance(x := row.get(name), int | float) else np.nan for row in flat], np.float64)
        for name in names
    }
