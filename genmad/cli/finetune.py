"""`genmad finetune`: the generator tuned to a folder of your own models, on your own machine."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from genmad.cli.options import Json
from genmad.cli.output import console, emit_json, quiet_stdout, show

if TYPE_CHECKING:
    from genmad.zoo.jobs import Attempt

_SAY_EVERY_S = 20.0
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}


def finetune(
    zoo: Annotated[
        Path,
        typer.Argument(
            help="Folder of .onnx files and config folders, or a zoo of `genmad zoo add`.", metavar="ZOO",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path, typer.Option("-o", "--output", help="Folder of the new generator.", metavar="FOLDER")
    ],
    time_limit: Annotated[
        str | None, typer.Option("--time-limit", help="Of the whole command: 90s, 30m, 2h.", metavar="TIME")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted run.")] = False,
    rank: Annotated[
        int | None, typer.Option("--rank", help="Adapt at this low rank.", metavar="R", min=1, max=64)
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="Adapt all weights.")] = False,
    steps: Annotated[int | None, typer.Option("--steps", help="Steps at most.", metavar="N", min=1)] = None,
    base: Annotated[
        Path | None, typer.Option("--base", help="Checkpoint to start from; the shipped one without.", metavar="FOLDER")
    ] = None,
    manifest: Annotated[
        Path | None,
        typer.Option("--manifest", help="Measured figures; manifest.csv in ZOO without.", metavar="FILE"),
    ] = None,
    run_code: Annotated[
        list[str] | None,
        typer.Option("--run-code", help="Run this function of ZOO for its model.", metavar="MODULE:FUNCTION"),
    ] = None,
    replay: Annotated[
        Path | None,
        typer.Option(
            "--replay", help="Corpus of public graphs against forgetting; a small one is built without.",
            metavar="CORPUS",
        ),
    ] = None,
    forbid_copies: Annotated[
        bool, typer.Option("--forbid-copies", help="The generator never gives a graph of the zoo back.")
    ] = False,
    max_tokens: Annotated[
        int, typer.Option("--max-tokens", help="Leave out models of more graph tokens.", metavar="N", min=8)
    ] = 700,
    licence: Annotated[
        str, typer.Option("--license", help="What the card states.", metavar="TEXT")
    ] = "unknown",
    workers: Annotated[
        int, typer.Option("--workers", help="Processes that read models, threads that tune.", metavar="N", min=1)
    ] = 1,
    seed: Annotated[int, typer.Option("--seed", help="Seed of everything that is drawn.", metavar="N", min=0)] = 0,
    as_json: Json = False,
) -> int:  # fmt: skip
    """Tune the generator to your own models. Nothing leaves the machine; the new folder holds no copy of the zoo."""
    import os

    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    seconds = None if time_limit is None else _seconds(time_limit)
    if full and rank is not None:
        raise _usage("--full", "it with --rank", "one of them", "leave one out")
    if re.search(r"[\n\r:#]", licence):
        raise _usage("--license", repr(licence), "one line without : and #", "--license apache-2.0")
    from genmad.evals.tuning import TuneConfig, TuneRequest, Watcher, tune

    config = TuneConfig(
        seed=seed, rank=0 if full else rank, steps=steps, seconds=seconds, max_graph_tokens=max_tokens,
        workers=1 if workers > 1 else 0, threads=workers,
    )  # fmt: skip
    request = TuneRequest(
        zoo=zoo, out=out, config=config, base=base, manifest=manifest, run_code=tuple(run_code or ()), replay=replay,
        resume=resume, forbid_copies=forbid_copies, license=licence, workers=workers,
    )  # fmt: skip
    with quiet_stdout(as_json), TuneProgress() as progress:
        watcher = Watcher(
            on_phase=progress.phase,
            on_plan=progress.plan,
            on_model=progress.model,
            on_row=progress.row,
            on_step=progress.step,
        )
        told = tune(request, watcher)
    if as_json:
        emit_json(told)
    else:
        show(*_lines(told))
    return 0


def _seconds(text: str) -> float:
    """`90s`, `30m`, `2h` or a number of seconds. Raises `UsageError`."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text.strip())
    if match is None or float(match[1]) <= 0:
        raise _usage("--time-limit", text, "a number with s, m or h", "--time-limit 30m")
    return float(match[1]) * _UNITS[match[2] or "s"]


def _usage(where: str, got: str, expected: str, fix: str) -> Exception:
    from genmad.ir.diagnostics import Diagnostic
    from genmad.report import UsageError

    return UsageError(Diagnostic(where=where, got=got, expected=expected, fix=fix))


def _lines(told: Mapping[str, Any]) -> list[str]:
    zoo, tuning = told["zoo"], told["tuning"]
    lines = [
        f"{told['folder']}: tuned to {zoo['distinct']} distinct graphs of {zoo['models']} models "
        f"({zoo['trained_on']} trained on, {zoo['held_out']} held out), {tuning['way']}, "
        f"{tuning['done_steps']} steps, best at {tuning['best_step']}, {told['seconds']:.0f} s"
    ]
    lines += [f"  refused {item['name']}: {item['reason']}" for item in zoo["refused"]]
    lines += [f"  equal {item['name']}: the same graph as {item['of']}" for item in zoo["duplicates"]]
    lines += [f"  left out {item['name']}: {item['tokens']} tokens" for item in zoo["too_large"]]
    part = "held-out part of the zoo" if zoo["held_out"] else "zoo, which was trained on"
    for key, title in (("zoo", part), ("public", "public graphs")):
        before, after = told["before"][key], told["after"][key]
        changes = [
            f"{name} {before[k]:.3f} -> {after[k]:.3f} ({after[k] / before[k] - 1:+.0%})"
            for k, name in (
                ("node_nll", "a node"),
                ("completion_nll", "a node put back"),
                ("edit_nll", "an edit's token"),
            )
            if before.get(k) and k in after
        ]
        lines.append(f"nats on the {title}: {', '.join(changes)}")
    measures = told["measures"]
    lines.append(
        f"of {measures['generated']} generated graphs {measures['copies_of_the_zoo']} equal a model of the zoo"
    )
    return [*lines, *(f"NOTE: {note}" for note in told["notes"])]


class TuneProgress:
    """The phase, a bar with an estimate while it tunes; on no terminal a line on stderr now and then."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._task: Any = None
        self._said = 0.0
        self._models = self._planned = 0
        self._score = ""

    def __enter__(self) -> TuneProgress:
        if sys.stderr.isatty():
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
            self._bar = Progress(*columns, TextColumn("{task.fields[note]}"), console=console(stderr=True))
            self._task = self._bar.add_task("starting", total=None, note="")
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def phase(self, name: str) -> None:
        self._tell(name, None, None, "", always=True)

    def plan(self, total: int) -> None:
        self._planned = total

    def model(self, attempt: Attempt) -> None:
        self._models += 1
        self._tell("reading the zoo", self._models, self._planned, f"last {attempt.job.variant}")

    def row(self, row: Mapping[str, Any]) -> None:
        self._score = f"held-out score {row['score']:.3f} (1 before)"
        self._tell("tuning", row["step"], row["steps"], self._score, always=True)

    def step(self, done: int, total: int, left: float) -> None:
        self._tell("tuning", done, total, f"{self._score}, about {left / 60:.1f} min left at most")

    def _tell(self, name: str, done: int | None, total: int | None, note: str, *, always: bool = False) -> None:
        if self._bar is not None:
            self._bar.update(self._task, description=name, completed=done or 0, total=total, note=note)
        elif always or time.monotonic() - self._said > _SAY_EVERY_S:
            self._said = time.monotonic()
            count = f" {done} of {total}" if total else ""
            print(f"{name}{count}{'; ' if note else ''}{note}", file=sys.stderr, flush=True)
