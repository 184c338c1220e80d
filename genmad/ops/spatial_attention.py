"""Self-attention between the positions of an image, as U-Nets and non-local networks have it."""

from typing import TYPE_CHECKING

from genmad.ir.opdef import Attr, Attrs, Cost, OnnxContext, OpDef, Param, Sample, TorchContext, Types
from genmad.ir.types import TensorType, product
from genmad.ops.shape_rules import known, need_divides, need_float, need_rank, operand

if TYPE_CHECKING:
    import torch.nn.functional as F
    from torch import Tensor

# Axes: B batch, C channels, N positions, H heads, D head size.

PARTS = ("query", "key", "value", "out")


def _image(types: Types, attrs: Attrs) -> tuple[TensorType, int]:
    """x and its channels, after checking that the heads divide them."""
    x = need_rank(need_float(operand(types)), 3, 5)
    channels = known(x.shape[1], "channels")
    need_divides(attrs["num_heads"], channels, "num_heads", "channels")
    return x, channels


def _params(types: Types, attrs: Attrs) -> tuple[Param, ...]:
    x, channels = _image(types, attrs)
    weights = [Param(f"{part}_weight", TensorType(x.dtype, (channels, channels))) for part in PARTS]
    return (*weights, Param("out_bias", TensorType(x.dtype, (channels,)), "zeros"))


def _cost(types: Types, _results: Types, attrs: Attrs) -> Cost:
    x, channels = _image(types, attrs)
    positions = product(x.shape[2:])
    return Cost(macs=x.shape[0] * positions * (4 * channels * channels + 2 * channels * positions))


def spatial_attention(
    x: "Tensor", query: "Tensor", key: "Tensor", value: "Tensor", out: "Tensor", bias: "Tensor", *, num_heads: int
) -> "Tensor":
    """Attention between all positions of x [B, C, *spatial]; equation 4 of arXiv 1711.07971, with heads."""
    flat = x.flatten(2).transpose(1, 2)
    split = (*flat.shape[:2], num_heads, flat.shape[2] // num_heads)
    q, k, v = (F.linear(flat, weight).reshape(split).transpose(1, 2) for weight in (query, key, value))
    mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    return F.linear(mixed, out, bias).transpose(1, 2).reshape(x.shape)


def _torch(ctx: TorchContext) -> str:
    weights = ", ".join(ctx.param(f"{part}_weight") for part in PARTS)
    name = ctx.kernel(spatial_attention)
    return f"{name}({ctx.inputs[0]}, {weights}, {ctx.param('out_bias')}, num_heads={ctx.attrs['num_heads']})"


def _onnx(ctx: OnnxContext) -> tuple[str, ...]:
    x, channels = _image(ctx.types, ctx.attrs)
    heads = ctx.attrs["num_heads"]
    size = channels // heads
    # [B, C, N] throughout: a projection multiplies from the left.
    flat = ctx.op("Reshape", ctx.inputs[0], ctx.const([0, channels, -1]))
    split = ctx.const([0, heads, size, -1])
    q, k, v = (ctx.op("Reshape", ctx.op("MatMul", ctx.param(f"{part}_weight"), flat), split) for part in PARTS[:3])
    scaled = ctx.op("Mul", q, ctx.const(size**-0.5, str(x.dtype)))
    scores = ctx.op("MatMul", ctx.op("Transpose", scaled, perm=[0, 1, 3, 2]), k)
    probs = ctx.op("Transpose", ctx.op("Softmax", scores, axis=-1), perm=[0, 1, 3, 2])
    mixed = ctx.op("Reshape", ctx.op("MatMul", v, probs), ctx.const([0, channels, -1]))
    y = ctx.op("MatMul", ctx.param("out_weight"), mixed)
    y = ctx.op("Add", y, ctx.op("Unsqueeze", ctx.param("out_bias"), ctx.const([1])))
    return (ctx.op("Reshape", y, ctx.shape(x.shape)),)


SPATIAL_ATTENTION_OP = OpDef(
    name="SpatialAttention",
    family="attention",
    inputs=("x",),
    attrs=(Attr("num_heads", "int", 1, at_least=1, doc="Heads; they divide the channels."),),
    result=lambda types, attrs: (_image(types, attrs)[0],),
    params=_params,
    cost=_cost,
    to_torch=_torch,
    to_onnx=_onnx,
    is_function=True,
    samples=(
        Sample(inputs=("float32[batch,8,4,5]",), attrs={"num_heads": 2}),
        Sample(inputs=("float32[batch,6,7]",), attrs={}),
        Sample(inputs=("float32[2,4,2,3,2]",), attrs={"num_heads": 4}),
    ),
    refused=(
        Sample(inputs=("float32[batch,8,4,4]",), attrs={"num_heads": 3}, message="use num_heads 1, 2, 4 or 8"),
        Sample(inputs=("float32[batch,8]",), attrs={}, message="3 to 5 axes"),
    ),
    doc="Self-attention between the positions of an image [B, C, *spatial]. Wang et al., arXiv 1711.07971.",
)

SPATIAL_ATTENTION = (SPATIAL_ATTENTION_OP,)
