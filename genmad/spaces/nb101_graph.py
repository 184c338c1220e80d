"""NAS-Bench-101 cells as whole networks, and read back from one."""

from itertools import pairwise

from genmad.ir import Block, BlockBuilder, Graph, GraphBuilder, producer
from genmad.ops import OPSET
from genmad.spaces.cells import IMAGE, add_all, classifier, conv_norm_relu, maker, pool
from genmad.spaces.nb101_costs import CELLS_PER_STACK, STACKS
from genmad.spaces.space import Adjacency

_KERNELS = {"conv3x3-bn-relu": 3, "conv1x1-bn-relu": 1}


def write_graph(cell: Adjacency) -> Graph:
    """Stem, three stacks of three cells, classifier."""
    builder = GraphBuilder(OPSET)
    main = builder.block("NASBench101", image=IMAGE)
    x = conv_norm_relu(main, "image", "stem", STACKS[0][0], 3)
    entering = STACKS[0][0]
    for stack, (channels, size) in enumerate(STACKS):
        if stack:
            name = f"down{stack}"
            x = str(main.add("MaxPool", x, name=name, scope=name, kernel_size=(2, 2), stride=(2, 2), padding=(0, 0)))
        for index in range(CELLS_PER_STACK):
            block = f"Cell{entering}to{channels}"
            if block not in builder.blocks:
                _cell(builder.block(block, x=f"float32[batch,{entering},{size},{size}]"), cell, channels)
            x = main.add(f"@{block}", x, name=f"stacks.{stack}.{index}")
            entering = channels
    return builder.build(main.finish(classifier(main, x, "classifier")))


def vertex_channels(cell: Adjacency, channels: int) -> list[int]:
    """Channels of each vertex (section 2.2 of the paper); 0 for the input."""
    last = len(cell.ops) - 1
    edges = set(cell.edges)
    reads = [v for v in range(1, last) if (v, last) in edges]
    out = [0] * last + [channels]
    for rank, v in enumerate(reads):
        out[v] = channels // len(reads) + (rank < channels % len(reads))
    for v in range(last - 1, 0, -1):
        if v not in reads:
            out[v] = max(out[w] for w in range(v + 1, last) if (v, w) in edges)
    return out


def _cell(block: BlockBuilder, cell: Adjacency, channels: int) -> Block:
    last = len(cell.ops) - 1
    edges = set(cell.edges)
    widths = vertex_channels(cell, channels)
    values = {0: "x"}

    def cut(v: int, width: int, name: str) -> str:
        """Vertex v with its first `width` channels."""
        if widths[v] == width:
            return values[v]
        return str(block.add("Slice", values[v], scope=name, axis=1, start=0, end=width))

    for v in range(1, last):
        name = f"vertex{v}"
        inputs = [cut(u, widths[v], name) for u in range(1, v) if (u, v) in edges]
        if (0, v) in edges:
            inputs.append(conv_norm_relu(block, "x", f"{name}.projection", widths[v], 1))
        values[v] = _vertex(block, add_all(block, inputs, name), cell.ops[v], name, widths[v])
    reads = [values[v] for v in range(1, last) if (v, last) in edges]
    ends = [str(block.add("Concat", *reads, axis=1)) if len(reads) > 1 else reads[0]] if reads else []
    if (0, last) in edges:
        ends.append(conv_norm_relu(block, "x", "projection", channels, 1))
    return block.finish(add_all(block, ends, "output"))


def _vertex(block: BlockBuilder, x: str, op: str, name: str, channels: int) -> str:
    if op in _KERNELS:
        return conv_norm_relu(block, x, f"{name}.op", channels, _KERNELS[op])
    return pool(block, "MaxPool", x, f"{name}.op")


def read_cell(graph: Graph) -> tuple[list[str], set[tuple[int, int]]]:
    """Operations of the inner vertices and edges, from the structure of the first cell. Raises on another structure."""
    first = next(node for node in graph.main.nodes if node.is_call)
    return _Reading(graph.block_map[first.callee]).cell()


class _Reading:
    """Walks back from a cell's output; vertices are known by the value that they give."""

    def __init__(self, block: Block) -> None:
        self.block = block
        self.input = block.inputs[0].name
        self.ops: dict[str, str] = {}
        self.reads: dict[str, list[str]] = {}

    def cell(self) -> tuple[list[str], set[tuple[int, int]]]:
        ends = self._unroll(self.block.outputs[0])
        reads_input = self._is_projection(ends[-1])
        inner = ends[:-1] if reads_input else ends
        if inner and maker(self.block, inner[0]).op == "Concat":
            inner = list(maker(self.block, inner[0]).inputs)
        for value in inner:
            self._visit(value)
        order = self._order(inner)
        place = {self.input: 0, **{value: i for i, value in enumerate(order, 1)}}
        last = len(order) + 1
        edges = {(place[a], place[b]) for b, sources in self.reads.items() for a in sources}
        edges |= {(place[value], last) for value in inner} | ({(0, last)} if reads_input else set())
        return [self.ops[value] for value in order], edges

    def _unroll(self, value: str) -> list[str]:
        """The terms of a sum; no vertex is a sum itself."""
        found: list[str] = []
        while maker(self.block, value).op == "Add":
            value, last = maker(self.block, value).inputs
            found.insert(0, last)
        return [value, *found]

    def _parts(self, value: str) -> tuple[str, str]:
        """Operation of a vertex (or projection) and the value that it works on."""
        node = maker(self.block, value)
        if node.op == "MaxPool":
            return "maxpool3x3", node.inputs[0]
        convolution = maker(self.block, maker(self.block, node.inputs[0]).inputs[0])
        kernel = convolution.attr_map["kernel_size"][0]
        return f"conv{kernel}x{kernel}-bn-relu", convolution.inputs[0]

    def _is_projection(self, value: str) -> bool:
        node = maker(self.block, value)
        return node.op == "Relu" and self._parts(value)[1] == self.input

    def _visit(self, value: str) -> None:
        if value in self.ops:
            return
        self.ops[value], total = self._parts(value)
        sources: list[str] = []
        for term in self._unroll(total):
            node = maker(self.block, term)
            whole = node.inputs[0] if node.op == "Slice" else term
            sources.append(self.input if self._is_projection(whole) else whole)
        self.reads[value] = sources
        for source in sources:
            if source != self.input:
                self._visit(source)

    def _order(self, inner: list[str]) -> list[str]:
        """Vertices in an order that keeps edges and the order inside every sum and the concatenation; among equals
        that of the block."""
        before: dict[str, set[str]] = {value: set() for value in self.ops}
        for target, sources in [*self.reads.items(), ("", inner)]:
            known = [s for s in sources if s != self.input]
            for a, b in pairwise(known):
                before[b].add(a)
            if target:
                before[target] |= set(known)
        position = {node.name: i for i, node in enumerate(self.block.nodes)}
        order: list[str] = []
        while len(order) < len(before):
            ready = [v for v, sources in before.items() if v not in order and sources <= set(order)]
            order.append(min(ready, key=lambda v: position[producer(v)]))
        return order
