"""Scaled dot-product attention: full, causal, windowed, grouped, cross, with bias or softcap."""

import math
from typing import TYPE_CHECKING, NamedTuple

from genmad.ir.diagnostics import ShapeError
from genmad.ir.opdef import Attr, Attrs, Cost, OnnxContext, OpDef, Sample, TorchContext, Types
from genmad.ir.types import Dim, DType, TensorType
from genmad.ops.position import POSITION, positions_onnx, quotient
from genmad.ops.shape_rules import (
    broadcast,
    divisors,
    known,
    literal,
    need_float,
    need_rank,
    need_same_dtype,
    operand,
)

if TYPE_CHECKING:
    import torch
    import torch.nn.functional as F
    from torch import Tensor

# Axes: B batch, H heads, G key/value heads, S queries, T keys, D head size, V head size of the values.


class AttentionSizes(NamedTuple):
    """The sizes that one Attention works on; see the legend above for the letters."""

    batch: Dim
    heads: int
    kv_heads: int
    queries: Dim
    keys: Dim
    head_dim: int
    value_dim: int


def attention_sizes(types: Types, attrs: Attrs) -> AttentionSizes:
    """The sizes behind 3-D (`[B,S,H*D]`) or 4-D (`[B,H,S,D]`) operands. Raises `ShapeError` when they do not fit."""
    q, k, v = (need_rank(need_float(operand(types, i), name), 3, 4, name) for i, name in enumerate("qkv"))
    need_same_dtype(q, k)
    need_same_dtype(q, v)
    if not q.rank == k.rank == v.rank:
        raise ShapeError(f"q with {q.rank}, k with {k.rank} and v with {v.rank} axes", "all with 3 or all with 4 axes")
    sizes = _flat_sizes(q, k, v, attrs["num_heads"]) if q.rank == 3 else _split_sizes(q, k, v, attrs["num_heads"])
    for name, other in (("k", k), ("v", v)):
        if other.shape[0] != q.shape[0]:
            raise ShapeError(f"q of batch {q.shape[0]} and {name} of batch {other.shape[0]}", "one batch size")
    if v.shape[-2] != k.shape[-2]:
        raise ShapeError(f"k of {k.shape[-2]} positions and v of {v.shape[-2]}", "as many values as keys")
    if sizes.heads % sizes.kv_heads:
        got = f"num_heads={sizes.heads} with {sizes.kv_heads} key/value heads"
        raise ShapeError(got, f"key/value heads that divide {sizes.heads}", f"use {divisors(sizes.heads)}")
    return sizes


def _flat_sizes(q: TensorType, k: TensorType, v: TensorType, heads: int) -> AttentionSizes:
    head_dim = quotient(q.shape[2], heads, "the width of q", "num_heads")
    kv_heads = quotient(k.shape[2], head_dim, "the width of k", "head size")
    value_dim = quotient(v.shape[2], kv_heads, "the width of v", "key/value heads")
    return AttentionSizes(q.shape[0], heads, kv_heads, q.shape[1], k.shape[1], head_dim, value_dim)


def _split_sizes(q: TensorType, k: TensorType, v: TensorType, heads: int) -> AttentionSizes:
    if q.shape[1] != heads:
        raise ShapeError(f"num_heads={heads} with q of shape {list(q.shape)}", f"num_heads={q.shape[1]}, axis 1 of q")
    if k.shape[3] != q.shape[3]:
        raise ShapeError(f"q of head size {q.shape[3]} and k of {k.shape[3]}", "one head size")
    if v.shape[1] != k.shape[1]:
        raise ShapeError(f"k with {k.shape[1]} heads and v with {v.shape[1]}", "as many heads")
    kv_heads, head_dim, value_dim = (
        known(d, n) for d, n in ((k.shape[1], "heads of k"), (k.shape[3], "head size"), (v.shape[3], "head size of v"))
    )
    return AttentionSizes(q.shape[0], heads, kv_heads, q.shape[2], k.shape[2], head_dim, value_dim)


def _attention_result(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    n = attention_sizes(types, attrs)
    if attrs["causal"] and isinstance(n.queries, int) and isinstance(n.keys, int) and n.keys < n.queries:
        raise ShapeError(f"{n.queries} queries and {n.keys} keys with causal=True", "at least as many keys as queries")
    bias = types[3] if len(types) > 3 else None
    if bias is not None:
        scores = (n.batch, n.heads, n.queries, n.keys)
        if bias.dtype is not DType.BOOL:
            need_same_dtype(operand(types), bias)
        if bias.rank > 4 or broadcast(bias.shape, scores) != scores:
            raise ShapeError(f"bias of shape {list(bias.shape)}", f"a shape that broadcasts to {list(scores)}")
    q = operand(types)
    if q.rank == 3:
        return (q.with_shape((n.batch, n.queries, n.heads * n.value_dim)),)
    return (q.with_shape((n.batch, n.heads, n.queries, n.value_dim)),)


def _attention_cost(types: Types, _results: Types, attrs: Attrs) -> Cost:
    n, window = attention_sizes(types, attrs), attrs["window"]
    keys = n.keys
    if window is not None and isinstance(keys, int):
        keys = min(window if attrs["causal"] else 2 * window - 1, keys)
    return Cost(macs=n.batch * n.heads * n.queries * keys * (n.head_dim + n.value_dim))


def visible_keys(
    num_queries: int, num_keys: int, causal: bool, window: "int | None", device: "torch.device"
) -> "Tensor":
    """[S, T], True where a query may look at a key; a causal query i stands at position i + T - S."""
    offset = torch.arange(num_queries, device=device)[:, None] - torch.arange(num_keys, device=device)[None, :]
    reach = max(num_queries, num_keys) if window is None else window
    if not causal:
        return offset.abs() < reach
    offset = offset + num_keys - num_queries
    return (offset >= 0) & (offset < reach)


def attention(
    q: "Tensor", k: "Tensor", v: "Tensor", bias: "Tensor | None" = None, *, num_heads: int, causal: bool = False,
    window: "int | None" = None, softcap: "float | None" = None, scale: "float | None" = None,
) -> "Tensor":  # fmt: skip
    """Attention over [B, S, H*D] or [B, H, S, D]; a bool bias keeps where True, any other is added to the scores."""
    flat = q.dim() == 3
    if flat:
        head_dim = q.shape[-1] // num_heads
        kv_heads = k.shape[-1] // head_dim
        q = q.reshape(*q.shape[:2], num_heads, head_dim).transpose(1, 2)
        k = k.reshape(*k.shape[:2], kv_heads, head_dim).transpose(1, 2)
        v = v.reshape(*v.shape[:2], kv_heads, -1).transpose(1, 2)
    if k.shape[1] != num_heads:
        k = k.repeat_interleave(num_heads // k.shape[1], dim=1)
        v = v.repeat_interleave(num_heads // v.shape[1], dim=1)
    mask = bias
    if window is not None or (causal and (bias is not None or softcap is not None or q.shape[2] != k.shape[2])):
        keep = visible_keys(q.shape[2], k.shape[2], causal, window, q.device)
        if bias is None:
            mask = keep
        elif bias.dtype == torch.bool:
            mask = bias & keep
        else:
            mask = bias.masked_fill(~keep, -math.inf)
        causal = False
    if softcap is None:
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, scale=scale)
    else:
        scores = q @ k.transpose(-1, -2) * (scale or q.shape[-1] ** -0.5)
        scores = softcap * torch.tanh(scores / softcap)
        if mask is not None and mask.dtype == torch.bool:
            probs = scores.masked_fill(~mask, -math.inf).softmax(dim=-1)
            out = torch.where(mask.any(dim=-1, keepdim=True), probs, 0.0) @ v
        else:
            out = (scores if mask is None else scores + mask).softmax(dim=-1) @ v
    return out.transpose(1, 2).flatten(2) if flat else out


def _attention_torch(ctx: TorchContext) -> str:
    ctx.kernel(visible_keys)
    name = ctx.kernel(attention)
    args = [str(x) for x in ctx.inputs if x is not None]
    args.append(f"num_heads={ctx.attrs['num_heads']}")
    args += [f"{key}={literal(ctx.attrs[key])}" for key in ("causal", "window", "softcap", "scale") if ctx.attrs[key]]
    return f"{name}({', '.join(args)})"


def heads_onnx(ctx: OnnxContext, x: str, heads: int, size: int, flat: bool) -> str:
    """[B, H, S, D] from a flat [B, S, H*D]; anything else as it is."""
    if not flat:
        return x
    return str(ctx.op("Transpose", ctx.op("Reshape", x, ctx.const([0, 0, heads, size])), perm=[0, 2, 1, 3]))


def repeat_onnx(ctx: OnnxContext, x: str, n: AttentionSizes, size: int) -> str:
    """[B, G, T, D] to [B, H, T, D]: each key/value head serves H/G heads."""
    if n.heads == n.kv_heads:
        return x
    wide = ctx.op("Unsqueeze", x, ctx.const([2]))
    wide = ctx.op("Expand", wide, ctx.const([1, 1, n.heads // n.kv_heads, 1, 1]))
    return str(ctx.op("Reshape", wide, ctx.const([0, n.heads, -1, size])))


def _visible_onnx(ctx: OnnxContext, q: str, k: str) -> str:
    """bool [S, T] as `visible_keys`, from q [B, H, S, D] and k [B, H, T, D]."""
    rows = ctx.op("Unsqueeze", positions_onnx(ctx, q), ctx.const([1]))
    offset = ctx.op("Sub", rows, ctx.op("Unsqueeze", positions_onnx(ctx, k), ctx.const([0])))
    window = ctx.attrs["window"]
    if not ctx.attrs["causal"]:
        return str(ctx.op("Less", ctx.op("Abs", offset), ctx.const(window)))
    extra = ctx.op("Sub", ctx.op("Shape", k, start=2, end=3), ctx.op("Shape", q, start=2, end=3))
    offset = ctx.op("Add", offset, extra)
    keep = ctx.op("GreaterOrEqual", offset, ctx.const(0))
    return str(keep if window is None else ctx.op("And", keep, ctx.op("Less", offset, ctx.const(window))))


def _scores_onnx(ctx: OnnxContext, q: str, k: str, head_dim: int) -> str:
    dtype, scale, softcap = str(operand(ctx.types).dtype), ctx.attrs["scale"], ctx.attrs["softcap"]
    scaled = ctx.op("Mul", q, ctx.const(head_dim**-0.5 if scale is None else scale, dtype))
    scores = ctx.op("MatMul", scaled, ctx.op("Transpose", k, perm=[0, 1, 3, 2]))
    if softcap is None:
        return str(scores)
    cap = ctx.const(softcap, dtype)
    return str(ctx.op("Mul", ctx.op("Tanh", ctx.op("Div", scores, cap)), cap))


def _attention_onnx(ctx: OnnxContext) -> tuple[str, ...]:
    n, q_type = attention_sizes(ctx.types, ctx.attrs), operand(ctx.types)
    flat, dtype = q_type.rank == 3, str(q_type.dtype)
    q = heads_onnx(ctx, ctx.inputs[0], n.heads, n.head_dim, flat)
    k = repeat_onnx(ctx, heads_onnx(ctx, ctx.inputs[1], n.kv_heads, n.head_dim, flat), n, n.head_dim)
    v = repeat_onnx(ctx, heads_onnx(ctx, ctx.inputs[2], n.kv_heads, n.value_dim, flat), n, n.value_dim)
    scores = _scores_onnx(ctx, q, k, n.head_dim)
    masks = [_visible_onnx(ctx, q, k)] if ctx.attrs["causal"] or ctx.attrs["window"] is not None else []
    bias = ctx.types[3] if len(ctx.types) > 3 else None
    if bias is not None and bias.dtype is DType.BOOL:
        masks.append(ctx.inputs[3])
    elif bias is not None:
        scores = ctx.op("Add", scores, ctx.inputs[3])
    if masks:
        keep = masks[0] if len(masks) == 1 else ctx.op("And", *masks)
        lowest = -65504.0 if dtype == "float16" else -3.0e38
        probs = ctx.op("Softmax", ctx.op("Where", keep, scores, ctx.const(lowest, dtype)), axis=-1)
        probs = ctx.op("Where", keep, probs, ctx.const(0.0, dtype))  # a query that sees no key gives zeros, as in torch
    else:
        probs = ctx.op("Softmax", scores, axis=-1)
    out = ctx.op("MatMul", probs, v)
    if not flat:
        return (out,)
    out = ctx.op("Transpose", out, perm=[0, 2, 1, 3])
    return (ctx.op("Reshape", out, ctx.const([0, 0, n.heads * n.value_dim])),)


_FLAT = ("float32[batch,seq,12]",) * 3
_SPLIT = ("float32[batch,4,seq,6]",) * 3
_CROSS = ("float32[batch,target,12]", "float32[batch,seq,12]", "float32[batch,seq,12]")

ATTENTION_OP = OpDef(
    name="Attention",
    family="attention",
    inputs=("q", "k", "v", "bias?"),
    attrs=(
        Attr("num_heads", "int", at_least=1, doc="Heads of the queries; those of keys and values follow from widths."),
        Attr("causal", "bool", False, doc="Whether a query sees only keys up to its own position."),
        Attr("window", "int", None, at_least=1, optional=True, doc="How far a query sees, itself included."),
        Attr("softcap", "float", None, at_least=1e-3, optional=True, doc="Scores become softcap*tanh(scores/softcap)."),
        Attr(
            "scale", "float", None, at_least=1e-9, optional=True, doc="Factor of the scores; None is 1/sqrt(head size)."
        ),
    ),
    result=_attention_result,
    cost=_attention_cost,
    to_torch=_attention_torch,
    to_onnx=_attention_onnx,
    is_function=True,
    samples=(
        Sample(inputs=_FLAT, attrs={"num_heads": 3}),
        Sample(inputs=_FLAT, attrs={"num_heads": 3, "causal": True}),
        Sample(inputs=_FLAT, attrs={"num_heads": 2, "causal": True, "window": 3}),
        Sample(inputs=_FLAT, attrs={"num_heads": 2, "window": 2, "scale": 0.25}),
        Sample(inputs=_SPLIT, attrs={"num_heads": 4, "causal": True, "softcap": 5.0}),
        Sample(inputs=(*_SPLIT, "float32[1,4,seq,seq]"), attrs={"num_heads": 4, "scale": 1.0}),
        Sample(inputs=(*_SPLIT, "float32[batch,1,1,seq]"), attrs={"num_heads": 4, "causal": True}),
        Sample(inputs=(*_FLAT, "bool[batch,1,seq,seq]"), attrs={"num_heads": 2, "softcap": 2.0}),
        Sample(inputs=(*_FLAT, "bool[batch,1,1,seq]"), attrs={"num_heads": 2}),
        Sample(
            inputs=("float32[batch,seq,24]", "float32[batch,seq,12]", "float32[batch,seq,6]"), attrs={"num_heads": 4}
        ),
        Sample(
            inputs=("float32[batch,4,seq,6]", "float32[batch,2,seq,6]", "float32[batch,2,seq,3]"),
            attrs={"num_heads": 4},
        ),
        Sample(inputs=_CROSS, attrs={"num_heads": 3}),
        Sample(
            inputs=("float32[batch,3,12]", "float32[batch,5,12]", "float32[batch,5,12]"),
            attrs={"num_heads": 3, "causal": True},
        ),
    ),
    refused=(
        Sample(inputs=_FLAT, attrs={"num_heads": 5}, message="use 1, 2, 3, 4, 6 or 12"),
        Sample(inputs=_SPLIT, attrs={"num_heads": 2}, message="num_heads=4, axis 1 of q"),
        Sample(
            inputs=(*_FLAT[:2], "float32[batch,target,12]"), attrs={"num_heads": 3}, message="as many values as keys"
        ),
        Sample(
            inputs=("float32[batch,seq,24]", *_FLAT[1:]),
            attrs={"num_heads": 3},
            message="head size=8 with the width of k 12",
        ),
        Sample(inputs=(*_FLAT, "float32[batch,2,seq,seq]"), attrs={"num_heads": 3}, message="2 against 3"),
        Sample(inputs=_FLAT, attrs={"num_heads": 3, "window": 0}, message="at least 1"),
    ),
    doc=(
        "softmax(scale * q k^T + bias) v per head, with optional causal mask, window (causal: the last `window` keys; "
        "else |i - j| < window) and logit softcap (Gemma 2). Bool bias keeps where True. MACs count every key, causal "
        "or not; with a window, those inside it where the length is known. Vaswani et al., arXiv 1706.03762."
    ),
)

ATTENTION = (ATTENTION_OP, *POSITION)
