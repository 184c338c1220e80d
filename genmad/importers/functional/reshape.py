"""Views, permutations, padding and their kin."""

from typing import Any

from genmad.importers.emit import Emitter, Handler, NoOp
from genmad.ir.types import Dim, SymDim, product


def _flat_dims(dims: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(dims[0]) if len(dims) == 1 and isinstance(dims[0], (tuple, list)) else dims


def reshape(e: Emitter, input: Any, *shape: Any, **kwargs: Any) -> Any:
    """Writes sizes as 0 (copied) and -1 (the rest) where it can, so that widths may change later."""
    if kwargs.keys() - {"shape", "size"}:
        raise NoOp("view of another dtype")
    source, target = e.type_of(input).shape, e.want[0].shape
    if source == target:
        return input
    return e.add(
        "Reshape", input, shape=portable_shape(source, target, _flat_dims(shape or (next(iter(kwargs.values())),)))
    )


def portable_shape(source: tuple[Dim, ...], target: tuple[Dim, ...], given: tuple[Any, ...] = ()) -> tuple[Dim, ...]:
    """`target` as a Reshape attribute: leading sizes that are equal become 0; then one -1.

    The -1 stays where the code had it, else it takes the place of a symbolic size, else of a merged last axis.
    """
    lead = 0
    while lead < min(len(source), len(target)) and source[lead] == target[lead]:
        lead += 1
    dims: list[Dim] = [*((0,) * lead), *target[lead:]]
    rest = range(lead, len(target))
    asked = [i for i in rest if i < len(given) and given[i] == -1]
    symbolic = [i for i in rest if isinstance(target[i], SymDim)]
    merged = [len(target) - 1] if len(target) < len(source) and lead < len(target) else []
    for place in (asked, symbolic, merged):
        if len(place) == 1 or (place is asked and place):
            dims[place[0]] = -1
            break
    if -1 in dims and _zero_sized(target):
        return tuple(target)
    return tuple(dims)


def _zero_sized(shape: tuple[Dim, ...]) -> bool:
    return product(shape) == 0


def view_as(e: Emitter, input: Any, other: Any) -> Any:  # noqa: ARG001 - the shape is known
    return reshape(e, input, e.want[0].shape)


def flatten(e: Emitter, input: Any, start_dim: int = 0, end_dim: int = -1) -> Any:
    rank = e.type_of(input).rank
    start, end = start_dim % rank, end_dim % rank
    if start == end:
        return input
    return e.add("Flatten", input, start=start, end=-1 if end == rank - 1 else end)


def unflatten(e: Emitter, input: Any, dim: Any, sizes: Any) -> Any:
    before = e.type_of(input).shape
    axis = dim % len(before)
    return reshape(e, input, *before[:axis], *sizes, *before[axis + 1 :])


def transpose(e: Emitter, input: Any, dim0: int, dim1: int) -> Any:
    rank = e.type_of(input).rank
    perm = list(range(rank))
    perm[dim0 % rank], perm[dim1 % rank] = perm[dim1 % rank], perm[dim0 % rank]
    return _permuted(e, input, perm)


def permute(e: Emitter, input: Any, *dims: Any, **kwargs: Any) -> Any:
    order = _flat_dims(dims or (kwargs["dims"],))
    return _permuted(e, input, [d % len(order) for d in order])


def _permuted(e: Emitter, input: Any, perm: list[int]) -> Any:
    return input if perm == sorted(perm) else e.add("Transpose", input, perm=tuple(perm))


def transposed(e: Emitter, input: Any) -> Any:
    """`x.T` and `x.mT` of matrices."""
    rank = e.type_of(input).rank
    if rank != 2:
        raise NoOp("x.T of a tensor that is no matrix")
    return transpose(e, input, 0, 1)


def matrix_transposed(e: Emitter, input: Any) -> Any:
    return transpose(e, input, -1, -2)


def movedim(e: Emitter, input: Any, source: Any, destination: Any) -> Any:
    rank = e.type_of(input).rank
    froms = [s % rank for s in (source if isinstance(source, tuple) else (source,))]
    tos = [d % rank for d in (destination if isinstance(destination, tuple) else (destination,))]
    perm: list[int] = [-1] * rank
    for a, b in zip(froms, tos, strict=True):
        perm[b] = a
    others = iter(i for i in range(rank) if i not in froms)
    return _permuted(e, input, [next(others) if p < 0 else p for p in perm])


def squeeze(e: Emitter, input: Any, dim: Any = None) -> Any:
    shape = e.type_of(input).shape
    axes = range(len(shape)) if dim is None else (dim if isinstance(dim, tuple) else (dim,))
    ones = tuple(a % len(shape) for a in axes if shape[a] == 1)
    return e.add("Squeeze", input, axes=ones) if ones else input


def unsqueeze(e: Emitter, input: Any, dim: int) -> Any:
    return e.add("Unsqueeze", input, axes=(dim % (e.type_of(input).rank + 1),))


def expand(e: Emitter, input: Any, *size: Any, **kwargs: Any) -> Any:
    """The sizes asked for are those of the result, which is known."""
    del size
    source, target = e.type_of(input).shape, e.want[0].shape
    if source == target or kwargs.keys() - {"size", "implicit"}:
        return input
    offset = len(target) - len(source)
    kept = tuple(-1 if i >= offset and source[i - offset] == d else d for i, d in enumerate(target))
    return e.add("Expand", input, shape=kept)


def expand_to(e: Emitter, x: Any, shape: tuple[Dim, ...]) -> Any:
    """`x` stretched to a shape."""
    source = e.type_of(x).shape
    if source == shape:
        return x
    offset = len(shape) - len(source)
    kept = tuple(-1 if i >= offset and source[i - offset] == d else d for i, d in enumerate(shape))
    return e.add("Expand", x, shape=kept)


def expand_as(e: Emitter, input: Any, other: Any) -> Any:  # noqa: ARG001 - the shape is known
    return expand(e, input)


def pad(e: Emitter, input: Any, pad: Any, mode: str = "constant", value: Any = None) -> Any:
    modes = {"constant": "constant", "reflect": "reflect", "replicate": "edge"}
    if mode not in modes or any(isinstance(p, SymDim) for p in pad):
        raise NoOp(f"padding mode {mode}, sizes {pad}")
    if not any(pad):
        return input
    rank = e.type_of(input).rank
    begins, ends = [0] * rank, [0] * rank
    for i in range(len(pad) // 2):
        begins[rank - 1 - i], ends[rank - 1 - i] = pad[2 * i], pad[2 * i + 1]
    return e.add("Pad", input, pads=(*begins, *ends), mode=modes[mode], value=float(value or 0.0))


def repeat(e: Emitter, input: Any, *repeats: Any, **kwargs: Any) -> Any:
    times = _flat_dims(repeats or (kwargs["repeats"],))
    rank = e.type_of(input).rank
    x = input
    if len(times) > rank:
        x = e.add("Unsqueeze", input, axes=tuple(range(len(times) - rank)))
    times = (*((1,) * (rank - len(times))), *times)  # `tile` may name the last axes only
    return x if all(t == 1 for t in times) else e.add("Tile", x, repeats=tuple(times))


def repeat_interleave(e: Emitter, input: Any, repeats: Any, dim: Any = None, output_size: Any = None) -> Any:  # noqa: ARG001
    """Each slice along `dim` several times in a row: a new axis, expanded and merged."""
    if dim is None or not isinstance(repeats, int):
        raise NoOp("repeat_interleave by a tensor")
    shape = e.type_of(input).shape
    axis = dim % len(shape)
    x = e.add("Unsqueeze", input, axes=(axis + 1,))
    x = e.add("Expand", x, shape=tuple(repeats if i == axis + 1 else -1 for i in range(len(shape) + 1)))
    return e.add("Flatten", x, start=axis, end=axis + 1)


def roll(e: Emitter, input: Any, shifts: Any, dims: Any = None) -> Any:
    if dims is None:
        raise NoOp("roll over all elements")
    as_tuple = [v if isinstance(v, tuple) else (v,) for v in (shifts, dims)]
    return e.add("Roll", input, shifts=as_tuple[0], axes=as_tuple[1])


def flip(e: Emitter, input: Any, *dims: Any, **kwargs: Any) -> Any:
    return e.add("Flip", input, axes=_flat_dims(dims or (kwargs["dims"],)))


def pixel_shuffle(e: Emitter, input: Any, upscale_factor: int) -> Any:
    return input if upscale_factor == 1 else e.add("PixelShuffle", input, factor=upscale_factor)


def pixel_unshuffle(e: Emitter, input: Any, downscale_factor: int) -> Any:
    return input if downscale_factor == 1 else e.add("PixelUnshuffle", input, factor=downscale_factor)


RESHAPE: dict[str, Handler] = {
    "view": reshape, "reshape": reshape, "_unsafe_view": reshape, "view_as": view_as, "reshape_as": view_as,
    "flatten": flatten, "unflatten": unflatten, "transpose": transpose, "swapaxes": transpose, "swapdims": transpose,
    "permute": permute, "T": transposed, "t": transposed, "mT": matrix_transposed, "movedim": movedim,
    "moveaxis": movedim, "squeeze": squeeze, "unsqueeze": unsqueeze, "expand": expand, "expand_as": expand_as,
    "broadcast_to": expand, "pad": pad, "repeat": repeat, "tile": repeat, "repeat_interleave": repeat_interleave,
    "roll": roll, "flip": flip, "pixel_shuffle": pixel_shuffle, "pixel_unshuffle": pixel_unshuffle,
}  # fmt: skip
