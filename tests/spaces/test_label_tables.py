"""Benchmark tables: what is read, and what is said of files that do not fit. Data are never shipped."""

import os
from pathlib import Path

import numpy as np
import pytest

from genmad.spaces import SpaceError, get_space
from genmad.spaces.tables import csv_rows, data_folder

CELL = "|nor_conv_3x3~0|+|none~0|avg_pool_3x3~1|+|skip_connect~0|none~1|nor_conv_1x1~2|"


def data() -> Path:
    folder = os.environ.get("GENMAD_DATA")
    if not folder or not (Path(folder) / "nas-bench-201").is_dir():
        pytest.skip("no benchmark tables: set GENMAD_DATA to a folder that holds them")
    return Path(folder)


def test_a_table_is_read_by_column_name(tmp_path: Path) -> None:
    (tmp_path / "nb201.csv").write_text(f"idx,arch,c10_test\n7,{CELL},91.5\n")
    found = get_space("nb201").read_labels(tmp_path)
    assert found is not None
    assert found.column("c10_test").tolist() == [91.5]
    assert get_space("nb201").to_text(tuple(found.words[0].tolist())) == CELL
    with pytest.raises(SpaceError, match="expected one of idx, c10_test"):
        found.column("c100_test")


def test_missing_columns_and_foreign_cells_are_named(tmp_path: Path) -> None:
    (tmp_path / "nb201.csv").write_text("idx,c10_test\n7,91.5\n")
    with pytest.raises(SpaceError, match="expected also arch"):
        get_space("nb201").read_labels(tmp_path)
    (tmp_path / "nb201.csv").write_text(f"arch,c10_test\n{CELL},1\n|conv9x9~0|,2\n")
    with pytest.raises(SpaceError, match=r"nb201\.csv line 3"):
        get_space("nb201").read_labels(tmp_path)


def test_a_missing_folder_and_a_broken_file_are_told(tmp_path: Path) -> None:
    with pytest.raises(SpaceError, match="does not exist"):
        data_folder(tmp_path / "nowhere")
    (tmp_path / "x.csv.gz").write_bytes(b"not gzip")
    with pytest.raises(SpaceError, match="expected a readable table"):
        csv_rows(tmp_path / "x.csv.gz", [])
    assert get_space("nb201").read_labels(tmp_path) is None


def test_nb201_costs_and_classes_are_those_of_the_benchmark() -> None:
    space = get_space("nb201")
    found = space.read_labels(data())
    assert found is not None
    assert len(set(zip(found.keys, found.columns["rep_idx"].tolist(), strict=True))) == len(set(found.keys)) == 6_466
    assert np.abs(space.costs(found.words)[:, 0] - found.columns["params_M"] * 1e6).max() < 0.5


def test_nb101_keys_and_costs_are_those_of_the_benchmark() -> None:
    """The MD5 keys and the parameter counts of the first 2,000 published cells."""
    import csv
    import gzip

    space = get_space("nb101")
    with gzip.open(data() / "nas-bench-101" / "nb101_20k.csv.gz", "rt") as file:
        rows = [row for row, _ in zip(csv.DictReader(file), range(2000), strict=False)]
    names = ("conv3x3-bn-relu", "conv1x1-bn-relu", "maxpool3x3")
    words = np.array(
        [space.from_text(" ".join([r["adj"], *(names[int(o)] for o in r["ops"])])) for r in rows], np.int16
    )
    assert space.keys(words) == [row["hash"] for row in rows]
    assert space.costs(words)[:, 0].tolist() == [int(row["params"]) for row in rows]
