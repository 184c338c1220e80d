"""Edit scripts: the symbolic steps of an edit, which run on a graph and can be replayed on a similar one.

The generator writes a script, not a `GraphDelta`: a step may say "as many channels as ln_1" or "twice what it was", so that the
same script fits a wider model. Running it gives the new graph; `GraphDelta.between` gives the exact difference.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from genmad.ir.build import OpSet, retype
from genmad.ir.diagnostics import Diagnostic, GraphError, ShapeError
from genmad.ir.graph import CALL, Block, Graph, Node, places, producer
from genmad.ir.rewrite import topological_sort
from genmad.ir.types import Dim, TensorType

CHANNELS_FIRST = frozenset({"conv", "pool"})
_NUMBER = re.compile(r"(?:(old)|(channels|head_dim|like)\(([^()]+)\)|(\d+))(?:\*(\d+))?(?:/(\d+))?\Z")


@dataclass(frozen=True, slots=True)
class Number:
    """An attribute value: `base * times / over`, where the base is an integer or is read from the graph.

    Attributes:
        base: `int` (then `literal` counts), `old` (the attribute's present value), `channels` (of value `ref`),
            `head_dim` (of attention node `ref`) or `like` (the same attribute of node `ref`, of any kind).
    """

    base: str
    ref: str = ""
    literal: int = 0
    times: int = 1
    over: int = 1

    @staticmethod
    def of(value: int) -> "Number":
        return Number("int", literal=value)

    def __str__(self) -> str:
        head = {"int": str(self.literal), "old": "old"}.get(self.base, f"{self.base}({self.ref})")
        return head + (f"*{self.times}" if self.times != 1 else "") + (f"/{self.over}" if self.over != 1 else "")

    @staticmethod
    def parse(text: str) -> "Number":
        """The inverse of `str`: `Number.parse("channels(ln_1)*4")`. Raises `ShapeError`."""
        match = _NUMBER.match(text)
        if not match:
            raise ShapeError(repr(text), "a number such as 8, old*2, channels(ln_1)*4, head_dim(attn)*2 or like(attn)")
        old, base, ref, literal, times, over = match.groups()
        name = "old" if old else base or "int"
        return Number(name, ref or "", int(literal or 0), int(times or 1), int(over or 1))


Setting = Number | bool | float | str | None
Settings = tuple[tuple[str, Setting], ...]


@dataclass(frozen=True, slots=True)
class At:
    """Opens a section: the steps that follow edit the block run by these calls, and by no others.

    Attributes:
        calls: dotted paths of calls of one block (`transformer.h.11`); empty for the main block.
    """

    calls: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SetAttrs:
    """Changes attributes of a node."""

    node: str
    settings: Settings


@dataclass(frozen=True, slots=True)
class Replace:
    """Puts another op in a node's place: same name and inputs; attributes of the same name are inherited."""

    node: str
    op: str
    settings: Settings = ()


@dataclass(frozen=True, slots=True)
class Add:
    """Adds a node that nothing reads yet.

    Attributes:
        name: its name; `fresh_name` gives the one that the generator uses.
        op: an op, or `@block` for a call.
        like: for a call, the call whose block is called again.
        weights: for a call, `copy` (of the weights of `like`) or `new`.
    """

    name: str
    op: str
    inputs: tuple[str, ...]
    settings: Settings = ()
    like: str = ""
    weights: str = "new"


@dataclass(frozen=True, slots=True)
class Rewire:
    """Makes input `slot` of `node` ("" for the block's outputs) read `value`; "" removes an optional input."""

    node: str
    slot: int
    value: str


@dataclass(frozen=True, slots=True)
class ReplaceUses:
    """Makes everything that reads `old` read `new`, except what `new` itself is computed from."""

    old: str
    new: str


@dataclass(frozen=True, slots=True)
class Remove:
    """Takes a node out; what read its first output reads its first input."""

    node: str


Step = At | SetAttrs | Replace | Add | Rewire | ReplaceUses | Remove
_KINDS: dict[str, type] = {
    "at": At, "set": SetAttrs, "replace": Replace, "add": Add, "rewire": Rewire, "replace_uses": ReplaceUses, "remove": Remove,
}  # fmt: skip


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
        return replace(self, graph=_with_block(self, block).graph, added=added)


def channels(block: Block, value: str, opset: OpSet) -> int:
    """Width of a value: axis 1 after convolutions and pools and for rank 4 or 5, else the last axis."""
    kind = block.types[value]
    node = block.by_name.get(producer(value))
    family = opset[node.op].family if node is not None and node.op in opset else ""
    first = kind.rank >= 4 or (kind.rank == 3 and family in CHANNELS_FIRST)
    if kind.rank == 4 and node is not None and family not in CHANNELS_FIRST and node.op in ("Linear", "LayerNorm"):
        first = False
    dim: Dim = kind.shape[1 if first else -1] if kind.rank else 1
    if not isinstance(dim, int):
        raise _refuse(block, value, f"symbolic width {dim}", "a value with a fixed width")
    return dim


def head_dim(block: Block, name: str) -> int:
    """Channels per query head of an attention node."""
    node = _node(block, name)
    heads = node.attr_map.get("num_heads")
    query = block.types[node.inputs[0]]
    width = query.shape[-1]
    if not isinstance(heads, int) or not isinstance(width, int):
        raise _refuse(block, name, f"op {node.op}", "a node with num_heads")
    return width if query.rank == 4 else width // heads


def _refuse(block: Block, name: str, got: str, expected: str) -> GraphError:
    return GraphError(Diagnostic(where=f'node "{name}" in block "{block.name}"', got=got, expected=expected))


def _node(block: Block, name: str) -> Node:
    if name not in block.by_name:
        raise _refuse(block, name, "no such node", f"one of {', '.join(list(block.by_name)[:40])}")
    return block.by_name[name]


def resolve(block: Block, name: str, setting: Setting, kind: str, old: Any, opset: OpSet, rank: int = 1) -> Any:
    """The value of attribute `name`. For `ints` one number is repeated as often as `old` (or `rank`) asks."""
    if not isinstance(setting, Number):
        return setting
    if setting.base == "like":
        attrs = _node(block, setting.ref).attr_map
        if name not in attrs:
            raise _refuse(block, setting.ref, f"no attribute {name}", f"one of {', '.join(attrs) or 'none'}")
        old = attrs[name]
        if (setting.times, setting.over) == (1, 1):
            return old
        setting = replace(setting, base="old")
    if setting.base == "old":
        if isinstance(old, tuple):
            return tuple(v * setting.times // setting.over for v in old)
        base = old
    else:
        base = _base(block, setting, opset)
    if not isinstance(base, (int, float)) or isinstance(base, bool):
        raise _refuse(block, str(setting), f"base {base!r}", "a number")
    if kind == "float":
        return base * setting.times / setting.over
    total = base * setting.times
    if total % setting.over:
        raise _refuse(block, str(setting), f"{total}/{setting.over}", "a whole number")
    value = int(total // setting.over)
    return (value,) * (len(old) if isinstance(old, tuple) else rank) if kind == "ints" else value


def _base(block: Block, number: Number, opset: OpSet) -> int:
    if number.base == "int":
        return number.literal
    if number.base == "head_dim":
        return head_dim(block, number.ref)
    if number.ref not in block.types:
        raise _refuse(block, number.ref, "no such value", "a value of the block")
    return channels(block, number.ref, opset)


def _settings(state: EditState, op: str, settings: Settings, old: Mapping[str, Any], inputs: tuple[str, ...]) -> dict[str, Any]:
    """Attribute values of a changed or new node; implied changes (`OpDef.follow`) included."""
    opdef = state.opset.get(op)
    if opdef is None:
        raise _refuse(state.current, op, f"unknown op {op!r}", "an op of the op set")
    rank = max((state.current.types[v].rank for v in inputs if v in state.current.types), default=3) - 2
    changes: dict[str, Any] = {}
    for name, setting in settings:
        try:
            kind = opdef.attr(name).kind
        except ShapeError as error:
            raise _refuse(state.current, op, error.got, error.expected) from error
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


def _with_block(state: EditState, block: Block, dirty: Iterable[str] = ()) -> EditState:
    """The state with one block exchanged; types flow on from the dirty nodes, also into the callers."""
    if not isinstance(block, Block):
        raise TypeError(f"expected a Block, got {type(block).__name__}")
    nodes = topological_sort(block.nodes, where=f'block "{block.name}"')
    changed = set(dirty)
    types = {v.name: v.type for v in block.inputs}
    stale: set[str] = set()
    out = []
    try:
        for node in nodes:
            if node.name in changed or any(v in stale for v in node.inputs):
                fresh = _infer(state, node, types)
                if fresh.types != node.types or node.name in changed:
                    stale.update(fresh.outputs)
                node = fresh
            out.append(node)
            types.update(zip(node.outputs, node.types, strict=True))
    except _CalleeChanged:
        draft = Graph.__new__(Graph)
        object.__setattr__(draft, "main", state.graph.main if block.name != state.graph.main.name else _raw(block, nodes))
        raw = tuple(_raw(block, nodes) if b.name == block.name else b for b in state.graph.blocks)
        object.__setattr__(draft, "blocks", raw)
        return replace(state, graph=retype(draft, state.opset))
    done = Block(name=block.name, inputs=block.inputs, nodes=tuple(out), outputs=block.outputs)
    return _exchange(state, done)


def _raw(block: Block, nodes: Iterable[Node]) -> Block:
    return Block(name=block.name, inputs=block.inputs, nodes=tuple(nodes), outputs=block.outputs)


def _exchange(state: EditState, block: Block) -> EditState:
    """Puts a typed block in; where its output types changed, the blocks that call it are typed anew."""
    old = state.graph.block_map[block.name]
    callers = []
    if old.output_types != block.output_types or len(old.outputs) != len(block.outputs):
        callers = [b for b in state.graph.all_blocks if any(n.callee == block.name for n in b.nodes)]
    if not callers:
        return replace(state, graph=_graph_with(state.graph, block))
    draft = object.__new__(Graph)
    main, blocks = state.graph.main, state.graph.blocks
    object.__setattr__(draft, "main", block if block.name == main.name else main)
    object.__setattr__(draft, "blocks", tuple(block if b.name == block.name else b for b in blocks))
    return replace(state, graph=retype(draft, state.opset))


def _graph_with(graph: Graph, block: Block) -> Graph:
    if block.name == graph.main.name:
        return Graph(main=block, blocks=graph.blocks)
    return Graph(main=graph.main, blocks=tuple(block if b.name == block.name else b for b in graph.blocks))


def _without_dead(block: Block) -> Block:
    needed = {producer(v) for v in block.outputs}
    for node in reversed(block.nodes):
        if node.name in needed:
            needed.update(producer(v) for v in node.inputs if v)
    if all(node.name in needed for node in block.nodes):
        return block
    return _raw(block, [node for node in block.nodes if node.name in needed])


def _swap(state: EditState, node: Node) -> EditState:
    """The state with the node of that name exchanged and typed."""
    block = state.current
    nodes = [node if n.name == node.name else n for n in block.nodes]
    return _with_block(state, _Draft.of(block, nodes), [node.name])


class _Draft(Block):
    """A block whose nodes may be out of order or ill-typed for the moment; never leaves this module."""

    def __post_init__(self) -> None:
        pass

    @staticmethod
    def of(block: Block, nodes: Iterable[Node], outputs: tuple[str, ...] | None = None) -> "_Draft":
        return _Draft(name=block.name, inputs=block.inputs, nodes=tuple(nodes), outputs=outputs or block.outputs)


def _set_attrs(state: EditState, step: SetAttrs) -> EditState:
    node = _node(state.current, step.node)
    if node.is_call:
        raise _refuse(state.current, step.node, "a call", "an op with attributes")
    changes = _settings(state, node.op, step.settings, node.attr_map, node.inputs)
    return _swap(state, replace(node, attrs=tuple((node.attr_map | changes).items())))


def _replace(state: EditState, step: Replace) -> EditState:
    node = _node(state.current, step.node)
    if node.is_call or step.op not in state.opset:
        raise _refuse(state.current, step.node, f"{node.op} to {step.op}", "an op exchanged for an op")
    opdef = state.opset[step.op]
    known = {attr.name: node.attr_map[attr.name] for attr in opdef.attrs if attr.name in node.attr_map}
    changes = _settings(state, step.op, step.settings, known, node.inputs)
    limit = opdef.max_inputs
    inputs = node.inputs if limit is None else node.inputs[:limit]
    return _swap(state, replace(node, op=step.op, inputs=inputs, attrs=tuple((known | changes).items())))


def _add(state: EditState, step: Add) -> EditState:
    block = state.current
    if step.name in block.types or step.name in block.by_name:
        raise _refuse(block, step.name, "a name that is taken", "a fresh name")
    missing = [v for v in step.inputs if v and v not in block.types]
    if missing:
        raise _refuse(block, step.name, f"inputs {missing}", "values of the block")
    if step.op.startswith(CALL):
        return _add_call(state, step)
    attrs = _settings(state, step.op, step.settings, {}, step.inputs)
    scope = step.name.rpartition(".")[0]
    node = Node(name=step.name, op=step.op, inputs=step.inputs, types=(), attrs=tuple(attrs.items()), scope=scope)
    done = _with_block(state, _Draft.of(block, [*block.nodes, node]), [step.name])
    return replace(done, added=(*state.added, (state.block, step.name)))


def _add_call(state: EditState, step: Add) -> EditState:
    block = state.current
    like = _node(block, step.like)
    if not like.is_call or step.op != like.op:
        raise _refuse(block, step.name, f"{step.op} like {step.like!r}", f"a call of {like.op}")
    if any(n.is_call for n in state.graph.block_map[like.callee].nodes):
        raise _refuse(block, step.like, "a call of a block that itself makes calls", "a leaf block")
    node = Node(name=step.name, op=step.op, inputs=step.inputs, types=like.types, scope=step.name)
    done = _with_block(state, _Draft.of(block, [*block.nodes, node]), [step.name])
    copies = ((state.prefix + step.name, state.prefix + like.scope),) if step.weights == "copy" else ()
    return replace(done, added=(*state.added, (state.block, step.name)), copies=(*state.copies, *copies))


def _rewire(state: EditState, step: Rewire) -> EditState:
    block = state.current
    if step.value and step.value not in block.types:
        raise _refuse(block, step.value, "no such value", "a value of the block")
    if not step.node:
        outputs = tuple(step.value if i == step.slot else v for i, v in enumerate(block.outputs))
        return _with_block(state, _Draft.of(block, block.nodes, outputs))
    node = _node(block, step.node)
    if step.slot > len(node.inputs):
        raise _refuse(block, step.node, f"input slot {step.slot}", f"a slot up to {len(node.inputs)}")
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
            raise _refuse(block, value, "no such value", "a value of the block")
    keep = ancestors(block, step.new)
    nodes, dirty = [], []
    for node in block.nodes:
        if step.old in node.inputs and node.name not in keep:
            node = replace(node, inputs=tuple(step.new if v == step.old else v for v in node.inputs))
            dirty.append(node.name)
        nodes.append(node)
    outputs = tuple(step.new if v == step.old else v for v in block.outputs)
    return _with_block(state, _Draft.of(block, nodes, outputs), dirty)


def _remove(state: EditState, step: Remove) -> EditState:
    node = _node(state.current, step.node)
    if not node.inputs or not node.inputs[0]:
        raise _refuse(state.current, step.node, "a node without inputs", "a node that can be bypassed")
    for other in node.outputs[1:]:
        if state.current.users[other] or other in state.current.outputs:
            raise _refuse(state.current, step.node, f"output {other!r} in use", "a node with one output in use")
    return _replace_uses(state, ReplaceUses(node.outputs[0], node.inputs[0])).close()


def _at(state: EditState, step: At) -> EditState:
    state = state.close()
    if not step.calls:
        return replace(state, block=state.graph.main.name, prefix="")
    found = {place.path: place for place in places(state.graph) if place.node.is_call}
    missing = [path for path in step.calls if path not in found]
    if missing:
        got, expected = f"no call at {', '.join(missing)}", f"calls among {', '.join(list(found)[:40])}"
        raise GraphError(Diagnostic(where="edit script", got=got, expected=expected))
    chosen = [found[path] for path in step.calls]
    callees = {place.node.callee for place in chosen}
    if len(callees) > 1:
        raise GraphError(Diagnostic(where="edit script", got=f"calls of {sorted(callees)}", expected="calls of one block"))
    name = callees.pop()
    first = chosen[0]
    prefix = f"{first.prefix}{first.node.scope}." if first.node.scope else first.prefix
    if {p.path for p in found.values() if p.node.callee == name} == set(step.calls):
        return replace(state, block=name, prefix=prefix)
    target = next(n for i in range(1, len(found) + 2) if (n := f"{name}_{i}") not in state.graph.block_map)
    return replace(state, graph=_specialise(state.graph, name, target, {(p.block.name, p.node.name) for p in chosen}), block=target, prefix=prefix)


def _specialise(graph: Graph, name: str, target: str, calls: set[tuple[str, str]]) -> Graph:
    """Copies block `name` to `target` and makes the (block, node) calls run the copy."""

    def retarget(block: Block) -> Block:
        if not any((block.name, n.name) in calls for n in block.nodes):
            return block
        return _raw(block, [replace(n, op=CALL + target) if (block.name, n.name) in calls else n for n in block.nodes])

    blocks = []
    for block in graph.blocks:
        blocks.append(retarget(block))
        if block.name == name:
            blocks.append(replace(block, name=target))
    return Graph(main=retarget(graph.main), blocks=tuple(blocks))


_RUN: dict[type, Any] = {
    At: _at, SetAttrs: _set_attrs, Replace: _replace, Add: _add, Rewire: _rewire, ReplaceUses: _replace_uses, Remove: _remove,
}  # fmt: skip


def fresh_name(block: Block, op: str, inputs: tuple[str, ...], like: str = "") -> str:
    """Name of a new node: a copied call counts on (`h.12`), an op is named after itself in the scope of its first input."""
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


@dataclass(frozen=True, slots=True, kw_only=True)
class EditScript:
    """Steps in order. An empty script leaves the graph as it is."""

    steps: tuple[Step, ...] = ()

    def run(self, graph: Graph, opset: OpSet) -> EditState:
        """The state after all steps, dead nodes dropped. Raises `GraphError` naming the step's node."""
        state = EditState.start(graph, opset)
        for step in self.steps:
            state = state.step(step)
        return state.close()

    def to_json(self) -> list[dict[str, Any]]:
        """One object per step, as in `recipe.yaml`."""
        return [_step_json(step) for step in self.steps]

    @staticmethod
    def from_json(data: Any) -> "EditScript":
        """The inverse of `to_json`. Raises `GraphError` on anything else."""
        if not isinstance(data, list) or len(data) > 10_000:
            got = type(data).__name__ if not isinstance(data, list) else f"{len(data)} steps"
            raise GraphError(Diagnostic(where="edit script", got=got, expected="a list of at most 10,000 steps"))
        return EditScript(steps=tuple(_step_from_json(item, i) for i, item in enumerate(data)))


def _step_json(step: Step) -> dict[str, Any]:
    kind = next(k for k, t in _KINDS.items() if t is type(step))
    out: dict[str, Any] = {"step": kind}
    for name in step.__slots__:
        value = getattr(step, name)
        if name == "settings":
            value = {k: {"number": str(v)} if isinstance(v, Number) else v for k, v in value}
        out[name] = list(value) if isinstance(value, tuple) else value
    return {k: v for k, v in out.items() if v not in ("", {}) or k in ("value", "node", "old", "new")}


def _step_from_json(item: Any, index: int) -> Step:
    where = f"edit script, step {index}"
    kind = _KINDS.get(item.get("step", "")) if isinstance(item, dict) else None
    if kind is None:
        raise GraphError(Diagnostic(where=where, got=repr(item)[:80], expected=f"a step among {', '.join(_KINDS)}"))
    fields = {k: v for k, v in item.items() if k != "step"}
    try:
        if "settings" in fields:
            pairs = fields["settings"].items()
            fields["settings"] = tuple((k, Number.parse(v["number"]) if isinstance(v, dict) else v) for k, v in pairs)
        for name, value in fields.items():
            if isinstance(value, list):
                fields[name] = tuple(str(v) for v in value)
        return kind(**fields)  # type: ignore[no-any-return]
    except (TypeError, KeyError, AttributeError, ShapeError) as error:
        expected = f"fields {', '.join(kind.__slots__)}"  # type: ignore[attr-defined]
        raise GraphError(Diagnostic(where=where, got=repr(item)[:120], expected=expected)) from error
