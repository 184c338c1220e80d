"""Ops that pick and place by values: the largest entries, scattering to indices, filling in where a mask holds."""

from genmad.ir.diagnostics import ShapeError
from genmad.ir.opdef import Attr, Attrs, OnnxContext, OpDef, Sample, TorchContext, Types
from genmad.ir.types import DType, TensorType
from genmad.ops.shape_rules import AXIS, axis_index, broadcast, operand


def _top_result(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    x = operand(types)
    axis = axis_index(attrs["axis"], x.rank)
    size = x.shape[axis]
    if isinstance(size, int) and attrs["k"] > size:
        raise ShapeError(f"k={attrs['k']}", f"at most {size}, the size of axis {axis}")
    shape = (*x.shape[:axis], attrs["k"], *x.shape[axis + 1 :])
    return x.with_shape(shape), TensorType(DType.INT64, shape)


def _top_torch(ctx: TorchContext) -> str:
    return f"tuple(torch.topk({ctx.inputs[0]}, {ctx.attrs['k']}, dim={ctx.attrs['axis']}))"


def _top_onnx(ctx: OnnxContext) -> tuple[str, ...]:
    return tuple(ctx.op("TopK", ctx.inputs[0], ctx.const([ctx.attrs["k"]]), outputs=2, axis=ctx.attrs["axis"]))


TOP_K = OpDef(
    name="TopK",
    family="selection",
    inputs=("x",),
    attrs=(Attr("k", "int", at_least=1, doc="How many entries."), AXIS),
    result=_top_result,
    to_torch=_top_torch,
    to_onnx=_top_onnx,
    samples=(
        Sample(inputs=("float32[batch,seq,8]",), attrs={"k": 3, "axis": -1}),
        Sample(inputs=("float32[batch,6,4]",), attrs={"k": 2, "axis": 1}),
    ),
    refused=(Sample(inputs=("float32[batch,8]",), attrs={"k": 9, "axis": -1}, message="at most 8"),),
    doc="The k largest entries along an axis, largest first, and their indices.",
)


def _scatter_result(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    x, indices, updates = operand(types), operand(types, 1), operand(types, 2)
    axis_index(attrs["axis"], x.rank)
    if indices.dtype != DType.INT64:
        raise ShapeError(f"{indices.dtype} indices", "int64 indices", "put a Cast in front")
    if updates.dtype != x.dtype:
        raise ShapeError(f"updates of {updates.dtype}", f"{x.dtype}, as the input", "put a Cast in front")
    if indices.shape != updates.shape or indices.rank != x.rank:
        got = f"indices {list(indices.shape)} and updates {list(updates.shape)} for {list(x.shape)}"
        raise ShapeError(got, "one index for each update, as many axes as the input")
    return (x,)


def _scatter_torch(ctx: TorchContext) -> str:
    x, indices, updates = ctx.inputs
    name = "scatter_add" if ctx.attrs["reduction"] == "add" else "scatter"
    return f"{x}.{name}({ctx.attrs['axis']}, {indices}, {updates})"


def _scatter_onnx(ctx: OnnxContext) -> tuple[str, ...]:
    attrs = {"axis": ctx.attrs["axis"], "reduction": ctx.attrs["reduction"]}
    return (ctx.op("ScatterElements", *ctx.inputs, **attrs),)


SCATTER_ELEMENTS = OpDef(
    name="ScatterElements",
    family="selection",
    inputs=("x", "indices", "updates"),
    attrs=(
        AXIS,
        Attr("reduction", "str", "none", choices=("none", "add"), doc="What happens to the entry that was there."),
    ),
    result=_scatter_result,
    to_torch=_scatter_torch,
    to_onnx=_scatter_onnx,
    samples=(
        Sample(
            inputs=("float32[batch,8]", "int64[batch,3]", "float32[batch,3]"), attrs={"axis": 1, "reduction": "add"}
        ),
        Sample(inputs=("float32[batch,8]", "int64[batch,1]", "float32[batch,1]"), attrs={"axis": -1}),
    ),
    refused=(
        Sample(
            inputs=("float32[batch,8]", "int64[batch,3]", "float32[batch,2]"), attrs={"axis": 1}, message="each update"
        ),
        Sample(inputs=("float32[batch,8]", "float32[batch,3]", "float32[batch,3]"), attrs={"axis": 1}, message="int64"),
    ),
    doc="Writes updates to the places along an axis that indices name, or adds them there.",
)


def _masked_result(types: Types, _attrs: Attrs) -> tuple[TensorType, ...]:
    x, mask, source = operand(types), operand(types, 1), operand(types, 2)
    if mask.dtype != DType.BOOL:
        raise ShapeError(f"a mask of {mask.dtype}", "a bool mask", "compare it with something first")
    if source.dtype != x.dtype:
        raise ShapeError(f"a source of {source.dtype}", f"{x.dtype}, as the input", "put a Cast in front")
    if tuple(broadcast(x.shape, mask.shape)) != x.shape:
        raise ShapeError(f"a mask {list(mask.shape)} for {list(x.shape)}", "a mask that broadcasts to the input")
    return (x,)


def _masked_torch(ctx: TorchContext) -> str:
    x, mask, source = ctx.inputs
    return f"{x}.masked_scatter({mask}, {source})"


def _masked_onnx(ctx: OnnxContext) -> tuple[str, ...]:
    """The n-th place where the mask holds takes the n-th element of the source."""
    x, mask, source = ctx.inputs
    full = ctx.op("Expand", mask, ctx.op("Shape", x))
    flat = ctx.op("Reshape", ctx.op("Cast", full, to=7), ctx.const([-1]))
    count = ctx.op("Sub", ctx.op("CumSum", flat, ctx.const(0)), ctx.const(1))
    place = ctx.op("Max", count, ctx.const(0))
    last = ctx.op("Sub", ctx.op("Size", source), ctx.const(1))
    picked = ctx.op("Gather", ctx.op("Reshape", source, ctx.const([-1])), ctx.op("Min", place, last), axis=0)
    return (ctx.op("Where", full, ctx.op("Reshape", picked, ctx.op("Shape", x)), x),)


MASKED_SCATTER = OpDef(
    name="MaskedScatter",
    family="selection",
    inputs=("x", "mask", "source"),
    result=_masked_result,
    to_torch=_masked_torch,
    to_onnx=_masked_onnx,
    is_function=True,
    samples=(
        Sample(inputs=("float32[batch,seq,4]", "bool[batch,seq,1]", "float32[batch,seq,4]")),
        Sample(inputs=("float32[batch,seq,4]", "bool[batch,seq,4]", "float32[batch,20]")),
    ),
    refused=(
        Sample(inputs=("float32[2,4]", "float32[2,4]", "float32[2,4]"), message="a bool mask"),
        Sample(inputs=("float32[2,4]", "bool[2,1]", "int64[2,4]"), message="float32, as the input"),
        Sample(inputs=("float32[2,1]", "bool[2,4]", "float32[2,4]"), message="broadcasts to the input"),
    ),
    doc="Where the mask holds, the elements of the source in order: image features into a row of words.",
)

SELECTION = (TOP_K, SCATTER_ELEMENTS, MASKED_SCATTER)
