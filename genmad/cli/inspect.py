"""`genmad inspect`: a model as a tree."""

from __future__ import annotations

from typing import Annotated

import typer

from genmad.cli.options import Inputs, Json, Model, load_model
from genmad.cli.output import Progress, emit_json, quiet_stdout, show


def inspect(
    model: Model,
    depth: Annotated[
        int | None, typer.Option("--depth", help="How many levels of blocks to open.", metavar="N", min=0)
    ] = None,
    inputs: Inputs = None,
    as_json: Json = False,
) -> int:
    """Show a model's graph with shapes, parameters, MACs, and what stayed primitive."""
    with quiet_stdout(as_json), Progress().running("loading") as progress:
        found = load_model(model, inputs, weights=False, progress=progress).inspect(depth=depth)
    if as_json:
        emit_json(found.to_json())
    else:
        show(found.tree(), *found.lines())
    return 0
