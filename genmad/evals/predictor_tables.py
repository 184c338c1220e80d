"""NAS-Bench-201 and NAS-Bench-101: few labelled cells, all others ranked."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from genmad.autobuild.architecture import Ints, LabelledSet
from genmad.autobuild.labelled import load_set
from genmad.evals import predictor_experts
from genmad.evals.predictor_trials import (
    Draw,
    Entry,
    Tally,
    Trials,
    column_reader,
    draw_count,
    goodness,
    halves,
    present,
    twins,
    worst,
)
from genmad.evals.report import CpuClock, EvalReport, commit, use_one_thread

DEFAULTS = ("blend_zero_cost", "blend")
"""The predictor whose figures are `metrics`: the first of these that the table has the columns for. They are the best
on draws with seeds from 100 on, which are not reported."""
NB201_COLUMN = "c10_val"
"""Validation accuracy on CIFAR-10 after 200 epochs, mean over the benchmark's trainings."""
NB201_OTHERS = ("c10_test", "c100_test", "in16_test")
NB201_POOL = 7_813
NB201_HALF = (78, 390, 781)
NB201_WHOLE = (78, 156, 469, 781, 1563)
NB101_COLUMN = "val_ep108"
NB101_HALF = (72, 364, 729)
PROXIES = (
    *(f"zc_{images}_{name}" for images in ("c10", "in16")
      for name in ("synflow", "jacov", "nwot", "snip", "grad_norm", "grasp", "fisher", "l2_norm", "plain", "zen",
                   "params_M", "flops_M", "epe_nas")),
    "naswot_score_c10", "zen_c10", "zen_c100", "zen_in16",
)  # fmt: skip
"""Columns that are known without training, of the table of precomputed zero-cost proxies."""


def _with_proxies(labelled: LabelledSet, seed: int) -> Mapping[str, object]:
    """A blend with and without proxies: each kind twice, as proxies help with few labels and hinder with many."""
    del seed
    known = {"columns": column_reader(labelled, PROXIES)}
    members = ("boosting", "boosting", "feature_gp", "feature_gp")
    return {"members": members, "settings": (known, {}, known, {})}


ENTRIES = (
    Entry(name="blend", predictor="blend"),
    Entry(name="blend_zero_cost", predictor="blend", needs=PROXIES, setting=_with_proxies),
    Entry(name="feature_gp", predictor="feature_gp"),
    Entry(name="feature_gp_zero_cost", predictor="feature_gp", columns=PROXIES),
    Entry(name="boosting", predictor="boosting"),
    Entry(name="boosting_zero_cost", predictor="boosting", columns=PROXIES),
    Entry(name="ridge", predictor="ridge"),
    Entry(name="wl_gp", predictor="wl_gp"),
    Entry(name="autobuild", predictor="autobuild"),
    Entry(name="gin", predictor="gin"),
    Entry(name="gates", predictor="gates"),
    Entry(name="ta_gates", predictor="ta_gates"),
    Entry(name="adjacency_attention", predictor="adjacency_attention"),
    Entry(name="pretrained", predictor="pretrained", setting=predictor_experts.pretrained),
    Entry(name="experts", predictor="experts", setting=predictor_experts.experts),
    Entry(name="experts_short", predictor="experts", setting=predictor_experts.experts_short),
    Entry(name="blend_experts", predictor="blend", setting=predictor_experts.blend_experts),
    Entry(name="blend_experts_short", predictor="blend", setting=predictor_experts.blend_experts_short),
)
QUICK = ("boosting", "ridge")


def run_nb201_half(
    *, quick: bool = False, seed: int = 0, n: int | None = None, data: str | None = None
) -> dict[str, Any]:
    """7,813 cells to draw labels from, the 7,812 others asked."""
    labelled = load_set("nb201", data)
    draws = [halves(labelled.groups, NB201_POOL, seed + i) for i in range(draw_count(n, quick))]
    split = (
        f"nb201 {NB201_COLUMN}, halves of 7,813 and 7,812 cells by class; a class joins equal unique strings and equal "
        f"graphs, {labelled.groups.max() + 1} in all"
    )
    return _half_report("nb201-half", labelled, NB201_COLUMN, NB201_HALF, draws, NB201_OTHERS, split, quick=quick)


def run_nb101_half(
    *, quick: bool = False, seed: int = 0, n: int | None = None, data: str | None = None
) -> dict[str, Any]:
    """Half of the 20,001 cells to draw labels from, the others asked; one training each."""
    labelled = load_set("nb101", data)
    pool = (len(labelled.graphs) + 1) // 2
    draws = [halves(labelled.groups, pool, seed + i) for i in range(draw_count(n, quick))]
    split = f"nb101 {NB101_COLUMN} (one training of 108 epochs), random halves of {len(labelled.graphs)} cells"
    return _half_report("nb101-half", labelled, NB101_COLUMN, NB101_HALF, draws, (), split, quick=quick)


def run_nb201_whole(
    *, quick: bool = False, seed: int = 0, n: int | None = None, data: str | None = None
) -> dict[str, Any]:
    """Labels drawn from all 15,625 cells; asked are all cells of other classes, and in the breakdown all others."""
    clock, threads = CpuClock(), use_one_thread()
    labelled = load_set("nb201", data)
    trials, leaking = Trials(entries=_entries(labelled, quick)), dict[str, Tally]()
    draws, failures = draw_count(n, quick), list[dict[str, Any]]()
    for number in range(draws):
        order = np.random.default_rng(seed + number).permutation(len(labelled.graphs))
        for size in NB201_HALF[:1] if quick else NB201_WHOLE:
            train, asked = order[:size], np.sort(order[size:])
            apart = ~np.isin(labelled.groups[asked], labelled.groups[train])
            true = goodness(labelled, NB201_COLUMN)[asked]
            for entry, _, said in trials.predictions(labelled, NB201_COLUMN, train, asked, seed + number):
                trials.tallies.setdefault(entry.name, Tally()).add(str(size), said[apart], true[apart])
                leaking.setdefault(entry.name, Tally()).add(str(size), said, true)
                failures = worst(labelled, NB201_COLUMN, asked, said) if entry.name == _shipped(trials) else failures
    breakdown = {
        "all_others": {name: tally.figures() for name, tally in leaking.items()},
        "all_others_means": "every cell that is not labelled, twins of labelled cells among them, as in the literature",
        "ceiling": _ceiling(labelled, (NB201_COLUMN,), seed, crossing=True),
    }
    split = f"nb201 {NB201_COLUMN}: labels from all cells, asked are the cells of classes without a label"
    return _report("nb201-whole", trials, split, len(labelled.graphs), seed, breakdown, failures, clock, threads, quick)


def _half_report(
    name: str, labelled: LabelledSet, column: str, sizes: Sequence[int], draws: Sequence[Draw], others: Sequence[str],
    split: str, *, quick: bool,
) -> dict[str, Any]:  # fmt: skip
    clock, threads = CpuClock(), use_one_thread()
    trials, failures = Trials(entries=_entries(labelled, quick)), []
    for draw in draws:
        for size in sizes[:1] if quick else sizes:
            trials.run(labelled, column, draw.pool[:size], draw.asked, label=str(size), seed=draw.seed)
    breakdown: dict[str, Any] = {"ceiling": _ceiling(labelled, (column, *others), draws[0].seed, crossing=False)}
    if not quick:
        breakdown["by_column"] = {other: _by_column(labelled, other, sizes, draws) for other in others}
        failures = _failures(labelled, column, draws[0], sizes[-1], trials)
    seed = draws[0].seed
    return _report(name, trials, split, len(draws[0].asked), seed, breakdown, failures, clock, threads, quick)


def _by_column(labelled: LabelledSet, column: str, sizes: Sequence[int], draws: Sequence[Draw]) -> dict[str, Any]:
    """The defaults and boosting on other labels of the same draws."""
    trials = Trials(entries=tuple(e for e in present(ENTRIES, labelled) if e.name in (*DEFAULTS, "boosting")))
    for draw in draws:
        for size in sizes:
            trials.run(labelled, column, draw.pool[:size], draw.asked, label=str(size), seed=draw.seed)
    return trials.figures()


def _failures(labelled: LabelledSet, column: str, draw: Draw, size: int, trials: Trials) -> list[dict[str, Any]]:
    only = Trials(entries=tuple(e for e in trials.entries if e.name == _shipped(trials)))
    (found,) = only.predictions(labelled, column, draw.pool[:size], draw.asked, draw.seed)
    return worst(labelled, column, draw.asked, found[2])


def _ceiling(labelled: LabelledSet, columns: Sequence[str], seed: int, *, crossing: bool) -> dict[str, Any]:
    """How far labels of equal cells agree, and what that means here."""
    graphs = _graph_classes(labelled)
    found: dict[str, Any] = {
        column: {"by_class": twins(labelled.targets[column], labelled.groups, seed),
                 "by_graph": twins(labelled.targets[column], graphs, seed)}
        for column in columns
    }  # fmt: skip
    twinless = found[columns[0]]["by_graph"].get("classes_with_twins", 0) < 2
    if twinless:
        found["means"] = "no two rows are equal: the noise of the labels cannot be measured on this table"
        return found
    here = (
        "Twins of labelled cells are not asked in `metrics` (they are in `all_others`, where a label of a twin may be "
        "copied)." if crossing else "Twins never stand on both sides of the split, so none can be copied."
    )  # fmt: skip
    found["means"] = (
        f"{here} The noise of the labels still bounds every figure: two noisy labels of one network agree as "
        "`kendall_twins` says; a predictor that knew the true mean of each network would agree with single labels as "
        "about `kendall_class_mean`, which is higher because only one side is noisy. No figure above that is to be had."
    )
    return found


def _graph_classes(labelled: LabelledSet) -> Ints:
    """int64[N]: equal where graphs are equal node by node."""
    from genmad.autobuild.graph_features import distinct

    return distinct(labelled.graphs)[1]


def _entries(labelled: LabelledSet, quick: bool) -> tuple[Entry, ...]:
    found = present(ENTRIES, labelled)
    return tuple(e for e in found if e.name in QUICK) if quick else found


def _shipped(trials: Trials) -> str:
    names = [entry.name for entry in trials.entries]
    return next((name for name in DEFAULTS if name in names), names[0])


def _report(
    name: str, trials: Trials, split: str, asked: int, seed: int, breakdown: dict[str, Any],
    failures: Sequence[dict[str, Any]], clock: CpuClock, threads: int, quick: bool,
) -> dict[str, Any]:  # fmt: skip
    figures = trials.figures()
    shipped = _shipped(trials)
    return EvalReport(
        name=f"predictor {name}", commit=commit(), seed=seed, n=asked, split=split, threads=threads,
        cpu_seconds=clock.seconds(), metrics=figures[shipped],
        baselines={entry: found for entry, found in figures.items() if entry != shipped},
        breakdown={"default": shipped, "num_draws": _draws(trials)} | breakdown, failures=failures, quick=quick,
    ).to_json()  # fmt: skip


def _draws(trials: Trials) -> int:
    return max(len(found) for tally in trials.tallies.values() for found in tally.values.values())
