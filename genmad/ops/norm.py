"""Normalization: statistics over some axes, then a learned scale and shift."""

from genmad.ir.diagnostics import ShapeError
from genmad.ir.opdef import Attr, Attrs, OnnxContext, OpDef, Param, Sample, TorchContext, Types
from genmad.ir.types import TensorType
from genmad.ops.activation import float_const
from genmad.ops.shape_rules import axis_index, known, literal, need_divides, need_float, need_rank, operand

AFFINE = Attr("affine", "bool", default=True, doc="Whether the result is scaled and shifted by learned vectors.")


def _eps(default: float) -> Attr:
    return Attr("eps", "float", default=default, at_least=0.0, doc="Added for numerical stability.")


def _channels(types: Types) -> tuple[TensorType, int]:
    """x [B, C, ...] and C."""
    x = need_rank(need_float(operand(types)), 2)
    return x, known(x.shape[1], "channels")


def _pair(x: TensorType, *shape: int) -> tuple[Param, ...]:
    full = TensorType(x.dtype, shape)
    return (Param("weight", full, "ones"), Param("bias", full, "zeros"))


def _batch_norm_params(types: Types, _attrs: Attrs) -> tuple[Param, ...]:
    x, channels = _channels(types)
    vector = TensorType(x.dtype, (channels,))
    mean = Param("running_mean", vector, "zeros", trainable=False)
    return (*_pair(x, channels), mean, Param("running_var", vector, "ones", trainable=False))


def _batch_norm_result(types: Types, _attrs: Attrs) -> tuple[TensorType, ...]:
    return (_channels(types)[0],)


def _batch_norm_torch(ctx: TorchContext) -> str:
    mean, var, weight, bias = (ctx.param(slot) for slot in ("running_mean", "running_var", "weight", "bias"))
    eps = literal(ctx.attrs["eps"])
    return f"F.batch_norm({ctx.inputs[0]}, {mean}, {var}, {weight}, {bias}, training=self.training, eps={eps})"


def _batch_norm_onnx(ctx: OnnxContext) -> tuple[str, ...]:
    params = [ctx.param(slot) for slot in ("weight", "bias", "running_mean", "running_var")]
    return (ctx.op("BatchNormalization", ctx.inputs[0], *params, epsilon=ctx.attrs["eps"]),)


BATCH_NORM = OpDef(
    name="BatchNorm",
    family="norm",
    inputs=("x",),
    attrs=(_eps(1e-5),),
    result=_batch_norm_result,
    params=_batch_norm_params,
    to_torch=_batch_norm_torch,
    # Not nn.BatchNorm2d: that has one more key (num_batches_tracked), which the graph has not.
    torch_module=lambda types, attrs: f"BatchNorm({operand(types).shape[1]}, eps={literal(attrs['eps'])})",
    to_onnx=_batch_norm_onnx,
    samples=(
        Sample(inputs=("float32[batch,6,5,5]",)),
        Sample(inputs=("float32[batch,6]",), attrs={"eps": 1e-3}),
        Sample(inputs=("float32[batch,6,seq]",)),
    ),
    refused=(
        Sample(inputs=("float32[batch,seq,8]",), message="channels=seq"),
        Sample(inputs=("float32[6]",), message="at least 2 axes"),
    ),
    doc="Normalizes axis 1 with running statistics. Ioffe and Szegedy, arXiv 1502.03167.",
)


def _layer_shape(types: Types, attrs: Attrs) -> tuple[TensorType, tuple[int, ...]]:
    x = need_rank(need_float(operand(types)), 1)
    count = attrs["num_axes"]
    if count > x.rank:
        raise ShapeError(f"num_axes={count} for {x}", f"at most {x.rank}", f"use num_axes from 1 to {x.rank}")
    return x, tuple(known(dim, "a normalized axis") for dim in x.shape[-count:])


def _layer_norm_result(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    return (_layer_shape(types, attrs)[0],)


def _layer_norm_params(types: Types, attrs: Attrs) -> tuple[Param, ...]:
    x, shape = _layer_shape(types, attrs)
    pair = _pair(x, *shape)
    return (pair if attrs["bias"] else pair[:1]) if attrs["affine"] else ()


def _layer_norm_torch(ctx: TorchContext) -> str:
    shape = operand(ctx.types).shape[-ctx.attrs["num_axes"] :]
    weight = ctx.param("weight") if ctx.attrs["affine"] else "None"
    bias = ctx.param("bias") if ctx.attrs["affine"] and ctx.attrs["bias"] else "None"
    return f"F.layer_norm({ctx.inputs[0]}, {literal(shape)}, {weight}, {bias}, eps={literal(ctx.attrs['eps'])})"


def _layer_norm_module(types: Types, attrs: Attrs) -> str:
    shape = operand(types).shape[-attrs["num_axes"] :]
    size = literal(shape if len(shape) > 1 else shape[0])
    bias = "" if attrs["bias"] else ", bias=False"
    return f"nn.LayerNorm({size}, eps={literal(attrs['eps'])}{bias})" if attrs["affine"] else ""


def _layer_norm_onnx(ctx: OnnxContext) -> tuple[str, ...]:
    shape = operand(ctx.types).shape[-ctx.attrs["num_axes"] :]
    dtype = str(operand(ctx.types).dtype)
    affine = ctx.attrs["affine"]
    scale = ctx.param("weight") if affine else ctx.op("Expand", ctx.const(1.0, dtype), ctx.shape(shape))
    more = (ctx.param("bias"),) if ctx.attrs["affine"] and ctx.attrs["bias"] else ()
    count, eps = ctx.attrs["num_axes"], ctx.attrs["eps"]
    return (ctx.op("LayerNormalization", ctx.inputs[0], scale, *more, axis=-count, epsilon=eps),)


LAYER_NORM = OpDef(
    name="LayerNorm",
    family="norm",
    inputs=("x",),
    attrs=(
        _eps(1e-5),
        Attr("num_axes", "int", default=1, at_least=1, doc="How many of the last axes are normalized together."),
        AFFINE,
        Attr("bias", "bool", default=True, doc="Whether affine includes a shift."),
    ),
    result=_layer_norm_result,
    params=_layer_norm_params,
    to_torch=_layer_norm_torch,
    torch_module=_layer_norm_module,
    to_onnx=_layer_norm_onnx,
    samples=(
        Sample(inputs=("float32[batch,seq,8]",)),
        Sample(inputs=("float32[batch,4,5,6]",), attrs={"num_axes": 3, "eps": 1e-6}),
        Sample(inputs=("float32[batch,seq,8]",), attrs={"bias": False}),
        Sample(inputs=("float32[batch,seq,8]",), attrs={"affine": False}),
    ),
    refused=(
        Sample(inputs=("float32[batch,8]",), attrs={"num_axes": 3}, message="use num_axes from 1 to 2"),
        Sample(inputs=("float32[batch,seq]",), message="a size known when the graph is built"),
        Sample(inputs=("int64[batch,8]",), message="a floating-point tensor"),
    ),
    doc="(x - mean) / sqrt(var + eps) over the last axes, scaled and shifted. Ba et al., arXiv 1607.06450.",
)


def _rms_result(types: Types, _attrs: Attrs) -> tuple[TensorType, ...]:
    x = need_rank(need_float(operand(types)), 1)
    known(x.shape[-1], "the normalized axis")
    return (x,)


def _rms_params(types: Types, attrs: Attrs) -> tuple[Param, ...]:
    x = operand(types)
    init = "zeros" if attrs["offset"] == 1.0 else "ones"
    return (Param("weight", TensorType(x.dtype, x.shape[-1:]), init),) if attrs["affine"] else ()


def _rms_torch(ctx: TorchContext) -> str:
    offset, width = ctx.attrs["offset"], operand(ctx.types).shape[-1]
    weight = ctx.param("weight") if ctx.attrs["affine"] else "None"
    if ctx.attrs["affine"] and offset:
        weight = f"{literal(offset)} + {weight}"
    return f"F.rms_norm({ctx.inputs[0]}, ({width},), {weight}, eps={literal(ctx.attrs['eps'])})"


def _rms_module(types: Types, attrs: Attrs) -> str:
    if attrs["offset"] or not attrs["affine"]:
        return ""
    return f"nn.RMSNorm({operand(types).shape[-1]}, eps={literal(attrs['eps'])})"


def _rms_onnx(ctx: OnnxContext) -> tuple[str, ...]:
    x = ctx.inputs[0]
    square = ctx.op("ReduceMean", ctx.op("Mul", x, x), ctx.const([-1]), keepdims=1)
    root = ctx.op("Sqrt", ctx.op("Add", square, float_const(ctx, ctx.attrs["eps"])))
    y = ctx.op("Div", x, root)
    if not ctx.attrs["affine"]:
        return (y,)
    weight = ctx.param("weight")
    if ctx.attrs["offset"]:
        weight = ctx.op("Add", weight, float_const(ctx, ctx.attrs["offset"]))
    return (ctx.op("Mul", y, weight),)


RMS_NORM = OpDef(
    name="RMSNorm",
    family="norm",
    inputs=("x",),
    attrs=(
        _eps(1e-6),
        Attr("offset", "float", default=0.0, doc="Added to the weight; 1.0 in Gemma, whose weights start at zero."),
        Attr("affine", "bool", default=True, doc="Whether the result is scaled by a learned vector."),
    ),
    result=_rms_result,
    params=_rms_params,
    to_torch=_rms_torch,
    torch_module=_rms_module,
    to_onnx=_rms_onnx,
    is_function=True,
    samples=(
        Sample(inputs=("float32[batch,seq,8]",)),
        Sample(inputs=("float32[batch,seq,8]",), attrs={"offset": 1.0, "eps": 1e-5}),
        Sample(inputs=("float32[batch,seq,2,8]",), attrs={"affine": False}),
    ),
    refused=(
        Sample(inputs=("float32[batch,seq]",), message="the normalized axis=seq"),
        Sample(inputs=("float32[8]",), attrs={"eps": -1.0}, message="at least 0.0"),
    ),
    doc="x / sqrt(mean(x^2) + eps) over the last axis, times (weight + offset). arXiv 1910.07467.",
)


def _group_norm_result(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    x, channels = _channels(types)
    need_divides(attrs["num_groups"], channels, "num_groups", "channels")
    return (x,)


def _affine_params(types: Types, attrs: Attrs) -> tuple[Param, ...]:
    x, channels = _channels(types)
    return _pair(x, channels) if attrs["affine"] else ()


def _weight_and_bias(ctx: TorchContext) -> str:
    return f"{ctx.param('weight')}, {ctx.param('bias')}" if ctx.attrs["affine"] else "None, None"


def _group_norm_torch(ctx: TorchContext) -> str:
    groups, eps = ctx.attrs["num_groups"], literal(ctx.attrs["eps"])
    return f"F.group_norm({ctx.inputs[0]}, {groups}, {_weight_and_bias(ctx)}, eps={eps})"


def _group_norm_module(types: Types, attrs: Attrs) -> str:
    channels = operand(types).shape[1]
    return f"nn.GroupNorm({attrs['num_groups']}, {channels}, eps={literal(attrs['eps'])})" if attrs["affine"] else ""


def _channel_affine(ctx: OnnxContext, y: str) -> str:
    """y * weight + bias along axis 1 of y."""
    x = operand(ctx.types)
    shape = ctx.const([-1, *[1] * (x.rank - 2)])
    for op_type, slot in (("Mul", "weight"), ("Add", "bias")):
        y = ctx.op(op_type, y, ctx.op("Reshape", ctx.param(slot), shape))
    return y


def _group_norm_onnx(ctx: OnnxContext) -> tuple[str, ...]:
    """Opset 18's own GroupNormalization has one scale per group, not per channel, and was withdrawn."""
    x, dtype, groups = ctx.inputs[0], str(operand(ctx.types).dtype), ctx.attrs["num_groups"]
    split = ctx.op("Reshape", x, ctx.const([0, groups, -1]))
    ones, zeros = ctx.const([1.0] * groups, dtype), ctx.const([0.0] * groups, dtype)
    normal = ctx.op("InstanceNormalization", split, ones, zeros, epsilon=ctx.attrs["eps"])
    y = ctx.op("Reshape", normal, ctx.op("Shape", x))
    return (_channel_affine(ctx, y) if ctx.attrs["affine"] else y,)


GROUP_NORM = OpDef(
    name="GroupNorm",
    family="norm",
    inputs=("x",),
    attrs=(Attr("num_groups", "int", at_least=1, doc="Groups of channels; divides their number."), _eps(1e-5), AFFINE),
    result=_group_norm_result,
    params=_affine_params,
    to_torch=_group_norm_torch,
    torch_module=_group_norm_module,
    to_onnx=_group_norm_onnx,
    is_function=True,
    samples=(
        Sample(inputs=("float32[batch,6,5,5]",), attrs={"num_groups": 3}),
        Sample(inputs=("float32[batch,6,seq]",), attrs={"num_groups": 1}),
        Sample(inputs=("float32[batch,6]",), attrs={"num_groups": 2}),
        Sample(inputs=("float32[batch,6,4]",), attrs={"num_groups": 2, "affine": False}),
    ),
    refused=(Sample(inputs=("float32[batch,6,5,5]",), attrs={"num_groups": 4}, message="use num_groups 1, 2, 3 or 6"),),
    doc="LayerNorm over groups of channels and all positions. Wu and He, arXiv 1803.08494.",
)


def _instance_norm_result(types: Types, _attrs: Attrs) -> tuple[TensorType, ...]:
    x, _ = _channels(types)
    need_rank(x, 3, 5)
    if all(dim == 1 for dim in x.shape[2:]):
        raise ShapeError(f"one position, {x}", "two or more positions to normalize over", "use LayerNorm or GroupNorm")
    return (x,)


def _instance_norm_torch(ctx: TorchContext) -> str:
    eps = literal(ctx.attrs["eps"])
    return f"F.instance_norm({ctx.inputs[0]}, None, None, {_weight_and_bias(ctx)}, eps={eps})"


def _instance_norm_module(types: Types, attrs: Attrs) -> str:
    x = operand(types)
    if not attrs["affine"]:
        return ""
    return f"nn.InstanceNorm{x.rank - 2}d({x.shape[1]}, eps={literal(attrs['eps'])}, affine=True)"


def _instance_norm_onnx(ctx: OnnxContext) -> tuple[str, ...]:
    if ctx.attrs["affine"]:
        pair = (ctx.param("weight"), ctx.param("bias"))
    else:
        x, count = operand(ctx.types), known(operand(ctx.types).shape[1], "channels")
        pair = (ctx.const([1.0] * count, str(x.dtype)), ctx.const([0.0] * count, str(x.dtype)))
    return (ctx.op("InstanceNormalization", ctx.inputs[0], *pair, epsilon=ctx.attrs["eps"]),)


INSTANCE_NORM = OpDef(
    name="InstanceNorm",
    family="norm",
    inputs=("x",),
    attrs=(_eps(1e-5), AFFINE),
    result=_instance_norm_result,
    params=_affine_params,
    to_torch=_instance_norm_torch,
    torch_module=_instance_norm_module,
    to_onnx=_instance_norm_onnx,
    samples=(
        Sample(inputs=("float32[batch,6,5,5]",)),
        Sample(inputs=("float32[batch,6,seq]",), attrs={"affine": False}),
    ),
    refused=(
        Sample(inputs=("float32[batch,6]",), message="3 to 5 axes"),
        Sample(inputs=("float32[batch,6,1,1]",), message="two or more positions"),
    ),
    doc="Normalizes each channel of each example over its positions. Ulyanov et al., arXiv 1607.08022.",
)


def _axis_result(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    x = need_rank(need_float(operand(types)), 1)
    axis_index(attrs["axis"], x.rank)
    return (x,)


def _l2_onnx(ctx: OnnxContext) -> tuple[str, ...]:
    norm = ctx.op("ReduceL2", ctx.inputs[0], ctx.const([ctx.attrs["axis"]]), keepdims=1)
    return (ctx.op("Div", ctx.inputs[0], ctx.op("Max", norm, float_const(ctx, ctx.attrs["eps"]))),)


L2_NORM = OpDef(
    name="L2Norm",
    family="norm",
    inputs=("x",),
    attrs=(Attr("axis", "int", default=-1, doc="Axis along which the length becomes one."), _eps(1e-12)),
    result=_axis_result,
    to_torch=lambda ctx: f"F.normalize({ctx.inputs[0]}, dim={ctx.attrs['axis']}, eps={literal(ctx.attrs['eps'])})",
    to_onnx=_l2_onnx,
    is_function=True,
    samples=(
        Sample(inputs=("float32[batch,seq,8]",)),
        Sample(inputs=("float32[batch,4,5,5]",), attrs={"axis": 1, "eps": 1e-6}),
    ),
    refused=(Sample(inputs=("float32[batch,8]",), attrs={"axis": 2}, message="an axis from -2 to 1"),),
    doc="x / max(|x|, eps) along one axis.",
)


def _scale_params(types: Types, attrs: Attrs) -> tuple[Param, ...]:
    x = operand(types)
    size = known(x.shape[axis_index(attrs["axis"], x.rank)], "the scaled axis")
    return (Param("weight", TensorType(x.dtype, (size,)), "ones"),)


def _scale_result(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    out = _axis_result(types, attrs)
    _scale_params(types, attrs)
    return out


def _scale_shape(types: Types, attrs: Attrs) -> tuple[int, ...]:
    rank = operand(types).rank
    return (-1, *[1] * (rank - 1 - axis_index(attrs["axis"], rank)))


def _scale_torch(ctx: TorchContext) -> str:
    shape, weight = _scale_shape(ctx.types, ctx.attrs), ctx.param("weight")
    return f"{ctx.inputs[0]} * {weight}" + (f".view{literal(shape)}" if len(shape) > 1 else "")


def _scale_onnx(ctx: OnnxContext) -> tuple[str, ...]:
    shape, weight = _scale_shape(ctx.types, ctx.attrs), ctx.param("weight")
    if len(shape) > 1:
        weight = ctx.op("Reshape", weight, ctx.const(list(shape)))
    return (ctx.op("Mul", ctx.inputs[0], weight),)


SCALE = OpDef(
    name="Scale",
    family="norm",
    inputs=("x",),
    attrs=(Attr("axis", "int", default=-1, doc="Axis that the weight runs along."),),
    result=_scale_result,
    params=_scale_params,
    to_torch=_scale_torch,
    to_onnx=_scale_onnx,
    is_function=True,
    samples=(
        Sample(inputs=("float32[batch,seq,8]",)),
        Sample(inputs=("float32[batch,4,5,5]",), attrs={"axis": 1}),
    ),
    refused=(
        Sample(inputs=("float32[batch,seq,8]",), attrs={"axis": 1}, message="the scaled axis=seq"),
        Sample(inputs=("float32[8]",), attrs={"axis": 1}, message="an axis from -1 to 0"),
    ),
    doc="x times a learned vector along one axis; LayerScale of arXiv 2103.17239.",
)


def _channel_layer_torch(ctx: TorchContext) -> str:
    channels, eps = operand(ctx.types).shape[1], literal(ctx.attrs["eps"])
    moved = f"{ctx.inputs[0]}.movedim(1, -1)"
    return f"F.layer_norm({moved}, ({channels},), {ctx.param('weight')}, {ctx.param('bias')}, eps={eps}).movedim(-1, 1)"


def _channel_layer_onnx(ctx: OnnxContext) -> tuple[str, ...]:
    rank = operand(ctx.types).rank
    there = (0, *range(2, rank), 1)
    back = (0, rank - 1, *range(1, rank - 1))
    moved = ctx.op("Transpose", ctx.inputs[0], perm=there)
    y = ctx.op("LayerNormalization", moved, ctx.param("weight"), ctx.param("bias"), axis=-1, epsilon=ctx.attrs["eps"])
    return (ctx.op("Transpose", y, perm=back),)


CHANNEL_LAYER_NORM = OpDef(
    name="ChannelLayerNorm",
    family="norm",
    inputs=("x",),
    attrs=(_eps(1e-6),),
    result=_batch_norm_result,
    params=lambda types, _attrs: _pair(*_channels(types)),
    to_torch=_channel_layer_torch,
    to_onnx=_channel_layer_onnx,
    is_function=True,
    samples=(
        Sample(inputs=("float32[batch,6,5,5]",)),
        Sample(inputs=("float32[batch,6,seq]",), attrs={"eps": 1e-5}),
    ),
    refused=(Sample(inputs=("float32[batch,seq,8]",), message="channels=seq"),),
    doc="LayerNorm over axis 1 of [B, C, ...], at each position; ConvNeXt, arXiv 2201.03545.",
)

NORM = (
    BATCH_NORM,
    LAYER_NORM,
    RMS_NORM,
    GROUP_NORM,
    INSTANCE_NORM,
    L2_NORM,
    SCALE,
    CHANNEL_LAYER_NORM,
)
