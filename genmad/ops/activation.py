"""Activation functions and other elementwise functions of one input."""

from collections.abc import Callable
from typing import Any

from genmad.ir.diagnostics import ShapeError
from genmad.ir.opdef import Attr, Attrs, OnnxContext, OpDef, Sample, TorchContext, Types
from genmad.ir.types import TensorType
from genmad.ops.shape_rules import (
    axis_index,
    literal,
    need_any,
    need_bool,
    need_float,
    need_number,
    onnx_node,
    operand,
    torch_format,
    unary,
)


def float_const(ctx: OnnxContext, value: float, index: int = 0) -> str:
    """An ONNX scalar with the dtype of input `index`."""
    return ctx.const(value, str(operand(ctx.types, index).dtype))


def gelu_onnx(ctx: OnnxContext, x: str, approximate: str) -> str:
    """GELU in ops of opset 18, which has none of its own. Hendrycks and Gimpel, arXiv 1606.08415."""
    half, one = float_const(ctx, 0.5), float_const(ctx, 1.0)
    if approximate == "sigmoid":
        return str(ctx.op("Mul", x, ctx.op("Sigmoid", ctx.op("Mul", x, float_const(ctx, 1.702)))))
    if approximate == "tanh":
        cubed = ctx.op("Mul", ctx.op("Mul", ctx.op("Mul", x, x), x), float_const(ctx, 0.044715))
        inner = ctx.op("Mul", ctx.op("Add", x, cubed), float_const(ctx, (2 / 3.141592653589793) ** 0.5))
        gate = ctx.op("Tanh", inner)
    else:
        gate = ctx.op("Erf", ctx.op("Mul", x, float_const(ctx, 0.5**0.5)))
    return str(ctx.op("Mul", ctx.op("Mul", x, half), ctx.op("Add", gate, one)))


def _silu_onnx(ctx: OnnxContext, x: str) -> str:
    return str(ctx.op("Mul", x, ctx.op("Sigmoid", x)))


# For ops that have an activation inside (GatedMLP, SqueezeExcite, MambaMixer): torch template and ONNX writer.
INNER: dict[str, tuple[str, Callable[[OnnxContext, str], str]]] = {
    "relu": ("F.relu({})", lambda ctx, x: ctx.op("Relu", x)),
    "relu6": ("F.relu6({})", lambda ctx, x: ctx.op("Clip", x, float_const(ctx, 0.0), float_const(ctx, 6.0))),
    "silu": ("F.silu({})", _silu_onnx),
    "gelu": ("F.gelu({})", lambda ctx, x: gelu_onnx(ctx, x, "none")),
    "gelu_tanh": ('F.gelu({}, approximate="tanh")', lambda ctx, x: gelu_onnx(ctx, x, "tanh")),
    "sigmoid": ("torch.sigmoid({})", lambda ctx, x: ctx.op("Sigmoid", x)),
    "hard_sigmoid": ("F.hardsigmoid({})", lambda ctx, x: ctx.op("HardSigmoid", x, alpha=1 / 6, beta=0.5)),
    "hard_swish": ("F.hardswish({})", lambda ctx, x: ctx.op("HardSwish", x)),
    "tanh": ("torch.tanh({})", lambda ctx, x: ctx.op("Tanh", x)),
    "identity": ("{}", lambda _ctx, x: x),
}


def inner_attr(name: str, default: str) -> Attr:
    """An attribute that names one of the activations above."""
    return Attr(name, "str", default=default, choices=tuple(INNER), doc="Activation function.")


def inner_torch(name: str, x: str) -> str:
    return INNER[name][0].format(x)


def inner_onnx(ctx: OnnxContext, name: str, x: str) -> str:
    return INNER[name][1](ctx, x)


def _gelu_torch(ctx: TorchContext) -> str:
    x, approximate = ctx.inputs[0], ctx.attrs["approximate"]
    if approximate == "sigmoid":
        return f"{x} * torch.sigmoid(1.702 * {x})"
    return f"F.gelu({x})" if approximate == "none" else f'F.gelu({x}, approximate="tanh")'


def _clip_result(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    low, high = attrs["min"], attrs["max"]
    if low is None and high is None:
        raise ShapeError("min=None, max=None", "a bound", "give min or max")
    if low is not None and high is not None and low > high:
        raise ShapeError(f"min={low}, max={high}", "min up to max")
    return (need_float(operand(types)),)


def _clip_torch(ctx: TorchContext) -> str:
    bounds = [f"{name}={literal(ctx.attrs[name])}" for name in ("min", "max") if ctx.attrs[name] is not None]
    return f"torch.clamp({ctx.inputs[0]}, {', '.join(bounds)})"


def _clip_onnx(ctx: OnnxContext) -> tuple[str, ...]:
    bounds = ["" if ctx.attrs[name] is None else float_const(ctx, ctx.attrs[name]) for name in ("min", "max")]
    return (ctx.op("Clip", ctx.inputs[0], *bounds),)


def _softmax(name: str, torch_name: str, doc: str) -> OpDef:
    def result(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
        x = need_float(operand(types))
        axis_index(attrs["axis"], x.rank)
        return (x,)

    return OpDef(
        name=name,
        family="activation",
        inputs=("x",),
        attrs=(Attr("axis", "int", default=-1, doc="Axis along which the values sum to one."),),
        result=result,
        to_torch=torch_format(f"F.{torch_name}({{x}}, dim={{axis}})"),
        to_onnx=onnx_node(name, axis="axis"),
        samples=(
            Sample(inputs=("float32[batch,seq,8]",)),
            Sample(inputs=("float32[batch,4,3,3]",), attrs={"axis": 1}),
        ),
        refused=(
            Sample(inputs=("float32[batch,8]",), attrs={"axis": 2}, message="an axis from -2 to 1"),
            Sample(inputs=("int64[batch,8]",), message="a floating-point tensor"),
        ),
        doc=doc,
    )


def _slope(name: str, default: float, doc: str) -> Attr:
    return Attr(name, "float", default=default, at_least=0.0, doc=doc)


def _sample(**attrs: Any) -> tuple[Sample, ...]:
    return (Sample(inputs=("float32[batch,3,8]",), attrs=attrs),)


def _relu6_onnx(ctx: OnnxContext) -> tuple[str, ...]:
    return (ctx.op("Clip", ctx.inputs[0], float_const(ctx, 0.0), float_const(ctx, 6.0)),)


RELU = unary("Relu", "F.relu({x})", "Relu", "max(x, 0).")
RELU6 = unary("Relu6", "F.relu6({x})", _relu6_onnx, "min(max(x, 0), 6).")
LEAKY_RELU = unary(
    "LeakyRelu",
    "F.leaky_relu({x}, {slope})",
    onnx_node("LeakyRelu", alpha="slope"),
    "x where x > 0, else slope * x.",
    attrs=(_slope("slope", 0.01, "Factor for negative values."),),
    samples=_sample(slope=0.2),
    refused=(Sample(inputs=("float32[2]",), attrs={"slope": -1.0}, message="at least 0.0"),),
)
ELU = unary(
    "Elu",
    "F.elu({x}, {alpha})",
    onnx_node("Elu", alpha="alpha"),
    "x where x > 0, else alpha * (exp(x) - 1). Clevert et al., arXiv 1511.07289.",
    attrs=(_slope("alpha", 1.0, "Value approached at minus infinity, negated."),),
    samples=_sample(alpha=0.5),
)
SELU = unary("Selu", "F.selu({x})", "Selu", "Scaled ELU with fixed constants. Klambauer et al., arXiv 1706.02515.")
CELU = unary(
    "Celu",
    "F.celu({x}, {alpha})",
    onnx_node("Celu", alpha="alpha"),
    "max(0, x) + min(0, alpha * (exp(x / alpha) - 1)). Barron, arXiv 1704.07483.",
    attrs=(Attr("alpha", "float", default=1.0, at_least=1e-6, doc="Scale of the exponential part."),),
    samples=_sample(alpha=0.5),
)
GELU = OpDef(
    name="Gelu",
    family="activation",
    inputs=("x",),
    attrs=(
        Attr(
            "approximate",
            "str",
            default="none",
            choices=("none", "tanh", "sigmoid"),
            doc="none: with erf; tanh: as GPT-2; sigmoid: x * sigmoid(1.702 x), as CLIP.",
        ),
    ),
    result=RELU.result,
    to_torch=_gelu_torch,
    to_onnx=lambda ctx: (gelu_onnx(ctx, ctx.inputs[0], ctx.attrs["approximate"]),),
    is_function=True,
    samples=(
        Sample(inputs=("float32[batch,seq,8]",)),
        Sample(inputs=("float32[batch,seq,8]",), attrs={"approximate": "tanh"}),
        Sample(inputs=("float32[batch,seq,8]",), attrs={"approximate": "sigmoid"}),
    ),
    refused=(
        Sample(inputs=("float32[4]",), attrs={"approximate": "erf"}, message="one of none, tanh, sigmoid"),
        Sample(inputs=("int64[4]",), message="a floating-point tensor"),
    ),
    doc="x * P(X <= x) for a standard normal X. Hendrycks and Gimpel, arXiv 1606.08415.",
)
SILU = unary(
    "Silu",
    "F.silu({x})",
    lambda ctx: (_silu_onnx(ctx, ctx.inputs[0]),),
    "x * sigmoid(x), also called swish.",
    is_function=True,
)
SIGMOID = unary("Sigmoid", "torch.sigmoid({x})", "Sigmoid", "1 / (1 + exp(-x)).")
TANH = unary("Tanh", "torch.tanh({x})", "Tanh", "Hyperbolic tangent.")
HARD_SIGMOID = unary(
    "HardSigmoid",
    "F.hardsigmoid({x})",
    lambda ctx: (inner_onnx(ctx, "hard_sigmoid", ctx.inputs[0]),),
    "min(max(x / 6 + 1/2, 0), 1).",
)
HARD_SWISH = unary("HardSwish", "F.hardswish({x})", "HardSwish", "x * min(max(x / 6 + 1/2, 0), 1). arXiv 1905.02244.")
MISH = unary("Mish", "F.mish({x})", "Mish", "x * tanh(softplus(x)). Misra, arXiv 1908.08681.")
SOFTPLUS = unary("Softplus", "F.softplus({x})", "Softplus", "log(1 + exp(x)).")
SOFTSIGN = unary("Softsign", "F.softsign({x})", "Softsign", "x / (1 + |x|).")
SOFTMAX = _softmax("Softmax", "softmax", "exp(x) divided by its sum along one axis.")
LOG_SOFTMAX = _softmax("LogSoftmax", "log_softmax", "The logarithm of Softmax.")
IDENTITY = unary(
    "Identity",
    "{x}",
    "Identity",
    "x itself.",
    accepts=need_any,
    refused=(Sample(inputs=("float32[2]",), attrs={"slope": 1.0}, message="attribute 'slope'"),),
)
ERF = unary("Erf", "torch.erf({x})", "Erf", "The Gauss error function.")
EXP = unary("Exp", "torch.exp({x})", "Exp", "e to the power x.")
LOG = unary("Log", "torch.log({x})", "Log", "Natural logarithm; NaN below zero.")
SQRT = unary("Sqrt", "torch.sqrt({x})", "Sqrt", "Square root; NaN below zero.")
RSQRT = unary(
    "Rsqrt",
    "torch.rsqrt({x})",
    lambda ctx: (ctx.op("Reciprocal", ctx.op("Sqrt", ctx.inputs[0])),),
    "1 / sqrt(x).",
    is_function=True,
)
RECIPROCAL = unary("Reciprocal", "torch.reciprocal({x})", "Reciprocal", "1 / x.")
ABS = unary("Abs", "torch.abs({x})", "Abs", "|x|.", accepts=need_number)
NEG = unary("Neg", "-{x}", "Neg", "-x.", accepts=need_number)
SIN = unary("Sin", "torch.sin({x})", "Sin", "Sine of x in radians.")
COS = unary("Cos", "torch.cos({x})", "Cos", "Cosine of x in radians.")
CLIP = OpDef(
    name="Clip",
    family="activation",
    inputs=("x",),
    attrs=(
        Attr("min", "float", default=None, optional=True, doc="Lower bound, or none."),
        Attr("max", "float", default=None, optional=True, doc="Upper bound, or none."),
    ),
    result=_clip_result,
    to_torch=_clip_torch,
    to_onnx=_clip_onnx,
    samples=(
        Sample(inputs=("float32[batch,seq,8]",), attrs={"min": -0.5, "max": 0.5}),
        Sample(inputs=("float32[batch,8]",), attrs={"min": 0.0}),
        Sample(inputs=("float32[batch,8]",), attrs={"max": 1.0}),
    ),
    refused=(
        Sample(inputs=("float32[4]",), message="give min or max"),
        Sample(inputs=("float32[4]",), attrs={"min": 2.0, "max": 1.0}, message="min up to max"),
    ),
    doc="min(max(x, min), max).",
)
NOT = unary("Not", "torch.logical_not({x})", "Not", "True where x is false.", accepts=need_bool)
FLOOR = unary("Floor", "torch.floor({x})", "Floor", "The largest integer up to x.")
SIGN = unary("Sign", "torch.sign({x})", "Sign", "-1, 0 or 1.", accepts=need_number)
SQUARE = unary(
    "Square",
    "torch.square({x})",
    lambda ctx: (ctx.op("Mul", ctx.inputs[0], ctx.inputs[0]),),
    "x * x.",
    accepts=need_number,
    is_function=True,
)

ACTIVATION = (
    RELU,
    RELU6,
    LEAKY_RELU,
    ELU,
    SELU,
    CELU,
    GELU,
    SILU,
    SIGMOID,
    TANH,
    HARD_SIGMOID,
    HARD_SWISH,
    MISH,
    SOFTPLUS,
    SOFTSIGN,
    SOFTMAX,
    LOG_SOFTMAX,
    IDENTITY,
    ERF,
    EXP,
    LOG,
    SQRT,
    RSQRT,
    RECIPROCAL,
    ABS,
    NEG,
    SIN,
    COS,
    CLIP,
    NOT,
    FLOOR,
    SIGN,
    SQUARE,
)
