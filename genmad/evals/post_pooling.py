"""Post-conditions of edits to pools and token mixers, and to the inner channels of convolutional blocks."""

from collections.abc import Iterator

from genmad.evals.case import Case, Excess
from genmad.evals.flat import FlatGraph, FlatNode, Source
from genmad.evals.post_conv_attributes import mixes_neighbours
from genmad.evals.post_linear import ACTIVATIONS, NORMS
from genmad.evals.untouched import Scope

POOLS = ("MaxPool", "AveragePool")
_THROUGH = NORMS | ACTIVATIONS | {"Pad", "SqueezeExcite", "Identity", "Sigmoid", "Tanh", "HardSigmoid"}


def _channels(node: FlatNode) -> int:
    kind = node.types[0]
    assert kind is not None
    width = kind.shape[1]
    assert isinstance(width, int)
    return width


# another kind of pool


def _old_pools(case: Case) -> tuple[FlatNode, ...]:
    return case.targets(POOLS, lambda node: node.op == case.value("old"))


def check_swap_pooling(case: Case) -> Iterator[str]:
    new = str(case.value("new"))
    yield from _check_op(case, _old_pools(case), new)
    for node in _old_pools(case):
        now = case.after.nodes.get(node.key)
        if now is not None and new == "Conv" and now.op == new and now.attrs["out_channels"] != _channels(node):
            yield f"{node.path} gives {now.attrs['out_channels']} channels instead of {_channels(node)}"


def _check_op(case: Case, targets: tuple[FlatNode, ...], new: str) -> Iterator[str]:
    """Each target is now a `new` of the same kernel and stride, with outputs of the same type."""
    if not targets:
        yield Excess("nothing among the targets is to be replaced")
    for node in targets:
        now = case.after.nodes.get(node.key)
        if now is None or now.op != new:
            yield f"{node.path} is {now.op if now else 'gone'} instead of {new}"
            continue
        changed = [k for k in ("kernel_size", "stride", "padding") if now.attrs[k] != node.attrs[k]]
        if changed or now.inputs != node.inputs:
            yield Excess(f"{node.path} changed in {', '.join(changed) or 'what it reads'}")
        if now.types == node.types and now.node.types != node.node.types:
            yield f"{node.path} gives {now.node.types[0]} instead of {node.node.types[0]}"
    yield from (Excess(f"{node.path} was added") for node in case.added())


def scope_swap_pooling(case: Case) -> Scope:
    return case.scope(_old_pools(case))


# no pool


def _pools(case: Case) -> tuple[FlatNode, ...]:
    return case.targets(POOLS)


def check_remove_pooling(case: Case) -> Iterator[str]:
    for node in _pools(case):
        if node.key in case.after.nodes:
            yield f"{node.path} is still there"
        source = node.inputs[0]
        if source is not None:
            yield from case.moved_readers(node.out, source)
    if not _pools(case):
        yield Excess("no pool among the targets")
    yield from (Excess(f"{node.path} was added") for node in case.added())


def scope_remove_pooling(case: Case) -> Scope:
    return case.scope(leaving=[node.key for node in _pools(case)])


# size of a pool


def check_pool_size(case: Case) -> Iterator[str]:
    size = case.value("kernel_size", "size")
    if not _pools(case):
        yield Excess("no pool among the targets")
    for node in _pools(case):
        now = case.after.nodes.get(node.key)
        if now is None or now.op != node.op:
            yield f"{node.path} is no {node.op} any more"
        elif set(now.attrs["kernel_size"]) != {size}:
            yield f"{node.path} has kernel {now.attrs['kernel_size']} instead of {size}"
        elif now.node.types != node.node.types or now.attrs["stride"] != node.attrs["stride"]:
            yield f"{node.path} gives {now.node.types[0]} instead of {node.node.types[0]}"


def scope_pool_size(case: Case) -> Scope:
    return case.scope(_pools(case))


# token mixers


def _mixers(case: Case) -> tuple[FlatNode, ...]:
    if case.value("mixer") == "pool":
        return case.targets(("Conv",), _is_mixing_conv)
    return case.targets(("AveragePool",), lambda n: set(n.attrs["stride"]) == {1} and max(n.attrs["kernel_size"]) > 1)


def _is_mixing_conv(node: FlatNode) -> bool:
    """Depthwise, overlapping, at full resolution."""
    attrs = node.attrs
    depthwise = attrs["groups"] == attrs["out_channels"] == _channels(node) and set(attrs["stride"]) == {1}
    return bool(depthwise and set(attrs["dilation"]) == {1} and mixes_neighbours(node))


def check_token_mixer(case: Case) -> Iterator[str]:
    pool = case.value("mixer") == "pool"
    yield from _check_op(case, _mixers(case), "AveragePool" if pool else "Conv")
    for node in _mixers(case):
        now = case.after.nodes.get(node.key)
        if now is not None and now.op == "Conv" and not pool and now.attrs["groups"] != _channels(node):
            yield f"{node.path} has {now.attrs['groups']} groups instead of {_channels(node)}"


def scope_token_mixer(case: Case) -> Scope:
    return case.scope(_mixers(case))


# inner channels


def _inner(case: Case) -> tuple[FlatNode, ...]:
    """Convolutions read, through norms and activations, by one other convolution and by nothing else."""
    return case.targets(("Conv",), lambda node: _sole_conv(case.before, node.out) is not None)


def _sole_conv(flat: FlatGraph, source: Source) -> FlatNode | None:
    users = flat.users.get(source, ())
    if len(users) != 1 or users[0][0] not in flat.nodes:
        return None
    node = flat.nodes[users[0][0]]
    if node.op == "Conv":
        return node
    return _sole_conv(flat, node.out) if node.op in _THROUGH else None


def check_conv_width(case: Case) -> Iterator[str]:
    targets = [n for n in _inner(case) if any(n.key[:-1] == m.key[:-1] for m in _readers_of(case, n))]
    if not targets:
        yield Excess("no inner convolution among the targets")
    width, times, over = case.value("width"), case.value("times", "factor", default=1), case.value("over", default=1)
    for node in targets:
        now = case.after.nodes.get(node.key)
        wanted = width if width is not None else node.attrs["out_channels"] * times // over
        if now is None or now.op != "Conv":
            yield f"{node.path} is no convolution any more"
            continue
        if now.attrs["out_channels"] != wanted:
            yield f"{node.path} has {now.attrs['out_channels']} channels instead of {wanted}"
        depthwise = node.attrs["groups"] == node.attrs["out_channels"] == _channels(node)
        groups = wanted if depthwise else node.attrs["groups"]
        if now.attrs["groups"] != groups and (depthwise or not case.joint):
            yield f"{node.path} has {now.attrs['groups']} groups instead of {groups}"
    for unit in case.layers:
        before, after = case.before.calls[unit], case.after.calls.get(unit)
        same_input = after is not None and after.block.input_types == before.block.input_types
        if (
            after is not None
            and same_input
            and not case.joint
            and after.block.output_types != before.block.output_types
        ):
            yield f"{before.path} gives something of another shape"


def _readers_of(case: Case, node: FlatNode) -> Iterator[FlatNode]:
    reader = _sole_conv(case.before, node.out)
    if reader is not None:
        yield reader


def scope_conv_width(case: Case) -> Scope:
    return case.scope(_inner(case))
