"""Dimensions, shapes and tensor types. A dimension is an integer or a polynomial in named symbols."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import cache
from math import prod

from genmad.ir.diagnostics import ShapeError

Monomial = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SymDim:
    """A dimension that depends on symbols: a polynomial such as `2*batch*seq + 1`.

    Attributes:
        terms: sorted pairs of a sorted tuple of symbols and a nonzero coefficient. A symbol is a name (`batch`)
            or a division that could not be resolved, `floor(POLYNOMIAL/INT)`.
    """

    terms: tuple[tuple[Monomial, int], ...]

    @staticmethod
    def symbol(name: str) -> "SymDim":
        return SymDim((((name,), 1),))

    def __add__(self, other: "Dim") -> "Dim":
        return _collect([*_terms(self), *_terms(other)])

    __radd__ = __add__

    def __neg__(self) -> "Dim":
        return self * -1

    def __sub__(self, other: "Dim") -> "Dim":
        return self + (-1 * other)

    def __rsub__(self, other: "Dim") -> "Dim":
        return (-1 * self) + other

    def __mul__(self, other: "Dim") -> "Dim":
        pairs = [(tuple(sorted(a + b)), x * y) for a, x in _terms(self) for b, y in _terms(other)]
        return _collect(pairs)

    __rmul__ = __mul__

    def __floordiv__(self, other: "Dim") -> "Dim":
        exact = divide_exactly(self, other)
        if exact is not None:
            return exact
        if not isinstance(other, int) or other < 1:
            return SymDim.symbol(f"floor({self}/{other})")
        # One text for one value: whole multiples leave the division, floor((seq-4)/4) is floor(seq/4) - 1.
        whole = _collect((mono, factor // other) for mono, factor in self.terms if not mono or factor % other == 0)
        rest = self - whole * other
        return whole + SymDim.symbol(f"floor({rest}/{other})")

    def __rfloordiv__(self, other: "Dim") -> "Dim":
        return SymDim.symbol(f"floor({other}/{self})")

    @property
    def symbols(self) -> frozenset[str]:
        """Names of the symbols, also those inside unresolved divisions."""
        return frozenset(re.findall(r"[A-Za-z_]\w*", " ".join(s for mono, _ in self.terms for s in mono))) - {"floor"}

    def __str__(self) -> str:
        parts = []
        for mono, factor in self.terms:
            words = list(mono) if factor in (1, -1) and mono else [str(abs(factor)), *mono]
            parts.append(("-" if factor < 0 else "+") + "*".join(words))
        return "".join(parts).removeprefix("+")

    __repr__ = __str__


Dim = int | SymDim


def _terms(dim: Dim) -> tuple[tuple[Monomial, int], ...]:
    if isinstance(dim, SymDim):
        return dim.terms
    return (((), dim),) if dim else ()


def _collect(pairs: Iterable[tuple[Monomial, int]]) -> Dim:
    total: dict[Monomial, int] = {}
    for mono, factor in pairs:
        total[mono] = total.get(mono, 0) + factor
    terms = tuple(sorted((mono, factor) for mono, factor in total.items() if factor))
    if not terms:
        return 0
    if terms == (((), terms[0][1]),):
        return terms[0][1]
    return SymDim(terms)


def divide_exactly(dim: Dim, by: Dim) -> Dim | None:
    """`dim / by` when `by` is an integer or a single term that divides every term of `dim`, else None."""
    if by == dim:
        return 1
    divisor = _terms(by)
    if len(divisor) != 1:
        return None
    by_mono, by_factor = divisor[0]
    out = []
    for mono, factor in _terms(dim):
        rest = list(mono)
        for symbol in by_mono:
            if symbol not in rest:
                return None
            rest.remove(symbol)
        if factor % by_factor:
            return None
        out.append((tuple(rest), factor // by_factor))
    return _collect(out)


def product(dims: Iterable[Dim]) -> Dim:
    return prod(dims, start=1)


def _nested(depth: int) -> str:
    """Pattern of text with balanced parentheses up to a depth: each strided layer over a symbol adds a level."""
    return rf"(?:[^()]|\({_nested(depth - 1)}\))*" if depth else "[^()]*"


_ATOM = rf"floor\({_nested(20)}\)|[A-Za-z_]\w*|\d+"


@cache
def parse_dim(text: str) -> Dim:
    """The inverse of `str(dim)`: `parse_dim("2*batch*seq+1")`. Raises `ShapeError` on anything else."""
    bare = text.replace(" ", "")
    if not re.fullmatch(rf"[+-]?(?:{_ATOM})(?:[*](?:{_ATOM}))*(?:[+-](?:{_ATOM})(?:[*](?:{_ATOM}))*)*", bare):
        raise ShapeError(repr(text), "a dimension such as 12, batch or 2*batch*seq+1")
    total: Dim = 0
    for sign, term in re.findall(rf"([+-]?)((?:{_ATOM})(?:[*](?:{_ATOM}))*)", bare):
        value: Dim = -1 if sign == "-" else 1
        for atom in re.findall(_ATOM, term):
            value = value * (int(atom) if atom.isdigit() else SymDim.symbol(atom))
        total = total + value
    return total


def evaluate_dim(dim: Dim, sizes: Mapping[str, int]) -> int:
    """The integer value of `dim` with each symbol replaced by `sizes[symbol]`."""
    total = 0
    for mono, factor in _terms(dim):
        for symbol in mono:
            inner = re.fullmatch(r"floor\((.*)/([^/]*)\)", symbol)
            if inner:
                top, bottom = (evaluate_dim(parse_dim(part), sizes) for part in inner.groups())
                factor *= top // bottom
            else:
                factor *= sizes[symbol]
        total += factor
    return total


Shape = tuple[Dim, ...]


class DType(str, Enum):
    """Element types, named as torch names them."""

    FLOAT32 = "float32"
    FLOAT64 = "float64"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"
    INT64 = "int64"
    INT32 = "int32"
    INT16 = "int16"
    INT8 = "int8"
    UINT8 = "uint8"
    UINT16 = "uint16"
    UINT32 = "uint32"
    UINT64 = "uint64"
    BOOL = "bool"
    COMPLEX64 = "complex64"

    @property
    def is_float(self) -> bool:
        return self.value.startswith(("float", "bfloat"))

    @property
    def is_integer(self) -> bool:
        return self.value.startswith(("int", "uint"))

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, slots=True)
class TensorType:
    """The dtype and shape of a value; prints as `float32[batch,seq,768]`."""

    dtype: DType
    shape: Shape

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def numel(self) -> Dim:
        return product(self.shape)

    def with_shape(self, shape: Iterable[Dim]) -> "TensorType":
        return TensorType(self.dtype, tuple(shape))

    def with_dtype(self, dtype: DType) -> "TensorType":
        return TensorType(dtype, self.shape)

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(str(d) for d in self.shape)}]"

    __repr__ = __str__

    @staticmethod
    def parse(text: str) -> "TensorType":
        """The inverse of `str`: `TensorType.parse("float32[batch,3,224,224]")`. Raises `ShapeError`."""
        match = re.fullmatch(r"\s*(\w+)\[(.*)\]\s*", text)
        if not match or match[1] not in set(DType):
            raise ShapeError(repr(text), "a type such as float32[batch,3,224,224]")
        inner = match[2].strip()
        return TensorType(DType(match[1]), tuple(parse_dim(d) for d in inner.split(",")) if inner else ())
