"""Bytes of tensors, and integers for the symbols of a graph."""

from collections.abc import Mapping
from math import prod

from genmad.ir import Diagnostic, DType, Graph, GraphError, SymDim, TensorType, evaluate_dim

DTYPE_BYTES: Mapping[DType, int] = {
    DType.FLOAT32: 4,
    DType.FLOAT64: 8,
    DType.FLOAT16: 2,
    DType.BFLOAT16: 2,
    DType.INT64: 8,
    DType.INT32: 4,
    DType.INT16: 2,
    DType.INT8: 1,
    DType.UINT8: 1,
    DType.UINT16: 2,
    DType.UINT32: 4,
    DType.UINT64: 8,
    DType.BOOL: 1,
    DType.COMPLEX64: 8,
}

DEFAULT_SIZES: Mapping[str, int] = {"batch": 1, "seq": 128, "target": 128}


def type_bytes(type: TensorType, sizes: Mapping[str, int]) -> int:
    """Bytes of one tensor, symbols replaced by `sizes`."""
    return prod(evaluate_dim(d, sizes) for d in type.shape) * DTYPE_BYTES[type.dtype]


def symbols_of(graph: Graph) -> tuple[str, ...]:
    """The symbols in the types of the model's inputs, in order of appearance."""
    dims = (d for value in graph.main.inputs for d in value.type.shape if isinstance(d, SymDim))
    return tuple(dict.fromkeys(name for d in dims for name in sorted(d.symbols)))


def sizes_for(graph: Graph, sizes: Mapping[str, int] | None = None) -> dict[str, int]:
    """A size for each symbol of the graph: the caller's, else the default.

    Raises `GraphError` naming the symbols that have neither.
    """
    known = {**DEFAULT_SIZES, **(sizes or {})}
    missing = [name for name in symbols_of(graph) if name not in known]
    if missing:
        got = f"no size for {', '.join(missing)}"
        fix = f"pass sizes={{{missing[0]!r}: 128}}"
        raise GraphError(Diagnostic(where=f'graph "{graph.name}"', got=got, expected="a size for each symbol", fix=fix))
    return {name: known[name] for name in symbols_of(graph)}
