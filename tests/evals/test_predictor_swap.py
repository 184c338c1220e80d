"""Swaps are one operation between unlabelled classes, and the figures tell a good score from a bad one."""

import gzip
import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from genmad.autobuild.architecture import LabelledSet
from genmad.autobuild.labelled import load_set
from genmad.evals.predictor_swap import DEFAULT, GROUNDS, make_trial, run_swap
from genmad.evals.swaps import Swaps, agreement, draw_swaps, twin_changes

GAIN = np.array([0.0, 2.0, 3.0])


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """NAS-Bench-Macro with made-up accuracies: operations add up, more so where the layer before is no identity."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "nas_bench_macro").mkdir()
    rng = np.random.default_rng(0)
    with gzip.open(folder / "nas_bench_macro" / "architectures.jsonl.gz", "wt") as file:
        for digits in itertools.product(range(3), repeat=8):
            gains = GAIN[list(digits)]
            mean = 70 + float(gains.sum() + (gains[1:] * (gains[:-1] > 0)).sum() / 2 + rng.normal() / 20)
            row = {"id": "".join(map(str, digits)), "acc_pct_mean": mean, "acc_pct_runs": [mean],
                   "params": 1000 + 10 * sum(digits), "flops": 100 + sum(digits)}  # fmt: skip
            file.write(json.dumps(row) + "\n")
    return folder


@pytest.fixture(scope="module")
def macro(data: Path) -> LabelledSet:
    return load_set("nb_macro", data)


@pytest.fixture(scope="module")
def swaps(macro: LabelledSet) -> Swaps:
    return draw_swaps(macro, np.arange(len(macro.graphs)) % 7 != 0, 200, seed=1)


def test_a_swap_changes_one_operation_between_classes(macro: LabelledSet, swaps: Swaps) -> None:
    assert len(swaps.node) == 200
    for before, after, node in zip(swaps.before, swaps.after, swaps.node, strict=True):
        differs = (macro.graphs[before].features != macro.graphs[after].features).any(1)
        assert np.flatnonzero(differs).tolist() == [node]
        assert macro.groups[before] != macro.groups[after]
        assert before % 7
        assert after % 7
    assert len({frozenset(pair) for pair in zip(swaps.before, swaps.after, strict=True)}) == 200


def test_changes_of_nodes_are_those_of_the_swapped_node(macro: LabelledSet, swaps: Swaps) -> None:
    ops = np.concatenate([graph.features[:, 2] for graph in swaps.graphs]).astype(float)
    total = np.array([graph.features[:, 2].sum() for graph in macro.graphs], float)
    assert (swaps.change_of_nodes(ops) == swaps.change(total)).all()
    assert (swaps.change_of_graphs(np.array([graph.features[:, 2].sum() for graph in swaps.graphs], float))
            == swaps.change(total)).all()  # fmt: skip


def test_figures_tell_good_scores_from_bad_ones(macro: LabelledSet, swaps: Swaps) -> None:
    true = swaps.change(macro.targets["acc_pct_mean"])
    assert agreement(true * 3, true, swaps) == {"sign": 1, "kendall": 1, "kendall_ops": 1, "kendall_place": 1}
    assert agreement(-true, true) == {"sign": 0, "kendall": -1}
    flat = {"sign": 0.5, "kendall": 0, "kendall_ops": 0, "kendall_place": 0}
    assert agreement(np.zeros(len(true)), true, swaps) == flat


def test_a_score_of_operations_alone_earns_nothing_within_their_pairs(swaps: Swaps, macro: LabelledSet) -> None:
    true = swaps.change(macro.targets["acc_pct_mean"])
    of_ops = swaps.change_of_nodes(np.concatenate([GAIN[graph.features[:, 2]] for graph in swaps.graphs]))
    found = agreement(of_ops, true, swaps)
    assert found["sign"] > 0.98
    assert found["kendall"] > 0.7
    assert found["kendall_ops"] == found["kendall_place"] == 0


def test_twins_are_other_members_of_both_classes(macro: LabelledSet, swaps: Swaps) -> None:
    groups = macro.groups.astype(float)
    change, known = twin_changes(swaps, groups, seed=0)
    assert (change == swaps.change(groups)).all()
    noise = np.random.default_rng(0).normal(size=len(groups))
    apart, known_again = twin_changes(swaps, noise, seed=0)
    assert (known == known_again).all()
    assert 0.2 < known.mean() < 1
    assert (apart[known] != swaps.change(noise)[known]).all()


def test_labels_and_swaps_share_no_class(macro: LabelledSet) -> None:
    trial = make_trial(GROUNDS[1], macro, None, 50, 60, 3, True)
    assert len(set(macro.groups[trial.rows])) == 50
    touched = macro.groups[np.concatenate([trial.swaps.before, trial.swaps.after])]
    assert not set(touched) & set(macro.groups[trial.rows])


def test_the_protocol_reports_every_method(data: Path) -> None:
    found = run_swap(quick=True, seed=0, data=str(data))
    named = {"random", "params", "macs", "integrated_gradients", "gnn_explainer", "wl_node", "choice_mean"}
    assert named <= set(found["baselines"])
    assert DEFAULT not in found["baselines"]
    assert {"macro_sign_50", "macro_kendall_50", "macro_kendall_50_std", "macro_ceiling_sign"} <= set(found["metrics"])
    assert found["baselines"]["prediction_autobuild"]["macro_sign_50"] > 0.85
    assert found["baselines"]["autobuild_node_hop0"]["macro_kendall_place_50"] == 0
    assert abs(found["baselines"]["random"]["macro_kendall_50"]) < 0.25
