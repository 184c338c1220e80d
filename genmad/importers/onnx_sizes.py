"""Integer arithmetic on sizes in ONNX graphs, followed symbolically: what exporters compute shapes from."""

from collections.abc import Callable
from dataclasses import replace

from genmad.importers.onnx_match import combine_dims, dtype_of
from genmad.importers.onnx_values import MAX_CONSTANT, NodeReader, Ref, Refused, array_of, dims_of, ints_of
from genmad.ir.types import Dim, DType, TensorType, divide_exactly


def known_sizes(dims: tuple[Dim, ...], scalar: bool = False) -> Ref:
    """An int64 vector (or scalar) whose contents are sizes."""
    return Ref(TensorType(DType.INT64, () if scalar else (len(dims),)), dims=dims)


def _contents(ref: Ref) -> tuple[Dim, ...]:
    """Like `dims_of`, for floats and truth values that are integers too."""
    if ref.dims is not None or ref.type.dtype.is_integer:
        return dims_of(ref)
    array = array_of(ref)
    if array.ndim > 1 or array.size > MAX_CONSTANT or (array != array.astype("int64")).any():
        raise Refused(f"{ref.type} where sizes are needed")
    return tuple(int(x) for x in array.reshape(-1))


def fold_sizes(n: NodeReader) -> Ref | None:
    """The result when every input is a known size; None when this is not integer arithmetic on sizes."""
    refs = [ref for ref in n.inputs if ref is not None]
    if not refs or not any(ref.dims is not None for ref in refs):
        return None
    try:
        parts = [_contents(ref) for ref in refs]
    except Refused:
        return None
    op, first = n.node.op_type, refs[0]
    if op in _SIZE_FOLDS:
        return _SIZE_FOLDS[op](n, refs, parts)
    if any(ref.type.dtype.is_float for ref in refs) and op not in ("Mul", "Add", "Sub"):
        return None
    if op == "Concat":
        return known_sizes(tuple(d for part in parts for d in part))
    if op == "Reshape" and len(parts[1]) > 1:
        return None
    if op in ("Identity", "Unsqueeze", "Squeeze", "Reshape"):
        scalar = (op == "Squeeze" and len(parts[0]) == 1) or (op == "Reshape" and parts[1] == ())
        return known_sizes(parts[0], scalar) if op != "Unsqueeze" or first.type.rank == 0 else None
    if op == "Gather" and first.type.rank == 1:
        places = ints_of(refs[1])
        return known_sizes(tuple(parts[0][i] for i in places), scalar=refs[1].type.rank == 0)
    if op == "Slice":
        start, end = (ints_of(ref)[0] for ref in refs[1:3])
        step = ints_of(refs[4])[0] if len(refs) > 4 else 1
        return known_sizes(parts[0][slice(start, end, step)])
    if op in ("ReduceProd",):
        total: Dim = 1
        for dim in parts[0]:
            total = total * dim
        return known_sizes((total,), scalar=not n.attr("keepdims", 1))
    if len(parts) == 2:
        made = combine_dims(op, *parts)
        return None if made is None else known_sizes(made, scalar=refs[0].type.rank == refs[1].type.rank == 0)
    return None


def _float_sizes(n: NodeReader, refs: list[Ref], parts: list[tuple[Dim, ...]]) -> Ref | None:
    """Sizes as floats, which exporters write around a division that they then round."""
    try:
        dtype = dtype_of(n.attr("to"))
    except ValueError:
        return None
    whole = dtype in (DType.INT64, DType.INT32)
    return replace(refs[0], type=TensorType(DType.INT64 if whole else dtype, refs[0].type.shape), dims=parts[0],
                   tensor=None) if whole or dtype.is_float else None  # fmt: skip


def _divided(_n: NodeReader, refs: list[Ref], parts: list[tuple[Dim, ...]]) -> Ref | None:
    a, b = parts
    if not refs[0].type.dtype.is_float:
        made = combine_dims("Div", a, b)
    else:
        exact = [divide_exactly(x, b[min(i, len(b) - 1)]) for i, x in enumerate(a)] if len(b) in (1, len(a)) else [None]
        made = None if any(d is None for d in exact) else tuple(d for d in exact if d is not None)
    shape = max(refs, key=lambda ref: ref.type.rank).type.shape
    return None if made is None else Ref(TensorType(refs[0].type.dtype, shape), dims=made)


def _rounded(_n: NodeReader, refs: list[Ref], _parts: list[tuple[Dim, ...]]) -> Ref:
    return refs[0]


def _remainder(_n: NodeReader, refs: list[Ref], parts: list[tuple[Dim, ...]]) -> Ref | None:
    """Known where every size is a multiple."""
    a, b = parts
    if len(b) != 1 or any(divide_exactly(x, b[0]) is None for x in a):
        return None
    return known_sizes((0,) * len(a), scalar=refs[0].type.rank == refs[1].type.rank == 0)


def _equal(_n: NodeReader, refs: list[Ref], parts: list[tuple[Dim, ...]]) -> Ref | None:
    """Known where sizes are the same, are two integers, or one is negative, as no size is."""
    size = max(map(len, parts))
    if any(len(part) not in (1, size) for part in parts):
        return None
    wide = [part * (size if len(part) == 1 else 1) for part in parts]
    found = []
    for a, b in zip(*wide, strict=True):
        both = isinstance(a, int) and isinstance(b, int)
        never = any(isinstance(d, int) and d < 0 for d in (a, b))
        if not both and not never and a != b:
            return None
        found.append(int(a == b))
    shape = max(refs, key=lambda ref: ref.type.rank).type.shape
    return Ref(TensorType(DType.BOOL, shape), dims=tuple(found))


def _chosen(_n: NodeReader, refs: list[Ref], parts: list[tuple[Dim, ...]]) -> Ref | None:
    size = max(map(len, parts))
    if any(len(part) not in (1, size) for part in parts):
        return None
    test, yes, no = (part * (size if len(part) == 1 else 1) for part in parts)
    made = tuple(a if c else b for c, a, b in zip(test, yes, no, strict=True))
    return Ref(TensorType(refs[1].type.dtype, max(refs, key=lambda ref: ref.type.rank).type.shape), dims=made)


_SIZE_FOLDS: dict[str, Callable[[NodeReader, list[Ref], list[tuple[Dim, ...]]], Ref | None]] = {
    "Cast": _float_sizes,
    "Div": _divided,
    "Floor": _rounded,
    "Ceil": _rounded,
    "Mod": _remainder,
    "Equal": _equal,
    "Where": _chosen,
}
