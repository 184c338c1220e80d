"""Ops without inputs: free parameters, constants, filled tensors and ranges."""

import math

from genmad.ir.diagnostics import ShapeError
from genmad.ir.opdef import Attr, Attrs, OnnxContext, OpDef, Param, Sample, TorchContext, Types
from genmad.ir.types import DType, TensorType
from genmad.ops.elementwise import number
from genmad.ops.shape_rules import literal

MAX_CONSTANT = 4096
_DTYPES = tuple(t.value for t in DType)
_SHAPE = Attr("shape", "ints", at_least=0, doc="Shape of the tensor; () for a scalar.")


def _dtype(default: str) -> Attr:
    return Attr("dtype", "str", default, choices=_DTYPES, doc="dtype of the tensor.")


def _fixed_type(_types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    return (TensorType(DType(attrs["dtype"]), attrs["shape"]),)


PARAMETER = OpDef(
    name="Parameter",
    family="constant",
    inputs=(),
    attrs=(
        _SHAPE,
        _dtype("float32"),
        Attr("trainable", "bool", True, doc="False for a buffer."),
        Attr("init", "str", "normal:0.02", doc="zeros, ones, normal:STD or kaiming."),
    ),
    result=_fixed_type,
    params=lambda _types, attrs: (
        Param("value", TensorType(DType(attrs["dtype"]), attrs["shape"]), attrs["init"], attrs["trainable"]),
    ),
    to_torch=lambda ctx: ctx.param("value"),
    to_onnx=lambda ctx: (ctx.param("value"),),
    samples=(
        Sample(inputs=(), attrs={"shape": (1, 1, 8)}),
        Sample(inputs=(), attrs={"shape": (4,), "trainable": False, "init": "ones"}),
    ),
    refused=(Sample(inputs=(), attrs={"shape": (4,), "dtype": "int128"}, message="one of float32"),),
    doc="A learned tensor (or a buffer) that is not part of a layer: class tokens, position tables.",
)


def _constant_result(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    values, count = attrs["values"], math.prod(attrs["shape"])
    if not isinstance(values, tuple) or not all(isinstance(v, (bool, int, float)) for v in values):
        raise ShapeError(f"values={values!r}", "a flat tuple of numbers")
    if len(values) != count:
        raise ShapeError(f"{len(values)} values for shape={attrs['shape']}", f"{count} values")
    if count > MAX_CONSTANT:
        raise ShapeError(f"{count} values", f"at most {MAX_CONSTANT}", "use a Parameter with trainable=False")
    return _fixed_type(types, attrs)


def _typed(attrs: Attrs) -> list[float]:
    dtype = DType(attrs["dtype"])
    kind = float if dtype.is_float else bool if dtype is DType.BOOL else int
    return [kind(v) for v in attrs["values"]]


def _constant_torch(ctx: TorchContext) -> str:
    values, shape = _typed(ctx.attrs), ctx.attrs["shape"]
    dtype = f"dtype=torch.{ctx.attrs['dtype']}"
    if shape == ():
        return f"torch.tensor({literal(values[0])}, {dtype})"
    reshape = f".reshape({literal(shape)})" if len(shape) != 1 else ""
    return f"torch.tensor([{', '.join(map(literal, values))}], {dtype}){reshape}"


def _nested(values: list[float], shape: tuple[int, ...]) -> object:
    if not shape:
        return values[0]
    size = math.prod(shape[1:])
    return [_nested(values[i * size : (i + 1) * size], shape[1:]) for i in range(shape[0])]


CONSTANT_OP = OpDef(
    name="Constant",
    family="constant",
    inputs=(),
    attrs=(Attr("values", "any", doc="The elements in row-major order."), _SHAPE, _dtype("float32")),
    result=_constant_result,
    to_torch=_constant_torch,
    to_onnx=lambda ctx: (ctx.const(_nested(_typed(ctx.attrs), ctx.attrs["shape"]), ctx.attrs["dtype"]),),
    samples=(
        Sample(inputs=(), attrs={"values": (1.0, 2.5, -3.0, float("inf")), "shape": (2, 2)}),
        Sample(inputs=(), attrs={"values": (7,), "shape": (), "dtype": "int64"}),
        Sample(inputs=(), attrs={"values": (True, False), "shape": (2,), "dtype": "bool"}),
    ),
    refused=(
        Sample(inputs=(), attrs={"values": (1.0, 2.0), "shape": (3,)}, message="3 values"),
        Sample(inputs=(), attrs={"values": (0.0,) * 5000, "shape": (5000,)}, message="at most 4096"),
    ),
    doc="A small fixed tensor.",
)


def _full_torch(ctx: TorchContext) -> str:
    dims = ctx.dims(ctx.attrs["shape"])
    size = f"({dims},)" if len(ctx.attrs["shape"]) == 1 else f"({dims})"
    dtype = DType(ctx.attrs["dtype"])
    value = literal(bool(ctx.attrs["value"])) if dtype is DType.BOOL else number(ctx.attrs["value"], dtype)
    return f"torch.full({size}, {value}, dtype=torch.{dtype})"


def _full_onnx(ctx: OnnxContext) -> tuple[str, ...]:
    dtype = DType(ctx.attrs["dtype"])
    value = ctx.attrs["value"] if dtype.is_float else int(ctx.attrs["value"])
    return (ctx.op("Expand", ctx.const(value, dtype.value), ctx.shape(ctx.attrs["shape"])),)


FULL = OpDef(
    name="Full",
    family="constant",
    inputs=(),
    attrs=(
        Attr("shape", "dims", at_least=0, doc="Shape of the tensor, possibly symbolic."),
        Attr("value", "float", 0.0, doc="The number in every place."),
        _dtype("float32"),
    ),
    result=_fixed_type,
    to_torch=_full_torch,
    to_onnx=_full_onnx,
    samples=(
        Sample(inputs=(), attrs={"shape": (2, 3), "value": 1.5}),
        Sample(inputs=(), attrs={"shape": (4,), "value": 1.0, "dtype": "int64"}),
    ),
    refused=(Sample(inputs=(), attrs={"shape": (-1, 3)}, message="at least 0"),),
    doc="A tensor with one number in every place.",
)


def _arange_result(_types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    length = attrs["end"] - attrs["start"]
    step = attrs["step"]
    count = length if step == 1 else (length + (step - 1)) // step
    if isinstance(count, int) and count <= 0:
        raise ShapeError(f"start={attrs['start']}, end={attrs['end']}", "start before end")
    return (TensorType(DType(attrs["dtype"]), (count,)),)


def _arange_torch(ctx: TorchContext) -> str:
    start, end, step = ctx.dim(ctx.attrs["start"]), ctx.dim(ctx.attrs["end"]), ctx.attrs["step"]
    bounds = end if ctx.attrs["start"] == 0 and step == 1 else f"{start}, {end}{f', {step}' if step != 1 else ''}"
    dtype = "" if ctx.attrs["dtype"] == "int64" else f", dtype=torch.{ctx.attrs['dtype']}"
    return f"torch.arange({bounds}{dtype})"


def _arange_onnx(ctx: OnnxContext) -> tuple[str, ...]:
    first = ctx.const([0])
    start, end = (
        ctx.const(d) if isinstance(d, int) else ctx.op("Squeeze", ctx.shape([d]), first)
        for d in (ctx.attrs["start"], ctx.attrs["end"])
    )
    out = ctx.op("Range", start, end, ctx.const(ctx.attrs["step"]))
    return (out if ctx.attrs["dtype"] == "int64" else ctx.op("Cast", out, to=ctx.attrs["dtype"]),)


ARANGE = OpDef(
    name="Arange",
    family="constant",
    inputs=(),
    attrs=(
        Attr("start", "dim", 0, doc="First number."),
        Attr("end", "dim", doc="The numbers stop before this one."),
        Attr("step", "int", 1, at_least=1, doc="Distance between numbers."),
        _dtype("int64"),
    ),
    result=_arange_result,
    to_torch=_arange_torch,
    to_onnx=_arange_onnx,
    samples=(
        Sample(inputs=(), attrs={"end": 7}),
        Sample(inputs=(), attrs={"start": 1, "end": 8, "step": 3, "dtype": "float32"}),
    ),
    refused=(Sample(inputs=(), attrs={"start": 3, "end": 3}, message="start before end"),),
    doc="The numbers from start up to end; position ids are Arange(end=seq).",
)

CONSTANT = (PARAMETER, CONSTANT_OP, FULL, ARANGE)
