"""Indexing, joining, splitting, and tensors made from sizes."""

from typing import Any

from genmad.importers.emit import Emitter, Handler, NoOp, T
from genmad.importers.functional.elementwise import to_dtype
from genmad.ir.types import SymDim

_MOST_INDICES = 4096


def getitem(e: Emitter, input: Any, index: Any) -> Any:
    """Integers, slices, None and `...` in any order, and at most one tensor of integers."""
    items = tuple(_place(e, i) for i in (index if isinstance(index, tuple) else (index,)))
    x, axis = input, 0
    rank = e.type_of(input).rank
    used = sum(i is not None and i is not Ellipsis for i in items)
    if sum(isinstance(i, T) for i in items) > 1 or any(isinstance(i, bool) for i in items):
        raise NoOp("indexing with several tensors")
    for item in items:
        if item is None:
            x = e.add("Unsqueeze", x, axes=(axis,))
            axis += 1
        elif item is Ellipsis:
            axis += rank - used
        elif isinstance(item, slice):
            x = _sliced(e, x, axis, item)
            axis += 1
        elif isinstance(item, T):
            x = _gathered(e, x, axis, item)
            axis += item.rank
        elif isinstance(item, (tuple, list)) and len(item) == 1 and isinstance(item[0], int):
            x = _sliced(e, x, axis, slice(item[0], item[0] + 1 or None))
            axis += 1
        elif isinstance(item, (tuple, list)) and all(isinstance(i, int) for i in item):
            x = e.add("Gather", x, _constant_index(e, item, e.type_of(x).shape[axis]), axis=axis)
            axis += 1
        elif isinstance(item, int):
            x = e.add("Select", x, axis=axis, index=item)
        else:
            raise NoOp(f"indexing with {item!r}")
    return x


def _place(e: Emitter, item: Any) -> Any:
    """A constant position, or such an end of a slice, as its number; anything else as it is."""
    if isinstance(item, slice):
        return slice(*(_place(e, end) for end in (item.start, item.stop, item.step)))
    number = e.scalar(item) if isinstance(item, T) and str(item.type.dtype) in ("int64", "int32") else None
    return item if number is None else number


def _constant_index(e: Emitter, items: Any, size: Any) -> str:
    """Positions along an axis of `size` as a constant."""
    if len(items) > _MOST_INDICES or (isinstance(size, SymDim) and min(items) < 0):
        raise NoOp(f"indexing with {len(items)} numbers")
    values = tuple(i if i >= 0 else i + size for i in items)
    return str(e.add("Constant", values=values, shape=(len(values),), dtype="int64"))


def _sliced(e: Emitter, x: Any, axis: int, item: slice) -> Any:
    size = e.type_of(x).shape[axis]
    start, end = item.start or 0, item.stop
    if isinstance(start, T) or isinstance(end, T):
        raise NoOp("a slice whose ends are tensors")
    if end == size or (isinstance(end, int) and isinstance(size, int) and end > size):
        end = None
    step = item.step or 1
    if start == 0 and end is None and step == 1:
        return x
    return e.add("Slice", x, axis=axis, start=start, end=end, step=step)


def _gathered(e: Emitter, x: Any, axis: int, index: T) -> Any:
    if str(index.type.dtype) not in ("int64", "int32"):
        raise NoOp("indexing with a mask")
    return e.add("Gather", x, index, axis=axis)


def select(e: Emitter, input: Any, dim: int, index: int) -> Any:
    return e.add("Select", input, axis=dim % e.type_of(input).rank, index=index)


def narrow(e: Emitter, input: Any, dim: int, start: Any, length: Any) -> Any:
    return _sliced(e, input, dim % e.type_of(input).rank, slice(start, start + length))


def index_select(e: Emitter, input: Any, dim: int, index: Any) -> Any:
    return e.add("Gather", input, index, axis=dim % e.type_of(input).rank)


def gather(e: Emitter, input: Any, dim: int, index: Any) -> Any:
    return e.add("GatherElements", input, index, axis=dim)


def cat(e: Emitter, tensors: Any, dim: int = 0) -> Any:
    dtype = str(e.want[0].dtype)
    parts = [to_dtype(e, t, dtype) for t in tensors if 0 not in e.type_of(t).shape]
    return parts[0] if len(parts) == 1 else e.add("Concat", *parts, axis=dim)


def stack(e: Emitter, tensors: Any, dim: int = 0) -> Any:
    return e.add("Stack", *tensors, axis=dim)


def pad_sequence(e: Emitter, sequences: Any, batch_first: bool = False, *_: Any, **__: Any) -> Any:
    """Sequences of one length need no padding."""
    if len({s.shape for s in sequences}) > 1:
        raise NoOp("padding of sequences of several lengths")
    return stack(e, sequences, 0 if batch_first else 1)


def _parts(e: Emitter, input: Any, dim: int) -> Any:
    sizes = tuple(t.shape[dim] for t in e.want)
    if any(isinstance(s, SymDim) for s in sizes):
        ends = [sum(sizes[: i + 1], start=0) for i in range(len(sizes))]
        axis = dim % e.type_of(input).rank
        return tuple(_sliced(e, input, axis, slice(end - size, end)) for size, end in zip(sizes, ends, strict=True))
    return (input,) if len(sizes) == 1 else e.add("Split", input, axis=dim, sizes=sizes)


def split(e: Emitter, tensor: Any, split_size_or_sections: Any = None, dim: int = 0, **_: Any) -> Any:  # noqa: ARG001
    return _parts(e, tensor, dim)


def chunk(e: Emitter, input: Any, chunks: int, dim: int = 0) -> Any:  # noqa: ARG001 - the sizes are known
    return _parts(e, input, dim)


def unbind(e: Emitter, input: Any, dim: int = 0) -> Any:
    axis = dim % e.type_of(input).rank
    return tuple(e.add("Select", input, axis=axis, index=i) for i in range(len(e.want)))


def _triangle(op: str) -> Handler:
    def handler(e: Emitter, input: Any, diagonal: int = 0) -> Any:
        return e.add(op, input, k=diagonal)

    return handler


def _filled(value: float) -> Handler:
    def handler(e: Emitter, *args: Any, **kwargs: Any) -> Any:  # noqa: ARG001 - shape and dtype are known
        return e.add("Full", shape=e.want[0].shape, value=value, dtype=str(e.want[0].dtype))

    return handler


def full(e: Emitter, size: Any, fill_value: Any, **kwargs: Any) -> Any:  # noqa: ARG001
    number = e.scalar(fill_value)
    if number is None:
        raise NoOp("full of a computed value")
    return _filled(float(number))(e)


def fill(e: Emitter, input: Any, value: Any) -> Any:
    return full(e, input, value)


def arange(e: Emitter, *args: Any, **kwargs: Any) -> Any:
    start, end, step = (0, args[0], 1) if len(args) == 1 else (*args, 1)[:3]
    if not args:
        start, end, step = kwargs.get("start", 0), kwargs["end"], kwargs.get("step", 1)
    if any(isinstance(v, (float, T)) for v in (start, end, step)):
        raise NoOp("arange of fractions")
    return e.add("Arange", start=start, end=end, step=step, dtype=str(e.want[0].dtype))


def genmad_mask(e: Emitter, batch: Any, queries: Any, keys: Any, causal: bool, window: Any) -> Any:
    """float32[batch, 1, queries, keys] as comparisons, for attention that stays primitive."""
    rows = e.add("Unsqueeze", e.add("Arange", start=keys - queries, end=keys), axes=(1,))
    columns = e.add("Unsqueeze", e.add("Arange", end=keys), axes=(0,))
    distance = e.add("Sub", rows, columns)
    low = e.add("Full", shape=(), value=0.0 if causal else -float(window - 1), dtype="int64")
    keep = e.add("GreaterOrEqual", distance, low)
    if window is not None:
        keep = e.add("And", keep, e.add("Less", distance, e.add("Full", shape=(), value=float(window), dtype="int64")))
    lowest = e.add("Full", shape=(), value=-3.4028234663852886e38, dtype="float32")
    mask = e.add("Where", keep, e.add("Full", shape=(), value=0.0, dtype="float32"), lowest)
    return e.add("Expand", e.add("Unsqueeze", mask, axes=(0, 1)), shape=(batch, -1, -1, -1))


INDEX: dict[str, Handler] = {
    "__getitem__": getitem, "select": select, "narrow": narrow, "index_select": index_select, "gather": gather,
    "cat": cat, "concat": cat, "concatenate": cat, "stack": stack, "pad_sequence": pad_sequence,
    "split": split, "split_with_sizes": split,
    "tensor_split": split, "chunk": chunk, "unbind": unbind, "triu": _triangle("Triu"), "tril": _triangle("Tril"),
    "zeros": _filled(0.0), "ones": _filled(1.0), "zeros_like": _filled(0.0), "ones_like": _filled(1.0),
    "new_zeros": _filled(0.0), "new_ones": _filled(1.0), "zero_": _filled(0.0), "empty": _filled(0.0),
    "new_empty": _filled(0.0), "full": full, "full_like": full,
    "new_full": full, "fill_": fill, "arange": arange, "genmad_mask": genmad_mask,
}  # fmt: skip
