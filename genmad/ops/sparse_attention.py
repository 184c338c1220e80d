"""Attention that does not look at every key: by hashed buckets (Reformer), or at pooled keys (hierarchical)."""

import math
from typing import TYPE_CHECKING

from genmad.ir.diagnostics import ShapeError
from genmad.ir.opdef import Attr, Attrs, Cost, OnnxContext, OpDef, Param, Sample, TorchContext, Types
from genmad.ir.types import Dim, TensorType
from genmad.ops.attention import ATTENTION_OP, AttentionSizes, attention_sizes, heads_onnx, repeat_onnx
from genmad.ops.position import quotient
from genmad.ops.shape_rules import divisors, known, literal, need_float, need_rank, need_same_dtype, operand

if TYPE_CHECKING:
    import torch
    import torch.nn.functional as F
    from torch import Tensor

# Axes: B batch, H heads, G value heads, S queries, T keys, D head size, V head size of the values, R hash rounds.

NUM_HEADS = Attr("num_heads", "int", at_least=1, doc="Heads of the queries; those of keys and values follow.")
CAUSAL = Attr("causal", "bool", False, doc="Whether a query sees only keys up to its own position.")


def _hash_sizes(types: Types, attrs: Attrs) -> AttentionSizes:
    q, v = (need_rank(need_float(operand(types, i), name), 3, 4, name) for i, name in enumerate("qv"))
    need_same_dtype(q, v)
    if q.rank != v.rank or (q.shape[0], q.shape[-2]) != (v.shape[0], v.shape[-2]):
        raise ShapeError(f"q {q} and v {v}", "one number of axes, one batch and one length")
    if q.rank == 3:
        size = quotient(q.shape[2], attrs["num_heads"], "the width of q", "num_heads")
        value_heads, value_dim = quotient(v.shape[2], size, "the width of v", "head size"), size
    else:
        if q.shape[1] != attrs["num_heads"]:
            raise ShapeError(f"num_heads={attrs['num_heads']} with q {q}", f"num_heads={q.shape[1]}, axis 1 of q")
        size, value_heads = known(q.shape[3], "head size"), known(v.shape[1], "heads of v")
        value_dim = known(v.shape[3], "head size of v")
    if attrs["num_heads"] % value_heads:
        got = f"num_heads={attrs['num_heads']} with {value_heads} value heads"
        raise ShapeError(got, "value heads that divide it", f"use {divisors(attrs['num_heads'])}")
    if attrs["num_buckets"] > 1 and attrs["num_buckets"] % 2:
        got, rounded = f"num_buckets={attrs['num_buckets']}", attrs["num_buckets"] + 1
        raise ShapeError(got, "1 or an even number: a hyperplane has two sides", f"use {rounded}")
    return AttentionSizes(q.shape[0], attrs["num_heads"], value_heads, q.shape[-2], q.shape[-2], size, value_dim)


def _hash_result(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    n, q = _hash_sizes(types, attrs), operand(types)
    if q.rank == 3:
        return (q.with_shape((n.batch, n.queries, n.heads * n.value_dim)),)
    return (q.with_shape((n.batch, n.heads, n.queries, n.value_dim)),)


def _hash_params(types: Types, attrs: Attrs) -> tuple[Param, ...]:
    n = _hash_sizes(types, attrs)
    if attrs["num_buckets"] == 1:
        return ()
    shape = (attrs["num_hashes"], n.head_dim, attrs["num_buckets"] // 2)
    return (Param("planes", TensorType(operand(types).dtype, shape), "normal:1", trainable=False),)


def _hash_cost(types: Types, _results: Types, attrs: Attrs) -> Cost:
    n, buckets, rounds = _hash_sizes(types, attrs), attrs["num_buckets"], attrs["num_hashes"]
    keys = n.keys if rounds >= buckets else n.keys * rounds // buckets
    hashing = n.head_dim * rounds * (buckets // 2)
    return Cost(macs=n.batch * n.heads * n.queries * (keys * (n.head_dim + n.value_dim) + hashing))


def lsh_attention(
    q: "Tensor", v: "Tensor", planes: "Tensor | None", *, num_heads: int, causal: bool = False
) -> "Tensor":
    """Attention of shared queries and keys between positions that share a bucket in one of the hash rounds.

    Equations 2 to 6 of arXiv 2001.04451, without the cut into chunks: the union over rounds, each pair counted once.
    Queries go through in slices of 512, so that memory grows with S, not with its square.
    """
    flat = q.dim() == 3
    if flat:
        size = q.shape[-1] // num_heads
        q = q.reshape(*q.shape[:2], num_heads, size).transpose(1, 2)
        v = v.reshape(*v.shape[:2], -1, size).transpose(1, 2)
    if v.shape[1] != num_heads:
        v = v.repeat_interleave(num_heads // v.shape[1], dim=1)
    k = F.normalize(q, dim=-1)
    buckets = []
    if planes is not None:
        sides = torch.matmul(k[:, :, None], planes)
        buckets = list(torch.cat((sides, -sides), dim=-1).argmax(dim=-1).unbind(2))
    place = torch.arange(q.shape[2], device=q.device)
    out = []
    for start in range(0, q.shape[2], 512):
        rows, part = place[start : start + 512], q[:, :, start : start + 512]
        own = rows[:, None] == place[None, :]
        keep = own if buckets else torch.ones_like(own)
        for bucket in buckets:
            keep = keep | (bucket[:, :, rows].unsqueeze(-1) == bucket.unsqueeze(-2))
        if causal:
            keep = keep & (rows[:, None] >= place[None, :])
        # A position looks at itself only where there is nothing else: section 2 of the paper.
        bias = own.to(q.dtype) * -5e4
        bias = bias.masked_fill(~keep, -math.inf)
        out.append(F.scaled_dot_product_attention(part, k, v, attn_mask=bias))
    mixed = torch.cat(out, dim=2)
    return mixed.transpose(1, 2).flatten(2) if flat else mixed


def _hash_torch(ctx: TorchContext) -> str:
    planes = ctx.param("planes") if ctx.attrs["num_buckets"] > 1 else "None"
    more = ", causal=True" if ctx.attrs["causal"] else ""
    q, v = ctx.inputs
    return f"{ctx.kernel(lsh_attention)}({q}, {v}, {planes}, num_heads={ctx.attrs['num_heads']}{more})"


def _same_bucket_onnx(ctx: OnnxContext, k: str) -> str:
    """bool [B, H, S, S] of unit vectors k [B, H, S, D]: whether two of them share a bucket in one of the rounds."""
    sides = ctx.op("MatMul", ctx.op("Unsqueeze", k, ctx.const([2])), ctx.param("planes"))
    both = ctx.op("Concat", sides, ctx.op("Neg", sides), axis=-1)
    bucket = ctx.op("ArgMax", both, axis=-1, keepdims=0)
    same = ctx.op("Equal", ctx.op("Unsqueeze", bucket, ctx.const([4])), ctx.op("Unsqueeze", bucket, ctx.const([3])))
    most = ctx.op("ReduceMax", ctx.op("Cast", same, to="int32"), ctx.const([2]), keepdims=0)
    return str(ctx.op("Cast", most, to="bool"))


def _probabilities_onnx(ctx: OnnxContext, scores: str, masks: list[str]) -> str:
    """Softmax over what every mask keeps; a row that keeps nothing gives zeros, as in torch."""
    if not masks:
        return str(ctx.op("Softmax", scores, axis=-1))
    dtype = str(operand(ctx.types).dtype)
    keep = masks[0] if len(masks) == 1 else ctx.op("And", *masks)
    lowest = ctx.const(-65504.0 if dtype == "float16" else -3.0e38, dtype)
    probs = ctx.op("Softmax", ctx.op("Where", keep, scores, lowest), axis=-1)
    return str(ctx.op("Where", keep, probs, ctx.const(0.0, dtype)))


def _range_onnx(ctx: OnnxContext, x: str) -> str:
    """[S], the numbers 0 to S-1, from x [B, H, S, D]."""
    length = ctx.op("Squeeze", ctx.op("Shape", x, start=2, end=3), ctx.const([0]))
    return str(ctx.op("Range", ctx.const(0), length, ctx.const(1)))


def _joined_onnx(ctx: OnnxContext, out: str, n: AttentionSizes, flat: bool) -> tuple[str, ...]:
    if not flat:
        return (out,)
    moved = ctx.op("Transpose", out, perm=[0, 2, 1, 3])
    return (ctx.op("Reshape", moved, ctx.const([0, 0, n.heads * n.value_dim])),)


def _hash_onnx(ctx: OnnxContext) -> tuple[str, ...]:
    n, q_type = _hash_sizes(ctx.types, ctx.attrs), operand(ctx.types)
    flat, dtype = q_type.rank == 3, str(q_type.dtype)
    q = heads_onnx(ctx, ctx.inputs[0], n.heads, n.head_dim, flat)
    v = repeat_onnx(ctx, heads_onnx(ctx, ctx.inputs[1], n.kv_heads, n.value_dim, flat), n, n.value_dim)
    norm = ctx.op("ReduceL2", q, ctx.const([-1]), keepdims=1)
    k = ctx.op("Div", q, ctx.op("Max", norm, ctx.const(1e-12 if dtype != "float16" else 1e-7, dtype)))
    place = _range_onnx(ctx, q)
    rows, columns = ctx.op("Unsqueeze", place, ctx.const([1])), ctx.op("Unsqueeze", place, ctx.const([0]))
    masks = [_same_bucket_onnx(ctx, k)] if ctx.attrs["num_buckets"] > 1 else []
    masks += [ctx.op("GreaterOrEqual", rows, columns)] if ctx.attrs["causal"] else []
    scaled = ctx.op("Mul", q, ctx.const(n.head_dim**-0.5, dtype))
    scores = ctx.op("MatMul", scaled, ctx.op("Transpose", k, perm=[0, 1, 3, 2]))
    own = ctx.op("Cast", ctx.op("Equal", rows, columns), to=dtype)
    scores = ctx.op("Add", scores, ctx.op("Mul", own, ctx.const(-5e4, dtype)))
    probs = _probabilities_onnx(ctx, scores, masks)
    return _joined_onnx(ctx, ctx.op("MatMul", probs, v), n, flat)


LSH_ATTENTION = OpDef(
    name="LSHAttention",
    family="attention",
    inputs=("q", "v"),
    attrs=(
        NUM_HEADS,
        Attr("num_hashes", "int", 4, at_least=1, at_most=64, doc="Rounds of hashing, each with planes of its own."),
        Attr("num_buckets", "int", 32, at_least=1, at_most=65536, doc="Buckets of a round: 1 (all see all), or even."),
        CAUSAL,
    ),
    result=_hash_result,
    params=_hash_params,
    cost=_hash_cost,
    to_torch=_hash_torch,
    to_onnx=_hash_onnx,
    is_function=True,
    samples=(
        Sample(inputs=("float32[batch,seq,12]",) * 2, attrs={"num_heads": 3, "num_hashes": 2, "num_buckets": 4}),
        Sample(inputs=("float32[batch,seq,12]",) * 2, attrs={"num_heads": 2, "num_buckets": 1}),
        Sample(
            inputs=("float32[batch,seq,12]", "float32[batch,seq,6]"),
            attrs={"num_heads": 4, "num_hashes": 2, "num_buckets": 4, "causal": True},
        ),
        Sample(
            inputs=("float32[batch,4,seq,6]", "float32[batch,2,seq,3]"),
            attrs={"num_heads": 4, "num_buckets": 2, "causal": True},
        ),
    ),
    refused=(
        Sample(inputs=("float32[batch,seq,12]",) * 2, attrs={"num_heads": 5}, message="use 1, 2, 3, 4, 6 or 12"),
        Sample(inputs=("float32[batch,seq,12]",) * 2, attrs={"num_heads": 3, "num_buckets": 5}, message="use 6"),
        Sample(
            inputs=("float32[batch,seq,12]", "float32[batch,target,12]"),
            attrs={"num_heads": 3},
            message="one batch and one length",
        ),
        Sample(
            inputs=("float32[batch,4,seq,6]", "float32[batch,3,seq,6]"),
            attrs={"num_heads": 4},
            message="value heads that divide it",
        ),
    ),
    doc=(
        "Attention between positions that fall into one bucket in at least one of num_hashes rounds; keys are the"
        " queries at unit length, and a position looks at itself only where it sees nothing else. MACs as if buckets"
        " were equally full. Kitaev et al., arXiv 2001.04451."
    ),
)


def _pooled_result(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    return ATTENTION_OP.result(types, attrs)


def _pooled_cost(types: Types, _results: Types, attrs: Attrs) -> Cost:
    n, window = attention_sizes(types, attrs), attrs["window"]
    total: Dim = 0
    for level in range(attrs["levels"]):
        keys = -(-n.keys // attrs["pool"] ** level) if isinstance(n.keys, int) else _rounded_up(n.keys, attrs, level)
        if window is not None and isinstance(keys, int):
            keys = min(window if attrs["causal"] else 2 * window - 1, keys)
        total = total + keys
    return Cost(macs=n.batch * n.heads * n.queries * total * (n.head_dim + n.value_dim))


def _rounded_up(length: Dim, attrs: Attrs, level: int) -> Dim:
    span = attrs["pool"] ** level
    return length if span == 1 else (length + (span - 1)) // span


def hierarchical_attention(
    q: "Tensor", k: "Tensor", v: "Tensor", *, num_heads: int, levels: int, pool: int, causal: bool = False,
    window: "int | None" = None, scale: "float | None" = None,
) -> "Tensor":  # fmt: skip
    """One softmax over the keys of all levels; at level l keys and values are means over blocks of pool^l positions.

    A causal query at i sees the blocks that end at i or before; with a window, those less than `window` blocks away.
    Queries go through in slices of 512, so that memory grows with S, not with its square.
    """
    flat = q.dim() == 3
    if flat:
        size = q.shape[-1] // num_heads
        kv_heads = k.shape[-1] // size
        q = q.reshape(*q.shape[:2], num_heads, size).transpose(1, 2)
        k = k.reshape(*k.shape[:2], kv_heads, size).transpose(1, 2)
        v = v.reshape(*v.shape[:2], kv_heads, -1).transpose(1, 2)
    place = torch.arange(q.shape[2], device=q.device) + (k.shape[2] - q.shape[2] if causal else 0)
    spans = [pool**level for level in range(levels)]
    keys = [F.avg_pool2d(k, (span, 1), ceil_mode=True) if span > 1 else k for span in spans]
    values = [F.avg_pool2d(v, (span, 1), ceil_mode=True) if span > 1 else v for span in spans]
    sizes = [x.shape[2] for x in keys]
    block = torch.cat([torch.arange(size, device=q.device) for size in sizes])
    span = torch.cat([torch.full((size,), n, device=q.device) for size, n in zip(sizes, spans, strict=True)])
    k, v = torch.cat(keys, dim=2), torch.cat(values, dim=2)
    if k.shape[1] != num_heads:
        k = k.repeat_interleave(num_heads // k.shape[1], dim=1)
        v = v.repeat_interleave(num_heads // v.shape[1], dim=1)
    parts = []
    for start in range(0, q.shape[2], 512):
        rows, part = place[start : start + 512], q[:, :, start : start + 512]
        keep = (block * span + span - 1 <= rows[:, None]) | (not causal)
        if window is not None:
            keep = keep & ((rows[:, None] // span - block).abs() < window)
        mask = keep if causal or window is not None else None
        parts.append(F.scaled_dot_product_attention(part, k, v, attn_mask=mask, scale=scale))
    out = torch.cat(parts, dim=2)
    return out.transpose(1, 2).flatten(2) if flat else out


def _pooled_torch(ctx: TorchContext) -> str:
    args = [str(x) for x in ctx.inputs]
    args += [f"{name}={ctx.attrs[name]}" for name in ("num_heads", "levels", "pool")]
    args += [f"{name}={literal(ctx.attrs[name])}" for name in ("causal", "window", "scale") if ctx.attrs[name]]
    return f"{ctx.kernel(hierarchical_attention)}({', '.join(args)})"


def _block_means_onnx(ctx: OnnxContext, x: str, heads: int, size: int, span: int) -> str:
    """[B, H, ceil(T/span), D]: means over blocks of positions, the last one over as many as there are."""
    if span == 1:
        return x
    length, step = ctx.op("Shape", x, start=2, end=3), ctx.const([span])
    missing = ctx.op("Mod", ctx.op("Neg", length), step)
    pads = ctx.op("Concat", ctx.const([0] * 6), missing, ctx.const([0]), axis=0)
    blocks = ctx.op("Reshape", ctx.op("Pad", x, pads), ctx.const([0, heads, -1, span, size]))
    total = ctx.op("ReduceSum", blocks, ctx.const([3]), keepdims=0)
    left = ctx.op("Sub", length, ctx.op("Mul", _range_onnx(ctx, total), step))
    count = ctx.op("Cast", ctx.op("Min", left, step), to=str(operand(ctx.types).dtype))
    return str(ctx.op("Div", total, ctx.op("Unsqueeze", count, ctx.const([1]))))


def _seen_onnx(ctx: OnnxContext, rows: str, k: str, span: int) -> str:
    """bool [S, blocks] of the positions `rows` [S, 1] and the blocks k [B, H, blocks, D] of one level."""
    block, step = _range_onnx(ctx, k), ctx.const(span)
    window, masks = ctx.attrs["window"], []
    if ctx.attrs["causal"]:
        last = ctx.op("Add", ctx.op("Mul", block, step), ctx.const(span - 1))
        masks.append(ctx.op("LessOrEqual", last, rows))
    if window is not None:
        distance = ctx.op("Abs", ctx.op("Sub", ctx.op("Div", rows, step), block))
        masks.append(ctx.op("Less", distance, ctx.const(window)))
    return str(masks[0] if len(masks) == 1 else ctx.op("And", *masks))


def _pooled_onnx(ctx: OnnxContext) -> tuple[str, ...]:
    attrs, n, q_type = ctx.attrs, attention_sizes(ctx.types, ctx.attrs), operand(ctx.types)
    flat, dtype = q_type.rank == 3, str(q_type.dtype)
    masked = attrs["causal"] or attrs["window"] is not None
    q = heads_onnx(ctx, ctx.inputs[0], n.heads, n.head_dim, flat)
    k = heads_onnx(ctx, ctx.inputs[1], n.kv_heads, n.head_dim, flat)
    v = heads_onnx(ctx, ctx.inputs[2], n.kv_heads, n.value_dim, flat)
    rows = ctx.op("Unsqueeze", _range_onnx(ctx, q), ctx.const([1]))
    if attrs["causal"]:
        extra = ctx.op("Sub", ctx.op("Shape", k, start=2, end=3), ctx.op("Shape", q, start=2, end=3))
        rows = ctx.op("Add", rows, extra)
    spans = [attrs["pool"] ** level for level in range(attrs["levels"])]
    keys = [_block_means_onnx(ctx, k, n.kv_heads, n.head_dim, span) for span in spans]
    values = [_block_means_onnx(ctx, v, n.kv_heads, n.value_dim, span) for span in spans]
    masks = [_seen_onnx(ctx, rows, key, span) for key, span in zip(keys, spans, strict=True)] if masked else []
    k = repeat_onnx(ctx, ctx.op("Concat", *keys, axis=2), n, n.head_dim)
    v = repeat_onnx(ctx, ctx.op("Concat", *values, axis=2), n, n.value_dim)
    scaled = ctx.op("Mul", q, ctx.const(n.head_dim**-0.5 if attrs["scale"] is None else attrs["scale"], dtype))
    scores = ctx.op("MatMul", scaled, ctx.op("Transpose", k, perm=[0, 1, 3, 2]))
    probs = _probabilities_onnx(ctx, scores, [ctx.op("Concat", *masks, axis=1)] if masks else [])
    return _joined_onnx(ctx, ctx.op("MatMul", probs, v), n, flat)


_FLAT = ("float32[batch,seq,12]",) * 3

HIERARCHICAL_ATTENTION = OpDef(
    name="HierarchicalAttention",
    family="attention",
    inputs=("q", "k", "v"),
    attrs=(
        NUM_HEADS,
        Attr("levels", "int", 3, at_least=1, at_most=16, doc="Number of levels; one alone is plain attention."),
        Attr("pool", "int", 2, at_least=2, at_most=64, doc="Level l pools pool^l positions."),
        CAUSAL,
        Attr("window", "int", None, at_least=1, optional=True, doc="Blocks of each level a query sees, its own too."),
        ATTENTION_OP.attr("scale"),
    ),
    result=_pooled_result,
    cost=_pooled_cost,
    to_torch=_pooled_torch,
    to_onnx=_pooled_onnx,
    is_function=True,
    samples=(
        Sample(inputs=_FLAT, attrs={"num_heads": 3}),
        Sample(inputs=_FLAT, attrs={"num_heads": 3, "levels": 1, "causal": True}),
        Sample(inputs=_FLAT, attrs={"num_heads": 2, "levels": 3, "causal": True}),
        Sample(inputs=_FLAT, attrs={"num_heads": 2, "levels": 4, "pool": 3, "window": 2, "scale": 0.5}),
        Sample(
            inputs=("float32[batch,4,seq,6]", "float32[batch,2,seq,6]", "float32[batch,2,seq,3]"),
            attrs={"num_heads": 4, "levels": 2, "causal": True, "window": 2},
        ),
        Sample(
            inputs=("float32[batch,target,12]", "float32[batch,seq,12]", "float32[batch,seq,12]"),
            attrs={"num_heads": 3, "levels": 2},
        ),
    ),
    refused=(
        Sample(inputs=_FLAT, attrs={"num_heads": 5}, message="use 1, 2, 3, 4, 6 or 12"),
        Sample(inputs=_FLAT, attrs={"num_heads": 3, "levels": 0}, message="at least 1"),
        Sample(inputs=_FLAT, attrs={"num_heads": 3, "pool": 1}, message="at least 2"),
        Sample(inputs=_FLAT[:2], attrs={"num_heads": 3}, message="3 to 3"),
    ),
    doc=(
        "Attention over keys and values at several scales: the positions themselves, and their means over blocks of"
        " pool, pool^2 ... positions, in one softmax. Causal: only blocks that have ended. A window bounds the blocks"
        " seen per level, so that reach grows as pool^levels at linear cost. MACs count every key, or those inside"
        " the window where the length is known. After Zhu and Soricut, arXiv 2107.11906."
    ),
)

SPARSE_ATTENTION = (LSH_ATTENTION, HIERARCHICAL_ATTENTION)
