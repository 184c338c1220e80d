"""Post-conditions of what is put behind or before a branch: adapters, norms, scales."""

from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass

from genmad.evals.case import Case, Excess, linears_between
from genmad.evals.flat import LINEAR, FlatNode, Key, Source, origin
from genmad.evals.post_attention import own_attention
from genmad.evals.post_branches import PARTS, part_ends
from genmad.evals.post_linear import ACTIVATIONS, GATED, NORMS, activation_of, mlp_inputs, plain
from genmad.evals.untouched import Scope


def behind_branch(case: Case, unit: Key, source: Source) -> str:
    """Which output of a unit a value of the graph before is: "attention", "mlp", "output" or ""."""
    if source in case.before.unit_outputs(unit):
        return "output"
    for node in own_attention(case):
        if node.key[: len(unit)] == unit and node.key in case.before.above(source):
            linears = linears_between(case.before, node.out, source)
            if linears == 1 and not _joined(case, unit, node.out, source):
                return "attention"
    for node in mlp_inputs(case.before, unit):
        whole = linears_between(case.before, node.out, source) == (0 if node.op in GATED else 1)
        if node.key in case.before.above(source) and whole and not _joined(case, unit, node.out, source):
            return "mlp"
    return ""


def _joined(case: Case, unit: Key, start: Source, end: Source) -> bool:
    """Whether a sum of the residual path lies between two values."""
    keys = case.before.below(start) & case.before.above(end)
    return any(case.before.nodes[k].op == "Add" and k[: len(unit)] == unit for k in keys if k in case.before.nodes)


@dataclass(frozen=True, slots=True)
class Adapter:
    """down, activation and up, added by `merge` to the value `base` that they read."""

    base: Source
    down: FlatNode
    activation: FlatNode
    merge: FlatNode


def check_adapter(case: Case) -> Iterator[str]:
    for unit in case.units:
        fresh = case.added(unit)
        found = [a for n in fresh if n.op == "Add" and (a := _adapter_at(case, n)) is not None]
        name, named = ".".join(unit) or "the model", [key for key in case.nodes if key[: len(unit)] == unit]
        wanted = max(1, len(named))
        if len(found) != wanted:
            yield f"{name} has {len(found)} new adapters instead of {wanted}"
        if len(fresh) != 4 * wanted:
            yield Excess(f"{name} gained {len(fresh)} nodes instead of {wanted} times down, activation, up, sum")
        for adapter in found:
            yield from _adapter_problems(case, unit, adapter, named)


def _adapter_at(case: Case, merge: FlatNode) -> Adapter | None:
    """The adapter that ends in a sum, or None."""
    for base, branch in (merge.inputs[:2], merge.inputs[1::-1]):
        up = _fresh(case, branch, LINEAR)
        activation = _fresh(case, up.inputs[0] if up is not None else None, ACTIVATIONS | {"Tanh", "Sigmoid"})
        down = _fresh(case, activation.inputs[0] if activation is not None else None, LINEAR)
        if base is not None and activation is not None and down is not None and down.inputs[0] == base:
            return Adapter(base, down, activation, merge)
    return None


def _fresh(case: Case, source: Source | None, ops: Set[str]) -> FlatNode | None:
    """The added node with one of `ops` that makes a value, or None."""
    node = case.after.nodes.get(source[0]) if source is not None else None
    return node if node is not None and node.op in ops and node.key not in case.before.nodes else None


def _adapter_problems(case: Case, unit: Key, adapter: Adapter, named: Sequence[Key]) -> Iterator[str]:
    size, kind = case.value("size", default=64), case.value("activation")
    if kind is not None and activation_of(adapter.activation) != plain(str(kind)):
        yield f"{adapter.activation.path} is {activation_of(adapter.activation)} instead of {kind}"
    if adapter.down.attrs["out_features"] != size:
        yield f"{adapter.down.path} has {adapter.down.attrs['out_features']} features instead of {size}"
    spots = [s for s in case.stands_for(adapter.base) if s[0] in named or (not named and _adapts(case, unit, s))]
    if not spots:
        yield f"{adapter.merge.path} does not stand behind what it is to adapt"
    for old in spots:
        yield from case.moved_readers(old, adapter.merge.out)


def _adapts(case: Case, unit: Key, spot: Source) -> bool:
    """Whether an adapter may stand behind a value: the branch that the request names, or any."""
    place, where = behind_branch(case, unit, spot), _where(case)
    return place in (where, "output") if where in PARTS else place != ""


def check_insert_norm(case: Case) -> Iterator[str]:
    kind = case.value("norm", "new")
    ops = NORMS if kind is None else {op for op in NORMS if plain(op) == plain(str(kind))}
    where = _where(case)
    if where.startswith("before") and not case.nodes:
        for unit in case.units:
            yield from _check_before(case, unit, where.removeprefix("before "), ops)
    else:
        yield from _check_inserted(case, ops)


def check_layer_scale(case: Case) -> Iterator[str]:
    yield from _check_inserted(case, {"Scale"}, each_branch=True)


def _where(case: Case) -> str:
    return str(case.value("where", "position", "branch", default="")).replace("_", " ")


def _check_inserted(case: Case, ops: Set[str], *, each_branch: bool = False) -> Iterator[str]:
    """One new op behind each target, read by all that read what it reads.

    Args:
        each_branch: a layer of which no branch is named gets one behind its attention and one behind its MLP.
    """
    for unit in case.units:
        named = [key for key in case.nodes if key[: len(unit)] == unit]
        branches = [part for part in PARTS if part_ends(case, unit, part) is not None]
        wanted = len(named) or (len(branches) if each_branch and not _where(case) else 1)
        fresh = case.added(unit)
        wrong = sorted({n.op for n in fresh} - set(ops))
        if wrong:
            yield Excess(f"{', '.join(wrong)} was added")
        right = [n for n in fresh if n.op in ops]
        if len(right) != wanted or len({n.inputs[0] for n in right}) != len(right):
            yield f"{'.'.join(unit) or 'the model'} gained {len(right)} such nodes instead of {wanted}"
        for node in right:
            spot = node.inputs[0]
            if spot is None:
                continue
            spots = [s for s in case.stands_for(spot) if s[0] in named or (not named and _spot_fits(case, unit, s))]
            if not spots:
                yield f"{node.path} stands elsewhere than asked for"
            for old in spots:
                yield from case.moved_readers(old, node.out)


def _check_before(case: Case, unit: Key, part: str, ops: Set[str]) -> Iterator[str]:
    """One new norm of what the attention or MLP reads, read by its first linear layers and by nothing else."""
    ends = part_ends(case, unit, part)
    fresh = [n for n in case.added(unit) if n.op in ops]
    if len(case.added(unit)) != 1:
        yield Excess(f"{'.'.join(unit)} gained {len(case.added(unit))} nodes instead of 1")
    if (
        ends is None
        or len(fresh) != 1
        or fresh[0].inputs[0] is None
        or ends[0] not in case.stands_for(fresh[0].inputs[0])
    ):
        yield f"{'.'.join(unit)} has no new norm of what its {part} reads"
        return
    reads = {node.key for node in case.after.readers(fresh[0].out)}
    firsts = {node.key for node in _first_layers(case, unit, part) if node.inputs[0] == ends[0]}
    if reads != firsts or not firsts:
        yield f"{fresh[0].path} is read by other layers than the first of the {part}"


def _first_layers(case: Case, unit: Key, part: str) -> Iterator[FlatNode]:
    if part == "mlp":
        yield from mlp_inputs(case.before, unit)
        return
    for node in own_attention(case)[:]:
        if node.key[: len(unit)] == unit:
            linears = [origin(case.before, s) for s in node.inputs[:3] if s is not None]
            yield from (linear for linear in linears if linear is not None)


def _spot_fits(case: Case, unit: Key, spot: Source) -> bool:
    place, where = behind_branch(case, unit, spot), _where(case)
    for word in PARTS:
        if word in where:
            return place == word
    return place == "output" if "end" in where or "output" in where else place != ""


def scope_units(case: Case) -> Scope:
    return case.scope()
