"""Target equations: one number per architecture out of the columns of its labels, greater is better.

An equation is text such as `100**acc/log10(lat)`, as in fig. 5 of "Building Optimal Neural Architectures using
Interpretable Knowledge" (CVPR 2024). It is read by Python's grammar and walked by our own rules: numbers, columns,
`+ - * / **` and ten functions, nothing else, and nothing is ever executed. Arithmetic is float64, row by row.
"""

import ast
import difflib
import math
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from genmad.autobuild.architecture import Floats
from genmad.ir import Diagnostic, GenmadError

MAX_CHARS = 400
MAX_DEPTH = 24
MAX_EXPONENT = 100.0
SHOWN_ROWS = 8
Columns = Mapping[str, Floats]

_UNARY: Mapping[str, Callable[[Floats], Floats]] = {
    "sqrt": np.sqrt, "log": np.log, "log2": np.log2, "log10": np.log10, "exp": np.exp, "abs": np.abs,
}  # fmt: skip
_BINARY: Mapping[str, Callable[[Floats, Floats], Floats]] = {"min": np.minimum, "max": np.maximum}
FUNCTIONS = (*_UNARY, *_BINARY)
_OPERATORS: Mapping[type[ast.operator], Callable[[Floats, Floats], Floats]] = {
    ast.Add: np.add, ast.Sub: np.subtract, ast.Mult: np.multiply, ast.Div: np.divide, ast.Pow: np.power,
}  # fmt: skip
ACCEPTED = f"numbers, columns, + - * / ** and {', '.join(FUNCTIONS)}"
# How names tell a unit: what they end in or hold -> unit.
_UNITS = (("_ms", "ms"), ("_frac", "fraction"), ("_pct", "percent"), ("_percent", "percent"), ("_mj", "mJ"),
          ("_mb", "MB"), ("_s", "s"))  # fmt: skip
_QUALITY = ("acc", "top1", "top5", "miou", "pq", "_ap", "test", "val")


class EquationError(GenmadError):
    """An equation that cannot be read, or that has no value on some rows."""

    exit_code = 2

    def __init__(self, *diagnostics: Diagnostic) -> None:
        self.diagnostics = diagnostics
        super().__init__("\n".join(str(item) for item in diagnostics))


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaling:
    """In what unit a column enters an equation; `acc - lat` means something else for 0.78 than for 78.

    Attributes:
        unit: `fraction`, `percent`, `ms`, `mJ`, `MB`, `s`, or `as given` where neither name nor values tell.
        known_by: `name`, `values` or `nothing`.
        low, high: the least and greatest value.
    """

    column: str
    unit: str
    known_by: str
    low: float
    high: float

    @classmethod
    def of(cls, column: str, values: Floats) -> "Scaling":
        """The scaling of a column by its name, else by its values."""
        there = values[np.isfinite(values)]
        low, high = (float(there.min()), float(there.max())) if len(there) else (math.nan, math.nan)
        unit, by = _unit(column.lower(), low, high)
        return cls(column=column, unit=unit, known_by=by, low=low, high=high)

    def __str__(self) -> str:
        return f"{self.column}: {self.unit}, {self.low:.6g} to {self.high:.6g}"


def _unit(name: str, low: float, high: float) -> tuple[str, str]:
    for ending, unit in _UNITS:
        if name.endswith(ending):
            return unit, "name"
    if any(part in name for part in _QUALITY) and low >= 0:
        if high <= 1:
            return "fraction", "values"
        if 1 < high <= 100:
            return "percent", "values"
    # The papers' own columns: `lat`, `latency_gpu` are milliseconds.
    return ("ms", "name") if name.startswith("lat") else ("as given", "nothing")


@dataclass(frozen=True, slots=True, kw_only=True)
class Equation:
    """A parsed equation. Make one with `parse_equation`.

    Attributes:
        text: as it was given.
        columns: the columns that it reads, in order of appearance.
    """

    text: str
    columns: tuple[str, ...]
    _tree: ast.expr = field(repr=False, compare=False)
    _quoted: Mapping[int, str] = field(repr=False, compare=False)

    def evaluate(self, columns: Columns, *, rows: Sequence[str] = (), missing: bool = False) -> Floats:
        """float64[N]: the value of every row.

        `rows` names the rows in messages; by default they are counted from 1. With `missing`, rows where a column is
        NaN get NaN; without, they are refused. Raises `EquationError` naming the rows without a finite value and the
        part of the equation that has none.
        """
        held = {name: np.asarray(columns[name], np.float64) for name in self.columns}
        known = np.all([~np.isnan(values) for values in held.values()], axis=0)
        if not missing and not known.all():
            names = ", ".join(name for name, values in held.items() if np.isnan(values).any())
            raise EquationError(
                Diagnostic(
                    where=_rows(~known, rows), got=f"no value in {names}", expected="a number in every row",
                    fix="give the values, or leave those rows out",
                )
            )  # fmt: skip
        with np.errstate(all="ignore"):
            found = _Walk(self, held, known, rows).value(self._tree)
        return np.where(known, np.broadcast_to(found, known.shape), np.nan).astype(np.float64)

    def scalings(self, columns: Columns) -> tuple[Scaling, ...]:
        """In what unit each column enters."""
        return tuple(Scaling.of(name, np.asarray(columns[name], np.float64)) for name in self.columns)

    def name_of(self, node: ast.Name) -> str:
        """The column of a name in the tree; one in backticks is known by its place."""
        return self._quoted.get(node.col_offset, node.id)


@dataclass(frozen=True, slots=True)
class _Walk:
    """One evaluation: every part is checked as soon as it has values, so that the first bad part is named."""

    equation: Equation
    columns: Columns
    known: np.ndarray
    rows: Sequence[str]

    def value(self, node: ast.expr) -> Floats:
        if isinstance(node, ast.Constant):
            return np.float64(node.value)  # type: ignore[arg-type,return-value]
        if isinstance(node, ast.Name):
            return self._checked(node, self.columns[self.equation.name_of(node)])
        if isinstance(node, ast.UnaryOp):
            inner = self.value(node.operand)
            return -inner if isinstance(node.op, ast.USub) else inner
        if isinstance(node, ast.BinOp):
            return self._checked(node, _OPERATORS[type(node.op)](self.value(node.left), self.value(node.right)))
        assert isinstance(node, ast.Call)
        assert isinstance(node.func, ast.Name)
        parts = [self.value(part) for part in node.args]
        if node.func.id in _UNARY:
            return self._checked(node, _UNARY[node.func.id](parts[0]))
        found = parts[0]
        for part in parts[1:]:
            found = _BINARY[node.func.id](found, part)
        return found

    def _checked(self, node: ast.expr, found: Floats) -> Floats:
        bad = self.known & ~np.isfinite(np.broadcast_to(found, self.known.shape))
        if not bad.any():
            return found
        text = self.equation.text
        part = text[node.col_offset : node.end_col_offset]
        # Of `a/(b - 10)` it is the divisor that one wants to look at.
        at = node.right if isinstance(node, ast.BinOp) else node
        raise EquationError(
            Diagnostic(
                where=_caret(text, at.col_offset), got=f"no finite value of {part} in {_rows(bad, self.rows)}",
                expected="a finite number in every row", fix=_advice(node),
            )
        )  # fmt: skip


def _advice(node: ast.expr) -> str:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
        return "the divisor is zero there: add a small number to it, or leave those rows out"
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow):
        return "scale what is raised or the exponent: float64 ends at 1e308, and a negative number has no root"
    if isinstance(node, ast.Call):
        return "its argument is out of range there: shift it, or leave those rows out"
    return "leave those rows out, or scale the column"


def _rows(bad: np.ndarray, names: Sequence[str]) -> str:
    at = np.flatnonzero(bad)
    shown = ", ".join(names[i] if names else str(i + 1) for i in at[:SHOWN_ROWS].tolist())
    more = f" and {len(at) - SHOWN_ROWS} more" if len(at) > SHOWN_ROWS else ""
    word = "" if names else "rows " if len(at) > 1 else "row "
    return f"{word}{shown}{more}"


def parse_equation(text: str, columns: Sequence[str]) -> Equation:
    """An equation over these columns; a name that is no Python name stands in backticks.

    Raises `EquationError` with a caret under every unknown column and everything that is no arithmetic.

    >>> parse_equation("acc - 0.5*sqrt(lat)", ["acc", "lat"]).columns
    ('acc', 'lat')
    """
    if len(text) > MAX_CHARS:
        raise _refused("equation", f"{len(text):,} characters", f"at most {MAX_CHARS}")
    if not text.isascii() or not text.isprintable():
        at = next(i for i, c in enumerate(text) if not (c.isascii() and c.isprintable()))
        raise _refused(_caret(text, at), f"the character {text[at]!r}", "printable ASCII on one line")
    # Leading blanks would be an indentation to Python, and every place would be off by them.
    text = text.strip()
    quoted = {found.start(): found.group(1) for found in re.finditer(r"`([^`]+)`", text)}
    plain = re.sub(r"`([^`]+)`", lambda found: "x" * len(found.group(0)), text)
    tree = _read(plain, text)
    problems = _Rules(text, frozenset(columns), quoted)
    problems.visit(tree, 0)
    if not problems.found and not problems.used:
        problems.found.append(Diagnostic(where=f"equation {text!r}", got="no column", expected=_one_of(columns)))
    if problems.found:
        raise EquationError(*problems.found)
    return Equation(text=text, columns=tuple(dict.fromkeys(problems.used)), _tree=tree, _quoted=quoted)


def _read(plain: str, text: str) -> ast.expr:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(plain, mode="eval").body
    except (SyntaxError, ValueError) as error:
        at = max(0, (getattr(error, "offset", None) or 1) - 1)
        got = getattr(error, "msg", None) or str(error)
        raise _refused(_caret(text, min(at, len(text))), f"no arithmetic ({got})", ACCEPTED) from None
    except (MemoryError, RecursionError):
        raise _refused("equation", "brackets nested too deeply", f"at most {MAX_DEPTH} levels") from None


class _Rules:
    """Everything in a tree that is not allowed, and the columns it uses."""

    def __init__(self, text: str, columns: frozenset[str], quoted: Mapping[int, str]) -> None:
        self.text, self.columns, self.quoted = text, columns, quoted
        self.found: list[Diagnostic] = []
        self.used: list[str] = []

    def visit(self, node: ast.expr, depth: int) -> None:
        if depth > MAX_DEPTH:
            self._say(node, f"more than {MAX_DEPTH} levels", "a flatter equation")
        elif isinstance(node, ast.Name):
            self._column(node)
        elif isinstance(node, ast.Constant):
            if isinstance(node.value, bool) or not isinstance(node.value, int | float) or not _finite(node.value):
                self._say(node, f"the value {self._part(node)}", "finite numbers")
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
            self.visit(node.operand, depth + 1)
        elif isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
            self._power(node)
            self.visit(node.left, depth + 1)
            self.visit(node.right, depth + 1)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in FUNCTIONS:
            self._arguments(node)
            for part in node.args:
                self.visit(part, depth + 1)
        else:
            self._say(node, f"code: {self._part(node)}", ACCEPTED)

    def _column(self, node: ast.Name) -> None:
        name = self.quoted.get(node.col_offset, node.id)
        if name in self.columns:
            self.used.append(name)
            return
        near = difflib.get_close_matches(name, self.columns, n=3, cutoff=0.4)
        self._say(node, f"an unknown column {name!r}", _one_of(sorted(self.columns)),
                  f"did you mean {' or '.join(near)}?" if near else "")  # fmt: skip

    def _power(self, node: ast.BinOp) -> None:
        power = node.right.operand if isinstance(node.right, ast.UnaryOp) else node.right
        if isinstance(node.op, ast.Pow) and isinstance(power, ast.Constant):
            value = power.value
            if isinstance(value, int | float) and _finite(value) and abs(value) > MAX_EXPONENT:
                self._say(power, f"the exponent {self._part(power)}", f"at most {MAX_EXPONENT:g}")

    def _arguments(self, node: ast.Call) -> None:
        assert isinstance(node.func, ast.Name)
        if node.keywords:
            self._say(node, "a named argument", f"{node.func.id}(...) of plain values")
        least, most = (1, 1) if node.func.id in _UNARY else (2, 8)
        if not least <= len(node.args) <= most:
            expected = "one" if most == 1 else f"{least} to {most}, compared row by row"
            self._say(node, f"{len(node.args)} arguments of {node.func.id}", expected)

    def _part(self, node: ast.expr) -> str:
        part = self.text[node.col_offset : node.end_col_offset]
        return part if len(part) <= 60 else f"{part[:57]}..."

    def _say(self, node: ast.expr, got: str, expected: str, fix: str = "") -> None:
        self.found.append(Diagnostic(where=_caret(self.text, node.col_offset), got=got, expected=expected, fix=fix))


def _finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond float64
        return False


def _refused(where: str, got: str, expected: str) -> EquationError:
    return EquationError(Diagnostic(where=where, got=got, expected=expected))


def _one_of(columns: Sequence[str]) -> str:
    shown = ", ".join(list(columns)[:20]) or "none: the labels have no columns"
    return f"columns {shown}" + (" ..." if len(columns) > 20 else "")


def _caret(text: str, at: int) -> str:
    """The equation with a caret under one place of it; long equations are cut around that place."""
    start = max(0, at - 60)
    shown = text[start : start + 100]
    return f"equation, character {at + 1}\n  {shown}\n  {' ' * (at - start)}^\n "
