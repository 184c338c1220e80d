"""`genmad zoo`: build, show and derive corpora of architectures."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from genmad.cli.options import Force, Json
from genmad.cli.output import Progress, console, emit_json, quiet_stdout, show

if TYPE_CHECKING:
    from genmad.zoo.jobs import Attempt

zoo = typer.Typer(
    name="zoo", no_args_is_help=True, rich_markup_mode=None, short_help="Build and show corpora of architectures.",
    help="Corpora of architectures: graphs of real models with text, costs and splits.",
    epilog="\b\nExamples:\n"
    "  genmad zoo build --config configs/corpus.yaml -o corpus/ --workers 2\n"
    "  genmad zoo build -o some/ --sources timm --limit 50\n"
    "  genmad zoo show corpus/\n"
    "  genmad zoo probes corpus/ -o probes/ --kind masked-op\n"
    "  genmad zoo add ./my_zoo -o zoo/ --manifest my_zoo/measured.csv",
)  # fmt: skip
Seed = Annotated[int, typer.Option("--seed", help="Seed of everything that is drawn.", metavar="N", min=0)]
Corpus = Annotated[Path, typer.Argument(help="Folder of a corpus.", metavar="CORPUS", show_default=False)]
_SAY_EVERY_S = 30.0


@zoo.command("build", short_help="Build a corpus from installed libraries.")
def zoo_build(
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder of the new corpus.", metavar="FOLDER")],
    config: Annotated[
        Path | None, typer.Option("--config", help="Settings; the shipped corpus.yaml without.", metavar="FILE")
    ] = None,
    workers: Annotated[int, typer.Option("--workers", help="Processes that import.", metavar="N", min=1)] = 1,
    limit: Annotated[
        int | None, typer.Option("--limit", help="An even sample of N models.", metavar="N", min=1)
    ] = None,
    sources: Annotated[
        str | None, typer.Option("--sources", help="Of transformers, timm, diffusers, pyg, spaces.", metavar="A,B")
    ] = None,
    seed: Seed = 0,
    retry: Annotated[bool, typer.Option("--retry", help="Try models again that failed before.")] = False,
    finish: Annotated[bool, typer.Option("--finish", help="Write what an ended build has done.")] = False,
    force: Force = False,
    as_json: Json = False,
) -> int:
    """Build a corpus from installed libraries. Run it again to go on with a build that was ended."""
    from dataclasses import replace

    from genmad.cli.zoo_spaces import space_sources
    from genmad.lowering.package import check_writable
    from genmad.zoo.build import Watcher, build
    from genmad.zoo.config import read_config
    from genmad.zoo.sources import sources_of

    settings = read_config(config)
    if sources is not None:
        settings = replace(settings, sources=tuple(name.strip() for name in sources.split(",") if name.strip()))
    check_writable(out)
    with quiet_stdout(as_json), BuildProgress() as progress:
        extra = space_sources(settings.samples_per_space) if "spaces" in settings.sources else ()
        watcher = Watcher(on_plan=progress.plan, on_done=progress.done)
        build(
            sources_of(settings, extra), settings, out, seed=seed, workers=workers, limit=limit, retry=retry,
            finish=finish, force=force, watcher=watcher,
        )  # fmt: skip
    return _show(out, as_json)


@zoo.command("show", short_help="Counts of a corpus.")
def zoo_show(corpus: Corpus, as_json: Json = False) -> int:
    """Counts of a corpus: graphs, families, splits, sizes."""
    return _show(corpus, as_json)


def _show(folder: Path, as_json: bool) -> int:
    from genmad.data.card import summarise

    found = summarise(folder)
    if as_json:
        emit_json({"status": "ok", "folder": str(folder), **found.to_json()})
        return 0
    rows = [f"{folder}: {found.graphs} distinct graphs of {found.families} families"]
    for title, table in (("split", found.splits), ("source", found.sources)):
        rows += [f"  {title} {key}: {row['graphs']} graphs of {row['families']} families" for key, row in table.items()]
    if found.nodes:
        rows.append("  stored nodes: " + ", ".join(f"{name} {value:g}" for name, value in found.nodes.items()))
        rows.append(f"  lifted: {found.lifted_fraction:.2%} of the stored nodes")
    if found.failures:
        rows.append(f"  {len(found.failures)} models failed; {folder / 'failures.json'} says why")
    show(*rows)
    return 0


@zoo.command("probes", short_help="Derive a probe data set from a corpus.")
def zoo_probes(
    corpus: Corpus,
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder of the new data set.", metavar="FOLDER")],
    kind: Annotated[
        str,
        typer.Option(
            "--kind", help="operation, graph, masked-op, masked-link, incomplete or complete.", metavar="KIND"
        ),
    ],
    limit: Annotated[int | None, typer.Option("--limit", help="The first N graphs only.", metavar="N", min=1)] = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> int:
    """Derive a data set that probes what a model of graphs knows. Its splits are the corpus's."""
    from genmad.data.probes import KINDS, derive
    from genmad.ir.diagnostics import Diagnostic
    from genmad.lowering.package import check_writable
    from genmad.report import UsageError

    if kind not in KINDS:
        expected = f"one of {', '.join(KINDS)}"
        raise UsageError(Diagnostic(where="--kind", got=kind, expected=expected, fix="--kind masked-op"))
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(Diagnostic(where=f"-o {out}", got="it is in use", expected="a new folder", fix="name another"))
    check_writable(out)
    with quiet_stdout(as_json), Progress().running(f"{kind} probe") as progress:
        told = derive(
            corpus, kind, out, seed=seed, limit=limit, on_graph=lambda n: progress.phase(f"{kind} probe: {n} graphs")
        )
    if as_json:
        emit_json({"status": "ok", "folder": str(out), **told})
    else:
        splits = ", ".join(f"{count} {split}" for split, count in told["splits"].items())
        show(f"{out}: {told['rows']} rows ({splits})")
    return 0


@zoo.command("add", short_help="Take a folder of your own models in.")
def zoo_add(
    folder: Annotated[Path, typer.Argument(help="Folder with models.", metavar="FOLDER", show_default=False)],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder of the zoo, new or not.", metavar="FOLDER")],
    manifest: Annotated[
        Path | None,
        typer.Option(
            "--manifest", help="Measured figures, path,label... as CSV or JSONL; manifest.csv in FOLDER without.",
            metavar="FILE",
        ),
    ] = None,
    run_code: Annotated[
        list[str] | None,
        typer.Option(
            "--run-code", help="Run this function of FOLDER for its model; repeat for several.",
            metavar="MODULE:FUNCTION",
        ),
    ] = None,
    workers: Annotated[int, typer.Option("--workers", help="Processes that import.", metavar="N", min=1)] = 1,
    as_json: Json = False,
) -> int:  # fmt: skip
    """Take your own .onnx files and config folders into a private zoo. What is refused is told one by one."""
    from genmad.ir.diagnostics import GenmadError
    from genmad.lowering.package import check_writable
    from genmad.zoo.build import Watcher, build, discard
    from genmad.zoo.config import ZooConfig
    from genmad.zoo.manifest import Manifest, find_manifest, read_manifest
    from genmad.zoo.private import private_source, scan

    found = scan(folder)
    table = manifest or find_manifest(folder)
    told = read_manifest(table) if table is not None else Manifest()
    source, unmatched = private_source(folder, found, told, tuple(run_code or ()))
    refused = (*found.refused, *told.refused, *unmatched)
    check_writable(out)
    with quiet_stdout(as_json), BuildProgress() as progress:
        watcher = Watcher(on_plan=progress.plan, on_done=progress.done)
        config = ZooConfig(sources=(), heldout_share=0.0, validation_share=0.0)
        try:
            summary = build(
                (source,), config, out, workers=workers, refused=refused, add=True, retry=True, watcher=watcher
            )
        except GenmadError:
            discard(out)
            raise
    return _show_added(out, summary, as_json)


def _show_added(out: Path, summary: dict[str, Any], as_json: bool) -> int:
    added = summary["added"]
    if as_json:
        emit_json({"status": "ok", "folder": str(out), **added})
        return 0
    counts = {kind: len(items) for kind, items in added.items()}
    show(f"{out}: {counts['ok']} added, {counts['duplicate']} there already, {counts['refused']} refused")
    show(*(f"  refused {item['name']}: {item['reason']}" for item in added["refused"]))
    return 0


class BuildProgress:
    """A bar with an estimate on a terminal; elsewhere a line on stderr every half minute."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._task: Any = None
        self._total = self._before = self._count = self._failed = 0
        self._start = self._said = time.monotonic()

    def __enter__(self) -> BuildProgress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def plan(self, total: int, done: int) -> None:
        self._total, self._before = total, done
        self._start = time.monotonic()
        if not sys.stderr.isatty():
            print(f"{total} models, {done} of them done before", file=sys.stderr, flush=True)
            return
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), "left", TimeRemainingColumn())
        self._bar = Bar(*columns, TextColumn("{task.description}"), console=console(stderr=True))
        self._task = self._bar.add_task("", total=total, completed=done)
        self._bar.start()

    def done(self, attempt: Attempt) -> None:
        self._count += 1
        self._failed += attempt.status == "failed"
        if self._bar is not None:
            self._bar.update(self._task, advance=1, description=f"{self._failed} failed, last {attempt.job}")
        elif time.monotonic() - self._said > _SAY_EVERY_S:
            self._said = time.monotonic()
            done = self._before + self._count
            left = (self._said - self._start) / self._count * (self._total - done)
            text = f"{done} of {self._total}, {self._failed} failed, about {left / 60:.0f} min left"
            print(text, file=sys.stderr, flush=True)
