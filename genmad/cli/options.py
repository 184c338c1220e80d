"""Options that several commands share, and loading a model for a command."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from genmad.cli.output import Progress
    from genmad.session import Architecture

Model = Annotated[
    str,
    typer.Argument(
        help="A transformers id or type, timm:NAME, diffusers:NAME, pyg:NAME, a folder, an .onnx file, "
        "or package.module:function.",
        metavar="MODEL", show_default=False,
    ),
]  # fmt: skip
Inputs = Annotated[
    list[str] | None,
    typer.Option(
        "--input", help="Example input, name=1x3x224x224:float32; repeat for several.", metavar="NAME=SHAPE:DTYPE"
    ),
]
Checkpoint = Annotated[
    str | None,
    typer.Option("--model", help="Folder of another generator checkpoint than the one shipped.", metavar="FOLDER"),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else.")]
Force = Annotated[bool, typer.Option("--force", help="Replace the files that genmad writes where they exist.")]


def check_checkpoint(folder: str | None) -> None:
    """Raises `UsageError` when the folder holds no generator; called before a model is loaded."""
    if folder is None or (Path(folder) / "config.json").is_file():
        return
    from genmad.ir.diagnostics import Diagnostic
    from genmad.report import UsageError

    got = "a folder without config.json" if Path(folder).is_dir() else "no such folder"
    fix = "leave --model out for the generator that ships with genmad"
    raise UsageError(
        Diagnostic(where=f"--model {folder}", got=got, expected="a folder that genmad's training wrote", fix=fix)
    )


def check_inputs(source: str, inputs: list[str] | None) -> None:
    """Raises `UsageError` when example inputs are given for a source that has its own."""
    if not inputs:
        return
    from genmad.importers.catalog import is_catalogue_source

    if ":" in source and not Path(source).exists() and not is_catalogue_source(source):
        return
    from genmad.ir.diagnostics import Diagnostic
    from genmad.report import UsageError

    got, fix = f"--input for {source}, whose inputs are known", "leave --input out"
    raise UsageError(Diagnostic(where="--input", got=got, expected="package.module:function", fix=fix))


def model_source(text: str) -> str:
    """The source to load: of a hand-over folder its model.onnx."""
    folder = Path(text)
    if (folder / "report.json").is_file() and (folder / "model.onnx").is_file():
        return str(folder / "model.onnx")
    return text


def load_model(source: str, inputs: list[str] | None, *, weights: bool, progress: Progress) -> Architecture:
    """The model, its clock tied to the progress line; a loud line where its weights are random."""
    import os

    check_inputs(source, inputs)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from genmad.cli.output import warn
    from genmad.session import load

    progress.phase(f"loading {source}")
    model = load(model_source(source), inputs=tuple(inputs or ()), weights=weights)
    model.clock.on_phase = progress.phase
    for note in model.imported.notes:
        if not note.startswith("opset"):
            warn(f"NOTE: {note}")
    if model.source["weights"] == "random":
        warn(f"RANDOM WEIGHTS: no weights of {source} were found on this machine; built from its config alone")
    return model
