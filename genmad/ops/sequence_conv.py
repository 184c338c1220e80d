"""Convolutions along [B, S, D] that mix positions in place of attention: structured global, and separable.

B batch, S sequence, D features, C scales, K kernel size of one scale, L length of the whole kernel.
"""

from typing import TYPE_CHECKING

from genmad.ir.opdef import Attr, Attrs, Cost, OnnxContext, OpDef, Param, Sample, TorchContext, Types
from genmad.ir.types import TensorType
from genmad.ops.linear import OUT_FEATURES
from genmad.ops.shape_rules import known, literal, need_float, need_rank, operand

if TYPE_CHECKING:
    import torch
    import torch.nn.functional as F

CAUSAL = Attr("causal", "bool", default=True, doc="Whether position t sees only positions up to t.")
BIAS = Attr("bias", "bool", default=True, doc="Whether a learned value per channel is added.")


def _features(types: Types) -> tuple[TensorType, int]:
    x = need_rank(need_float(operand(types)), 3, 3)
    return x, known(x.shape[2], "features")


def _kernel_length(attrs: Attrs) -> int:
    """Positions that the kernel covers in one direction: K + K + 2K + 4K ..."""
    length: int = attrs["kernel_size"] * 2 ** (attrs["num_scales"] - 1)
    return length


def _global_params(types: Types, attrs: Attrs) -> tuple[Param, ...]:
    x, width = _features(types)
    kind = TensorType(x.dtype, (width, attrs["num_scales"], attrs["kernel_size"]))
    made = [Param("weight", kind)]
    if not attrs["causal"]:
        made.append(Param("backward_weight", kind))
    if attrs["bias"]:
        made.append(Param("bias", TensorType(x.dtype, (width,)), "zeros"))
    return tuple(made)


def _global_cost(types: Types, _results: Types, attrs: Attrs) -> Cost:
    taps = _kernel_length(attrs) * (1 if attrs["causal"] else 2)
    return Cost(macs=operand(types).numel * taps)


def sg_kernel(weight_DCK: "torch.Tensor", decay: float) -> "torch.Tensor":
    """[D, L] by distance: sub-kernel i stretched linearly to K * 2^max(i-1,0), times decay^i (equation 2)."""
    parts = []
    for i in range(weight_DCK.shape[1]):
        part_DK = weight_DCK[:, i : i + 1]
        if i > 1:
            part_DK = F.interpolate(part_DK, scale_factor=2.0 ** (i - 1), mode="linear", align_corners=False)
        parts.append(part_DK.squeeze(1) * decay**i)
    return torch.cat(parts, dim=-1)


def sg_conv(
    x_BSD: "torch.Tensor",
    weight_DCK: "torch.Tensor",
    backward_DCK: "torch.Tensor | None",
    bias_D: "torch.Tensor | None",
    decay: float,
) -> "torch.Tensor":
    """Depthwise convolution with multi-scale kernels, by FFT: O(S log S). A second kernel looks ahead."""
    length = x_BSD.shape[1]
    x_BDS = x_BSD.transpose(1, 2)

    def past(x_BDS: "torch.Tensor", weight_DCK: "torch.Tensor") -> "torch.Tensor":
        kernel_DL = sg_kernel(weight_DCK, decay)[:, :length]
        total = length + kernel_DL.shape[1] - 1
        y_BDT = torch.fft.irfft(torch.fft.rfft(x_BDS, n=total) * torch.fft.rfft(kernel_DL, n=total), n=total)
        y_BDS: torch.Tensor = y_BDT[..., :length]
        return y_BDS

    y_BDS = past(x_BDS, weight_DCK)
    if backward_DCK is not None:
        y_BDS = y_BDS + past(x_BDS.flip(-1), backward_DCK).flip(-1).roll(-1, dims=-1) * (
            torch.arange(length, device=x_BSD.device) < length - 1
        )
    y_BSD = y_BDS.transpose(1, 2)
    return y_BSD if bias_D is None else y_BSD + bias_D


def _global_torch(ctx: TorchContext) -> str:
    attrs = ctx.attrs
    ctx.kernel(sg_kernel)
    backward = "None" if attrs["causal"] else ctx.param("backward_weight")
    bias = ctx.param("bias") if attrs["bias"] else "None"
    args = f"{ctx.inputs[0]}, {ctx.param('weight')}, {backward}, {bias}, decay={literal(attrs['decay'])}"
    return f"{ctx.kernel(sg_conv)}({args})"


def _taps(attrs: Attrs) -> tuple[list[int], list[int], list[float], list[float]]:
    """For each distance two places in a flat [C*K] weight and their factors: linear interpolation at pixel centres."""
    size, decay = attrs["kernel_size"], attrs["decay"]
    low, high, low_factor, high_factor = [], [], [], []
    for i in range(attrs["num_scales"]):
        stretch = 2 ** max(i - 1, 0)
        for t in range(size * stretch):
            at = max((t + 0.5) / stretch - 0.5, 0.0)
            left = min(int(at), size - 1)
            share = at - left
            low.append(i * size + left)
            high.append(i * size + min(left + 1, size - 1))
            low_factor.append((1 - share) * decay**i)
            high_factor.append(share * decay**i)
    return low, high, low_factor, high_factor


def _global_kernel_onnx(ctx: OnnxContext, slot: str, far_first: bool) -> str:
    """[D, 1, L], the materialised kernel, for distances that fall (`far_first`) or rise."""
    dtype = str(operand(ctx.types).dtype)
    order = slice(None, None, -1 if far_first else 1)
    low, high, low_factor, high_factor = (values[order] for values in _taps(ctx.attrs))
    flat = ctx.op("Reshape", ctx.param(slot), ctx.const([0, -1]))
    near = ctx.op("Mul", ctx.op("Gather", flat, ctx.const(low), axis=1), ctx.const(low_factor, dtype))
    other = ctx.op("Mul", ctx.op("Gather", flat, ctx.const(high), axis=1), ctx.const(high_factor, dtype))
    return str(ctx.op("Unsqueeze", ctx.op("Add", near, other), ctx.const([1])))


def _global_onnx(ctx: OnnxContext) -> tuple[str, ...]:
    attrs, (_, width) = ctx.attrs, _features(ctx.types)
    length = _kernel_length(attrs)
    kernel, ahead = _global_kernel_onnx(ctx, "weight", True), 0
    if not attrs["causal"]:
        kernel, ahead = ctx.op("Concat", kernel, _global_kernel_onnx(ctx, "backward_weight", False), axis=2), length
    bias = (ctx.param("bias"),) if attrs["bias"] else ()
    moved = ctx.op("Transpose", ctx.inputs[0], perm=(0, 2, 1))
    y = ctx.op("Conv", moved, kernel, *bias, kernel_shape=(length + ahead,), pads=(length - 1, ahead), group=width)
    return (ctx.op("Transpose", y, perm=(0, 2, 1)),)


SG_CONV = OpDef(
    name="SGConv",
    family="conv",
    inputs=("x",),
    attrs=(
        Attr("kernel_size", "int", default=32, at_least=1, at_most=65536, doc="Weights of each sub-kernel."),
        Attr("num_scales", "int", default=4, at_least=1, at_most=16, doc="Sub-kernels; the kernel doubles with each."),
        Attr("decay", "float", default=0.5, at_least=1e-3, at_most=1.0, doc="Factor from one sub-kernel to the next."),
        CAUSAL,
        BIAS,
    ),
    result=lambda types, _attrs: (_features(types)[0],),
    params=_global_params,
    cost=_global_cost,
    to_torch=_global_torch,
    to_onnx=_global_onnx,
    is_function=True,
    samples=(
        Sample(inputs=("float32[batch,seq,4]",), attrs={"kernel_size": 2, "num_scales": 3}),
        Sample(inputs=("float32[batch,seq,4]",)),
        Sample(
            inputs=("float32[batch,seq,3]",),
            attrs={"kernel_size": 3, "num_scales": 2, "decay": 0.8, "causal": False, "bias": False},
        ),
        Sample(inputs=("float32[batch,seq,3]",), attrs={"kernel_size": 1, "num_scales": 1}),
    ),
    refused=(
        Sample(inputs=("float32[batch,seq,8,2]",), message="3 axes"),
        Sample(inputs=("float32[batch,8,seq]",), message="features=seq"),
        Sample(inputs=("float32[batch,seq,8]",), attrs={"decay": 1.5}, message="at most 1.0"),
        Sample(inputs=("float32[batch,seq,8]",), attrs={"num_scales": 40}, message="at most 16"),
    ),
    doc=(
        "A depthwise filter as long as the sequence with few weights: num_scales sub-kernels of kernel_size, each"
        " stretched to twice the length of the one before and weighted by decay; one more per direction if not causal."
        " MACs as of direct convolution. Li et al., arXiv 2210.09298 (their constant Z is left to initialisation)."
    ),
)


def _separable_params(types: Types, attrs: Attrs) -> tuple[Param, ...]:
    x, width = _features(types)
    made = [
        Param("depthwise_weight", TensorType(x.dtype, (width, 1, attrs["kernel_size"]))),
        Param("pointwise_weight", TensorType(x.dtype, (attrs["out_features"], width))),
    ]
    if attrs["bias"]:
        made.append(Param("bias", TensorType(x.dtype, (attrs["out_features"],)), "zeros"))
    return tuple(made)


def _separable_cost(types: Types, _results: Types, attrs: Attrs) -> Cost:
    return Cost(macs=operand(types).numel * (attrs["kernel_size"] + attrs["out_features"]))


def _pads(attrs: Attrs) -> tuple[int, int]:
    kernel: int = attrs["kernel_size"]
    return (kernel - 1, 0) if attrs["causal"] else (kernel - 1 - kernel // 2, kernel // 2)


def separable_conv(
    x_BSD: "torch.Tensor",
    depthwise_D1K: "torch.Tensor",
    pointwise_ED: "torch.Tensor",
    bias_E: "torch.Tensor | None",
    pads: "tuple[int, int]",
) -> "torch.Tensor":
    """A filter per feature along the sequence, then a linear mix of features."""
    x_BDS = F.pad(x_BSD.transpose(1, 2), pads)
    y_BDS = F.conv1d(x_BDS, depthwise_D1K, groups=x_BDS.shape[1])
    return F.linear(y_BDS.transpose(1, 2), pointwise_ED, bias_E)


def _separable_torch(ctx: TorchContext) -> str:
    bias = ctx.param("bias") if ctx.attrs["bias"] else "None"
    weights = f"{ctx.param('depthwise_weight')}, {ctx.param('pointwise_weight')}, {bias}"
    return f"{ctx.kernel(separable_conv)}({ctx.inputs[0]}, {weights}, {literal(_pads(ctx.attrs))})"


def _separable_onnx(ctx: OnnxContext) -> tuple[str, ...]:
    _, width = _features(ctx.types)
    moved = ctx.op("Transpose", ctx.inputs[0], perm=(0, 2, 1))
    kernel = (ctx.attrs["kernel_size"],)
    y = ctx.op("Conv", moved, ctx.param("depthwise_weight"), kernel_shape=kernel, pads=_pads(ctx.attrs), group=width)
    mixer = ctx.op("Transpose", ctx.param("pointwise_weight"), perm=(1, 0))
    y = ctx.op("MatMul", ctx.op("Transpose", y, perm=(0, 2, 1)), mixer)
    return (ctx.op("Add", y, ctx.param("bias")) if ctx.attrs["bias"] else y,)


SEPARABLE_CONV_1D = OpDef(
    name="SeparableConv1d",
    family="conv",
    inputs=("x",),
    attrs=(
        OUT_FEATURES,
        Attr("kernel_size", "int", at_least=1, doc="Length of the filter of each feature."),
        CAUSAL,
        BIAS,
    ),
    result=lambda types, attrs: (_features(types)[0].with_shape((*operand(types).shape[:2], attrs["out_features"])),),
    params=_separable_params,
    cost=_separable_cost,
    to_torch=_separable_torch,
    to_onnx=_separable_onnx,
    is_function=True,
    samples=(
        Sample(inputs=("float32[batch,seq,6]",), attrs={"out_features": 4, "kernel_size": 3}),
        Sample(inputs=("float32[batch,seq,4]",), attrs={"out_features": 4, "kernel_size": 4, "causal": False}),
        Sample(inputs=("float32[batch,seq,4]",), attrs={"out_features": 6, "kernel_size": 9, "bias": False}),
    ),
    refused=(
        Sample(inputs=("float32[batch,8]",), attrs={"out_features": 4, "kernel_size": 3}, message="3 axes"),
        Sample(inputs=("float32[batch,seq,8]",), attrs={"out_features": 4, "kernel_size": 0}, message="at least 1"),
        Sample(inputs=("float32[batch,8,seq]",), attrs={"out_features": 4, "kernel_size": 3}, message="features=seq"),
    ),
    doc="A filter per feature along [B, S, D], then a Linear over the features. Kaiser et al., arXiv 1706.03059.",
)

SEQUENCE_CONV = (SG_CONV, SEPARABLE_CONV_1D)
