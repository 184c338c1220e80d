"""`genmad eval timing`: how long the main job takes on GPT-2 at full size, on one core and one thread."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genmad.evals.report import CpuClock, EvalReport, commit, use_one_thread

MODEL = "gpt2"
PROMPT = "add local attention to the last layer"
# The console script's own first lines; run by name so that a clone without an installed script is measured too.
COMMAND = (sys.executable, "-c", "import sys; from genmad.cli import main; sys.exit(main())")
# A small process between us and the command: a process starts with the peak memory of the one that forked it, and
# ours is large. It writes the wall time and the peak of the command, and passes the exit code on.
WATCH = """
import json, os, sys, time
start = time.perf_counter()
child = os.fork()
if child == 0:
    os.execvp(sys.argv[2], sys.argv[2:])
_, status, usage = os.wait4(child, 0)
with open(sys.argv[1], "w", encoding="utf-8") as file:
    json.dump({"seconds": time.perf_counter() - start, "maxrss": usage.ru_maxrss}, file)
sys.exit(os.waitstatus_to_exitcode(status))
"""
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandRun:
    """One run of the command line as a process of its own.

    Attributes:
        seconds: wall time, start-up included.
        peak_bytes: largest resident set; 0 where the platform does not tell.
        report: what it printed with `--json`, {} when that was no object.
        exit_code: of the process.
        stderr: the end of what it said.
    """

    seconds: float
    peak_bytes: int
    report: dict[str, Any]
    exit_code: int
    stderr: str


def run(quick: bool = False, seed: int = 0, n: int | None = None, checkpoint: str | None = None) -> dict[str, Any]:
    """The report as a JSON object; `quick` runs the command without weights only and skips the baseline."""
    clock, threads = CpuClock(), use_one_thread()
    repeats = n or (1 if quick else 3)
    with one_core():
        options = [] if checkpoint is None else ["--model", str(Path(checkpoint).absolute())]
        bare = _edit(["--no-weights", *options])
        metrics = {"command_s": round(bare.seconds, 3), "command_ok": float(bare.exit_code == 0)}
        metrics |= {f"{phase.replace(' ', '_')}_s": float(s) for phase, s in bare.report.get("time_s", {}).items()}
        metrics |= _phases(checkpoint, seed, repeats)
        if not quick:
            metrics |= _with_weights(options)
        baselines = {} if quick else {"torch_export": _torch_export(metrics["import_warm_s"])}
    failures = [] if bare.exit_code == 0 else [{"command": "edit --no-weights", "stderr": bare.stderr}]
    return EvalReport(
        name="timing",
        commit=commit(),
        seed=seed,
        n=repeats,
        split=f"{MODEL} at full size, one core",
        threads=threads,
        cpu_seconds=clock.seconds(),
        metrics=metrics,
        baselines=baselines,
        failures=failures,
        quick=quick,
    ).to_json()


@contextmanager
def one_core() -> Iterator[None]:
    """Keeps this process and its children to one core, where the platform can (Linux)."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def run_command(arguments: Sequence[str], command: Sequence[str] = COMMAND) -> CommandRun:
    """Runs the command line with one thread and waits for it."""
    environment = {**os.environ, **dict.fromkeys(THREADS, "1"), "HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryDirectory() as folder:
        figures, out, err = (Path(folder) / name for name in ("figures", "stdout", "stderr"))
        watch = [sys.executable, "-S", "-c", WATCH, str(figures)] if hasattr(os, "fork") else []
        with out.open("wb") as stdout, err.open("wb") as stderr:
            start = time.perf_counter()
            code = subprocess.run(
                [*watch, *command, *arguments], stdout=stdout, stderr=stderr, env=environment
            ).returncode
            seconds, peak = time.perf_counter() - start, 0
        if figures.exists():
            told = json.loads(figures.read_text(encoding="utf-8"))
            seconds, peak = told["seconds"], told["maxrss"] * (1 if sys.platform == "darwin" else 1024)
        text = out.read_text(encoding="utf-8", errors="replace")
        complaint = err.read_text(encoding="utf-8", errors="replace")
    return CommandRun(seconds=seconds, peak_bytes=peak, report=_object(text), exit_code=code, stderr=complaint[-2000:])


def _object(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except json.JSONDecodeError:
        return {}
    return found if isinstance(found, dict) else {}


def _edit(options: Sequence[str]) -> CommandRun:
    """The README's command into a fresh folder."""
    with tempfile.TemporaryDirectory() as folder:
        return run_command(["edit", MODEL, PROMPT, "-o", str(Path(folder) / "edited"), "--json", *options])


def _median(action: Callable[[], Any], repeats: int) -> tuple[float, Any]:
    """Median seconds of an action that has run once before, and its last result."""
    action()
    times, result = [], None
    for _ in range(repeats):
        start = time.perf_counter()
        result = action()
        times.append(time.perf_counter() - start)
    return round(sorted(times)[len(times) // 2], 4), result


def _phases(checkpoint: str | None, seed: int, repeats: int) -> dict[str, float]:
    """Import, decode and levels 1 to 4 in this process, once everything is loaded."""
    from genmad.importers.from_hf import load_source
    from genmad.ops import OPSET
    from genmad.sampling import Editor
    from genmad.validate import Level, validate

    import_s, imported = _median(lambda: load_source(MODEL, weights=False), repeats)
    start = time.perf_counter()
    editor = Editor.from_pretrained(checkpoint)
    load_s = time.perf_counter() - start
    decode_s, proposals = _median(lambda: editor.edit(imported.graph, PROMPT, seed=seed), repeats)
    state = proposals[0].state
    graph = state.graph if state is not None else imported.graph
    levels_s, report = _median(lambda: validate(graph, OPSET, Level.ONNX), repeats)
    return {
        "import_warm_s": import_s,
        "load_generator_warm_s": round(load_s, 4),
        "decode_warm_s": decode_s,
        "levels_1_to_4_warm_s": levels_s,
        "levels_1_to_4_passed": float(report.passed),
        "decode_ok": float(proposals[0].status == "ok"),
    }


def _with_weights(options: Sequence[str]) -> dict[str, float]:
    """The whole command with weights: seconds, and peak memory as a multiple of the weights."""
    done = _edit(options)
    weights = _weights_bytes()
    return {
        "command_with_weights_s": round(done.seconds, 3),
        "command_with_weights_ok": float(done.exit_code == 0),
        "peak_memory_ratio": round(done.peak_bytes / weights, 3),
        "peak_memory_bytes": done.peak_bytes,
        "weights_bytes": weights,
    }


def _model() -> Any:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(MODEL)).eval()


def _weights_bytes() -> int:
    return sum(p.numel() * p.element_size() for p in _model().parameters())


def _torch_export(import_s: float) -> dict[str, float]:
    """Seconds that `torch.export.export` takes for the same model on the meta device, and our share of that."""
    import warnings

    import torch

    model = _model()
    ids = torch.zeros(2, 16, dtype=torch.int64, device="meta")

    def export() -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.export.export(model, (ids,), {"use_cache": False})

    start = time.perf_counter()
    export()
    seconds = time.perf_counter() - start
    return {"import_s": round(seconds, 3), "import_ratio": round(import_s / seconds, 4)}
