"""Reductions."""

from typing import Any

from genmad.importers.emit import Emitter, Handler, NoOp
from genmad.importers.functional.elementwise import cast, to_dtype


def _axes(e: Emitter, input: Any, dim: Any) -> tuple[int, ...]:
    """Axes in increasing order, counted from the end where only the last one is meant."""
    rank = e.type_of(input).rank
    axes = range(rank) if dim is None or dim == () else (dim if isinstance(dim, tuple) else (dim,))
    return tuple(sorted(a % rank for a in axes))


def _reduction(op: str) -> Handler:
    def handler(e: Emitter, input: Any, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Any:
        x = cast(e, input, dtype) if dtype is not None else to_dtype(e, input, str(e.want[0].dtype))
        axes = _axes(e, input, dim)
        rank = e.type_of(input).rank
        return e.add(op, x, axes=(-1,) if axes == (rank - 1,) else axes, keepdims=keepdim)

    return handler


def _extreme(op: str, pair: str) -> Handler:
    """`max(x)`, `max(x, other)`, `max(x, dim)` (whose indices are not offered)."""

    def handler(e: Emitter, input: Any, dim: Any = None, keepdim: bool = False, other: Any = None) -> Any:
        second = other if other is not None else dim
        if second is not None and not isinstance(second, int):
            return e.add(pair, input, second)
        values = e.add(op, input, axes=_axes(e, input, dim), keepdims=keepdim)
        if dim is None:
            return values
        if op != "ReduceMax":
            raise NoOp("indices of minima")
        return values, e.add("ArgMax", input, axis=dim, keepdims=keepdim)

    return handler


def _amax(op: str) -> Handler:
    def handler(e: Emitter, input: Any, dim: Any = (), keepdim: bool = False) -> Any:
        return e.add(op, input, axes=_axes(e, input, dim), keepdims=keepdim)

    return handler


def argmax(e: Emitter, input: Any, dim: Any = None, keepdim: bool = False) -> Any:
    if dim is None:
        raise NoOp("argmax over all elements")
    return e.add("ArgMax", input, axis=dim, keepdims=keepdim)


def argmin(e: Emitter, input: Any, dim: Any = None, keepdim: bool = False) -> Any:
    return argmax(e, e.add("Neg", input), dim, keepdim)


def cumsum(e: Emitter, input: Any, dim: int, dtype: Any = None) -> Any:
    x = cast(e, input, dtype) if dtype is not None else to_dtype(e, input, str(e.want[0].dtype))
    return e.add("CumSum", x, axis=dim)


def variance(
    e: Emitter, input: Any, dim: Any = None, unbiased: Any = None, correction: Any = None, keepdim: bool = False
) -> Any:
    taken = correction if correction is not None else (1 if unbiased is None else int(unbiased))
    return e.add("Variance", input, axes=_axes(e, input, dim), correction=taken, keepdims=keepdim)


def std(
    e: Emitter, input: Any, dim: Any = None, unbiased: Any = None, correction: Any = None, keepdim: bool = False
) -> Any:
    return e.add("Sqrt", variance(e, input, dim, unbiased, correction, keepdim))


def norm(
    e: Emitter, input: Any, p: Any = "fro", dim: Any = None, keepdim: bool = False, out: Any = None, dtype: Any = None
) -> Any:
    del out
    if p not in ("fro", 2, None):
        raise NoOp("a norm that is not Euclidean")
    squares = e.add("Square", input if dtype is None else cast(e, input, dtype))
    return e.add("Sqrt", e.add("ReduceSum", squares, axes=_axes(e, input, dim), keepdims=keepdim))


def vector_norm(
    e: Emitter, x: Any, ord: Any = 2, dim: Any = None, keepdim: bool = False, dtype: Any = None, out: Any = None
) -> Any:
    return norm(e, x, ord, dim, keepdim, out, dtype)


def normalize(e: Emitter, input: Any, p: float = 2.0, dim: int = 1, eps: float = 1e-12, out: Any = None) -> Any:  # noqa: ARG001
    if p != 2:
        raise NoOp("a norm that is not Euclidean")
    return e.add("L2Norm", input, axis=dim, eps=eps)


REDUCE: dict[str, Handler] = {
    "mean": _reduction("ReduceMean"), "sum": _reduction("ReduceSum"), "max": _extreme("ReduceMax", "Max"),
    "min": _extreme("ReduceMin", "Min"), "amax": _amax("ReduceMax"), "amin": _amax("ReduceMin"), "argmax": argmax,
    "argmin": argmin, "cumsum": cumsum, "var": variance, "std": std, "norm": norm, "vector_norm": vector_norm,
    "normalize": normalize,
}  # fmt: skip
