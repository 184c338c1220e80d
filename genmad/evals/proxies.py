"""Our zero-cost proxies against published values, by rank, on cells of NAS-Bench-201.

The published values (Krishnakumar et al., NAS-Bench-Suite-Zero, NeurIPS 2022, arXiv 2210.03230) are of a batch
of CIFAR-10 and other initial weights; ours of drawn images. `self` is the agreement of ours with ours under another
seed (weights, images and labels): what no other implementation can be asked to exceed by much.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genmad.evals.rank_correlation import spearman
from genmad.evals.report import CpuClock, EvalReport, commit, use_one_thread
from genmad.ir import Diagnostic
from genmad.spaces import get_space
from genmad.spaces.grammar import SpaceError
from genmad.spaces.nb201 import NB201
from genmad.spaces.space import Word
from genmad.spaces.tables import csv_rows, data_folder, find_table

NUM_CELLS = 100
QUICK_CELLS = 4
# Cells on which a second seed is compared: one in this many.
SELF_SHARE = 4
IN_TABLE = {"jacob_cov": "jacov", "params": "params_M", "macs": "flops_M"}
DATASET, ACCURACY = "cifar10", "c10_test"
Floats = NDArray[np.float64]


def run(
    *, quick: bool = False, seed: int = 0, n: int | None = None, checkpoint: str | None = None,
    data: str | None = None,
) -> dict[str, Any]:  # fmt: skip
    """`genmad eval proxies`: Spearman with the published values per proxy, and with accuracy of both.

    Raises `SpaceError` where the tables are not there.
    """
    from genmad.autobuild.proxies import PROXIES

    del checkpoint
    threads, clock = use_one_thread(), CpuClock()
    names = [*PROXIES]
    words, published, accuracy = _cells(data, names, n or (QUICK_CELLS if quick else NUM_CELLS), seed)
    ours = _compute(words, names, seed)
    again = _compute(words[: max(3, len(words) // SELF_SHARE)], names, seed + 1)
    metrics = {f"spearman_{name}": _spearman(ours[:, i], published[:, i]) for i, name in enumerate(names)}
    means = [metrics[f"spearman_{name}"] for name in names]
    metrics["spearman_mean"] = round(float(np.nanmean(means)), 4)
    same = np.isclose(ours[:, names.index("params")], published[:, names.index("params")] * 1e6, rtol=1e-6)
    metrics["params_equal"] = round(float(same.mean()), 4)
    tables = {"accuracy_ours": (ours, accuracy), "accuracy_published": (published, accuracy),
              "self": (ours[: len(again)], again)}  # fmt: skip
    baselines = {
        title: {name: _spearman(left[:, i], right[:, i] if right.ndim == 2 else right) for i, name in enumerate(names)}
        for title, (left, right) in tables.items()
    }
    return EvalReport(
        name="proxies", commit=commit(), seed=seed, n=len(words), threads=threads, cpu_seconds=clock.seconds(),
        split="NAS-Bench-201 cells with published proxies, one per isomorphism class", metrics=_finite(metrics),
        baselines={title: _finite(table) for title, table in baselines.items()},
        breakdown={"not_finite": {name: int((~np.isfinite(ours[:, i])).sum()) for i, name in enumerate(names)},
                   "self_n": len(again)},
        quick=quick,
    ).to_json()  # fmt: skip


def _cells(data: str | None, names: Sequence[str], count: int, seed: int) -> tuple[list[Word], Floats, Floats]:
    """Words of drawn cells, published values [N, P] and accuracies [N]."""
    folder = data_folder(data)
    path = None if folder is None else find_table(folder, "nas-bench-201/nb201_zero_cost.csv.gz")
    table = None if folder is None else NB201().read_labels(folder)
    if path is None or table is None:
        got, expected = "no table of NAS-Bench-201", "nas-bench-201/nb201.csv.gz and nb201_zero_cost.csv.gz"
        fix = "--data FOLDER, or set $GENMAD_DATA"
        raise SpaceError(Diagnostic(where="genmad eval proxies", got=got, expected=expected, fix=fix))
    columns = [IN_TABLE.get(name, name) for name in names]
    rows = [row for row in csv_rows(path, ["idx", "dataset", *columns]) if row["dataset"] == DATASET]
    place = {int(index): at for at, index in enumerate(table.columns["idx"])}
    chosen: dict[str, dict[str, str]] = {}
    for i in np.random.default_rng(seed).permutation(len(rows)):
        chosen.setdefault(table.keys[place[int(rows[i]["idx"])]], rows[i])
        if len(chosen) == count:
            break
    places = [place[int(row["idx"])] for row in chosen.values()]
    values = np.array([[float(row[c]) if row[c] else np.nan for c in columns] for row in chosen.values()])
    words = [tuple(int(op) for op in table.words[at]) for at in places]
    return words, values, table.columns[ACCURACY][places]


def _compute(words: Sequence[Word], names: Sequence[str], seed: int) -> Floats:
    """float64[N, P] of freshly initialised networks on one batch of drawn images."""
    from genmad.autobuild.proxies import compute_proxies, random_batch
    from genmad.lowering.to_torch import to_torch

    space, batch = get_space("nb201"), random_batch(seed=seed)
    found = [compute_proxies(to_torch(space.to_graph(w), seed=seed), batch, seed, names) for w in words]
    return np.array([[row[name] for name in names] for row in found])


def _spearman(left: Floats, right: Floats) -> float:
    """Over the rows where both are known; minus infinity is a value. NaN under three rows or without spread."""
    known = ~(np.isnan(left) | np.isnan(right))
    return round(spearman(left[known], right[known]), 4) if known.sum() > 2 else float("nan")


def _finite(table: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in table.items() if np.isfinite(value)}
