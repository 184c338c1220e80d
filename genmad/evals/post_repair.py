"""The post-condition of finishing an incomplete graph: it is what it was before a node was taken out."""

from collections.abc import Iterator

from genmad.evals.case import Case
from genmad.evals.untouched import Scope
from genmad.ir.canonical import canonical_hash


def check_complete(case: Case) -> Iterator[str]:
    if canonical_hash(case.after.graph) != case.value("structure"):
        added = ", ".join(f"{node.path} ({node.op})" for node in case.added()) or "nothing"
        yield f"the graph is not what it was before the node was taken out; added: {added}"


def scope_complete(case: Case) -> Scope:
    """Nodes may come in anywhere; those that are there stay as they are."""
    return Scope(open=frozenset({(), *case.before.calls}))
