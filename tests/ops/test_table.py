"""The op table that people read against the declarations that the code reads."""

import re

from genmad.ops import OPSET
from genmad.ops.table import PAGE, table


def test_the_op_table_is_what_the_declarations_say() -> None:
    assert PAGE.read_text(encoding="utf-8") == table(), "run: python -m genmad.ops.table --write"


def test_every_op_has_one_row_of_six_cells() -> None:
    rows = re.findall(r"^\| `(\w+)` \|.*$", table(), re.MULTILINE)
    assert rows == list(dict.fromkeys(rows))
    assert set(rows) == set(OPSET)
    for line in table().splitlines():
        if line.startswith("| `"):
            assert len(re.findall(r"(?<!\\)\|", line)) == 7, line


def test_a_row_tells_attributes_with_bounds_and_parameters_with_their_kind() -> None:
    rows = {line.split("`")[1]: line for line in table().splitlines() if line.startswith("| `")}
    assert "**bias**: bool = yes" in rows["Linear"]
    assert "**out_features**: int, at least 1" in rows["Linear"]
    assert "weight, bias?" in rows["Linear"]
    assert "running_mean (buffer)" in rows["BatchNorm"]
    assert "`nearest` or `bilinear` or `bicubic` = nearest" in rows["Resize"]
    assert "| function |" in rows["LoRALinear"]
    assert "| native |" in rows["Relu"]
