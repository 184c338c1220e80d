"""Post-conditions of edits to single attributes of convolutions and linear layers: dilation, groups, stride, bias."""

from collections.abc import Callable, Iterator

from genmad.evals.case import Case, Excess
from genmad.evals.flat import FlatNode
from genmad.evals.post_conv import keeps_size
from genmad.evals.untouched import Scope

CONV = ("Conv",)
STRIDED = ("Conv", "MaxPool", "AveragePool")


def mixes_neighbours(node: FlatNode) -> bool:
    """Whether windows are larger than a pixel and overlap."""
    sizes = zip(node.attrs["kernel_size"], node.attrs["stride"], strict=True)
    return all(kernel > max(1, stride) for kernel, stride in sizes)


def _is_dense(node: FlatNode) -> bool:
    return mixes_neighbours(node) and node.attrs["groups"] != node.attrs["out_channels"]


def _targets(case: Case, ops: tuple[str, ...], keep: Callable[[FlatNode], bool]) -> tuple[FlatNode, ...]:
    return case.targets(ops, keep)


def _check(
    case: Case, targets: tuple[FlatNode, ...], attr: str, wanted: object, follows: tuple[str, ...] = ()
) -> Iterator[str]:
    """Each target has the wanted attribute, is otherwise as it was, and nothing was added."""
    if not targets:
        yield Excess(f"nothing among the targets has {attr}")
    for node in targets:
        now = case.after.nodes.get(node.key)
        if now is None or now.op != node.op:
            yield f"{node.path} is {now.op if now else 'gone'} instead of {node.op}"
            continue
        found = now.attrs[attr]
        if (set(found) if isinstance(found, tuple) else {found}) != {wanted}:
            yield f"{node.path} has {attr} {found} instead of {wanted}"
        others = [k for k, v in node.attrs.items() if k not in (attr, *follows) and now.attrs[k] != v]
        if others or now.inputs != node.inputs:
            yield Excess(f"{node.path} changed in more than its {attr}")
    yield from (Excess(f"{node.path} was added") for node in case.added())


def _keeps_size(case: Case, targets: tuple[FlatNode, ...]) -> Iterator[str]:
    for node in targets:
        now = case.after.nodes.get(node.key)
        if now is not None and now.op == node.op and not keeps_size(node, now):
            yield f"{node.path} gives size {now.node.types[0].shape[2:]} instead of {node.node.types[0].shape[2:]}"


def check_dilation(case: Case) -> Iterator[str]:
    targets = _targets(case, CONV, mixes_neighbours)
    yield from _check(case, targets, "dilation", case.value("dilation", "rate"), ("padding",))
    yield from _keeps_size(case, targets)


def scope_dilation(case: Case) -> Scope:
    return case.scope(_targets(case, CONV, mixes_neighbours))


def check_groups(case: Case) -> Iterator[str]:
    targets = _targets(case, CONV, _is_dense)
    yield from _check(case, targets, "groups", case.value("groups", "cardinality"))
    yield from _keeps_size(case, targets)


def scope_groups(case: Case) -> Scope:
    return case.scope(_targets(case, CONV, _is_dense))


def _strided(case: Case) -> tuple[FlatNode, ...]:
    return _targets(case, STRIDED, lambda node: max(node.attrs["stride"]) > 1)


def check_stride(case: Case) -> Iterator[str]:
    """The stride is as asked for; what follows is smaller or larger accordingly, which the types see to."""
    yield from _check(case, _strided(case), "stride", case.value("stride"))


def scope_stride(case: Case) -> Scope:
    """Sizes written down further on (of a later resize, say) must not have to change: they are not in the scope."""
    return case.scope(_strided(case))


def _biased(case: Case) -> tuple[FlatNode, ...]:
    return _targets(case, (str(case.value("op", "kind", default="Conv")),), lambda _: True)


def check_bias(case: Case) -> Iterator[str]:
    wanted = bool(case.value("bias"))
    yield from _check(case, _biased(case), "bias", wanted)
    for node in _biased(case):
        now = case.after.nodes.get(node.key)
        if now is not None and now.op == node.op and ("bias" in now.node.param_map) is not wanted:
            yield f"{node.path} has parameters {', '.join(now.node.param_map)}"


def scope_bias(case: Case) -> Scope:
    return case.scope(_biased(case))
