"""Mixture of experts: a layer whose tokens are sent to experts that the data chooses.

T tokens, K experts a token goes to, E experts, D model width, F inner width of an expert.
"""

from typing import TYPE_CHECKING

from genmad.ir.diagnostics import ShapeError
from genmad.ir.opdef import Attr, Attrs, Cost, OnnxContext, OpDef, Param, Sample, TorchContext, Types
from genmad.ir.types import DType, TensorType
from genmad.ops.activation import inner_attr, inner_onnx, inner_torch
from genmad.ops.shape_rules import known, need_float, need_rank, operand

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    import torch.nn.functional as F


def _tokens(types: Types, attrs: Attrs) -> tuple[TensorType, int, int]:
    """(tokens [T, D], D, K)."""
    x = need_rank(need_float(operand(types)), 2, 2)
    index, weight = need_rank(operand(types, 1), 2, 2), need_rank(need_float(operand(types, 2)), 2, 2)
    if index.dtype not in (DType.INT64, DType.INT32):
        raise ShapeError(f"{index.dtype} expert numbers", "int64 or int32 expert numbers", "put a Cast in front")
    if index.shape != weight.shape or index.shape[0] != x.shape[0]:
        got = f"tokens {list(x.shape)}, experts {list(index.shape)}, weights {list(weight.shape)}"
        raise ShapeError(got, "one row of experts and one of weights for each token")
    chosen = known(index.shape[1], "experts of a token")
    if chosen > attrs["num_experts"]:
        raise ShapeError(f"{chosen} experts a token", f"at most num_experts={attrs['num_experts']}")
    return x, known(x.shape[1], "features"), chosen


def _result(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    return (_tokens(types, attrs)[0],)


def _params(types: Types, attrs: Attrs) -> tuple[Param, ...]:
    x, width, _ = _tokens(types, attrs)
    count, hidden = attrs["num_experts"], attrs["hidden_features"]
    first = hidden * 2 if attrs["gated"] else hidden
    made = []
    for part, (out, into) in (("up", (first, width)), ("down", (width, hidden))):
        shape = (count, into, out) if attrs["transposed"] else (count, out, into)
        made.append(Param(f"{part}_weight", TensorType(x.dtype, shape)))
        if attrs["bias"]:
            made.append(Param(f"{part}_bias", TensorType(x.dtype, (count, out)), "zeros"))
    return tuple(made)


def _cost(types: Types, _results: Types, attrs: Attrs) -> Cost:
    x, width, chosen = _tokens(types, attrs)
    return Cost(macs=x.shape[0] * (chosen * width * attrs["hidden_features"] * (3 if attrs["gated"] else 2)))


def routed_experts(
    x_TD: "torch.Tensor", expert_TK: "torch.Tensor", weight_TK: "torch.Tensor",
    parameters: "dict[str, torch.Tensor]", activate: "Callable[[torch.Tensor], torch.Tensor]",
    gated: bool, transposed: bool,
) -> "torch.Tensor":  # fmt: skip
    """Each token through its K experts, summed with its K weights."""
    if x_TD.is_meta:
        return torch.empty_like(x_TD)  # how many tokens an expert gets is known from values only
    out_TD = torch.zeros_like(x_TD)
    up, down = parameters["up_weight"], parameters["down_weight"]
    up_bias, down_bias = parameters.get("up_bias"), parameters.get("down_bias")
    for number in range(up.shape[0]):
        token_N, slot_N = torch.where(expert_TK == number)
        up_FD = up[number].T if transposed else up[number]
        down_DF = down[number].T if transposed else down[number]
        h_NF = F.linear(x_TD[token_N], up_FD, None if up_bias is None else up_bias[number])
        if gated:
            gate_NF, h_NF = h_NF.chunk(2, dim=-1)
            h_NF = activate(gate_NF) * h_NF
        else:
            h_NF = activate(h_NF)
        y_ND = F.linear(h_NF, down_DF, None if down_bias is None else down_bias[number])
        out_TD = out_TD.index_add(0, token_N, y_ND * weight_TK[token_N, slot_N, None])
    return out_TD


def _torch(ctx: TorchContext) -> str:
    slots = [param.slot for param in _params(ctx.types, ctx.attrs)]
    parameters = ", ".join(f'"{slot}": {ctx.param(slot)}' for slot in slots)
    activate = f"lambda h: {inner_torch(ctx.attrs['activation'], 'h')}"
    inputs = ", ".join(str(x) for x in ctx.inputs)
    flags = f"{ctx.attrs['gated']}, {ctx.attrs['transposed']}"
    return f"{ctx.kernel(routed_experts)}({inputs}, {{{parameters}}}, {activate}, {flags})"


def _onnx(ctx: OnnxContext) -> tuple[str, ...]:
    """Every token through every expert, weighted by 0 where the token does not go there."""
    attrs, dtype = ctx.attrs, str(operand(ctx.types).dtype)

    def dense(x: str, part: str) -> str:
        weight = ctx.param(f"{part}_weight")
        weight = weight if attrs["transposed"] else ctx.op("Transpose", weight, perm=(0, 2, 1))
        y = str(ctx.op("MatMul", x, weight))
        return (
            str(ctx.op("Add", y, ctx.op("Unsqueeze", ctx.param(f"{part}_bias"), ctx.const([1]))))
            if attrs["bias"]
            else y
        )

    h = dense(ctx.op("Unsqueeze", ctx.inputs[0], ctx.const([0])), "up")
    if attrs["gated"]:
        hidden = attrs["hidden_features"]
        gate, h = ctx.op("Split", h, ctx.const([hidden, hidden]), outputs=2, axis=-1)
        h = ctx.op("Mul", inner_onnx(ctx, attrs["activation"], gate), h)
    else:
        h = inner_onnx(ctx, attrs["activation"], h)
    y_ETD = dense(h, "down")
    hot_TKE = ctx.op("OneHot", ctx.inputs[1], ctx.const(attrs["num_experts"]), ctx.const([0.0, 1.0], dtype), axis=-1)
    spread = ctx.op("Mul", hot_TKE, ctx.op("Unsqueeze", ctx.inputs[2], ctx.const([2])))
    weight_TE = ctx.op("ReduceSum", spread, ctx.const([1]), keepdims=0)
    weight_ET1 = ctx.op("Unsqueeze", ctx.op("Transpose", weight_TE, perm=(1, 0)), ctx.const([2]))
    return (ctx.op("ReduceSum", ctx.op("Mul", y_ETD, weight_ET1), ctx.const([0]), keepdims=0),)


_ROUTED = ("float32[batch,6]", "int64[batch,2]", "float32[batch,2]")

ROUTED_EXPERTS = OpDef(
    name="RoutedExperts",
    family="experts",
    inputs=("x", "experts", "weights"),
    attrs=(
        Attr("num_experts", "int", at_least=1, doc="How many experts there are."),
        Attr("hidden_features", "int", at_least=1, doc="Inner width of each expert."),
        inner_attr("activation", "silu"),
        Attr("gated", "bool", default=True, doc="Whether half of the first projection gates the other half."),
        Attr("bias", "bool", default=False, doc="Whether each projection adds a learned vector."),
        Attr("transposed", "bool", default=False, doc="Whether weights are stored [expert, in, out]."),
    ),
    result=_result,
    params=_params,
    cost=_cost,
    to_torch=_torch,
    to_onnx=_onnx,
    is_function=True,
    opaque=True,
    samples=(
        Sample(inputs=_ROUTED, attrs={"num_experts": 4, "hidden_features": 4}),
        Sample(
            inputs=_ROUTED,
            attrs={"num_experts": 4, "hidden_features": 4, "activation": "gelu", "gated": False, "bias": True},
        ),
        Sample(inputs=_ROUTED, attrs={"num_experts": 4, "hidden_features": 3, "bias": True, "transposed": True}),
    ),
    refused=(
        Sample(inputs=_ROUTED, attrs={"num_experts": 1, "hidden_features": 4}, message="at most num_experts=1"),
        Sample(
            inputs=("float32[batch,6]", "int64[batch,2]", "float32[batch,3]"),
            attrs={"num_experts": 4, "hidden_features": 4},
            message="for each token",
        ),
        Sample(
            inputs=("float32[batch,6]", "float32[batch,2]", "float32[batch,2]"),
            attrs={"num_experts": 4, "hidden_features": 4},
            message="int64 or int32",
        ),
    ),
    doc=(
        "Sends each token through the experts it chose and sums their outputs with the given weights; in ONNX every"
        " expert runs on every token. Shazeer et al., arXiv 1701.06538; Fedus et al., arXiv 2101.03961."
    ),
)

EXPERTS = (ROUTED_EXPERTS,)
