"""The graph: frozen, single-assignment, topologically ordered; a main block and the blocks that it calls.

A block is what ONNX calls a function: inputs, nodes in order, outputs. A node is an op or a call of another block.
GPT-2's twelve layers are twelve calls of one block of about twenty nodes.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from genmad.ir.diagnostics import Diagnostic, GraphError
from genmad.ir.types import TensorType

CALL = "@"
_NAME = re.compile(r"[A-Za-z_][\w.\-]*\Z")


@dataclass(frozen=True, slots=True)
class Value:
    """A named, typed input of a block."""

    name: str
    type: TensorType


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """An op with its attributes and inputs, or a call of a block.

    Attributes:
        name: unique in its block; dots follow the module path (`attn.c_attn`).
        op: a name in the op set, or `@` and the name of the called block.
        inputs: value names: a block input, a node (its only output), or `node:i`; "" for an absent optional.
        types: one per output.
        attrs: every attribute of the op, in its canonical order.
        scope: module path that the node belongs to, relative to the block. For a call: what stands before each
            parameter name of the called block (`transformer.h.11`). Two calls with one scope share their parameters.
        params: (slot, name) of each parameter, names relative to the block (`weight`, `attn.c_attn.weight`).
    """

    name: str
    op: str
    inputs: tuple[str, ...] = ()
    types: tuple[TensorType, ...]
    attrs: tuple[tuple[str, Any], ...] = ()
    scope: str = ""
    params: tuple[tuple[str, str], ...] = ()

    @property
    def is_call(self) -> bool:
        return self.op.startswith(CALL)

    @property
    def callee(self) -> str:
        """Name of the called block; "" for an op."""
        return self.op[1:] if self.is_call else ""

    @property
    def outputs(self) -> tuple[str, ...]:
        if len(self.types) == 1:
            return (self.name,)
        return tuple(f"{self.name}:{i}" for i in range(len(self.types)))

    @property
    def attr_map(self) -> dict[str, Any]:
        return dict(self.attrs)

    @property
    def param_map(self) -> dict[str, str]:
        return dict(self.params)


@dataclass(frozen=True, kw_only=True)
class Block:
    """Inputs, nodes in topological order, and the names of the values it gives back."""

    name: str
    inputs: tuple[Value, ...]
    nodes: tuple[Node, ...]
    outputs: tuple[str, ...]

    def __post_init__(self) -> None:
        problems = list(_block_problems(self))
        if problems:
            raise GraphError(*problems)

    @cached_property
    def types(self) -> Mapping[str, TensorType]:
        """Type of each value, in order of definition."""
        table = {v.name: v.type for v in self.inputs}
        for node in self.nodes:
            table.update(zip(node.outputs, node.types, strict=True))
        return table

    @cached_property
    def by_name(self) -> Mapping[str, Node]:
        return {node.name: node for node in self.nodes}

    @cached_property
    def calls(self) -> tuple[Node, ...]:
        """The nodes that call other blocks, in order."""
        return tuple(node for node in self.nodes if node.is_call)

    @cached_property
    def users(self) -> Mapping[str, tuple[tuple[str, int], ...]]:
        """For each value, the (node, input slot) pairs that read it."""
        table: dict[str, list[tuple[str, int]]] = {name: [] for name in self.types}
        for node in self.nodes:
            for slot, value in enumerate(node.inputs):
                if value:
                    table[value].append((node.name, slot))
        return {name: tuple(uses) for name, uses in table.items()}

    @property
    def input_types(self) -> tuple[TensorType, ...]:
        return tuple(v.type for v in self.inputs)

    @property
    def output_types(self) -> tuple[TensorType, ...]:
        return tuple(self.types[name] for name in self.outputs)


def producer(value: str) -> str:
    """Name of the node (or block input) that a value name stands for: `split:1` gives `split`."""
    return value.split(":", 1)[0]


def _block_problems(block: Block) -> Iterator[Diagnostic]:
    here = f'block "{block.name}"'
    known: set[str] = set()
    names: set[str] = set()
    for value in block.inputs:
        if not _NAME.match(value.name) or value.name in names:
            yield Diagnostic(where=here, got=f"input {value.name!r}", expected="unique names of letters, digits, _ . -")
        names.add(value.name)
        known.add(value.name)
    later = {out for node in block.nodes for out in node.outputs}
    for node in block.nodes:
        where = f'node "{node.name}" in {here}'
        if not _NAME.match(node.name) or node.name in names:
            yield Diagnostic(where=where, got="a name that is taken or malformed", expected="a unique name")
        for name in node.inputs:
            if name and name not in known:
                got = f"input {name!r}, which {'is defined later (a cycle)' if name in later else 'does not exist'}"
                yield Diagnostic(where=where, got=got, expected="values defined before the node")
        if not node.types:
            yield Diagnostic(where=where, got="no output", expected="at least one")
        names.add(node.name)
        known.update(node.outputs)
    for name in block.outputs:
        if name not in known:
            yield Diagnostic(where=here, got=f"output {name!r}, which does not exist", expected="a value of the block")
    if not block.outputs:
        yield Diagnostic(where=here, got="no output", expected="at least one")


@dataclass(frozen=True, kw_only=True)
class Graph:
    """A whole architecture.

    Attributes:
        main: the top block; its inputs are the model's inputs.
        blocks: every block that is called, each before the blocks that call it.
    """

    main: Block
    blocks: tuple[Block, ...] = ()

    def __post_init__(self) -> None:
        known: dict[str, Block] = {}
        problems: list[Diagnostic] = []
        for block in (*self.blocks, self.main):
            if block.name in known:
                problems.append(
                    Diagnostic(where=f'block "{block.name}"', got="a name used twice", expected="a unique name")
                )
            for node in block.calls:
                problems += _call_problems(block, node, known)
            known[block.name] = block
        if problems:
            raise GraphError(*problems)

    @property
    def name(self) -> str:
        return self.main.name

    @cached_property
    def block_map(self) -> Mapping[str, Block]:
        """Every block by name, the main one included."""
        return {block.name: block for block in (*self.blocks, self.main)}

    @property
    def all_blocks(self) -> tuple[Block, ...]:
        return (*self.blocks, self.main)

    @property
    def num_nodes(self) -> int:
        """Nodes over all blocks, each block counted once (folded size)."""
        return sum(len(block.nodes) for block in self.all_blocks)


def _call_problems(caller: Block, node: Node, known: Mapping[str, Block]) -> Iterator[Diagnostic]:
    where = f'call "{node.name}" in block "{caller.name}"'
    callee = known.get(node.callee)
    if callee is None:
        names = ", ".join(known) or "none"
        yield Diagnostic(where=where, got=f"block {node.callee!r}", expected=f"a block defined before it ({names})")
        return
    types = tuple(caller.types[v] for v in node.inputs if v in caller.types)
    if types != callee.input_types:
        yield Diagnostic(where=where, got=f"inputs {types}", expected=f"{callee.input_types}")
    if node.types != callee.output_types:
        yield Diagnostic(where=where, got=f"outputs {node.types}", expected=f"{callee.output_types}")


@dataclass(frozen=True, slots=True)
class Place:
    """A node as it occurs in the running model: one per call path.

    Attributes:
        path: dotted path as the user knows it, `transformer.h.11.attn.c_attn`.
        block: the block that the node stands in.
        node: the node.
        prefix: what stands before its parameter names, "" or `transformer.h.11.`.
        calls: names of the calls on the way, outermost first.
    """

    path: str
    block: Block
    node: Node
    prefix: str
    calls: tuple[str, ...]


def places(graph: Graph, block: Block | None = None, prefix: str = "", calls: tuple[str, ...] = ()) -> Iterator[Place]:
    """Every node of the running model in execution order; a call comes right before the nodes it runs."""
    block = block or graph.main
    for node in block.nodes:
        yield Place(prefix + node.name, block, node, prefix, calls)
        if node.is_call:
            inner = f"{prefix}{node.scope}." if node.scope else prefix
            yield from places(graph, graph.block_map[node.callee], inner, (*calls, node.name))


def call_places(
    graph: Graph, block: Block | None = None, prefix: str = "", calls: tuple[str, ...] = ()
) -> Iterator[Place]:
    """`places`, the calls alone."""
    block = block or graph.main
    for node in block.calls:
        yield Place(prefix + node.name, block, node, prefix, calls)
        inner = f"{prefix}{node.scope}." if node.scope else prefix
        yield from call_places(graph, graph.block_map[node.callee], inner, (*calls, node.name))


def parameter_names(graph: Graph) -> tuple[str, ...]:
    """Qualified names of every parameter, in execution order, each once."""
    names = (place.prefix + name for place in places(graph) for _, name in place.node.params)
    return tuple(dict.fromkeys(names))
