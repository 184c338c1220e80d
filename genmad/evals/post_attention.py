"""Post-conditions of edits to attention: local branches, windows, heads, soft caps, long convolutions."""

from collections.abc import Iterator

from genmad.evals.case import Case, Excess, linears_between
from genmad.evals.flat import LINEAR, PASSIVE, FlatGraph, FlatNode, Key, is_self_attention, origin, projection_input
from genmad.evals.untouched import Scope

ATTENTION = ("Attention",)


def own_attention(case: Case) -> tuple[FlatNode, ...]:
    """Attention that the request is about: the named nodes, else the self-attention of the units."""
    found = case.targets(ATTENTION)
    selves = tuple(node for node in found if is_self_attention(case.before, node))
    return found if case.nodes else selves or found


def heads(node: FlatNode) -> tuple[int, int, int]:
    """Query heads, key/value heads and head size of an attention node."""
    query, key = node.types[0], node.types[1]
    count = node.attrs["num_heads"]
    assert query is not None
    assert key is not None
    if query.rank == 4:
        return count, _int(key.shape[1]), _int(query.shape[3])
    size = _int(query.shape[-1]) // count
    return count, _int(key.shape[-1]) // size, size


def _int(dim: object) -> int:
    if not isinstance(dim, int):
        raise TypeError(f"expected a fixed width, got {dim}")
    return dim


# local attention as a branch beside the layer's own


def check_branch(case: Case) -> Iterator[str]:
    for unit in case.units:
        own = [node for node in own_attention(case) if case.unit_of(node.key) == unit]
        before = [n for n in case.before.inside(unit) if n.op == "Attention"]
        after = [n for n in case.after.inside(unit) if n.op == "Attention"]
        fresh = [n for n in after if n.key not in case.before.nodes]
        name = ".".join(unit) or "the model"
        if not own:
            yield f"{name} has no attention to stand beside"
        elif len(after) != len(before) + 1 or len(fresh) != 1:
            yield Excess(f"{name} has {len(after)} attention nodes instead of {len(before) + 1}")
        else:
            problems = [list(_branch_problems(case, unit, fresh[0], node)) for node in own]
            yield from min(problems, key=len)


def _branch_problems(case: Case, unit: Key, fresh: FlatNode, own: FlatNode) -> Iterator[str]:
    """Why `fresh` is no local branch beside `own`."""
    after = case.after
    name, window = fresh.path, case.value("window", default=128)
    if fresh.attrs["window"] != window:
        yield f"{name} has window {fresh.attrs['window']} instead of {window}"
    for attr in ("num_heads", "causal"):
        if fresh.attrs[attr] != own.attrs[attr]:
            yield f"{name} has {attr} {fresh.attrs[attr]} instead of {own.attrs[attr]}"
    if own.key not in after.nodes:
        yield f"{own.path} is gone"
        return
    read = {projection_input(after, after.nodes[own.key], slot) for slot in range(3)}
    for slot, word in enumerate(("query", "key", "value")):
        source = fresh.inputs[slot]
        linear = origin(after, source) if source is not None else None
        if linear is None or linear.key in case.before.nodes:
            yield f"the {word} of {name} does not come from a new linear layer"
        elif linear.inputs[0] not in read:
            yield f"the {word} of {name} is not read from the input of {own.path}"
    yield from _merge_problems(case, unit, fresh, own, projections=1)


def _merge_problems(case: Case, unit: Key, fresh: FlatNode, own: FlatNode, projections: int) -> Iterator[str]:
    """Whether the branch, after so many projections, is added to what the layer's own attention gives."""
    after = case.after
    merges = [n for n in case.added(unit) if n.op == "Add" and n.key in after.below(fresh.out)]
    reached = [n for n in merges if any(n.key in after.above(out) for out in after.unit_outputs(unit))]
    if not reached:
        yield f"{fresh.path} does not reach the output of {'.'.join(unit) or 'the model'} through an added sum"
        return
    merge = reached[0]
    mine = [s for s in merge.inputs if s is not None and fresh.key in after.above(s)]
    other = [s for s in merge.inputs if s is not None and fresh.key not in after.above(s)]
    if len(mine) != 1 or len(other) != 1 or own.key not in after.above(other[0]):
        yield f"{merge.path} does not add the branch to the result of {own.path}"
        return
    if linears_between(after, fresh.out, mine[0]) != projections:
        yield f"{fresh.path} is not followed by {projections} projections of its own"
    places = [s for s in case.stands_for(other[0]) if own.key in case.before.above(s)]
    if not any(linears_between(case.before, own.out, place) == 1 for place in places):
        yield f"{merge.path} adds the branch elsewhere than at the output projection of {own.path}"
    for place in places:
        yield from case.moved_readers(place, merge.out)


def scope_units(case: Case) -> Scope:
    return case.scope()


# changes of attributes


def check_window(case: Case) -> Iterator[str]:
    yield from _check_attr(case, "window", case.value("window", default=128))


def check_global(case: Case) -> Iterator[str]:
    yield from _check_attr(case, "window", None)


def check_softcap(case: Case) -> Iterator[str]:
    yield from _check_attr(case, "softcap", float(case.value("softcap", "value", "cap", default=50.0)))


def _check_attr(case: Case, name: str, wanted: object) -> Iterator[str]:
    own = own_attention(case)
    if not own:
        yield Excess("no attention among the targets")
    for node in own:
        now = case.after.nodes.get(node.key)
        if now is None or now.op != "Attention":
            yield f"{node.path} is no attention any more"
            continue
        if now.attrs[name] != wanted:
            yield f"{node.path} has {name} {now.attrs[name]} instead of {wanted}"
        others = [k for k, v in node.attrs.items() if k != name and now.attrs[k] != v]
        if others:
            yield Excess(f"{node.path} has other {', '.join(others)}")
        if now.inputs != node.inputs:
            yield Excess(f"{node.path} reads something else")
    if case.added():
        yield Excess(f"{case.added()[0].path} was added")


def scope_attention(case: Case) -> Scope:
    return case.scope(own_attention(case))


# numbers of heads


def check_num_heads(case: Case) -> Iterator[str]:
    wanted = case.value("num_heads", "heads")
    if not own_attention(case):
        yield Excess("no attention among the targets")
    for node, now in _kept_attention(case):
        if now is None:
            yield f"{node.path} is no attention any more"
            continue
        old, new = heads(node), heads(now)
        if new[0] != wanted:
            yield f"{node.path} has {new[0]} heads instead of {wanted}"
        if new[0] * new[2] != old[0] * old[2]:
            yield f"{node.path} has width {new[0] * new[2]} instead of {old[0] * old[2]}"
        if {k: v for k, v in now.attrs.items() if k != "num_heads"} != {
            k: v for k, v in node.attrs.items() if k != "num_heads"
        }:
            yield Excess(f"{node.path} has other attributes than num_heads changed")


def check_kv_heads(case: Case) -> Iterator[str]:
    if not own_attention(case):
        yield Excess("no attention among the targets")
    wanted = 1 if case.request.intent == "gqa_to_mqa" else case.value("kv_heads", "num_kv_heads", "num_key_value_heads")
    for node, now in _kept_attention(case):
        if now is None:
            yield f"{node.path} is no attention any more"
            continue
        old, new = heads(node), heads(now)
        if new != (old[0], wanted, old[2]):
            yield f"{node.path} has heads, kv heads, head size {new} instead of {(old[0], wanted, old[2])}"
        value, width = now.types[2], node.types[2]
        assert value is not None
        assert width is not None
        size = _int(width.shape[-1]) // (1 if width.rank == 4 else old[1])
        if _int(value.shape[-1]) != size * (1 if value.rank == 4 else wanted):
            yield f"values of {node.path} do not have {wanted} heads of size {size}"
        if now.attrs != node.attrs:
            yield Excess(f"{node.path} has other attributes")


def _kept_attention(case: Case) -> Iterator[tuple[FlatNode, FlatNode | None]]:
    for node in own_attention(case):
        now = case.after.nodes.get(node.key)
        yield node, now if now is not None and now.op == "Attention" else None


def scope_heads(case: Case) -> Scope:
    """Attention and the reshapes and projections between it and its input may change."""
    return case.scope([*own_attention(case), *_around(case, {"Reshape", "Expand", "RotaryEmbedding"}, set())])


def scope_kv_heads(case: Case) -> Scope:
    return case.scope([*own_attention(case), *_around(case, {"Reshape", "Expand", "RotaryEmbedding"}, {1, 2})])


def _around(case: Case, ops: set[str], linear_slots: set[int]) -> Iterator[FlatNode]:
    """Nodes with `ops` above and below the attention in its unit, and the linear layers behind the given slots."""
    flat: FlatGraph = case.before
    for node in own_attention(case):
        near = flat.above(node.out) | flat.below(node.out)
        yield from (n for n in flat.inside(case.unit_of(node.key)) if n.op in ops and n.key in near)
        for slot in linear_slots:
            source = node.inputs[slot]
            linear = origin(flat, source) if source is not None else None
            if linear is not None:
                yield linear


# attention replaced by a long convolution


def check_long_conv(case: Case) -> Iterator[str]:
    size = case.value("kernel_size", "kernel", "length", default=128)
    own = own_attention(case)
    if not own:
        yield Excess("no attention among the targets")
    for node in own:
        unit = case.unit_of(node.key)
        fresh = [n for n in case.after.inside(unit) if n.op == "LongConv" and _is_new(case, n)]
        mine = [n for n in fresh if _reads_what(case, n, node)]
        if node.key in case.after.nodes and case.after.nodes[node.key].op == "Attention":
            yield f"{node.path} is still attention"
        if len(fresh) != sum(case.unit_of(n.key) == unit for n in own) or len(mine) != 1:
            yield f"{node.path} is not replaced by one long convolution of its input"
            continue
        conv = mine[0]
        if conv.attrs["kernel_size"] != size or conv.attrs["causal"] != node.attrs["causal"]:
            found = f"kernel_size {conv.attrs['kernel_size']}, causal {conv.attrs['causal']}"
            yield f"{conv.path} has {found} instead of {size}, {node.attrs['causal']}"
        if not any(conv.key in case.after.above(out) for out in case.after.unit_outputs(unit)):
            yield f"{conv.path} does not reach the output"
        if {n.op for n in case.added(unit)} - {"LongConv", "Reshape", "Transpose"}:
            yield Excess(f"more than a long convolution was added to {'.'.join(unit)}")


def _reads_what(case: Case, fresh: FlatNode, attention: FlatNode) -> bool:
    """Whether a new node reads what the queries of an attention were made from."""
    source = fresh.inputs[0]
    return source is not None and projection_input(case.before, attention) in case.stands_for(source)


def _is_new(case: Case, node: FlatNode) -> bool:
    old = case.before.nodes.get(node.key)
    return old is None or old.op != node.op


def scope_long_conv(case: Case) -> Scope:
    """The attention goes, and with it whatever only it needed."""
    own = own_attention(case)
    leaving: set[Key] = set()
    for node in own:
        leaving.add(node.key)
        unit = case.unit_of(node.key)
        for other in reversed(case.before.inside(unit)):
            users = {
                user for i in range(len(other.node.types)) for user, _ in case.before.users.get((other.key, i), ())
            }
            if other.key in case.before.above(node.out) and users and users <= leaving:
                leaving.add(other.key)
        leaving |= _merging(case, node)
    return case.scope(own, leaving)


def _merging(case: Case, attention: FlatNode) -> set[Key]:
    """Ops between attention and its output projection, and that: they may go, or stay behind the convolution."""
    found: set[Key] = set()
    for node in case.before.readers(attention.out):
        if node.op in PASSIVE:
            found |= {node.key} | _merging(case, node)
        elif node.op in LINEAR:
            found.add(node.key)
    return found


# a convolution as a branch beside attention


def check_conv_branch(case: Case) -> Iterator[str]:
    size = case.value("kernel_size", "kernel", default=7)
    own = own_attention(case)
    if not own:
        yield Excess("no attention among the targets")
    for node in own:
        unit = case.unit_of(node.key)
        fresh = [n for n in case.added(unit) if n.op in ("LongConv", "Conv")]
        mine = [n for n in fresh if _reads_what(case, n, node)]
        if node.key not in case.after.nodes or len(mine) != 1 or len(fresh) != 1:
            yield f"{node.path} has no convolution of its input beside it"
            continue
        conv = mine[0]
        if conv.attrs["kernel_size"] not in (size, (size,)):
            yield f"{conv.path} has kernel_size {conv.attrs['kernel_size']} instead of {size}"
        if conv.op == "LongConv" and conv.attrs["causal"] != node.attrs["causal"]:
            yield f"{conv.path} has causal {conv.attrs['causal']} instead of {node.attrs['causal']}"
        yield from _merge_problems(case, unit, conv, node, projections=0)
