"""Post-conditions of edits to whole layers: remove, duplicate, insert, skip connections."""

from collections.abc import Iterator

from genmad.evals.case import Case, Excess
from genmad.evals.flat import FlatCall, FlatGraph, Key, Source
from genmad.evals.untouched import Scope
from genmad.ir.graph import Block
from genmad.ir.graph import Graph as IrGraph


def _shape_of(graph: IrGraph, block: Block) -> tuple[object, ...]:
    """A block without its name: two calls run the same layer when these are equal."""
    nodes = tuple(
        (n.name, _shape_of(graph, graph.block_map[n.callee]) if n.is_call else n.op, n.inputs, n.attrs, n.params)
        for n in block.nodes
    )
    return (block.inputs, nodes, block.outputs)


def same_layer(a: FlatGraph, one: FlatCall, b: FlatGraph, other: FlatCall) -> bool:
    """Whether two calls run structurally equal blocks."""
    return _shape_of(a.graph, one.block) == _shape_of(b.graph, other.block)


def path_slot(call: FlatCall) -> int:
    """Index of the input that a layer passes on: the first one with the type of its first output."""
    kinds = call.block.input_types
    return next((i for i, kind in enumerate(kinds) if kind == call.block.output_types[0]), 0)


# removal


def check_remove(case: Case) -> Iterator[str]:
    gone = {key: case.before.calls[key] for key in case.layers}
    yield from (f"{call.path} is still there" for key, call in gone.items() if key in case.after.calls)
    for key, call in gone.items():
        source = call.inputs[path_slot(call)]
        while source is not None and (inner := _owner(source, gone)) is not None:
            source = inner.inputs[path_slot(inner)]
        readers = case.before.users.get(call.outputs[0], ())
        for user, slot in readers:
            if any(user[: len(k)] == k for k in gone):
                continue
            if case.joint and user in case.waived:
                continue
            reads = case.after.nodes[user].inputs if user in case.after.nodes else case.after.outputs
            if slot >= len(reads) or source is None or not case.comes_from(reads[slot], source):
                yield f"{'.'.join(user)} does not read what {'.'.join(key)} read"
    if not gone:
        raise ValueError("request remove_layer names no layer")
    yield from (Excess(f"{node.path} was added") for node in case.added())


def _owner(source: Source, calls: dict[Key, FlatCall]) -> FlatCall | None:
    return next((call for key, call in calls.items() if source[0][: len(key)] == key), None)


def scope_remove(case: Case) -> Scope:
    return Scope(open=case.open_blocks(case.layers), leaving=frozenset(case.layers))


# duplication and insertion


def check_duplicate(case: Case) -> Iterator[str]:
    """A copy of the layer itself stands right behind it."""
    yield from _check_new_calls(case, after=True, like_target=True)


def check_insert(case: Case) -> Iterator[str]:
    """A further layer like the others stands behind the target, or before it where the request says so."""
    yield from _check_new_calls(case, after=_goes_after(case), like_target=False)


def _goes_after(case: Case) -> bool:
    return not case.value("before", default=False)


def _check_new_calls(case: Case, *, after: bool, like_target: bool) -> Iterator[str]:
    if not case.layers:
        raise ValueError(f"request {case.request.intent} names no layer")
    count = case.value("count", "times", default=1)
    fresh = {call.key: call for unit in case.layers for call in case.sibling_calls(unit)}
    if len(fresh) != count * len(case.layers):
        yield Excess(f"{len(fresh)} layers were added instead of {count * len(case.layers)}")
    scopes = [call.scope for call in case.after.calls.values()]
    for call in fresh.values():
        if scopes.count(call.scope) > 1:
            yield f"{call.path} shares its weights"
    for unit in case.layers:
        call = case.before.calls[unit]
        now = case.after.calls.get(unit)
        if now is None:
            yield f"{call.path} is gone"
            continue
        found = list(_chain(now, fresh, after))
        if len(found) != count:
            yield f"{len(found)} new layers {'after' if after else 'before'} {call.path} instead of {count}"
        for other in found:
            alike = [call] if like_target else [c for k, c in case.before.calls.items() if k[:-1] == unit[:-1]]
            alike_now = [c for k in (a.key for a in alike) if case.joint and (c := case.after.calls.get(k)) is not None]
            same = any(same_layer(case.before, c, case.after, other) for c in alike)
            if not same and not any(same_layer(case.after, c, case.after, other) for c in alike_now):
                yield f"{other.path} is no layer like {call.path}"
            yield from _other_inputs(now, other)
        if found and after:
            yield from case.moved_readers(call.outputs[0], found[-1].outputs[0])


def _chain(start: FlatCall, fresh: dict[Key, FlatCall], after: bool) -> Iterator[FlatCall]:
    """New calls one behind the other after `start`, or one before the other in front of it."""
    here = start
    while True:
        if after:
            near = [c for c in fresh.values() if c.inputs[path_slot(c)] == here.outputs[0]]
        else:
            near = [c for c in fresh.values() if c.outputs[0] == here.inputs[path_slot(here)]]
        if not near or near[0].key == start.key:
            return
        here = near[0]
        yield here


def _other_inputs(call: FlatCall, copy: FlatCall) -> Iterator[str]:
    """Everything but the path itself (positions, masks) must be read from where the layer beside it reads it."""
    slot = path_slot(call)
    for i, (a, b) in enumerate(zip(call.inputs, copy.inputs, strict=False)):
        if i != slot and a != b:
            yield f"input {i} of {copy.path} is not that of {call.path}"


def scope_new_calls(case: Case) -> Scope:
    return Scope(open=case.open_blocks(case.layers))
