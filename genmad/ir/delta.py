"""Changes of graphs as values: what a user sees as the diff, what `recipe.yaml` holds, what undo inverts.

A delta lists, per block, nodes removed, nodes added and inputs rewired. Types are not part of it: `apply` infers them
anew, so that one delta works on models of other widths. A block can be derived from another (`base`), which is how an
edit of one layer gives that call its own definition.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from genmad.ir import serial
from genmad.ir.build import OpSet
from genmad.ir.diagnostics import Diagnostic, GraphError
from genmad.ir.graph import Block, Graph, Node, Value, places
from genmad.ir.rewrite import assemble, topological_sort

OUTPUTS = ""
_KINDS = ("changed", "added", "dropped")


@dataclass(frozen=True, slots=True)
class Rewiring:
    """One input of a surviving node, or one output of the block (consumer ""), reads another value.

    `old` is None where the slot is new, `new` is None where the slot goes away; "" is an absent optional input.
    """

    consumer: str
    slot: int
    old: str | None
    new: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockDelta:
    """The change of one block.

    Attributes:
        block: its name.
        kind: `changed`; `added` (from nothing, or as a changed copy of `base`, a block of the graph before); or
            `dropped` (to nothing, or to `base`, a block of the graph after: the mirror image, for undoing).
        base: see `kind`; "" for nothing.
        removed, added: whole nodes. A node that keeps its name but has another op, attributes or parameters is in both.
        rewired: input slots of nodes that stay, and outputs of the block.
        inputs: the block's inputs (before, after) when they change, else None.
    """

    block: str
    kind: str = "changed"
    base: str = ""
    removed: tuple[Node, ...] = ()
    added: tuple[Node, ...] = ()
    rewired: tuple[Rewiring, ...] = ()
    inputs: tuple[tuple[Value, ...], tuple[Value, ...]] | None = None

    def __post_init__(self) -> None:
        if self.kind not in _KINDS:
            where = f'delta of block "{self.block}"'
            raise GraphError(Diagnostic(where=where, got=f"kind {self.kind!r}", expected=f"one of {', '.join(_KINDS)}"))

    @property
    def changed(self) -> tuple[tuple[Node, Node], ...]:
        """Nodes that keep their name, as they were and as they are."""
        added = {node.name: node for node in self.added}
        return tuple((node, added[node.name]) for node in self.removed if node.name in added)

    @property
    def is_empty(self) -> bool:
        return self.kind == "changed" and not (self.removed or self.added or self.rewired or self.inputs)

    def inverse(self) -> "BlockDelta":
        """What undoes it."""
        kind = {"changed": "changed", "added": "dropped", "dropped": "added"}[self.kind]
        rewired = tuple(Rewiring(r.consumer, r.slot, r.new, r.old) for r in self.rewired)
        inputs = (self.inputs[1], self.inputs[0]) if self.inputs else None
        return replace(self, kind=kind, removed=self.added, added=self.removed, rewired=rewired, inputs=inputs)


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphDelta:
    """The change of a graph.

    Attributes:
        blocks: changes, each block at most once.
        main: names of the main block (before, after).
    """

    blocks: tuple[BlockDelta, ...] = ()
    main: tuple[str, str]

    @staticmethod
    def between(before: Graph, after: Graph) -> "GraphDelta":
        """The delta with `between(a, b).apply(a, opset) == b`, but for the order of nodes.

        Blocks that `after` holds but never calls are not reached by any delta, because `apply` leaves them out.
        """
        old, new = before.block_map, after.block_map
        made = []
        for name, block in new.items():
            if name in old:
                made.append(_diff(old[name], block, name, is_main=block is after.main))
            else:
                base = _base_of(block, before, after)
                made.append(_diff(old.get(base), block, name, kind="added", base=base))
        made += [_diff(block, None, name, kind="dropped") for name, block in old.items() if name not in new]
        blocks = tuple(delta for delta in made if not delta.is_empty)
        return GraphDelta(blocks=blocks, main=(before.main.name, after.main.name))

    @property
    def is_empty(self) -> bool:
        return not self.blocks and self.main[0] == self.main[1]

    @property
    def removed(self) -> tuple[tuple[str, Node], ...]:
        """(block, node) of each node removed, changed ones included."""
        return tuple((d.block, node) for d in self.blocks for node in d.removed)

    @property
    def added(self) -> tuple[tuple[str, Node], ...]:
        """(block, node) of each node added, changed ones included."""
        return tuple((d.block, node) for d in self.blocks for node in d.added)

    @property
    def changed(self) -> tuple[tuple[str, Node, Node], ...]:
        """(block, node before, node after) of each node that keeps its name."""
        return tuple((d.block, old, new) for d in self.blocks for old, new in d.changed)

    @property
    def rewired(self) -> tuple[tuple[str, Rewiring], ...]:
        return tuple((d.block, rewire) for d in self.blocks for rewire in d.rewired)

    @property
    def counts(self) -> dict[str, int]:
        """How many nodes are removed, added, changed (counted as neither) and rewired, and blocks added and dropped."""
        changed = len(self.changed)
        kinds = Counter(d.kind for d in self.blocks)
        return {
            "removed": len(self.removed) - changed,
            "added": len(self.added) - changed,
            "changed": changed,
            "rewired": len({(block, r.consumer) for block, r in self.rewired}),
            "blocks_added": kinds["added"],
            "blocks_dropped": kinds["dropped"],
        }

    def touched(self, before: Graph, after: Graph) -> tuple[str, ...]:
        """Paths, as the user knows them, of every place removed, added or rewired; those of `before` first."""
        gone = {(block, node.name) for block, node in self.removed}
        come = {(block, node.name) for block, node in self.added}
        come |= {(block, r.consumer) for block, r in self.rewired}
        paths = [p.path for p in places(before) if (p.block.name, p.node.name) in gone]
        paths += [p.path for p in places(after) if (p.block.name, p.node.name) in come]
        return tuple(dict.fromkeys(paths))

    def apply(self, graph: Graph, opset: OpSet, *, strict: bool = True) -> Graph:
        """The changed graph, sorted and typed anew. Raises `GraphError` naming every node that the delta does not fit.

        Args:
            strict: whether removed nodes and old inputs must be exactly the delta's; otherwise names suffice, so that a
                recipe replays on a similar model.
        """
        if graph.main.name != self.main[0]:
            got = f"main block {graph.main.name!r}"
            raise GraphError(Diagnostic(where="delta", got=got, expected=repr(self.main[0])))
        table: dict[str, Block | _Draft] = dict(graph.block_map)
        problems: list[Diagnostic] = []
        for delta in self.blocks:
            if delta.kind == "dropped":
                if table.pop(delta.block, None) is None:
                    problems.append(_missing(delta.block, graph))
                continue
            base = delta.block if delta.kind == "changed" else delta.base
            if base and base not in graph.block_map:
                problems.append(_missing(base, graph))
            elif delta.kind == "added" and delta.block in graph.block_map:
                where = f'block "{delta.block}"'
                problems.append(Diagnostic(where=where, got="a block that is there already", expected="a new name"))
            else:
                table[delta.block] = _patched(delta, graph.block_map.get(base), strict, problems)
        if self.main[1] not in table:
            problems.append(_missing(self.main[1], graph))
        if problems:
            raise GraphError(*problems)
        blocks = {name: _frozen(draft) if isinstance(draft, _Draft) else draft for name, draft in table.items()}
        return assemble(blocks[self.main[1]], blocks, opset)

    def inverse(self) -> "GraphDelta":
        """The delta that undoes this one."""
        return GraphDelta(blocks=tuple(d.inverse() for d in self.blocks), main=(self.main[1], self.main[0]))

    def compose(self, other: "GraphDelta", on: Graph, opset: OpSet) -> "GraphDelta":
        """One delta for this one followed by `other`, starting from the graph `on`."""
        return GraphDelta.between(on, other.apply(self.apply(on, opset), opset))

    def to_json(self) -> dict[str, Any]:
        """Plain dicts and lists; `from_json` is the inverse."""
        return {"version": 1, "main": list(self.main), "blocks": [_block_to_json(delta) for delta in self.blocks]}

    @staticmethod
    def from_json(data: Any) -> "GraphDelta":
        """Raises `GraphError` saying where in the data the problem is."""
        serial.expect_object(data, ("version", "main", "blocks"), "delta")
        if data["version"] != 1:
            raise serial.error("delta.version", repr(data["version"]), "1")
        main = serial.expect_texts(data["main"], "delta.main")
        if len(main) != 2:
            raise serial.error("delta.main", f"{len(main)} names", "two: before and after")
        entries = serial.expect_list(data["blocks"], "delta.blocks", serial.MAX_BLOCKS)
        blocks = tuple(_block_from_json(entry, f"delta.blocks[{i}]") for i, entry in enumerate(entries))
        return GraphDelta(blocks=blocks, main=(main[0], main[1]))


def _missing(name: str, graph: Graph) -> Diagnostic:
    return Diagnostic(
        where=f'block "{name}"', got="a block that is not there", expected=f"one of {', '.join(graph.block_map)}"
    )


@dataclass(slots=True)
class _Draft:
    """A block while a delta is applied to it."""

    name: str
    inputs: tuple[Value, ...]
    nodes: dict[str, Node]
    outputs: list[str]


def _frozen(draft: _Draft) -> Block:
    nodes = topological_sort(draft.nodes.values(), where=f'block "{draft.name}"')
    return Block(name=draft.name, inputs=draft.inputs, nodes=nodes, outputs=tuple(draft.outputs))


def _patched(delta: BlockDelta, base: Block | None, strict: bool, problems: list[Diagnostic]) -> _Draft:
    """`base` with a block's changes made; what does not fit is appended to `problems`."""
    draft = _Draft(delta.block, (), {}, [])
    if base is not None:
        draft = _Draft(delta.block, base.inputs, dict(base.by_name), list(base.outputs))
    where = f'block "{delta.block}"'
    for node in delta.removed:
        there = draft.nodes.pop(node.name, None)
        if there is None or (strict and not (_same_node(there, node) and there.inputs == node.inputs)):
            got = "no such node" if there is None else f"{there.op} with other attributes or inputs"
            problems.append(
                Diagnostic(where=f'node "{node.name}" in {where}', got=got, expected=f"{node.op} to remove")
            )
    for node in delta.added:
        if node.name in draft.nodes:
            got = "a name that is taken"
            problems.append(Diagnostic(where=f'node "{node.name}" in {where}', got=got, expected="a new name"))
        draft.nodes[node.name] = node
    if delta.inputs:
        if strict and [v.name for v in delta.inputs[0]] != [v.name for v in draft.inputs]:
            got, expected = (", ".join(v.name for v in side) for side in (draft.inputs, delta.inputs[0]))
            problems.append(Diagnostic(where=where, got=f"inputs {got}", expected=expected))
        draft.inputs = delta.inputs[1]
    _rewire(delta, draft, strict, problems)
    return draft


def _rewire(delta: BlockDelta, draft: _Draft, strict: bool, problems: list[Diagnostic]) -> None:
    wanted: dict[str, list[Rewiring]] = {}
    for rewire in delta.rewired:
        wanted.setdefault(rewire.consumer, []).append(rewire)
    for consumer, rewires in wanted.items():
        where = f'node "{consumer}" in block "{delta.block}"' if consumer else f'outputs of block "{delta.block}"'
        if consumer and consumer not in draft.nodes:
            problems.append(Diagnostic(where=where, got="no such node", expected="a node to rewire"))
            continue
        slots: list[str | None] = list(draft.nodes[consumer].inputs if consumer else draft.outputs)
        for r in sorted(rewires, key=lambda r: r.slot):
            there = slots[r.slot] if r.slot < len(slots) else None
            if (strict and there != r.old) or r.slot > len(slots):
                problems.append(Diagnostic(where=f"{where}, slot {r.slot}", got=repr(there), expected=repr(r.old)))
            elif r.slot == len(slots):
                slots.append(r.new)
            else:
                slots[r.slot] = r.new
        kept = [value for value in slots if value is not None]
        if consumer:
            draft.nodes[consumer] = replace(draft.nodes[consumer], inputs=tuple(kept))
        else:
            draft.outputs = kept


def _same_node(a: Node, b: Node) -> bool:
    """Whether two nodes of one name differ at most in inputs and inferred types."""
    same = (a.op, a.attrs, a.scope, a.params, len(a.types)) == (b.op, b.attrs, b.scope, b.params, len(b.types))
    # 1 == True == 1.0 in Python, but not as attributes.
    return same and (a.attrs is b.attrs or repr(a.attrs) == repr(b.attrs))


def _diff(
    old: Block | None, new: Block | None, name: str, *, kind: str = "changed", base: str = "", is_main: bool = False
) -> BlockDelta:
    before = old.by_name if old else {}
    after = new.by_name if new else {}
    stays = [n for n in before if n in after and _same_node(before[n], after[n])]
    kept = set(stays)
    rewired = [r for n in stays for r in _slot_changes(n, before[n].inputs, after[n].inputs)]
    rewired += _slot_changes(OUTPUTS, old.outputs if old else (), new.outputs if new else ())
    inputs = (old.inputs if old else (), new.inputs if new else ())
    # The types of a called block's inputs follow from its calls; only the model's own inputs set types.
    same_inputs = inputs[0] == inputs[1] if is_main else [v.name for v in inputs[0]] == [v.name for v in inputs[1]]
    return BlockDelta(
        block=name,
        kind=kind,
        base=base,
        removed=tuple(node for n, node in before.items() if n not in kept),
        added=tuple(node for n, node in after.items() if n not in kept),
        rewired=tuple(rewired),
        inputs=None if same_inputs else inputs,
    )


def _slot_changes(consumer: str, old: tuple[str, ...], new: tuple[str, ...]) -> Iterator[Rewiring]:
    for slot in range(max(len(old), len(new))):
        was = old[slot] if slot < len(old) else None
        now = new[slot] if slot < len(new) else None
        if was != now:
            yield Rewiring(consumer, slot, was, now)


def _base_of(block: Block, before: Graph, after: Graph) -> str:
    """The block of `before` that a new block is best described as a copy of; "" when none shares half its nodes."""
    if block is after.main:
        return before.main.name
    mine = Counter(_keys(block))
    best, best_score = "", len(block.nodes) // 2
    for name in _candidates(block, before, after):
        score = sum((mine & Counter(_keys(before.block_map[name]))).values())
        if score > best_score:
            best, best_score = name, score
    return best


def _keys(block: Block) -> Iterator[tuple[str, str]]:
    return ((node.name, node.op) for node in block.nodes)


def _candidates(block: Block, before: Graph, after: Graph) -> Iterable[str]:
    """Blocks called where the new one is called now; then those of the same stem; then, if few, all."""
    sites = {(b.name, n.name) for b in after.all_blocks for n in b.nodes if n.callee == block.name}
    names = [n.callee for b in before.all_blocks for n in b.nodes if n.is_call and (b.name, n.name) in sites]
    stem = block.name.rstrip("0123456789").rstrip("_")
    names += [name for name in before.block_map if name.startswith(stem)]
    if len(before.blocks) <= 64:
        names += [b.name for b in before.blocks]
    return dict.fromkeys(names)


def _block_to_json(delta: BlockDelta) -> dict[str, Any]:
    data: dict[str, Any] = {"block": delta.block, "kind": delta.kind}
    if delta.base:
        data["base"] = delta.base
    data["removed"] = [serial.node_to_json(node) for node in delta.removed]
    data["added"] = [serial.node_to_json(node) for node in delta.added]
    data["rewired"] = [[r.consumer, r.slot, r.old, r.new] for r in delta.rewired]
    if delta.inputs:
        data["inputs"] = [[serial.value_to_json(v) for v in side] for side in delta.inputs]
    return data


def _block_from_json(data: Any, where: str) -> BlockDelta:
    keys = ("block", "kind", "base", "removed", "added", "rewired", "inputs")
    serial.expect_object(data, keys, where, required=("block", "kind", "removed", "added", "rewired"))
    nodes: dict[str, tuple[Node, ...]] = {}
    for side in ("removed", "added"):
        entries = serial.expect_list(data[side], f"{where}.{side}", serial.MAX_NODES)
        nodes[side] = tuple(serial.node_from_json(entry, f"{where}.{side}[{i}]") for i, entry in enumerate(entries))
    rewired = serial.expect_list(data["rewired"], f"{where}.rewired", serial.MAX_NODES)
    inputs = None
    if "inputs" in data:
        sides = [
            tuple(serial.value_from_json(v, f"{where}.inputs") for v in serial.expect_list(side, f"{where}.inputs"))
            for side in serial.expect_list(data["inputs"], f"{where}.inputs")
        ]
        if len(sides) != 2:
            raise serial.error(f"{where}.inputs", f"{len(sides)} lists", "two: before and after")
        inputs = (sides[0], sides[1])
    return BlockDelta(
        block=serial.expect_text(data["block"], f"{where}.block"),
        kind=serial.expect_text(data["kind"], f"{where}.kind"),
        base=serial.expect_text(data.get("base", ""), f"{where}.base"),
        removed=nodes["removed"],
        added=nodes["added"],
        rewired=tuple(_rewire_from_json(r, f"{where}.rewired[{i}]") for i, r in enumerate(rewired)),
        inputs=inputs,
    )


def _rewire_from_json(data: Any, where: str) -> Rewiring:
    items = serial.expect_list(data, where)
    if len(items) != 4 or not isinstance(items[1], int) or isinstance(items[1], bool) or items[1] < 0:
        raise serial.error(where, repr(items)[:80], "[consumer, slot, old, new]")
    old, new = (None if v is None else serial.expect_text(v, where) for v in items[2:])
    return Rewiring(serial.expect_text(items[0], where), items[1], old, new)
