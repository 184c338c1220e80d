"""Running an edit script step by step; the graph is typed anew after each step."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from genmad.ir.build import DraftGraph, OpSet, retype
from genmad.ir.diagnostics import Diagnostic, GraphError, ShapeError
from genmad.ir.graph import CALL, Block, Graph, Node, call_places, producer
from genmad.ir.rewrite import called_blocks, replace_block, topological_sort
from genmad.ir.script_numbers import Settings, node_of, refuse, resolve
from genmad.ir.script_steps import Add, At, Remove, Replace, ReplaceUses, Rewire, SetAttrs, Step
from genmad.ir.types import TensorType


@dataclass(frozen=True, slots=True, kw_only=True)
class EditState:
    """A graph in the middle of a script. `step` returns the next state and leaves this one as it is.

    Attributes:
        graph: valid after every step, but for added nodes that nothing reads yet.
        block: name of the block that the open section edits.
        prefix: user path in front of the block's nodes, of the first call in the section.
        copies: (new scope, old scope) of calls added with `weights="copy"`.
        added: (block, node) of nodes added so far.
    """

    graph: Graph
    opset: OpSet = field(repr=False)
    block: str
    prefix: str = ""
    copies: tuple[tuple[str, str], ...] = ()
    added: tuple[tuple[str, str], ...] = ()

    @staticmethod
    def start(graph: Graph, opset: OpSet) -> "EditState":
        return EditState(graph=graph, opset=opset, block=graph.main.name)

    @property
    def current(self) -> Block:
        return self.graph.block_map[self.block]

    def step(self, step: Step) -> "EditState":
        """The state after one step. Raises `GraphError` where the step does not fit or breaks a shape rule."""
        return _RUN[type(step)](self, step)

    def close(self) -> "EditState":
        """Ends the open section: nodes that no output depends on are dropped."""
        block = _without_dead(self.current)
        if block is self.current:
            return self
        alive = {(self.block, node.name) for node in block.nodes}
        added = tuple(item for item in self.added if item[0] != self.block or item in alive)
        graph = _with_nodes(self, block.nodes).graph
        called = called_blocks(graph) | {self.block}
        graph = Graph(main=graph.main, blocks=tuple(b for b in graph.blocks if b.name in called))
        return replace(self, graph=graph, added=added)


def _settings(
    state: EditState, op: str, settings: Settings, old: Mapping[str, Any], inputs: tuple[str, ...]
) -> dict[str, Any]:
    """Attribute values of a changed or new node; implied changes (`OpDef.follow`) included."""
    opdef = state.opset.get(op)
    if opdef is None:
        raise refuse(state.current, op, f"unknown op {op!r}", "an op of the op set")
    rank = max((state.current.types[v].rank for v in inputs if v in state.current.types), default=3) - 2
    changes: dict[str, Any] = {}
    for name, setting in settings:
        try:
            kind = opdef.attr(name).kind
        except ShapeError as error:
            raise refuse(state.current, op, error.got, error.expected) from error
        changes[name] = resolve(state.current, name, setting, kind, old.get(name), state.opset, max(rank, 1))
    implied = {k: v for k, v in opdef.follow(old, changes).items() if k not in changes}
    return changes | implied


def _infer(state: EditState, node: Node, types: Mapping[str, TensorType]) -> Node:
    """The node with its output types inferred anew from its input types."""
    inputs = tuple(types[v] if v else None for v in node.inputs)
    if node.is_call:
        callee = state.graph.block_map[node.callee]
        if inputs != callee.input_types:
            raise _CalleeChanged
        return node if node.types == callee.output_types else replace(node, types=callee.output_types)
    opdef = state.opset[node.op]
    where = f'{node.op} "{state.prefix}{node.name}"'
    try:
        attrs = opdef.complete(node.attr_map)
        result = opdef.infer(inputs, attrs)
        slots = [p.slot for p in opdef.params(inputs, attrs)]
    except ShapeError as error:
        raise GraphError(Diagnostic(where=where, got=error.got, expected=error.expected, fix=error.fix)) from error
    names = node.param_map
    params = tuple((slot, names.get(slot, f"{node.name}.{slot}")) for slot in slots)
    return replace(node, types=result, attrs=tuple(attrs.items()), params=params)


class _CalleeChanged(Exception):
    """A call's input types no longer fit its block: the whole graph has to be typed anew."""


def _with_nodes(
    state: EditState, nodes: Iterable[Node], *, outputs: tuple[str, ...] = (), dirty: Iterable[str] = ()
) -> EditState:
    """The state with other nodes (and outputs) in its block; types flow on from the dirty ones and into the callers."""
    block = state.current
    ordered = topological_sort(nodes, where=f'block "{block.name}"')
    outputs = outputs or block.outputs
    try:
        typed = _typed(state, ordered, frozenset(dirty))
    except _CalleeChanged:
        return _typed_anew(state, Block(name=block.name, inputs=block.inputs, nodes=ordered, outputs=outputs))
    done = Block(name=block.name, inputs=block.inputs, nodes=typed, outputs=outputs)
    same_outputs = len(outputs) == len(block.outputs) and done.output_types == block.output_types
    if same_outputs or not any(n.callee == block.name for b in state.graph.all_blocks for n in b.nodes):
        return replace(state, graph=replace_block(state.graph, done))
    return _typed_anew(state, done)


def _typed(state: EditState, nodes: Iterable[Node], dirty: frozenset[str]) -> tuple[Node, ...]:
    """Sorted nodes, those inferred anew that are dirty or read what has changed. Raises `_CalleeChanged`."""
    types = {v.name: v.type for v in state.current.inputs}
    stale: set[str] = set()
    out = []
    for node in nodes:
        if node.name in dirty or any(v in stale for v in node.inputs):
            fresh = _infer(state, node, types)
            if fresh.types != node.types or node.name in dirty:
                stale.update(fresh.outputs)
            node = fresh
        out.append(node)
        types.update(zip(node.outputs, node.types, strict=True))
    return tuple(out)


def _typed_anew(state: EditState, block: Block) -> EditState:
    """The state with one block exchanged and the whole graph typed from the main inputs."""
    table = {**state.graph.block_map, block.name: block}
    return replace(state, graph=retype(DraftGraph(table[state.graph.main.name], table), state.opset))


def _without_dead(block: Block) -> Block:
    needed = {producer(v) for v in block.outputs}
    for node in reversed(block.nodes):
        if node.name in needed:
            needed.update(producer(v) for v in node.inputs if v)
    if all(node.name in needed for node in block.nodes):
        return block
    return replace(block, nodes=tuple(node for node in block.nodes if node.name in needed))


def _swap(state: EditState, node: Node) -> EditState:
    """The state with the node of that name exchanged and typed."""
    nodes = [node if n.name == node.name else n for n in state.current.nodes]
    return _with_nodes(state, nodes, dirty=[node.name])


def _set_attrs(state: EditState, step: SetAttrs) -> EditState:
    node = node_of(state.current, step.node)
    if node.is_call:
        raise refuse(state.current, step.node, "a call", "an op with attributes")
    changes = _settings(state, node.op, step.settings, node.attr_map, node.inputs)
    return _swap(state, replace(node, attrs=tuple((node.attr_map | changes).items())))


def _replace(state: EditState, step: Replace) -> EditState:
    node = node_of(state.current, step.node)
    if node.is_call or step.op not in state.opset:
        raise refuse(state.current, step.node, f"{node.op} to {step.op}", "an op exchanged for an op")
    opdef = state.opset[step.op]
    known = {attr.name: node.attr_map[attr.name] for attr in opdef.attrs if attr.name in node.attr_map}
    changes = _settings(state, step.op, step.settings, known, node.inputs)
    limit = opdef.max_inputs
    inputs = node.inputs if limit is None else node.inputs[:limit]
    return _swap(state, replace(node, op=step.op, inputs=inputs, attrs=tuple((known | changes).items())))


def _add(state: EditState, step: Add) -> EditState:
    block = state.current
    if step.name in block.types or step.name in block.by_name:
        raise refuse(block, step.name, "a name that is taken", "a fresh name")
    missing = [v for v in step.inputs if v and v not in block.types]
    if missing:
        raise refuse(block, step.name, f"inputs {missing}", "values of the block")
    if step.op.startswith(CALL):
        return _add_call(state, step)
    attrs = _settings(state, step.op, step.settings, {}, step.inputs)
    scope = step.name.rpartition(".")[0]
    node = Node(name=step.name, op=step.op, inputs=step.inputs, types=(), attrs=tuple(attrs.items()), scope=scope)
    done = _with_nodes(state, [*block.nodes, node], dirty=[step.name])
    return replace(done, added=(*state.added, (state.block, step.name)))


def _add_call(state: EditState, step: Add) -> EditState:
    block = state.current
    like = node_of(block, step.like)
    if not like.is_call or step.op != like.op:
        raise refuse(block, step.name, f"{step.op} like {step.like!r}", f"a call of {like.op}")
    if any(n.is_call for n in state.graph.block_map[like.callee].nodes):
        raise refuse(block, step.like, "a call of a block that itself makes calls", "a leaf block")
    node = Node(name=step.name, op=step.op, inputs=step.inputs, types=like.types, scope=step.name)
    done = _with_nodes(state, [*block.nodes, node], dirty=[step.name])
    copies = ((state.prefix + step.name, state.prefix + like.scope),) if step.weights == "copy" else ()
    return replace(done, added=(*state.added, (state.block, step.name)), copies=(*state.copies, *copies))


def _rewire(state: EditState, step: Rewire) -> EditState:
    block = state.current
    if step.value and step.value not in block.types:
        raise refuse(block, step.value, "no such value", "a value of the block")
    if not step.node:
        outputs = tuple(step.value if i == step.slot else v for i, v in enumerate(block.outputs))
        return _with_nodes(state, block.nodes, outputs=outputs)
    node = node_of(block, step.node)
    if step.slot > len(node.inputs):
        raise refuse(block, step.node, f"input slot {step.slot}", f"a slot up to {len(node.inputs)}")
    inputs = [*node.inputs, ""] if step.slot == len(node.inputs) else list(node.inputs)
    inputs[step.slot] = step.value
    while inputs and not inputs[-1]:
        inputs.pop()
    return _swap(state, replace(node, inputs=tuple(inputs)))


def ancestors(block: Block, value: str) -> frozenset[str]:
    """Names of the nodes and inputs that `value` is computed from, its producer included."""
    needed = {producer(value)}
    for node in reversed(block.nodes):
        if node.name in needed:
            needed.update(producer(v) for v in node.inputs if v)
    return frozenset(needed)


def _replace_uses(state: EditState, step: ReplaceUses) -> EditState:
    block = state.current
    for value in (step.old, step.new):
        if value not in block.types:
            raise refuse(block, value, "no such value", "a value of the block")
    keep = ancestors(block, step.new)
    nodes, dirty = [], []
    for node in block.nodes:
        if step.old in node.inputs and node.name not in keep:
            node = replace(node, inputs=tuple(step.new if v == step.old else v for v in node.inputs))
            dirty.append(node.name)
        nodes.append(node)
    outputs = tuple(step.new if v == step.old else v for v in block.outputs)
    return _with_nodes(state, nodes, outputs=outputs, dirty=dirty)


def _remove(state: EditState, step: Remove) -> EditState:
    node = node_of(state.current, step.node)
    if not node.inputs or not node.inputs[0]:
        raise refuse(state.current, step.node, "a node without inputs", "a node that can be bypassed")
    for other in node.outputs[1:]:
        if state.current.users[other] or other in state.current.outputs:
            raise refuse(state.current, step.node, f"output {other!r} in use", "a node with one output in use")
    return _replace_uses(state, ReplaceUses(node.outputs[0], node.inputs[0])).close()


def _at(state: EditState, step: At) -> EditState:
    state = state.close()
    if not step.calls:
        return replace(state, block=state.graph.main.name, prefix="")
    found = {place.path: place for place in call_places(state.graph)}
    missing = [path for path in step.calls if path not in found]
    if missing:
        got, expected = f"no call at {', '.join(missing)}", f"calls among {', '.join(list(found)[:40])}"
        raise GraphError(Diagnostic(where="edit script", got=got, expected=expected))
    chosen = [found[path] for path in step.calls]
    callees = {place.node.callee for place in chosen}
    if len(callees) > 1:
        raise GraphError(
            Diagnostic(where="edit script", got=f"calls of {sorted(callees)}", expected="calls of one block")
        )
    name = callees.pop()
    first = chosen[0]
    prefix = f"{first.prefix}{first.node.scope}." if first.node.scope else first.prefix
    if {p.path for p in found.values() if p.node.callee == name} == set(step.calls):
        return replace(state, block=name, prefix=prefix)
    target = next(n for i in range(1, len(found) + 2) if (n := f"{name}_{i}") not in state.graph.block_map)
    return replace(
        state,
        graph=_specialise(state.graph, name, target, {(p.block.name, p.node.name) for p in chosen}),
        block=target,
        prefix=prefix,
    )


def _specialise(graph: Graph, name: str, target: str, calls: set[tuple[str, str]]) -> Graph:
    """Copies block `name` to `target` and makes the (block, node) calls run the copy."""

    def retarget(block: Block) -> Block:
        if not any((block.name, n.name) in calls for n in block.nodes):
            return block
        nodes = [replace(n, op=CALL + target) if (block.name, n.name) in calls else n for n in block.nodes]
        return replace(block, nodes=tuple(nodes))

    blocks = []
    for block in graph.blocks:
        blocks.append(retarget(block))
        if block.name == name:
            blocks.append(replace(block, name=target))
    return Graph(main=retarget(graph.main), blocks=tuple(blocks))


_RUN: dict[type[Step], Callable[[EditState, Any], EditState]] = {
    At: _at, SetAttrs: _set_attrs, Replace: _replace, Add: _add, Rewire: _rewire, ReplaceUses: _replace_uses,
    Remove: _remove,
}  # fmt: skip


def fresh_name(block: Block, op: str, inputs: tuple[str, ...], like: str = "") -> str:
    """Name of a new node: a copied call counts on (`h.12`), an op is named after itself in its first input's scope."""
    taken = {producer(v) for v in block.types} | set(block.by_name)
    if like:
        stem, _, last = like.rpartition(".")
        number = int(last) if last.isdigit() else 0
        while (name := f"{stem}.{number}" if stem else f"{last}_{number}") in taken:
            number += 1
        return name
    source = block.by_name.get(producer(inputs[0])) if inputs and inputs[0] else None
    scope = source.scope if source is not None and not source.is_call and source.scope != source.name else ""
    if source is not None and source.scope == source.name:
        scope = source.name.rpartition(".")[0]
    stem = (f"{scope}." if scope else "") + f"new_{re.sub('(?<=[a-z])(?=[A-Z])', '_', op).lower()}"
    name, count = stem, 0
    while name in taken:
        count += 1
        name = f"{stem}_{count}"
    return name
