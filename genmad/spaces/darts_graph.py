"""DARTS genotypes as the network that is trained from scratch on CIFAR-10, and read back from one."""

from collections.abc import Sequence
from functools import cache

from genmad.ir import Block, BlockBuilder, Graph, GraphBuilder
from genmad.ops import OPSET
from genmad.spaces.cells import IMAGE, add_all, classifier, conv, maker, norm, pool, relu, relu_conv_norm

OPS = (
    "max_pool_3x3", "avg_pool_3x3", "skip_connect", "sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3", "dil_conv_5x5",
)  # fmt: skip
CELLS, CHANNELS, STEM = 20, 36, 3
REDUCTIONS = (CELLS // 3, 2 * CELLS // 3)
Edges = Sequence[tuple[str, int]]


def write_graph(normal: Edges, reduce: Edges) -> Graph:
    """Stem, 20 cells of which two reduce, classifier. Each cell reads the two before it."""
    builder = GraphBuilder(OPSET)
    main = builder.block("DARTS", image=IMAGE)
    x = norm(main, conv(main, "image", "stem.0", STEM * CHANNELS, 3), "stem.1")
    before, now, channels, strided = x, x, CHANNELS, False
    for index in range(CELLS):
        reduction = index in REDUCTIONS
        channels *= 2 if reduction else 1
        types = (main.types[before], main.types[now])
        name = f"{'Reduction' if reduction else 'Normal'}{types[0].shape[1]}to{channels}" + ("after" if strided else "")
        if types[1].shape[1] == STEM * CHANNELS:
            name += "stem"
        if name not in builder.blocks:
            block = builder.block(name, before=types[0], now=types[1])
            _cell(block, reduce if reduction else normal, channels, reduction=reduction, shrink=strided)
        before, now = now, str(main.add(f"@{name}", before, now, name=f"cells.{index}"))
        strided = reduction
    return builder.build(main.finish(classifier(main, now, "classifier")))


def _cell(block: BlockBuilder, edges: Edges, channels: int, *, reduction: bool, shrink: bool) -> Block:
    first = (
        _factorized(block, "before", "preprocess0", channels)
        if shrink
        else relu_conv_norm(block, "before", "preprocess0", channels, 1)
    )
    values = [first, relu_conv_norm(block, "now", "preprocess1", channels, 1)]
    for node in range(2, 6):
        parts = []
        for i in (2 * (node - 2), 2 * (node - 2) + 1):
            op, source = edges[i]
            stride = 2 if reduction and source < 2 else 1
            parts.append(_edge(block, values[source], op, f"_ops.{i}", channels, stride))
        values.append(add_all(block, parts, f"node{node}"))
    return block.finish(block.add("Concat", *values[2:], axis=1))


def _edge(block: BlockBuilder, x: str, op: str, name: str, channels: int, stride: int) -> str:
    if op == "skip_connect":
        if stride == 2:
            return _factorized(block, x, name, channels)
        return str(block.add("Identity", x, name=name, scope=name))
    if op.endswith("pool_3x3"):
        return pool(block, "MaxPool" if op.startswith("max") else "AveragePool", x, name, stride=stride)
    kernel = int(op[-1])
    if op.startswith("dil"):
        return _separable(block, x, f"{name}.op", 0, channels, kernel, stride, dilation=2)
    x = _separable(block, x, f"{name}.op", 0, channels, kernel, stride)
    return _separable(block, x, f"{name}.op", 4, channels, kernel, 1)


def _separable(
    block: BlockBuilder, x: str, name: str, at: int, channels: int, kernel: int, stride: int, dilation: int = 1
) -> str:
    """ReLU, depthwise and pointwise convolution, batch norm."""
    x = relu(block, x, f"{name}.{at}")
    x = conv(block, x, f"{name}.{at + 1}", channels, kernel, stride=stride, groups=channels, dilation=dilation)
    return norm(block, conv(block, x, f"{name}.{at + 2}", channels, 1), f"{name}.{at + 3}")


def _factorized(block: BlockBuilder, x: str, name: str, channels: int) -> str:
    """Half the size by two 1x1 convolutions of stride 2, the second one pixel further down and right."""
    x = relu(block, x, f"{name}.relu")
    down = block.add("Slice", x, scope=name, axis=2, start=1)
    shifted = str(block.add("Slice", down, scope=name, axis=3, start=1))
    shifted = str(block.add("Pad", shifted, scope=name, pads=(0, 0, 0, 0, 0, 0, 1, 1), mode="constant", value=0.0))
    halves = [
        conv(block, x, f"{name}.conv_1", channels // 2, 1, stride=2),
        conv(block, shifted, f"{name}.conv_2", channels // 2, 1, stride=2),
    ]
    return norm(block, str(block.add("Concat", *halves, scope=name, axis=1)), f"{name}.bn")


@cache
def edge_cost(op: str, *, reduction: bool, strided: bool) -> tuple[int, int]:
    """(params, MACs) of one operation, over all cells of its kind; a strided one halves the image."""
    params = macs = 0
    channels, size = CHANNELS, 32
    for index in range(CELLS):
        shrinks = index in REDUCTIONS
        if shrinks:
            channels, size = channels * 2, size // 2
        if shrinks != reduction:
            continue
        weights = sum(_weights(op, channels, strided=strided))
        params += weights + 2 * channels * _norms(op, strided=strided)
        macs += weights * size * size
    return params, macs


def _weights(op: str, channels: int, *, strided: bool) -> tuple[int, ...]:
    """Elements of each convolution; each is applied at every pixel of the output, also in a strided operation."""
    if op == "skip_connect":
        return (channels * channels,) if strided else (0,)
    if "pool" in op:
        return (0,)
    once = channels * int(op[-1]) ** 2 + channels * channels
    return (once, once) if op.startswith("sep") else (once,)


def _norms(op: str, *, strided: bool) -> int:
    if op == "skip_connect":
        return int(strided)
    return {"sep": 2, "dil": 1}.get(op[:3], 0)


def read_cells(graph: Graph) -> tuple[list[tuple[str, int]], list[tuple[str, int]]]:
    """The edges of both cells, from the structure of the first call of each. Raises on another structure."""
    calls = [node for node in graph.main.nodes if node.is_call]
    return _read(graph.block_map[calls[0].callee]), _read(graph.block_map[calls[REDUCTIONS[0]].callee])


def _read(cell: Block) -> list[tuple[str, int]]:
    nodes = maker(cell, cell.outputs[0]).inputs
    place = {value: i for i, value in enumerate(nodes, 2)}
    edges: list[tuple[str, int]] = []
    for value in nodes:
        for term in maker(cell, value).inputs:
            op, source = _operation(cell, term)
            edges.append((op, place[source] if source in place else _cell_input(cell, source)))
    return edges


def _operation(cell: Block, value: str) -> tuple[str, str]:
    """The operation that a value is the output of, and what it works on."""
    node = maker(cell, value)
    if node.op in ("MaxPool", "AveragePool"):
        return ("max_pool_3x3" if node.op == "MaxPool" else "avg_pool_3x3"), node.inputs[0]
    if node.op == "Identity":
        return "skip_connect", node.inputs[0]
    last = maker(cell, node.inputs[0])
    if last.op == "Concat":
        return "skip_connect", maker(cell, maker(cell, last.inputs[0]).inputs[0]).inputs[0]
    deep = maker(cell, last.inputs[0])
    kernel, start = deep.attr_map["kernel_size"][0], maker(cell, deep.inputs[0]).inputs[0]
    if deep.attr_map["dilation"][0] == 2:
        return f"dil_conv_{kernel}x{kernel}", start
    first = maker(cell, maker(cell, maker(cell, start).inputs[0]).inputs[0])
    return f"sep_conv_{kernel}x{kernel}", maker(cell, first.inputs[0]).inputs[0]


def _cell_input(cell: Block, value: str) -> int:
    """0 or 1: which input of the cell this preprocessed value comes from."""
    names = [v.name for v in cell.inputs]
    while value not in names:
        value = maker(cell, value).inputs[0]
    return names.index(value)
