"""Label tables of users: what is read, and every kind of bad row named with its line."""

from pathlib import Path

import numpy as np
import pytest

from genmad.autobuild.equations import EquationError
from genmad.autobuild.labels import LabelError, read_labels
from genmad.autobuild.scoring import check_enough, group_folds
from genmad.spaces import get_space

GOOD = ("22222222,91.5,10", "22222221,92.0,12", "00000000,45.5,3", "11111111,88.25,6")


def _table(tmp_path: Path, *rows: str, header: str = "encoding,acc,lat_ms") -> Path:
    path = tmp_path / "labels.csv"
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


def test_a_table_is_read_with_its_target(tmp_path: Path) -> None:
    found = read_labels(_table(tmp_path, *GOOD), space="nb_macro", target="acc")
    assert found.data.texts == ("22222222", "22222221", "00000000", "11111111")
    assert found.values.tolist() == [91.5, 92.0, 45.5, 88.25]
    assert found.data.lower_is_better == {"lat_ms"}
    assert found.notes == ()


def test_a_target_may_be_arithmetic(tmp_path: Path) -> None:
    found = read_labels(_table(tmp_path, *GOOD), space="nb_macro", target="acc/lat_ms")
    assert found.values == pytest.approx([9.15, 92 / 12, 45.5 / 3, 88.25 / 6])


def test_a_cost_as_target_is_said_to_be_taken_high(tmp_path: Path) -> None:
    (note,) = read_labels(_table(tmp_path, *GOOD), space="nb_macro", target="lat_ms").notes
    assert "--target=-lat_ms" in note


def _complaint(tmp_path: Path, *rows: str, target: str | None = "acc", header: str = "encoding,acc,lat_ms") -> str:
    with pytest.raises(LabelError) as caught:
        read_labels(_table(tmp_path, *rows, header=header), space="nb_macro", target=target)
    assert caught.value.exit_code == 3
    assert all(item.fix or "column of finite" in item.expected for item in caught.value.diagnostics)
    return str(caught.value)


def test_bad_rows_are_named_by_line(tmp_path: Path) -> None:
    assert "lines 6, 7" in (text := _complaint(tmp_path, *GOOD, "12121212,,1", "12121211,nan,2"))
    assert "column acc" in text
    assert "line 6" in _complaint(tmp_path, *GOOD, "12121212,inf,1")
    assert "line 6" in _complaint(tmp_path, *GOOD, "12121212,about 90,1")
    assert "6 repeats 3" in _complaint(tmp_path, *GOOD, "22222221,92.1,12")
    text = _complaint(tmp_path, *GOOD, "1212121,90,1", "3333333x,90,1")
    assert "lines 6, 7" in text
    assert "2 architectures outside the space" in text


def test_constant_missing_and_unclear_targets_are_refused(tmp_path: Path) -> None:
    assert "in all 3 rows" in _complaint(tmp_path, "22222222,9,1", "11111111,9,2", "00000000,9,3")
    assert "no finite number in any row" in _complaint(tmp_path, "22222222,,1", "11111111,nan,2")
    assert "--target acc" in _complaint(tmp_path, *GOOD, target=None)
    assert "encoding" in _complaint(tmp_path, *GOOD, header="name,acc,lat_ms")
    assert "no number" in _complaint(tmp_path, "22222222", "11111111", header="encoding", target=None)


@pytest.mark.parametrize(
    ("target", "words"),
    [("accuracy", "did you mean acc"), ("acc/(lat_ms - 10)", "line 2"), ("__import__('os')", "code")],
)
def test_bad_equations_name_the_place(tmp_path: Path, target: str, words: str) -> None:
    with pytest.raises(EquationError, match=words):
        read_labels(_table(tmp_path, *GOOD), space="nb_macro", target=target)


def test_unreadable_and_empty_tables_are_refused(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match="FileNotFoundError"):
        read_labels(tmp_path / "none.csv", space="nb_macro")
    with pytest.raises(LabelError, match="no rows"):
        read_labels(_table(tmp_path), space="nb_macro")


def _pool() -> list[dict[str, str]]:
    space = get_space("nb201")
    words = space.sample(np.random.default_rng(0), 4)
    return [
        {"space": "nb201", "encoding": space.to_text(tuple(word)), "canonical_hash": key}
        for word, key in zip(words.tolist(), space.hashes(words), strict=True)
    ]


def test_labels_find_their_members_in_the_pool_by_hash(tmp_path: Path) -> None:
    pool = _pool()
    path = _table(tmp_path, *(f"{row['canonical_hash']},{i}" for i, row in enumerate(pool[:3])), header="hash,acc")
    found = read_labels(path, space=None, pool=pool)
    assert found.encoding.name == "nb201"
    assert found.data.texts == tuple(row["encoding"] for row in pool[:3])
    assert found.num_unlabelled == 1


def test_hashes_that_no_member_has_and_mixed_spaces_are_refused(tmp_path: Path) -> None:
    pool = _pool()
    path = _table(tmp_path, f"{pool[0]['canonical_hash']},1", "beef,2", header="hash,acc")
    with pytest.raises(LabelError, match="line 3"):
        read_labels(path, space=None, pool=pool)
    with pytest.raises(LabelError, match="leave --space out"):
        read_labels(path, space="nb101", pool=pool)
    with pytest.raises(LabelError, match="2 spaces"):
        read_labels(path, space=None, pool=[*pool, {"space": "nb101", "encoding": "", "canonical_hash": ""}])
    with pytest.raises(LabelError, match="hashes need the pool"):
        read_labels(path, space="nb201")


def test_fewer_labels_than_folds_are_refused_with_what_is_needed(tmp_path: Path) -> None:
    found = read_labels(_table(tmp_path, *GOOD), space="nb_macro", target="acc")
    with pytest.raises(LabelError, match="label 6 more"):
        check_enough(found, 3)
    rows = [f"222{a}{b}{c}22,{a + b + c},{a}" for a in range(3) for b in range(3) for c in range(3)]
    many = read_labels(_table(tmp_path, *rows), space="nb_macro", target="acc")
    check_enough(many, 5)
    with pytest.raises(LabelError, match="--folds"):
        check_enough(many, 27)


def test_rows_of_one_class_never_stand_in_two_folds() -> None:
    groups = np.random.default_rng(0).integers(0, 30, 200)
    folds = group_folds(groups, 5, seed=1)
    assert all(len(set(folds[groups == group].tolist())) == 1 for group in set(groups.tolist()))
    assert np.bincount(folds, minlength=5).min() > 30
    assert (folds != group_folds(groups, 5, seed=2)).any()
