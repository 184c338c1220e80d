"""`genmad eval corpus`: its counts are those of the folder, and it measures no more than it has to."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import genmad.data.card
import genmad.evals.onnx_cases
import genmad.importers.hf_catalog
import genmad.zoo.build
from genmad.cli import main
from genmad.evals import corpus as evaluation
from genmad.evals.corpus import coverage, patterns_by_intent
from genmad.evals.import_scan import TypeResult
from genmad.evals.onnx_files import OnnxResult
from genmad.intents.library import INTENTS
from genmad.zoo.build import build
from genmad.zoo.config import ZooConfig
from genmad.zoo.jobs import NOT_BUILT, Attempt, Job, attempt
from tests.zoo.toys import ToySource


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two graphs of one library, one of another, a space, a duplicate, a failure and a model that nobody builds."""

    def run(jobs: Sequence[Job], sources: Any, **_: Any) -> Any:
        for job in jobs:
            done = attempt(sources[job.source], job)
            if job.family == "broken":
                done = Attempt(job=job, status="failed", reason=f"{NOT_BUILT}ValueError: no")
            yield done

    monkeypatch.setattr(genmad.zoo.build, "run_jobs", run)
    monkeypatch.setattr(genmad.data.card, "can_draw", lambda: False)
    sources = (
        ToySource(name="timm", plan=(("a", "1"), ("b", "2"), ("b", "raise"), ("broken", "full"))),
        ToySource(name="pyg", plan=(("c", "2"), ("c", "3"))),
        ToySource(name="spaces", plan=(("s", "4"),)),
    )
    build(sources, ZooConfig(heldout_share=0.0, validation_share=0.0), tmp_path / "c")
    return tmp_path / "c"


def test_counts_are_those_of_the_folder(corpus: Path) -> None:
    found = coverage(corpus)
    assert found.table["timm"] == {"models": 4, "buildable": 3, "imported": 2, "graphs": 2, "families": 2}
    assert found.table["pyg"] == {"models": 2, "buildable": 2, "imported": 2, "graphs": 1, "families": 1}
    assert (found.graphs, found.families, found.duplicates) == (3, 3, 1)
    assert [f["model"] for f in found.failures] == ["b-raise", "broken-full"]
    metrics = found.metrics()
    assert (metrics["lifted_fraction"], metrics["layer_level_fraction"]) == (1.0, 1.0)
    assert found.nodes[0] <= metrics["nodes_median"] <= metrics["nodes_p99"] == found.nodes[-1]


def test_the_report_has_every_figure(corpus: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """The names stand in the issue's table, so scripts read them."""
    types = [
        TypeResult(model_type="good", built=True, full=True, max_abs_diff=1e-7, max_abs=1.0, cpu_s=0.1),
        TypeResult(model_type="bad", built=True, full=True, max_abs_diff=0.5, max_abs=1.0, cpu_s=0.3),
        TypeResult(model_type="odd", built=True, reason="no"),
    ]
    files = [OnnxResult(name="x", source="s", imported=True), OnnxResult(name="y", source="s", error="no")]
    monkeypatch.setattr(genmad.importers.hf_catalog, "model_types", tuple)  # both lists take seconds to make
    monkeypatch.setattr(genmad.evals.onnx_cases, "wheel_cases", tuple)
    monkeypatch.setattr(evaluation.import_scan, "scan", lambda *_: types)
    monkeypatch.setattr(evaluation.onnx_files, "measure_all", lambda *_: files)
    assert main(["eval", "corpus", "--corpus", str(corpus), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    wanted = {
        "transformers_imported": 2, "transformers_buildable": 3, "timm_imported": 2, "diffusers_imported": 0,
        "onnx_imported": 1, "lifted_fraction": 1.0, "distinct_graphs": 3, "families": 3, "parity_checked": 2,
        "parity_ok": 1, "intents": len(INTENTS),
    }  # fmt: skip
    assert {key: report["metrics"][key] for key in wanted} == wanted
    assert {"nodes_median", "nodes_p99", "patterns"} <= set(report["metrics"])
    assert [row["model"] for row in report["breakdown"]["differing"]] == ["bad"]
    assert {"file": "y", "error": "no"} in report["failures"]


def test_patterns_are_counted_once_each() -> None:
    found = patterns_by_intent()
    assert len(found) == len(INTENTS)
    intent = INTENTS[0]
    assert found[intent.name]["held_out"] == len(set(intent.unseen))
    assert found[intent.name]["seen"] >= len(set(intent.seen))


def test_a_folder_that_is_no_corpus_is_said(tmp_path: Path) -> None:
    assert main(["eval", "corpus", "--corpus", str(tmp_path / "none"), "--json"]) == 3
    assert main(["eval", "timing", "--corpus", str(tmp_path), "--json"]) == 2
    assert list(tmp_path.iterdir()) == []
