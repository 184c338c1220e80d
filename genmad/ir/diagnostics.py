"""Errors that say where, what was got, what was expected and what to do next."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnostic:
    """One problem, at one place.

    Attributes:
        where: the node, block or file at fault, as the user knows it.
        got: what stands there.
        expected: what would have been accepted.
        fix: what to do or type next; may be empty.
    """

    where: str
    got: str
    expected: str
    fix: str = ""

    def __str__(self) -> str:
        text = f"{self.where}: got {self.got}; expected {self.expected}"
        return f"{text}; {self.fix}" if self.fix else text


class GenmadError(Exception):
    """Base of every error that GenMAD raises on bad input; `exit_code` is what a command returns for it."""

    exit_code = 1


class GraphError(GenmadError):
    """A graph that is not well-formed or not well-typed. `diagnostics` holds every problem found."""

    exit_code = 3

    def __init__(self, *diagnostics: Diagnostic) -> None:
        self.diagnostics = diagnostics
        super().__init__("\n".join(str(item) for item in diagnostics))


class ShapeError(GenmadError):
    """Raised by shape rules. The builder adds the node and raises `GraphError`."""

    def __init__(self, got: str, expected: str, fix: str = "") -> None:
        self.got, self.expected, self.fix = got, expected, fix
        super().__init__(f"got {got}; expected {expected}" + (f"; {fix}" if fix else ""))
