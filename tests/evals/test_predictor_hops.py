"""Protocols of AutoBuild's predictor; those that read tables run where a folder of tables is given."""

import os

import pytest

from genmad.evals.predictor_hops import PUBLISHED_PN, run_cost, run_few_shot

needs_tables = pytest.mark.skipif("GENMAD_DATA" not in os.environ, reason="$GENMAD_DATA names no folder of tables")


def test_cost_counts_what_it_trains_and_scores() -> None:
    pytest.importorskip("sklearn", reason="boosting beside it needs scikit-learn")
    report = run_cost(quick=True, n=40)
    assert report["quick"] is True
    assert (report["metrics"]["trained"], report["metrics"]["scored"]) == (40.0, 1000.0)
    assert 0 < report["metrics"]["train_cpu_seconds"] <= report["cpu_seconds"]


@pytest.mark.slow
@needs_tables
def test_few_shot_reports_every_hop_beside_its_baselines() -> None:
    pytest.importorskip("sklearn", reason="boosting beside it needs scikit-learn")
    report = run_few_shot(quick=True)
    assert {f"{short}_{name}" for short in ("mbv3", "pn") for name in PUBLISHED_PN} <= set(report["metrics"])
    assert {"ridge", "boosting", "wl_process", "process", "ensemble", "untaught"} <= set(report["baselines"])
    assert report["metrics"]["mbv3_prediction"] > 0.9
