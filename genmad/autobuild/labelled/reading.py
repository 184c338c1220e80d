"""What the sources share: tables that must be there, classes as numbers, chains of layers."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from genmad.autobuild.architecture import ArchGraph, Floats, Ints
from genmad.ir import Diagnostic
from genmad.spaces.grammar import SpaceError
from genmad.spaces.space import LabelTable
from genmad.spaces.tables import find_table, json_lines

LOWER_IS_BETTER = ("latency", "energy", "loss", "perplexity", "params", "flops", "macs", "gpu_ms", "cpu_ms", "mem_",
                   "time", "gpu_energy", "cpu_energy")  # fmt: skip


def table_path(data: Path, original: str, *names: str) -> Path:
    """The first of these files below `data`. Raises `SpaceError` that says where the public original is."""
    path = find_table(data, *names)
    if path is None:
        expected = f"a table made from {original}"
        raise SpaceError(Diagnostic(where=str(data), got=f"no {' or '.join(names)}", expected=expected))
    return path


def present(table: LabelTable | None, name: str, data: Path, original: str) -> LabelTable:
    """A space's own table. Raises `SpaceError` where it is missing or empty."""
    if table is None or not len(table.words):
        got = f"no table of {name}" if table is None else f"an empty table {table.path}"
        raise SpaceError(Diagnostic(where=str(data), got=got, expected=f"one made from {original}"))
    return table


def bad_row(path: Path, line: int, error: Exception, expected: str) -> SpaceError:
    """The error of a row that is no member."""
    got = f"{type(error).__name__}: {error}"
    return SpaceError(Diagnostic(where=f"{path} line {line}", got=got, expected=expected))


def class_numbers(keys: Sequence[str]) -> Ints:
    """int64[N]: equal where keys are."""
    return np.unique(np.asarray(keys), return_inverse=True)[1].astype(np.int64)


def chain(features: Sequence[Sequence[int]], stages: Sequence[int]) -> ArchGraph:
    """Layers one after another."""
    at = np.arange(len(features) - 1)
    return ArchGraph(
        features=np.array(features, np.int64), edges=np.stack([at, at + 1], axis=1).astype(np.int64),
        stages=np.array(stages, np.int64),
    )  # fmt: skip


def present_rows(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON Lines table. Raises `SpaceError` on an empty one."""
    rows = list(json_lines(path))
    if not rows:
        raise SpaceError(Diagnostic(where=str(path), got="an empty table", expected="one architecture per line"))
    return rows


def number_columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, Floats]:
    """Every column of JSON rows that holds numbers, NaN where a row has none; truth values are not numbers."""
    names = dict.fromkeys(name for row in rows for name, value in row.items() if _is_number(value))
    return {
        name: np.array([float(row[name]) if _is_number(row.get(name)) else np.nan for row in rows]) for name in names
    }


def lower_is_better(columns: Sequence[str]) -> frozenset[str]:
    """The columns whose small values are good, by their names."""
    return frozenset(name for name in columns if any(part in name.lower() for part in LOWER_IS_BETTER))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
