"""`genmad eval importers`: every model type of transformers, imported at full size and compared at a small one.

Types run in child processes, a chunk each, one JSON file a type: a type that fails, hangs or kills its process is a row
of the table, and a scan that was stopped goes on where it was (name a folder in `GENMAD_SCAN`).
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from genmad.evals.report import CpuClock, EvalReport, commit, fraction, use_one_thread
from genmad.importers.lifted import share_of
from genmad.ir.graph import Graph, places

TOLERANCE = 1e-5
TIMEOUT_S = 60
CHUNK = 40
QUICK = ("gpt2", "llama", "bert", "t5", "whisper", "vit", "swin", "mixtral", "clip", "llava", "patchtst", "wav2vec2")
FOLDER_VARIABLE = "GENMAD_SCAN"


@dataclass(frozen=True, slots=True, kw_only=True)
class TypeResult:
    """One model type.

    Attributes:
        built: whether the default config builds on the meta device.
        full, small: whether it was imported at the size of its default config, and small.
        cpu_s: processor seconds of the import at full size, without building the model.
        num_nodes: of the folded graph, of the largest size that was imported.
        ops: op -> places in the running model.
        primitive: torch function that stayed one -> how many.
        modality: of the example inputs.
        max_abs_diff, max_abs: largest difference of the outputs at the small config, and largest output.
        reason: why it was not imported, or not compared, or what differs; "" when all is well.
    """

    model_type: str
    built: bool = False
    full: bool = False
    small: bool = False
    cpu_s: float = -1.0
    num_nodes: int = 0
    ops: Mapping[str, int] = field(default_factory=dict)
    primitive: Mapping[str, int] = field(default_factory=dict)
    modality: str = ""
    max_abs_diff: float = -1.0
    max_abs: float = -1.0
    reason: str = ""

    @property
    def imported(self) -> bool:
        return self.full or self.small

    @property
    def compared(self) -> bool:
        return self.max_abs_diff >= 0

    @property
    def equal(self) -> bool:
        """Whether outputs agree to `TOLERANCE`, of the largest output where that is above one."""
        return self.compared and self.max_abs_diff <= TOLERANCE * max(1.0, self.max_abs)


def run(quick: bool = False, seed: int = 0, n: int | None = None, checkpoint: str | None = None) -> dict[str, Any]:  # noqa: ARG001
    """The report as a JSON object, over the first `n` types, all by default, a few when `quick`."""
    from genmad.importers.hf_catalog import model_types

    clock, threads = CpuClock(), use_one_thread()
    types = (QUICK if quick else model_types())[:n]
    named = os.environ.get(FOLDER_VARIABLE)
    with tempfile.TemporaryDirectory() as temporary:
        results = scan(types, Path(named) if named else Path(temporary), seed)
    return EvalReport(
        name="importers",
        commit=commit(),
        seed=seed,
        n=len(results),
        split="model types of transformers: default configs for the import, small ones for the comparison",
        threads=threads,
        cpu_seconds=clock.seconds(),
        metrics=metrics_of(results),
        breakdown={"type": {r.model_type: _row(r) for r in results}},
        failures=[{"type": r.model_type, "reason": r.reason} for r in results if r.built and r.reason],
        quick=quick,
    ).to_json()


def metrics_of(results: Sequence[TypeResult]) -> dict[str, float]:
    """The figures of the report."""
    built = [r for r in results if r.built]
    imported = [r for r in results if r.imported]
    full = [r for r in results if r.full]
    compared = [r for r in results if r.compared]
    ops: Counter[str] = Counter()
    for result in imported:
        ops.update(result.ops)
    seconds, nodes = sorted(r.cpu_s for r in full), sorted(r.num_nodes for r in imported)
    return {
        "types": len(results),
        "transformers_buildable": len(built),
        "transformers_imported": len(imported),
        "imported_full": len(full),
        "imported_fraction": fraction(sum(r.imported for r in built), len(built)),
        "lifted_fraction": round(1 - fraction(ops["TorchCall"] + ops["OnnxCall"], sum(ops.values())), 4),
        "layer_level_fraction": round(share_of(ops), 4),
        "nodes_median": _quantile(nodes, 0.5),
        "nodes_p99": _quantile(nodes, 0.99),
        "nodes_under_1000": fraction(sum(x < 1000 for x in nodes), len(nodes)),
        "cpu_s_median": _quantile(seconds, 0.5),
        "cpu_s_max": _quantile(seconds, 1.0),
        "parity_checked": len(compared),
        "parity_ok": sum(r.equal for r in compared),
    }


def _quantile(ordered: Sequence[float], q: float) -> float:
    return ordered[min(len(ordered) - 1, int(q * len(ordered)))] if ordered else 0.0


def _row(result: TypeResult) -> dict[str, Any]:
    row = {k: v for k, v in asdict(result).items() if k not in ("model_type", "ops", "primitive")}
    return {**row, "layer_level": round(share_of(result.ops), 4), "primitive": dict(result.primitive)}


# Many types in child processes.


def scan(types: Sequence[str], folder: Path, seed: int = 0) -> list[TypeResult]:
    """The results of all types, read from `folder` where they are there already."""
    folder.mkdir(parents=True, exist_ok=True)
    todo = [t for t in types if not _file(folder, t).is_file()]
    while todo:
        _child(todo[:CHUNK], folder, seed)
        left = [t for t in todo[:CHUNK] if not _file(folder, t).is_file()]
        if left:  # the first of them took its process down
            _write(folder, TypeResult(model_type=left[0], reason="its process ended"))
        todo = [t for t in todo if not _file(folder, t).is_file()]
        print(f"{len(types) - len(todo)} of {len(types)} types", file=sys.stderr, flush=True)
    return [read(_file(folder, t)) for t in types]


def _child(types: Sequence[str], folder: Path, seed: int) -> None:
    command = [sys.executable, "-W", "ignore", "-m", "genmad.evals.import_scan", str(folder), str(seed), *types]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    try:
        subprocess.run(command, env=env, timeout=3 * TIMEOUT_S * len(types), check=False, stdout=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        return


def _file(folder: Path, model_type: str) -> Path:
    return folder / f"{model_type}.json"


def _write(folder: Path, result: TypeResult) -> None:
    _file(folder, result.model_type).write_text(json.dumps(asdict(result)), encoding="utf-8")


def read(path: Path) -> TypeResult:
    return TypeResult(**json.loads(path.read_text(encoding="utf-8")))


def main(arguments: Sequence[str]) -> None:
    """`python -m genmad.evals.import_scan FOLDER SEED TYPE...`: one chunk."""
    folder, seed, types = Path(arguments[0]), int(arguments[1]), arguments[2:]
    use_one_thread()
    for model_type in types:
        if not _file(folder, model_type).is_file():
            _write(folder, measure(model_type, seed))


# One type.


class _Late(Exception):
    """A step took longer than its time."""


@contextmanager
def _limited(seconds: int) -> Iterator[None]:
    """Raises `_Late` after so many seconds of wall time, where the system has alarms."""
    import signal

    def late(*_: Any) -> None:
        raise _Late(f"not done after {seconds} s")

    if not hasattr(signal, "SIGALRM"):
        yield
        return
    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def measure(model_type: str, seed: int = 0) -> TypeResult:
    """Builds, imports at full size, imports small and compares; whatever fails is the reason."""
    found: dict[str, Any] = {"model_type": model_type}
    reasons: list[str] = []
    for step in (_full_size, _small_size):
        try:
            with _limited(TIMEOUT_S):
                step(model_type, seed, found)
        except Exception as error:  # models raise of every kind; a type that fails is a row of the table
            words = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
            reasons.append(f"{step.__name__.strip('_').replace('_', ' ')}: {type(error).__name__}: {words}"[:400])
    result = TypeResult(**found)
    if result.compared and not result.equal:
        reasons.append(f"differs by {result.max_abs_diff:.1e} where outputs reach {result.max_abs:.1e}")
    return TypeResult(**{**found, "reason": "; ".join(reasons)})


def _full_size(model_type: str, seed: int, found: dict[str, Any]) -> None:  # noqa: ARG001
    from genmad.importers.from_hf import import_model
    from genmad.importers.hf_catalog import make_config
    from genmad.importers.hf_model import build_skeleton
    from genmad.importers.inputs import recipe_of

    module: Any = build_skeleton(make_config(model_type))
    found["built"] = True
    found["modality"] = recipe_of(module).modality
    start = time.process_time()
    imported = import_model(module, source=model_type)
    found["cpu_s"] = round(time.process_time() - start, 3)
    found["full"] = True
    found |= _counts(imported.graph, imported.report.primitive)


def _counts(graph: Graph, primitive: Mapping[str, int]) -> dict[str, Any]:
    ops = Counter(place.node.op for place in places(graph) if not place.node.is_call)
    return {"num_nodes": graph.num_nodes, "ops": dict(ops), "primitive": dict(primitive)}


def _small_size(model_type: str, seed: int, found: dict[str, Any]) -> None:
    from genmad.evals.round_trip import compare
    from genmad.importers.hf_catalog import small_that_runs

    config, imported = small_that_runs(model_type)
    found["small"] = True
    if not found.get("full"):
        found |= _counts(imported.graph, imported.report.primitive)
    found["max_abs_diff"], found["max_abs"] = compare(config, imported, seed)


def by_reason(results: Iterable[TypeResult]) -> dict[str, list[str]]:
    """Types by the first words of what went wrong."""
    found: dict[str, list[str]] = {}
    for result in results:
        if result.reason:
            found.setdefault(result.reason[:80], []).append(result.model_type)
    return found


if __name__ == "__main__":
    main(sys.argv[1:])
