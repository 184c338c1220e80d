"""`genmad check`: the validity levels of a model or a file."""

from __future__ import annotations

from typing import Annotated

import typer

from genmad.cli.options import Inputs, Json, Model, load_model
from genmad.cli.output import Progress, emit_json, quiet_stdout, show


def check(
    model: Model,
    level: Annotated[
        int, typer.Option("--level", help="Highest level to check (1 to 5).", metavar="N", min=1, max=5)
    ] = 5,
    inputs: Inputs = None,
    as_json: Json = False,
) -> int:
    """Check that a model is well-formed, typed, within budget, valid ONNX and executable."""
    from genmad.report import require_valid

    with quiet_stdout(as_json), Progress().running("loading") as progress:
        loaded = load_model(model, inputs, weights=False, progress=progress)
        report = loaded.check(level)
    require_valid(report)
    found = report.to_json()
    if as_json:
        emit_json({"status": "ok", "source": loaded.source, "validity": found})
        return 0
    show(*(f"level {item['level']} {item['name']}: passed" for item in found["checks"]))
    show(f"level {found['level']} of 5 passed")
    return 0
