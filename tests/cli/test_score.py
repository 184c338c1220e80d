"""`genmad score`, `reduce`, `build` and `generate --within`, as a user types them."""

import json
from pathlib import Path

import numpy as np
import pytest

from genmad.autobuild.encodings import get_encoding
from genmad.cli.app import run
from genmad.sampling.pools.pool_file import read_pool
from genmad.spaces import get_space

LEARN = ("--epochs", "2", "--folds", "2")


def call(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict[str, object]]:
    code = run([*words, "--json"])
    return code, json.loads(capsys.readouterr().out)


def _table(path: Path, space: str, count: int = 24) -> Path:
    """Members with labels that no predictor can learn, so that the real one is trained in no time."""
    rng = np.random.default_rng(0)
    modules = get_encoding(space).modules
    assert modules is not None
    texts = list(dict.fromkeys(
        modules.text([codes[rng.integers(len(codes))].tolist() for codes in modules.codes]) for _ in range(count)
    ))  # fmt: skip
    rows = [f"{text},{value:.4f}" for text, value in zip(texts, rng.normal(90, 1, len(texts)), strict=True)]
    path.write_text("\n".join(["encoding,acc", *rows]) + "\n", encoding="utf-8")
    return path


def test_from_a_pool_to_built_members_that_check_accepts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pool, labels, scores = tmp_path / "pool.parquet", tmp_path / "acc.csv", tmp_path / "scores"
    assert run(["generate", "-n", "30", "--space", "nb201", "--model", "uniform", "-o", str(pool)]) == 0
    rows = read_pool(pool)
    values = np.random.default_rng(0).normal(90, 1, 25)
    pairs = (f"{row['canonical_hash']},{v}" for row, v in zip(rows, values, strict=False))
    labels.write_text("\n".join(["hash,acc", *pairs]), encoding="utf-8")
    capsys.readouterr()
    code, told = call(capsys, "score", str(pool), "--labels", str(labels), "-o", str(scores), *LEARN)
    assert (code, told["space"], told["labels"], told["unlabelled"], told["modules"]) == (0, "nb201", 25, 5, 155)
    assert list(told["correlations"]) == ["hop 0", "hop 1", "hop 2", "hop 3", "hop 4", "prediction"]  # type: ignore[call-overload]

    code, told = call(capsys, "reduce", str(scores), "--top-k", "2", "-o", str(tmp_path / "space.yaml"))
    assert (code, told["modules"], told["size"], told["size_of_space"]) == (0, [2, 2, 2], 8, 15_625)
    built = tmp_path / "built.parquet"
    code, told = call(capsys, "build", str(scores), "-n", "4", "-o", str(built))
    assert code == 0
    predicted = [row["predicted"] for row in told["architectures"]]  # type: ignore[attr-defined]
    assert predicted == sorted(predicted, reverse=True)
    assert [row["score"] for row in read_pool(built)] == predicted
    assert call(capsys, "check", str(built))[1]["num_problems"] == 0

    code, told = call(
        capsys, "generate", "-n", "500", "--space", "nb201", "--model", "uniform", "--within",
        str(tmp_path / "space.yaml"), "-o", str(tmp_path / "inside.parquet"),
    )  # fmt: skip
    assert (code, told["exhausted"]) == (0, True)
    inside = get_space("nb201").keys(
        np.array([get_space("nb201").from_text(row["encoding"]) for row in read_pool(tmp_path / "inside.parquet")])
    )
    assert set(get_encoding("nb201").keys([row["encoding"] for row in read_pool(built)])) <= set(inside)


def test_the_same_seed_writes_the_same_files_for_a_space_that_is_not_registered(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = _table(tmp_path / "measured.csv", "nb_macro")
    for name in ("a", "b"):
        words = ("score", str(table), "--space", "nas-bench-macro", "-o", str(tmp_path / name), "--seed", "3", *LEARN)
        assert call(capsys, *words)[0] == 0
    for path in sorted((tmp_path / "a").rglob("*")):
        other = tmp_path / "b" / path.relative_to(tmp_path / "a")
        assert path.is_dir() or path.read_bytes() == other.read_bytes(), path.name
    code, told = call(
        capsys, "build", str(tmp_path / "a"), "--top-k", "3", "--novel", "-o", str(tmp_path / "x.parquet")
    )
    assert code == 0
    assert told["n"] == 10
    assert not any(row["labelled"] for row in told["architectures"])  # type: ignore[attr-defined]


def _refused(capsys: pytest.CaptureFixture[str], code: int, *words: str) -> str:
    got, told = call(capsys, *words)
    assert got == code
    error = told["error"]
    assert isinstance(error, dict)
    assert error["exit_code"] == code
    return json.dumps(error)


def test_bad_input_is_named_and_nothing_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = _table(tmp_path / "measured.csv", "nb_macro")
    text = table.read_text(encoding="utf-8")
    out = str(tmp_path / "scores")
    base = ("score", str(table), "--space", "nb_macro", "-o", out)
    assert "line 26" in _refused(capsys, 3, *base[:1], _appended(table, text + "2222,3\n"), *base[2:])
    assert "repeats 2" in _refused(capsys, 3, *base[:1], _appended(table, text + text.split("\n")[1] + "\n"), *base[2:])
    assert "line 26" in _refused(capsys, 3, *base[:1], _appended(table, text + "00000000,inf\n"), *base[2:])
    assert "unknown column" in _refused(capsys, 2, *base, "--target", "accuracy")
    assert "divisor" in _refused(capsys, 2, *base, "--target", "acc/(acc - acc)")
    assert "code" in _refused(capsys, 2, *base, "--target", "open('x')")
    assert "--folds" in _refused(capsys, 3, *base, "--folds", "25")
    assert "normalised" in _refused(capsys, 2, *base, "--shift", "strange")
    assert "nb_macro" in _refused(capsys, 4, *base[:2], "--space", "macroo", "-o", out)
    assert "--space" in _refused(capsys, 3, "score", str(table), "-o", out)
    assert "--labels" in _refused(capsys, 2, "score", "pool.parquet", "-o", out)
    assert "writ" in _refused(capsys, 2, *base[:4], "-o", "/proc/scores")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["changed.csv", "measured.csv"]


def _appended(table: Path, text: str) -> str:
    path = table.with_name("changed.csv")
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_a_full_folder_another_space_and_damaged_scores_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("nb_macro", "ofa_mbv3"):
        table = _table(tmp_path / f"{name}.csv", name)
        assert call(capsys, "score", str(table), "--space", name, "-o", str(tmp_path / name), *LEARN)[0] == 0
    macro = tmp_path / "nb_macro"
    assert "--force" in _refused(
        capsys, 2, "score", str(tmp_path / "nb_macro.csv"), "--space", "nb_macro", "-o", str(macro)
    )
    (tmp_path / "ofa_mbv3" / "predictor" / "0").rename(tmp_path / "other")
    (macro / "predictor" / "0").rename(tmp_path / "ofa_mbv3" / "predictor" / "0")
    foreign = _refused(capsys, 3, "build", str(tmp_path / "ofa_mbv3"), "-o", str(tmp_path / "x.parquet"))
    assert "stage" in foreign
    assert "summary.json" in _refused(capsys, 3, "reduce", str(tmp_path), "-o", str(tmp_path / "x.yaml"))
    assert ".yaml" in _refused(capsys, 2, "reduce", str(tmp_path / "ofa_mbv3"), "-o", str(tmp_path / "x.txt"))
    assert call(capsys, "reduce", str(tmp_path / "ofa_mbv3"), "-o", str(tmp_path / "x.yaml"))[1]["size"] == 243
    assert "--force" in _refused(capsys, 2, "reduce", str(tmp_path / "ofa_mbv3"), "-o", str(tmp_path / "x.yaml"))
    assert not (tmp_path / "x.parquet").exists()
