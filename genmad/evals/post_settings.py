"""Post-conditions of single attributes: masks and factors of attention, epsilons of norms, rotary tables."""

from collections.abc import Iterator

from genmad.evals.case import Case, Excess
from genmad.evals.flat import FlatNode
from genmad.evals.post_attention import _check_attr, own_attention
from genmad.evals.post_linear import NORMS
from genmad.evals.untouched import Scope


def check_direction(case: Case) -> Iterator[str]:
    yield from _check_attr(case, "causal", case.request.intent == "make_causal")


def check_scale(case: Case) -> Iterator[str]:
    yield from _check_attr(case, "scale", float(case.value("scale")))


def scope_attention(case: Case) -> Scope:
    return case.scope(own_attention(case))


def _norms(case: Case) -> tuple[FlatNode, ...]:
    return case.targets(NORMS)


def _tables(case: Case) -> tuple[FlatNode, ...]:
    return case.targets({"RotaryTable"})


def check_eps(case: Case) -> Iterator[str]:
    yield from _one_attribute(case, _norms(case), "eps", float(case.value("eps")))


def check_rope_scaling(case: Case) -> Iterator[str]:
    yield from _one_attribute(case, _tables(case), "scaling", float(case.value("scaling")))


def _one_attribute(case: Case, nodes: tuple[FlatNode, ...], name: str, wanted: float) -> Iterator[str]:
    if not nodes:
        yield Excess(f"nothing with {name} among the targets")
    for node in nodes:
        now = case.after.nodes.get(node.key)
        if now is None or now.op != node.op:
            yield f"{node.path} is no {node.op} any more"
        elif abs(now.attrs[name] - wanted) > 1e-9 * max(1.0, wanted):
            yield f"{node.path} has {name} {now.attrs[name]} instead of {wanted}"
        elif {**now.attrs, name: 0} != {**node.attrs, name: 0} or now.inputs != node.inputs:
            yield Excess(f"{node.path} changed in more than {name}")
    yield from (Excess(f"{node.path} was added") for node in case.added())


def scope_eps(case: Case) -> Scope:
    return case.scope(_norms(case))


def scope_rope_scaling(case: Case) -> Scope:
    return case.scope(_tables(case))
