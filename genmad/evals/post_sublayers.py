"""Post-conditions of how a layer is put together: parallel halves, sandwich norms, normalised queries, gates."""

from collections.abc import Iterator

from genmad.evals.case import Case, Excess
from genmad.evals.flat import FlatNode, Key, Source, destinations, projection_input
from genmad.evals.post_attention import own_attention
from genmad.evals.post_branches import part_ends
from genmad.evals.post_linear import NORMS, mlp_inputs
from genmad.evals.untouched import Scope

# attention and MLP side by side


def _before_norm(case: Case, source: Source | None) -> tuple[FlatNode | None, Source | None]:
    """The norm that gives a value, with what it reads; (None, value) where no norm does."""
    node = case.before.nodes.get(source[0]) if source is not None else None
    return (node, node.inputs[0]) if node is not None and node.op in NORMS else (None, source)


def _second_norm(case: Case, unit: Key) -> FlatNode | None:
    """The norm in front of the layer's feed-forward part."""
    first = next(iter(mlp_inputs(case.before, unit)), None)
    return _before_norm(case, first.inputs[0])[0] if first is not None else None


def check_parallel(case: Case) -> Iterator[str]:
    """The norm before the MLP reads the stream that attention starts from, and attention is not on its way."""
    own = own_attention(case)
    for unit in case.units:
        attention = next((n for n in own if n.key[: len(unit)] == unit), None)
        norm = _second_norm(case, unit)
        if attention is None or norm is None:
            yield f"{'.'.join(unit)} has no two halves"
            continue
        stream = _before_norm(case, projection_input(case.before, attention))[1]
        now = case.after.nodes.get(norm.key)
        if now is None or now.inputs[0] != stream:
            yield f"{norm.path} does not read what the attention of its layer starts from"
        elif attention.key not in case.after.nodes:
            yield f"{attention.path} is gone"
        elif not any(attention.key in case.after.above(out) for out in case.after.unit_outputs(unit)):
            yield f"{attention.path} does not reach the output any more"
    yield from (Excess(f"{node.path} was added") for node in case.added())


def scope_parallel(case: Case) -> Scope:
    found = (_second_norm(case, unit) for unit in case.units)
    return Scope(open=frozenset(), rewired=frozenset(norm.key for norm in found if norm is not None))


# norms at the end of both branches


def check_sandwich(case: Case) -> Iterator[str]:
    wanted, count = str(case.value("norm")), 0
    for unit in case.units:
        for part in ("attention", "mlp"):
            ends = part_ends(case, unit, part)
            if ends is None:
                yield f"{'.'.join(unit)} has no {part}"
                continue
            count += 1
            fresh = [n for n in case.added(unit) if n.op == wanted and n.inputs[0] == ends[1]]
            if len(fresh) != 1:
                yield f"{len(fresh)} new {wanted} behind the {part} of {'.'.join(unit)}"
            else:
                yield from case.moved_readers(ends[1], fresh[0].out)
    if len(case.added()) != count:
        yield Excess(f"{len(case.added())} nodes were added instead of {count}")


# normalised queries and keys


def check_qk_norm(case: Case) -> Iterator[str]:
    wanted, own = str(case.value("norm", default="RMSNorm")), own_attention(case)
    if not own:
        yield Excess("no attention among the targets")
    for node in own:
        now = case.after.nodes.get(node.key)
        if now is None or now.op != "Attention" or (now.attrs != node.attrs and not case.joint):
            yield f"{node.path} is not what it was"
            continue
        for slot, word in enumerate(("queries", "keys")):
            source = now.inputs[slot]
            norm = case.after.nodes.get(source[0]) if source is not None else None
            if norm is None or norm.key in case.before.nodes or norm.op != wanted:
                yield f"the {word} of {node.path} are not normalised by a new {wanted}"
            elif norm.inputs[0] != node.inputs[slot]:
                yield f"{norm.path} does not read the {word} of {node.path}"
        if now.inputs[2:] != node.inputs[2:]:
            yield f"{node.path} reads other values"
    if len(case.added()) != 2 * len(own):
        yield Excess(f"{len(case.added())} nodes were added instead of {2 * len(own)}")


# a gate on what attention gives


def check_attention_gate(case: Case) -> Iterator[str]:
    own = own_attention(case)
    if not own:
        yield Excess("no attention among the targets")
    for node in own:
        outer = next(destinations(case.before, node.out), None)
        now = case.after.nodes.get(outer.key) if outer is not None else None
        if outer is None or now is None or outer.inputs[0] is None or now.inputs[0] is None:
            yield f"{node.path} has no output projection"
            continue
        yield from _gate_problems(case, node, outer.inputs[0], now.inputs[0])
    if len(case.added()) != 3 * len(own):
        yield Excess(f"{len(case.added())} nodes were added instead of {3 * len(own)}")


def _gate_problems(case: Case, attention: FlatNode, was: Source, now: Source) -> Iterator[str]:
    product = case.after.nodes.get(now[0])
    if product is None or product.op != "Mul" or product.key in case.before.nodes or was not in product.inputs:
        yield f"what {attention.path} gives is not multiplied"
        return
    other = next((s for s in product.inputs if s is not None and s != was), None)
    gate = case.after.nodes.get(other[0]) if other is not None else None
    linear = case.after.nodes.get(gate.inputs[0][0]) if gate is not None and gate.inputs[0] is not None else None
    if gate is None or gate.op != "Sigmoid" or linear is None or linear.op != "Linear":
        yield f"{product.path} does not multiply by a sigmoid of a projection"
    elif linear.inputs[0] != projection_input(case.before, attention):
        yield f"{linear.path} does not read what {attention.path} was made from"


def scope_units(case: Case) -> Scope:
    return case.scope()


# no rotary embedding


def _rotary(case: Case) -> list[FlatNode]:
    """The rotary embeddings of queries and keys of the targeted attention."""
    found = []
    for node in own_attention(case):
        near = frozenset().union(*(case.before.above(s) for s in node.inputs[:2] if s is not None))
        inside = case.before.inside(case.unit_of(node.key))
        found += [n for n in inside if n.op == "RotaryEmbedding" and n.key in near]
    return found


def check_no_rope(case: Case) -> Iterator[str]:
    found = _rotary(case)
    if not found:
        yield Excess("no rotary embedding among the targets")
    for node in found:
        if node.key in case.after.nodes:
            yield f"{node.path} is still there"
        elif node.inputs[0] is not None:
            yield from case.moved_readers(node.out, node.inputs[0])
    yield from (Excess(f"{node.path} was added") for node in case.added())


def scope_no_rope(case: Case) -> Scope:
    """The rotary embeddings go, and with them whatever only they needed."""
    leaving = {n.key for n in _rotary(case)}
    for unit in case.units:
        for node in reversed(case.before.inside(unit)):
            outs = [(node.key, i) for i in range(len(node.node.types))]
            users = {user for out in outs for user, _ in case.before.users.get(out, ())}
            if users and users <= leaving:
                leaving.add(node.key)
    return case.scope((), leaving)
