"""Post-conditions of what stands in for attention: convolutions, hashing, heads of two kinds, pooled keys."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from genmad.evals.case import Case, Excess
from genmad.evals.flat import FlatNode, Key, destinations, origin, projection_input
from genmad.evals.post_attention import _merge_problems, own_attention
from genmad.evals.untouched import Scope


@dataclass(frozen=True, slots=True)
class Primitive:
    """An op that a request asks for.

    Attributes:
        op: its name.
        usual: its sizes where the sentence leaves them open.
    """

    op: str
    usual: Mapping[str, int | None]


PRIMITIVES = {
    "sg_conv": Primitive("SGConv", {"kernel_size": 32, "num_scales": 4}),
    "sg_conv3": Primitive("SGConv", {"kernel_size": 3, "num_scales": 4}),
    "separable_conv": Primitive("SeparableConv1d", {"kernel_size": 7}),
    "lsh_attention": Primitive("LSHAttention", {"num_hashes": 4, "num_buckets": 32}),
    "mixed_heads": Primitive("MixedAttention", {"local_heads": None, "window": 128}),
    "hierarchical_convert": Primitive("HierarchicalAttention", {"levels": 3, "pool": 2}),
    "hierarchical_branch": Primitive("HierarchicalAttention", {"levels": 3, "pool": 2}),
}


def _size_problems(case: Case, fresh: FlatNode, old: FlatNode) -> Iterator[str]:
    """Wrong sizes, heads or direction of a new mixer."""
    for name, usual in PRIMITIVES[case.request.intent].usual.items():
        wanted, found = case.value(name, default=usual), fresh.attrs[name]
        if wanted is None:
            wanted = (None, old.attrs["num_heads"] // 2)
        if found != wanted and not (isinstance(wanted, tuple) and found in wanted):
            yield f"{fresh.path} has {name} {found} instead of {wanted}"
    if fresh.attrs["causal"] != old.attrs["causal"]:
        yield f"{fresh.path} has causal {fresh.attrs['causal']} instead of {old.attrs['causal']}"
    if "num_heads" in fresh.attrs and fresh.attrs["num_heads"] != old.attrs["num_heads"]:
        yield f"{fresh.path} has {fresh.attrs['num_heads']} heads instead of {old.attrs['num_heads']}"


def _fresh(case: Case, unit: Key) -> list[FlatNode]:
    """New nodes of the op that is asked for, and old places that have it now."""
    op = PRIMITIVES[case.request.intent].op
    return [
        n for n in case.after.inside(unit)
        if n.op == op and (n.key not in case.before.nodes or case.before.nodes[n.key].op != op)
    ]  # fmt: skip


def _pairs(case: Case) -> Iterator[tuple[FlatNode, FlatNode | None, str]]:
    """Each attention that the request is about, with the one new op of its layer, else with what is wrong."""
    own = own_attention(case)
    if not own:
        yield from ()
    for node in own:
        unit = case.unit_of(node.key)
        fresh = _fresh(case, unit)
        if len(fresh) != sum(case.unit_of(n.key) == unit for n in own):
            yield node, None, f"{len(fresh)} new {PRIMITIVES[case.request.intent].op} for {node.path}"
        else:
            yield node, fresh[[n.key for n in own if case.unit_of(n.key) == unit].index(node.key)], ""


def _needs_attention(case: Case) -> Iterator[str]:
    if not own_attention(case):
        yield Excess("no attention among the targets")


# convolutions in the place of attention, projections included


def check_convolution(case: Case) -> Iterator[str]:
    """The convolution reads what attention was made from, and gives what its output projection gave."""
    yield from _needs_attention(case)
    for node, fresh, problem in _pairs(case):
        if fresh is None:
            yield problem
            continue
        if _still(case, node):
            yield f"{node.path} is still attention"
        yield from _size_problems(case, fresh, node)
        if fresh.inputs[0] != projection_input(case.before, node):
            yield f"{fresh.path} does not read what {node.path} was made from"
        outer = next(destinations(case.before, node.out), None)
        yield from case.moved_readers(outer.out if outer is not None else node.out, fresh.out)
    yield from _others(case)


def _still(case: Case, node: FlatNode) -> bool:
    return node.key in case.after.nodes and case.after.nodes[node.key].op == "Attention"


def _others(case: Case) -> Iterator[str]:
    extra = {n.op for unit in case.units for n in case.added(unit)} - {PRIMITIVES[case.request.intent].op}
    if extra:
        yield Excess(f"{', '.join(sorted(extra))} was added too")


# hashing: the queries are the keys


def check_lsh(case: Case) -> Iterator[str]:
    yield from _needs_attention(case)
    for node, fresh, problem in _pairs(case):
        if fresh is None:
            yield problem
            continue
        if _still(case, node):
            yield f"{node.path} is still attention"
        yield from _size_problems(case, fresh, node)
        if fresh.inputs != (node.inputs[0], node.inputs[2]):
            yield f"{fresh.path} does not read the queries and the values of {node.path}"
        yield from case.moved_readers(node.out, fresh.out)
        outer = next(destinations(case.before, node.out), None)
        if outer is not None and outer.key not in case.after.nodes:
            yield f"{outer.path} is gone"
    yield from _others(case)


# another op with the same operands


def check_same_operands(case: Case) -> Iterator[str]:
    """Where attention stood, the op that is asked for reads the same queries, keys and values."""
    yield from _needs_attention(case)
    for node in own_attention(case):
        now = case.after.nodes.get(node.key)
        if now is None or now.op != PRIMITIVES[case.request.intent].op:
            yield f"{node.path} is {now.op if now else 'gone'}"
            continue
        yield from _size_problems(case, now, node)
        if now.inputs != node.inputs[:3]:
            yield Excess(f"{now.path} reads something else")
    yield from (Excess(f"{node.path} was added") for node in case.added())


def scope_same_operands(case: Case) -> Scope:
    return case.scope(own_attention(case))


# a second attention over pooled keys


def check_hierarchical_branch(case: Case) -> Iterator[str]:
    yield from _needs_attention(case)
    for node, fresh, problem in _pairs(case):
        if fresh is None:
            yield problem
        elif node.key not in case.after.nodes or case.after.nodes[node.key].node != node.node:
            yield f"{node.path} is not what it was"
        else:
            yield from _size_problems(case, fresh, node)
            yield from _operand_problems(case, fresh, node)
            yield from _merge_problems(case, case.unit_of(node.key), fresh, node, projections=1)


def _operand_problems(case: Case, fresh: FlatNode, own: FlatNode) -> Iterator[str]:
    """Queries, keys and values come from new linear layers over what the layer's own are made from."""
    read = projection_input(case.after, case.after.nodes[own.key])
    found = [origin(case.after, s) for s in fresh.inputs if s is not None]
    for linear, word in zip(found, ("query", "key", "value"), strict=True):
        if linear is None or linear.key in case.before.nodes:
            yield f"the {word} of {fresh.path} does not come from a new linear layer"
        elif linear.inputs[0] != read:
            yield f"the {word} of {fresh.path} is not read from the input of {own.path}"
    if len({linear.key for linear in found if linear is not None}) < 3:
        yield f"{fresh.path} shares a projection"
