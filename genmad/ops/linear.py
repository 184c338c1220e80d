"""Matrix products: dense layers, embeddings, low-rank adapters, gated feed-forward blocks."""

import re

from genmad.ir.diagnostics import ShapeError
from genmad.ir.opdef import Attr, Attrs, Cost, OnnxContext, OpDef, Param, Sample, TorchContext, Types
from genmad.ir.types import Dim, DType, Shape, TensorType, product
from genmad.ops.activation import INNER, float_const, inner_attr, inner_onnx, inner_torch
from genmad.ops.shape_rules import (
    broadcast,
    known,
    literal,
    need_float,
    need_integer,
    need_rank,
    need_same_dtype,
    operand,
)

OUT_FEATURES = Attr("out_features", "int", at_least=1, doc="Size of the last axis of the output.")
BIAS = Attr("bias", "bool", default=True, doc="Whether a learned vector is added.")
TRANSPOSED = Attr(
    "transposed", "bool", default=False, doc="Whether the weight is stored as [in, out], as in GPT-2, not as [out, in]."
)


def _features(types: Types) -> tuple[TensorType, int]:
    x = need_rank(need_float(operand(types)), 1)
    return x, known(x.shape[-1], "the size of the last axis of x")


def _linear_result(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    x, _ = _features(types)
    return (x.with_shape((*x.shape[:-1], attrs["out_features"])),)


def _linear_params(types: Types, attrs: Attrs) -> tuple[Param, ...]:
    x, width = _features(types)
    out = attrs["out_features"]
    shape = (width, out) if attrs["transposed"] else (out, width)
    init = "normal:0.02" if attrs["transposed"] else "kaiming"
    weight = Param("weight", TensorType(x.dtype, shape), init)
    bias = Param("bias", TensorType(x.dtype, (out,)), "zeros")
    return (weight, bias) if attrs["bias"] else (weight,)


def _linear_cost(types: Types, results: Types, _attrs: Attrs) -> Cost:
    return Cost(macs=operand(results).numel * operand(types).shape[-1])


def _linear_torch(ctx: TorchContext) -> str:
    weight = ctx.param("weight") + (".t()" if ctx.attrs["transposed"] else "")
    bias = f", {ctx.param('bias')}" if ctx.attrs["bias"] else ""
    return f"F.linear({ctx.inputs[0]}, {weight}{bias})"


def _linear_module(types: Types, attrs: Attrs) -> str:
    if attrs["transposed"]:
        return ""
    bias = "" if attrs["bias"] else ", bias=False"
    return f"nn.Linear({operand(types).shape[-1]}, {attrs['out_features']}{bias})"


def _dense_onnx(ctx: OnnxContext, x: str, slot: str, transposed: bool = False) -> str:
    """x times the parameter `slot`, which is stored as [out, in] unless `transposed`."""
    weight = ctx.param(slot) if transposed else ctx.op("Transpose", ctx.param(slot), perm=(1, 0))
    return str(ctx.op("MatMul", x, weight))


def _linear_onnx(ctx: OnnxContext) -> tuple[str, ...]:
    if operand(ctx.types).rank == 2:
        bias = (ctx.param("bias"),) if ctx.attrs["bias"] else ()
        return (ctx.op("Gemm", ctx.inputs[0], ctx.param("weight"), *bias, transB=int(not ctx.attrs["transposed"])),)
    y = _dense_onnx(ctx, ctx.inputs[0], "weight", ctx.attrs["transposed"])
    return (ctx.op("Add", y, ctx.param("bias")) if ctx.attrs["bias"] else y,)


LINEAR_REFUSED = (
    Sample(inputs=("int64[batch,8]",), attrs={"out_features": 4}, message="put Cast(dtype=float32) before it"),
    Sample(inputs=("float32[batch,seq]",), attrs={"out_features": 4}, message="a size known when the graph is built"),
    Sample(inputs=("float32[batch,8]",), attrs={"out_features": 0}, message="at least 1"),
    Sample(inputs=("float32[batch,8]",), message="a value for out_features"),
)

LINEAR_OP = OpDef(
    name="Linear",
    family="linear",
    inputs=("x",),
    attrs=(OUT_FEATURES, BIAS, TRANSPOSED),
    result=_linear_result,
    params=_linear_params,
    cost=_linear_cost,
    to_torch=_linear_torch,
    torch_module=_linear_module,
    to_onnx=_linear_onnx,
    samples=(
        Sample(inputs=("float32[batch,seq,8]",), attrs={"out_features": 12}),
        Sample(inputs=("float32[batch,8]",), attrs={"out_features": 3, "bias": False}),
        Sample(inputs=("float32[batch,seq,8]",), attrs={"out_features": 12, "transposed": True}),
    ),
    refused=LINEAR_REFUSED,
    doc="x W^T + b over the last axis.",
)


def _lora_params(types: Types, attrs: Attrs) -> tuple[Param, ...]:
    x, width = _features(types)
    rank = attrs["rank"]
    if rank > min(width, attrs["out_features"]):
        limit = min(width, attrs["out_features"])
        raise ShapeError(f"rank={rank}", f"at most min(in, out) = {limit}", f"use a rank from 1 to {limit}")
    lora_a = Param("lora_a", TensorType(x.dtype, (rank, width)), "kaiming")
    # B = 0, so that a new adapter changes nothing until it is trained: section 4.1 of arXiv 2106.09685.
    lora_b = Param("lora_b", TensorType(x.dtype, (attrs["out_features"], rank)), "zeros")
    return (*_linear_params(types, attrs), lora_a, lora_b)


def _lora_result(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    _lora_params(types, attrs)
    return _linear_result(types, attrs)


def _lora_cost(types: Types, results: Types, attrs: Attrs) -> Cost:
    x, y = operand(types), operand(results)
    return Cost(macs=y.numel * x.shape[-1] + (x.numel + y.numel) * attrs["rank"])


def _lora_torch(ctx: TorchContext) -> str:
    x, scale = ctx.inputs[0], ctx.attrs["alpha"] / ctx.attrs["rank"]
    low = f"F.linear(F.linear({x}, {ctx.param('lora_a')}), {ctx.param('lora_b')})"
    return f"{_linear_torch(ctx)} + {literal(scale)} * {low}"


def _lora_onnx(ctx: OnnxContext) -> tuple[str, ...]:
    (y,) = _linear_onnx(ctx)
    low = _dense_onnx(ctx, _dense_onnx(ctx, ctx.inputs[0], "lora_a"), "lora_b")
    return (ctx.op("Add", y, ctx.op("Mul", low, float_const(ctx, ctx.attrs["alpha"] / ctx.attrs["rank"]))),)


LORA_LINEAR = OpDef(
    name="LoRALinear",
    family="linear",
    inputs=("x",),
    attrs=(
        OUT_FEATURES,
        BIAS,
        TRANSPOSED,
        Attr("rank", "int", at_least=1, doc="Inner size of the low-rank update."),
        Attr("alpha", "int", default=16, at_least=1, doc="The update is scaled by alpha / rank."),
    ),
    result=_lora_result,
    params=_lora_params,
    cost=_lora_cost,
    to_torch=_lora_torch,
    to_onnx=_lora_onnx,
    is_function=True,
    samples=(
        Sample(inputs=("float32[batch,seq,8]",), attrs={"out_features": 12, "rank": 4}),
        Sample(inputs=("float32[batch,8]",), attrs={"out_features": 6, "rank": 2, "alpha": 2, "bias": False}),
        Sample(inputs=("float32[batch,8]",), attrs={"out_features": 6, "rank": 3, "transposed": True}),
    ),
    refused=(
        Sample(inputs=("float32[batch,8]",), attrs={"out_features": 6, "rank": 7}, message="use a rank from 1 to 6"),
        Sample(inputs=("float32[batch,8]",), attrs={"out_features": 6, "rank": 0}, message="at least 1"),
    ),
    doc="Linear plus a low-rank update (alpha / rank) x A^T B^T. Hu et al., arXiv 2106.09685.",
)


def _embedding_result(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    ids = need_integer(operand(types), "ids")
    return (TensorType(DType.FLOAT32, (*ids.shape, attrs["embedding_dim"])),)


def _embedding_params(_types: Types, attrs: Attrs) -> tuple[Param, ...]:
    shape = (attrs["num_embeddings"], attrs["embedding_dim"])
    return (Param("weight", TensorType(DType.FLOAT32, shape), "normal:0.02"),)


EMBEDDING = OpDef(
    name="Embedding",
    family="linear",
    inputs=("ids",),
    attrs=(
        Attr("num_embeddings", "int", at_least=1, doc="Number of rows; ids are smaller than it."),
        Attr("embedding_dim", "int", at_least=1, doc="Size of the new last axis."),
    ),
    result=_embedding_result,
    params=_embedding_params,
    to_torch=lambda ctx: f"F.embedding({ctx.inputs[0]}, {ctx.param('weight')})",
    torch_module=lambda _types, attrs: f"nn.Embedding({attrs['num_embeddings']}, {attrs['embedding_dim']})",
    to_onnx=lambda ctx: (ctx.op("Gather", ctx.param("weight"), ctx.inputs[0], axis=0),),
    samples=(
        Sample(inputs=("int64[batch,seq]",), attrs={"num_embeddings": 11, "embedding_dim": 8}),
        Sample(inputs=("int64[seq]",), attrs={"num_embeddings": 7, "embedding_dim": 3}),
    ),
    refused=(
        Sample(
            inputs=("float32[batch,seq]",),
            attrs={"num_embeddings": 11, "embedding_dim": 8},
            message="ids: float32[batch,seq]",
        ),
    ),
    doc="The row of a table for each id.",
)


def _matmul_result(types: Types, _attrs: Attrs) -> tuple[TensorType, ...]:
    a, b = (need_rank(need_float(operand(types, i), name), 1, what=name) for i, name in enumerate("ab"))
    dtype = need_same_dtype(a, b)
    left = a.shape if a.rank > 1 else (1, *a.shape)
    right = b.shape if b.rank > 1 else (*b.shape, 1)
    if left[-1] != right[-2]:
        raise ShapeError(
            f"{a} times {b}, {left[-1]} against {right[-2]}",
            "the last axis of a as long as the next to last of b",
            "put Transpose before b if its last two axes are swapped",
        )
    rows: Shape = (left[-2],) if a.rank > 1 else ()
    columns: Shape = (right[-1],) if b.rank > 1 else ()
    return (TensorType(dtype, (*broadcast(left[:-2], right[:-2]), *rows, *columns)),)


MATMUL = OpDef(
    name="MatMul",
    family="linear",
    inputs=("a", "b"),
    result=_matmul_result,
    cost=lambda types, results, _attrs: Cost(macs=operand(results).numel * operand(types).shape[-1]),
    to_torch=lambda ctx: f"torch.matmul({ctx.inputs[0]}, {ctx.inputs[1]})",
    to_onnx=lambda ctx: (ctx.op("MatMul", *ctx.inputs),),
    samples=(
        Sample(inputs=("float32[batch,4,seq,8]", "float32[batch,4,8,seq]")),
        Sample(inputs=("float32[batch,seq,8]", "float32[8,5]")),
        Sample(inputs=("float32[batch,seq,8]", "float32[8]")),
        Sample(inputs=("float32[8]", "float32[batch,8,3]")),
    ),
    refused=(
        Sample(inputs=("float32[batch,4,8]", "float32[batch,4,8]"), message="8 against 4"),
        Sample(inputs=("float32[2,4,8]", "float32[3,8,4]"), message="2 against 3"),
        Sample(inputs=("int64[4,8]", "float32[8,4]"), message="a: int64[4,8]"),
    ),
    doc="Matrix product with numpy's broadcasting over the leading axes.",
)


def _einsum_sizes(types: Types, equation: str) -> tuple[list[str], str, dict[str, Dim]]:
    """Letters of each operand, of the result, and the size of each letter."""
    if not re.fullmatch(r"[A-Za-z]*(,[A-Za-z]*)*->[A-Za-z]*", equation):
        raise ShapeError(f"equation={equation!r}", "letters, commas and one -> such as 'bij,bjk->bik'")
    left, result = equation.split("->")
    terms = left.split(",")
    if len(terms) != len(types):
        raise ShapeError(f"{len(types)} inputs for {equation!r}", f"{len(terms)} inputs")
    sizes: dict[str, Dim] = {}
    for index, term in enumerate(terms):
        shape = need_number_rank(operand(types, index), len(term), f"input {index}").shape
        for letter, size in zip(term, shape, strict=True):
            if sizes.setdefault(letter, size) != size:
                got = f"{letter} of {sizes[letter]} and of {size} in {equation!r}"
                raise ShapeError(got, "one size for each letter")
    if len(set(result)) != len(result) or not set(result) <= set(sizes):
        raise ShapeError(f"the result {result!r} of {equation!r}", "letters of the inputs, each once")
    return terms, result, sizes


def need_number_rank(x: TensorType, rank: int, what: str) -> TensorType:
    return need_rank(need_float(x, what), rank, rank, what)


def _einsum_result(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    _, result, sizes = _einsum_sizes(types, attrs["equation"])
    first = operand(types)
    for index in range(1, len(types)):
        need_same_dtype(first, operand(types, index))
    return (first.with_shape(sizes[letter] for letter in result),)


def _einsum_cost(types: Types, _results: Types, attrs: Attrs) -> Cost:
    """Contracts from left to right, as torch does without opt_einsum; a step that sums over nothing has no MACs."""
    terms, result, sizes = _einsum_sizes(types, attrs["equation"])
    macs: Dim = 0
    have = set(terms[0])
    for index, term in enumerate(terms[1:], start=1):
        every = have | set(term)
        kept = every & (set(result) | set("".join(terms[index + 1 :])))
        if every != kept:
            macs = macs + product(sizes[letter] for letter in sorted(every))
        have = kept
    return Cost(macs=macs)


EINSUM = OpDef(
    name="Einsum",
    family="linear",
    inputs=("xs*",),
    attrs=(Attr("equation", "str", doc="Index letters of each input, ->, and of the result."),),
    result=_einsum_result,
    cost=_einsum_cost,
    to_torch=lambda ctx: f"torch.einsum({literal(ctx.attrs['equation'])}, {', '.join(str(i) for i in ctx.inputs)})",
    to_onnx=lambda ctx: (ctx.op("Einsum", *ctx.inputs, equation=ctx.attrs["equation"]),),
    samples=(
        Sample(inputs=("float32[batch,seq,8]", "float32[8,5]"), attrs={"equation": "bsd,de->bse"}),
        Sample(inputs=("float32[batch,seq,2,4]", "float32[batch,seq,2,4]"), attrs={"equation": "bqhd,bkhd->bhqk"}),
        Sample(inputs=("float32[batch,seq,8]",), attrs={"equation": "bsd->bds"}),
    ),
    refused=(
        Sample(inputs=("float32[2,3]",), attrs={"equation": "...i->i"}, message="letters, commas and one ->"),
        Sample(inputs=("float32[2,3]", "float32[4,5]"), attrs={"equation": "ij,jk->ik"}, message="j of 3 and of 4"),
        Sample(inputs=("float32[2,3]",), attrs={"equation": "ij,jk->ik"}, message="expected 2 inputs"),
    ),
    doc="Sum of products over index letters.",
)


def _gated_params(types: Types, attrs: Attrs) -> tuple[Param, ...]:
    x, width = _features(types)
    hidden, out = attrs["hidden_features"], attrs["out_features"]
    made = []
    for part, shape in (("gate", (hidden, width)), ("up", (hidden, width)), ("down", (out, hidden))):
        made.append(Param(f"{part}_weight", TensorType(x.dtype, shape)))
        if attrs["bias"]:
            made.append(Param(f"{part}_bias", TensorType(x.dtype, shape[:1]), "zeros"))
    return tuple(made)


def _gated_cost(types: Types, results: Types, attrs: Attrs) -> Cost:
    return Cost(macs=(operand(types).numel * 2 + operand(results).numel) * attrs["hidden_features"])


def _gated_torch(ctx: TorchContext) -> str:
    def dense(x: str, part: str) -> str:
        bias = f", {ctx.param(f'{part}_bias')}" if ctx.attrs["bias"] else ""
        return f"F.linear({x}, {ctx.param(f'{part}_weight')}{bias})"

    x = str(ctx.inputs[0])
    return dense(f"{inner_torch(ctx.attrs['activation'], dense(x, 'gate'))} * {dense(x, 'up')}", "down")


def _gated_onnx(ctx: OnnxContext) -> tuple[str, ...]:
    def dense(x: str, part: str) -> str:
        y = _dense_onnx(ctx, x, f"{part}_weight")
        return ctx.op("Add", y, ctx.param(f"{part}_bias")) if ctx.attrs["bias"] else y

    x = ctx.inputs[0]
    gate = inner_onnx(ctx, ctx.attrs["activation"], dense(x, "gate"))
    return (dense(ctx.op("Mul", gate, dense(x, "up")), "down"),)


GATED_MLP = OpDef(
    name="GatedMLP",
    family="linear",
    inputs=("x",),
    attrs=(
        Attr("hidden_features", "int", at_least=1, doc="Width of the gate and up projections."),
        OUT_FEATURES,
        inner_attr("activation", "silu"),
        Attr("bias", "bool", default=False, doc="Whether each projection adds a learned vector."),
    ),
    result=_linear_result,
    params=_gated_params,
    cost=_gated_cost,
    to_torch=_gated_torch,
    to_onnx=_gated_onnx,
    is_function=True,
    samples=(
        Sample(inputs=("float32[batch,seq,8]",), attrs={"hidden_features": 12, "out_features": 8}),
        *(
            Sample(
                inputs=("float32[batch,8]",),
                attrs={"hidden_features": 6, "out_features": 4, "activation": name, "bias": True},
            )
            for name in INNER
        ),
    ),
    refused=(
        Sample(
            inputs=("float32[batch,8]",),
            attrs={"hidden_features": 6, "out_features": 4, "activation": "swish"},
            message="one of relu, relu6, silu",
        ),
        Sample(
            inputs=("float32[batch,seq]",),
            attrs={"hidden_features": 6, "out_features": 4},
            message="a size known when the graph is built",
        ),
    ),
    doc="down(activation(gate(x)) * up(x)). Shazeer, arXiv 2002.05202.",
)

LINEAR = (LINEAR_OP, LORA_LINEAR, EMBEDDING, MATMUL, EINSUM, GATED_MLP)
