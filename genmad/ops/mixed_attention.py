"""Attention of two kinds of heads: some see a window, the others everything."""

from typing import TYPE_CHECKING

from genmad.ir.diagnostics import ShapeError
from genmad.ir.opdef import Attr, Attrs, Cost, OnnxContext, OpDef, Sample, TorchContext, Types
from genmad.ir.types import TensorType
from genmad.ops.attention import ATTENTION_OP, attention, attention_sizes, heads_onnx, repeat_onnx, visible_keys
from genmad.ops.shape_rules import literal, operand

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def local_count(attrs: Attrs) -> int:
    """Heads with a window: as many as are said, else half of them."""
    said: int | None = attrs["local_heads"]
    return attrs["num_heads"] // 2 if said is None else said


def _mixed_result(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    if local_count(attrs) > attrs["num_heads"]:
        got = f"local_heads={attrs['local_heads']}, num_heads={attrs['num_heads']}"
        raise ShapeError(got, "no more local heads than heads", f"use at most {attrs['num_heads']}")
    return ATTENTION_OP.result(types, attrs)


def _mixed_cost(types: Types, _results: Types, attrs: Attrs) -> Cost:
    n, local = attention_sizes(types, attrs), local_count(attrs)
    near = n.keys
    if isinstance(near, int):
        near = min(attrs["window"] if attrs["causal"] else 2 * attrs["window"] - 1, near)
    seen = near * local + n.keys * (n.heads - local)
    return Cost(macs=n.batch * n.queries * seen * (n.head_dim + n.value_dim))


def mixed_attention(
    q: "Tensor", k: "Tensor", v: "Tensor", *, num_heads: int, local_heads: int, window: int, causal: bool = False
) -> "Tensor":
    """The first `local_heads` heads see a window, the others all keys."""
    flat = q.dim() == 3
    if flat:
        size = q.shape[-1] // num_heads
        kv_heads = k.shape[-1] // size
        q = q.reshape(*q.shape[:2], num_heads, size).transpose(1, 2)
        k = k.reshape(*k.shape[:2], kv_heads, size).transpose(1, 2)
        v = v.reshape(*v.shape[:2], kv_heads, -1).transpose(1, 2)
    if k.shape[1] != num_heads:
        k = k.repeat_interleave(num_heads // k.shape[1], dim=1)
        v = v.repeat_interleave(num_heads // v.shape[1], dim=1)
    parts = []
    for start, end, reach in ((0, local_heads, window), (local_heads, num_heads, None)):
        if end > start:
            some = (x[:, start:end] for x in (q, k, v))
            parts.append(attention(*some, num_heads=end - start, causal=causal, window=reach))
    out = torch.cat(parts, dim=1)
    return out.transpose(1, 2).flatten(2) if flat else out


def _mixed_torch(ctx: TorchContext) -> str:
    ctx.kernel(visible_keys)
    ctx.kernel(attention)
    attrs = ctx.attrs
    args = [str(x) for x in ctx.inputs]
    args += [f"num_heads={attrs['num_heads']}", f"local_heads={local_count(attrs)}", f"window={attrs['window']}"]
    args += [f"causal={literal(True)}"] if attrs["causal"] else []
    return f"{ctx.kernel(mixed_attention)}({', '.join(args)})"


def _length_onnx(ctx: OnnxContext, x: str) -> str:
    return str(ctx.op("Squeeze", ctx.op("Shape", x, start=2, end=3), ctx.const([0])))


def _seen_onnx(ctx: OnnxContext, q: str, k: str) -> str:
    """bool [H, S, T], or [1, S, T] where all heads see the same."""
    rows, columns = (ctx.op("Range", ctx.const(0), _length_onnx(ctx, x), ctx.const(1)) for x in (q, k))
    offset = ctx.op("Sub", ctx.op("Unsqueeze", rows, ctx.const([1])), ctx.op("Unsqueeze", columns, ctx.const([0])))
    if ctx.attrs["causal"]:
        offset = ctx.op("Add", offset, ctx.op("Sub", _length_onnx(ctx, k), _length_onnx(ctx, q)))
    far = ctx.op("Less", ctx.op("Abs", offset), ctx.const(ctx.attrs["window"]))
    local = [i < local_count(ctx.attrs) for i in range(ctx.attrs["num_heads"])]
    full_heads = ctx.const([[[not is_local]] for is_local in local], "bool")
    keep = ctx.op("Or", ctx.op("Unsqueeze", far, ctx.const([0])), full_heads)
    if ctx.attrs["causal"]:
        keep = ctx.op("And", keep, ctx.op("GreaterOrEqual", offset, ctx.const(0)))
    return str(keep)


def _mixed_onnx(ctx: OnnxContext) -> tuple[str, ...]:
    n, q_type = attention_sizes(ctx.types, ctx.attrs), operand(ctx.types)
    flat, dtype = q_type.rank == 3, str(q_type.dtype)
    q = heads_onnx(ctx, ctx.inputs[0], n.heads, n.head_dim, flat)
    k = repeat_onnx(ctx, heads_onnx(ctx, ctx.inputs[1], n.kv_heads, n.head_dim, flat), n, n.head_dim)
    v = repeat_onnx(ctx, heads_onnx(ctx, ctx.inputs[2], n.kv_heads, n.value_dim, flat), n, n.value_dim)
    scaled = ctx.op("Mul", q, ctx.const(n.head_dim**-0.5, dtype))
    scores = ctx.op("MatMul", scaled, ctx.op("Transpose", k, perm=[0, 1, 3, 2]))
    keep = _seen_onnx(ctx, q, k)
    lowest = -65504.0 if dtype == "float16" else -3.0e38
    probs = ctx.op("Softmax", ctx.op("Where", keep, scores, ctx.const(lowest, dtype)), axis=-1)
    probs = ctx.op("Where", keep, probs, ctx.const(0.0, dtype))
    out = ctx.op("MatMul", probs, v)
    if not flat:
        return (out,)
    out = ctx.op("Transpose", out, perm=[0, 2, 1, 3])
    return (ctx.op("Reshape", out, ctx.const([0, 0, n.heads * n.value_dim])),)


_FLAT = ("float32[batch,seq,12]",) * 3

MIXED_ATTENTION_OP = OpDef(
    name="MixedAttention",
    family="attention",
    inputs=("q", "k", "v"),
    attrs=(
        Attr("num_heads", "int", at_least=1, doc="Heads of the queries; those of keys and values follow."),
        Attr(
            "local_heads", "int", None, at_least=0, optional=True, doc="Heads with a window, the first; None is half."
        ),
        Attr("window", "int", 128, at_least=1, doc="How far a local head sees, itself included."),
        Attr("causal", "bool", False, doc="Whether a query sees only keys up to its own position."),
    ),
    result=_mixed_result,
    cost=_mixed_cost,
    to_torch=_mixed_torch,
    to_onnx=_mixed_onnx,
    is_function=True,
    samples=(
        Sample(inputs=_FLAT, attrs={"num_heads": 4, "window": 2, "causal": True}),
        Sample(inputs=_FLAT, attrs={"num_heads": 3, "local_heads": 2, "window": 2}),
        Sample(
            inputs=("float32[batch,4,seq,6]", "float32[batch,2,seq,6]", "float32[batch,2,seq,3]"),
            attrs={"num_heads": 4, "local_heads": 1, "window": 3, "causal": True},
        ),
        Sample(inputs=_FLAT, attrs={"num_heads": 2, "local_heads": 0}),
    ),
    refused=(
        Sample(inputs=_FLAT, attrs={"num_heads": 5}, message="use 1, 2, 3, 4, 6 or 12"),
        Sample(inputs=_FLAT, attrs={"num_heads": 3, "local_heads": 4}, message="use at most 3"),
    ),
    doc="Attention whose first local_heads heads see only a window and whose other heads see everything.",
)

MIXED_ATTENTION = (MIXED_ATTENTION_OP,)
