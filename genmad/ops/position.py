"""Positions for attention: rotary embeddings and T5's relative position bias."""

import math
from typing import TYPE_CHECKING

from genmad.ir.diagnostics import ShapeError
from genmad.ir.opdef import Attr, Attrs, OnnxContext, OpDef, Param, Sample, TorchContext, Types
from genmad.ir.types import Dim, DType, TensorType
from genmad.ops.shape_rules import (
    divisors,
    known,
    literal,
    need_float,
    need_integer,
    need_rank,
    need_same_dtype,
    operand,
)

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def quotient(width: Dim, by: int, what: str, by_name: str) -> int:
    size = known(width, what)
    if size % by:
        raise ShapeError(f"{by_name}={by} with {what} {size}", f"a divisor of {size}", f"use {_near(by, size)}")
    return size // by


def _near(wanted: int, number: int) -> str:
    """The divisors of `number` that are nearest to `wanted`, in words."""
    if number > 65536:
        return divisors(number)
    every = [i for i in range(1, number + 1) if number % i == 0]
    best = sorted(sorted(every, key=lambda i: (abs(i - wanted), i))[:8])
    return str(best[0]) if len(best) == 1 else f"{', '.join(map(str, best[:-1]))} or {best[-1]}"


def positions_onnx(ctx: OnnxContext, x: str) -> str:
    """[S], the numbers 0 to S-1, from x [..., S, D]."""
    length = ctx.op("Squeeze", ctx.op("Shape", x, start=-2, end=-1), ctx.const([0]))
    return str(ctx.op("Range", ctx.const(0), length, ctx.const(1)))


def rotary_embedding(
    x: "Tensor", cos: "Tensor", sin: "Tensor", *, num_heads: "int | None" = None, interleaved: bool = False
) -> "Tensor":
    """Rotates the first R features of each head of x by the angles of cos and sin [B, S, R]."""
    full = x
    if num_heads is not None:
        x = x.reshape(*x.shape[:2], num_heads, -1).transpose(1, 2)
    cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
    size = cos.shape[-1]
    turned, rest = x[..., :size], x[..., size:]
    if interleaved:
        cos = cos[..., : size // 2].repeat_interleave(2, dim=-1)
        sin = sin[..., : size // 2].repeat_interleave(2, dim=-1)
        other = torch.stack((-turned[..., 1::2], turned[..., 0::2]), dim=-1).flatten(-2)
    else:
        other = torch.cat((-turned[..., size // 2 :], turned[..., : size // 2]), dim=-1)
    out = torch.cat((turned * cos + other * sin, rest), dim=-1)
    return out if num_heads is None else out.transpose(1, 2).reshape(full.shape)


def _rotary_result(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    x, cos, sin = need_float(operand(types)), operand(types, 1), operand(types, 2)
    heads = attrs["num_heads"]
    need_rank(x, 4 if heads is None else 3, 4 if heads is None else 3)
    need_rank(cos, 3, 3, "cos")
    need_same_dtype(x, cos)
    if cos != sin:
        raise ShapeError(f"cos {cos} and sin {sin}", "one type")
    size = (
        known(x.shape[3], "head size") if heads is None else quotient(x.shape[2], heads, "the width of x", "num_heads")
    )
    rotary = known(cos.shape[2], "rotary size")
    if rotary % 2 or rotary > size:
        raise ShapeError(f"{rotary} rotary features with head size {size}", f"an even number, at most {size}")
    length = x.shape[2] if heads is None else x.shape[1]
    if cos.shape[0] not in (1, x.shape[0]) or cos.shape[1] != length:
        raise ShapeError(f"cos of shape {list(cos.shape)}", f"[1 or {x.shape[0]}, {length}, {rotary}]")
    return (x,)


def _rotary_torch(ctx: TorchContext) -> str:
    name = ctx.kernel(rotary_embedding)
    more = f", num_heads={ctx.attrs['num_heads']}" if ctx.attrs["num_heads"] is not None else ""
    more += ", interleaved=True" if ctx.attrs["interleaved"] else ""
    return f"{name}({', '.join(str(x) for x in ctx.inputs)}{more})"


def _cut(ctx: OnnxContext, x: str, start: int, end: int, step: int = 1) -> str:
    return str(ctx.op("Slice", x, *(ctx.const([n]) for n in (start, end, -1, step))))


def _pairs_onnx(ctx: OnnxContext, even: str, odd: str, shape: list[int]) -> str:
    """Elements of `even` and `odd` by turns along the last axis."""
    last = ctx.const([-1])
    both = ctx.op("Concat", ctx.op("Unsqueeze", even, last), ctx.op("Unsqueeze", odd, last), axis=-1)
    return str(ctx.op("Reshape", both, ctx.const(shape)))


def _rotary_onnx(ctx: OnnxContext) -> tuple[str, ...]:
    x_type, heads, x = operand(ctx.types), ctx.attrs["num_heads"], ctx.inputs[0]
    rotary, width = known(operand(ctx.types, 1).shape[2], "rotary size"), known(x_type.shape[-1], "width")
    size = width if heads is None else width // heads
    if heads is not None:
        x = ctx.op("Reshape", x, ctx.const([0, 0, heads, size]))
    half, head_axis = rotary // 2, ctx.const([1 if heads is None else 2])
    cos, sin = (ctx.op("Unsqueeze", table, head_axis) for table in ctx.inputs[1:3])
    turned = x if rotary == size else _cut(ctx, x, 0, rotary)
    if ctx.attrs["interleaved"]:
        cos, sin = (_pairs_onnx(ctx, c, c, [0, 0, 0, rotary]) for c in (_cut(ctx, t, 0, half) for t in (cos, sin)))
        odd, even = _cut(ctx, turned, 1, rotary, 2), _cut(ctx, turned, 0, rotary, 2)
        other = _pairs_onnx(ctx, ctx.op("Neg", odd), even, [0, 0, 0, rotary])
    else:
        other = ctx.op("Concat", ctx.op("Neg", _cut(ctx, turned, half, rotary)), _cut(ctx, turned, 0, half), axis=-1)
    out = ctx.op("Add", ctx.op("Mul", turned, cos), ctx.op("Mul", other, sin))
    if rotary < size:
        out = ctx.op("Concat", out, _cut(ctx, x, rotary, size), axis=-1)
    return (out if heads is None else ctx.op("Reshape", out, ctx.const([0, 0, width])),)


ROTARY_EMBEDDING = OpDef(
    name="RotaryEmbedding",
    family="attention",
    inputs=("x", "cos", "sin"),
    attrs=(
        Attr("interleaved", "bool", False, doc="Whether features 2i and 2i+1 form a pair, not i and i + R/2."),
        Attr(
            "num_heads", "int", None, at_least=1, optional=True, doc="Heads of a 3-D x [B,S,H*D]; None for [B,H,S,D]."
        ),
    ),
    result=_rotary_result,
    to_torch=_rotary_torch,
    to_onnx=_rotary_onnx,
    is_function=True,
    samples=(
        Sample(inputs=("float32[batch,3,seq,8]", "float32[1,seq,8]", "float32[1,seq,8]")),
        Sample(
            inputs=("float32[batch,3,seq,8]", "float32[batch,seq,4]", "float32[batch,seq,4]"),
            attrs={"interleaved": True},
        ),
        Sample(inputs=("float32[batch,seq,24]", "float32[1,seq,6]", "float32[1,seq,6]"), attrs={"num_heads": 3}),
        Sample(
            inputs=("float32[batch,seq,24]", "float32[1,seq,8]", "float32[1,seq,8]"),
            attrs={"num_heads": 3, "interleaved": True},
        ),
    ),
    refused=(
        Sample(
            inputs=("float32[batch,3,seq,8]", "float32[1,seq,10]", "float32[1,seq,10]"),
            message="an even number, at most 8",
        ),
        Sample(
            inputs=("float32[batch,seq,24]", "float32[1,seq,8]", "float32[1,seq,8]"), message="x: float32[batch,seq,24]"
        ),
    ),
    doc=(
        "Rotary position embedding; cos and sin as RotaryTable gives them (each angle in column i and i + R/2, also"
        " when interleaved). Su et al., arXiv 2104.09864."
    ),
)


def rotary_table(positions: "Tensor", inv_freq: "Tensor", scaling: float = 1.0) -> "tuple[Tensor, Tensor]":
    """cos and sin [..., S, R] of the angle of each position [..., S] and frequency [R/2]."""
    angles = positions[..., None].to(inv_freq.dtype) * inv_freq
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos() * scaling, angles.sin() * scaling


def _table_result(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    positions = need_rank(need_integer(operand(types), "positions"), 1, 2, "positions")
    if attrs["dim"] % 2:
        raise ShapeError(f"dim={attrs['dim']}", "an even number")
    table = TensorType(DType.FLOAT32, (*positions.shape, attrs["dim"]))
    return (table, table)


def _table_torch(ctx: TorchContext) -> str:
    scaling = "" if ctx.attrs["scaling"] == 1.0 else f", {literal(ctx.attrs['scaling'])}"
    return f"{ctx.kernel(rotary_table)}({ctx.inputs[0]}, {ctx.param('inv_freq')}{scaling})"


def _table_onnx(ctx: OnnxContext) -> tuple[str, ...]:
    positions = ctx.op("Unsqueeze", ctx.op("Cast", ctx.inputs[0], to="float32"), ctx.const([-1]))
    angles = ctx.op("Mul", positions, ctx.param("inv_freq"))
    angles = ctx.op("Concat", angles, angles, axis=-1)
    scaling = ctx.const(ctx.attrs["scaling"], "float32")
    return ctx.op("Mul", ctx.op("Cos", angles), scaling), ctx.op("Mul", ctx.op("Sin", angles), scaling)


ROTARY_TABLE = OpDef(
    name="RotaryTable",
    family="attention",
    inputs=("positions",),
    attrs=(
        Attr("dim", "int", at_least=2, doc="Number of rotary features."),
        Attr("scaling", "float", 1.0, doc="Factor of both tables, as in YaRN."),
    ),
    result=_table_result,
    params=lambda _types, attrs: (
        Param("inv_freq", TensorType(DType.FLOAT32, (attrs["dim"] // 2,)), "ones", trainable=False),
    ),
    to_torch=_table_torch,
    to_onnx=_table_onnx,
    is_function=True,
    samples=(
        Sample(inputs=("int64[1,seq]",), attrs={"dim": 8}),
        Sample(inputs=("int64[batch,seq]",), attrs={"dim": 4, "scaling": 1.25}),
    ),
    refused=(Sample(inputs=("int64[1,seq]",), attrs={"dim": 7}, message="an even number"),),
    doc="cos and sin of position times frequency, each frequency twice, for RotaryEmbedding.",
)


def relative_position_bias(
    q: "Tensor", k: "Tensor", weight: "Tensor", *, max_distance: int, bidirectional: bool
) -> "Tensor":
    """[1, H, S, T]: for each query and key, the row of weight [buckets, H] that their distance falls in."""
    buckets = weight.shape[0] // 2 if bidirectional else weight.shape[0]
    rows, columns = torch.arange(q.shape[-2], device=q.device), torch.arange(k.shape[-2], device=q.device)
    relative = columns[None, :] - rows[:, None]
    distance = relative.abs() if bidirectional else -relative.clamp(max=0)
    exact = buckets // 2
    far = torch.log(distance.clamp(min=1).float() / exact) / math.log(max_distance / exact) * (buckets - exact)
    bucket = torch.where(distance < exact, distance, (exact + far.long()).clamp(max=buckets - 1))
    if bidirectional:
        bucket = bucket + (relative > 0) * buckets
    return weight[bucket].permute(2, 0, 1).unsqueeze(0)


def _bias_lengths(types: Types) -> tuple[Dim, Dim]:
    q, k = (need_rank(operand(types, i), 3, 4, name) for i, name in enumerate("qk"))
    return q.shape[-2], k.shape[-2]


def _relative_result(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    buckets = attrs["num_buckets"] // 2 if attrs["bidirectional"] else attrs["num_buckets"]
    if attrs["bidirectional"] and attrs["num_buckets"] % 2:
        raise ShapeError(f"num_buckets={attrs['num_buckets']}", "an even number when bidirectional")
    if attrs["max_distance"] <= buckets // 2:
        raise ShapeError(f"max_distance={attrs['max_distance']}", f"more than {buckets // 2}, the exact buckets")
    return (TensorType(operand(types).dtype, (1, attrs["num_heads"], *_bias_lengths(types))),)


def bucket_of_distance(buckets: int, max_distance: int) -> list[int]:
    """The bucket of each distance from 0 to max_distance, in float32 arithmetic as in `relative_position_bias`."""
    import numpy as np

    exact = buckets // 2
    distance = np.arange(max_distance + 1, dtype=np.float32)
    ratio = np.log(np.maximum(distance, 1) / np.float32(exact)) / np.float32(math.log(max_distance / exact))
    far = exact + (ratio * np.float32(buckets - exact)).astype(np.int64)
    return [int(n) for n in np.where(distance < exact, distance, np.minimum(far, buckets - 1))]


def _relative_onnx(ctx: OnnxContext) -> tuple[str, ...]:
    two_sided, limit = ctx.attrs["bidirectional"], ctx.attrs["max_distance"]
    buckets = ctx.attrs["num_buckets"] // 2 if two_sided else ctx.attrs["num_buckets"]
    rows = ctx.op("Unsqueeze", positions_onnx(ctx, ctx.inputs[0]), ctx.const([1]))
    columns = ctx.op("Unsqueeze", positions_onnx(ctx, ctx.inputs[1]), ctx.const([0]))
    relative = ctx.op("Sub", columns, rows)
    zero = ctx.const(0)
    distance = ctx.op("Abs", relative) if two_sided else ctx.op("Neg", ctx.op("Min", relative, zero))
    table = ctx.const(bucket_of_distance(buckets, limit))
    bucket = ctx.op("Gather", table, ctx.op("Min", distance, ctx.const(limit)), axis=0)
    if two_sided:
        after = ctx.op("Cast", ctx.op("Greater", relative, zero), to="int64")
        bucket = ctx.op("Add", bucket, ctx.op("Mul", after, ctx.const(buckets)))
    picked = ctx.op("Gather", ctx.param("weight"), bucket, axis=0)
    return (ctx.op("Unsqueeze", ctx.op("Transpose", picked, perm=[2, 0, 1]), ctx.const([0])),)


def _relative_torch(ctx: TorchContext) -> str:
    name, two_sided = ctx.kernel(relative_position_bias), ctx.attrs["bidirectional"]
    args = f"{ctx.inputs[0]}, {ctx.inputs[1]}, {ctx.param('weight')}"
    return f"{name}({args}, max_distance={ctx.attrs['max_distance']}, bidirectional={two_sided})"


RELATIVE_POSITION_BIAS = OpDef(
    name="RelativePositionBias",
    family="attention",
    inputs=("q", "k"),
    attrs=(
        Attr("num_heads", "int", at_least=1, doc="Heads that the bias is for."),
        Attr("num_buckets", "int", 32, at_least=4, doc="Rows of the table."),
        Attr("max_distance", "int", 128, at_least=2, doc="From this distance on, one bucket."),
        Attr("bidirectional", "bool", True, doc="Whether keys after the query have buckets of their own."),
    ),
    result=_relative_result,
    params=lambda types, attrs: (
        Param("weight", TensorType(operand(types).dtype, (attrs["num_buckets"], attrs["num_heads"])), "normal:0.02"),
    ),
    to_torch=_relative_torch,
    to_onnx=_relative_onnx,
    is_function=True,
    samples=(
        Sample(inputs=("float32[batch,seq,8]", "float32[batch,seq,8]"), attrs={"num_heads": 2}),
        Sample(
            inputs=("float32[batch,target,8]", "float32[batch,seq,8]"),
            attrs={"num_heads": 2, "num_buckets": 8, "max_distance": 9, "bidirectional": False},
        ),
        Sample(
            inputs=("float32[1,150,2]", "float32[1,300,2]"),
            attrs={"num_heads": 1, "num_buckets": 32, "max_distance": 128},
        ),
    ),
    refused=(
        Sample(
            inputs=("float32[batch,seq,8]", "float32[batch,seq,8]"),
            attrs={"num_heads": 2, "max_distance": 8},
            message="more than 8",
        ),
    ),
    doc="Learned attention bias by bucketed distance between query and key. Raffel et al., arXiv 1910.10683.",
)

POSITION = (ROTARY_EMBEDDING, ROTARY_TABLE, RELATIVE_POSITION_BIAS)
