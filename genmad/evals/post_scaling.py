"""Post-conditions of a model's depth, vocabulary and context length."""

from collections.abc import Iterator
from dataclasses import replace

from genmad.evals import post_layers as layers
from genmad.evals.case import Case, Excess
from genmad.evals.flat import PASSIVE, FlatCall, FlatNode, Source
from genmad.evals.untouched import Scope
from genmad.intents.types import Request

# how many layers


def _stack(case: Case) -> tuple[FlatCall, ...]:
    """The model's layers: of all numbered calls, the longest list under one name."""
    lists: dict[str, list[FlatCall]] = {}
    for call in case.before.calls.values():
        stem, _, last = call.path.rpartition(".")
        if last.isdigit():
            lists.setdefault(stem, []).append(call)
    longest: list[FlatCall] = max(lists.values(), key=len, default=[])
    return tuple(longest)


def _removal(case: Case) -> Case:
    """The same edit, judged as the removal of those layers that have to go."""
    stack, depth = _stack(case), case.value("depth")
    gone = stack[1::2] if case.value("keep") == "every_other" else stack[depth:]
    return replace(case, request=Request(intent="remove_layer", layers=tuple(call.path for call in gone)))


def check_reduce(case: Case) -> Iterator[str]:
    stack = _stack(case)
    left = [call for call in stack if call.key in case.after.calls]
    if len(left) != case.value("depth"):
        yield f"{len(left)} layers are left instead of {case.value('depth')}"
    yield from layers.check_remove(_removal(case))


def scope_reduce(case: Case) -> Scope:
    return layers.scope_remove(_removal(case))


def _growth(case: Case) -> Case:
    """The same edit, judged as new layers behind the last one."""
    stack = _stack(case)
    values = (("count", case.value("depth") - len(stack)), ("before", False))
    return replace(case, request=Request(intent="insert_layer", layers=(stack[-1].path,), values=values))


def check_grow(case: Case) -> Iterator[str]:
    yield from layers.check_insert(_growth(case))


def scope_grow(case: Case) -> Scope:
    return layers.scope_new_calls(_growth(case))


# tables


def _tables(case: Case) -> Iterator[FlatNode]:
    yield from (n for n in case.before.nodes.values() if n.op == "Embedding")


def _reads_model_input(case: Case, source: Source | None) -> bool:
    """Whether a value is one of the model's inputs, moved at most."""
    while source is not None and source[0] in case.before.nodes:
        node = case.before.nodes[source[0]]
        if node.op not in PASSIVE:
            return False
        source = node.inputs[0]
    return source is not None


def _vocabulary(case: Case) -> list[FlatNode]:
    """Tables that the model's ids look up, and projections of that width whose result the model gives."""
    tables = [n for n in _tables(case) if _reads_model_input(case, n.inputs[0])]
    if not tables:
        return []
    size = tables[0].attrs["num_embeddings"]
    ends = {source[0] for source in case.before.outputs}
    heads = [n for n in case.before.nodes.values() if n.key in ends and n.attrs.get("out_features") == size]
    return [*(n for n in tables if n.attrs["num_embeddings"] == size), *heads]


def check_vocabulary(case: Case) -> Iterator[str]:
    yield from _size_problems(case, _vocabulary(case), case.value("vocab_size"))


def _size_problems(case: Case, found: list[FlatNode], wanted: int) -> Iterator[str]:
    if not found:
        yield Excess("no such table")
    for node in found:
        name = "num_embeddings" if node.op == "Embedding" else "out_features"
        now = case.after.nodes.get(node.key)
        if now is None or now.op != node.op:
            yield f"{node.path} is gone"
        elif now.attrs[name] != wanted:
            yield f"{node.path} has {name} {now.attrs[name]} instead of {wanted}"
        elif {**now.attrs, name: 0} != {**node.attrs, name: 0} or now.inputs != node.inputs:
            yield Excess(f"{node.path} changed in more than its size")
    yield from (Excess(f"{node.path} was added") for node in case.added())


def scope_vocabulary(case: Case) -> Scope:
    return Scope(open=frozenset(), changing=frozenset(n.key for n in _vocabulary(case)))


def _positions(case: Case) -> list[FlatNode]:
    """Tables looked up by numbers that are counted, not read."""
    out = []
    for node in _tables(case):
        above = case.before.above(node.inputs[0]) if node.inputs[0] is not None else frozenset()
        if all(key in case.before.nodes for key in above) and any(
            case.before.nodes[key].op == "Arange" for key in above
        ):
            out.append(node)
    return out


def check_context(case: Case) -> Iterator[str]:
    yield from _size_problems(case, _positions(case), case.value("positions"))


def scope_context(case: Case) -> Scope:
    return Scope(open=frozenset(), changing=frozenset(n.key for n in _positions(case)))
