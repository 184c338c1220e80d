"""Post-conditions of edits to branches: connections around layers and modules, branches taken out."""

from collections.abc import Iterator

from genmad.evals.case import Case, Excess
from genmad.evals.flat import FlatNode, Key, Source, destinations, projection_input
from genmad.evals.post_attention import own_attention
from genmad.evals.post_layers import path_slot
from genmad.evals.post_linear import GATED, mlp_inputs
from genmad.evals.untouched import Scope

PARTS = ("attention", "mlp")


def part_ends(case: Case, unit: Key, part: str) -> tuple[Source, Source] | None:
    """What the attention or the MLP of a layer reads and what it gives, before the edit; None where there is none."""
    flat = case.before
    if part == "attention":
        node = next((n for n in own_attention(case) if n.key[: len(unit)] == unit), None)
        source = projection_input(flat, node) if node is not None else None
    else:
        node = next(iter(mlp_inputs(flat, unit)), None)
        source = node.inputs[0] if node is not None else None
    if node is None or source is None or node.key in case.waived:
        return None
    return source, node.out if node.op in GATED else _last_linear(case, node).out


def _last_linear(case: Case, node: FlatNode) -> FlatNode:
    """The linear layer that ends what starts at a node; the node itself where there is none."""
    found = next(destinations(case.before, node.out), None)
    if found is not None:
        return found
    below = case.before.below(node.out)
    linears = (
        n for n in case.before.inside(case.unit_of(node.key)) if n.key in below and n.op in ("Linear", "LoRALinear")
    )
    return next(linears, node)


# skip connections


def check_skip(case: Case) -> Iterator[str]:
    """Around each target one sum of what goes in and what comes out, read by all that read what came out."""
    fresh = [n for n in case.added() if n.op == "Add"]
    spans = list(_spans(case))
    others = {n.op for n in case.added()} - {"Add"}
    if others:
        yield Excess(f"{', '.join(sorted(others))} was added")
    if len(fresh) != len(spans):
        yield Excess(f"{len(fresh)} sums were added instead of {len(spans)}")
    for came_in, came_out in spans:
        sums = [n for n in fresh if _joins(case, n, came_in, came_out)]
        if not sums:
            yield f"no sum of what goes into and out of {'.'.join(came_out[0])}"
        else:
            yield from min((list(case.moved_readers(came_out, node.out)) for node in sums), key=len)


def _spans(case: Case) -> Iterator[tuple[Source, Source]]:
    """(what goes in, what comes out) of each thing that a connection is asked around."""
    part = case.value("around", "part", default="layer")
    if case.nodes:
        first, last = case.before.nodes[case.nodes[0]], case.before.nodes[case.nodes[-1]]
        if first.inputs[0] is not None:
            yield first.inputs[0], last.out
        return
    for unit in case.layers:
        call = case.before.calls[unit]
        source = call.inputs[path_slot(call)]
        ends = part_ends(case, unit, part) if part in PARTS else None
        if ends is not None:
            yield ends
        elif source is not None and part not in PARTS:
            yield source, call.outputs[0]


def _joins(case: Case, node: FlatNode, came_in: Source, came_out: Source) -> bool:
    """Whether a sum adds `came_in` (or the sum put behind it by the same request) to `came_out`."""
    a, b = node.inputs[:2]
    if a is None or b is None:
        return False
    return any(
        came_out in case.stands_for(y) and (came_in in case.stands_for(x) or _stems_from(case, x, came_in))
        for x, y in ((a, b), (b, a))
    )


def _stems_from(case: Case, value: Source, old: Source) -> bool:
    """Whether an added sum stands where `old` stood: it is one of its operands."""
    node = case.after.nodes.get(value[0])
    return node is not None and node.key not in case.before.nodes and old in node.inputs


def scope_skip(case: Case) -> Scope:
    outer = case.open_blocks([*case.layers, *case.nodes])
    return Scope(open=outer | (case.open_units() if case.layers else frozenset()))


# a branch taken out


def check_remove_module(case: Case) -> Iterator[str]:
    """The attention or MLP is gone from each layer, and its residual path runs on."""
    part = case.value("part", "module")
    for unit in case.layers:
        merge = _merge_of(case, unit, part)
        name = ".".join(unit)
        if merge is None:
            yield f"{name} has no {part} beside a residual path"
            continue
        node, skip = merge
        yield from case.moved_readers(node.out, skip)
        inner = own_attention(case) if part == "attention" else mlp_inputs(case.before, unit)
        yield from (
            f"{n.path} is still there" for n in inner if n.key[: len(unit)] == unit and n.key in case.after.nodes
        )
    yield from (Excess(f"{node.path} was added") for node in case.added())


def _merge_of(case: Case, unit: Key, part: str) -> tuple[FlatNode, Source] | None:
    """The sum in which a branch of a layer ends, and its other operand."""
    ends = part_ends(case, unit, part)
    if ends is None:
        return None
    below = case.before.below(ends[1])
    for node in case.before.inside(unit):
        if node.op != "Add" or node.key not in below:
            continue
        others = [s for s in node.inputs if s is not None and s[0] not in below and s[0] != ends[1][0]]
        return (node, others[0]) if len(others) == 1 else None
    return None


def scope_remove_module(case: Case) -> Scope:
    """The sum goes, and whatever only it needed."""
    leaving: set[Key] = set()
    for unit in case.layers:
        merge = _merge_of(case, unit, case.value("part", "module"))
        if merge is None:
            continue
        leaving.add(merge[0].key)
        for node in reversed(case.before.inside(unit)):
            outs = ((node.key, i) for i in range(len(node.node.types)))
            users = {user for out in outs for user, _ in case.before.users.get(out, ())}
            if users and users <= leaving:
                leaving.add(node.key)
    return case.scope((), leaving)
