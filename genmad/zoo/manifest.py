"""A manifest of measured figures: `path,label...` as CSV with a header, or one JSON object with `path` a line."""

import csv
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from genmad.importers.report import SourceError
from genmad.ir import Diagnostic

MAX_BYTES = 64 * 2**20
MAX_LABELS = 64
# Columns that say something other than a measured figure.
WORDS = ("family", "name", "inputs")
NAMES = ("manifest.csv", "manifest.jsonl")


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One line.

    Attributes:
        path: of the model below the zoo's folder, with slashes; or `module:function`.
        labels: name -> measured figure.
        words: `family`, `name`, `inputs` where the line says them.
    """

    path: str
    labels: Mapping[str, float]
    words: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The lines that can be used, and (what, why) of those that cannot."""

    entries: Mapping[str, Entry] = field(default_factory=dict)
    refused: tuple[tuple[str, str], ...] = ()


def find_manifest(folder: Path) -> Path | None:
    """The manifest that stands in the folder under its usual name."""
    return next((folder / name for name in NAMES if (folder / name).is_file()), None)


def read_manifest(path: Path) -> Manifest:
    """Reads a manifest; bad lines are refused one by one.

    Raises `SourceError` for a file that cannot be read at all.
    """
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise _unreadable(path, f"{size} bytes", f"at most {MAX_BYTES} bytes")
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(path, str(error)[:200], "a CSV or JSONL file") from error
    lines = _from_jsonl(text) if path.suffix == ".jsonl" else _from_csv(text, path)
    entries: dict[str, Entry] = {}
    refused = []
    for number, raw in lines:
        where = f"{path.name} line {number}"
        try:
            entry = _entry(raw)
        except ValueError as error:
            refused.append((where, str(error)))
            continue
        if entry.path in entries:
            refused.append((where, f"{entry.path} stands in it twice; the first line counts"))
        else:
            entries[entry.path] = entry
    return Manifest(entries=entries, refused=tuple(refused))


def _unreadable(path: Path, got: str, expected: str) -> SourceError:
    fix = "write a header `path,accuracy` and one line for each model"
    return SourceError(Diagnostic(where=f"--manifest {path}", got=got, expected=expected, fix=fix))


def _from_csv(text: str, path: Path) -> Iterator[tuple[int, Any]]:
    reader = csv.DictReader(text.splitlines())
    if "path" not in (reader.fieldnames or ()):
        got = f"columns {', '.join(reader.fieldnames or ()) or 'none'}"
        raise _unreadable(path, got[:200], "a header with the column path")
    for row in reader:
        yield reader.line_num, {key: value for key, value in row.items() if value not in (None, "")}


def _from_jsonl(text: str) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except (ValueError, RecursionError):
                yield number, None


def _entry(raw: Any) -> Entry:
    """Raises `ValueError` saying what is wrong."""
    if not isinstance(raw, dict) or None in raw:
        raise ValueError("a line that is no object" if not isinstance(raw, dict) else "more fields than columns")
    path = raw.get("path")
    if not isinstance(path, str) or not path.strip():
        raise ValueError("no path")
    if len(raw) > MAX_LABELS:
        raise ValueError(f"{len(raw)} fields; expected at most {MAX_LABELS}")
    words = {key: str(raw[key])[:200] for key in WORDS if key in raw}
    labels = {str(key): _figure(key, value) for key, value in raw.items() if key not in ("path", *WORDS)}
    return Entry(path=checked_path(path.strip()), labels=labels, words=words)


def _figure(key: str, value: Any) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{key} is {str(value)[:40]!r}; expected a number")
    return number


def checked_path(text: str) -> str:
    """A path below the zoo's folder in its plain form, or an entry point as it is.

    Raises `ValueError` for one that leads out of it.

    >>> checked_path("./a/b.onnx")
    'a/b.onnx'
    """
    if ":" in text and "/" not in text and "\\" not in text:
        return text
    path = PurePosixPath(text.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or (len(text) > 1 and text[1] == ":"):
        raise ValueError(f"{text[:80]} leads out of the folder")
    return str(path)
