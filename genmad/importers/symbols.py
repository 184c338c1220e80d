"""Compares two traces at different sizes and writes every integer that differs as a polynomial of the symbols."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from genmad.importers.report import UnsupportedError
from genmad.importers.trace import Ref, Trace
from genmad.ir.types import Dim, DType, SymDim, TensorType, evaluate_dim

Sizes = Mapping[str, int]

# Prime sizes of the two traces, by symbol order, chosen so that small polynomials of different symbols never agree at
# both. All odd, so that halving shows as something that no polynomial without a remainder fits.
PRIMES = ((2, 5), (11, 29), (17, 41), (13, 37))


@dataclass(frozen=True, slots=True)
class SymbolicTrace:
    """A trace whose integers are dimensions, with the sizes it was traced at.

    Attributes:
        trace: the first trace with symbolic integers in its records.
        types: one per value; None for a dtype that graphs do not have.
        sizes: symbol -> size, at the first trace.
        other_sizes: the same at the second trace.
    """

    trace: Trace
    types: tuple[TensorType | None, ...]
    sizes: Sizes
    other_sizes: Sizes


class Solver:
    """Finds the simplest polynomial that gives two integers at two assignments of sizes."""

    def __init__(self, sizes: Sizes, other: Sizes) -> None:
        self.sizes, self.other = sizes, other
        symbols = [SymDim.symbol(name) for name in sizes]
        pairs = [a * b for i, a in enumerate(symbols) for b in symbols[i + 1 :]]
        squares = [a * a for a in symbols if str(a) != "batch"]
        self._bases: list[Dim] = [*symbols, *pairs, *squares, *(a * b for a in squares for b in symbols if a != b)]
        self._values = [(b, evaluate_dim(b, sizes), evaluate_dim(b, other)) for b in self._bases]
        self._done: dict[tuple[int, int], Dim | None] = {}

    def __call__(self, first: int, second: int) -> Dim | None:
        if first == second:
            return first
        key = (first, second)
        if key not in self._done:
            self._done[key] = self._solve(first, second)
        return self._done[key]

    def _solve(self, first: int, second: int) -> Dim | None:
        """A sum of two symbols, or factor * basis + rest: no rest first, then the smallest."""
        found: list[tuple[int, int, Dim]] = []
        for rank, (basis, at_first, at_second) in enumerate(self._values):
            factor, left = divmod(second - first, at_second - at_first)
            rest = first - factor * at_first
            if left == 0 and (rest == 0 or abs(factor) <= 4):
                found.append((abs(rest), rank, basis * factor + rest))
        if not any(rest == 0 for rest, _, _ in found):
            for (a, *at_a), (b, *at_b) in itertools.combinations(self._values[: len(self.sizes)], 2):
                if (at_a[0] + at_b[0], at_a[1] + at_b[1]) == (first, second):
                    return a + b
        if not found:
            return self._floor(first, second)
        return min(found, key=lambda item: item[:2])[2]

    def _floor(self, first: int, second: int) -> Dim | None:
        """floor((symbol + shift) / divisor): what strided convolutions leave of a length."""
        for basis, at_first, at_second in self._values[: len(self.sizes)]:
            for divisor in (2, 4, 8, 16, 320):
                for shift in range(divisor):
                    if ((at_first + shift) // divisor, (at_second + shift) // divisor) == (first, second):
                        return (basis + shift) // divisor
        return None


def trace_type(shape: Sequence[Dim], dtype: torch.dtype) -> TensorType | None:
    name = str(dtype).removeprefix("torch.").replace("complex128", "complex64")  # graphs have one complex type
    return TensorType(DType(name), tuple(shape)) if name in set(DType) else None


def merge_traces(first: Trace, second: Trace, sizes: Sizes, other: Sizes) -> SymbolicTrace:
    """One symbolic trace of two concrete ones. Raises `UnsupportedError` when they ran different code."""
    if len(first.records) != len(second.records) or len(first.values) != len(second.values):
        raise UnsupportedError(
            [f"the code runs {len(first.records)} or {len(second.records)} functions, by input size"]
        )
    solve = Solver(sizes, other)
    notes: list[str] = []
    records = []
    for a, b in zip(first.records, second.records, strict=True):
        if a.target != b.target or a.outputs != b.outputs:
            raise UnsupportedError([f"the code runs {a.target} or {b.target}, by input size"])
        where = f"{a.target} in {first.calls[a.call].path or 'the model'}" if first.calls else a.target
        args = _merge(a.args, b.args, solve, where, notes)
        kwargs = _merge(dict(a.kwargs), dict(b.kwargs), solve, where, notes)
        records.append(replace(a, args=args, kwargs=kwargs))
    types = []
    for x, y in zip(first.values, second.values, strict=True):
        shape = [
            _solve_or_note(p, q, solve, f"shape of {x.name or 'a value'}", notes)
            for p, q in zip(x.shape, y.shape, strict=True)
        ]
        types.append(trace_type(shape, x.dtype))
    merged = Trace(first.values, records, first.calls, first.outputs, [*first.notes, *dict.fromkeys(notes)])
    return SymbolicTrace(merged, tuple(types), sizes, other)


def _solve_or_note(first: int, second: int, solve: Solver, where: str, notes: list[str]) -> Dim:
    if first == second:
        return first
    found = solve(first, second)
    if found is None:
        notes.append(f"{where}: {first} is kept although it depends on the input size")
        return first
    return found


def _merge(first: Any, second: Any, solve: Solver, where: str, notes: list[str]) -> Any:
    if isinstance(first, bool) or first is None or isinstance(first, (str, Ref, torch.dtype, torch.device)):
        if first != second:
            raise UnsupportedError([f"{where}: {first!r} or {second!r}, by input size"])
        return first
    if isinstance(first, int) and isinstance(second, int):
        return _solve_or_note(first, second, solve, where, notes)
    if isinstance(first, float) or isinstance(second, float):
        if first != second and first == first:
            notes.append(f"{where}: {first} is kept although it depends on the input size")
        return first
    if isinstance(first, (tuple, list)) and isinstance(second, (tuple, list)) and len(first) == len(second):
        return tuple(_merge(a, b, solve, where, notes) for a, b in zip(first, second, strict=True))
    if isinstance(first, dict) and isinstance(second, dict) and first.keys() == second.keys():
        return {key: _merge(value, second[key], solve, where, notes) for key, value in first.items()}
    if isinstance(first, slice) and isinstance(second, slice):
        ends = [_merge(getattr(first, k), getattr(second, k), solve, where, notes) for k in ("start", "stop", "step")]
        return slice(*ends)
    if type(first) is type(second):
        return first
    raise UnsupportedError([f"{where}: arguments of two kinds, by input size"])


def at_sizes(tree: Any, sizes: Sizes) -> Any:
    """`tree` with each dimension evaluated."""
    if isinstance(tree, SymDim):
        return evaluate_dim(tree, sizes)
    if isinstance(tree, (tuple, list)):
        return tuple(at_sizes(item, sizes) for item in tree)
    if isinstance(tree, dict):
        return {key: at_sizes(item, sizes) for key, item in tree.items()}
    if isinstance(tree, slice):
        return slice(*(at_sizes(getattr(tree, key), sizes) for key in ("start", "stop", "step")))
    return tree


def symbols_in(tree: Any) -> Iterable[str]:
    if isinstance(tree, SymDim):
        yield from tree.symbols
    elif isinstance(tree, (tuple, list)):
        for item in tree:
            yield from symbols_in(item)
