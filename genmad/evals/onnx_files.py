"""`genmad eval onnx`: how many ONNX files come in, go out again, and compute the same? Counted per source."""

import json
import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from genmad.evals.onnx_cases import OnnxCase, random_feeds, wheel_cases
from genmad.evals.report import CpuClock, EvalReport, commit, fraction, use_one_thread
from genmad.ir.graph import Graph

TOLERANCE = 1e-5
HALF_TOLERANCE = 2e-3  # of outputs with 16 bits
QUICK_CASES = 60
# What these draw differs from run to run, so that only shapes can be compared.
_RANDOM = {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial"}


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxResult:
    """One file.

    Attributes:
        exists: whether there was a file at all.
        imported, lowered: whether it came in, and whether the graph could be written as ONNX again.
        same: whether the written model computes the same within 1e-5; None where neither can be run.
        max_diff: largest difference, relative to the largest expected value or 1.
        num_nodes, num_kept: nodes of the graph, and how many of them are `OnnxCall`s.
        seconds: of wall clock for the import.
        error: of the first step that failed.
    """

    name: str
    source: str
    exists: bool = True
    imported: bool = False
    lowered: bool = False
    same: bool | None = None
    max_diff: float = 0.0
    num_nodes: int = 0
    num_kept: int = 0
    seconds: float = 0.0
    error: str = ""


def run(
    quick: bool = False,
    seed: int = 0,
    n: int | None = None,
    checkpoint: str | None = None,  # noqa: ARG001 - every evaluation takes the same arguments
    *,
    cases: Iterable[OnnxCase] | None = None,
    done: Path | None = None,
) -> dict[str, Any]:
    """The report as a JSON object, over the first `n` cases, all by default, some of them when `quick`.

    Args:
        done: a JSONL file of results; what stands in it is not measured again, what is measured is appended.
    """
    clock, threads = CpuClock(), use_one_thread()
    chosen = list(wheel_cases() if cases is None else cases)
    if quick:
        chosen = chosen[:: max(1, len(chosen) // QUICK_CASES)]
    measured = measure_all(chosen[:n], seed, done)
    return EvalReport(
        name="onnx",
        commit=commit(),
        seed=seed,
        n=len(measured),
        split="model files and operator tests in the onnx and onnxruntime wheels",
        threads=threads,
        cpu_seconds=clock.seconds(),
        metrics=summary(measured),
        breakdown={"source": {s: summary([r for r in measured if r.source == s]) for s in _sources(measured)}},
        failures=[{"name": r.name, "error": r.error or f"differs by {r.max_diff}"} for r in measured if _failed(r)][
            :50
        ],
        quick=quick,
    ).to_json()


def summary(measured: "list[OnnxResult]") -> dict[str, float]:
    """Counts and fractions; `same` is over those that could be run at all."""
    measured = [r for r in measured if r.exists]
    compared = [r for r in measured if r.same is not None]
    nodes = sum(r.num_nodes for r in measured)
    return {
        "files": len(measured),
        "onnx_imported": sum(r.imported for r in measured),
        "onnx_imported_fraction": fraction(sum(r.imported for r in measured), len(measured)),
        "lowered": sum(r.lowered for r in measured),
        "compared": len(compared),
        "same": sum(bool(r.same) for r in compared),
        "lifted_fraction": fraction(nodes - sum(r.num_kept for r in measured), nodes),
    }


def _sources(measured: "list[OnnxResult]") -> list[str]:
    return list(Counter(r.source for r in measured))


def _failed(result: OnnxResult) -> bool:
    return result.exists and (not result.imported or not result.lowered or result.same is False)


def measure_all(cases: Iterable[OnnxCase], seed: int, done: Path | None = None) -> list[OnnxResult]:
    """A result per case, in order."""
    known: dict[str, OnnxResult] = {}
    if done is not None and done.exists():
        rows = (json.loads(line) for line in done.read_text().splitlines())
        known = {row["name"]: OnnxResult(**row) for row in rows}
    made = []
    for case in cases:
        if case.name not in known:
            known[case.name] = measure(case, seed)
            if done is not None:
                with done.open("a") as file:
                    file.write(json.dumps(asdict(known[case.name])) + "\n")
        made.append(known[case.name])
    return made


def measure(case: OnnxCase, seed: int) -> OnnxResult:
    """Imports, writes and compares one file."""
    from genmad.importers.from_onnx import from_onnx
    from genmad.lowering.to_onnx import to_onnx

    start = OnnxResult(name=case.name, source=case.source)
    try:
        data = case.load()
    except Exception as problem:  # the exporter cannot write the model
        return replace(start, exists=False, error=_words("export", problem))
    began = time.perf_counter()
    try:
        graph, weights, _ = from_onnx(data)
    except Exception as problem:  # a file that fails is a row of the table
        return replace(start, error=_words("import", problem))
    ops = [node.op for block in graph.all_blocks for node in block.nodes]
    seconds = round(time.perf_counter() - began, 3)
    read = replace(start, imported=True, num_nodes=len(ops), num_kept=ops.count("OnnxCall"), seconds=seconds)
    try:
        model = to_onnx(graph, weights=weights).SerializeToString()
    except Exception as problem:
        return replace(read, error=_words("lower", problem))
    try:
        same, difference, text = compare(case, data, graph, model, seed)
    except Exception as problem:
        return replace(read, lowered=True, same=False, error=_words("run", problem))
    return replace(read, lowered=True, same=same, max_diff=difference, error=text)


def _words(step: str, error: Exception) -> str:
    print(f"{step}: {type(error).__name__}: {error}"[:200], file=sys.stderr)
    return f"{step}: {type(error).__name__}: {error}"[:300]


def compare(case: OnnxCase, data: bytes, graph: Graph, model: bytes, seed: int) -> tuple[bool | None, float, str]:
    """(same, difference, why not), on the stored inputs or random ones."""
    import onnx

    original = onnx.ModelProto.FromString(data)
    stored = {t.name for t in original.graph.initializer}
    names = [v.name for v in original.graph.input if v.name not in stored]
    ours = [v.name for v in graph.main.inputs]
    worst = 0.0
    for inputs, outputs in case.data() or [(_random_inputs(graph, seed), [])]:
        if any(not hasattr(x, "dtype") for x in (*inputs, *outputs)) or len(inputs) != len(ours):
            return None, 0.0, "stored data that is no tensors"
        want, tolerance = run_model(data, dict(zip(names, inputs, strict=True))), TOLERANCE
        if want is None:
            want, tolerance = outputs or None, max(TOLERANCE, case.rtol)
        got = run_model(model, dict(zip(ours, inputs, strict=True)))
        if want is None or got is None:
            broken = want is not None and bool(run_model(data, dict(zip(names, inputs, strict=True))))
            return (False if broken else None), 0.0, "nothing that runs it"
        if any(str(x.dtype) in ("float16", "bfloat16") for x in want if hasattr(x, "dtype")):
            tolerance = max(tolerance, HALF_TOLERANCE)
        difference, problem = _difference(got, want, shapes_only=_draws(original.graph))
        worst = max(worst, difference)
        if problem or difference > tolerance:
            return False, worst, problem or f"differs by {difference}"
    return True, worst, ""


def _draws(graph: Any) -> bool:
    return any(node.op_type in _RANDOM or (node.op_type == "Dropout" and len(node.input) > 2) for node in graph.node)


def _random_inputs(graph: Graph, seed: int) -> list[Any]:
    from genmad.cost.sizes import DEFAULT_SIZES
    from genmad.ir.types import evaluate_dim

    class Sizes(dict[str, int]):
        def __missing__(self, _symbol: str) -> int:
            return 4

    sizes = Sizes(dict.fromkeys(DEFAULT_SIZES, 3))
    shapes = {
        v.name: (v.type.dtype.value, tuple(evaluate_dim(d, sizes) for d in v.type.shape)) for v in graph.main.inputs
    }
    return list(random_feeds(shapes, seed).values())


def run_model(data: bytes, feeds: Mapping[str, Any]) -> list[Any] | None:
    """The outputs by ONNX Runtime, without its optimisations; None where it does not have the operators."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    try:
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        return list(session.run(None, dict(feeds)))
    except Exception:  # the runtime raises classes of its own
        return _by_reference(data, feeds)


def _by_reference(data: bytes, feeds: Mapping[str, Any]) -> list[Any] | None:
    """By the reference implementation of the onnx package."""
    import onnx
    from onnx.reference import ReferenceEvaluator

    try:
        return list(ReferenceEvaluator(onnx.ModelProto.FromString(data)).run(None, dict(feeds)))
    except Exception:  # written in numpy, raises whatever numpy does
        return None


def _difference(got: list[Any], want: list[Any], *, shapes_only: bool) -> tuple[float, str]:
    import numpy as np

    if len(got) != len(want):
        return 0.0, f"{len(got)} outputs; expected {len(want)}"
    worst = 0.0
    for a, b in zip(got, want, strict=True):
        a, b = np.asarray(a), np.asarray(b)
        if a.shape != b.shape or a.dtype != b.dtype:
            return 0.0, f"{a.dtype}{list(a.shape)}; expected {b.dtype}{list(b.shape)}"
        if shapes_only or not a.size:
            continue
        x, y = (t.astype(np.complex128 if t.dtype.kind == "c" else np.float64) for t in (a, b))
        if not np.array_equal(np.isfinite(x), np.isfinite(y)) or not np.array_equal(np.isnan(x), np.isnan(y)):
            return 0.0, "not finite in other places"
        finite = np.isfinite(y)
        scale = max(1.0, float(np.abs(y[finite]).max(initial=0.0)))
        worst = max(worst, float(np.abs(x[finite] - y[finite]).max(initial=0.0)) / scale)
    return worst, ""
