"""Sums of op costs over the running model. One MAC is a multiplication and an addition: two FLOPs."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod

from genmad.cost.sizes import DTYPE_BYTES, sizes_for, type_bytes
from genmad.ir import Block, Dim, Graph, Node, OpSet, TensorType, check_size, evaluate_dim


@dataclass(frozen=True, slots=True, kw_only=True)
class CostRow:
    """What one op costs at one place of the running model.

    Attributes:
        path: as the user knows it, `transformer.h.11.attn.c_attn`.
        op: name of the op.
        num_params: trainable elements that no earlier row holds (a tied weight counts where it comes first).
        num_buffers: the same for tensors that are not trained, such as running means.
        macs: multiply-accumulates as a formula.
        num_macs: the same at the report's sizes.
        output_bytes: bytes of its outputs.
    """

    path: str
    op: str
    num_params: int
    num_buffers: int
    macs: Dim
    num_macs: int
    output_bytes: int


@dataclass(frozen=True, kw_only=True)
class CostReport:
    """What a graph costs at given sizes.

    Attributes:
        sizes: the integer used for each symbol.
        num_params: trainable elements, tied or shared ones once.
        num_buffers: elements of parameters that are not trained.
        param_bytes: bytes of both.
        macs: multiply-accumulates of one forward pass as a formula.
        num_macs: the same at `sizes`.
        peak_activation_bytes: most bytes of inputs and intermediate values alive at one time, when nodes run in the
            graph's order and a value is freed after its last use. What an op allocates inside itself and what a view
            saves are not modelled; parameters are not activations.
        depth: ops on the longest path from an input or a constant to an output.
        rows: one per op of the running model, in execution order.
    """

    sizes: Mapping[str, int]
    num_params: int
    num_buffers: int
    param_bytes: int
    macs: Dim
    num_macs: int
    peak_activation_bytes: int
    depth: int
    rows: tuple[CostRow, ...]

    @property
    def num_nodes(self) -> int:
        """Ops of the running model."""
        return len(self.rows)

    def under(self, path: str) -> tuple[CostRow, ...]:
        """The rows of one module path and everything below it."""
        return tuple(row for row in self.rows if row.path == path or row.path.startswith(f"{path}."))


@dataclass(frozen=True, slots=True)
class _NodeCost:
    """What is the same at every place where a node runs."""

    macs: Dim
    num_macs: int
    output_bytes: int
    params: tuple[tuple[str, int, int, bool], ...]
    """Name relative to the block, elements, bytes, whether trainable."""


def cost_of(graph: Graph, opset: OpSet, sizes: Mapping[str, int] | None = None) -> CostReport:
    """The cost of one forward pass.

    Args:
        sizes: integers for symbols, `{"batch": 1, "seq": 128}`; defaults in `DEFAULT_SIZES`.

    Raises:
        GraphError: when a symbol has no size, or the expanded graph is too large.
    """
    check_size(graph)
    known = sizes_for(graph, sizes)
    tables = {
        b.name: {n.name: _node_cost(b, n, opset, known) for n in b.nodes if not n.is_call} for b in graph.all_blocks
    }
    seen: dict[str, tuple[int, bool]] = {}
    rows = tuple(_rows(graph, graph.main, "", tables, seen))
    return CostReport(
        sizes=known,
        num_params=sum(row.num_params for row in rows),
        num_buffers=sum(row.num_buffers for row in rows),
        param_bytes=sum(size for size, _ in seen.values()),
        macs=sum((row.macs for row in rows), start=0),
        num_macs=sum(row.num_macs for row in rows),
        peak_activation_bytes=peak_activation_bytes(graph, known),
        depth=depth_of(graph),
        rows=rows,
    )


def _node_cost(block: Block, node: Node, opset: OpSet, sizes: Mapping[str, int]) -> _NodeCost:
    opdef = opset[node.op]
    in_types = tuple(block.types[v] if v else None for v in node.inputs)
    attrs = node.attr_map
    macs = opdef.cost(in_types, node.types, attrs).macs
    names = node.param_map
    params = []
    for param in opdef.params(in_types, attrs):
        numel = prod(evaluate_dim(d, sizes) for d in param.type.shape)
        params.append((names[param.slot], numel, numel * DTYPE_BYTES[param.type.dtype], param.trainable))
    output_bytes = sum(type_bytes(t, sizes) for t in node.types)
    return _NodeCost(macs, evaluate_dim(macs, sizes), output_bytes, tuple(params))


def _rows(
    graph: Graph,
    block: Block,
    prefix: str,
    tables: Mapping[str, Mapping[str, _NodeCost]],
    seen: dict[str, tuple[int, bool]],
) -> Iterator[CostRow]:
    for node in block.nodes:
        if node.is_call:
            inner = f"{prefix}{node.scope}." if node.scope else prefix
            yield from _rows(graph, graph.block_map[node.callee], inner, tables, seen)
            continue
        cost = tables[block.name][node.name]
        new = {True: 0, False: 0}
        for name, numel, size, trainable in cost.params:
            if prefix + name not in seen:
                seen[prefix + name] = (size, trainable)
                new[trainable] += numel
        yield CostRow(
            path=prefix + node.name,
            op=node.op,
            num_params=new[True],
            num_buffers=new[False],
            macs=cost.macs,
            num_macs=cost.num_macs,
            output_bytes=cost.output_bytes,
        )


def peak_activation_bytes(graph: Graph, sizes: Mapping[str, int]) -> int:
    """Most bytes alive at one time; see `CostReport`."""
    memo: dict[TensorType, int] = {}

    def size(type: TensorType) -> int:
        if type not in memo:
            memo[type] = type_bytes(type, sizes)
        return memo[type]

    # Peak of the values made inside each block; callees come before their callers.
    peaks: dict[str, int] = {}
    for block in graph.all_blocks:
        last_use: dict[str, int] = {v: len(block.nodes) for v in block.outputs}
        for i, node in enumerate(block.nodes):
            for value in node.inputs:
                last_use[value] = max(i, last_use.get(value, 0))
        ends: list[list[str]] = [[] for _ in range(len(block.nodes) + 1)]
        for value, i in last_use.items():
            ends[i].append(value)
        inputs = {v.name for v in block.inputs}
        alive = peak = 0
        for i, node in enumerate(block.nodes):
            made = sum(map(size, node.types))
            peak = max(peak, alive + (peaks[node.callee] if node.is_call else made))
            alive += made - sum(size(node.types[j]) for j, v in enumerate(node.outputs) if v not in last_use)
            alive -= sum(size(block.types[v]) for v in ends[i] if v and v not in inputs)
        peaks[block.name] = peak
    return peaks[graph.main.name] + sum(size(v.type) for v in graph.main.inputs)


def depth_of(graph: Graph) -> int:
    """Ops on the longest path."""

    def run(block: Block, starts: tuple[int, ...]) -> tuple[int, ...]:
        depth = {v.name: d for v, d in zip(block.inputs, starts, strict=True)}
        for node in block.nodes:
            before = tuple(depth[v] for v in node.inputs if v)
            if node.is_call:
                ends = run(graph.block_map[node.callee], before)
            else:
                ends = (max(before, default=0) + 1,) * len(node.types)
            depth.update(zip(node.outputs, ends, strict=True))
        return tuple(depth[v] for v in block.outputs)

    return max(run(graph.main, (0,) * len(graph.main.inputs)))
