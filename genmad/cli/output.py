"""Where a command's words go: results on stdout, progress and errors on stderr; with --json one object on stdout."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from genmad.ir.diagnostics import GenmadError


def emit_json(data: Mapping[str, Any]) -> None:
    """The one object on stdout."""
    sys.stdout.write(json.dumps(data, indent=2, default=str) + "\n")
    sys.stdout.flush()


def console(*, stderr: bool = False) -> Console:
    """A console; where it is no terminal, lines may be as long as they are."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    return Console(stderr=stderr, highlight=False, soft_wrap=True, width=None if stream.isatty() else 1000)


def show(*parts: RenderableType) -> None:
    """Prints lines and trees on stdout; plain text is not read as markup."""
    screen = console()
    for part in parts:
        screen.print(part, markup=False)


def warn(text: str) -> None:
    """A loud line on stderr."""
    console(stderr=True).print(text, style="bold yellow", markup=False)


def show_error(error: GenmadError) -> None:
    """Where, got, expected and fix, on stderr."""
    screen = console(stderr=True)
    found = getattr(error, "diagnostic", None)
    items = (found,) if found is not None else getattr(error, "diagnostics", ())
    if not items:
        screen.print(f"error: {error}", style="red", markup=False)
    for item in items:
        screen.print(f"error: {item.where}", style="bold red", markup=False)
        screen.print(f"  got:      {item.got}", markup=False)
        screen.print(f"  expected: {item.expected}", markup=False)
        if item.fix:
            screen.print(f"  fix:      {item.fix}", markup=False)


class Progress:
    """A spinner on stderr that names the phase; silent where stderr is no terminal."""

    def __init__(self) -> None:
        self._status: Any = None

    def phase(self, name: str) -> None:
        if self._status is not None:
            self._status.update(f"{name} ...")

    @contextlib.contextmanager
    def running(self, first: str) -> Iterator[Progress]:
        if not sys.stderr.isatty():
            yield self
            return
        with console(stderr=True).status(f"{first} ...") as status:
            self._status = status
            yield self
        self._status = None


@contextlib.contextmanager
def quiet_stdout(active: bool) -> Iterator[None]:
    """While active, what libraries print goes to stderr, so that stdout holds the JSON object alone."""
    if not active:
        yield
        return
    with contextlib.redirect_stdout(sys.stderr):
        yield
