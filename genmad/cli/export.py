"""`genmad export`: a model as ONNX or as a folder with PyTorch code."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from genmad.cli.options import Force, Inputs, Json, Model, load_model
from genmad.cli.output import Progress, emit_json, quiet_stdout, show


def export(
    model: Model,
    output: Annotated[
        Path, typer.Option("-o", "--output", help="A new folder, or a name that ends in .onnx.", metavar="PATH")
    ],
    no_weights: Annotated[bool, typer.Option("--no-weights", help="The architecture only.")] = False,
    inputs: Inputs = None,
    force: Force = False,
    as_json: Json = False,
) -> int:
    """Write a model as it is: one .onnx file, or a folder with model.onnx, model.py and model.safetensors."""
    from genmad.lowering.package import check_target

    check_target(output, force=force)
    with quiet_stdout(as_json), Progress().running("loading") as progress:
        loaded = load_model(model, inputs, weights=not no_weights, progress=progress)
        progress.phase(f"writing {output}")
        (loaded.to_onnx if output.suffix == ".onnx" else loaded.save_pretrained)(output, force=force)
    if as_json:
        emit_json({"status": "ok", "source": loaded.source, "output": str(output), "time_s": loaded.clock.to_json()})
    else:
        show(f"wrote {output}")
    return 0
