"""Reductions over axes, ArgMax and running sums."""

from collections.abc import Callable

from genmad.ir.diagnostics import ShapeError
from genmad.ir.opdef import Attr, Attrs, OnnxContext, OpDef, Sample, TorchContext, Types
from genmad.ir.types import Dim, DType, TensorType, product
from genmad.ops.elementwise import cast
from genmad.ops.shape_rules import (
    AXES,
    AXIS,
    KEEPDIMS,
    axis_index,
    axis_indices,
    literal,
    need_any,
    need_float,
    need_number,
    operand,
)

Rule = Callable[[Types, Attrs], tuple[TensorType, ...]]


def _reduced(x: TensorType, axes: tuple[int, ...], keepdims: bool) -> TensorType:
    if not axes:
        raise ShapeError("axes=()", f"at least one axis of {x.rank}")
    gone = axis_indices(axes, x.rank)
    if keepdims:
        return x.with_shape(1 if i in gone else d for i, d in enumerate(x.shape))
    return x.with_shape(d for i, d in enumerate(x.shape) if i not in gone)


def _rule(need: Callable[[TensorType], TensorType], *, widen: bool = False) -> Rule:
    def rule(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
        x = need(operand(types))
        out = _reduced(x, attrs["axes"], attrs["keepdims"])
        return (out if not widen or x.dtype.is_float else out.with_dtype(DType.INT64),)

    return rule


def _dim_keywords(attrs: Attrs) -> str:
    axes = attrs["axes"]
    dim = str(axes[0]) if len(axes) == 1 else literal(axes)
    return f"dim={dim}, keepdim=True" if attrs["keepdims"] else f"dim={dim}"


def _onnx_reduce(ctx: OnnxContext, op_type: str, x: str) -> str:
    axes = ctx.const(list(ctx.attrs["axes"]))
    return str(ctx.op(op_type, x, axes, keepdims=int(ctx.attrs["keepdims"])))


def _reduce(name: str, method: str, doc: str, rule: Rule) -> OpDef:
    def to_torch(ctx: TorchContext) -> str:
        return f"{ctx.inputs[0]}.{method}({_dim_keywords(ctx.attrs)})"

    def to_onnx(ctx: OnnxContext) -> tuple[str, ...]:
        x = cast(ctx, ctx.inputs[0], operand(ctx.types).dtype, ctx.results[0].dtype)
        return (_onnx_reduce(ctx, name, x),)

    return OpDef(
        name=name,
        family="reduce",
        inputs=("x",),
        attrs=(AXES, KEEPDIMS),
        result=rule,
        to_torch=to_torch,
        to_onnx=to_onnx,
        samples=(
            Sample(inputs=("float32[batch,seq,8]",), attrs={"axes": (-1,), "keepdims": True}),
            Sample(inputs=("float32[batch,4,5,6]",), attrs={"axes": (2, 3)}),
            Sample(inputs=("float32[batch,seq,8]",), attrs={"axes": (1,)}),
        ),
        refused=(
            Sample(inputs=("float32[2,3]",), attrs={"axes": (2,)}, message="an axis from -2 to 1"),
            Sample(inputs=("float32[2,3]",), attrs={"axes": (1, -1)}, message="each axis once"),
        ),
        doc=doc,
    )


REDUCE_MEAN = _reduce("ReduceMean", "mean", "Mean over axes.", _rule(need_float))
REDUCE_SUM = _reduce("ReduceSum", "sum", "Sum over axes; integers and bool give int64.", _rule(need_any, widen=True))
REDUCE_MAX = _reduce("ReduceMax", "amax", "Largest value over axes.", _rule(need_number))
REDUCE_MIN = _reduce("ReduceMin", "amin", "Smallest value over axes.", _rule(need_number))


def _argmax_result(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    x = need_number(operand(types))
    return (_reduced(x, (attrs["axis"],), attrs["keepdims"]).with_dtype(DType.INT64),)


def _argmax_torch(ctx: TorchContext) -> str:
    keep = ", keepdim=True" if ctx.attrs["keepdims"] else ""
    return f"{ctx.inputs[0]}.argmax(dim={ctx.attrs['axis']}{keep})"


ARG_MAX = OpDef(
    name="ArgMax",
    family="reduce",
    inputs=("x",),
    attrs=(AXIS, KEEPDIMS),
    result=_argmax_result,
    to_torch=_argmax_torch,
    to_onnx=lambda ctx: (ctx.op("ArgMax", ctx.inputs[0], axis=ctx.attrs["axis"], keepdims=int(ctx.attrs["keepdims"])),),
    samples=(
        Sample(inputs=("float32[batch,seq,8]",), attrs={"axis": -1}),
        Sample(inputs=("float32[batch,8]",), attrs={"axis": 1, "keepdims": True}),
    ),
    refused=(Sample(inputs=("float32[2,3]",), attrs={"axis": 2}, message="an axis from -2 to 1"),),
    doc="Index of the largest value along an axis, the first one on a tie.",
)


def _cumsum_result(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    x = operand(types)
    axis_index(attrs["axis"], x.rank)
    return (x if x.dtype.is_float else x.with_dtype(DType.INT64),)


def _cumsum_onnx(ctx: OnnxContext) -> tuple[str, ...]:
    x = cast(ctx, ctx.inputs[0], operand(ctx.types).dtype, ctx.results[0].dtype)
    return (ctx.op("CumSum", x, ctx.const(ctx.attrs["axis"])),)


CUM_SUM = OpDef(
    name="CumSum",
    family="reduce",
    inputs=("x",),
    attrs=(AXIS,),
    result=_cumsum_result,
    to_torch=lambda ctx: f"{ctx.inputs[0]}.cumsum(dim={ctx.attrs['axis']})",
    to_onnx=_cumsum_onnx,
    samples=(
        Sample(inputs=("float32[batch,seq,8]",), attrs={"axis": 1}),
        Sample(inputs=("int32[batch,seq]",), attrs={"axis": -1}),
    ),
    refused=(Sample(inputs=("float32[2]",), attrs={"axis": 1}, message="an axis from -1 to 0"),),
    doc="Running sum along an axis; integers and bool give int64.",
)


def _variance_result(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    x = need_float(operand(types))
    return (_reduced(x, attrs["axes"], attrs["keepdims"]),)


def _reduced_size(ctx: OnnxContext) -> Dim:
    x = operand(ctx.types)
    return product(x.shape[axis] for axis in ctx.attrs["axes"])


def _variance_onnx(ctx: OnnxContext) -> tuple[str, ...]:
    x, dtype = ctx.inputs[0], ctx.results[0].dtype.value
    axes = ctx.const(list(ctx.attrs["axes"]))
    centred = ctx.op("Sub", x, ctx.op("ReduceMean", x, axes, keepdims=1))
    total = _onnx_reduce(ctx, "ReduceSum", ctx.op("Mul", centred, centred))
    size = _reduced_size(ctx)
    if isinstance(size, int):
        return (ctx.op("Div", total, ctx.const(float(size - ctx.attrs["correction"]), dtype)),)
    count = ctx.op("Cast", ctx.op("Squeeze", ctx.shape([size]), ctx.const([0])), to=dtype)
    return (ctx.op("Div", total, ctx.op("Sub", count, ctx.const(float(ctx.attrs["correction"]), dtype))),)


VARIANCE = OpDef(
    name="Variance",
    family="reduce",
    inputs=("x",),
    attrs=(AXES, Attr("correction", "int", 1, at_least=0, doc="Taken off the count; 1 is unbiased."), KEEPDIMS),
    result=_variance_result,
    to_torch=lambda ctx: f"{ctx.inputs[0]}.var({_dim_keywords(ctx.attrs)}, correction={ctx.attrs['correction']})",
    to_onnx=_variance_onnx,
    is_function=True,
    samples=(
        Sample(inputs=("float32[batch,seq,8]",), attrs={"axes": (-1,), "correction": 0, "keepdims": True}),
        Sample(inputs=("float32[batch,seq,8]",), attrs={"axes": (1,)}),
    ),
    refused=(Sample(inputs=("int64[2,3]",), attrs={"axes": (1,)}, message="a floating-point tensor"),),
    doc="Variance over axes, divided by the count less `correction`.",
)

REDUCE = (REDUCE_MEAN, REDUCE_SUM, REDUCE_MAX, REDUCE_MIN, ARG_MAX, CUM_SUM, VARIANCE)
