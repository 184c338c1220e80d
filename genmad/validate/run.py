"""Runs the checks of each level up to the one asked for."""

import time
from collections.abc import Callable, Iterable, Mapping

from genmad.cost import cost_of, sizes_for
from genmad.ir import Diagnostic, GenmadError, Graph, GraphError, OpSet, type_problems
from genmad.validate import execute, well_formed
from genmad.validate.budget import budget_problems
from genmad.validate.levels import Budget, CheckResult, Level, ValidationReport

Check = Callable[[dict[str, float]], Iterable[Diagnostic]]
"""Yields problems; may put what it measured into the dict."""


def validate(
    graph: Graph,
    opset: OpSet,
    up_to: Level = Level.EXECUTABLE,
    *,
    budget: Budget | None = None,
    sizes: Mapping[str, int] | None = None,
    seed: int = 0,
) -> ValidationReport:
    """Checks a graph level by level; all checks of a level run, a level starts when the one before it passed.

    Args:
        budget: bounds for level 3; none by default.
        sizes: integers for the symbols when costs are counted; `genmad.cost.DEFAULT_SIZES` by default. The forward pass
            of level 5 takes the smallest sizes that fit.
        seed: of the random weights and inputs of level 5.
    """
    checks: list[CheckResult] = []
    level: Level | None = None
    for step in Level:
        if step > up_to:
            break
        results = [_run(name, step, check) for name, check in _checks(graph, opset, step, budget, sizes, seed)]
        checks += results
        if not all(result.passed for result in results):
            break
        level = step
    return ValidationReport(level=level, asked=Level(up_to), checks=tuple(checks))


def _checks(
    graph: Graph, opset: OpSet, level: Level, budget: Budget | None, sizes: Mapping[str, int] | None, seed: int
) -> tuple[tuple[str, Check], ...]:
    if level is Level.WELL_FORMED:
        return (
            ("acyclic", lambda _: well_formed.acyclic(graph)),
            ("arity", lambda _: well_formed.arity(graph, opset)),
            ("outputs_reachable", lambda _: well_formed.reachable(graph)),
            ("nothing_dangles", lambda _: well_formed.nothing_dangles(graph)),
        )
    if level is Level.TYPED:
        return (("types", lambda _: type_problems(graph, opset)),)
    if level is Level.WITHIN_BUDGET:
        return (("budget", lambda found: _budget(graph, opset, budget, sizes, found)),)
    if level is Level.ONNX:
        return (("onnx", lambda _: _onnx(graph)),)
    return (("torch_and_onnxruntime_agree", lambda found: execute.problems(graph, opset, seed, found)),)


def _run(name: str, level: Level, check: Check) -> CheckResult:
    found: dict[str, float] = {}
    start = time.perf_counter()
    try:
        problems = tuple(check(found))
    except GraphError as error:
        problems = error.diagnostics
    except GenmadError as error:
        problems = (Diagnostic(where=name, got=str(error), expected="no error"),)
    time_ms = (time.perf_counter() - start) * 1000
    return CheckResult(name=name, level=level, diagnostics=problems, time_ms=time_ms, measured=found)


def _budget(
    graph: Graph, opset: OpSet, budget: Budget | None, sizes: Mapping[str, int] | None, found: dict[str, float]
) -> Iterable[Diagnostic]:
    if budget is None:
        return ()
    report = cost_of(graph, opset, sizes_for(graph, sizes))
    found.update(num_params=report.num_params, num_macs=report.num_macs, depth=report.depth)
    found["peak_activation_bytes"] = report.peak_activation_bytes
    return budget_problems(report, budget)


def _onnx(graph: Graph) -> Iterable[Diagnostic]:
    from genmad.lowering.to_onnx import check_onnx

    return check_onnx(graph) or ()
