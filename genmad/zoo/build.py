"""Builds a corpus from sources: plans the jobs, runs those that the journal lacks, drops duplicates, splits, writes."""

import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from genmad import __version__
from genmad.data.corpus import open_rows, write_rows
from genmad.data.splits import SplitRule, priority
from genmad.ir import Diagnostic, GenmadError
from genmad.zoo.config import ZooConfig
from genmad.zoo.jobs import Attempt, Job, Source
from genmad.zoo.journal import Journal
from genmad.zoo.workers import Limits, run_jobs


class BuildError(GenmadError):
    """A build that cannot start or has nothing to show."""

    exit_code = 2

    def __init__(self, diagnostic: Diagnostic, exit_code: int = 2) -> None:
        self.diagnostic = diagnostic
        self.exit_code = exit_code
        super().__init__(str(diagnostic))


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a build will do.

    Attributes:
        jobs: in the order of the corpus's rows.
        skipped: source -> why it has no jobs, such as a package that is not installed.
    """

    jobs: tuple[Job, ...]
    skipped: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Watcher:
    """Who is told how a build goes on.

    Attributes:
        on_plan: (jobs in all, jobs that the journal has done).
        on_start: a job begins.
        on_done: what came of it.
    """

    on_plan: Callable[[int, int], None] = lambda *_: None
    on_start: Callable[[Job], None] = lambda _: None
    on_done: Callable[[Attempt], None] = lambda _: None


@dataclass(kw_only=True)
class Assembly:
    """The jobs of a plan sorted by what came of them.

    Attributes:
        kept: jobs whose graphs go in, in plan order, with their splits.
        status: job ident -> `ok`, `duplicate`, `failed`, `skipped`.
    """

    kept: list[tuple[Job, str]] = field(default_factory=list)
    status: dict[str, str] = field(default_factory=dict)


def plan(sources: Sequence[Source], seed: int, limit: int | None) -> Plan:
    """The jobs of all sources; of a limited plan an even sample, drawn by `seed`, in the same order."""
    jobs: list[Job] = []
    skipped = {}
    for source in sources:
        try:
            jobs += source.jobs(seed)
        except (GenmadError, ImportError) as error:
            skipped[source.name] = str(error).splitlines()[0]
    known: dict[str, Job] = {}
    for job in jobs:
        known.setdefault(job.ident, job)
    jobs = list(known.values())
    if limit is not None and limit < len(jobs):
        drawn = sorted(jobs, key=lambda job: hashlib.sha256(f"{seed} {job.ident}".encode()).digest())[:limit]
        chosen = {job.ident for job in drawn}
        jobs = [job for job in jobs if job.ident in chosen]
    return Plan(jobs=tuple(jobs), skipped=skipped)


def build(
    sources: Sequence[Source], config: ZooConfig, out: Path, *, seed: int = 0, workers: int = 1,
    limit: int | None = None, retry: bool = False, finish: bool = False, force: bool = False,
    refused: Sequence[tuple[str, str]] = (), add: bool = False, watcher: Watcher | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Builds the corpus in `out`; what is told of it (`summary.json`).

    The journal stands in `<out>.partial` until the corpus is written; a build that is ended takes it up again.

    Args:
        limit: an even sample of so many jobs.
        retry: do jobs again that have failed before.
        finish: import nothing more; the corpus holds what an ended build has done.
        force: replace a corpus in `out`.
        refused: (what, why) of files that were refused before; they stand among the failures.
        add: keep the graphs of a corpus in `out`, new ones come after them.

    Raises `BuildError`.
    """
    watcher = watcher or Watcher()
    _check_out(out, force or add)
    planned = plan(sources, seed, limit)
    if not planned.jobs:
        told = (*planned.skipped.items(), *refused[:5])
        got = "; ".join(f"{name}: {why}" for name, why in told) or "no models"
        raise BuildError(Diagnostic(where="genmad zoo build", got=got, expected="a source with models"), 3)
    folder = partial_folder(out)
    journal = Journal(folder)
    try:
        done = [j for j in planned.jobs if j in journal and not (retry and journal.status(j) == "failed")]
        known = {job.ident for job in done}
        todo = [] if finish else [job for job in by_rank(planned.jobs) if job.ident not in known]
        watcher.on_plan(len(planned.jobs), len(done))
        limits = Limits(seconds=config.seconds_per_model, memory_bytes=int(config.memory_gib * 2**30))
        table = {source.name: source for source in sources}
        for attempt in run_jobs(todo, table, workers=workers, limits=limits, on_start=watcher.on_start):
            journal.add(attempt)
            watcher.on_done(attempt)
        assembly = assemble([job for job in planned.jobs if job in journal], journal, config.splits)
        if not assembly.kept:
            why = [str(journal.head(job)["reason"]) for job in planned.jobs if job in journal][:3]
            got = f"none of {len(planned.jobs)} models could be imported: {'; '.join(why)}"
            raise BuildError(Diagnostic(where="genmad zoo", got=got, expected="one or more"), 5)
        done_before = _Before.of(out) if add and (out / "dataset_info.json").is_file() else _Before()
        return _write(assembly, journal, planned, sources, config, out, done_before, refused, seed=seed)
    finally:
        journal.close()


def by_rank(jobs: Sequence[Job]) -> list[Job]:
    """The order of work: the last size of every model, then the last but one; the full sizes, which come first in a
    plan and take longest, at the end. So a build that is ended early has seen most models."""
    seen: Counter[tuple[str, str]] = Counter()
    ranked = []
    for index in range(len(jobs) - 1, -1, -1):
        key = (jobs[index].source, jobs[index].name)
        ranked.append((seen[key], index))
        seen[key] += 1
    return [jobs[index] for _, index in sorted(ranked)]


def partial_folder(out: Path) -> Path:
    """Where a build works until its corpus is whole."""
    return out.with_name(out.name + ".partial")


def discard(out: Path) -> None:
    """Removes what an ended build of `out` has left."""
    shutil.rmtree(partial_folder(out), ignore_errors=True)


def _check_out(out: Path, force: bool) -> None:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if force and (out / "dataset_info.json").is_file():
        return
    is_corpus = (out / "dataset_info.json").is_file()
    got = "a corpus is there" if is_corpus else "a file or a folder with other things is there"
    fix = "--force replaces it, or name another folder" if is_corpus else "name another folder"
    raise BuildError(Diagnostic(where=f"-o {out}", got=got, expected="a new folder", fix=fix))


def assemble(jobs: Sequence[Job], journal: Journal, rule: SplitRule) -> Assembly:
    """Decides which graphs go in: of equal graphs the one whose split is looked at last in training, then the first."""
    found = Assembly()
    best: dict[str, tuple[int, int]] = {}
    splits = [rule.split(job.family, job.group) for job in jobs]
    for index, job in enumerate(jobs):
        found.status[job.ident] = journal.status(job)
        if found.status[job.ident] == "ok":
            key = str(journal.head(job)["row"]["hash"])
            best[key] = min(best.get(key, (9, 0)), (priority(splits[index]), index))
    winners = {index for _, index in best.values()}
    for index, job in enumerate(jobs):
        if index in winners:
            found.kept.append((job, splits[index]))
        elif found.status[job.ident] == "ok":
            found.status[job.ident] = "duplicate"
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class _Before:
    """What a corpus holds that new graphs are added to."""

    rows: Any = ()
    hashes: frozenset[str] = frozenset()
    attempts: tuple[dict[str, Any], ...] = ()

    @staticmethod
    def of(folder: Path) -> "_Before":
        rows = open_rows(folder)
        try:
            lines = (folder / "attempts.jsonl").read_text(encoding="utf-8").splitlines()
        except OSError:
            lines = []
        return _Before(rows=rows, hashes=frozenset(rows["hash"]), attempts=tuple(map(json.loads, lines)))


def _write(
    assembly: Assembly, journal: Journal, planned: Plan, sources: Sequence[Source], config: ZooConfig, out: Path,
    before: _Before, refused: Sequence[tuple[str, str]], *, seed: int,
) -> dict[str, Any]:  # fmt: skip
    """Writes everything beside `out`, then renames; the journal goes when the corpus is there."""
    from genmad.data.card import write_card

    fresh = partial_folder(out) / "corpus"
    shutil.rmtree(fresh, ignore_errors=True)
    for job, _ in assembly.kept:
        if journal.head(job)["row"]["hash"] in before.hashes:
            assembly.status[job.ident] = "duplicate"
    assembly.kept = [(job, split) for job, split in assembly.kept if assembly.status[job.ident] == "ok"]
    write_rows(chain(before.rows, _rows(assembly, journal)), fresh)
    attempts = [*before.attempts, *_attempts(assembly, journal, [job for job in planned.jobs if job in journal])]
    attempts += [_refusal(sources[0], path, why) for path, why in refused]
    with (fresh / "attempts.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(entry) + "\n" for entry in attempts)
    failed = [a for a in attempts if a["status"] in ("failed", "refused")]
    (fresh / "failures.json").write_text(json.dumps(failed, indent=1), encoding="utf-8")
    summary = {
        "genmad": __version__, "seed": seed, "sources": [s.name for s in sources if s.name not in planned.skipped],
        "skipped_sources": dict(planned.skipped), "packages": _packages(sources, planned),
        "attempts": dict(sorted(Counter(a["status"] for a in attempts).items())), "planned": len(planned.jobs),
        "import_seconds": round(sum(a["seconds"] for a in attempts), 1), "held_out": list(config.held_out),
        "heldout_share": config.heldout_share, "validation_share": config.validation_share,
        "private": any(s.name == "private" for s in sources),
    }  # fmt: skip
    (fresh / "summary.json").write_text(json.dumps(summary, indent=1), encoding="utf-8")
    write_card(fresh)
    replace_folder(fresh, out)
    shutil.rmtree(partial_folder(out), ignore_errors=True)
    return summary | {"added": _added(attempts[len(before.attempts) :])}


def _added(attempts: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """What came of this run's jobs: variants that went in, those that were there, and (name, reason) of the others."""
    bad = [{"name": a["variant"], "reason": a["reason"]} for a in attempts if a["status"] in ("failed", "refused")]
    good = {status: [a["variant"] for a in attempts if a["status"] == status] for status in ("ok", "duplicate")}
    return good | {"refused": bad}


def _rows(assembly: Assembly, journal: Journal) -> Iterator[dict[str, Any]]:
    for job, split in assembly.kept:
        yield journal.row(job) | {"split": split}


def _attempts(assembly: Assembly, journal: Journal, jobs: Sequence[Job]) -> Iterator[dict[str, Any]]:
    for job in jobs:
        head = journal.head(job)
        yield {
            "source": job.source, "family": job.family, "name": job.name, "variant": job.variant,
            "status": assembly.status[job.ident], "reason": head["reason"], "seconds": head["seconds"], **head["row"],
        }  # fmt: skip


def _refusal(source: Source, path: str, why: str) -> dict[str, Any]:
    return {
        "source": source.name, "family": "", "name": path, "variant": path, "status": "refused", "reason": why,
        "seconds": 0.0,
    }  # fmt: skip


def _packages(sources: Sequence[Source], planned: Plan) -> dict[str, dict[str, str]]:
    """Version and licence of each source's package, as its metadata states them."""
    from importlib.metadata import PackageNotFoundError, metadata

    out = {}
    for source in sources:
        if source.name in planned.skipped:
            continue
        try:
            told: Any = metadata(source.package)
        except PackageNotFoundError:
            out[source.package] = {"version": __version__ if source.package == "genmad" else "", "license": ""}
            continue
        licence = told.get("License-Expression") or told.get("License") or ""
        classifiers = [c.rpartition(" :: ")[2] for c in told.get_all("Classifier") or () if c.startswith("License")]
        short = licence.strip().splitlines()[0] if licence.strip() else ""
        out[source.package] = {"version": told["Version"], "license": short or ", ".join(classifiers)}
    return out


def replace_folder(fresh: Path, out: Path) -> None:
    """Puts `fresh` where `out` is; what stood there is there until the last moment."""
    old = out.with_name(f"{out.name}.old-{os.getpid()}")
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.exists():
        out.rename(old)
    fresh.rename(out)
    shutil.rmtree(old, ignore_errors=True)
