"""Ops that change the shape: reshape, transpose, flatten, squeeze, expand, pad, tile."""

from collections.abc import Sequence

from genmad.ir.diagnostics import ShapeError
from genmad.ir.opdef import Attr, Attrs, OnnxContext, OpDef, Sample, TorchContext, Types
from genmad.ir.types import Dim, Shape, TensorType, divide_exactly, product
from genmad.ops.elementwise import number
from genmad.ops.rearrange import REARRANGE, onnx_reshape
from genmad.ops.shape_rules import axis_index, axis_indices, literal, operand


def reshape_dims(source: Shape, wanted: Sequence[Dim]) -> Shape:
    """The output shape of Reshape: 0 copies the source's size at that place, one -1 takes what is left."""
    if [*wanted].count(-1) > 1:
        raise ShapeError(f"shape={tuple(wanted)}", "at most one -1")
    out: list[Dim] = []
    for i, dim in enumerate(wanted):
        if dim == 0 and i >= len(source):
            raise ShapeError(f"0 at place {i} of shape={tuple(wanted)}", f"0 only in the first {len(source)} places")
        out.append(source[i] if dim == 0 else dim)
    left, right = list(source), [d for d in out if d != -1]
    for dim in list(right):
        if dim in left:  # cancel first: sums of symbols divide only by themselves
            left.remove(dim)
            right.remove(dim)
    have, need = product(left), product(right)
    rest = divide_exactly(have, need) if need != 0 else None
    if rest is None or (-1 not in out and rest != 1):
        expected = f"a shape of {product(source)} elements, or one -1"
        raise ShapeError(f"shape={tuple(wanted)} for an input of shape {list(source)}", expected)
    return tuple(rest if d == -1 else d for d in out)


def _reshape_onnx(ctx: OnnxContext) -> tuple[str, ...]:
    wanted = ctx.attrs["shape"]
    if all(isinstance(d, int) for d in wanted):
        return (ctx.op("Reshape", ctx.inputs[0], ctx.const(list(wanted))),)
    return (onnx_reshape(ctx, ctx.inputs[0], operand(ctx.types).shape, ctx.results[0].shape),)


def _flatten_onnx(ctx: OnnxContext) -> tuple[str, ...]:
    x, out = operand(ctx.types), ctx.results[0]
    if out.rank == 2 and ctx.attrs["start"] == 1:
        return (ctx.op("Flatten", ctx.inputs[0], axis=1),)
    return (onnx_reshape(ctx, ctx.inputs[0], x.shape, out.shape),)


def _reshape_torch(ctx: TorchContext) -> str:
    wanted, result = ctx.attrs["shape"], ctx.results[0].shape
    dims = [-1 if w == -1 else d for w, d in zip(wanted, result, strict=True)]
    return f"{ctx.inputs[0]}.reshape({ctx.dims(dims) or '()'})"


RESHAPE_OP = OpDef(
    name="Reshape",
    family="reshape",
    inputs=("x",),
    attrs=(Attr("shape", "dims", at_least=-1, doc="Output shape; 0 copies that input size, one -1 takes the rest."),),
    result=lambda types, attrs: (operand(types).with_shape(reshape_dims(operand(types).shape, attrs["shape"])),),
    to_torch=_reshape_torch,
    to_onnx=_reshape_onnx,
    samples=(
        Sample(inputs=("float32[batch,seq,12]",), attrs={"shape": (0, 0, 3, 4)}),
        Sample(inputs=("float32[batch,seq,3,4]",), attrs={"shape": (0, 0, -1)}),
        Sample(inputs=("float32[batch,3,4]",), attrs={"shape": (-1,)}),
    ),
    refused=(
        Sample(inputs=("float32[batch,12]",), attrs={"shape": (0, 5, -1)}, message="12*batch elements"),
        Sample(inputs=("float32[2,12]",), attrs={"shape": (-1, -1)}, message="at most one -1"),
    ),
    doc="The same elements in row-major order under another shape.",
)


def _transpose_result(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    x, perm = operand(types), attrs["perm"]
    if sorted(perm) != list(range(x.rank)):
        raise ShapeError(f"perm={perm}", f"an order of {literal(tuple(range(x.rank)))}")
    return (x.with_shape(x.shape[i] for i in perm),)


def _transpose_torch(ctx: TorchContext) -> str:
    perm = ctx.attrs["perm"]
    moved = [i for i, p in enumerate(perm) if i != p]
    if len(moved) == 2:
        return f"{ctx.inputs[0]}.transpose({moved[0]}, {moved[1]})"
    return f"{ctx.inputs[0]}.permute({', '.join(map(str, perm))})"


TRANSPOSE = OpDef(
    name="Transpose",
    family="reshape",
    inputs=("x",),
    attrs=(Attr("perm", "ints", at_least=0, doc="Output axis i is input axis perm[i]."),),
    result=_transpose_result,
    to_torch=_transpose_torch,
    to_onnx=lambda ctx: (ctx.op("Transpose", ctx.inputs[0], perm=list(ctx.attrs["perm"])),),
    samples=(
        Sample(inputs=("float32[batch,seq,3,4]",), attrs={"perm": (0, 2, 1, 3)}),
        Sample(inputs=("float32[batch,3,4]",), attrs={"perm": (2, 0, 1)}),
    ),
    refused=(Sample(inputs=("float32[2,3]",), attrs={"perm": (0, 2)}, message="an order of (0, 1)"),),
    doc="Reorders the axes.",
)


def _flatten_result(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    x = operand(types)
    start, end = axis_index(attrs["start"], x.rank), axis_index(attrs["end"], x.rank)
    if start > end:
        raise ShapeError(f"start={attrs['start']}, end={attrs['end']}", "start at or before end")
    return (x.with_shape((*x.shape[:start], product(x.shape[start : end + 1]), *x.shape[end + 1 :])),)


FLATTEN = OpDef(
    name="Flatten",
    family="reshape",
    inputs=("x",),
    attrs=(
        Attr("start", "int", 1, doc="First axis that is merged."),
        Attr("end", "int", -1, doc="Last axis that is merged."),
    ),
    result=_flatten_result,
    to_torch=lambda ctx: f"{ctx.inputs[0]}.flatten({ctx.attrs['start']}, {ctx.attrs['end']})",
    to_onnx=_flatten_onnx,
    samples=(
        Sample(inputs=("float32[batch,3,4,5]",), attrs={}),
        Sample(inputs=("float32[batch,3,4,5]",), attrs={"start": 2, "end": 3}),
    ),
    refused=(Sample(inputs=("float32[2,3,4]",), attrs={"start": 2, "end": 1}, message="start at or before end"),),
    doc="Merges the axes from start to end, both included.",
)


def _squeeze_result(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    x = operand(types)
    gone = axis_indices(attrs["axes"], x.rank)
    wide = [i for i in gone if x.shape[i] != 1]
    if wide:
        raise ShapeError(f"axes={attrs['axes']} of shape {list(x.shape)}", "axes of size 1")
    return (x.with_shape(d for i, d in enumerate(x.shape) if i not in gone),)


def _squeeze_torch(ctx: TorchContext) -> str:
    axes = ctx.attrs["axes"]
    return f"{ctx.inputs[0]}.squeeze({axes[0] if len(axes) == 1 else literal(axes)})"


SQUEEZE = OpDef(
    name="Squeeze",
    family="reshape",
    inputs=("x",),
    attrs=(Attr("axes", "ints", doc="Axes of size 1 to drop."),),
    result=_squeeze_result,
    to_torch=_squeeze_torch,
    to_onnx=lambda ctx: (ctx.op("Squeeze", ctx.inputs[0], ctx.const(list(ctx.attrs["axes"]))),),
    samples=(
        Sample(inputs=("float32[batch,3,1,1]",), attrs={"axes": (2, 3)}),
        Sample(inputs=("float32[batch,1,4]",), attrs={"axes": (1,)}),
    ),
    refused=(Sample(inputs=("float32[2,3]",), attrs={"axes": (1,)}, message="axes of size 1"),),
    doc="Drops axes of size 1.",
)


def _unsqueeze_result(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    x = operand(types)
    rank = x.rank + len(attrs["axes"])
    new, rest = axis_indices(attrs["axes"], rank), iter(x.shape)
    return (x.with_shape(1 if i in new else next(rest) for i in range(rank)),)


def _unsqueeze_torch(ctx: TorchContext) -> str:
    axes = axis_indices(ctx.attrs["axes"], ctx.results[0].rank)
    given = ctx.attrs["axes"] if len(axes) == 1 else axes
    return str(ctx.inputs[0]) + "".join(f".unsqueeze({axis})" for axis in given)


UNSQUEEZE = OpDef(
    name="Unsqueeze",
    family="reshape",
    inputs=("x",),
    attrs=(Attr("axes", "ints", doc="Places of the new axes in the output."),),
    result=_unsqueeze_result,
    to_torch=_unsqueeze_torch,
    to_onnx=lambda ctx: (ctx.op("Unsqueeze", ctx.inputs[0], ctx.const(list(ctx.attrs["axes"]))),),
    samples=(
        Sample(inputs=("float32[batch,seq]",), attrs={"axes": (1, 2)}),
        Sample(inputs=("float32[batch,3]",), attrs={"axes": (-1,)}),
    ),
    refused=(Sample(inputs=("float32[2,3]",), attrs={"axes": (4,)}, message="an axis from -3 to 2"),),
    doc="Adds axes of size 1.",
)


def _expand_result(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    x, wanted = operand(types), attrs["shape"]
    new = len(wanted) - x.rank
    if new < 0:
        raise ShapeError(f"shape={wanted}", f"at least {x.rank} sizes")
    out: list[Dim] = []
    for have, want in zip((*(None,) * new, *x.shape), wanted, strict=True):
        if want == -1 and have is not None:
            out.append(have)
        elif want != -1 and have in (None, 1, want):
            out.append(want)
        else:
            raise ShapeError(
                f"shape={wanted} for an input of shape {list(x.shape)}", "-1 or the same size where it is not 1"
            )
    return (x.with_shape(out),)


def _expand_onnx(ctx: OnnxContext) -> tuple[str, ...]:
    x, out = operand(ctx.types), ctx.results[0].shape
    source = (1,) * (len(out) - x.rank) + x.shape
    dims: list[Dim] = [1 if have == want else want for have, want in zip(source, out, strict=True)]
    return (ctx.op("Expand", ctx.inputs[0], ctx.shape(dims)),)


EXPAND = OpDef(
    name="Expand",
    family="reshape",
    inputs=("x",),
    attrs=(Attr("shape", "dims", at_least=-1, doc="Output shape; -1 keeps the input size."),),
    result=_expand_result,
    to_torch=lambda ctx: f"{ctx.inputs[0]}.expand({ctx.dims(ctx.attrs['shape'])})",
    to_onnx=_expand_onnx,
    samples=(
        Sample(inputs=("float32[batch,2,1,seq,4]",), attrs={"shape": (-1, -1, 3, -1, -1)}),
        Sample(inputs=("float32[1,4]",), attrs={"shape": (2, 5, 4)}),
    ),
    refused=(Sample(inputs=("float32[2,3]",), attrs={"shape": (2, 4)}, message="the same size where it is not 1"),),
    doc="Repeats axes of size 1 without copying; new axes come in front.",
)


def _pad_result(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    x, pads = operand(types), attrs["pads"]
    if len(pads) != 2 * x.rank:
        raise ShapeError(f"pads={pads}", f"{2 * x.rank} numbers: the beginning of each axis, then the end of each axis")
    if attrs["mode"] != "constant":
        _check_copying_pad(x, pads, attrs["mode"])
    out = tuple(d + pads[i] + pads[i + x.rank] for i, d in enumerate(x.shape))
    if any(isinstance(d, int) and d < 0 for d in out):
        raise ShapeError(f"pads={pads} on shape {list(x.shape)}", "sizes of at least 0")
    return (x.with_shape(out),)


def _check_copying_pad(x: TensorType, pads: tuple[int, ...], mode: str) -> None:
    fixed = max(x.rank - 3, 1)
    if any(pads[:fixed]) or any(pads[x.rank : x.rank + fixed]) or min(pads) < 0:
        raise ShapeError(f"pads={pads} with mode={mode}", f"no padding of the first {fixed} axes and none below 0")
    for i, dim in enumerate(x.shape):
        limit = dim - 1
        if mode == "reflect" and isinstance(limit, int) and max(pads[i], pads[i + x.rank]) > limit:
            raise ShapeError(f"pads={pads} with mode={mode}", f"at most {limit} on axis {i}")


def _pad_torch(ctx: TorchContext) -> str:
    rank, pads = operand(ctx.types).rank, ctx.attrs["pads"]
    pairs = [(pads[i], pads[i + rank]) for i in reversed(range(rank))]
    while len(pairs) > 1 and pairs[-1] == (0, 0):
        pairs.pop()
    mode = {"constant": "constant", "reflect": "reflect", "edge": "replicate", "wrap": "circular"}[ctx.attrs["mode"]]
    while mode != "constant" and len(pairs) < rank - 2:
        pairs.append((0, 0))  # torch wants a pair for each axis after the first two
    flat = literal(tuple(n for pair in pairs for n in pair))
    if mode == "constant":
        value = ctx.attrs["value"]
        return f"F.pad({ctx.inputs[0]}, {flat}{'' if value == 0 else f', value={number(value, ctx.results[0].dtype)}'})"
    return f'F.pad({ctx.inputs[0]}, {flat}, mode="{mode}")'


def _pad_onnx(ctx: OnnxContext) -> tuple[str, ...]:
    dtype, mode, pads = ctx.results[0].dtype, ctx.attrs["mode"], ctx.const(list(ctx.attrs["pads"]))
    if mode != "constant":
        return (ctx.op("Pad", ctx.inputs[0], pads, mode=mode),)
    value = ctx.attrs["value"] if dtype.is_float else int(ctx.attrs["value"])
    return (ctx.op("Pad", ctx.inputs[0], pads, ctx.const(value, dtype.value), mode=mode),)


PAD = OpDef(
    name="Pad",
    family="reshape",
    inputs=("x",),
    attrs=(
        Attr("pads", "ints", doc="Beginning of each axis, then end of each axis; negative ones crop (constant only)."),
        Attr("mode", "str", "constant", choices=("constant", "reflect", "edge"), doc="What stands in the new places."),
        Attr("value", "float", 0.0, doc="The constant."),
    ),
    result=_pad_result,
    to_torch=_pad_torch,
    to_onnx=_pad_onnx,
    samples=(
        Sample(inputs=("float32[batch,3,5,6]",), attrs={"pads": (0, 0, 1, 2, 0, 0, 1, 0), "mode": "reflect"}),
        Sample(inputs=("float32[batch,seq,4]",), attrs={"pads": (0, 1, 0, 0, 0, 0), "value": 1.5}),
        Sample(inputs=("float32[batch,3,6]",), attrs={"pads": (0, 0, 2, 0, 0, -1), "mode": "constant"}),
        Sample(inputs=("float32[batch,3,6]",), attrs={"pads": (0, 0, 2, 0, 0, 1), "mode": "edge"}),
    ),
    refused=(
        Sample(inputs=("float32[2,3]",), attrs={"pads": (1, 1)}, message="4 numbers"),
        Sample(inputs=("float32[2,3,4]",), attrs={"pads": (0, 0, 4, 0, 0, 0), "mode": "reflect"}, message="at most 3"),
    ),
    doc="Adds (or crops) elements at the ends of axes.",
)


def _tile_result(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    x, repeats = operand(types), attrs["repeats"]
    if len(repeats) != x.rank:
        raise ShapeError(f"repeats={repeats}", f"{x.rank} numbers")
    return (x.with_shape(d * r for d, r in zip(x.shape, repeats, strict=True)),)


TILE = OpDef(
    name="Tile",
    family="reshape",
    inputs=("x",),
    attrs=(Attr("repeats", "dims", at_least=1, doc="How often each axis is repeated."),),
    result=_tile_result,
    to_torch=lambda ctx: f"{ctx.inputs[0]}.repeat({ctx.dims(ctx.attrs['repeats'])})",
    to_onnx=lambda ctx: (ctx.op("Tile", ctx.inputs[0], ctx.shape(ctx.attrs["repeats"])),),
    samples=(
        Sample(inputs=("float32[batch,3]",), attrs={"repeats": (1, 2)}),
        Sample(inputs=("float32[1,2,3]",), attrs={"repeats": (3, 1, 2)}),
    ),
    refused=(Sample(inputs=("float32[2,3]",), attrs={"repeats": (2,)}, message="2 numbers"),),
    doc="Repeats the whole tensor along each axis.",
)


RESHAPE = (RESHAPE_OP, TRANSPOSE, FLATTEN, SQUEEZE, UNSQUEEZE, EXPAND, PAD, TILE, *REARRANGE)
