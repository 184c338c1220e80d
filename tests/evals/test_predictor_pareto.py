"""The protocols `pareto` and `latency` in their quick form; they need the user's tables."""

import os
from pathlib import Path

import pytest

from genmad.evals.predictor_latency import run_latency
from genmad.evals.predictor_pareto import run_pareto
from genmad.spaces.grammar import SpaceError


@pytest.fixture
def tables() -> str:
    folder = os.environ.get("GENMAD_DATA")
    if not folder or not (Path(folder) / "autobuild_surrogates").is_dir():
        pytest.skip("no benchmark tables: set GENMAD_DATA to a folder that holds them")
    return folder


@pytest.mark.parametrize("run", [run_pareto, run_latency])
def test_without_tables_the_option_is_named(run: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GENMAD_DATA", raising=False)
    assert callable(run)
    with pytest.raises(SpaceError, match="--data FOLDER"):
        run(quick=True)


@pytest.mark.slow
def test_searches_with_chosen_modules_beat_the_whole_space(tables: str, tmp_path: Path) -> None:
    """One field, two seeds: every search is there, and choosing modules pays against 250 evaluations of the space."""
    pytest.importorskip("pymoo")
    picture = tmp_path / "fronts.png"
    report = run_pareto(quick=True, data=tables, picture=str(picture))
    rows = report["baselines"]
    assert {"random", "layer_full", "stage_full", "layer_insight", "autobuild_published", "labelled_3000"} <= set(rows)
    volumes = {name: row["hv_mbv3_gpu"] for name, row in rows.items()}
    ours = report["metrics"]["hv_mbv3_gpu"]
    assert volumes["random"] < volumes["layer_full"] < volumes["additive_published"] < ours <= volumes["best_known"]
    assert volumes["layer_insight"] < ours
    accuracy = report["breakdown"]["equations"]["mbv3_gpu"]["acc"]
    assert accuracy["additive"]["built"] > accuracy["largest"] > 0
    assert picture.stat().st_size > 5000


@pytest.mark.slow
def test_the_latency_predictor_beats_ridge_on_a_measured_setting(tables: str) -> None:
    report = run_latency(quick=True, data=tables)
    assert report["metrics"]["mape"] < report["baselines"]["ridge"]["mape"] < 0.06
