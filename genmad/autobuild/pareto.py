"""Pareto fronts and their hypervolume, of any number of objectives, through pymoo.

Objectives are float64[N, K] and all are minimised: negate what is better greater. N points, K objectives.
"""

from typing import Any

import numpy as np

from genmad.autobuild.architecture import Floats, Ints
from genmad.ir import Diagnostic, GenmadError


class ParetoError(GenmadError):
    """Fronts cannot be computed: pymoo is not installed, or a point is not finite."""

    exit_code = 2

    def __init__(self, diagnostic: Diagnostic) -> None:
        self.diagnostic = diagnostic
        super().__init__(str(diagnostic))


def accuracy_and_cost(quality: Floats, cost: Floats) -> Floats:
    """float64[N, 2]: cost and negated quality, both minimised."""
    return np.stack([np.asarray(cost, np.float64), -np.asarray(quality, np.float64)], axis=1)


def front(objectives: Floats) -> Ints:
    """Row numbers of the points that no other dominates, ascending by the first objective; equal points all stay.

    Raises `ParetoError`.
    """
    _check(objectives)
    if not len(objectives):
        return np.zeros(0, np.int64)
    sorting = _pymoo("pymoo.util.nds.non_dominated_sorting", "NonDominatedSorting")
    rows = np.asarray(sorting().do(objectives, only_non_dominated_front=True), np.int64)
    return rows[np.lexsort(objectives[rows].T[::-1])]


def hypervolume(objectives: Floats, reference: Floats) -> float:
    """The volume between the points and a reference point; points that are not better than it in all add nothing.

    Raises `ParetoError`.
    """
    _check(objectives)
    inside = objectives[(objectives < reference).all(1)]
    if not len(inside):
        return 0.0
    indicator = _pymoo("pymoo.indicators.hv", "HV")(ref_point=np.asarray(reference, np.float64))
    return float(indicator(inside))


def _check(objectives: Floats) -> None:
    bad = np.flatnonzero(~np.isfinite(objectives).all(1))
    if len(bad):
        got = f"{objectives[bad[0]].tolist()} in row {bad[0] + 1}"
        raise ParetoError(Diagnostic(where="objectives", got=got, expected="finite numbers"))


def _pymoo(module: str, name: str) -> Any:
    from importlib import import_module

    try:
        return getattr(import_module(module), name)
    except ImportError as error:
        raise ParetoError(
            Diagnostic(
                where="Pareto fronts", got="no pymoo", expected="an installation that has it",
                fix='pip install "genmad[search]"',
            )
        ) from error  # fmt: skip
