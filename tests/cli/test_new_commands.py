"""What a stranger meets in `zoo`, `generate`, `mutate`, `complete`, `check` and `eval list`: answers and errors."""

import json
from pathlib import Path

import pytest

from genmad.cli.app import run
from genmad.data.corpus import save
from tests.data.test_corpus import record

EMPTY = "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|"
# No account, root included, can make a folder here.
UNWRITABLE = Path("/proc")


def call(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict[str, object]]:
    code = run([*words, "--json"])
    return code, json.loads(capsys.readouterr().out)


def error(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict[str, str]]:
    """The code and the message, none of whose four parts is empty."""
    code, found = call(capsys, *words)
    told: dict[str, str] = found["error"]  # type: ignore[assignment]
    assert all(told[part] for part in ("where", "got", "expected", "fix")), told
    return code, told


def corpus(folder: Path) -> str:
    save([record(1), record(2)], [], folder)
    return str(folder)


def test_zoo_show_prints_its_json_on_stdout(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = call(capsys, "zoo", "show", corpus(tmp_path / "c"))
    assert (code, found["graphs"]) == (0, 2)


def test_a_probe_folder_in_use_is_a_usage_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    code, told = error(
        capsys, "zoo", "probes", corpus(tmp_path / "c"), "-o", str(tmp_path / "out"), "--kind", "masked-op"
    )
    assert (code, told["got"]) == (2, "it is in use")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["mine"]


@pytest.mark.skipif(not UNWRITABLE.is_dir(), reason="this system has no /proc")
def test_a_place_that_cannot_be_written_to_is_told_before_the_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def worked(*_: object, **__: object) -> None:
        raise AssertionError("work began")

    monkeypatch.setattr("genmad.zoo.build.build", worked)
    monkeypatch.setattr("genmad.data.probes.derive", worked)
    monkeypatch.setattr("genmad.sampling.pools.load_law", worked)
    (tmp_path / "models").mkdir()
    there = str(UNWRITABLE / "x")
    for words in (
        ("zoo", "build", "--sources", "pyg", "-o", there),
        ("zoo", "add", str(tmp_path / "models"), "-o", there),
        ("zoo", "probes", corpus(tmp_path / "c"), "--kind", "graph", "-o", there),
        ("generate", "-n", "5", "-o", f"{there}.parquet"),
    ):
        code, told = error(capsys, *words)
        assert code == 2
        assert "cannot be written to" in told["got"]


def test_eval_list_is_json_too(capsys: pytest.CaptureFixture[str]) -> None:
    code, found = call(capsys, "eval", "list")
    assert code == 0
    assert {"edits", "timing"} <= set(found["evaluations"])  # type: ignore[call-overload]


def test_no_variant_at_all_is_no_success(capsys: pytest.CaptureFixture[str]) -> None:
    assert error(capsys, "mutate", EMPTY, "--ops", "none")[0] == 5


def test_fewer_variants_than_asked_for_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["mutate", EMPTY, "--ops", "none,skip_connect", "-n", "50"]) == 0
    printed = capsys.readouterr()
    assert "asked for 50, found" in printed.err
    assert 0 < len(printed.out.splitlines()) < 50


@pytest.mark.parametrize(
    ("words", "fix"),
    [
        (("complete",), "--steps --space nb201"),
        (("complete", "absent.json"), "--steps"),
        (("complete", "array.json"), "step"),
        (("complete", "other.json"), "--steps --space nb201"),
        (("generate", "--invert", "-o", "p.parquet"), "--target COLUMN"),
        (("generate", "-o", "p.csv"), "p.parquet"),
        (("generate", "-o", "folder.parquet", "--force"), "another name"),
        (("generate", "--max-params", "many", "-o", "p.parquet"), "--max-params 1M"),
        (("generate", "--export", "tflite", "-o", "p.parquet"), "--export onnx"),
        (("check", "p.parquet", "--level", "3"), "leave --level out"),
        (("inspect", "timm:resnet18", "--input", "x=1x3x32x32"), "leave --input out"),
    ],
)
def test_a_usage_error_says_what_to_type(
    words: tuple[str, ...],
    fix: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "array.json").write_text("[1]")
    (tmp_path / "other.json").write_text('{"edge 0-9": "none"}')
    (tmp_path / "folder.parquet").mkdir()
    before = sorted(tmp_path.rglob("*"))
    code, told = error(capsys, *words)
    assert code == 2
    assert fix in told["fix"]
    assert sorted(tmp_path.rglob("*")) == before


def test_the_model_argument_names_every_kind_of_source(capsys: pytest.CaptureFixture[str]) -> None:
    from genmad.importers.catalog import CATALOGUES

    assert run(["inspect", "--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"{library}:NAME" in text for library in CATALOGUES)
