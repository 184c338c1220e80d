"""`genmad diff`: two models compared node by node."""

from __future__ import annotations

from typing import Annotated

import typer

from genmad.cli.options import Inputs, Json, load_model
from genmad.cli.output import Progress, emit_json, quiet_stdout, show


def diff(
    first: Annotated[str, typer.Argument(help="The model before.", metavar="A")],
    second: Annotated[str, typer.Argument(help="The model after.", metavar="B")],
    inputs: Inputs = None,
    as_json: Json = False,
) -> int:
    """Show which nodes were added, removed, changed or rewired between two models."""
    from genmad.diff import GraphDiff
    from genmad.inspection import graph_cost

    with quiet_stdout(as_json), Progress().running("loading") as progress:
        before = load_model(first, inputs, weights=False, progress=progress)
        after = load_model(second, inputs, weights=False, progress=progress)
        found = GraphDiff.between(before.graph, after.graph)
    if as_json:
        cost = {"before": graph_cost(before.graph), "after": graph_cost(after.graph)}
        emit_json({"status": "ok", "same": found.is_empty, "delta": found.to_json(), "cost": cost})
    else:
        show(found.tree())
    return 0
