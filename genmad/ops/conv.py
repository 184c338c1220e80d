"""Convolutions over [B, C, *spatial], squeeze-and-excite, and long convolutions along a sequence.

B batch, C channels, S sequence, D features, K kernel size, N number of spatial axes.
"""

from typing import TYPE_CHECKING

from genmad.ir.diagnostics import ShapeError
from genmad.ir.opdef import Attr, Attrs, Cost, OnnxContext, OpDef, Param, Sample, TorchContext, Types
from genmad.ir.types import Dim, TensorType, product
from genmad.ops.activation import float_const, inner_attr, inner_onnx, inner_torch
from genmad.ops.shape_rules import divisors, known, literal, need_divides, need_float, need_rank, operand
from genmad.ops.window import (
    DILATION,
    KERNEL_SIZE,
    PADDING,
    STRIDE,
    WindowOp,
    is_symmetric,
    keep_size,
    onnx_window,
    pad_pairs,
    torch_pad,
    window_out,
    window_types,
)

if TYPE_CHECKING:
    import torch

GROUPS = Attr("groups", "int", default=1, at_least=1, doc="Groups of channels that do not see each other.")
OUT_CHANNELS = Attr("out_channels", "int", at_least=1, doc="Size of axis 1 of the output.")
BIAS = Attr("bias", "bool", default=True, doc="Whether a learned value per channel is added.")


def _conv_input(types: Types, attrs: Attrs) -> tuple[TensorType, int]:
    """x and its channels, after checking groups against both channel counts."""
    x = need_float(window_types(types, attrs))
    channels, groups, out = known(x.shape[1], "channels"), attrs["groups"], attrs["out_channels"]
    need_divides(groups, channels, "groups", "in_channels")
    if out % groups:
        got = f"groups={groups}, out_channels={out}"
        raise ShapeError(got, "groups that divides out_channels", f"use groups {divisors(out)}, or other out_channels")
    return x, channels


def _conv_result(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    x, _ = _conv_input(types, attrs)
    return (x.with_shape((x.shape[0], attrs["out_channels"], *window_out(x.shape[2:], attrs))),)


def _bias_params(x: TensorType, attrs: Attrs) -> tuple[Param, ...]:
    return (Param("bias", TensorType(x.dtype, (attrs["out_channels"],)), "zeros"),) if attrs["bias"] else ()


def _conv_params(types: Types, attrs: Attrs) -> tuple[Param, ...]:
    x, channels = _conv_input(types, attrs)
    shape = (attrs["out_channels"], channels // attrs["groups"], *attrs["kernel_size"])
    return (Param("weight", TensorType(x.dtype, shape)), *_bias_params(x, attrs))


def _conv_cost(types: Types, results: Types, attrs: Attrs) -> Cost:
    _, channels = _conv_input(types, attrs)
    return Cost(macs=operand(results).numel * (channels // attrs["groups"]) * product(attrs["kernel_size"]))


def _layer_padding(attrs: Attrs) -> tuple[int, ...]:
    """Padding that the torch call can do itself: zeros where `torch_pad` has padded before it."""
    return attrs["padding"] if is_symmetric(attrs) else (0,) * len(attrs["kernel_size"])


def _conv_torch(ctx: TorchContext) -> str:
    attrs, n = ctx.attrs, len(ctx.attrs["kernel_size"])
    x = torch_pad(str(ctx.inputs[0]), attrs)
    bias = ctx.param("bias") if attrs["bias"] else "None"
    stride, padding, dilation = (literal(v) for v in (attrs["stride"], _layer_padding(attrs), attrs["dilation"]))
    return f"F.conv{n}d({x}, {ctx.param('weight')}, {bias}, {stride}, {padding}, {dilation}, {attrs['groups']})"


def _options(attrs: Attrs, *more: str) -> str:
    """Keyword arguments of a torch layer, only those that differ from its defaults."""
    n = len(attrs["kernel_size"])
    plain = {"stride": (1,) * n, "padding": (0,) * n, "dilation": (1,) * n, "groups": 1, "bias": True}
    names = [*plain, *more]
    return "".join(f", {name}={literal(attrs[name])}" for name in names if attrs[name] != plain.get(name, (0,) * n))


def _conv_module(types: Types, attrs: Attrs) -> str:
    if not is_symmetric(attrs):
        return ""
    sizes = f"{operand(types).shape[1]}, {attrs['out_channels']}, {literal(attrs['kernel_size'])}"
    return f"nn.Conv{len(attrs['kernel_size'])}d({sizes}{_options(attrs)})"


def _conv_onnx(ctx: OnnxContext) -> tuple[str, ...]:
    params = (ctx.param("weight"), ctx.param("bias")) if ctx.attrs["bias"] else (ctx.param("weight"),)
    return (ctx.op("Conv", ctx.inputs[0], *params, group=ctx.attrs["groups"], **onnx_window(ctx.attrs)),)


CONV_OP = WindowOp(
    name="Conv",
    family="conv",
    inputs=("x",),
    attrs=(OUT_CHANNELS, KERNEL_SIZE, STRIDE, PADDING, DILATION, GROUPS, BIAS),
    result=_conv_result,
    params=_conv_params,
    cost=_conv_cost,
    to_torch=_conv_torch,
    torch_module=_conv_module,
    to_onnx=_conv_onnx,
    follow=keep_size,
    samples=(
        Sample(
            inputs=("float32[batch,3,16,16]",),
            attrs={"out_channels": 8, "kernel_size": (3, 3), "stride": (2, 2), "padding": (1, 1)},
        ),
        Sample(
            inputs=("float32[batch,8,9,9]",),
            attrs={"out_channels": 8, "kernel_size": (3, 5), "groups": 8, "dilation": (2, 1), "bias": False},
        ),
        Sample(inputs=("float32[batch,6,seq]",), attrs={"out_channels": 4, "kernel_size": (3,), "padding": (1,)}),
        Sample(
            inputs=("float32[batch,4,8,8]",),
            attrs={"out_channels": 4, "kernel_size": (2, 2), "padding": (0, 0, 1, 1), "groups": 2},
        ),
        Sample(inputs=("float32[batch,2,4,4,4]",), attrs={"out_channels": 3, "kernel_size": (2, 2, 2)}),
    ),
    refused=(
        Sample(
            inputs=("float32[batch,6,8,8]",),
            attrs={"out_channels": 8, "kernel_size": (3, 3), "groups": 4},
            message="use groups 1, 2, 3 or 6",
        ),
        Sample(
            inputs=("float32[batch,6,8,8]",),
            attrs={"out_channels": 8, "kernel_size": (3, 3), "groups": 3},
            message="groups that divides out_channels",
        ),
        Sample(inputs=("float32[batch,6,8]",), attrs={"out_channels": 8, "kernel_size": (3, 3)}, message="4 axes"),
        Sample(
            inputs=("float32[batch,6,2,2]",),
            attrs={"out_channels": 8, "kernel_size": (3, 3)},
            message="kernel_size up to 2 or more padding",
        ),
        Sample(
            inputs=("float32[batch,6,8,8]",),
            attrs={"out_channels": 8, "kernel_size": (3, 3), "stride": (1,)},
            message="2 numbers",
        ),
    ),
    doc="Convolution in one to three dimensions, as many as kernel_size has; groups = channels makes it depthwise.",
)


def _transposed_result(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    x, _ = _conv_input(types, attrs)
    rows = zip(*(attrs[k] for k in ("kernel_size", "stride", "dilation", "output_padding")), strict=True)
    out: list[Dim] = []
    for size, (begin, end), (kernel, stride, dilation, extra) in zip(x.shape[2:], pad_pairs(attrs), rows, strict=True):
        if extra >= max(stride, dilation):
            got = f"output_padding={attrs['output_padding']}"
            raise ShapeError(got, "less than stride or dilation", f"use at most {max(stride, dilation) - 1}")
        longer = (size - 1) * stride - begin - end + dilation * (kernel - 1) + extra + 1
        if isinstance(longer, int) and longer < 1:
            raise ShapeError(f"padding={attrs['padding']}, output size {longer}", "a size of at least 1", "pad less")
        out.append(longer)
    return (x.with_shape((x.shape[0], attrs["out_channels"], *out)),)


def _transposed_params(types: Types, attrs: Attrs) -> tuple[Param, ...]:
    x, channels = _conv_input(types, attrs)
    shape = (channels, attrs["out_channels"] // attrs["groups"], *attrs["kernel_size"])
    return (Param("weight", TensorType(x.dtype, shape)), *_bias_params(x, attrs))


def _transposed_cost(types: Types, _results: Types, attrs: Attrs) -> Cost:
    per_input = attrs["out_channels"] // attrs["groups"] * product(attrs["kernel_size"])
    return Cost(macs=operand(types).numel * per_input)


def _transposed_torch(ctx: TorchContext) -> str:
    attrs, n = ctx.attrs, len(ctx.attrs["kernel_size"])
    bias = ctx.param("bias") if attrs["bias"] else "None"
    stride, padding, extra = (literal(v) for v in (attrs["stride"], _layer_padding(attrs), attrs["output_padding"]))
    more = f"{stride}, {padding}, {extra}, {attrs['groups']}, {literal(attrs['dilation'])}"
    y = f"F.conv_transpose{n}d({ctx.inputs[0]}, {ctx.param('weight')}, {bias}, {more})"
    return y if is_symmetric(attrs) else torch_pad(y, attrs, crop=True)


def _transposed_module(types: Types, attrs: Attrs) -> str:
    if not is_symmetric(attrs):
        return ""
    sizes = f"{operand(types).shape[1]}, {attrs['out_channels']}, {literal(attrs['kernel_size'])}"
    return f"nn.ConvTranspose{len(attrs['kernel_size'])}d({sizes}{_options(attrs, 'output_padding')})"


def _transposed_onnx(ctx: OnnxContext) -> tuple[str, ...]:
    attrs = ctx.attrs
    params = (ctx.param("weight"), ctx.param("bias")) if attrs["bias"] else (ctx.param("weight"),)
    more = {"group": attrs["groups"], "output_padding": attrs["output_padding"], **onnx_window(attrs)}
    return (ctx.op("ConvTranspose", ctx.inputs[0], *params, **more),)


CONV_TRANSPOSE = WindowOp(
    name="ConvTranspose",
    family="conv",
    inputs=("x",),
    attrs=(
        OUT_CHANNELS,
        KERNEL_SIZE,
        STRIDE,
        PADDING,
        Attr("output_padding", "ints", default=(), at_least=0, doc="Added to the end of each output axis; () is 0s."),
        DILATION,
        GROUPS,
        BIAS,
    ),
    result=_transposed_result,
    params=_transposed_params,
    cost=_transposed_cost,
    to_torch=_transposed_torch,
    torch_module=_transposed_module,
    to_onnx=_transposed_onnx,
    follow=keep_size,
    samples=(
        Sample(inputs=("float32[batch,6,5,5]",), attrs={"out_channels": 4, "kernel_size": (2, 2), "stride": (2, 2)}),
        Sample(
            inputs=("float32[batch,6,seq]",),
            attrs={"out_channels": 4, "kernel_size": (3,), "stride": (2,), "padding": (1,), "output_padding": (1,)},
        ),
        Sample(
            inputs=("float32[batch,6,5,5]",),
            attrs={"out_channels": 4, "kernel_size": (3, 3), "groups": 2, "dilation": (2, 1), "padding": (0, 1, 1, 0)},
        ),
    ),
    refused=(
        Sample(
            inputs=("float32[batch,6,5,5]",),
            attrs={"out_channels": 4, "kernel_size": (2, 2), "output_padding": (1, 1)},
            message="use at most 0",
        ),
        Sample(
            inputs=("float32[batch,5,5,5]",),
            attrs={"out_channels": 4, "kernel_size": (2, 2), "groups": 2},
            message="use groups 1 or 5",
        ),
    ),
    doc="Transposed convolution: the gradient of Conv with respect to its input.",
)


def _squeeze_input(types: Types) -> tuple[TensorType, int]:
    x = need_rank(need_float(operand(types)), 3, 5)
    return x, known(x.shape[1], "channels")


def _squeeze_params(types: Types, attrs: Attrs) -> tuple[Param, ...]:
    """Weights have the shape of 1x1 convolutions, as timm, torchvision and transformers store them."""
    x, channels = _squeeze_input(types)
    reduced, ones = attrs["reduced_channels"], (1,) * (x.rank - 2)
    return (
        Param("fc1_weight", TensorType(x.dtype, (reduced, channels, *ones))),
        Param("fc1_bias", TensorType(x.dtype, (reduced,)), "zeros"),
        Param("fc2_weight", TensorType(x.dtype, (channels, reduced, *ones))),
        Param("fc2_bias", TensorType(x.dtype, (channels,)), "zeros"),
    )


def _squeeze_cost(types: Types, _results: Types, attrs: Attrs) -> Cost:
    x, channels = _squeeze_input(types)
    return Cost(macs=x.shape[0] * (2 * channels * attrs["reduced_channels"]))


def _squeeze_torch(ctx: TorchContext) -> str:
    x, n = ctx.inputs[0], operand(ctx.types).rank - 2
    mean = f"{x}.mean({literal(tuple(range(2, n + 2)))}, keepdim=True)"
    hidden = inner_torch(
        ctx.attrs["activation"], f"F.conv{n}d({mean}, {ctx.param('fc1_weight')}, {ctx.param('fc1_bias')})"
    )
    gate = inner_torch(ctx.attrs["gate"], f"F.conv{n}d({hidden}, {ctx.param('fc2_weight')}, {ctx.param('fc2_bias')})")
    scale = "" if ctx.attrs["scale"] == 1.0 else f" * {literal(ctx.attrs['scale'])}"
    return f"{x} * {gate}{scale}"


def _squeeze_onnx(ctx: OnnxContext) -> tuple[str, ...]:
    y = ctx.op("GlobalAveragePool", ctx.inputs[0])
    for part, activation in (("fc1", "activation"), ("fc2", "gate")):
        y = ctx.op("Conv", y, ctx.param(f"{part}_weight"), ctx.param(f"{part}_bias"))
        y = inner_onnx(ctx, ctx.attrs[activation], y)
    y = ctx.op("Mul", ctx.inputs[0], y)
    return (y if ctx.attrs["scale"] == 1.0 else ctx.op("Mul", y, float_const(ctx, ctx.attrs["scale"])),)


SQUEEZE_EXCITE = OpDef(
    name="SqueezeExcite",
    family="conv",
    inputs=("x",),
    attrs=(
        Attr("reduced_channels", "int", at_least=1, doc="Width of the hidden layer."),
        inner_attr("activation", "relu"),
        inner_attr("gate", "sigmoid"),
        Attr(
            "scale", "float", default=1.0, doc="Factor on the result; 2 makes a new one with zero weights an identity."
        ),
    ),
    result=lambda types, _attrs: (_squeeze_input(types)[0],),
    params=_squeeze_params,
    cost=_squeeze_cost,
    to_torch=_squeeze_torch,
    to_onnx=_squeeze_onnx,
    is_function=True,
    samples=(
        Sample(inputs=("float32[batch,8,6,6]",), attrs={"reduced_channels": 2}),
        Sample(
            inputs=("float32[batch,8,seq]",),
            attrs={"reduced_channels": 3, "activation": "silu", "gate": "hard_sigmoid", "scale": 2.0},
        ),
    ),
    refused=(
        Sample(inputs=("float32[batch,8]",), attrs={"reduced_channels": 2}, message="3 to 5 axes"),
        Sample(inputs=("float32[batch,seq,8]",), attrs={"reduced_channels": 2}, message="channels=seq"),
    ),
    doc="x times a gate per channel, computed from the mean over positions. Hu et al., arXiv 1709.01507.",
)


def long_conv(
    x_BSD: "torch.Tensor", weight_DK: "torch.Tensor", bias_D: "torch.Tensor | None", causal: bool
) -> "torch.Tensor":
    """Depthwise convolution along the sequence, by FFT: O(S log S) where the kernel is as long as the sequence."""
    length, kernel = x_BSD.shape[1], weight_DK.shape[1]
    total = length + kernel - 1
    x_BDF = torch.fft.rfft(x_BSD.transpose(1, 2), n=total)
    weight_DF = torch.fft.rfft(weight_DK.flip(-1), n=total)
    y_BDT = torch.fft.irfft(x_BDF * weight_DF, n=total)
    start = 0 if causal else kernel // 2
    y_BSD: torch.Tensor = y_BDT[..., start : start + length].transpose(1, 2)
    return y_BSD if bias_D is None else y_BSD + bias_D


def _long_input(types: Types) -> tuple[TensorType, int]:
    x = need_rank(need_float(operand(types)), 3, 3)
    return x, known(x.shape[2], "features")


def _long_params(types: Types, attrs: Attrs) -> tuple[Param, ...]:
    x, width = _long_input(types)
    weight = Param("weight", TensorType(x.dtype, (width, attrs["kernel_size"])))
    return (weight, Param("bias", TensorType(x.dtype, (width,)), "zeros")) if attrs["bias"] else (weight,)


def _long_torch(ctx: TorchContext) -> str:
    bias = ctx.param("bias") if ctx.attrs["bias"] else "None"
    name = ctx.kernel(long_conv)
    return f"{name}({ctx.inputs[0]}, {ctx.param('weight')}, {bias}, causal={ctx.attrs['causal']})"


def _long_onnx(ctx: OnnxContext) -> tuple[str, ...]:
    kernel, (_, width) = ctx.attrs["kernel_size"], _long_input(ctx.types)
    pads = (kernel - 1, 0) if ctx.attrs["causal"] else (kernel - 1 - kernel // 2, kernel // 2)
    weight = ctx.op("Unsqueeze", ctx.param("weight"), ctx.const([1]))
    bias = (ctx.param("bias"),) if ctx.attrs["bias"] else ()
    moved = ctx.op("Transpose", ctx.inputs[0], perm=(0, 2, 1))
    y = ctx.op("Conv", moved, weight, *bias, kernel_shape=(kernel,), pads=pads, group=width)
    return (ctx.op("Transpose", y, perm=(0, 2, 1)),)


LONG_CONV = OpDef(
    name="LongConv",
    family="conv",
    inputs=("x",),
    attrs=(
        Attr("kernel_size", "int", at_least=1, doc="Length of the filters; may exceed the sequence."),
        Attr("causal", "bool", default=True, doc="Whether position t sees only positions up to t."),
        BIAS,
    ),
    result=lambda types, _attrs: (_long_input(types)[0],),
    params=_long_params,
    cost=lambda types, _results, attrs: Cost(macs=operand(types).numel * attrs["kernel_size"]),
    to_torch=_long_torch,
    to_onnx=_long_onnx,
    is_function=True,
    samples=(
        Sample(inputs=("float32[batch,seq,8]",), attrs={"kernel_size": 3}),
        Sample(inputs=("float32[batch,seq,4]",), attrs={"kernel_size": 16, "bias": False}),
        Sample(inputs=("float32[batch,seq,4]",), attrs={"kernel_size": 4, "causal": False}),
    ),
    refused=(
        Sample(inputs=("float32[batch,seq,8,2]",), attrs={"kernel_size": 3}, message="3 axes"),
        Sample(inputs=("float32[batch,8,seq]",), attrs={"kernel_size": 3}, message="features=seq"),
    ),
    doc="A depthwise filter along [B, S, D], as long as the sequence if need be. Poli et al., arXiv 2302.10866.",
)

CONV = (CONV_OP, CONV_TRANSPOSE, SQUEEZE_EXCITE, LONG_CONV)
