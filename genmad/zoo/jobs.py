"""What is to be imported: a job names one model at one size, a source lists its jobs and makes their graphs."""

import hashlib
import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from genmad import __version__
from genmad.data.corpus import graph_text
from genmad.data.describe import describe
from genmad.data.facts import facts_of
from genmad.ir import Graph, canonical_hash, canonicalize

MAX_REASON = 300
# How the reason begins where the library's own code cannot build a model, which no importer can help.
NOT_BUILT = "does not build: "


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One model at one size.

    Attributes:
        source: name of the source that makes it.
        library: package and version, `transformers 5.23.0`.
        family, group, variant, name: as `ArchRecord` has them.
        settings: everything that the source needs to make it; JSON values.
    """

    source: str
    library: str
    family: str
    variant: str
    name: str
    group: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def ident(self) -> str:
        """The same for the same model, library and GenMAD version: a journal is looked up by it."""
        parts = [__version__, self.source, self.library, self.family, self.variant, self.name, dict(self.settings)]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:24]

    def __str__(self) -> str:
        return f"{self.source} {self.name} {self.variant}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """What a source made of a job.

    Attributes:
        modality: where the library tells it; else it is read off the graph.
        task: of the head, "" where unknown.
        config: what the model was built with, beyond the job's settings.
        labels: measured figures.
    """

    graph: Graph
    modality: str = ""
    task: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    labels: Mapping[str, float] = field(default_factory=dict)


class NotApplicable(Exception):
    """A job that a model leaves nothing to do for, such as another depth of a model without layers; no failure."""


class NotBuiltError(Exception):
    """A model that its own library cannot build."""


class Source(Protocol):
    """Where models come from. Sent to worker processes, so it holds plain values only."""

    @property
    def name(self) -> str: ...

    @property
    def package(self) -> str:
        """The pip package whose version and licence stand in the data card; `genmad` for its own spaces."""

    def jobs(self, seed: int) -> Iterable[Job]:
        """Every model, in an order that depends on the package and the seed alone. Raises `SourceError`."""

    def make(self, job: Job) -> Made:
        """The graph of one job. May raise anything."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """What came of a job.

    Attributes:
        status: `ok`, `failed` or `skipped`; when a corpus is put together, also `duplicate`.
        reason: why it failed or was skipped, `""` otherwise.
        seconds: that the import took.
        row: columns of `genmad.data.corpus.COLUMNS` but the split; None where it failed.
    """

    job: Job
    status: str
    reason: str = ""
    seconds: float = 0.0
    row: Mapping[str, Any] | None = None


def attempt(source: Source, job: Job) -> Attempt:
    """Makes one job's graph and its row. Whatever the model's code raises is a failed attempt."""
    start = time.perf_counter()
    try:
        made = source.make(job)
        row = row_of(job, made)
    except MemoryError:
        raise
    except NotApplicable as error:
        return Attempt(job=job, status="skipped", reason=str(error), seconds=_since(start))
    except Exception as error:
        return Attempt(job=job, status="failed", reason=reason_of(error), seconds=_since(start))
    return Attempt(job=job, status="ok", seconds=_since(start), row=row)


def _since(start: float) -> float:
    return round(time.perf_counter() - start, 3)


def reason_of(error: BaseException) -> str:
    """The kind of an error and its first line, after `NOT_BUILT` where the model does not even build."""
    if isinstance(error, NotBuiltError) and error.__cause__ is not None:
        return f"{NOT_BUILT}{reason_of(error.__cause__)}"[:MAX_REASON]
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {first}"[:MAX_REASON]


def row_of(job: Job, made: Made) -> dict[str, Any]:
    """The columns of a made graph; the split is decided when the corpus is put together."""
    graph = canonicalize(made.graph)
    facts = facts_of(graph)
    modality = made.modality or facts.modality
    library = job.library.partition(" ")[0]
    return {
        "family": job.family, "variant": job.variant, "hash": canonical_hash(graph), "name": job.name,
        "group": job.group or job.family, "source": job.source, "source_version": job.library,
        "config": json.dumps({**job.settings, **made.config}, sort_keys=True, default=str),
        "text": describe(facts, name=job.name, library=library, task=made.task, modality=modality),
        "modality": modality, "task": made.task, "num_params": facts.num_params, "num_macs": facts.num_macs,
        "num_nodes": facts.num_nodes, "num_nodes_flat": facts.num_nodes_flat, "num_blocks": facts.num_blocks,
        "num_primitive": facts.num_primitive, "labels": json.dumps(dict(made.labels), sort_keys=True),
        "graph": graph_text(graph),
    }  # fmt: skip
