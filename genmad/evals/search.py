"""`genmad eval search`: how many queries each method needs on NAS-Bench-201, over seeds, all in one run.

A query tells the label of one member: here the test accuracy itself, the same for every method. `metrics` are of our
generator with its predictor; each baseline is a method of the field.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from genmad.evals.report import CpuClock, EvalReport, commit, use_one_thread
from genmad.ir import Diagnostic
from genmad.sampling.pools import Law, PoolSampler, load_law
from genmad.search.methods import METHODS, History, table_query
from genmad.spaces import LabelTable, Space, SpaceError, Words, get_space
from genmad.spaces.tables import data_folder

GOALS = (("c10", "c10_test", 94.37), ("c100", "c100_test", 73.51))
SEEDS, QUICK_SEEDS = 50, 2
BUDGET = 300
CURVE_AT = (1, 5, 10, 15, 20, 30, 40, 50, 75, 100, 150, 200, 300)


def run(
    *, quick: bool = False, seed: int = 0, n: int | None = None, checkpoint: str | None = None, space: str = "nb201",
    data: str | None = None,
) -> dict[str, Any]:  # fmt: skip
    """The report as JSON; `n` is the number of seeds. Raises `SpaceError` without a label table."""
    clock, threads = CpuClock(), use_one_thread()
    where = get_space(space)
    folder = data_folder(data)
    table = None if folder is None else where.read_labels(folder)
    if table is None or where.name != "nb201":
        expected = "the label table of NAS-Bench-201"
        raise SpaceError(
            Diagnostic(where="--data", got=f"none of {where.name}", expected=expected, fix="--data FOLDER")
        )
    law = load_law(where, checkpoint)
    seeds = range(seed, seed + (n or (QUICK_SEEDS if quick else SEEDS)))
    results = {name: _method(name, where, table, law, seeds) for name in METHODS}
    report = EvalReport(
        name="search", commit=commit(), seed=seed, n=len(seeds), threads=threads, quick=quick,
        split=f"{where.title}, {len(seeds)} seeds, at most {BUDGET} queries", cpu_seconds=clock.seconds(),
        metrics=results["generator"][0], baselines={k: v[0] for k, v in results.items() if k != "generator"},
        breakdown={"curves_at": list(CURVE_AT), "curves": {k: v[1] for k, v in results.items()},
                   "published": {"TNAS": [29, 59], "BANANAS": [46, 88]}},
    )  # fmt: skip
    return report.to_json()


def _method(
    name: str, space: Space, table: LabelTable, law: Law, seeds: Sequence[int]
) -> tuple[dict[str, float], dict[str, list[float]]]:
    """Medians, quartiles and shares of seeds that got there; and the median best label by queries."""
    metrics: dict[str, float] = {}
    curves: dict[str, list[float]] = {}

    def draw(rng: np.random.Generator, n: int) -> Words:
        return PoolSampler(space=space, law=law, seed=int(rng.integers(2**31))).independent(n)[0]

    for short, column, goal in GOALS:
        counts, bests = [], []
        for number in seeds:
            history = History(space=space, query=table_query(table, column), budget=BUDGET, stop=goal)
            METHODS[name](history, np.random.default_rng((number, 7)), draw)
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
