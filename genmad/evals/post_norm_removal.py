"""Post-conditions of edits that take norms and activations out, and of the groups of group norms."""

from collections.abc import Iterator

from genmad.evals.case import Case, Excess
from genmad.evals.flat import FlatNode, Source
from genmad.evals.post_linear import ACTIVATIONS, NORMS, plain
from genmad.evals.untouched import Scope


def _of_kind(case: Case, ops: frozenset[str]) -> tuple[FlatNode, ...]:
    kind = case.value("kind", "norm", "activation")
    return case.targets(
        ops, lambda node: kind is None or plain(node.op).split(":")[0] == plain(str(kind)).split(":")[0]
    )


def _check_gone(case: Case, targets: tuple[FlatNode, ...]) -> Iterator[str]:
    """The targets are gone, and what read them reads what they read."""
    if not targets:
        yield Excess("nothing of that kind among the targets")
    gone = {node.key for node in targets}
    for node in targets:
        if node.key in case.after.nodes:
            yield f"{node.path} is still there"
        source: Source | None = node.inputs[0]
        while source is not None and source[0] in gone:
            source = case.before.nodes[source[0]].inputs[0]
        if source is not None:
            yield from (p for p in case.moved_readers(node.out, source) if not case.joint)
    yield from (Excess(f"{node.path} was added") for node in case.added())


def check_remove_norm(case: Case) -> Iterator[str]:
    yield from _check_gone(case, _of_kind(case, NORMS))


def scope_remove_norm(case: Case) -> Scope:
    return case.scope(leaving=[node.key for node in _of_kind(case, NORMS)])


def check_remove_activation(case: Case) -> Iterator[str]:
    yield from _check_gone(case, _of_kind(case, _PLAIN))


def scope_remove_activation(case: Case) -> Scope:
    return case.scope(leaving=[node.key for node in _of_kind(case, _PLAIN)])


_PLAIN = frozenset(ACTIVATIONS - {"Softsign"})


def _grouped(case: Case) -> tuple[FlatNode, ...]:
    return case.targets(("GroupNorm",))


def check_norm_groups(case: Case) -> Iterator[str]:
    wanted = case.value("num_groups", "groups")
    if not _grouped(case):
        yield Excess("no group norm among the targets")
    for node in _grouped(case):
        now = case.after.nodes.get(node.key)
        if now is None or now.op != "GroupNorm":
            yield f"{node.path} is no group norm any more"
        elif now.attrs["num_groups"] != wanted:
            yield f"{node.path} has {now.attrs['num_groups']} groups instead of {wanted}"
        elif {**now.attrs, "num_groups": 0} != {**node.attrs, "num_groups": 0} or now.inputs != node.inputs:
            yield Excess(f"{node.path} changed in more than its groups")


def scope_norm_groups(case: Case) -> Scope:
    return case.scope(_grouped(case))
