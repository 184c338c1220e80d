"""Post-conditions of what is put into convolutional models or taken out: convolutions, attention, gates, resizing."""

from collections.abc import Iterator

from genmad.evals.case import Case, Excess
from genmad.evals.flat import FlatGraph, FlatNode, Key, Source
from genmad.evals.untouched import Scope

POOLED = ("GlobalAveragePool", "AdaptiveAveragePool", "ReduceMean")
GATES = ("Sigmoid", "HardSigmoid")


def _channels(flat: FlatGraph, source: Source) -> int:
    width = flat.types[source].shape[1]
    assert isinstance(width, int)
    return width


# a residual branch behind each layer


def _branches(case: Case, op: str) -> Iterator[tuple[Key, FlatNode, FlatNode]]:
    """(unit, new op, sum) of every new op that is added to what it reads."""
    for unit in case.units:
        for node in case.added(unit):
            merges = [m for m in case.after.readers(node.out) if m.op == "Add" and m.key not in case.before.nodes]
            if node.op == op and len(merges) == 1 and node.inputs[0] in merges[0].inputs:
                yield unit, node, merges[0]


def _check_branch(case: Case, op: str) -> Iterator[str]:
    found = list(_branches(case, op))
    for unit in case.units:
        name = ".".join(unit) or "the model"
        mine = [(node, merge) for where, node, merge in found if where == unit]
        if len(case.added(unit)) != 2:
            yield Excess(f"{name} gained {len(case.added(unit))} nodes instead of {op} and a sum")
        if len(mine) != 1:
            yield f"{name} gained {len(mine)} {op} branches instead of 1"
            continue
        node, merge = mine[0]
        out = case.before.unit_outputs(unit)[0]
        if node.inputs[0] is None or out not in case.stands_for(node.inputs[0]):
            yield f"{node.path} does not read what {name} gives"
        yield from case.moved_readers(out, merge.out)


def check_insert_conv(case: Case) -> Iterator[str]:
    yield from _check_branch(case, "Conv")
    size = case.value("kernel_size", "kernel", default=1)
    for _, node, _ in _branches(case, "Conv"):
        source = node.inputs[0]
        if set(node.attrs["kernel_size"]) != {size}:
            yield f"{node.path} has kernel {node.attrs['kernel_size']} instead of {size}"
        if source is not None and case.after.types[node.out] != case.after.types[source]:
            yield f"{node.path} gives {case.after.types[node.out]} instead of {case.after.types[source]}"


def check_conv_attention(case: Case) -> Iterator[str]:
    yield from _check_branch(case, "SpatialAttention")
    heads = case.value("num_heads", "heads", default=1)
    for _, node, _ in _branches(case, "SpatialAttention"):
        if node.attrs["num_heads"] != heads:
            yield f"{node.path} has {node.attrs['num_heads']} heads instead of {heads}"


def scope_units(case: Case) -> Scope:
    return case.scope()


# squeeze-and-excitation


def _gated(case: Case) -> tuple[tuple[FlatNode, Source], ...]:
    """(gating node, what it gates) below the targets: the op, or a product with a gate made of the pooled factor."""
    found = []
    for node in case.targets(("SqueezeExcite", "Mul")):
        trunk = node.inputs[0] if node.op == "SqueezeExcite" else _trunk(case.before, node)
        if trunk is not None:
            found.append((node, trunk))
    return tuple(found)


def _trunk(flat: FlatGraph, product: FlatNode) -> Source | None:
    for slot, gate in enumerate(product.inputs):
        other = product.inputs[1 - slot]
        if gate is None or other is None or gate[0] not in flat.nodes or flat.nodes[gate[0]].op not in GATES:
            continue
        pooled = (flat.nodes[key] for key in flat.above(gate) if key in flat.nodes and flat.nodes[key].op in POOLED)
        if any(pool.inputs[0] == other for pool in pooled):
            return other
    return None


def check_remove_gate(case: Case) -> Iterator[str]:
    gated = _gated(case)
    if not gated:
        yield Excess("no squeeze-and-excitation among the targets")
    for node, trunk in gated:
        if node.key in case.after.nodes:
            yield f"{node.path} is still there"
        if not case.joint:
            yield from case.moved_readers(node.out, trunk)
    yield from (Excess(f"{node.path} was added") for node in case.added())


def scope_remove_gate(case: Case) -> Scope:
    """The gate goes with all that only it needed: what lies between the trunk and the product."""
    leaving: set[Key] = set()
    for node, trunk in _gated(case):
        leaving |= {node.key} | {key for key in case.before.above(node.out) if key in case.before.below(trunk)}
    return case.scope(leaving=leaving)


def _excited(case: Case) -> tuple[FlatNode, ...]:
    return case.targets(("SqueezeExcite",))


def check_ratio(case: Case) -> Iterator[str]:
    ratio = case.value("ratio", "reduction")
    if not _excited(case):
        yield Excess("no squeeze-and-excitation among the targets")
    for node in _excited(case):
        now, source = case.after.nodes.get(node.key), node.inputs[0]
        assert source is not None
        wanted = _channels(case.before, source) // ratio
        if now is None or now.op != node.op:
            yield f"{node.path} is gone"
        elif now.attrs["reduced_channels"] != wanted:
            yield f"{node.path} has {now.attrs['reduced_channels']} channels instead of {wanted}"
        elif {**now.attrs, "reduced_channels": 0} != {**node.attrs, "reduced_channels": 0}:
            yield Excess(f"{node.path} changed in more than its size")


def scope_ratio(case: Case) -> Scope:
    return case.scope(_excited(case))


# interpolation


def _resizes(case: Case) -> tuple[FlatNode, ...]:
    return case.targets(("Resize",))


def check_mode(case: Case) -> Iterator[str]:
    mode = case.value("mode")
    if not _resizes(case):
        yield Excess("nothing is resized among the targets")
    for node in _resizes(case):
        now = case.after.nodes.get(node.key)
        if now is None or now.op != "Resize" or now.attrs["mode"] != mode:
            yield f"{node.path} is {now.attrs.get('mode', now.op) if now else 'gone'} instead of {mode}"
        elif now.attrs["size"] != node.attrs["size"] or now.inputs != node.inputs:
            yield Excess(f"{node.path} changed in more than its mode")


def scope_mode(case: Case) -> Scope:
    return case.scope(_resizes(case))
