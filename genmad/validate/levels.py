"""What is checked at each level, what a budget may bound, and what a report says."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from genmad.ir import Diagnostic, GraphError


class Level(IntEnum):
    """How valid a graph is; each level includes those before it.

    WELL_FORMED: acyclic, right number of inputs, every output depends on an input, nothing dangles.
    TYPED: every stored type is the one that the shape rules infer.
    WITHIN_BUDGET: no bound of the budget is exceeded.
    ONNX: the exported model passes onnx's checker and strict shape inference, which agrees with our types.
    EXECUTABLE: one forward pass in torch and one in ONNX Runtime, with the same random weights, agree.
    """

    WELL_FORMED = 1
    TYPED = 2
    WITHIN_BUDGET = 3
    ONNX = 4
    EXECUTABLE = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """Inclusive upper bounds; None leaves a quantity free."""

    max_params: int | None = None
    max_macs: int | None = None
    max_peak_activation_bytes: int | None = None
    max_depth: int | None = None
    max_nodes: int | None = None
    allowed_ops: frozenset[str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckResult:
    """One check.

    Attributes:
        name: `acyclic`, `arity`, `types`, `budget`, `onnx`, `torch_runs`, ...
        level: the level it belongs to.
        diagnostics: every problem found; none when it passed.
        time_ms: how long it took.
        measured: numbers it found on the way, such as `max_abs_diff`.
    """

    name: str
    level: Level
    diagnostics: tuple[Diagnostic, ...] = ()
    time_ms: float = 0.0
    measured: Mapping[str, float] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        return not self.diagnostics


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidationReport:
    """What `validate` found.

    Attributes:
        level: the highest level reached, None when not even the first.
        asked: the level asked for.
        checks: every check made, in order.
    """

    level: Level | None
    asked: Level
    checks: tuple[CheckResult, ...]

    @property
    def passed(self) -> bool:
        """Whether the level asked for was reached."""
        return self.level is not None and self.level >= self.asked

    @property
    def diagnostics(self) -> tuple[Diagnostic, ...]:
        """Every problem found."""
        return tuple(item for check in self.checks for item in check.diagnostics)

    def raise_if_failed(self) -> None:
        """Raises `GraphError` with every problem found."""
        if not self.passed:
            raise GraphError(*self.diagnostics)

    def to_json(self) -> dict[str, Any]:
        """`{"level": 5, "passed": true, "checks": [{"name": ..., "passed": ..., "time_ms": ...}]}`."""
        checks = [
            {
                "name": check.name,
                "level": int(check.level),
                "passed": check.passed,
                "time_ms": round(check.time_ms, 3),
                "problems": [str(item) for item in check.diagnostics],
                **check.measured,
            }
            for check in self.checks
        ]
        level = int(self.level) if self.level else 0
        return {"level": level, "asked": int(self.asked), "passed": self.passed, "checks": checks}
