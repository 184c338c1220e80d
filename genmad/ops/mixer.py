"""Sequence mixers whose trace would unroll over time: one leaf each, with a loop inside.

B batch, S sequence, D model width, I inner width, N states per channel, R rank of the time step, K kernel size.
"""

from typing import TYPE_CHECKING, Any

from genmad.ir.opdef import Attr, Attrs, Cost, OnnxContext, OpDef, Param, Sample, TorchContext, Types
from genmad.ir.types import TensorType
from genmad.ops.activation import inner_attr, inner_onnx, inner_torch
from genmad.ops.shape_rules import known, need_float, need_rank, operand

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    import torch.nn.functional as F


def _mamba_input(types: Types) -> tuple[TensorType, int]:
    x = need_rank(need_float(operand(types)), 3, 3)
    return x, known(x.shape[2], "features")


def _mamba_params(types: Types, attrs: Attrs) -> tuple[Param, ...]:
    x, width = _mamba_input(types)
    inner, states, rank = attrs["intermediate_size"], attrs["state_size"], attrs["time_step_rank"]

    def param(slot: str, *shape: int, init: str = "kaiming") -> Param:
        return Param(slot, TensorType(x.dtype, shape), init)

    made = [param("A_log", inner, states, init="zeros"), param("D", inner, init="ones")]
    made.append(param("in_proj_weight", 2 * inner, width))
    if attrs["use_bias"]:
        made.append(param("in_proj_bias", 2 * inner, init="zeros"))
    made.append(param("conv1d_weight", inner, 1, attrs["conv_kernel"]))
    if attrs["use_conv_bias"]:
        made.append(param("conv1d_bias", inner, init="zeros"))
    made.append(param("x_proj_weight", rank + 2 * states, inner))
    made += [param("dt_proj_weight", inner, rank), param("dt_proj_bias", inner, init="zeros")]
    made.append(param("out_proj_weight", width, inner))
    if attrs["use_bias"]:
        made.append(param("out_proj_bias", width, init="zeros"))
    return tuple(made)


def _mamba_cost(types: Types, _results: Types, attrs: Attrs) -> Cost:
    x, width = _mamba_input(types)
    inner, states, rank = attrs["intermediate_size"], attrs["state_size"], attrs["time_step_rank"]
    projections = 3 * width + rank + 2 * states + rank
    return Cost(macs=x.shape[0] * x.shape[1] * (inner * (projections + attrs["conv_kernel"] + states)))


def selective_scan(
    x_BSI: "torch.Tensor",
    time_step_BSI: "torch.Tensor",
    rate_IN: "torch.Tensor",
    write_BSN: "torch.Tensor",
    read_BSN: "torch.Tensor",
) -> "torch.Tensor":
    """The state space recurrence of Mamba, section 3.2 of arXiv 2312.00752: A is rate, B is write, C is read."""
    state_BIN = x_BSI.new_zeros(x_BSI.shape[0], *rate_IN.shape)
    outputs = []
    for t in range(x_BSI.shape[1]):
        step_BI1 = time_step_BSI[:, t, :, None]
        new_BIN = step_BI1 * write_BSN[:, t, None, :] * x_BSI[:, t, :, None]
        state_BIN = torch.exp(step_BI1 * rate_IN) * state_BIN + new_BIN
        outputs.append(torch.matmul(state_BIN, read_BSN[:, t, :, None]).squeeze(-1))
    return torch.stack(outputs, dim=1)


def mamba_mixer(
    x_BSD: "torch.Tensor", parameters: "dict[str, torch.Tensor]", activate: "Callable[[torch.Tensor], torch.Tensor]"
) -> "torch.Tensor":
    """The mixer of Mamba: project, convolve, scan, gate, project back. `parameters` as in transformers' MambaMixer."""
    p = parameters
    h_BSI, gate_BSI = F.linear(x_BSD, p["in_proj_weight"], p.get("in_proj_bias")).chunk(2, dim=-1)
    padded_BIT = F.pad(h_BSI.transpose(1, 2), (p["conv1d_weight"].shape[-1] - 1, 0))
    h_BIS = F.conv1d(padded_BIT, p["conv1d_weight"], p.get("conv1d_bias"), groups=padded_BIT.shape[1])
    h_BSI = activate(h_BIS).transpose(1, 2)
    sizes = [p["dt_proj_weight"].shape[1], p["A_log"].shape[1], p["A_log"].shape[1]]
    step_BSR, write_BSN, read_BSN = torch.split(F.linear(h_BSI, p["x_proj_weight"]), sizes, dim=-1)
    time_step_BSI = F.softplus(F.linear(step_BSR, p["dt_proj_weight"], p["dt_proj_bias"]))
    y_BSI = selective_scan(h_BSI, time_step_BSI, -torch.exp(p["A_log"]), write_BSN, read_BSN) + h_BSI * p["D"]
    return F.linear(y_BSI * activate(gate_BSI), p["out_proj_weight"], p.get("out_proj_bias"))


def _mamba_torch(ctx: TorchContext) -> str:
    ctx.kernel(selective_scan)
    slots = [param.slot for param in _mamba_params(ctx.types, ctx.attrs)]
    parameters = ", ".join(f'"{slot}": {ctx.param(slot)}' for slot in slots)
    activate = f"lambda h: {inner_torch(ctx.attrs['activation'], 'h')}"
    return f"{ctx.kernel(mamba_mixer)}({ctx.inputs[0]}, {{{parameters}}}, {activate})"


def _scan_body(dtype: str) -> Any:
    """One step of `selective_scan` as an ONNX graph: (state, rate, x, step, write, read) -> (state, rate, y)."""
    from onnx import TensorProto, helper

    names = ("state", "rate", "x", "step", "write", "read")
    element = getattr(TensorProto, {"float32": "FLOAT", "float64": "DOUBLE", "float16": "FLOAT16"}[dtype])
    inputs = [helper.make_tensor_value_info(f"scan_{name}", element, None) for name in names]
    outputs = [helper.make_tensor_value_info(f"scan_{name}", element, None) for name in ("state_out", "rate_out", "y")]
    last = helper.make_tensor("scan_last", TensorProto.INT64, (1,), [-1])
    middle = helper.make_tensor("scan_middle", TensorProto.INT64, (1,), [1])
    rows: tuple[tuple[str, tuple[str, ...], str, dict[str, Any]], ...] = (
        ("Constant", (), "last_axis", {"value": last}),
        ("Constant", (), "middle_axis", {"value": middle}),
        ("Unsqueeze", ("step", "last_axis"), "step_BI1", {}),
        ("Unsqueeze", ("x", "last_axis"), "x_BI1", {}),
        ("Unsqueeze", ("write", "middle_axis"), "write_B1N", {}),
        ("Unsqueeze", ("read", "last_axis"), "read_BN1", {}),
        ("Mul", ("step_BI1", "rate"), "exponent", {}),
        ("Exp", ("exponent",), "decay", {}),
        ("Mul", ("decay", "state"), "kept", {}),
        ("Mul", ("step_BI1", "write_B1N"), "written", {}),
        ("Mul", ("written", "x_BI1"), "new", {}),
        ("Add", ("kept", "new"), "state_out", {}),
        ("MatMul", ("state_out", "read_BN1"), "y_BI1", {}),
        ("Squeeze", ("y_BI1", "last_axis"), "y", {}),
        ("Identity", ("rate",), "rate_out", {}),
    )
    nodes = [
        helper.make_node(op, [f"scan_{name}" for name in args], [f"scan_{out}"], **more) for op, args, out, more in rows
    ]
    return helper.make_graph(nodes, "selective_scan", inputs, outputs)


def _mamba_onnx(ctx: OnnxContext) -> tuple[str, ...]:
    x, _ = _mamba_input(ctx.types)
    attrs, dtype = ctx.attrs, str(x.dtype)
    inner, states, rank = attrs["intermediate_size"], attrs["state_size"], attrs["time_step_rank"]

    def dense(value: str, part: str, bias: bool) -> str:
        y: str = ctx.op("MatMul", value, ctx.op("Transpose", ctx.param(f"{part}_weight"), perm=(1, 0)))
        return str(ctx.op("Add", y, ctx.param(f"{part}_bias"))) if bias else y

    both = dense(ctx.inputs[0], "in_proj", attrs["use_bias"])
    h, gate = ctx.op("Split", both, ctx.const([inner, inner]), outputs=2, axis=-1)
    conv_bias = (ctx.param("conv1d_bias"),) if attrs["use_conv_bias"] else ()
    kernel = attrs["conv_kernel"]
    moved = ctx.op("Transpose", h, perm=(0, 2, 1))
    window = {"kernel_shape": (kernel,), "pads": (kernel - 1, 0), "group": inner}
    h = ctx.op("Conv", moved, ctx.param("conv1d_weight"), *conv_bias, **window)
    h = ctx.op("Transpose", inner_onnx(ctx, attrs["activation"], h), perm=(0, 2, 1))
    sizes = ctx.const([rank, states, states])
    step, write, read = ctx.op("Split", dense(h, "x_proj", False), sizes, outputs=3, axis=-1)
    step = ctx.op("Softplus", dense(step, "dt_proj", True))
    rate = ctx.op("Neg", ctx.op("Exp", ctx.param("A_log")))
    state = ctx.op("Expand", ctx.const(0.0, dtype), ctx.shape((x.shape[0], inner, states)))
    axes: dict[str, Any] = {"scan_input_axes": (1, 1, 1, 1), "scan_output_axes": (1,), "num_scan_inputs": 4}
    _, _, y = ctx.op("Scan", state, rate, h, step, write, read, outputs=3, body=_scan_body(dtype), **axes)
    y = ctx.op("Add", y, ctx.op("Mul", h, ctx.param("D")))
    y = ctx.op("Mul", y, inner_onnx(ctx, attrs["activation"], gate))
    return (dense(y, "out_proj", attrs["use_bias"]),)


def _mamba_result(types: Types, _attrs: Attrs) -> tuple[TensorType, ...]:
    return (_mamba_input(types)[0],)


MAMBA_MIXER = OpDef(
    name="MambaMixer",
    family="mixer",
    inputs=("x",),
    attrs=(
        Attr("intermediate_size", "int", at_least=1, doc="Inner width."),
        Attr("state_size", "int", at_least=1, doc="States per inner channel."),
        Attr("conv_kernel", "int", at_least=1, doc="Length of the causal depthwise convolution."),
        Attr("time_step_rank", "int", at_least=1, doc="Rank of the projection to time steps."),
        Attr("use_bias", "bool", default=False, doc="Whether the outer projections have a bias."),
        Attr("use_conv_bias", "bool", default=True, doc="Whether the convolution has a bias."),
        inner_attr("activation", "silu"),
    ),
    result=_mamba_result,
    params=_mamba_params,
    cost=_mamba_cost,
    to_torch=_mamba_torch,
    to_onnx=_mamba_onnx,
    is_function=True,
    opaque=True,
    samples=(
        Sample(
            inputs=("float32[batch,seq,6]",),
            attrs={"intermediate_size": 8, "state_size": 4, "conv_kernel": 3, "time_step_rank": 2},
        ),
        Sample(
            inputs=("float32[batch,seq,4]",),
            attrs={
                "intermediate_size": 6,
                "state_size": 3,
                "conv_kernel": 4,
                "time_step_rank": 1,
                "use_bias": True,
                "use_conv_bias": False,
                "activation": "gelu",
            },
        ),
    ),
    refused=(
        Sample(
            inputs=("float32[batch,6]",),
            attrs={"intermediate_size": 8, "state_size": 4, "conv_kernel": 3, "time_step_rank": 2},
            message="3 axes",
        ),
        Sample(
            inputs=("float32[batch,seq,6]",),
            attrs={"intermediate_size": 8, "state_size": 0, "conv_kernel": 3, "time_step_rank": 2},
            message="at least 1",
        ),
    ),
    doc="The selective state space mixer of Mamba, as in transformers. Gu and Dao, arXiv 2312.00752.",
)

MIXER = (MAMBA_MIXER,)
