"""ENAS, six layers, as in D-VAE. Pham et al., ICML 2018, arXiv 1802.03268; Zhang et al., arXiv 1904.11088.

Layer i reads the layer before it and any earlier node (0 is the stem). Because every layer reads the one before it, the
order of layers is fixed, and a network is one word only.
"""

from functools import cached_property
from pathlib import Path

import numpy as np

from genmad.ir import Block, BlockBuilder, Diagnostic, Graph, GraphBuilder
from genmad.ops import OPSET
from genmad.spaces import enas_rules
from genmad.spaces.cells import IMAGE, add_all, classifier, conv, conv_norm_relu, maker, norm, pool, relu, terms
from genmad.spaces.grammar import Costs, Grammar, SpaceError, Step
from genmad.spaces.space import Adjacency, LabelTable, Space, Word
from genmad.spaces.tables import find_table, json_lines

LAYERS = 6
CHANNELS = 36
# The order of D-VAE's codes.
OPS = ("conv3x3", "sep_conv3x3", "conv5x5", "sep_conv5x5", "avg_pool3x3", "max_pool3x3")
HALVED_AFTER = (LAYERS // 3, 2 * (LAYERS // 3))
"""Layers after which every value is halved in size, as in ENAS's own code; here by mean pooling without parameters."""


class Enas6(Space):
    name = "enas"
    title = "ENAS, six layers"
    depth_is = "layers, which are always six"
    source = "Pham et al., ENAS, ICML 2018; Zhang et al., D-VAE, NeurIPS 2019"

    @property
    def size(self) -> int:
        return len(OPS) ** LAYERS * 2 ** (LAYERS * (LAYERS - 1) // 2)

    def grammar_for(self, metrics: tuple[str, ...]) -> Grammar:
        steps, layer_of = _steps()
        base, ops = self._op_costs if set(metrics) - {"depth"} else ((0, 0), ())

        def transition(t: int, state: object, choice: int) -> tuple[object, Costs]:
            cost = {"params": 0, "macs": 0, "depth": 0}
            if steps[t].kind == "op" and ops:
                cost["params"], cost["macs"] = ops[layer_of[t] - 1][choice]
            return state, tuple(cost[m] for m in metrics)

        known = {"params": base[0], "macs": base[1], "depth": LAYERS}
        return Grammar.build(steps, (), transition, metrics=metrics, base=tuple(known[m] for m in metrics))

    @cached_property
    def _op_costs(self) -> tuple[tuple[int, int], list[list[tuple[int, int]]]]:
        """(params, MACs) without the layers' operations, and of each operation by layer; counted on graphs."""
        zero = _word([0] * LAYERS, [[0] * i for i in range(LAYERS)])
        least = self.graph_costs(zero)
        table = []
        for layer in range(LAYERS):
            row = []
            for op in range(len(OPS)):
                found = self.graph_costs(
                    _word([op if i == layer else 0 for i in range(LAYERS)], [[0] * i for i in range(LAYERS)])
                )
                row.append((found[0] - least[0], found[1] - least[1]))
            table.append(row)
        return least, table

    def to_text(self, word: Word) -> str:
        ops, skips = unpack(word)
        return " ".join(
            OPS[op] + (":" + "".join(map(str, row)) if row else "") for op, row in zip(ops, skips, strict=True)
        )

    def from_text(self, text: str) -> Word:
        found = self.problems(text)
        if found:
            expected = "six layers, conv3x3 sep_conv3x3:0 conv5x5:01 ..."
            raise SpaceError(Diagnostic(where=f"network {text[:200]!r}", got="; ".join(found), expected=expected))
        parts = [layer.partition(":") for layer in text.split(" ")]
        return _word([OPS.index(p[0]) for p in parts], [[int(d) for d in p[2]] for p in parts])

    def problems(self, text: str) -> list[str]:
        return enas_rules.problems(text)

    def adjacency(self, word: Word) -> tuple[Adjacency, ...]:
        ops, skips = unpack(word)
        edges = [(i, i + 1) for i in range(LAYERS + 1)]
        edges += [(j, i) for i, row in enumerate(skips, 1) for j, on in enumerate(row) if on]
        return (Adjacency(ops=("input", *(OPS[op] for op in ops), "output"), edges=tuple(sorted(edges))),)

    def to_graph(self, word: Word) -> Graph:
        ops, skips = unpack(word)
        main = GraphBuilder(OPSET).block("ENAS", image=IMAGE)
        values = [norm(main, conv(main, "image", "stem.conv", CHANNELS, 3), "stem.bn")]
        halvings = [0]
        size = 0
        for number, (op, row) in enumerate(zip(ops, skips, strict=True), 1):
            name = f"layer{number}"
            out = _layer(main, _halve(main, values[-1], size - halvings[-1], name), OPS[op], name)
            more = [_halve(main, values[j], size - halvings[j], f"{name}.skip{j}") for j, on in enumerate(row) if on]
            values.append(norm(main, add_all(main, [out, *more], name), f"{name}.bn"))
            halvings.append(size)
            size += number in HALVED_AFTER
        return Graph(main=main.finish(classifier(main, values[-1], "classifier")))

    def read_graph(self, graph: Graph) -> Word:
        block = graph.main
        value = maker(block, maker(block, block.outputs[0]).inputs[0]).inputs[0]
        found: list[tuple[int, list[str], str]] = []
        for _ in range(LAYERS):
            total = maker(block, value).inputs[0]
            count = 1
            while maker(block, total).op == "Add":
                total, count = maker(block, total).inputs[0], count + 1
            op, source = _operation(block, total)
            parts = terms(block, maker(block, value).inputs[0], count)[1:]
            found.insert(0, (OPS.index(op), [_whole(block, part) for part in parts], value))
            value = _whole(block, source)
        nodes = [value, *(item[2] for item in found)]
        skips = [[int(nodes[j] in parts) for j in range(i)] for i, (_, parts, _) in enumerate(found)]
        return _word([op for op, _, _ in found], skips)

    def read_labels(self, data: Path) -> LabelTable | None:
        path = find_table(data, "enas6_dvae/architectures.jsonl.gz", "architectures.jsonl.gz")
        if path is None:
            return None
        rows = list(json_lines(path))
        words = [
            _word([layer["op"] for layer in row["layers"]], [layer["skips"] for layer in row["layers"]]) for row in rows
        ]
        table = np.array(words, np.int16)
        good = self.grammar().accepts(table)
        if not good.all():
            line = int(np.flatnonzero(~good)[0]) + 1
            raise SpaceError(
                Diagnostic(where=f"{path} line {line}", got="a foreign network", expected="six ENAS layers")
            )
        columns = {"ws_acc_frac": np.array([float(row["ws_acc_frac"]) for row in rows])}
        return LabelTable(path=path, keys=tuple(self.keys(table)), words=table, columns=columns)


def _steps() -> tuple[list[Step], list[int]]:
    """The steps, and the layer of each."""
    steps: list[Step] = []
    layers: list[int] = []
    for layer in range(1, LAYERS + 1):
        steps.append(Step(name=f"layer {layer}", kind="op", choices=OPS))
        steps += [Step(name=f"layer {layer} skip {j}", kind="skip", choices=("0", "1")) for j in range(layer - 1)]
        layers += [layer] * layer
    return steps, layers


def unpack(word: Word) -> tuple[list[int], list[list[int]]]:
    """Operation codes and skip digits per layer."""
    ops, skips, at = [], [], 0
    for layer in range(LAYERS):
        ops.append(word[at])
        skips.append(list(word[at + 1 : at + 1 + layer]))
        at += 1 + layer
    return ops, skips


def _word(ops: list[int], skips: list[list[int]]) -> Word:
    return tuple(x for op, row in zip(ops, skips, strict=True) for x in (op, *row))


def _halve(main: BlockBuilder, x: str, times: int, name: str) -> str:
    for _ in range(times):
        x = str(main.add("AveragePool", x, scope=name, kernel_size=(2, 2), stride=(2, 2), padding=(0, 0)))
    return x


def _layer(main: BlockBuilder, x: str, op: str, name: str) -> str:
    """One layer: a 1x1 convolution, then the operation."""
    x = conv_norm_relu(main, x, f"{name}.in", CHANNELS, 1)
    if "pool" in op:
        return pool(main, "AveragePool" if op.startswith("avg") else "MaxPool", x, f"{name}.op")
    kernel = int(op[-1])
    if op.startswith("conv"):
        return conv_norm_relu(main, x, f"{name}.op", CHANNELS, kernel)
    x = conv(main, x, f"{name}.op.depthwise", CHANNELS, kernel, groups=CHANNELS)
    x = conv(main, x, f"{name}.op.pointwise", CHANNELS, 1)
    return relu(main, norm(main, x, f"{name}.op.bn"), f"{name}.op.relu")


def _whole(block: Block, value: str) -> str:
    """The value before it was halved."""
    node = maker(block, value)
    return _whole(block, node.inputs[0]) if node.op == "AveragePool" and node.attr_map["stride"] == (2, 2) else value


def _operation(block: Block, value: str) -> tuple[str, str]:
    """The operation of a layer, and what its 1x1 convolution reads."""
    node = maker(block, value)
    if node.op in ("AveragePool", "MaxPool"):
        op, entry = ("avg_pool3x3" if node.op == "AveragePool" else "max_pool3x3"), node.inputs[0]
    else:
        inner = maker(block, maker(block, node.inputs[0]).inputs[0])
        kernel, entry, kind = inner.attr_map["kernel_size"][0], inner.inputs[0], "conv"
        if kernel == 1:
            inner = maker(block, inner.inputs[0])
            kernel, entry, kind = inner.attr_map["kernel_size"][0], inner.inputs[0], "sep_conv"
        op = f"{kind}{kernel}x{kernel}"
    first = maker(block, maker(block, maker(block, entry).inputs[0]).inputs[0])
    return op, first.inputs[0]
