"""Is a graph valid? Five levels, cheapest first."""

from genmad.validate.levels import Budget, CheckResult, Level, ValidationReport
from genmad.validate.run import validate

__all__ = ["Budget", "CheckResult", "Level", "ValidationReport", "validate"]
