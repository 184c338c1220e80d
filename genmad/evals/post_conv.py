"""Post-conditions of edits to convolutions."""

from collections.abc import Iterator
from math import prod

from genmad.evals.case import Case, Excess
from genmad.evals.flat import FlatNode, Key
from genmad.evals.untouched import Scope

CONV = ("Conv",)


def _width(node: FlatNode) -> int:
    """Input channels of a convolution."""
    kind = node.types[0]
    assert kind is not None
    width = kind.shape[1]
    if not isinstance(width, int):
        raise TypeError(f"expected a fixed width, got {width}")
    return width


def _spatial(node: FlatNode) -> bool:
    return prod(node.attrs["kernel_size"]) > 1


def _overlaps(node: FlatNode) -> bool:
    """Whether it mixes neighbours; convolutions that cut patches, as strided as they are large, are not meant."""
    return all(k > 1 and k > s for k, s in zip(node.attrs["kernel_size"], node.attrs["stride"], strict=True))


def keeps_size(node: FlatNode, now: FlatNode) -> bool:
    """Whether a convolution gives the size it gave, as far as it still reads that size with that stride."""
    if now.types[0] != node.types[0] or now.attrs["stride"] != node.attrs["stride"]:
        return True
    return now.node.types[0].shape[2:] == node.node.types[0].shape[2:]


# squeeze and excite


def check_squeeze_excite(case: Case) -> Iterator[str]:
    ratio, reduced = case.value("ratio", "reduction", default=4), case.value("reduced_channels", "reduced", "channels")
    spots = [(key, (key, 0)) for key in case.nodes]
    spots = spots or [(unit, case.before.calls[unit].outputs[0]) for unit in case.layers]
    if not spots:
        spots = [(node.key, node.out) for node in case.targets(CONV)]
    fresh = [n for n in case.added() if n.op == "SqueezeExcite"]
    if len(fresh) != len(spots) or len(case.added()) != len(spots):
        yield Excess(f"{len(fresh)} squeeze-and-excite of {len(case.added())} new nodes instead of {len(spots)}")
    for key, spot in spots:
        inside = [n for n in fresh if not case.nodes and n.key[: len(key)] == key]
        mine = inside or [n for n in fresh if n.inputs[0] is not None and spot in case.stands_for(n.inputs[0])]
        if len(mine) != 1:
            yield f"no squeeze-and-excite behind {'.'.join(key)}"
            continue
        node, read = mine[0], mine[0].inputs[0]
        wanted = reduced if reduced is not None else max(1, _width(node) // ratio)
        if node.attrs["reduced_channels"] != wanted:
            yield f"{node.path} has {node.attrs['reduced_channels']} channels instead of {wanted}"
        if not any(node.key in case.after.above(out) for out in case.after.unit_outputs(case.unit_of(node.key))):
            yield f"{node.path} does not reach the output"
        if read is not None:
            yield from case.moved_readers(read, node.out)


def scope_squeeze_excite(case: Case) -> Scope:
    """The targets' own blocks, and the block around a targeted layer: behind it is a good place too."""
    outer = case.open_blocks([*case.layers, *case.nodes])
    return Scope(open=outer | case.open_units())


# kernel size


def _kernel_targets(case: Case) -> tuple[FlatNode, ...]:
    return case.targets(CONV, _overlaps)


def check_kernel_size(case: Case) -> Iterator[str]:
    size = case.value("kernel_size", "kernel", "size")
    targets = _kernel_targets(case)
    if not targets:
        yield Excess("no convolution among the targets")
    for node in targets:
        now = case.after.nodes.get(node.key)
        if now is None or now.op != "Conv":
            yield f"{node.path} is no convolution any more"
            continue
        if set(now.attrs["kernel_size"]) != {size}:
            yield f"{node.path} has kernel {now.attrs['kernel_size']} instead of {size}"
        if not keeps_size(node, now):
            yield f"{node.path} gives size {now.node.types[0].shape[2:]} instead of {node.node.types[0].shape[2:]}"
        changed = [k for k, v in node.attrs.items() if k not in ("kernel_size", "padding") and now.attrs[k] != v]
        if changed or now.inputs != node.inputs:
            yield Excess(f"{node.path} changed in more than its kernel")


def scope_kernel_size(case: Case) -> Scope:
    return case.scope(_kernel_targets(case))


# depthwise separable


def _separable_targets(case: Case) -> tuple[FlatNode, ...]:
    return case.targets(CONV, lambda n: _overlaps(n) and n.attrs["groups"] == 1)


def check_depthwise(case: Case) -> Iterator[str]:
    targets = _separable_targets(case)
    if not targets:
        yield Excess("no dense convolution among the targets")
    used: set[Key] = set()
    for node in targets:
        pair = _separable_pair(case, node)
        if pair is None:
            yield f"{node.path} is no depthwise convolution followed by a pointwise one"
            continue
        deep, point = pair
        used |= {deep.key, point.key}
        width = _width(node)
        if deep.attrs["groups"] != width or deep.attrs["out_channels"] != width:
            yield f"{deep.path} is not depthwise over {width} channels"
        changed = [k for k in ("kernel_size", "stride", "padding", "dilation") if deep.attrs[k] != node.attrs[k]]
        if changed:
            yield Excess(f"{deep.path} has other {', '.join(changed)}")
        if point.attrs["out_channels"] != node.attrs["out_channels"] or point.attrs["groups"] != 1:
            yield f"{point.path} does not mix {width} into {node.attrs['out_channels']} channels"
        if point.node.types != node.node.types and _same_grid(deep, node):
            yield f"{point.path} gives {point.node.types[0]} instead of {node.node.types[0]}"
        yield from case.moved_readers(node.out, point.out)
    yield from (Excess(f"{n.path} was added") for n in case.added() if n.key not in used)


def _same_grid(deep: FlatNode, node: FlatNode) -> bool:
    """Whether another request of the sentence has left the size and the stride alone."""
    return deep.types[0] == node.types[0] and deep.attrs["stride"] == node.attrs["stride"]


def _separable_pair(case: Case, node: FlatNode) -> tuple[FlatNode, FlatNode] | None:
    """The convolution in the target's place and the 1x1 convolution that alone reads it."""
    source = node.inputs[0]
    first = [n for n in case.after.nodes.values() if n.op == "Conv" and n.inputs[0] in (source, _moved(case, node))]
    for deep in first:
        if deep.key != node.key and deep.key in case.before.nodes:
            continue
        readers = case.after.readers(deep.out)
        if len(readers) == 1 and readers[0].op == "Conv" and not _spatial(readers[0]):
            return deep, readers[0]
    return None


def _moved(case: Case, node: FlatNode) -> "tuple[Key, int] | None":
    """What the target itself reads now: the pointwise convolution of a target in front of it."""
    now = case.after.nodes.get(node.key)
    return now.inputs[0] if now is not None else node.inputs[0]


def scope_depthwise(case: Case) -> Scope:
    targets = _separable_targets(case)
    return case.scope(targets, [n.key for n in targets])
