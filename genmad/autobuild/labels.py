"""Labels that a user measured: a table of architectures and numbers, checked row by row before anything is learned.

A label table has a column `encoding` (the space's own text) or `hash` (canonical hashes of a pool), and numeric
columns. Rows are named as a text editor counts them: the header is line 1.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from genmad.autobuild.aims import resolve_aim, scaling_notes
from genmad.autobuild.architecture import Floats, LabelledSet
from genmad.autobuild.encodings import Encoding, get_encoding
from genmad.autobuild.equations import parse_equation
from genmad.ir import Diagnostic, GenmadError
from genmad.spaces import SpaceError
from genmad.spaces.tables import csv_rows

HASHES = ("hash", "canonical_hash")
TEXTS = ("encoding", "text", "architecture")
# Columns of a pool that are no targets.
_KNOWN = frozenset({*HASHES, *TEXTS, "space", "provenance", "novel", "log_likelihood", "score", "uncertainty"})
SHOWN = 8
MAX_ROWS = 2_000_000
LOWER = ("lat", "loss", "perplexity", "energy", "params", "flops", "macs", "time", "error", "_ms", "mem_", "fid")


class LabelError(GenmadError):
    """A label table that cannot be used: every problem found, with its rows. Nothing was written."""

    exit_code = 3

    def __init__(self, *diagnostics: Diagnostic) -> None:
        self.diagnostics = diagnostics
        super().__init__("\n".join(str(item) for item in diagnostics))


@dataclass(frozen=True, kw_only=True)
class Labels:
    """What there is to learn from.

    Attributes:
        encoding: of the space.
        data: the labelled architectures; its columns are those of the table.
        lines: the line of each row in the file.
        target: the name or expression that is to be high.
        values: float64[N], its value per row.
        num_unlabelled: members of the pool without a label.
        notes: what is worth knowing, in words.
    """

    encoding: Encoding
    data: LabelledSet
    lines: tuple[int, ...]
    target: str
    values: Floats
    num_unlabelled: int = 0
    notes: tuple[str, ...] = ()


def read_labels(
    path: Path, *, space: str | None, pool: Sequence[Mapping[str, Any]] | None = None, target: str | None = None
) -> Labels:
    """The labels of a CSV file, of the members of `pool` (rows with `space`, `encoding`, `canonical_hash`) if given.

    Raises `LabelError` naming every bad row, `SpaceError`, `EquationError`.
    """
    try:
        rows = csv_rows(path, ())
    except SpaceError as error:
        raise LabelError(error.diagnostic) from error
    if not rows:
        raise LabelError(
            Diagnostic(where=str(path), got="no rows", expected="a header and a row per architecture", fix="")
        )
    if len(rows) > MAX_ROWS:
        raise LabelError(Diagnostic(where=str(path), got=f"{len(rows):,} rows", expected=f"at most {MAX_ROWS:,}"))
    encoding = get_encoding(_space_of(path, space, rows, pool))
    texts = _texts(path, rows, pool, encoding)
    _refuse_repeats(path, texts, encoding)
    columns, lacking = _columns(rows)
    chosen = _target(path, target, columns, list(rows[0]))
    aimed = resolve_aim(chosen, columns, encoding.modules, texts)
    chosen = chosen if aimed is None else aimed.text
    values = _values(path, chosen, columns, lacking)
    data = LabelledSet(
        name=encoding.name, schema=encoding.schema, graphs=tuple(encoding.graph(text) for text in texts),
        groups=np.unique(np.asarray(encoding.keys(texts)), return_inverse=True)[1].astype(np.int64),
        targets=columns, texts=tuple(texts), lower_is_better=frozenset(filter(looks_lower, columns)),
    )  # fmt: skip
    notes = scaling_notes(chosen, columns, aimed)
    if chosen in columns and looks_lower(chosen):
        notes = (f"{chosen} is taken as better when high; for low values write --target=-{chosen}",)
    return Labels(
        encoding=encoding, data=data, lines=tuple(range(2, len(rows) + 2)), target=chosen, values=values, notes=notes,
        num_unlabelled=0 if pool is None else len(pool) - len(rows),
    )  # fmt: skip


def looks_lower(name: str) -> bool:
    """Whether a column's name says that low values are good."""
    return any(part in name.lower() for part in LOWER)


def _space_of(
    path: Path, given: str | None, rows: Sequence[Mapping[str, Any]], pool: Sequence[Mapping[str, Any]] | None
) -> str:
    """The space that the option, the pool or the table's own column names. Raises `LabelError` where they disagree."""
    told = {str(row["space"]) for row in (rows if pool is None else pool) if row.get("space")}
    if len(told) > 1:
        got = f"members of {len(told)} spaces: {', '.join(sorted(told)[:5])}"
        raise LabelError(Diagnostic(where=str(path), got=got, expected="one space", fix="score each space by itself"))
    if given is not None and told and get_encoding(given).name != get_encoding(*told).name:
        got = f"{given}, but the architectures are of {next(iter(told))}"
        raise LabelError(Diagnostic(where="--space", got=got, expected="the same space", fix="leave --space out"))
    if given is None and not told:
        fix = "name it with --space, for example --space nb201"
        raise LabelError(Diagnostic(where=str(path), got="no column space", expected="the space's name", fix=fix))
    return given or next(iter(told))


def _texts(
    path: Path, rows: Sequence[Mapping[str, Any]], pool: Sequence[Mapping[str, Any]] | None, encoding: Encoding
) -> list[str]:
    """The text of every row's architecture. Raises `LabelError` naming the rows that are none."""
    header = list(rows[0])
    named = next((name for name in TEXTS if name in header), None)
    hashed = next((name for name in HASHES if name in header), None)
    if named is not None:
        texts = [str(row[named] or "").strip() for row in rows]
        bad = {i: found[0] for i, text in enumerate(texts) if (found := encoding.problems(text))}
        if bad:
            raise LabelError(_outside(path, bad, texts, encoding))
        return texts
    if hashed is None or pool is None:
        got = f"columns {', '.join(header[:12])}"
        expected = "a column `encoding`" + (" or `hash`" if pool is not None else "")
        fix = "name the column that holds the architectures `encoding`"
        if hashed is not None:
            fix = f"hashes need the pool: genmad score pool.parquet --labels {path}"
        raise LabelError(Diagnostic(where=str(path), got=got, expected=expected, fix=fix))
    known = {str(row.get("canonical_hash")): str(row["encoding"]) for row in pool}
    strays = [i for i, row in enumerate(rows) if str(row[hashed]).strip() not in known]
    if strays:
        got = f"{len(strays)} hashes that no member of the pool has, such as {str(rows[strays[0]][hashed])[:60]!r}"
        fix = "leave these rows out, or give their encodings in a column `encoding`"
        raise LabelError(Diagnostic(where=_lines(path, strays), got=got, expected="hashes of the pool", fix=fix))
    return [known[str(row[hashed]).strip()] for row in rows]


def _outside(path: Path, bad: Mapping[int, str], texts: Sequence[str], encoding: Encoding) -> Diagnostic:
    first = next(iter(bad))
    got = f"{len(bad)} architectures outside the space, first {texts[first][:80]!r}: {bad[first]}"
    fix = "correct or leave out these rows, or name another space with --space"
    return Diagnostic(where=_lines(path, list(bad)), got=got, expected=f"members of {encoding.name}", fix=fix)


def _refuse_repeats(path: Path, texts: Sequence[str], encoding: Encoding) -> None:
    first: dict[str, int] = {}
    again = [(i, first[text]) for i, text in enumerate(texts) if first.setdefault(text, i) != i]
    if again:
        pairs = ", ".join(f"{i + 2} repeats {j + 2}" for i, j in again[:SHOWN])
        more = f" and {len(again) - SHOWN} more" if len(again) > SHOWN else ""
        got, expected = f"an architecture twice: line {pairs}{more}", f"each member of {encoding.name} once"
        fix = "keep one row of each, for example with the mean of its labels"
        raise LabelError(Diagnostic(where=_lines(path, [i for i, _ in again]), got=got, expected=expected, fix=fix))


def _columns(rows: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Floats], dict[str, tuple[list[int], str]]]:
    """Columns of numbers; and of those that have none in some rows, these rows and what stands there."""
    columns: dict[str, Floats] = {}
    lacking: dict[str, tuple[list[int], str]] = {}
    for name in rows[0]:
        if name is None or name in _KNOWN:
            continue
        cells = [str(row[name]).strip() if row[name] is not None else "" for row in rows]
        numbers = np.array([_number(cell) for cell in cells])
        if not np.isfinite(numbers).any():
            continue
        columns[name] = np.where(np.isfinite(numbers), numbers, np.nan)
        bad = np.flatnonzero(~np.isfinite(numbers)).tolist()
        if bad:
            shown = list(dict.fromkeys(cells[i] or "nothing" for i in bad))[:3]
            lacking[name] = (bad, ", ".join(shown))
    return columns, lacking


def _number(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return np.nan


def _target(path: Path, given: str | None, columns: Mapping[str, Floats], header: Sequence[str]) -> str:
    """The target that is meant. Raises `LabelError` where that is unclear or it has no number."""
    if not columns:
        got = f"no number in the columns {', '.join(map(str, header[:12]))}"
        raise LabelError(Diagnostic(where=str(path), got=got, expected="at least one column of finite numbers"))
    if given is not None and given.strip() in header and given.strip() not in columns:
        got, expected = "no finite number in any row", "a finite number in each"
        fix = f"--target with one of {', '.join(list(columns)[:12])}"
        raise LabelError(Diagnostic(where=f"{path}, column {given.strip()}", got=got, expected=expected, fix=fix))
    if given is not None:
        return given.strip()
    if len(columns) > 1:
        names = ", ".join(list(columns)[:12])
        fix = f"--target {next(iter(columns))}"
        raise LabelError(
            Diagnostic(where=str(path), got=f"targets {names}", expected="to know which is meant", fix=fix)
        )
    return next(iter(columns))


def _values(
    path: Path, target: str, columns: Mapping[str, Floats], lacking: Mapping[str, tuple[list[int], str]]
) -> Floats:
    """float64[N]. Raises `LabelError` on rows without a number and on a target that is the same in all rows."""
    equation = parse_equation(target if target not in columns else f"`{target}`", list(columns))
    problems = []
    for name in equation.columns:
        if name in lacking:
            bad, shown = lacking[name]
            fix = "give these labels, or leave the rows out"
            problems.append(
                Diagnostic(
                    where=f"{_lines(path, bad)}, column {name}", got=shown, expected="a finite number", fix=fix
                )
            )  # fmt: skip
    if problems:
        raise LabelError(*problems)
    size = len(next(iter(columns.values())))
    found = equation.evaluate(columns, rows=[f"line {i + 2}" for i in range(size)])
    if size > 1 and np.ptp(found) <= 1e-12 * max(1.0, float(np.abs(found).max())):
        got = f"{target} = {found[0]:g} in all {size} rows"
        fix = "choose another target with --target"
        raise LabelError(Diagnostic(where=str(path), got=got, expected="a target that differs", fix=fix))
    return found


def _lines(path: Path, rows: Sequence[int]) -> str:
    """`labels.csv, lines 3, 9 and 4 more`."""
    shown = ", ".join(str(i + 2) for i in rows[:SHOWN])
    more = f" and {len(rows) - SHOWN} more" if len(rows) > SHOWN else ""
    return f"{path}, line{'s' if len(rows) > 1 else ''} {shown}{more}"
