"""A graph seen flat: one node per place in the running model, calls dissolved, wiring resolved through them.

Post-conditions are judged on this view, so that it does not matter which calls share a block before or after.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from genmad.ir.graph import Block, Graph, Node
from genmad.ir.types import TensorType

Key = tuple[str, ...]
"""Names of the calls on the way and of the node: ("transformer.h.11", "attn.c_attn"). A model input is ("", name)."""
Source = tuple[Key, int]
"""An output of a flat node, or a model input (with index 0)."""

OUTPUT: Key = ("", "->")
"""Key of the reader that stands for the model's outputs; the slot is the output's index."""

# Ops that move or rescale what a projection made without mixing channels by weights.
PASSIVE = frozenset({
    "Reshape", "Transpose", "Flatten", "Split", "Slice", "Select", "Squeeze", "Unsqueeze", "Expand",
    "RotaryEmbedding", "LayerNorm", "RMSNorm", "L2Norm", "MulScalar", "Cast", "Identity", "Scale", "Concat",
    "Stack", "Clip",
})  # fmt: skip
LINEAR = frozenset({"Linear", "LoRALinear"})


@dataclass(frozen=True, slots=True, kw_only=True)
class FlatNode:
    """An op at one place.

    Attributes:
        key: call names and node name; the node's identity before and after an edit.
        path: dotted path as the user knows it.
        node: the node as it stands in its block.
        inputs: where each input comes from, through every call boundary; None for an absent optional.
        types: types of the inputs, None for an absent optional.
    """

    key: Key
    path: str
    node: Node
    inputs: tuple[Source | None, ...]
    types: tuple[TensorType | None, ...]

    @property
    def op(self) -> str:
        return self.node.op

    @property
    def attrs(self) -> Mapping[str, Any]:
        return self.node.attr_map

    @property
    def out(self) -> Source:
        return (self.key, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class FlatCall:
    """A call at one place, with the flat sources that go in and come out."""

    key: Key
    path: str
    scope: str
    node: Node
    inputs: tuple[Source | None, ...]
    outputs: tuple[Source, ...]
    block: Block


@dataclass(frozen=True, kw_only=True)
class FlatGraph:
    """Flat nodes and calls of a graph, in execution order."""

    graph: Graph
    nodes: Mapping[Key, FlatNode]
    calls: Mapping[Key, FlatCall]
    outputs: tuple[Source, ...]
    types: Mapping[Source, TensorType]

    @cached_property
    def users(self) -> Mapping[Source, tuple[tuple[Key, int], ...]]:
        """For each source the (node, slot) pairs that read it; the model's outputs count as `OUTPUT`."""
        table: dict[Source, list[tuple[Key, int]]] = {}
        for node in self.nodes.values():
            for slot, source in enumerate(node.inputs):
                if source is not None:
                    table.setdefault(source, []).append((node.key, slot))
        for slot, source in enumerate(self.outputs):
            table.setdefault(source, []).append((OUTPUT, slot))
        return {source: tuple(users) for source, users in table.items()}

    def readers(self, source: Source) -> tuple[FlatNode, ...]:
        """The nodes that read a source, in execution order."""
        return tuple(self.nodes[key] for key, _ in self.users.get(source, ()) if key in self.nodes)

    def inside(self, unit: Key) -> tuple[FlatNode, ...]:
        """The nodes below a call; the whole model for ()."""
        return tuple(node for node in self.nodes.values() if node.key[: len(unit)] == unit)

    def above(self, source: Source) -> frozenset[Key]:
        """Keys of the nodes that a source is computed from, its own included."""
        seen: set[Key] = set()
        stack = [source[0]]
        while stack:
            key = stack.pop()
            if key in seen:
                continue
            seen.add(key)
            if key in self.nodes:
                stack += [s[0] for s in self.nodes[key].inputs if s is not None]
        return frozenset(seen)

    def below(self, source: Source) -> frozenset[Key]:
        """Keys of the nodes that are computed from a source; `OUTPUT` when it reaches the model's outputs."""
        seen: set[Key] = set()
        stack = [key for key, _ in self.users.get(source, ())]
        while stack:
            key = stack.pop()
            if key in seen:
                continue
            seen.add(key)
            if key in self.nodes:
                for index in range(len(self.nodes[key].node.types)):
                    stack += [user for user, _ in self.users.get((key, index), ())]
        return frozenset(seen)

    def unit_outputs(self, unit: Key) -> tuple[Source, ...]:
        """What a call gives back, or the model's outputs for ()."""
        return self.calls[unit].outputs if unit else self.outputs


def flatten(graph: Graph) -> FlatGraph:
    """The flat view of a graph."""
    nodes: dict[Key, FlatNode] = {}
    calls: dict[Key, FlatCall] = {}
    types: dict[Source, TensorType] = {}

    def run(block: Block, given: tuple[Source | None, ...], way: Key, prefix: str) -> tuple[Source, ...]:
        known = {value.name: source for value, source in zip(block.inputs, given, strict=True)}
        for node in block.nodes:
            key = (*way, node.name)
            inputs = tuple(known[v] if v else None for v in node.inputs)
            if node.is_call:
                inner = f"{prefix}{node.scope}." if node.scope else prefix
                callee = graph.block_map[node.callee]
                outputs = run(callee, inputs, key, inner)
                calls[key] = FlatCall(
                    key=key,
                    path=prefix + node.name,
                    scope=inner,
                    node=node,
                    inputs=inputs,
                    outputs=outputs,
                    block=callee,
                )
            else:
                kinds = tuple(types[s] if s is not None else None for s in inputs)
                nodes[key] = FlatNode(key=key, path=prefix + node.name, node=node, inputs=inputs, types=kinds)
                outputs = tuple((key, i) for i in range(len(node.types)))
                types.update(zip(outputs, node.types, strict=True))
            known.update(zip(node.outputs, outputs, strict=True))
        found = tuple(known[v] for v in block.outputs)
        return tuple(s for s in found if s is not None)

    start = tuple((("", value.name), 0) for value in graph.main.inputs)
    types.update(zip(start, graph.main.input_types, strict=True))
    outputs = run(graph.main, start, (), "")
    return FlatGraph(graph=graph, nodes=nodes, calls=calls, outputs=outputs, types=types)


def origin(flat: FlatGraph, source: Source, stop: Collection[str] = LINEAR) -> FlatNode | None:
    """The first node with an op in `stop` going up through passive ops along first inputs, or None."""
    while (node := flat.nodes.get(source[0])) is not None:
        if node.op in stop:
            return node
        if node.op not in PASSIVE or not node.inputs or node.inputs[0] is None:
            return None
        source = node.inputs[0]
    return None


def destinations(flat: FlatGraph, source: Source, stop: Collection[str] = LINEAR) -> Iterator[FlatNode]:
    """The first nodes with an op in `stop` going down through passive ops."""
    for node in flat.readers(source):
        if node.op in stop:
            yield node
        elif node.op in PASSIVE:
            for index in range(len(node.node.types)):
                yield from destinations(flat, (node.key, index), stop)


def projection_input(flat: FlatGraph, attention: FlatNode, slot: int = 0) -> Source | None:
    """What the projection behind an attention's query (key, value) reads; the input itself where none is."""
    source = attention.inputs[slot]
    if source is None:
        return None
    linear = origin(flat, source)
    if linear is not None:
        return linear.inputs[0]
    while (node := flat.nodes.get(source[0])) is not None and node.op in PASSIVE and node.inputs[0] is not None:
        source = node.inputs[0]
    return source


def is_self_attention(flat: FlatGraph, attention: FlatNode) -> bool:
    """Whether values come from where the queries come from (spatially reduced ones, as in SegFormer, included)."""
    query, value = projection_input(flat, attention), projection_input(flat, attention, 2)
    return query is None or value is None or query[0] in flat.above(value)
