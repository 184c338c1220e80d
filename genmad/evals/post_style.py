"""Post-conditions of gated feed-forward parts and of a model made in the manner of another."""

from collections.abc import Iterator

from genmad.evals.case import Case, Excess
from genmad.evals.flat import LINEAR, FlatNode
from genmad.evals.post_attention import check_kv_heads, own_attention, scope_kv_heads
from genmad.evals.post_linear import mlp_inputs
from genmad.evals.untouched import Scope

GATES = {"silu": "Silu", "gelu": "Gelu", "relu": "Relu", "sigmoid": "Sigmoid"}
_ACTS = frozenset({
    "Relu", "Relu6", "LeakyRelu", "Elu", "Selu", "Celu", "Gelu", "Silu", "HardSwish", "Mish", "Softplus",
})  # fmt: skip


def _plain_mlps(case: Case) -> Iterator[tuple[FlatNode, FlatNode]]:
    """(widening linear, activation) of every feed-forward part without a gate: an activation between two linears."""
    for unit in case.units:
        for up in mlp_inputs(case.before, unit):
            acts = [n for n in case.before.readers(up.out) if n.op in _ACTS]
            ends = [n for act in acts for n in case.before.readers(act.out)]
            if up.op in LINEAR and len(acts) == 1 and ends and all(n.op in LINEAR for n in ends):
                yield up, acts[0]


def check_gated(case: Case) -> Iterator[str]:
    """Behind each activation a product with a new projection of what the widening one reads."""
    op = GATES[str(case.value("activation"))]
    found = list(_plain_mlps(case))
    if not found:
        yield Excess("no ungated MLP among the targets")
    for up, act in found:
        now = case.after.nodes.get(act.key)
        if now is None or now.op != op:
            yield f"{act.path} is {now.op if now else 'gone'} instead of {op}"
            continue
        products = [n for n in case.after.readers(act.out) if n.op == "Mul" and n.key not in case.before.nodes]
        if len(products) != 1:
            yield f"{act.path} gates nothing"
            continue
        yield from _gate_problems(case, up, act, products[0])
    extra = len([n for n in case.added() if n.op in ("Linear", "Mul")]) - 2 * len(found)
    others = {n.op for n in case.added()} - {"Linear", "Mul", *_norms(case)}
    if extra > 0 or others:
        yield Excess("more than a projection and a product was added")


def _norms(case: Case) -> set[str]:
    return {str(case.value("norm"))} if case.value("norm") else set()


def _gate_problems(case: Case, up: FlatNode, act: FlatNode, product: FlatNode) -> Iterator[str]:
    others = [s for s in product.inputs if s is not None and s != act.out]
    linear = case.after.nodes.get(others[0][0]) if len(others) == 1 else None
    if linear is None or linear.op not in LINEAR or linear.key in case.before.nodes:
        yield f"{product.path} does not multiply by a new projection"
        return
    now = case.after.nodes.get(up.key)
    if linear.inputs[0] != up.inputs[0] and not (case.joint and now is not None and linear.inputs[0] == now.inputs[0]):
        yield f"{linear.path} does not read what {up.path} reads"
    if linear.attrs["out_features"] != (now or up).attrs["out_features"]:
        yield f"{linear.path} is not as wide as {up.path}"
    yield from case.moved_readers(act.out, product.out)


def scope_gated(case: Case) -> Scope:
    return case.scope([act for _, act in _plain_mlps(case)])


# in the manner of a known model


def _old_norms(case: Case) -> list[FlatNode]:
    found = (n for unit in case.units for n in case.before.inside(unit))
    return [n for n in found if n.op == "LayerNorm" and n.attrs["num_axes"] == 1]


def check_style(case: Case) -> Iterator[str]:
    """Norms and feed-forward parts as the named model has them; as many key and value heads as are said."""
    wanted, kv = str(case.value("norm")), case.value("kv_heads")
    for node in _old_norms(case):
        now = case.after.nodes.get(node.key)
        if now is None or now.op != wanted:
            yield f"{node.path} is {now.op if now else 'gone'} instead of {wanted}"
        elif now.inputs != node.inputs:
            yield Excess(f"{node.path} reads something else")
    if any(True for _ in _plain_mlps(case)):
        yield from check_gated(case)
    if kv is not None:
        yield from check_kv_heads(case)
    if not _old_norms(case) and not any(True for _ in _plain_mlps(case)) and kv is None:
        yield Excess("nothing to change among the targets")


def scope_style(case: Case) -> Scope:
    scope = case.scope([*_old_norms(case), *(act for _, act in _plain_mlps(case))])
    return scope.join(scope_kv_heads(case)) if case.value("kv_heads") and own_attention(case) else scope
