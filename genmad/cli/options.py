"""Options that several commands share, and loading a model for a command."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from genmad.cli.output import Progress
    from genmad.session import Architecture

Model = Annotated[
    str, typer.Argument(help="A transformers id or type, a folder, an .onnx file, or package.module:function.")
]
Inputs = Annotated[
    list[str] | None,
    typer.Option(
        "--input", help="Example input, name=1x3x224x224:float32; repeat for several.", metavar="NAME=SHAPE:DTYPE"
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else.")]
Force = Annotated[bool, typer.Option("--force", help="Replace the files that genmad writes where they exist.")]


def model_source(text: str) -> str:
    """The source to load: of a hand-over folder its model.onnx."""
    folder = Path(text)
    if (folder / "report.json").is_file() and (folder / "model.onnx").is_file():
        return str(folder / "model.onnx")
    return text


def load_model(source: str, inputs: list[str] | None, *, weights: bool, progress: Progress) -> Architecture:
    """The model, its clock tied to the progress line; a loud line where its weights are random."""
    import os

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from genmad.session import load

    progress.phase(f"loading {source}")
    model = load(model_source(source), inputs=tuple(inputs or ()), weights=weights)
    model.clock.on_phase = progress.phase
    if model.source["weights"] == "random":
        from genmad.cli.output import warn

        warn(f"RANDOM WEIGHTS: no weights of {source} were found on this machine; built from its config alone")
    return model
