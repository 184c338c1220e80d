"""Post-conditions of edits to projections, MLPs, activations and norms."""

from collections.abc import Iterator

from genmad.evals.case import Case, Excess
from genmad.evals.flat import LINEAR, PASSIVE, FlatGraph, FlatNode, Key, Source
from genmad.evals.untouched import Scope

NORMS = frozenset({"LayerNorm", "RMSNorm", "BatchNorm", "GroupNorm", "InstanceNorm", "ChannelLayerNorm"})
# Not among them: Sigmoid, Tanh and Softmax, which gate or normalise; they count only where a request names their node.
ACTIVATIONS = frozenset({
    "Relu", "Relu6", "LeakyRelu", "Elu", "Selu", "Celu", "Gelu", "Silu", "HardSwish", "Mish", "Softplus",
    "Softsign",
})  # fmt: skip
GATED = frozenset({"GatedMLP"})
# Names under which an activation is asked for, and the approximation that tells GELUs apart.
SYNONYMS = {
    "swish": "silu", "gelu": "gelu:none", "gelunew": "gelu:tanh", "gelutanh": "gelu:tanh", "quickgelu": "gelu:sigmoid",
}  # fmt: skip
_BETWEEN = PASSIVE | ACTIVATIONS | {"Mul", "MulScalar", "Sigmoid", "Tanh", "GroupNorm", "Square", "PowScalar"}


def plain(name: str) -> str:
    """An op or activation name without case and underscores, its synonyms made one."""
    word = name.lower().replace("_", "").replace("-", "")
    return SYNONYMS.get(word, word)


# low-rank adaptation


def check_lora(case: Case) -> Iterator[str]:
    rank, alpha = case.value("rank", "r", default=8), case.value("alpha")
    wanted = case.targets(LINEAR)
    if not wanted:
        yield Excess("no linear layer among the targets")
    for node in wanted:
        now = case.after.nodes.get(node.key)
        if now is None or now.op != "LoRALinear":
            yield f"{node.path} has no low-rank part"
            continue
        if now.attrs["rank"] != rank:
            yield f"{node.path} has rank {now.attrs['rank']} instead of {rank}"
        if alpha is not None and now.attrs["alpha"] != alpha:
            yield f"{node.path} has alpha {now.attrs['alpha']} instead of {alpha}"
        changed = [k for k, v in node.attrs.items() if k not in ("rank", "alpha") and now.attrs.get(k) != v]
        kept = set(node.node.params) <= set(now.node.params) or node.op == "LoRALinear"
        if changed or not kept or now.inputs != node.inputs:
            yield Excess(f"{node.path} changed in more than its low-rank part")
    keys = {node.key for node in wanted}
    for node in case.after.nodes.values():
        old = case.before.nodes.get(node.key)
        if node.op == "LoRALinear" and node.key not in keys and (old is None or old.op != "LoRALinear"):
            yield Excess(f"{node.path} was adapted too")


def scope_lora(case: Case) -> Scope:
    return case.scope(case.targets(LINEAR))


# activations


def _activation_targets(case: Case) -> tuple[FlatNode, ...]:
    everything = ACTIVATIONS | GATED | {"Sigmoid", "Tanh", "HardSigmoid", "SqueezeExcite"}
    found = case.targets(everything if case.nodes else ACTIVATIONS | GATED)
    only = case.value("only", "old", "from")
    if only is None:
        return found
    return tuple(n for n in found if activation_of(n).split(":")[0] == plain(str(only)).split(":")[0])


def check_activation(case: Case) -> Iterator[str]:
    wanted = str(case.value("activation", "to", "op"))
    targets = _activation_targets(case)
    if not targets:
        yield Excess("no activation among the targets")
    for node in targets:
        now = case.after.nodes.get(node.key)
        if now is None:
            yield f"{node.path} is gone"
        elif activation_of(now) != plain(wanted):
            yield f"{node.path} is {activation_of(now)} instead of {wanted}"
        elif now.inputs[:1] != node.inputs[:1]:
            yield Excess(f"{node.path} reads something else")
    yield from (Excess(f"{node.path} was added") for node in case.added())


def activation_of(node: FlatNode) -> str:
    """`relu`, or for a GELU `gelu:tanh`, as `plain` writes them."""
    if node.op == "Gelu":
        return f"gelu:{node.attrs['approximate']}"
    return plain(str(node.attrs.get("activation", node.op)))


def scope_activation(case: Case) -> Scope:
    return case.scope(_activation_targets(case))


# norms


def check_swap_norm(case: Case) -> Iterator[str]:
    wanted = str(case.value("new", "norm"))
    groups = case.value("num_groups", "groups")
    targets = _norm_targets(case)
    if not targets:
        yield Excess("no norm among the targets")
    for node in targets:
        now = case.after.nodes.get(node.key)
        if now is None or plain(now.op) != plain(wanted):
            yield f"{node.path} is {now.op if now else 'gone'} instead of {wanted}"
        elif now.inputs != node.inputs:
            yield Excess(f"{node.path} reads something else")
        elif groups is not None and now.attrs.get("num_groups") != groups:
            yield f"{node.path} has {now.attrs.get('num_groups')} groups instead of {groups}"
    yield from (Excess(f"{node.path} was added") for node in case.added())


def _norm_targets(case: Case) -> tuple[FlatNode, ...]:
    kind, wanted = case.value("old", "from"), plain(str(case.value("new", "norm")))
    found = case.targets(NORMS, lambda n: plain(n.op) != wanted and n.attrs.get("num_axes", 1) == 1)
    return found if kind is None else tuple(n for n in found if plain(n.op) == plain(str(kind)))


def scope_swap_norm(case: Case) -> Scope:
    return case.scope(_norm_targets(case))


# width of the MLP


def _next_mixers(flat: FlatGraph, source: Source) -> Iterator[tuple[FlatNode, bool]]:
    """The first ops with weights or attention below a value, and whether an activation or product lay between."""
    for node in flat.readers(source):
        if node.op not in _BETWEEN:
            yield node, False
            continue
        active = node.op in ACTIVATIONS or node.op in ("Mul", "Sigmoid", "Tanh")
        for index in range(len(node.node.types)):
            yield from ((found, seen or active) for found, seen in _next_mixers(flat, (node.key, index)))


def mlp_inputs(flat: FlatGraph, unit: Key) -> tuple[FlatNode, ...]:
    """Linear layers whose result goes through an activation or gate into linear layers only, and gated MLPs."""
    out = []
    for node in flat.inside(unit):
        ends = list(_next_mixers(flat, node.out)) if node.op in LINEAR else []
        if node.op == "GatedMLP" or (ends and all(end.op in LINEAR and active for end, active in ends)):
            out.append(node)
    return tuple(out)


def _mlp_targets(case: Case) -> tuple[FlatNode, ...]:
    inputs = {node.key: node for unit in case.units for node in mlp_inputs(case.before, unit)}
    named = [key for key in case.nodes if key in inputs]
    return tuple(node for key, node in inputs.items() if (key in named or not named) and key not in case.waived)


def check_mlp(case: Case) -> Iterator[str]:
    targets = _mlp_targets(case)
    if not targets:
        yield Excess("no MLP among the targets")
    for node in targets:
        name = "hidden_features" if node.op == "GatedMLP" else "out_features"
        now, wanted = case.after.nodes.get(node.key), _wanted_width(case, node.attrs[name])
        if now is None or now.op != node.op:
            yield f"{node.path} is no {node.op} any more"
        elif now.attrs[name] != wanted:
            yield f"{node.path} has width {now.attrs[name]} instead of {wanted}"
        elif {**now.attrs, name: 0} != {**node.attrs, name: 0} or now.inputs != node.inputs:
            yield Excess(f"{node.path} changed in more than its width")
    for node in case.before.nodes.values():
        now = case.after.nodes.get(node.key)
        if now is not None and node.key not in {n.key for n in targets} and now.attrs != node.attrs:
            yield Excess(f"{node.path} changed too")


def _wanted_width(case: Case, old: int) -> int:
    width, times = case.value("width"), case.value("factor", "times")
    if width is None and times is None:
        raise ValueError("request resize_mlp states neither width nor factor")
    return int(width) if width is not None else int(old * times // case.value("over", default=1))


def scope_mlp(case: Case) -> Scope:
    return case.scope(_mlp_targets(case))
