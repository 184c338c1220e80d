"""Post-conditions of edits to what ends a model."""

from collections.abc import Iterator

from genmad.evals.case import Case, Excess
from genmad.evals.flat import FlatNode, Source
from genmad.evals.untouched import Scope

POOLED = ("GlobalAveragePool", "ReduceMean", "AdaptiveAveragePool")


def _head(case: Case) -> tuple[FlatNode, ...]:
    return case.targets(("Linear",))


def check_num_classes(case: Case) -> Iterator[str]:
    classes = case.value("classes", "num_classes")
    for node in _head(case):
        now = case.after.nodes.get(node.key)
        if now is None or now.op != "Linear" or now.attrs["out_features"] != classes:
            yield f"{node.path} gives {now.attrs.get('out_features') if now else 'nothing'} instead of {classes}"
        elif {**now.attrs, "out_features": 0} != {**node.attrs, "out_features": 0} or now.inputs != node.inputs:
            yield Excess(f"{node.path} changed in more than its size")
    shape = case.after.types[case.after.outputs[0]].shape
    if shape[-1] != classes or len(shape) != 2:
        yield f"the model gives {shape} instead of {classes} classes"


def scope_num_classes(case: Case) -> Scope:
    return case.scope(_head(case))


def check_add_classifier(case: Case) -> Iterator[str]:
    """The first output is a new Linear of the old output, averaged over positions where it has them."""
    classes, was = case.value("classes", "num_classes"), case.before.outputs[0]
    head = case.after.nodes.get(case.after.outputs[0][0])
    if head is None or head.op != "Linear" or head.key in case.before.nodes:
        yield "the model does not end in a new linear layer"
        return
    if head.attrs["out_features"] != classes:
        yield f"{head.path} gives {head.attrs['out_features']} instead of {classes}"
    source: Source | None = head.inputs[0]
    if case.before.types[was].rank > 2:
        pool = case.after.nodes.get(source[0]) if source is not None else None
        if pool is None or pool.op not in POOLED or pool.key in case.before.nodes:
            yield f"{head.path} does not read the mean over positions"
            return
        source = pool.inputs[0]
    if source is None or was not in case.stands_for(source):
        yield f"{head.path} is not computed from what the model gave"
    if case.after.types[head.out].rank != 2:
        yield f"{head.path} gives {case.after.types[head.out]} instead of one row per example"
    if len(case.added()) > 2:
        yield Excess("more than a head was added")


def scope_add_classifier(case: Case) -> Scope:
    return Scope(open=case.open_blocks([out[0] for out in case.after.outputs[:1]]) | {()})
