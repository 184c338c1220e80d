"""ONNX operators that move, cut, join or measure, to our ops; sizes are followed through integer arithmetic."""

from collections.abc import Callable
from math import prod
from typing import Any

from genmad.importers.onnx_sizes import known_sizes
from genmad.importers.onnx_values import (
    NodeReader,
    Ref,
    Refused,
    array_of,
    clean,
    dims_of,
    ints_of,
    scalar_of,
)
from genmad.ir.types import Dim, DType, TensorType

Rule = Callable[[NodeReader], Any]
_LARGE = 2**31 - 1
MAX_FILLED = 2**27  # elements of a weight that is one number


def _shape(n: NodeReader) -> Ref:
    dims = n.input(0).type.shape
    return known_sizes(dims[slice(n.attr("start", 0), n.attr("end"))])


def _size(n: NodeReader) -> Ref:
    return known_sizes((n.input(0).type.numel,), scalar=True)


def _reshape(n: NodeReader) -> Ref:
    x, wanted = n.input(0), list(dims_of(n.input(1)))
    if n.attr("allowzero", 0) and 0 in wanted:
        raise Refused("allowzero=1 with a size of 0")
    own = x.type.shape
    same = 0  # leading sizes that stay, as which they are written
    while not n.block.totals.ours and same < min(len(own), len(wanted)) and wanted[same] in (0, own[same]):
        same += 1
    kept = [
        0 if i < same or (i < len(own) and own[i] == d and not isinstance(d, int)) else d for i, d in enumerate(wanted)
    ]
    symbolic = [i for i, d in enumerate(kept) if not isinstance(d, int)]
    if len(symbolic) == 1 and -1 not in kept:
        kept[symbolic[0]] = -1
    return n.emit("Reshape", x, shape=tuple(kept))


def _transpose(n: NodeReader) -> Ref:
    x = n.input(0)
    perm = n.attr("perm") or tuple(reversed(range(x.type.rank)))
    if x.is_param and perm == (1, 0):
        turned = x.type.with_shape(reversed(x.type.shape))
        return Ref(turned, tensor=x.tensor, param=x.param, swapped=not x.swapped)
    return n.emit("Transpose", x, perm=perm)


def _flatten(n: NodeReader) -> Ref:
    x, axis = n.input(0), n.attr("axis", 1)
    axis = axis + x.type.rank if axis < 0 else axis
    if axis == 1 and x.type.rank > 1:
        return n.emit("Flatten", x, start=1, end=-1)
    head: Dim = 1
    for dim in x.type.shape[:axis]:
        head = head * dim
    return n.emit(
        "Reshape",
        x,
        shape=(head if isinstance(head, int) else -1, -1 if isinstance(head, int) else x.type.numel // head),
    )


def _axes(n: NodeReader) -> tuple[int, ...] | None:
    given = n.attr("axes")
    return given if given is not None else ints_of(n.input(1)) if n.optional(1) is not None else None


def _squeeze(n: NodeReader) -> Ref:
    x, axes = n.input(0), _axes(n)
    if axes is None:
        axes = tuple(i for i, d in enumerate(x.type.shape) if d == 1)
    return n.emit("Squeeze", x, axes=axes) if axes else x


def _unsqueeze(n: NodeReader) -> Ref:
    return n.emit("Unsqueeze", n.input(0), axes=_axes(n))


def _expand(n: NodeReader) -> Ref:
    x, wanted = n.input(0), dims_of(n.input(1))
    number = scalar_of(x)
    if number is not None and x.type.rank == 0 and not x.is_param:
        return n.emit("Full", shape=wanted, value=number, dtype=str(x.type.dtype))
    own = (1,) * (len(wanted) - x.type.rank) + x.type.shape
    wanted = (1,) * (x.type.rank - len(wanted)) + wanted
    new = len(own) - x.type.rank
    shape = tuple(-1 if i >= new and d in (1, own[i]) else d for i, d in enumerate(wanted))
    return x if all(d == -1 for d in shape) else n.emit("Expand", x, shape=shape)


def _pad(n: NodeReader) -> Ref:
    x, mode = n.input(0), n.attr("mode", "constant")
    pads = list(n.attr("pads") or ints_of(n.input(1)))
    if n.optional(3) is not None:
        axes, rank = ints_of(n.input(3)), x.type.rank
        full = [0] * (2 * rank)
        for i, axis in enumerate(axes):
            full[axis % rank], full[axis % rank + rank] = pads[i], pads[i + len(axes)]
        pads = full
    value = n.attr("value", 0.0) if n.optional(2) is None else scalar_of(n.input(2))
    if value is None or mode not in ("constant", "reflect", "edge"):
        raise Refused(f"mode={mode} or a computed value")
    return n.emit("Pad", x, pads=tuple(pads), mode=mode, value=value)


def _slice(n: NodeReader) -> Ref:
    x = n.input(0)
    starts, ends = (n.attr(k) or dims_of(n.input(i)) for i, k in ((1, "starts"), (2, "ends")))
    axes = n.attr("axes") or (ints_of(n.input(3)) if n.optional(3) is not None else tuple(range(len(starts))))
    steps = ints_of(n.input(4)) if n.optional(4) is not None else (1,) * len(starts)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        if step == -1 and start == -1 and isinstance(end, int) and end <= -_LARGE:
            x = n.emit("Flip", x, axes=(axis,))
            continue
        if step < 1:
            raise Refused(f"a step of {step}")
        to_end = (isinstance(end, int) and end >= _LARGE) or end == x.type.shape[axis]
        if start == 0 and to_end and step == 1:
            continue
        x = n.emit("Slice", x, axis=axis, start=start, end=None if to_end else end, step=step)
    return x


def _flip(n: NodeReader) -> Ref | None:
    """The Flip that a Slice over several axes stands for."""
    if n.optional(4) is None:
        return None
    ends, axes, steps = dims_of(n.input(2)), ints_of(n.input(3)), ints_of(n.input(4))
    if not all(isinstance(end, int) for end in ends):
        return None
    if set(steps) == {-1} and set(ints_of(n.input(1))) == {-1} and max(int(str(end)) for end in ends) <= -_LARGE:
        return n.emit("Flip", n.input(0), axes=axes)
    return None


def _split(n: NodeReader) -> tuple[Ref, ...]:
    x, axis = n.input(0), n.attr("axis", 0)
    sizes = n.attr("split") or (ints_of(n.input(1)) if n.optional(1) is not None else ())
    if not sizes:
        total, count = x.type.shape[axis], n.attr("num_outputs") or len(n.node.outputs)
        if not isinstance(total, int):
            raise Refused(f"a split of {total} in {count}")
        part = -(-total // count)
        sizes = (*(part,) * (count - 1), total - part * (count - 1))
    return n.emit_all("Split", x, axis=axis, sizes=sizes)


def _gather(n: NodeReader) -> Ref:
    x, indices, axis = n.input(0), n.input(1), n.attr("axis", 0)
    if not indices.value and indices.type.rank == 0:
        return n.emit("Select", x, axis=axis, index=ints_of(indices)[0])
    if x.is_param and x.type.rank == 2 and axis == 0 and x.type.dtype.is_float and not x.swapped and indices.value:
        rows, width = x.type.shape
        return n.emit("Embedding", indices, params={"weight": x}, num_embeddings=rows, embedding_dim=width)
    return n.emit("Gather", x, indices, axis=axis)


def _depth_to_space(n: NodeReader) -> Ref:
    n.require(mode="CRD")
    if n.attr("mode") is None:
        raise Refused("mode=DCR")
    return n.emit("PixelShuffle", n.input(0), factor=n.attr("blocksize"))


def _trilu(n: NodeReader) -> Ref:
    k = ints_of(n.input(1))[0] if n.optional(1) is not None else 0
    return n.emit("Triu" if n.attr("upper", 1) else "Tril", n.input(0), k=k)


def _constant_of_shape(n: NodeReader) -> Ref:
    import numpy as np

    tensor = n.attr("value")
    array = tensor.numpy().reshape(-1) if tensor is not None else None
    dtype = "float32" if array is None else str(array.dtype)
    value = 0.0 if array is None else float(array[0])
    dims = dims_of(n.input(0))

    def full() -> Ref:
        return n.emit("Full", shape=dims, value=value, dtype=dtype)

    sizes = tuple(d for d in dims if isinstance(d, int))
    own = n.block.totals.ours or not n.block.is_main
    if own or len(sizes) < len(dims) or not 1 <= prod(sizes) <= MAX_FILLED or not DType(dtype).is_float:
        return full()
    # Files without their weights fill them in like this; a broadcast view takes no memory.
    tensor = np.broadcast_to(np.asarray(value, dtype), sizes)
    type_ = TensorType(DType(dtype), sizes)
    return Ref(type_, tensor=tensor, param=clean(str(n.node.outputs[0].name)) if sizes else "", late=full)


def _range(n: NodeReader) -> Ref:
    start, end, step = (dims_of(n.input(i))[0] for i in range(3))
    return n.emit("Arange", start=start, end=end, step=step, dtype=str(n.input(0).type.dtype))


def _resize(n: NodeReader) -> Ref:
    n.require(antialias=0, exclude_outside=0, keep_aspect_ratio_policy="stretch")
    x, mode = n.input(0), n.attr("mode", "nearest")
    where = n.attr("coordinate_transformation_mode", "half_pixel")
    if mode == "nearest":
        fits = where == "asymmetric" and n.attr("nearest_mode", "round_prefer_floor") == "floor"
    else:
        fits = where in ("half_pixel", "pytorch_half_pixel", "align_corners")
        fits = fits and (mode != "cubic" or n.attr("cubic_coeff_a", -0.75) == -0.75)
    if not fits:
        raise Refused(f"mode={mode}, coordinate_transformation_mode={where}")
    size = _resized(n, x)
    corners = where == "align_corners"
    return n.emit(
        "Resize", x, size=size, mode={"linear": "bilinear", "cubic": "bicubic"}.get(mode, mode), align_corners=corners
    )


def _resized(n: NodeReader, x: Ref) -> tuple[int, ...]:
    rank = x.type.rank
    axes = tuple(a % rank for a in n.attr("axes", range(rank)))
    if n.optional(3) is not None:
        new = dict(zip(axes, dims_of(n.input(3)), strict=True))
    else:
        scales = array_of(n.input(2)).reshape(-1)
        new = {
            a: d if s == 1 else int(d * float(s))
            for a, s, d in zip(axes, scales, (x.type.shape[a] for a in axes), strict=True)
        }  # type: ignore[operator]
    if any(new.get(i, x.type.shape[i]) != x.type.shape[i] for i in (0, 1)):
        raise Refused("a resize of batch or channels")
    size = tuple(new.get(i, x.type.shape[i]) for i in range(2, rank))
    if not all(isinstance(d, int) for d in size):
        raise Refused(f"a symbolic size {size}")
    return tuple(d for d in size if isinstance(d, int))


SHAPE_RULES: dict[str, Rule] = {
    "Shape": _shape,
    "Size": _size,
    "Reshape": _reshape,
    "Transpose": _transpose,
    "Flatten": _flatten,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Expand": _expand,
    "Pad": _pad,
    "Tile": lambda n: n.emit("Tile", n.input(0), repeats=dims_of(n.input(1))),
    "Slice": lambda n: _flip(n) or _slice(n),
    "Split": _split,
    "Concat": lambda n: n.emit("Concat", *n.inputs, axis=n.attr("axis")),
    "Gather": _gather,
    "GatherElements": lambda n: n.emit("GatherElements", n.input(0), n.input(1), axis=n.attr("axis", 0)),
    "DepthToSpace": _depth_to_space,
    "Trilu": _trilu,
    "ConstantOfShape": _constant_of_shape,
    "Range": _range,
    "Resize": _resize,
}
