"""`genmad eval NAME`: one of the evaluations, as one JSON object or as a table."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from genmad.cli.options import Checkpoint, Json, check_checkpoint
from genmad.cli.output import Progress, emit_json, quiet_stdout, show


def evaluate(
    name: Annotated[str, typer.Argument(help="Which evaluation; `list` names them.", metavar="NAME")],
    quick: Annotated[bool, typer.Option("--quick", help="A small version, for continuous integration.")] = False,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the requests that are drawn.", metavar="N", min=0)] = 0,
    n: Annotated[int | None, typer.Option("-n", "--n", help="How many items.", metavar="N", min=1)] = None,
    checkpoint: Checkpoint = None,
    corpus: Annotated[
        str | None, typer.Option("--corpus", help="Folder of `genmad zoo build`, for eval corpus.", metavar="FOLDER")
    ] = None,
    space: Annotated[
        str | None, typer.Option("--space", help="Search space, for pools and search.", metavar="NAME")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option("--data", help="Folder of benchmark tables; default $GENMAD_DATA.", metavar="FOLDER"),
    ] = None,
    protocol: Annotated[
        str | None,
        typer.Option("--protocol", help="What is measured, for predictor; a wrong name lists them.", metavar="NAME"),
    ] = None,
    picture: Annotated[
        str | None,
        typer.Option(
            "--picture", help="Also a .png, of pools (guided), search and predictor (pareto).", metavar="FILE"
        ),
    ] = None,
    as_json: Json = False,
) -> int:
    """Measure the generator: metrics, baselines and failures."""
    from importlib import import_module

    registry: dict[str, str] = dict(import_module("genmad.evals").EVALS)
    if name == "list":
        if as_json:
            emit_json({"status": "ok", "evaluations": list(registry)})
        else:
            show(*registry)
        return 0
    if name not in registry:
        raise _unknown(name, list(registry))
    check_checkpoint(checkpoint)
    if corpus is not None and name != "corpus":
        raise _no_corpus(name)
    given = {"corpus": corpus, "space": space, "data": data, "picture": picture, "protocol": protocol}
    more = {option: value for option, value in given.items() if value is not None}
    with quiet_stdout(as_json), Progress().running(f"eval {name}"):
        evaluation = import_module(registry[name])
        _check_options(name, evaluation.run, more)
        result: dict[str, Any] = evaluation.run(quick=quick, seed=seed, n=n, checkpoint=checkpoint, **more)
    if as_json:
        emit_json(result)
    else:
        show(*_lines(result))
    return 0


def _unknown(name: str, known: list[str]) -> Exception:
    from genmad.ir.diagnostics import Diagnostic
    from genmad.report import UsageError

    fix = "genmad eval list names them"
    return UsageError(Diagnostic(where="genmad eval", got=name, expected=f"one of {', '.join(known)}", fix=fix))


def _no_corpus(name: str) -> Exception:
    from genmad.ir.diagnostics import Diagnostic
    from genmad.report import UsageError

    expected, fix = "it with `genmad eval corpus` only", "leave --corpus out"
    return UsageError(Diagnostic(where="--corpus", got=f"it with eval {name}", expected=expected, fix=fix))


def _check_options(name: str, run: Any, given: dict[str, str]) -> None:
    """Raises `UsageError` on an option that this evaluation does not take."""
    from inspect import signature

    from genmad.ir.diagnostics import Diagnostic
    from genmad.report import UsageError

    for option in given:
        if option not in signature(run).parameters:
            where, fix = f"genmad eval {name}", f"leave --{option} out"
            raise UsageError(Diagnostic(where=where, got=f"--{option}", expected="its own options", fix=fix))


def _lines(result: dict[str, Any]) -> list[str]:
    head = f"{result.get('name')}: n={result.get('n')}, split={result.get('split')}, seed={result.get('seed')}"
    lines = [head, *(f"  {key}: {value:.4g}" for key, value in result.get("metrics", {}).items())]
    for name, metrics in result.get("baselines", {}).items():
        lines += [f"baseline {name}", *(f"  {key}: {value:.4g}" for key, value in metrics.items())]
    for failure in result.get("failures", [])[:10]:
        lines.append(f"failure: {failure}")
    return lines
