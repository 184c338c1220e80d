"""Whether everything outside an edit stayed as it was: op, attributes, wiring and parameter names, place by place."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from genmad.evals.flat import Key
from genmad.ir.graph import Block, Graph, Place, places, producer


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """What a request gives leave to change.

    Attributes:
        open: call paths (() for the main block) whose blocks may gain nodes and be rewired around them.
        changing: nodes whose op, attributes and parameters may differ.
        leaving: nodes or calls that may go, a call with everything below it.
        rewired: nodes that may read other values than before.
    """

    open: frozenset[Key]
    changing: frozenset[Key] = field(default=frozenset())
    leaving: frozenset[Key] = field(default=frozenset())
    rewired: frozenset[Key] = field(default=frozenset())

    def join(self, other: "Scope") -> "Scope":
        """Leave to change what either gives leave to change."""
        return Scope(
            open=self.open | other.open,
            changing=self.changing | other.changing,
            leaving=self.leaving | other.leaving,
            rewired=self.rewired | other.rewired,
        )

    def may_leave(self, key: Key) -> bool:
        return any(key[:n] in self.leaving for n in range(1, len(key) + 1))


def touched(before: Graph, after: Graph, scope: Scope) -> tuple[str, ...]:
    """What differs without leave, in words; empty when nothing does."""
    old, new = _by_key(before), _by_key(after)
    out = []
    if before.main.inputs != after.main.inputs:
        out.append("the model's inputs changed")
    for key, place in old.items():
        if key in new:
            out += _place_changes(place, new[key], scope, key)
        elif not scope.may_leave(key):
            out.append(f"{place.path} is gone")
    out += [f"{place.path} was added outside the request" for key, place in new.items() if _is_stray(key, old, scope)]
    bodies, fresh = _bodies(before, old), _bodies(after, new)
    for way, block in bodies.items():
        if way in fresh:
            out += _wiring_changes(way, block, fresh[way], scope)
    return tuple(out)


def _by_key(graph: Graph) -> Mapping[Key, Place]:
    return {(*place.calls, place.node.name): place for place in places(graph)}


def _bodies(graph: Graph, table: Mapping[Key, Place]) -> Mapping[Key, Block]:
    """The block that each call path runs, the main one under ()."""
    calls = {key: graph.block_map[p.node.callee] for key, p in table.items() if p.node.is_call}
    return {(): graph.main, **calls}


def _is_stray(key: Key, old: Mapping[Key, Place], scope: Scope) -> bool:
    """Whether a place is new, and neither stands in an open block nor below a new call that does."""
    if key in old:
        return False
    first_new = next(key[:n] for n in range(1, len(key) + 1) if key[:n] not in old)
    return first_new[:-1] not in scope.open


def _place_changes(old: Place, new: Place, scope: Scope, key: Key) -> Iterator[str]:
    a, b = old.node, new.node
    if a.is_call or b.is_call:
        if a.is_call != b.is_call or a.scope != b.scope or old.path != new.path:
            yield f"{old.path} runs something else"
        return
    if key in scope.changing:
        return
    if a.op != b.op:
        yield f"{old.path} is {b.op} instead of {a.op}"
    elif a.attrs != b.attrs:
        changed = [k for k, v in a.attrs if b.attr_map.get(k) != v]
        yield f"{old.path} has other {', '.join(changed)}"
    elif [(s, old.prefix + n) for s, n in a.params] != [(s, new.prefix + n) for s, n in b.params]:
        yield f"{old.path} has other parameters"


def _wiring_changes(way: Key, old: Block, new: Block, scope: Scope) -> Iterator[str]:
    here = ".".join(way) or "the model"
    if [v.name for v in old.inputs] != [v.name for v in new.inputs]:
        yield f"inputs of {here} changed"
    if len(old.outputs) != len(new.outputs):
        yield f"outputs of {here} changed in number"
    pairs = [(f"outputs of {here}", old.outputs, new.outputs, True)]
    for node in old.nodes:
        other = new.by_name.get(node.name)
        if other is not None and (*way, node.name) not in scope.rewired:
            fixed = (*way, node.name) not in scope.changing
            pairs.append((f"inputs of {'.'.join((*way, node.name))}", node.inputs, other.inputs, fixed))
    for where, was, now, fixed in pairs:
        if fixed and len(was) != len(now):
            yield f"{where}: {len(now)} instead of {len(was)}"
        for a, b in zip(was, now, strict=False):
            if a != b and not (way in scope.open and _is_detour(a, b, old, new)):
                yield f"{where}: {b or 'nothing'} instead of {a or 'nothing'}"


def _is_detour(was: str, now: str, old: Block, new: Block) -> bool:
    """Whether reading `now` for `was` is what adding or removing nodes beside the reader brings with it.

    Either new nodes were put into the path (they are computed from `was`), or what made `was` is gone and `now` is a
    new node in its stead or what the gone node read.
    """
    if not was or not now:
        return False
    gone = producer(was) not in new.by_name and producer(was) in old.by_name
    if producer(now) in new.by_name and producer(now) not in old.by_name:
        return gone or was in _read_by_new(now, old, new)
    return gone and now in _bypass(was, old, new)


def _read_by_new(value: str, old: Block, new: Block) -> frozenset[str]:
    """Old values that `value` is computed from through new nodes only."""
    found: set[str] = set()
    seen: set[str] = set()
    stack = [value]
    while stack:
        name = producer(top := stack.pop())
        if name in old.by_name or name not in new.by_name:
            found.add(top)
        elif name not in seen:
            seen.add(name)
            stack += [v for v in new.by_name[name].inputs if v]
    return frozenset(found)


def _bypass(value: str, old: Block, new: Block) -> frozenset[str]:
    """What remains when the gone nodes behind `value` are skipped: the values they read."""
    found: set[str] = set()
    stack = [value]
    while stack:
        name = producer(top := stack.pop())
        if name in old.by_name and name not in new.by_name:
            stack += [v for v in old.by_name[name].inputs if v]
        else:
            found.add(top)
    return frozenset(found)
