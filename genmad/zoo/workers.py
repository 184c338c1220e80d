"""Processes that import models, each model under a limit of time and memory: a hang or a crash costs that model only.

Workers are spawned, not forked: a fork of a process that has run torch may hang. Each takes one job at a time over a
pipe. The parent watches the clock and the worker's memory and kills what goes over; the next job gets a new process.
"""

import contextlib
import multiprocessing
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from genmad.ir import Diagnostic, GenmadError
from genmad.zoo.jobs import Attempt, Job, Source, attempt

_POLL_S = 0.25
_START_S = 180.0
# So many workers in a row may end before they are ready; then something is wrong with the installation.
_BAD_STARTS = 3
# A worker is replaced when it is idle and holds more than this share of its memory limit: libraries leak.
_RECYCLE_SHARE = 0.6


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one model may take.

    Attributes:
        seconds: of processor time, so that a loaded machine fails no model; of wall-clock time where the system does
            not tell it.
        wall_factor: so many times as much wall-clock time, for models that wait for something.
        memory_bytes: of resident memory of the process that imports it.
    """

    seconds: float = 60.0
    wall_factor: float = 20.0
    memory_bytes: int = 4 * 2**30


class WorkerError(GenmadError):
    """Worker processes that do not even start."""

    exit_code = 5

    def __init__(self, got: str) -> None:
        fix = "run it again: what was done is kept"
        self.diagnostic = Diagnostic(where="worker process", got=got, expected="a process that starts", fix=fix)
        super().__init__(str(self.diagnostic))


@dataclass(kw_only=True)
class _Worker:
    """One process and the job it works on."""

    process: Any
    pipe: Connection
    job: Job | None = None
    since: float = field(default_factory=time.monotonic)
    cpu_before: float | None = None
    ready: bool = False


def run_jobs(
    jobs: Iterable[Job],
    sources: Mapping[str, Source],
    *,
    workers: int,
    limits: Limits,
    on_start: Callable[[Job], None] = lambda _: None,
) -> Iterator[Attempt]:
    """What came of each job, in the order in which they end. Closing the iterator ends the processes.

    Raises `WorkerError` where processes do not start.
    """
    pool = _Pool(queue=iter(jobs), sources=sources, size=workers, limits=limits, on_start=on_start)
    try:
        while pool.fill():
            yield from pool.collect()
    finally:
        for worker in pool.workers:
            _stop(worker)


@dataclass(kw_only=True)
class _Pool:
    """The processes and what is still to do; `returned` holds jobs that were taken from the queue but not begun."""

    queue: Iterator[Job]
    sources: Mapping[str, Source]
    size: int
    limits: Limits
    on_start: Callable[[Job], None]
    workers: list[_Worker] = field(default_factory=list)
    returned: list[Job] = field(default_factory=list)
    bad_starts: int = 0

    def fill(self) -> bool:
        """Starts processes while there are jobs for them and gives idle ones a job; whether anything is under way."""
        while len(self.workers) < self.size and (job := self._next()) is not None:
            self.returned.append(job)
            self.workers.append(_start(self.sources))
        for worker in tuple(self.workers):
            if worker.ready and worker.job is None and (job := self._next()) is not None:
                self._give(worker, job)
        return bool(self.returned) or any(w.job is not None for w in self.workers)

    def _next(self) -> Job | None:
        return self.returned.pop() if self.returned else next(self.queue, None)

    def _give(self, worker: _Worker, job: Job) -> None:
        try:
            worker.pipe.send(job)
        except OSError:  # it has ended while it was idle
            self.returned.append(job)
            self._drop(worker)
            return
        worker.job, worker.since, worker.cpu_before = job, time.monotonic(), _cpu_seconds(worker.process.pid)
        self.on_start(job)

    def collect(self) -> Iterator[Attempt]:
        """What has come in by now, and the jobs of processes that went over a limit."""
        busy = {w.pipe: w for w in self.workers if w.job is not None or not w.ready}
        awake = [busy[pipe] for pipe in wait(list(busy), timeout=_POLL_S) if isinstance(pipe, Connection)]
        for worker in tuple(self.workers):
            if not worker.ready:
                self._welcome(worker, worker in awake)
            elif worker in awake:
                yield self._answer(worker)
            elif worker.job is not None and (why := self._over(worker)):
                yield self._lost(worker, why)

    def _welcome(self, worker: _Worker, awake: bool) -> None:
        """Takes a new process in, or gives it up where it has ended or is late. Raises `WorkerError`."""
        if awake:
            try:
                worker.ready = worker.pipe.recv() == "ready"
            except (EOFError, OSError):
                worker.ready = False
        elif time.monotonic() - worker.since < _START_S:
            return
        self.bad_starts = 0 if worker.ready else self.bad_starts + 1
        if not worker.ready:
            self._drop(worker)
        if self.bad_starts >= _BAD_STARTS:
            raise WorkerError(f"{self.bad_starts} in a row that ended before they were ready")

    def _answer(self, worker: _Worker) -> Attempt:
        try:
            found: Attempt = worker.pipe.recv()
        except (EOFError, OSError):
            worker.process.join(5)
            return self._lost(worker, f"crashed: its process ended with {_end(worker.process.exitcode)}")
        worker.job = None
        if _resident(worker.process.pid) > _RECYCLE_SHARE * self.limits.memory_bytes:
            self._drop(worker)
        return found

    def _over(self, worker: _Worker) -> str:
        """Which limit a process has gone over; "" for none."""
        wall, now = time.monotonic() - worker.since, _cpu_seconds(worker.process.pid)
        told = now is not None and worker.cpu_before is not None
        took = now - worker.cpu_before if told else wall  # type: ignore[operator]
        if took > self.limits.seconds:
            return f"took more than {self.limits.seconds:g} s"
        if wall > self.limits.wall_factor * self.limits.seconds:
            return f"did not end in {self.limits.wall_factor * self.limits.seconds:g} s"
        if _resident(worker.process.pid) > self.limits.memory_bytes:
            return f"took more than {self.limits.memory_bytes / 2**30:.3g} GiB of memory"
        return ""

    def _lost(self, worker: _Worker, reason: str) -> Attempt:
        """Ends a process, whose job has failed."""
        self._drop(worker)
        assert worker.job is not None
        seconds = round(time.monotonic() - worker.since, 3)
        return Attempt(job=worker.job, status="failed", reason=reason, seconds=seconds)

    def _drop(self, worker: _Worker) -> None:
        self.workers.remove(worker)
        _stop(worker)


@contextlib.contextmanager
def _environment(**values: str) -> Iterator[None]:
    """Variables that a new process inherits; torch reads them while a worker's sources are unpickled."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _start(sources: Mapping[str, Source]) -> _Worker:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=serve, args=(there, dict(sources)), daemon=True)
    with _environment(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", OMP_NUM_THREADS="1", MKL_NUM_THREADS="1"):
        process.start()
    there.close()
    return _Worker(process=process, pipe=here)


def _end(code: int | None) -> str:
    return f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"


def _stop(worker: _Worker) -> None:
    worker.pipe.close()
    worker.process.kill()
    worker.process.join(5)


def _resident(pid: int | None) -> int:
    """Bytes of resident memory of a process, as Linux tells; 0 elsewhere and for one that has ended."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    except (OSError, IndexError, ValueError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def _cpu_seconds(pid: int | None) -> float | None:
    """Processor time of a process, as Linux tells; None elsewhere."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    except (OSError, IndexError, ValueError):
        return None


def serve(pipe: Connection, sources: Mapping[str, Source]) -> None:
    """A worker process: takes jobs from the pipe until it closes."""
    _settle()
    pipe.send("ready")
    while True:
        try:
            job = pipe.recv()
        except (EOFError, ConnectionError, KeyboardInterrupt):
            return
        try:
            done = attempt(sources[job.source], job)
        except MemoryError:
            done = Attempt(job=job, status="failed", reason="MemoryError: out of memory")
        pipe.send(done)


def _settle() -> None:
    """Nothing on stdout or stderr: what a model's code prints is not ours."""
    import signal
    import warnings

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its workers itself
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nowhere, stream)  # loggers hold the streams already, so the files behind them are exchanged
    warnings.simplefilter("ignore")
