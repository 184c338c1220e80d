"""`genmad edit`: a model changed as a sentence says, checked, and handed over."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from genmad.cli.options import Checkpoint, Force, Inputs, Json, Model, check_checkpoint, load_model
from genmad.cli.output import Progress, emit_json, quiet_stdout, show

if TYPE_CHECKING:
    from genmad.recipe import Recipe
    from genmad.session import Architecture, Edited


def edit(
    model: Model,
    prompt: Annotated[
        str, typer.Argument(help="What to change, in a sentence.", metavar="PROMPT", show_default=False)
    ] = "",
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="A new folder, or a name that ends in .onnx.", metavar="PATH")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan and the diff; write nothing.")] = False,
    at: Annotated[
        str | None, typer.Option("--at", help="Where, as a path that `genmad inspect` shows.", metavar="NODE")
    ] = None,
    reading: Annotated[
        str | None,
        typer.Option("--reading", help="Which reading of the prompt to take, as the plan names them.", metavar="NAME"),
    ] = None,
    samples: Annotated[
        int,
        typer.Option(
            "--samples", help="How many answers to ask for (1 to 64); the best is taken.", metavar="N", min=1, max=64
        ),
    ] = 1,
    seed: Annotated[int, typer.Option("--seed", help="Seed of sampling and of new weights.", metavar="N", min=0)] = 0,
    no_weights: Annotated[bool, typer.Option("--no-weights", help="The architecture only.")] = False,
    init: Annotated[
        str,
        typer.Option(
            "--init", help="How additions start: preserve (outputs stay as they are) or random.", metavar="HOW"
        ),
    ] = "preserve",
    recipe: Annotated[
        Path | None, typer.Option("--recipe", help="Replay a recipe.yaml instead of reading a prompt.", metavar="FILE")
    ] = None,
    checkpoint: Checkpoint = None,
    inputs: Inputs = None,
    force: Force = False,
    as_json: Json = False,
) -> int:  # fmt: skip
    """Change a model by a sentence and hand over ONNX, PyTorch code, weights, a report and a recipe."""
    from genmad.report import EditError

    start = time.perf_counter()
    _check_usage(prompt, output, dry_run, reading, init, recipe, force)
    check_checkpoint(checkpoint)
    steps = None if recipe is None else _read_recipe(recipe)
    with quiet_stdout(as_json), Progress().running("starting") as progress:
        source = load_model(model, inputs, weights=not (no_weights or dry_run), progress=progress)
        source.clock.began = start
        try:
            if steps is not None:
                edited = source.replay(steps, init=init)
            else:
                edited = _edited(source, prompt, at, reading, samples, seed, init, checkpoint)
            _require_valid(edited)
        except EditError as error:
            error.context = {"prompt": prompt, "source": source.source, "seed": seed, "time_s": source.clock.to_json()}
            raise
        _ = edited.comparison
        if output is not None and not dry_run:
            progress.phase(f"writing {output}")
            (edited.to_onnx if output.suffix == ".onnx" else edited.save_pretrained)(output, force=force)
        report = edited.report
    if as_json:
        emit_json(report.to_json())
        return 0
    show(*edited.plan, *(f"another reading: {line}" for line in edited.reading_lines()), edited.diff.tree())
    show(f"checked: level {report.validity['level']} of 5 passed; {report.time_s['total']:.1f} s")
    show("nothing written (--dry-run)" if dry_run else f"wrote {output}")
    return 0


def _check_usage(
    prompt: str, output: Path | None, dry_run: bool, reading: str | None, init: str, recipe: Path | None, force: bool
) -> None:
    """Everything that can be refused before a model is loaded. Raises `UsageError` or `OutputError`."""
    from genmad.ir.diagnostics import Diagnostic
    from genmad.lowering.package import check_target
    from genmad.report import READINGS, UsageError, check_prompt

    if recipe is None:
        check_prompt(prompt)
    elif prompt:
        got, expected = "a prompt and --recipe", "one of them"
        raise UsageError(Diagnostic(where="genmad edit", got=got, expected=expected, fix="leave the prompt out"))
    if init not in ("preserve", "random"):
        fix = "leave it out for preserve"
        raise UsageError(Diagnostic(where="--init", got=init, expected="preserve or random", fix=fix))
    if reading is not None and reading not in READINGS:
        expected, fix = f"one of {', '.join(READINGS)}", "leave it out to take the likeliest one"
        raise UsageError(Diagnostic(where="--reading", got=reading, expected=expected, fix=fix))
    if output is None and not dry_run:
        fix = "add -o edited/, or --dry-run to see the plan only"
        expected = "-o FOLDER or -o FILE.onnx"
        raise UsageError(Diagnostic(where="genmad edit", got="no output", expected=expected, fix=fix))
    if output is not None and not dry_run:
        check_target(output, force=force)


def _read_recipe(path: Path) -> Recipe:
    from genmad.recipe import Recipe

    return Recipe.read(path)


def _edited(
    source: Architecture, prompt: str, at: str | None, reading: str | None, samples: int, seed: int, init: str,
    checkpoint: str | None,
) -> Edited:  # fmt: skip
    from genmad.report import check_place
    from genmad.session import load_editor

    check_place(source.graph, at)
    with source.clock.phase("load generator"):
        editor = load_editor(checkpoint)
    return source.edit(prompt, at=at, reading=reading, samples=samples, seed=seed, init=init, editor=editor)


def _require_valid(edited: Edited) -> None:
    """Raises `NoValidResultError` naming what failed."""
    from genmad.report import require_valid

    require_valid(edited.validity)
