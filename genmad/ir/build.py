"""The mutable way to make a graph. Each node is typed by its op's shape rule as it is added."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from genmad.ir.diagnostics import Diagnostic, GraphError, ShapeError
from genmad.ir.graph import CALL, Block, Graph, Node, Value
from genmad.ir.opdef import OpDef
from genmad.ir.types import TensorType

OpSet = Mapping[str, OpDef]


class BlockBuilder:
    """Builds one block of a `GraphBuilder`.

    Example:
        >>> from genmad.ops import OPSET
        >>> builder = GraphBuilder(OPSET)
        >>> main = builder.block("net", x="float32[batch,3]")
        >>> hidden = main.add("Linear", "x", name="fc", out_features=4)
        >>> main.finish(main.add("Relu", hidden)).output_types
        (float32[batch,4],)
    """

    def __init__(self, owner: "GraphBuilder", name: str, inputs: Iterable[Value]) -> None:
        self._owner = owner
        self.name = name
        self.inputs = tuple(inputs)
        self.nodes: list[Node] = []
        self.types: dict[str, TensorType] = {v.name: v.type for v in self.inputs}
        self._taken = {v.name for v in self.inputs}

    def fresh(self, stem: str) -> str:
        """`stem`, or `stem_1`, `stem_2` ... when it is taken."""
        name, count = stem, 0
        while name in self._taken:
            count += 1
            name = f"{stem}_{count}"
        return name

    def add(
        self,
        op: str,
        *inputs: str,
        name: str = "",
        scope: str = "",
        params: Mapping[str, str] | None = None,
        **attrs: Any,
    ) -> Any:
        """Adds an op; the name of its output, or a tuple of names when it has several. Raises `GraphError`."""
        node = self.add_node(op, inputs, attrs, name=name, scope=scope, params=params)
        return node.outputs if len(node.outputs) > 1 else node.outputs[0]

    def add_node(
        self, op: str, inputs: Iterable[str], attrs: Mapping[str, Any], *, name: str = "", scope: str = "",
        params: Mapping[str, str] | None = None,
    ) -> Node:  # fmt: skip
        """Adds an op or a call (`@block`) and returns the node. Raises `GraphError` naming it."""
        inputs = tuple(inputs)
        name = self.fresh(name or (f"{scope}." if scope else "") + op.removeprefix(CALL).lower())
        where = f'{op} "{name}" in block "{self.name}"'
        missing = [v for v in inputs if v and v not in self.types]
        if missing or name in self._taken:
            raise GraphError(
                Diagnostic(where=where, got=f"inputs {missing}", expected="values defined before the node")
            )
        in_types = tuple(self.types[v] if v else None for v in inputs)
        if op.startswith(CALL):
            node = self._owner.call_node(self, op, inputs, in_types, name, scope or name)
        else:
            node = self._op_node(op, inputs, in_types, attrs, name, scope, params, where)
        self.nodes.append(node)
        self._taken.add(name)
        self.types.update(zip(node.outputs, node.types, strict=True))
        return node

    def _op_node(
        self, op: str, inputs: tuple[str, ...], in_types: tuple[TensorType | None, ...], attrs: Mapping[str, Any],
        name: str, scope: str, params: Mapping[str, str] | None, where: str,
    ) -> Node:  # fmt: skip
        opdef = self._owner.opset.get(op)
        if opdef is None:
            raise GraphError(Diagnostic(where=where, got=f"unknown op {op!r}", expected="an op of the op set"))
        try:
            full = opdef.complete(attrs)
            types = opdef.infer(in_types, full)
            declared = opdef.params(in_types, full)
        except ShapeError as error:
            raise GraphError(Diagnostic(where=where, got=error.got, expected=error.expected, fix=error.fix)) from error
        given = params or {}
        names = tuple((p.slot, given.get(p.slot, f"{name}.{p.slot}")) for p in declared)
        return Node(name=name, op=op, inputs=inputs, types=types, attrs=tuple(full.items()), scope=scope, params=names)

    def rename(self, node: Node, **changes: Any) -> Node:
        """Gives the node added last another scope or other parameter names."""
        self.nodes[-1] = replace(node, **changes)
        return self.nodes[-1]

    def finish(self, outputs: str | Iterable[str]) -> Block:
        """The frozen block, registered with the graph builder under its name."""
        names = (outputs,) if isinstance(outputs, str) else tuple(outputs)
        block = Block(name=self.name, inputs=self.inputs, nodes=tuple(self.nodes), outputs=names)
        self._owner.register(block)
        return block


class GraphBuilder:
    """Builds a graph block by block, called blocks first."""

    def __init__(self, opset: OpSet) -> None:
        self.opset = opset
        self.blocks: dict[str, Block] = {}

    def block(self, name: str, inputs: Iterable[Value] = (), **named: str | TensorType) -> BlockBuilder:
        """A builder of one block; inputs as values or as `name="float32[batch,3]"`."""
        more = [Value(k, TensorType.parse(t) if isinstance(t, str) else t) for k, t in named.items()]
        return BlockBuilder(self, name, [*inputs, *more])

    def register(self, block: Block) -> None:
        if block.name in self.blocks:
            got = "a name used twice"
            raise GraphError(Diagnostic(where=f'block "{block.name}"', got=got, expected="a unique block name"))
        self.blocks[block.name] = block

    def call_node(
        self, caller: BlockBuilder, op: str, inputs: tuple[str, ...], types: tuple[TensorType | None, ...], name: str,
        scope: str,
    ) -> Node:  # fmt: skip
        callee = self.blocks.get(op[1:])
        where = f'call "{name}" in block "{caller.name}"'
        if callee is None:
            raise GraphError(Diagnostic(where=where, got=f"block {op[1:]!r}", expected="a block that is already built"))
        if types != callee.input_types:
            raise GraphError(Diagnostic(where=where, got=f"inputs {types}", expected=f"{callee.input_types}"))
        return Node(name=name, op=op, inputs=inputs, types=callee.output_types, scope=scope)

    def build(self, main: Block) -> Graph:
        """The graph whose top block is `main`; blocks that nothing calls are left out."""
        needed: dict[str, Block] = {}

        def visit(block: Block) -> None:
            for node in block.nodes:
                if node.is_call and node.callee not in needed:
                    visit(self.blocks[node.callee])
            needed.setdefault(block.name, block)

        visit(main)
        needed.pop(main.name)
        return Graph(main=main, blocks=tuple(needed.values()))


@dataclass(frozen=True)
class DraftGraph:
    """What `retype` reads of a graph. Unlike in a `Graph`, the types stored in the blocks may be out of date."""

    main: Block
    block_map: Mapping[str, Block]


def retype(graph: Graph | DraftGraph, opset: OpSet, inputs: Iterable[Value] | None = None) -> Graph:
    """The same graph with every type inferred anew from the main inputs. Raises `GraphError` naming the node.

    A block that is called with input types other than its own is copied for those types (`layer`, `layer_1`).
    Node order must already be topological.
    """
    builder = GraphBuilder(opset)
    made: dict[tuple[str, tuple[TensorType | None, ...]], str] = {}

    def instantiate(name: str, types: tuple[TensorType | None, ...]) -> str:
        key = (name, types)
        if key not in made:
            source = graph.block_map[name]
            if len(types) != len(source.inputs) or None in types:
                where = f'call of block "{name}"'
                raise GraphError(Diagnostic(where=where, got=f"{len(types)} inputs", expected=f"{len(source.inputs)}"))
            target, count = name, 0
            while target in builder.blocks or (count and target in graph.block_map):
                count += 1
                target = f"{name}_{count}"
            values = [Value(v.name, t) for v, t in zip(source.inputs, types, strict=True) if t is not None]
            made[key] = target
            copy(source, target, values)
        return made[key]

    def copy(source: Block, target: str, values: Iterable[Value]) -> Block:
        block = builder.block(target, values)
        for node in source.nodes:
            op = node.op
            if node.is_call:
                op = CALL + instantiate(node.callee, tuple(block.types[v] if v else None for v in node.inputs))
            made_node = block.add_node(
                op, node.inputs, node.attr_map, name=node.name, scope=node.scope, params=node.param_map
            )
            if made_node.scope != node.scope:
                block.rename(made_node, scope=node.scope)
        return block.finish(source.outputs)

    main = copy(graph.main, graph.main.name, graph.main.inputs if inputs is None else inputs)
    return builder.build(main)
