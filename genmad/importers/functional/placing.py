"""Assignments to parts of a tensor, scattering, and the largest entries."""

from typing import Any

from genmad.importers.emit import Emitter, Handler, NoOp, T
from genmad.importers.functional.elementwise import to_dtype
from genmad.importers.functional.reshape import expand_to
from genmad.ir.types import Dim, SymDim


def setitem(e: Emitter, input: Any, index: Any, value: Any) -> Any:
    """`x[index] = value` as a new tensor: parts joined again, or a choice where the index is a mask."""
    items = tuple(_as_slice(e, i) for i in (index if isinstance(index, tuple) else (index,)))
    kind = str(e.type_of(input).dtype)
    value = _as_tensor(e, value, kind)
    masks = [i for i in items if isinstance(i, T)]
    if len(items) == len(masks) == 1 and masks[0].rank == 1 and str(masks[0].type.dtype) == "int64":
        return _at_rows(e, input, masks[0], value)
    if masks:
        if len(items) > 1 or str(masks[0].type.dtype) != "bool":
            raise NoOp("an assignment at indices")
        return _where_mask(e, input, masks[0], value)
    return _assign(e, input, _spans(items, e.type_of(input).rank), value)


def copy(e: Emitter, input: Any, src: Any, **_: Any) -> Any:
    """`x.copy_(src)` as a new tensor: the source in the type and shape of `x`."""
    return expand_to(e, _as_tensor(e, src, str(e.type_of(input).dtype)), e.type_of(input).shape)


def _as_slice(e: Emitter, item: Any) -> Any:
    """A constant row of evenly spaced positions, or a mask of such, as a slice; anything else as it is."""
    if not isinstance(item, T) or item.kind != "constant" or item.rank != 1:
        return item
    kind = str(item.type.dtype)
    if kind not in ("int64", "bool"):
        return item
    found = [e.constant_at(item.number, sizes) for sizes in (e.symbolic.sizes, e.symbolic.other_sizes)]
    places = [(row.nonzero().flatten() if kind == "bool" else row).tolist() for row in found]
    first, step = places[0][:1], (places[0][1:2] or [0])[0] - (places[0][:1] or [0])[0]
    if places[0] != places[1] or not first or first[0] < 0 or (len(places[0]) > 1 and step < 1):
        return item
    span = slice(first[0], places[0][-1] + 1, step if len(places[0]) > 1 else None)
    return span if places[0] == list(range(span.start, span.stop, span.step or 1)) else item


def _as_tensor(e: Emitter, value: Any, dtype: str) -> Any:
    number = e.scalar(value)
    if number is not None:
        return e.add("Full", shape=(), value=float(number), dtype=dtype)
    if not isinstance(value, T):
        raise NoOp(f"an assignment of {value!r}")
    return to_dtype(e, value, dtype)


def _at_rows(e: Emitter, input: Any, rows: T, value: Any) -> Any:
    """`x[rows] = value` for a row of positions along the first axis."""
    shape = (rows.shape[0], *e.type_of(input).shape[1:])
    at = e.add("Unsqueeze", rows, axes=tuple(range(1, len(shape)))) if len(shape) > 1 else rows
    source = expand_to(e, value, shape)
    return e.add("ScatterElements", input, expand_to(e, at, shape), source, axis=0, reduction="none")


def _where_mask(e: Emitter, input: Any, mask: T, value: Any) -> Any:
    missing = e.type_of(input).rank - mask.rank
    at = e.add("Unsqueeze", mask, axes=tuple(range(mask.rank, mask.rank + missing))) if missing else mask
    if e.type_of(value).rank == 0:
        return e.add("Where", at, value, input)
    return e.add("MaskedScatter", input, at, value)


Span = tuple[int, Any, bool]


def _spans(items: tuple[Any, ...], rank: int) -> list[Span]:
    """(axis, slice, whether the axis is dropped) of every index that is not the whole axis."""
    used = sum(i is not None and i is not Ellipsis for i in items)
    spans: list[Span] = []
    axis = 0
    for item in items:
        if item is None or isinstance(item, bool):
            raise NoOp("an assignment to a new axis")
        if item is Ellipsis:
            axis += rank - used
            continue
        if isinstance(item, int):
            spans.append((axis, slice(item, item + 1 or None, None), True))
        elif not isinstance(item, slice):
            raise NoOp(f"an assignment at {item!r}")
        elif (item.start, item.stop, item.step) != (None, None, None):
            spans.append((axis, item, False))
        axis += 1
    return spans


def _assign(e: Emitter, x: Any, spans: list[Span], value: Any) -> Any:
    if not spans:
        return expand_to(e, value, e.type_of(x).shape)
    (axis, span, dropped), rest = spans[0], spans[1:]
    size = e.type_of(x).shape[axis]
    start, end = _bound(span.start, size, 0), _bound(span.stop, size, size)
    if isinstance(start, int) and isinstance(end, int) and start >= end:
        return x  # no place at all
    if span.step not in (None, 1):
        return _strided(e, x, axis, span, value, rest)
    inner = e.add("Slice", x, axis=axis, start=start, end=None if end == size else end)
    rank_left = e.type_of(x).rank - (1 if dropped else 0)
    if dropped and e.type_of(value).rank == _rank_at(e, x, spans):
        place = axis - sum(gone for a, _, gone in spans if a < axis)
        value = e.add("Unsqueeze", value, axes=(place,)) if e.type_of(value).rank >= place and rank_left else value
        spans_left = [(a, s, g) for a, s, g in rest]
    else:
        spans_left = rest
    new = _assign(e, inner, spans_left, value)
    parts = []
    if start != 0:
        parts.append(e.add("Slice", x, axis=axis, start=0, end=start))
    parts.append(new)
    if end != size:
        parts.append(e.add("Slice", x, axis=axis, start=end, end=None))
    return new if len(parts) == 1 else e.add("Concat", *parts, axis=axis)


def _rank_at(e: Emitter, x: Any, spans: list[Span]) -> int:
    """Axes of a value that fills the whole place."""
    return e.type_of(x).rank - sum(gone for _, _, gone in spans)


def _bound(value: Any, size: Dim, default: Dim) -> Dim:
    if value is None:
        return default
    if isinstance(value, T):
        raise NoOp("an assignment whose ends are tensors")
    if isinstance(value, int) and value < 0:
        return size + value
    if isinstance(value, int) and isinstance(size, int):
        return min(value, size)
    return value  # type: ignore[no-any-return]


def _strided(e: Emitter, x: Any, axis: int, span: slice, value: Any, rest: list[Span]) -> Any:
    """`x[start:stop:step] = value`: the value gathered to its places, chosen there."""
    size = e.type_of(x).shape[axis]
    if rest or isinstance(size, SymDim) or isinstance(span.step, T):
        raise NoOp("an assignment to every few places")
    places = list(range(*span.indices(size)))
    kept = {place: number for number, place in enumerate(places)}
    if e.type_of(value).rank:
        part = tuple(len(places) if i == axis else d for i, d in enumerate(e.type_of(x).shape))
        order = tuple(float(kept.get(place, 0)) for place in range(size))
        source = e.add("Constant", values=order, shape=(size,), dtype="int64")
        value = e.add("Gather", expand_to(e, value, part), source, axis=axis)
    else:
        value = expand_to(e, value, e.type_of(x).shape)
    at = tuple(float(place in kept) for place in range(size))
    shape = tuple(size if i == axis else 1 for i in range(e.type_of(x).rank))
    return e.add("Where", e.add("Constant", values=at, shape=shape, dtype="bool"), value, x)


def topk(e: Emitter, input: Any, k: Any, dim: int = -1, largest: bool = True, sorted: bool = True) -> Any:  # noqa: ARG001
    if not largest or not isinstance(k, int):
        raise NoOp("the smallest entries")
    return e.add("TopK", input, k=k, axis=dim)


def _scatter(reduction: str) -> Handler:
    def handler(e: Emitter, input: Any, dim: int, index: Any, src: Any = None, value: Any = None) -> Any:
        source = src if src is not None else value
        kind = str(e.type_of(input).dtype)
        source = _as_tensor(e, source, kind)
        if e.type_of(source).shape != e.type_of(index).shape:
            if e.type_of(source).rank:
                raise NoOp("scattering a part of the source")
            source = expand_to(e, source, e.type_of(index).shape)
        return e.add("ScatterElements", input, index, source, axis=dim, reduction=reduction)

    return handler


def index_add(e: Emitter, input: Any, dim: int, index: Any, source: Any, alpha: Any = 1) -> Any:
    if alpha != 1:
        raise NoOp("index_add with a factor")
    rank = e.type_of(source).rank
    axis = dim % rank
    at = e.add("Unsqueeze", index, axes=tuple(i for i in range(rank) if i != axis)) if rank > 1 else index
    at = expand_to(e, at, e.type_of(source).shape)
    return e.add("ScatterElements", input, at, source, axis=axis, reduction="add")


def masked_scatter(e: Emitter, input: Any, mask: Any, source: Any) -> Any:
    return e.add("MaskedScatter", input, mask, to_dtype(e, source, str(e.type_of(input).dtype)))


def one_hot(e: Emitter, input: Any, num_classes: Any = -1) -> Any:
    if not isinstance(num_classes, int) or num_classes < 1:
        raise NoOp("one_hot without the number of classes")
    rank = e.type_of(input).rank
    classes = e.add("Arange", end=num_classes, dtype=str(e.type_of(input).dtype))
    hot = e.add("Equal", e.add("Unsqueeze", input, axes=(rank,)), classes)
    return e.add("Cast", hot, dtype="int64")


PLACING: dict[str, Handler] = {
    "setitem": setitem, "copy_": copy, "topk": topk, "scatter": _scatter("none"), "scatter_add": _scatter("add"),
    "index_add": index_add, "masked_scatter": masked_scatter, "one_hot": one_hot,
}  # fmt: skip
