"""Protocols on tables: no class on both sides, figures that tell good predictions from bad ones."""

import gzip
import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from genmad.autobuild.labelled import load_set
from genmad.evals import predictor, predictor_spaces
from genmad.evals.predictor import PROTOCOLS, ProtocolError
from genmad.evals.predictor_trials import Entry, Trials, column_reader, draw_count, goodness, halves, present, twins
from genmad.evals.rank_correlation import kendall


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Part of NAS-Bench-Macro with made-up labels, one column lower is better, one half empty."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "nas_bench_macro").mkdir()
    rng = np.random.default_rng(0)
    with gzip.open(folder / "nas_bench_macro" / "architectures.jsonl.gz", "wt") as file:
        for digits in itertools.product(range(3), range(3), [1], range(3), range(3), [0], range(3), range(3)):
            mean = 70 + sum(digits) + float(rng.normal()) / 9
            row = {"id": "".join(map(str, digits)), "acc_pct_mean": mean, "acc_pct_runs": [mean], "params": sum(digits)}
            file.write(json.dumps(row | ({"latency": 100 - mean} if digits[0] else {})) + "\n")
    return folder


def test_no_class_stands_on_both_sides() -> None:
    groups = np.repeat(np.arange(400), np.random.default_rng(0).integers(1, 9, 400))
    draw = halves(groups, len(groups) // 2, seed=1)
    assert not set(groups[draw.pool]) & set(groups[draw.asked])
    assert sorted([*draw.pool, *draw.asked]) == list(range(len(groups)))
    assert len(draw.pool) == len(groups) // 2
    assert draw.pool.tolist() != halves(groups, len(groups) // 2, seed=2).pool.tolist()


def test_twins_agree_as_their_noise_lets_them() -> None:
    """Labels are a value per class and noise of the same size: two of a class agree at 2 / pi asin(1 / 2) = 1 / 3.

    The mean of nine twins is nearly free of noise: 2 / pi asin(1 / sqrt(2 + 2 / 9)) = .468. Over 2,000 classes both are
    within .03 (three deviations) of that.
    """
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(2000), 10)
    found = twins(rng.normal(size=2000)[groups] + rng.normal(size=20000), groups, seed=0)
    assert found["kendall_twins"] == pytest.approx(1 / 3, abs=0.05)
    assert found["kendall_class_mean"] == pytest.approx(0.468, abs=0.03)
    assert found["classes_with_twins"] == 2000


def test_a_table_without_twins_says_so() -> None:
    assert twins(np.arange(5.0), np.arange(5), seed=0) == {"classes_with_twins": 0.0}


def test_small_is_good_where_the_set_says_so(data: Path) -> None:
    labelled = load_set("nb_macro", data)
    assert (goodness(labelled, "params") == -labelled.targets["params"]).all()
    assert (goodness(labelled, "acc_pct_mean") == labelled.targets["acc_pct_mean"]).all()


def test_columns_are_means_over_equal_graphs_of_what_is_known(data: Path) -> None:
    labelled = load_set("nb_macro", data)
    doubled = labelled.rows([3, 500, 3])
    values = np.array([1.0, np.nan, 3.0])
    read = column_reader(doubled.__class__(
        name="x", schema=doubled.schema, graphs=doubled.graphs, groups=doubled.groups, texts=doubled.texts,
        targets={"a": values},
    ), ["a"])  # fmt: skip
    assert read(doubled.graphs)[[0, 2], 0].tolist() == [2.0, 2.0]
    assert np.isnan(read(doubled.graphs)[1, 0])


def test_entries_without_their_columns_or_predictors_are_left_out(data: Path) -> None:
    labelled = load_set("nb_macro", data)
    entries = (Entry(name="a", predictor="ridge"), Entry(name="b", predictor="nothing"),
               Entry(name="c", predictor="ridge", columns=("zc_c10_synflow",)))  # fmt: skip
    assert [entry.name for entry in present(entries, labelled)] == ["a"]


def test_figures_are_means_and_deviations_over_draws(data: Path) -> None:
    labelled = load_set("nb_macro", data)
    trials = Trials(entries=(Entry(name="ridge", predictor="ridge"),))
    taus = []
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(len(labelled.graphs))
        trials.run(labelled, "acc_pct_mean", order[:40], order[40:], label="40", seed=seed)
        ((_, _, said),) = trials.predictions(labelled, "acc_pct_mean", order[:40], order[40:], seed)
        taus.append(kendall(said, labelled.targets["acc_pct_mean"][order[40:]]))
    found = trials.figures()["ridge"]
    assert found["kendall_40"] == pytest.approx(np.mean(taus), abs=1e-4)
    assert found["kendall_40_std"] == pytest.approx(np.std(taus, ddof=1), abs=1e-4)
    assert found["kendall_40"] > 0.8


def test_the_quick_table_over_spaces_is_one_flat_report(data: Path) -> None:
    report = predictor.run(quick=True, protocol="hwgpt", data=str(data))
    assert report["name"] == "predictor hwgpt"
    assert report["metrics"]["kendall_nb_macro_accuracy_50"] > 0.7
    assert report["baselines"]["ridge"]["kendall_nb_macro_accuracy_50"] > 0.7
    assert report["quick"] is True
    assert json.loads(json.dumps(report, allow_nan=False)) == report


def test_unknown_protocols_are_refused_with_the_names() -> None:
    with pytest.raises(ProtocolError, match="nb201-whole"):
        predictor.run(protocol="nb201")
    with pytest.raises(ProtocolError, match="--protocol"):
        predictor.run()
    with pytest.raises(ProtocolError, match="--checkpoint"):
        predictor.run(protocol="hwgpt", checkpoint="x")


def test_all_protocols_of_the_issue_are_listed() -> None:
    wanted = "nb201-half nb201-whole nb101-half ofa-hops few-shot hwgpt swap build pareto cost"
    assert set(wanted.split()) <= PROTOCOLS.keys()


def test_draws_are_five_one_when_quick_or_what_is_asked_for() -> None:
    assert (draw_count(None, False), draw_count(None, True), draw_count(3, True)) == (5, 1, 3)


def test_the_table_over_spaces_names_sets_that_there_are() -> None:
    from genmad.autobuild.labelled import SETS

    assert all(ground.name in SETS for ground in predictor_spaces.GROUNDS)
