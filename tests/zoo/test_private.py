"""A user's own folder: what can be read goes in with its figures, what is unsafe is refused, nothing runs unasked."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import genmad.data.card
import genmad.zoo.build
from genmad.cli import main
from genmad.data.corpus import load
from genmad.importers.report import SourceError
from genmad.lowering.to_onnx import save_onnx
from genmad.zoo.jobs import Job, attempt
from genmad.zoo.manifest import checked_path, read_manifest
from genmad.zoo.private import scan
from tests.graphs import gpt2_like

CODE = """
from pathlib import Path
Path(__file__).with_name("ran.txt").write_text("yes")
from torch import nn
def make():
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
"""


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs run here, and cards have no pictures; tests/zoo/test_build.py has the processes."""

    def run(jobs: Sequence[Job], sources: Any, **_: Any) -> Any:
        return (attempt(sources[job.source], job) for job in jobs)

    monkeypatch.setattr(genmad.zoo.build, "run_jobs", run)
    monkeypatch.setattr(genmad.data.card, "can_draw", lambda: False)


@pytest.fixture(scope="module")
def onnx_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "m.onnx"
    save_onnx(gpt2_like(layers=2), path)
    return path


@pytest.fixture
def folder(tmp_path: Path, onnx_file: Path) -> Path:
    """Two good models, and one of everything that must not go in."""
    root = tmp_path / "my_zoo"
    (root / "tiny").mkdir(parents=True)
    (root / "tiny" / "config.json").write_text(json.dumps(TINY))
    (root / "a.onnx").write_bytes(onnx_file.read_bytes())
    (root / "cut.onnx").write_bytes(onnx_file.read_bytes()[:100])
    (root / "empty.onnx").touch()
    (root / "weights.pt").write_bytes(b"\x80\x04evil")
    (tmp_path / "outside.onnx").write_bytes(onnx_file.read_bytes())
    (root / "link.onnx").symlink_to(tmp_path / "outside.onnx")
    (root / "up").symlink_to(tmp_path)
    (root / "huge").mkdir()
    with (root / "huge" / "config.json").open("wb") as file:
        file.truncate(5 * 2**20)
    (root / "models.py").write_text(CODE)
    (root / "readme.txt").write_text("of no interest")
    (root / "manifest.csv").write_text(
        "path,accuracy,latency_ms\na.onnx,0.91,3.5\n./tiny,0.5,\n../outside.onnx,1,1\ngone.onnx,1,1\na.onnx,0.1,1\n"
        "tiny/x,yes,1\nmodels:make,1,1\n"
    )
    return root


TINY = {
    "model_type": "gpt2", "n_layer": 1, "n_embd": 16, "n_head": 2, "vocab_size": 40, "n_positions": 16,
    "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
REFUSED = {
    "cut.onnx": "", "empty.onnx": "an empty file", "weights.pt": "a pickle", "link.onnx": "leads out of the folder",
    "up": "a link to a folder", "huge/config.json": "expected at most", "gone.onnx": "no model lies there",
    "manifest.csv line 4": "leads out of the folder", "manifest.csv line 6": "stands in it twice",
    "manifest.csv line 7": "expected a number", "models:make": "--run-code models:make",
}  # fmt: skip


def test_good_models_go_in_and_each_bad_one_is_told(folder: Path, tmp_path: Path, capsys: Any) -> None:
    assert main(["zoo", "add", str(folder), "-o", str(tmp_path / "zoo"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert sorted(told["ok"]) == ["a.onnx", "tiny"]
    reasons = {item["name"]: item["reason"] for item in told["refused"]}
    assert set(reasons) == set(REFUSED)
    assert not [name for name, part in REFUSED.items() if part not in reasons[name]]
    records = {r.variant: r for r in load(tmp_path / "zoo")}
    assert json.loads(records["a.onnx"].labels) == {"accuracy": 0.91, "latency_ms": 3.5}
    assert json.loads(records["tiny"].labels) == {"accuracy": 0.5}
    assert {r.source for r in records.values()} == {"private"}
    assert not (folder / "ran.txt").exists(), "the user's Python ran unasked"


def test_code_runs_when_it_is_asked_for_by_name(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "manifest.csv").write_text("path,accuracy,inputs,family\nmodels:make,0.7,input=1x4:float32,mlps\n")
    monkeypatch.syspath_prepend(str(folder))  # undone after the test; the source puts it there too
    assert main(["zoo", "add", str(folder), "-o", str(tmp_path / "zoo"), "--run-code", "models:make"]) == 0
    record = next(r for r in load(tmp_path / "zoo") if r.variant == "models:make")
    assert [n.op for n in record.graph.main.nodes] == ["Linear", "Relu", "Linear"]
    assert record.family == "private.mlps"
    assert json.loads(record.labels) == {"accuracy": 0.7}


def test_a_second_folder_is_added_to_the_first(folder: Path, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "zoo"
    assert main(["zoo", "add", str(folder), "-o", str(out)]) == 0
    second = tmp_path / "second"
    second.mkdir()
    (second / "again.onnx").write_bytes((folder / "a.onnx").read_bytes())
    save_onnx(gpt2_like(layers=3), second / "new.onnx")
    capsys.readouterr()
    assert main(["zoo", "add", str(second), "-o", str(out), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["ok"], told["duplicate"]) == (["new.onnx"], ["again.onnx"])
    assert [r.variant for r in load(out)] == ["a.onnx", "tiny", "new.onnx"]


def test_a_folder_without_one_model_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "w.bin").write_bytes(b"1")
    assert main(["zoo", "add", str(tmp_path / "mine"), "-o", str(tmp_path / "zoo")]) == 3
    assert main(["zoo", "add", str(tmp_path / "nowhere"), "-o", str(tmp_path / "zoo")]) == 3
    assert [p.name for p in tmp_path.iterdir()] == ["mine"]


def test_the_same_manifest_as_lines_of_json(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    lines = [{"path": "a.onnx", "accuracy": 1}, ["a"], {"path": "b", "accuracy": True}, {"accuracy": 1}]
    path.write_text("\n".join(map(json.dumps, lines)) + "\n{broken\n" + '{"path": "c", "x": NaN}\n')
    found = read_manifest(path)
    assert {k: dict(e.labels) for k, e in found.entries.items()} == {"a.onnx": {"accuracy": 1.0}}
    assert [where for where, _ in found.refused] == [f"m.jsonl line {n}" for n in (2, 3, 4, 5, 6)]


def test_a_manifest_without_paths_is_unreadable(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("file,accuracy\na,1\n")
    with pytest.raises(SourceError, match="a header with the column path"):
        read_manifest(tmp_path / "m.csv")


@pytest.mark.parametrize("path", ["../a", "a/../../b", "/etc/passwd", "C:\\a", "..\\a", "a/b/../../../c"])
def test_no_path_leads_out_of_the_folder(path: str) -> None:
    with pytest.raises(ValueError, match="leads out of the folder"):
        checked_path(path)


def test_a_scan_does_not_follow_a_circle_of_links(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "again").symlink_to(tmp_path / "a")
    assert scan(tmp_path).models == ()
    assert [path for path, _ in scan(tmp_path).refused] == ["a/again"]
