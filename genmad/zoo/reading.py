"""A zoo read into memory for fine-tuning: nothing of it is written anywhere."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from genmad.data.corpus import ArchRecord, load, record_of
from genmad.ir import Diagnostic, GenmadError
from genmad.zoo.jobs import Attempt
from genmad.zoo.manifest import Manifest, find_manifest, read_manifest
from genmad.zoo.private import private_source, scan
from genmad.zoo.workers import Limits, run_jobs


class ZooError(GenmadError):
    """A zoo of which nothing can be used."""

    exit_code = 3

    def __init__(self, diagnostic: Diagnostic) -> None:
        self.diagnostic = diagnostic
        super().__init__(str(diagnostic))


@dataclass(frozen=True, slots=True, kw_only=True)
class Zoo:
    """The graphs of a zoo.

    Attributes:
        records: distinct by canonical hash, in order of their paths.
        num_models: graphs that could be read, equal ones counted each.
        duplicates: (path, path of the graph that it equals).
        refused: (path or manifest line, why).
        num_labelled: records with measured figures.
    """

    records: tuple[ArchRecord, ...]
    num_models: int
    duplicates: tuple[tuple[str, str], ...] = ()
    refused: tuple[tuple[str, str], ...] = ()
    num_labelled: int = 0


def read_zoo(
    folder: Path, *, manifest: Path | None = None, run_code: tuple[str, ...] = (), workers: int = 1,
    limits: Limits | None = None, on_plan: Callable[[int], None] = lambda _: None,
    on_done: Callable[[Attempt], None] = lambda _: None, out_of_time: Callable[[], bool] = lambda: False,
) -> Zoo:  # fmt: skip
    """The zoo in a folder: what `genmad zoo add` takes, or what it has made.

    Args:
        manifest: measured figures; `manifest.csv` in the folder without.
        out_of_time: asked after each model; True ends the reading, the models left are refused.

    Raises `ZooError` where nothing can be used, `SourceError` for a folder that is none.
    """
    if (folder / "dataset_info.json").is_file():
        return _distinct(load(folder), [])
    found = scan(folder)
    table = manifest or find_manifest(folder)
    told = read_manifest(table) if table is not None else Manifest()
    source, unmatched = private_source(folder, found, told, run_code)
    refused = [*found.refused, *told.refused, *unmatched]
    jobs = list(source.jobs(0))
    on_plan(len(jobs))
    made: dict[str, Attempt] = {}
    attempts = run_jobs(jobs, {source.name: source}, workers=workers, limits=limits or Limits())
    for attempt in attempts:
        made[attempt.job.variant] = attempt
        on_done(attempt)
        if out_of_time():
            break
    records = []
    for job in jobs:
        attempt_of = made.get(job.variant)
        if attempt_of is None:
            refused.append((job.variant, "not read: the time was up"))
        elif attempt_of.row is None:
            refused.append((job.variant, attempt_of.reason))
        else:
            records.append(record_of({**attempt_of.row, "split": "train"}))
    if not records:
        raise _nothing(folder, refused)
    return _distinct(records, refused)


def _distinct(records: list[ArchRecord], refused: list[tuple[str, str]]) -> Zoo:
    first: dict[str, ArchRecord] = {}
    duplicates = []
    for record in records:
        if record.hash in first:
            duplicates.append((record.variant, first[record.hash].variant))
        first.setdefault(record.hash, record)
    return Zoo(
        records=tuple(first.values()), num_models=len(records), duplicates=tuple(duplicates), refused=tuple(refused),
        num_labelled=sum(r.labels not in ("", "{}") for r in first.values()),
    )  # fmt: skip


def _nothing(folder: Path, refused: list[tuple[str, str]]) -> ZooError:
    told = "; ".join(f"{name}: {why}" for name, why in refused[:5])
    got = f"{len(refused)} files, none of which can be used: {told}" if refused else "no models"
    fix = "put .onnx files or folders with config.json there, or name functions with --run-code module:function"
    return ZooError(Diagnostic(where=str(folder), got=got, expected="a zoo with one model or more", fix=fix))
