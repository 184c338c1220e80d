"""`genmad finetune` as its user meets it: what it writes, what it keeps to itself, and what it says of bad zoos."""

import json
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import genmad.evals.tuning
import genmad.zoo.reading
from genmad.cli.app import run
from genmad.data.corpus import ArchRecord
from genmad.ir import canonical_hash, canonicalize, to_json
from genmad.lowering.to_onnx import save_onnx
from genmad.sampling import Editor
from genmad.sampling.pretrained import load_pretrained
from genmad.zoo.jobs import Job, attempt
from tests.checkpoints import relu_at_the_end, write_checkpoint
from tests.graphs import bert_like, gpt2_like, llama_like, mobile_like


def public_graphs(*_: Any, **__: Any) -> list[ArchRecord]:
    graph = canonicalize(gpt2_like(1))
    return [
        ArchRecord(family="p", variant=name, split="train", hash=canonical_hash(graph) + name, graph=graph)
        for name in "ab"
    ]


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models are read here, public graphs are two small ones, what random weights would complete is made quickly, and
    no socket can be opened."""

    def jobs(todo: Sequence[Job], sources: Any, **_: Any) -> Any:
        return (attempt(sources[job.source], job) for job in todo)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(genmad.zoo.reading, "run_jobs", jobs)
    monkeypatch.setattr(genmad.evals.tuning, "replay_graphs", public_graphs)
    monkeypatch.setattr("genmad.sampling.regrow.complete", relu_at_the_end)
    for name in ("connect", "connect_ex", "sendto", "bind"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Three small models."""
    folder = tmp_path_factory.mktemp("files")
    out = {}
    for name, graph in (("a", gpt2_like(1)), ("b", bert_like(1)), ("c", llama_like(1))):
        save_onnx(graph, folder / f"{name}.onnx")
        out[name] = (folder / f"{name}.onnx").read_bytes()

    return out


def zoo_of(folder: Path, files: dict[str, bytes], *names: str) -> Path:
    folder.mkdir()
    for position, name in enumerate(names):
        (folder / f"acme_{position}_{name}.onnx").write_bytes(files[name])
    return folder


def call(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict[str, Any]]:
    code = run([*words, "--json"])
    return code, json.loads(capsys.readouterr().out)


def tune(
    capsys: pytest.CaptureFixture[str], zoo: Path, out: Path, base: Path, *more: str
) -> tuple[int, dict[str, Any]]:
    return call(capsys, "finetune", str(zoo), "-o", str(out), "--base", str(base), "--steps", "2", *more)


def test_a_zoo_with_broken_files_is_tuned_to_and_stays_private(
    tmp_path: Path, files: dict[str, bytes], base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One broken file is named and the rest used; the folder holds no name, no graph, no hash of the zoo."""
    zoo = zoo_of(tmp_path / "my_zoo", files, "a", "b", "c", "a")
    (zoo / "cut.onnx").write_bytes(files["a"][:200])
    (zoo / "manifest.csv").write_text("path,accuracy\nacme_0_a.onnx,0.9\nelsewhere.onnx,0.8\n")
    out = tmp_path / "gen"
    code, told = tune(capsys, zoo, out, base, "--license", "apache-2.0")
    assert code == 0, told
    counted = told["zoo"]
    assert (counted["models"], counted["distinct"], counted["labelled"]) == (4, 3, 1)
    assert {item["name"] for item in counted["refused"]} == {"cut.onnx", "elsewhere.onnx"}
    assert counted["duplicates"] == [{"name": "acme_3_a.onnx", "of": "acme_0_a.onnx"}]
    written = {path.name for path in out.iterdir()}
    assert {"README.md", "config.json", "model.safetensors", "vocab.json", "prompt.model", "finetune.json"} <= written
    assert "license: apache-2.0" in (out / "README.md").read_text(encoding="utf-8")
    assert not (tmp_path / "gen.partial").exists()
    hashes = {record.hash for record in genmad.zoo.reading.read_zoo(zoo).records}
    for path in out.rglob("*"):
        data = path.read_bytes()
        for word in ("acme", "my_zoo", *hashes):
            assert word.encode() not in data, (path.name, word)
    assert load_pretrained(out).reader.vocab.tokens == load_pretrained(base).reader.vocab.tokens


def test_equal_models_are_one_and_the_report_says_so(
    tmp_path: Path, files: dict[str, bytes], base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, told = tune(capsys, zoo_of(tmp_path / "z", files, "b", "b", "b"), tmp_path / "g", base)
    assert (code, told["zoo"]["distinct"], told["zoo"]["held_out"]) == (0, 1, 0)
    assert any("all 3 models are one graph" in note for note in told["notes"])


def test_an_empty_zoo_and_one_of_broken_files_are_refused(
    tmp_path: Path, base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = zoo_of(tmp_path / "empty", {})
    broken = zoo_of(tmp_path / "broken", {"x": b"no model", "y": b"neither"}, "x", "y")
    for zoo, got in ((empty, "no models"), (broken, "2 files, none of which can be used")):
        code, told = tune(capsys, zoo, tmp_path / "g", base)
        assert code == 3
        assert got in told["error"]["got"]
        assert not (tmp_path / "g").exists()
        assert not (tmp_path / "g.partial").exists()


def test_a_time_limit_that_is_too_short_says_what_was_done(
    tmp_path: Path, files: dict[str, bytes], base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, told = tune(capsys, zoo_of(tmp_path / "z", files, "b", "c"), tmp_path / "g", base, "--time-limit", "0.05s")
    assert code == 5
    assert "models were read" in told["error"]["got"]
    assert not (tmp_path / "g").exists()


def test_forbidden_copies_are_never_given_back(
    tmp_path: Path, files: dict[str, bytes], base: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("genmad.sampling.decode.MAX_TOKENS", 12)
    zoo, out = zoo_of(tmp_path / "z", files, "b", "c"), tmp_path / "g"
    assert tune(capsys, zoo, out, base, "--forbid-copies")[0] == 0
    kit = load_pretrained(out)
    records = genmad.zoo.reading.read_zoo(zoo).records
    assert kit.forbidden == {record.hash for record in records}
    editor = Editor(kit)
    found = editor.edit(records[0].graph, "add a layer", samples=3)
    assert all(p.state is None or canonical_hash(p.state.graph) not in kit.forbidden for p in found)


def test_the_tuned_generator_grows_graphs_from_seeds_and_never_from_nothing(
    tmp_path: Path, files: dict[str, bytes], base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    zoo, pool = zoo_of(tmp_path / "z", files, "b"), tmp_path / "p.parquet"
    code, told = call(capsys, "generate", "--model", str(base), "-n", "3", "-o", str(pool))
    assert code == 2
    assert "--from" in told["error"]["got"]
    words = ("generate", "--model", str(base), "--from", str(zoo), "--exclude", str(zoo), "-n", "3", "-o", str(pool))
    code, told = call(capsys, *words)
    assert (code, told.get("n"), told.get("invalid")) == (0, 3, 0), told
    code, checked = call(capsys, "check", str(pool))
    assert (code, checked["num_problems"], checked["n"]) == (0, 0, 3)


def test_a_pool_whose_graph_was_changed_by_hand_is_told() -> None:
    from genmad.cli.generate_like import check_rows

    graph = canonicalize(mobile_like())
    row = {"canonical_hash": canonical_hash(graph), "graph": json.dumps(to_json(graph))}
    assert list(check_rows([row])) == []
    assert any("the same graph as row 0" in text for text in check_rows([row, row]))
    other = row | {"canonical_hash": "0" * 64}
    assert any("its hash is" in text for text in check_rows([other]))
    assert any("no graph" in text for text in check_rows([row | {"graph": "{}"}]))


def test_resume_needs_a_run_and_the_same_zoo(
    tmp_path: Path, files: dict[str, bytes], base: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    zoo, out = zoo_of(tmp_path / "z", files, "b", "c"), tmp_path / "g"
    code, told = tune(capsys, zoo, out, base, "--resume")
    assert (code, told["error"]["got"]) == (2, "no interrupted run beside it")

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(genmad.evals.tuning, "save_tuned", killed)
        assert run(["finetune", str(zoo), "-o", str(out), "--base", str(base), "--steps", "2"]) == 130
    capsys.readouterr()
    partial = tmp_path / "g.partial"
    assert all(b"acme" not in path.read_bytes() for path in partial.rglob("*") if path.is_file())
    assert tune(capsys, zoo, out, base, "--resume")[0] == 0
    assert tune(capsys, zoo, out, base)[0] == 2


@pytest.mark.parametrize(
    ("words", "where"),
    [
        (("--full", "--rank", "3"), "--full"),
        (("--time-limit", "soon"), "--time-limit"),
        (("--license", "a: b"), "--license"),
    ],
)
def test_wrong_options_are_told_before_the_work(
    tmp_path: Path, base: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], where: str
) -> None:
    code, told = tune(capsys, tmp_path, tmp_path / "g", base, *words)
    assert (code, told["error"]["where"]) == (2, where)
