"""Benchmark tables read from a folder that the user gives: CSV or JSON Lines, plain or gzipped. Never shipped."""

import csv
import gzip
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from genmad.ir import Diagnostic
from genmad.spaces.grammar import SpaceError

DATA_VARIABLE = "GENMAD_DATA"
MAX_BYTES = 1 << 30


def data_folder(given: str | Path | None) -> Path | None:
    """The folder of `--data`, else of $GENMAD_DATA; None where neither is set. Raises `SpaceError` if it is missing."""
    text = given or os.environ.get(DATA_VARIABLE)
    if not text:
        return None
    folder = Path(text)
    if not folder.exists():
        where = "--data" if given else f"${DATA_VARIABLE}"
        raise SpaceError(
            Diagnostic(
                where=where, got=f"{folder}, which does not exist", expected="a folder or file of benchmark tables"
            ),
            exit_code=3,
        )
    return folder


def find_table(data: Path, *names: str) -> Path | None:
    """The first of `names` that is a file below `data`, or `data` itself when it is a file."""
    if data.is_file():
        return data
    return next((data / name for name in names if (data / name).is_file()), None)


def open_text(path: Path) -> IO[str]:
    """The text of a file, unzipped where its name ends in .gz. Raises `SpaceError` on one beyond a gigabyte."""
    if path.stat().st_size > MAX_BYTES:
        raise SpaceError(Diagnostic(where=str(path), got="a file beyond 1 GiB", expected="a benchmark table"))
    if path.suffix == ".gz":
        return io.TextIOWrapper(gzip.open(path, "rb"), encoding="utf-8")
    return path.open(encoding="utf-8", newline="")


def csv_rows(path: Path, needed: Sequence[str]) -> list[dict[str, str]]:
    """The rows of a CSV file. Raises `SpaceError` naming the columns that are missing, or what cannot be read."""
    try:
        with open_text(path) as file:
            reader = csv.DictReader(file)
            rows = list(reader)
            header = reader.fieldnames or []
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise _unreadable(path, error) from error
    missing = [name for name in needed if name not in header]
    if missing:
        got = f"columns {', '.join(header) or 'none'}"
        raise SpaceError(Diagnostic(where=str(path), got=got, expected=f"also {', '.join(missing)}"))
    return rows


def json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a JSON Lines file. Raises `SpaceError` naming the line that is none."""
    number = 0
    try:
        with open_text(path) as file:
            for line in file:
                number += 1
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise ValueError("not an object")
                yield row
    except (OSError, ValueError) as error:
        raise _unreadable(path, error, f" line {number}") from error


def float_columns(rows: Sequence[Mapping[str, Any]], skip: Sequence[str]) -> dict[str, np.ndarray]:
    """Every column that is numeric throughout, empty cells as NaN; columns in `skip` are left out."""
    names = [name for name in (rows[0] if rows else {}) if name not in skip]
    out: dict[str, np.ndarray] = {}
    for name in names:
        try:
            out[name] = np.array([float(row[name]) if row[name] not in ("", None) else np.nan for row in rows])
        except (TypeError, ValueError):
            continue
    return out


def _unreadable(path: Path, error: Exception, where: str = "") -> SpaceError:
    got = f"{type(error).__name__}: {error}"
    return SpaceError(Diagnostic(where=f"{path}{where}", got=got, expected="a readable table"))
