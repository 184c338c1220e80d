"""`genmad eval search`: how many queries each method needs on a benchmark's table, over seeds, all in one run.

A query tells the label of one member, the same for every method: test accuracy on NAS-Bench-201, validation accuracy on
NAS-Bench-101, whose table holds 20,001 of its 423,624 classes: there every method's proposals are restricted to the
table, and the goals are ranks in it. `metrics` are of our generator with its predictor; each baseline is a method of
the field.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from genmad.evals.pictures import check_picture, save_curves
from genmad.evals.report import CpuClock, EvalReport, commit, use_one_thread
from genmad.ir import Diagnostic
from genmad.sampling.pools import Law, load_law
from genmad.sampling.pools.law_draws import law_draw
from genmad.search.methods import METHODS, DrawMany, History, Listed, table_query
from genmad.spaces import LabelTable, Space, SpaceError, Words, get_space
from genmad.spaces.tables import data_folder

# Space -> its goals: short name, column, and the label to reach; a whole number is a rank in the table.
GOALS: Mapping[str, tuple[tuple[str, str, float | int], ...]] = {
    "nb201": (("c10", "c10_test", 94.37), ("c100", "c100_test", 73.51)),
    "nb101": (("top20", "val_ep108", 20), ("top5", "val_ep108", 5)),
}
PUBLISHED = {"nb201": {"TNAS": [29, 59], "BANANAS": [46, 88]}}
SEEDS, QUICK_SEEDS = 50, 2
BUDGET = 300
CURVE_AT = (1, 5, 10, 15, 20, 30, 40, 50, 75, 100, 150, 200, 300)


def run(
    *, quick: bool = False, seed: int = 0, n: int | None = None, checkpoint: str | None = None, space: str = "nb201",
    data: str | None = None, picture: str | None = None,
) -> dict[str, Any]:  # fmt: skip
    """The report as JSON; `n` is the number of seeds; `picture` a file for the curves.

    Raises `SpaceError` without a label table, `PictureError` where no picture can be written.
    """
    target = None if picture is None else check_picture(picture)
    clock, threads = CpuClock(), use_one_thread()
    where = get_space(space)
    folder = data_folder(data)
    table = None if folder is None else where.read_labels(folder)
    if table is None or where.name not in GOALS:
        expected = f"the label table of one of {', '.join(GOALS)}"
        raise SpaceError(
            Diagnostic(where="--data", got=f"none of {where.name}", expected=expected, fix="--data FOLDER")
        )
    law = load_law(where, checkpoint)
    seeds = range(seed, seed + (n or (QUICK_SEEDS if quick else SEEDS)))
    arenas = [_arena(goal, where, table, law) for goal in GOALS[where.name]]
    results = {name: _method(name, where, arenas, seeds) for name in METHODS}
    curves = {name: found[1] for name, found in results.items()}
    if target is not None:
        save_curves(target, where.title, CURVE_AT, curves, {a.short: (a.column, a.goal) for a in arenas})
    report = EvalReport(
        name="search", commit=commit(), seed=seed, n=len(seeds), threads=threads, quick=quick,
        split=f"{where.title}, {len(seeds)} seeds, at most {BUDGET} queries{_restriction(arenas)}",
        cpu_seconds=clock.seconds(), metrics=results["generator"][0],
        baselines={k: v[0] for k, v in results.items() if k != "generator"},
        breakdown={"curves_at": list(CURVE_AT), "curves": curves, "goals": {a.short: a.goal for a in arenas},
                   "published": PUBLISHED.get(where.name, {})},
    )  # fmt: skip
    return report.to_json()


@dataclass(frozen=True, kw_only=True)
class _Arena:
    """One goal, and what every method is given to reach it.

    Attributes:
        listed: the members that can be queried; None for all of the space.
        draw: of our generator.
    """

    short: str
    column: str
    goal: float
    query: Callable[[Words], np.ndarray]
    listed: Listed | None
    draw: DrawMany


def _arena(goal: tuple[str, str, float | int], space: Space, table: LabelTable, law: Law) -> _Arena:
    short, column, value = goal
    listed = Listed.of(space, table, column)
    labels = np.sort(table.column(column)[np.isfinite(table.column(column))])
    reach = float(labels[-value]) if isinstance(value, int) else value
    query = table_query(table, column, space=space)
    draw = law_draw(space, law, None if listed is None else listed.words)
    return _Arena(short=short, column=column, goal=reach, query=query, listed=listed, draw=draw)


def _restriction(arenas: Sequence[_Arena]) -> str:
    found = arenas[0].listed
    return "" if found is None else f", restricted to the {len(found.words):,} labelled members"


def _method(
    name: str, space: Space, arenas: Sequence[_Arena], seeds: Sequence[int]
) -> tuple[dict[str, float], dict[str, list[float]]]:
    """Medians, quartiles and shares of seeds that got there; and the median best label by queries."""
    metrics: dict[str, float] = {}
    curves: dict[str, list[float]] = {}
    for arena in arenas:
        short, goal = arena.short, arena.goal
        counts, bests = [], []
        for number in seeds:
            history = History(space=space, query=arena.query, budget=BUDGET, stop=goal, listed=arena.listed)
            METHODS[name](history, np.random.default_rng((number, 7)), arena.draw)
            got = max(history.labels) >= goal
            # Where the goal was not reached, one more than the budget stands for "more than".
            counts.append(len(history.labels) if got else BUDGET + 1)
            best = np.maximum.accumulate(history.labels)
            bests.append([float(best[min(at, len(best)) - 1]) for at in CURVE_AT])
        low, middle, high = np.quantile(counts, (0.25, 0.5, 0.75)).tolist()
        metrics |= {
            f"median_queries_{short}": middle, f"quartile_queries_{short}": low,
            f"upper_quartile_queries_{short}": high,
            f"reached_{short}": round(float(np.mean(np.array(counts) <= BUDGET)), 4),
        }  # fmt: skip
        curves[short] = np.round(np.median(bests, axis=0), 4).tolist()
    return metrics, curves
