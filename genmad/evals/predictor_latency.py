"""Protocol `latency`: our latency predictor on measured latencies, beside ridge, a layer table and the published one.

HELP: 5,000 networks, 12 settings; and, as a thirteenth target whose truth adds up by construction, the sums of the
layer table of an i7. `metrics` are means over targets and seeds. Ridge predicts the latency from one-hot layers and the
resolution, minimising squared relative errors; `ridge_area` also gets every layer times the area of the image. The
layer table and the published predictor were made for other hardware or batch sizes: they are scaled to the labels.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from genmad.autobuild.architecture import ArchGraph, Floats, Ints
from genmad.autobuild.labelled.ofa import ofa_graph, ofa_schema
from genmad.autobuild.latency import LatencyPredictor, resolution_features
from genmad.autobuild.latency_tables import load_help, load_layer_table
from genmad.autobuild.surrogates import load_published
from genmad.evals.report import CpuClock, EvalReport, commit, use_one_thread
from genmad.ir import Diagnostic
from genmad.spaces.grammar import SpaceError
from genmad.spaces.ofa import NONE, OfaSpace
from genmad.spaces.tables import data_folder

SEEDS, QUICK_SEEDS = 5, 1
LABELS, TESTED = 900, 1000
QUICK_SETTINGS = ("titan_rtx_1",)
TABLE = "i7_table"


@dataclass(frozen=True, kw_only=True)
class _Arena:
    """Everything that predictors read, row by row of HELP.

    Attributes:
        inputs: name of a linear baseline -> float64[N, K].
        targets: setting -> float64[N], milliseconds.
    """

    space: OfaSpace
    graphs: tuple[ArchGraph, ...]
    numbers: Floats
    inputs: Mapping[str, Floats]
    targets: Mapping[str, Floats]
    groups: Ints


def run_latency(*, quick: bool = False, seed: int = 0, n: int | None = None, data: str | None = None) -> dict[str, Any]:
    """The report as JSON; `n` is the number of seeds. Raises `SpaceError` without the tables."""
    clock, threads = CpuClock(), use_one_thread()
    arena = _arena(data)
    settings = QUICK_SETTINGS if quick else tuple(arena.targets)
    seeds = range(seed, seed + (n or (QUICK_SEEDS if quick else SEEDS)))
    found: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for number in seeds:
        train, test = _split(arena.groups, number)
        for setting in settings:
            wanted = arena.targets[setting][test]
            for name, predict in _predictors(arena, setting).items():
                said = predict(train, test, number)
                found.setdefault(name, {}).setdefault(setting, []).append(_figures(said, wanted))
    report = EvalReport(
        name="predictor-latency", commit=commit(), seed=seed, n=len(seeds), threads=threads, quick=quick,
        split=f"HELP, {LABELS} labels, {TESTED} tested, no network in both, {len(settings)} targets",
        cpu_seconds=clock.seconds(), metrics=_summary(found["latency"]),
        baselines={name: _summary(rows) for name, rows in found.items() if name != "latency"},
        breakdown={name: {k: _setting(v) for k, v in rows.items()} for name, rows in found.items()},
    )  # fmt: skip
    return report.to_json()


def _arena(data: str | None) -> _Arena:
    folder = data_folder(data)
    if folder is None:
        expected = "a folder with ofa_mbv3_help_latency, ofa_mbv3_lut_i7_8700k and autobuild_surrogates"
        raise SpaceError(Diagnostic(where="--data", got="none", expected=expected, fix="--data FOLDER"))
    measured, table = load_help(folder), load_layer_table(folder)
    words, sides = [tuple(word) for word in measured.words.tolist()], measured.resolution.tolist()
    sums = np.array([table.latency(word, side) for word, side in zip(words, sides, strict=True)])
    published = load_published(folder, "mbv3")["latency_gpu"]
    said = np.zeros(len(words))
    for side in np.unique(measured.resolution).tolist():
        here = measured.resolution == side
        said[here] = published.predict(measured.words[here], resolution=side)
    numbers = resolution_features(measured.resolution)
    one_hot = np.eye(NONE + 1)[measured.words].reshape(len(words), -1)
    area = (measured.resolution / 176.0)[:, None] ** 2
    inputs = {
        "ridge": np.hstack([one_hot, numbers]), "ridge_area": np.hstack([one_hot, one_hot * area, numbers]),
        "layer_table": sums[:, None], "published_gpu": said[:, None],
    }  # fmt: skip
    return _Arena(
        space=measured.space, numbers=numbers, inputs=inputs, targets={**measured.latency_ms, TABLE: sums},
        graphs=tuple(ofa_graph(measured.space.stages(word)) for word in words),
        groups=np.unique(measured.words, axis=0, return_inverse=True)[1].ravel().astype(np.int64),
    )  # fmt: skip


Predict = Callable[[Ints, Ints, int], Floats]


def _predictors(arena: _Arena, setting: str) -> dict[str, Predict]:
    """Each learns from rows of the first argument and predicts those of the second."""
    targets = arena.targets[setting]

    def learned(train: Ints, test: Ints, seed: int) -> Floats:
        predictor = LatencyPredictor(ofa_schema(arena.space))
        graphs = arena.graphs
        predictor.fit([graphs[i] for i in train], targets[train], seed=seed, graph_features=arena.numbers[train])
        return predictor.predict([graphs[i] for i in test], arena.numbers[test])

    def linear(name: str) -> Predict:
        # Ridge needs a little, a single scaled column none.
        strength = 1.0 if name.startswith("ridge") else 0.0
        return lambda train, test, _: relative_ridge(arena.inputs[name], targets, train, test, strength)

    names = [name for name in arena.inputs if not (setting == TABLE and name == "layer_table")]
    return {"latency": learned, **{name: linear(name) for name in names}}


def relative_ridge(inputs: Floats, targets: Floats, train: Ints, test: Ints, strength: float) -> Floats:
    """Ridge regression that minimises squared relative errors; the constant is not shrunk."""
    mean = inputs[train].mean(0)
    known = np.hstack([inputs[train] - mean, np.ones((len(train), 1))]) / targets[train, None]
    shrink = strength * np.eye(known.shape[1]) * np.mean(1 / targets[train] ** 2)
    shrink[-1, -1] = 0.0
    weights = np.linalg.lstsq(known.T @ known + shrink, known.sum(0), rcond=None)[0]
    return np.asarray((inputs[test] - mean) @ weights[:-1] + weights[-1])


def _split(groups: Ints, seed: int) -> tuple[Ints, Ints]:
    """Rows to learn from and rows to test on; equal networks never stand in both."""
    order = np.random.default_rng(seed).permutation(np.unique(groups))
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    rows = np.argsort(rank[groups], kind="stable")
    test = rows[:TESTED]
    rest = rows[TESTED:]
    return rest[~np.isin(groups[rest], groups[test])][:LABELS], test


def _figures(said: Floats, wanted: Floats) -> tuple[float, float]:
    from scipy.stats import spearmanr

    return float(np.mean(np.abs(said / wanted - 1))), float(spearmanr(said, wanted).statistic)


def _setting(figures: list[tuple[float, float]]) -> dict[str, float]:
    mape, spearman = np.mean(figures, axis=0)
    return {"mape": round(float(mape), 4), "spearman": round(float(spearman), 4)}


def _summary(rows: Mapping[str, list[tuple[float, float]]]) -> dict[str, float]:
    """Means over targets; deviations over seeds of that mean."""
    figures = np.array(list(rows.values()))
    mape, spearman = figures.mean((0, 1)).tolist()
    mape_std, spearman_std = figures.mean(0).std(0).tolist()
    return {
        "mape": round(mape, 4), "mape_std": round(mape_std, 4), "spearman": round(spearman, 4),
        "spearman_std": round(spearman_std, 4),
    }  # fmt: skip
