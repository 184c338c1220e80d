"""`genmad generate`, `mutate`, `cross`, `complete`, `search` and `check` of pools, as a user types them."""

import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from genmad.cli.app import run
from genmad.sampling.pools import NetLaw, PoolSampler

CELL = "|nor_conv_3x3~0|+|none~0|avg_pool_3x3~1|+|skip_connect~0|none~1|nor_conv_1x1~2|"
OTHER = "|none~0|+|nor_conv_1x1~0|none~1|+|nor_conv_3x3~0|avg_pool_3x3~1|skip_connect~2|"


def call(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict[str, object]]:
    code = run([*words, "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_a_pool_is_written_checked_and_the_same_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("generate", "-n", "60", "--space", "nb201", "--max-params", "1M", "--seed", "3")
    for name in ("a.parquet", "b.parquet"):
        code, found = call(capsys, *words, "-o", str(tmp_path / name))
        assert code == 0
        assert found["n"] == 60
        assert found["params"]["max"] <= 1_000_000  # type: ignore[index]
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    assert call(capsys, "check", str(tmp_path / "a.parquet")) == (
        0,
        {"status": "ok", "source": str(tmp_path / "a.parquet"), "n": 60, "num_problems": 0, "problems": []},
    )
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.parquet", "b.parquet"]


KILLED = """
import os, signal, sys
import genmad.cli.generate
from genmad.cli.app import run
from genmad.sampling.pools import PoolSampler

sys.modules["genmad.cli.generate"].SAVE_EVERY = 0.0
draw, rounds = PoolSampler._round, []

def dies(*words):
    rounds.append(0)
    if len(rounds) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return draw(*words)

PoolSampler._round = dies
run(sys.argv[1:])
"""


def test_a_killed_run_is_taken_up_and_writes_the_same_bytes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("generate", "-n", "4500", "--space", "nb201", "--seed", "3", "-o")
    assert call(capsys, *words, str(tmp_path / "whole.parquet"))[0] == 0
    cut = tmp_path / "cut.parquet"
    done = subprocess.run([sys.executable, "-c", KILLED, *words, str(cut)], cwd=Path.cwd(), check=False)
    assert done.returncode == -signal.SIGKILL
    assert not cut.exists()
    assert {p.name for p in (tmp_path / "cut.parquet.parts").glob("round-*")} == {
        "round-000000.npz",
        "round-000001.npz",
    }
    numbers: list[int] = []
    first = PoolSampler._batches
    monkeypatch.setattr(PoolSampler, "_batches", lambda self, n, heat: numbers.append(n) or first(self, n, heat))
    code, found = call(capsys, *words, str(cut))
    assert (code, numbers) == (0, [2])
    assert found["resumed"] > 2000  # type: ignore[operator]
    assert cut.read_bytes() == (tmp_path / "whole.parquet").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cut.parquet", "whole.parquet"]


def test_parts_of_another_generator_are_not_taken_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Interrupted by Ctrl-C, then run with other weights of the same name."""
    from genmad.sampling.pools import load_law
    from genmad.spaces import get_space

    space = get_space("nb201")
    law = load_law(space)
    assert isinstance(law, NetLaw)
    other = replace(law, net=replace(law.net, out=law.net.out * 0.5))
    assert (law.name, law.digest == other.digest) == (other.name, False)
    words = ("generate", "-n", "3500", "--space", "nb201", "-o", str(tmp_path / "p.parquet"))

    rounds, draw = [], PoolSampler._round

    def once(*arguments: object) -> object:
        rounds.append(0)
        if len(rounds) > 1:
            raise KeyboardInterrupt
        return draw(*arguments)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PoolSampler, "_round", once)
        patch.setattr("genmad.sampling.pools.load_law", lambda *_: other)
        assert run([*words, "--json"]) == 130
    assert (tmp_path / "p.parquet.parts" / "round-000000.npz").exists()
    capsys.readouterr()
    code, found = call(capsys, *words)
    assert (code, found["resumed"]) == (0, 0)


def test_fewer_members_than_asked_for_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = call(capsys, "generate", "-n", "900", "--max-params", "101306", "-o", str(tmp_path / "p.parquet"))
    assert code == 0
    assert found["exhausted"] is True
    assert 0 < found["n"] < 900  # type: ignore[operator]


def test_graphs_and_models_are_written_beside_the_pool(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import onnx

    for kind in ("onnx", "torch"):
        words = ("generate", "-n", "2", "--space", "enas", "--save-graphs", "--export", kind, "--force")
        assert call(capsys, *words, "-o", str(tmp_path / "p.parquet"))[0] == 0
    assert len(list((tmp_path / "p.graphs").glob("*.json"))) == 2
    for path in (tmp_path / "p.onnx").glob("*.onnx"):
        onnx.checker.check_model(onnx.load(path))
    for path in (tmp_path / "p.torch").glob("*.py"):
        compile(path.read_text(), path.name, "exec")


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (("--space", "nb202"), 2, "--space nb201"),
        (("--max-params", "1k"), 4, "73,306 params"),
        (("--ops", "nor_conv_3"), 2, "--ops nor_conv_3x3"),
        (("--temperature", "0"), 2, "--temperature 1"),
        (("--max-params", "many"), 2, "500k"),
        (("-n", "0"), 2, "greater than or equal to 1"),
        (("-n", "1000000000"), 2, "10,000,000"),
        (("--export", "tflite"), 2, "onnx or torch"),
        (("--model", "/nowhere"), 3, "with a pool generator for nb201"),
        (("--target", "c10_test", "--data", "/nowhere"), 3, "does not exist"),
    ],
)
def test_bad_requests_write_nothing(
    words: tuple[str, ...], code: int, text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found, said = call(capsys, "generate", "-o", str(tmp_path / "p.parquet"), *words)
    assert found == code
    assert text in json.dumps(said)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_file_is_kept_without_force(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "p.parquet").write_text("mine")
    assert call(capsys, "generate", "-n", "5", "-o", str(tmp_path / "p.parquet"))[0] == 2
    assert (tmp_path / "p.parquet").read_text() == "mine"


def test_a_broken_pool_fails_its_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"space": ["nb201"] * 2, "encoding": [CELL, "|none~0|"]}), tmp_path / "p.parquet")
    code, found = call(capsys, "check", str(tmp_path / "p.parquet"))
    assert code == 5
    assert found["problems"] == ["row 1: no member of nb201: 1 nodes, not 3"]
    pq.write_table(pa.table({"cell": [CELL]}), tmp_path / "q.parquet")
    code, found = call(capsys, "check", str(tmp_path / "q.parquet"))
    assert code == 3
    assert "also space, encoding" in json.dumps(found)


def test_variants_of_members(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = call(capsys, "mutate", CELL, "-n", "3")
    assert (code, found["n"]) == (0, 3)
    code, found = call(capsys, "cross", CELL, OTHER, "-n", "3")
    assert (code, found["n"]) == (0, 3)
    (tmp_path / "partial.json").write_text(json.dumps({"edge 0-1": "skip_connect", "edge 2-3": "none"}))
    code, found = call(capsys, "complete", str(tmp_path / "partial.json"), "-n", "4")
    assert code == 0
    for member in found["members"]:  # type: ignore[attr-defined]
        assert member["encoding"].startswith("|skip_connect~0|")
        assert member["encoding"].endswith("|none~2|")
    (tmp_path / "partial.json").write_text(json.dumps({"edge 0-1": "conv"}))
    assert call(capsys, "complete", str(tmp_path / "partial.json"))[0] == 2
    assert call(capsys, "mutate", "|none~0|")[0] == 4


def test_search_on_a_small_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from genmad.spaces import get_space

    space = get_space("nb201")
    rows = [f"{space.to_text(tuple(w))},{w.count(3) + 0.1 * w.count(2)}" for w in space.grammar().words().tolist()]
    (tmp_path / "nb201.csv").write_text("\n".join(["arch,score", *rows]) + "\n")
    words = ("search", "--data", str(tmp_path), "--target", "score", "--queries", "25", "--reach", "4")
    code, found = call(capsys, *words)
    assert code == 0
    assert found["reached"] is True
    assert found["queries"] == len(found["history"])  # type: ignore[arg-type]
    code, found = call(capsys, "search", "--data", str(tmp_path), "--target", "accuracy")
    assert code == 2
    assert "expected" in json.dumps(found)
