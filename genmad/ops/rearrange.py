"""Ops that move elements: pixel shuffle and its inverse, roll, flip."""

from genmad.ir.diagnostics import ShapeError
from genmad.ir.opdef import Attr, Attrs, OnnxContext, OpDef, Sample, Types
from genmad.ir.types import Dim, Shape, TensorType
from genmad.ops.shape_rules import axis_indices, literal, need_rank, operand

_LARGE = 2**62  # "to the start" for a backward Slice


def onnx_reshape(ctx: OnnxContext, x: str, source: Shape, target: Shape) -> str:
    """Adds a Reshape; its shape is a constant where 0 (copy) and a single -1 can stand for the symbols."""
    dims: list[Dim] = [0 if i < len(source) and source[i] == d else d for i, d in enumerate(target)]
    symbolic = [i for i, d in enumerate(dims) if not isinstance(d, int)]
    if len(symbolic) == 1:
        dims[symbolic[0]] = -1
    return str(ctx.op("Reshape", x, ctx.shape(dims)))


def _pixel_shuffle_result(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    x, factor = operand(types), attrs["factor"]
    batch, channels, height, width = _image(x)
    if not isinstance(channels, int) or channels % factor**2:
        raise ShapeError(f"{channels} channels with factor={factor}", f"channels divisible by {factor**2}")
    return (x.with_shape((batch, channels // factor**2, height * factor, width * factor)),)


def _image(x: TensorType) -> Shape:
    return need_rank(x, 4, 4).shape


_FACTOR = Attr("factor", "int", at_least=2, doc="Side of the block of pixels that turns into channels.")

PIXEL_SHUFFLE = OpDef(
    name="PixelShuffle",
    family="reshape",
    inputs=("x",),
    attrs=(_FACTOR,),
    result=_pixel_shuffle_result,
    to_torch=lambda ctx: f"F.pixel_shuffle({ctx.inputs[0]}, {ctx.attrs['factor']})",
    to_onnx=lambda ctx: (ctx.op("DepthToSpace", ctx.inputs[0], blocksize=ctx.attrs["factor"], mode="CRD"),),
    samples=(
        Sample(inputs=("float32[batch,8,3,4]",), attrs={"factor": 2}),
        Sample(inputs=("float32[2,9,2,2]",), attrs={"factor": 3}),
    ),
    refused=(Sample(inputs=("float32[2,6,3,3]",), attrs={"factor": 2}, message="channels divisible by 4"),),
    doc="Turns groups of channels into blocks of pixels.",
)


def _pixel_unshuffle_result(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    x, factor = operand(types), attrs["factor"]
    batch, channels, height, width = _image(x)
    for size in (height, width):
        if isinstance(size, int) and size % factor:
            raise ShapeError(f"size {size} with factor={factor}", f"height and width divisible by {factor}")
    return (x.with_shape((batch, channels * factor**2, height // factor, width // factor)),)


def _pixel_unshuffle_onnx(ctx: OnnxContext) -> tuple[str, ...]:
    x, factor = operand(ctx.types), ctx.attrs["factor"]
    batch, channels, height, width = x.shape
    split = (batch, channels, height // factor, factor, width // factor, factor)
    blocks = onnx_reshape(ctx, ctx.inputs[0], x.shape, split)
    ordered = ctx.op("Transpose", blocks, perm=[0, 1, 3, 5, 2, 4])
    after = (batch, channels, factor, factor, height // factor, width // factor)
    return (onnx_reshape(ctx, ordered, after, ctx.results[0].shape),)


PIXEL_UNSHUFFLE = OpDef(
    name="PixelUnshuffle",
    family="reshape",
    inputs=("x",),
    attrs=(_FACTOR,),
    result=_pixel_unshuffle_result,
    to_torch=lambda ctx: f"F.pixel_unshuffle({ctx.inputs[0]}, {ctx.attrs['factor']})",
    to_onnx=_pixel_unshuffle_onnx,
    is_function=True,
    samples=(
        Sample(inputs=("float32[batch,3,4,6]",), attrs={"factor": 2}),
        Sample(inputs=("float32[2,1,6,6]",), attrs={"factor": 3}),
    ),
    refused=(Sample(inputs=("float32[2,3,5,4]",), attrs={"factor": 2}, message="divisible by 2"),),
    doc="Turns blocks of pixels into channels; the inverse of PixelShuffle.",
)


def _roll_result(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    x = operand(types)
    axis_indices(attrs["axes"], x.rank)
    if len(attrs["shifts"]) != len(attrs["axes"]):
        raise ShapeError(f"shifts={attrs['shifts']}", f"{len(attrs['axes'])} numbers, one per axis")
    return (x,)


def _roll_onnx(ctx: OnnxContext) -> tuple[str, ...]:
    x, value = operand(ctx.types), ctx.inputs[0]
    for shift, axis in zip(ctx.attrs["shifts"], ctx.attrs["axes"], strict=True):
        size = x.shape[axis]
        cut = shift % size if isinstance(size, int) else shift
        if not cut:
            continue
        along = ctx.const([axis])
        tail = ctx.op("Slice", value, ctx.const([-cut]), ctx.const([_LARGE]), along)
        head = ctx.op("Slice", value, ctx.const([0]), ctx.const([-cut]), along)
        value = ctx.op("Concat", tail, head, axis=axis)
    return (value if value != ctx.inputs[0] else ctx.op("Identity", value),)


ROLL = OpDef(
    name="Roll",
    family="reshape",
    inputs=("x",),
    attrs=(
        Attr("shifts", "ints", doc="How far elements move towards the end of each axis."),
        Attr("axes", "ints", doc="The axes that are rolled."),
    ),
    result=_roll_result,
    to_torch=lambda ctx: f"torch.roll({ctx.inputs[0]}, {literal(ctx.attrs['shifts'])}, {literal(ctx.attrs['axes'])})",
    to_onnx=_roll_onnx,
    is_function=True,
    samples=(
        Sample(inputs=("float32[batch,4,5,3]",), attrs={"shifts": (-1, 2), "axes": (1, 2)}),
        Sample(inputs=("float32[batch,seq,3]",), attrs={"shifts": (1,), "axes": (1,)}),
    ),
    refused=(Sample(inputs=("float32[2,3]",), attrs={"shifts": (1, 1), "axes": (1,)}, message="one per axis"),),
    doc="Moves elements along axes; those that leave at one end come back at the other.",
)


def _flip_result(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    x = operand(types)
    axis_indices(attrs["axes"], x.rank)
    return (x,)


def _flip_onnx(ctx: OnnxContext) -> tuple[str, ...]:
    axes = list(ctx.attrs["axes"])
    ones = [-1] * len(axes)
    return (ctx.op("Slice", ctx.inputs[0], *(ctx.const(v) for v in (ones, [-_LARGE] * len(axes), axes, ones))),)


FLIP = OpDef(
    name="Flip",
    family="reshape",
    inputs=("x",),
    attrs=(Attr("axes", "ints", doc="The axes whose order is reversed."),),
    result=_flip_result,
    to_torch=lambda ctx: f"{ctx.inputs[0]}.flip({literal(ctx.attrs['axes'])})",
    to_onnx=_flip_onnx,
    samples=(
        Sample(inputs=("float32[batch,seq,3]",), attrs={"axes": (1,)}),
        Sample(inputs=("float32[2,3,4]",), attrs={"axes": (0, -1)}),
    ),
    refused=(Sample(inputs=("float32[2,3]",), attrs={"axes": (1, 1)}, message="each axis once"),),
    doc="Reverses the order along axes.",
)

REARRANGE = (PIXEL_SHUFFLE, PIXEL_UNSHUFFLE, ROLL, FLIP)
