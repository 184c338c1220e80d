"""The one JSON object that every `genmad eval NAME` prints."""

import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Metrics = Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalReport:
    """What was measured, on what, by which code.

    Attributes:
        name: the evaluation's, as on the command line.
        commit: git commit of the working copy, else the package's version.
        seed: of everything that was drawn.
        n: number of cases.
        split: what the cases were drawn from.
        threads: torch threads used.
        cpu_seconds: processor time of this process and its children.
        metrics: flat, names to numbers; fractions, not per cent.
        baselines: such a flat object per baseline or ablation, measured in the same run.
        breakdown: the same figures by intent, family or what else the cases differ in.
        failures: the worst cases, in words.
        quick: whether this was the small version for continuous integration.
    """

    name: str
    commit: str
    seed: int
    n: int
    split: str
    threads: int
    cpu_seconds: float
    metrics: Metrics
    baselines: Mapping[str, Metrics] = field(default_factory=dict)
    breakdown: Mapping[str, Any] = field(default_factory=dict)
    failures: Sequence[Mapping[str, Any]] = ()
    quick: bool = False

    def __post_init__(self) -> None:
        for where, table in (("metrics", self.metrics), *self.baselines.items()):
            bad = [k for k, v in table.items() if isinstance(v, bool) or not isinstance(v, (int, float))]
            if bad:
                raise ValueError(f"{where}: {', '.join(bad)} must be numbers")

    def to_json(self) -> dict[str, Any]:
        """The object as it is printed; `quick` stands in it only when true."""
        out: dict[str, Any] = {name: getattr(self, name) for name in self.__slots__ if name != "quick"}
        out |= {"baselines": {k: dict(v) for k, v in self.baselines.items()}, "failures": list(self.failures)}
        return out | ({"quick": True} if self.quick else {})


@dataclass(frozen=True, slots=True)
class CpuClock:
    """Processor time since it was made."""

    start: float = field(default_factory=lambda: _cpu())

    def seconds(self) -> float:
        return round(_cpu() - self.start, 3)


def _cpu() -> float:
    own = time.process_time()
    try:
        import resource  # not there on Windows
    except ImportError:
        return own
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return own + children.ru_utime + children.ru_stime


def commit() -> str:
    """Short git commit of the folder that the code runs from, `-dirty` when it has changes; else the version."""
    from genmad import __version__

    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return __version__
    text = _git(root, "rev-parse", "--short", "HEAD")
    if not text:
        return __version__
    return text + ("-dirty" if _git(root, "status", "--porcelain", "--untracked-files=no") else "")


def _git(root: Path, *args: str) -> str:
    try:
        done = subprocess.run(["git", "-C", str(root), *args], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def fraction(hits: int, total: int) -> float:
    """`hits / total` to four places; 0 where there was nothing to count."""
    return round(hits / total, 4) if total else 0.0


def use_one_thread() -> int:
    """Keeps torch to one thread, as every figure is stated for; the number of threads."""
    import torch

    torch.set_num_threads(1)
    return torch.get_num_threads()
