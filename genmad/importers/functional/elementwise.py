"""Arithmetic, comparisons, casts and activations."""

import math
from typing import Any

from genmad.importers.emit import Emitter, Handler, NoOp
from genmad.ir.types import SymDim

_LARGEST = 3.4028234663852886e38  # of float32; only infinities lie beyond


def to_dtype(e: Emitter, x: Any, dtype: str) -> Any:
    """`x` as a value of `dtype`."""
    return x if str(e.type_of(x).dtype) == dtype else e.add("Cast", x, dtype=dtype)


def _number(e: Emitter, x: Any) -> Any:
    if isinstance(x, SymDim):
        raise NoOp("arithmetic with a symbolic size")
    number = e.scalar(x)
    if isinstance(number, float) and not math.isfinite(number):
        raise NoOp(f"the number {number}")
    return number


def _shifted(e: Emitter, x: Any, number: float) -> Any:
    dtype = str(e.want[0].dtype)
    return e.add("AddScalar", to_dtype(e, x, dtype), value=float(number)) if number else to_dtype(e, x, dtype)


def _scaled(e: Emitter, x: Any, number: float) -> Any:
    dtype = str(e.want[0].dtype)
    return e.add("MulScalar", to_dtype(e, x, dtype), value=float(number)) if number != 1 else to_dtype(e, x, dtype)


def add(e: Emitter, input: Any, other: Any, alpha: Any = 1) -> Any:
    left, right = _number(e, input), _number(e, other)
    if left is not None:
        return _shifted(e, other if alpha == 1 else _scaled(e, other, alpha), left)
    if right is not None:
        return _shifted(e, input, right * alpha)
    return e.add("Add", input, other if alpha == 1 else e.add("MulScalar", other, value=float(alpha)))


def sub(e: Emitter, input: Any, other: Any, alpha: Any = 1) -> Any:
    left, right = _number(e, input), _number(e, other)
    if left is not None:
        return _shifted(e, _scaled(e, other, -alpha), left)
    if right is not None:
        return _shifted(e, input, -right * alpha)
    return e.add("Sub", input, other if alpha == 1 else e.add("MulScalar", other, value=float(alpha)))


def rsub(e: Emitter, input: Any, other: Any, alpha: Any = 1) -> Any:
    return sub(e, other, input, alpha)


def mul(e: Emitter, input: Any, other: Any) -> Any:
    left, right = _number(e, input), _number(e, other)
    if left is not None:
        return _scaled(e, other, left)
    if right is not None:
        return _scaled(e, input, right)
    return e.add("Mul", input, other)


def div(e: Emitter, input: Any, other: Any, rounding_mode: Any = None) -> Any:
    if rounding_mode is not None:
        raise NoOp("division with rounding")
    left, right = _number(e, input), _number(e, other)
    if left is not None:
        return _scaled(e, e.add("Reciprocal", to_dtype(e, other, str(e.want[0].dtype))), left)
    if right is not None:
        return _scaled(e, input, 1.0 / right)
    dtype = str(e.want[0].dtype)
    return e.add("Div", to_dtype(e, input, dtype), to_dtype(e, other, dtype))


def rdiv(e: Emitter, input: Any, other: Any) -> Any:
    return div(e, other, input)


def power(e: Emitter, input: Any, exponent: Any) -> Any:
    number = _number(e, exponent)
    if _number(e, input) is not None:
        raise NoOp("a number to the power of a tensor")
    if number is None:
        return e.add("Pow", input, exponent)
    if number == 2:
        return e.add("Square", input)
    return e.add("PowScalar", input, exponent=float(number))


def _two(op: str) -> Handler:
    """A comparison or a logical function of two tensors, or of one and a number."""

    def handler(e: Emitter, input: Any, other: Any) -> Any:
        if op == "Equal" and e.scalar(other) in (math.inf, -math.inf):
            far = math.copysign(_LARGEST, e.scalar(other))
            return e.add("Greater" if far > 0 else "Less", input, _full_like(e, far, input))
        left, right = _number(e, input), _number(e, other)
        a = _full_like(e, left, other) if left is not None else input
        b = _full_like(e, right, input) if right is not None else other
        return e.add(op, a, b)

    return handler


def _full_like(e: Emitter, number: Any, other: Any) -> str:
    dtype = "float32" if isinstance(number, float) else str(e.type_of(other).dtype)
    return str(e.add("Full", shape=(), value=float(number), dtype=dtype))


def _logical(op: str) -> Handler:
    def handler(e: Emitter, input: Any, other: Any) -> Any:
        if any(str(e.type_of(x).dtype) != "bool" for x in (input, other) if not isinstance(x, (int, bool))):
            raise NoOp("bitwise arithmetic")
        return _two(op)(e, input, other)

    return handler


def invert(e: Emitter, input: Any) -> Any:
    if str(e.type_of(input).dtype) != "bool":
        raise NoOp("bitwise arithmetic")
    return e.add("Not", input)


def not_equal(e: Emitter, input: Any, other: Any) -> Any:
    return e.add("Not", _two("Equal")(e, input, other))


def where(e: Emitter, condition: Any, input: Any, other: Any) -> Any:
    dtype = str(e.want[0].dtype)
    sides = [_side(e, side, dtype) for side in (input, other)]
    return e.add("Where", condition, *sides)


def _side(e: Emitter, side: Any, dtype: str) -> Any:
    number = e.scalar(side)
    if number is not None:
        return e.add("Full", shape=(), value=float(number), dtype=dtype)
    return to_dtype(e, side, dtype)


def masked_fill(e: Emitter, input: Any, mask: Any, value: Any) -> Any:
    return where(e, mask, value, input)


def cast(e: Emitter, input: Any, dtype: Any) -> Any:
    return to_dtype(e, input, str(dtype).removeprefix("torch."))


def clamp(e: Emitter, input: Any, min: Any = None, max: Any = None) -> Any:
    low, high = (None if bound is None else _number(e, bound) for bound in (min, max))
    if (min is not None and low is None) or (max is not None and high is None):
        for op, bound in (("Max", min), ("Min", max)):
            number = _number(e, bound) if bound is not None else None
            bound = bound if number is None else _full_like(e, float(number), input)
            input = input if bound is None else e.add(op, input, bound)
        return input
    if not e.type_of(input).dtype.is_float:
        for op, bound in (("Max", low), ("Min", high)):
            input = input if bound is None else e.add(op, input, _full_like(e, int(bound), input))
        return input
    bounds: dict[str, Any] = {k: float(v) for k, v in (("min", low), ("max", high)) if v is not None}
    return e.add("Clip", input, **bounds)


def clamp_min(e: Emitter, input: Any, min: Any) -> Any:
    return clamp(e, input, min=min)


def clamp_max(e: Emitter, input: Any, max: Any) -> Any:
    return clamp(e, input, max=max)


def addcmul(e: Emitter, input: Any, tensor1: Any, tensor2: Any, value: Any = 1) -> Any:
    """input + value * tensor1 * tensor2."""
    return add(e, input, e.add("Mul", tensor1, tensor2), alpha=value)


def lerp(e: Emitter, input: Any, end: Any, weight: Any) -> Any:
    """input + weight * (end - input)."""
    step = e.add("Sub", end, input)
    number = _number(e, weight)
    return e.add("Add", input, e.add("Mul", step, weight) if number is None else _scaled(e, step, number))


def _one(op: str) -> Handler:
    def handler(e: Emitter, input: Any, inplace: bool = False) -> Any:  # noqa: ARG001 - tracing is functional
        return e.add(op, input)

    return handler


def gelu(e: Emitter, input: Any, approximate: str = "none") -> Any:
    return e.add("Gelu", input, approximate=approximate)


def leaky_relu(e: Emitter, input: Any, negative_slope: float = 0.01, inplace: bool = False) -> Any:  # noqa: ARG001
    return e.add("LeakyRelu", input, slope=negative_slope)


def elu(e: Emitter, input: Any, alpha: float = 1.0, inplace: bool = False) -> Any:  # noqa: ARG001
    return e.add("Elu", input, alpha=float(alpha))


def hardtanh(e: Emitter, input: Any, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> Any:  # noqa: ARG001
    return e.add("Relu6", input) if (min_val, max_val) == (0, 6) else clamp(e, input, min_val, max_val)


def softplus(e: Emitter, input: Any, beta: float = 1, threshold: float = 20) -> Any:  # noqa: ARG001 - same to rounding
    if beta != 1:
        raise NoOp("softplus with beta")
    return e.add("Softplus", input)


def _softmax(op: str) -> Handler:
    def handler(e: Emitter, input: Any, dim: Any = None, _stacklevel: int = 3, dtype: Any = None) -> Any:
        if dim is None:
            raise NoOp("softmax without an axis")
        x = input if dtype is None else cast(e, input, dtype)
        return e.add(op, x, axis=dim if dim < 0 else dim - e.type_of(input).rank)

    return handler


_UNARY = {
    "relu": "Relu", "relu6": "Relu6", "selu": "Selu", "silu": "Silu", "sigmoid": "Sigmoid", "tanh": "Tanh",
    "hardsigmoid": "HardSigmoid", "hardswish": "HardSwish", "mish": "Mish", "softsign": "Softsign", "erf": "Erf",
    "exp": "Exp", "log": "Log", "sqrt": "Sqrt", "rsqrt": "Rsqrt", "reciprocal": "Reciprocal", "abs": "Abs",
    "neg": "Neg", "__neg__": "Neg", "negative": "Neg", "sin": "Sin", "cos": "Cos", "floor": "Floor", "sign": "Sign",
    "square": "Square", "absolute": "Abs", "logical_not": "Not",
}  # fmt: skip
_COMPARE = {
    "eq": "Equal", "__eq__": "Equal", "lt": "Less", "__lt__": "Less", "le": "LessOrEqual", "__le__": "LessOrEqual",
    "gt": "Greater", "__gt__": "Greater", "ge": "GreaterOrEqual", "__ge__": "GreaterOrEqual", "maximum": "Max",
    "minimum": "Min", "less": "Less", "greater": "Greater",
}  # fmt: skip

ELEMENTWISE: dict[str, Handler] = {
    "add": add, "__add__": add, "__radd__": add, "sub": sub, "__sub__": sub, "subtract": sub, "rsub": rsub,
    "__rsub__": rsub, "mul": mul, "__mul__": mul, "__rmul__": mul, "multiply": mul, "div": div, "__truediv__": div,
    "__div__": div, "true_divide": div, "divide": div, "__rtruediv__": rdiv, "__rdiv__": rdiv, "pow": power,
    "__pow__": power, "ne": not_equal, "__ne__": not_equal, "logical_and": _logical("And"),
    "__and__": _logical("And"), "bitwise_and": _logical("And"), "logical_or": _logical("Or"),
    "__or__": _logical("Or"), "bitwise_or": _logical("Or"), "__invert__": invert, "bitwise_not": invert,
    "where": where, "masked_fill": masked_fill, "cast": cast, "clamp": clamp, "clip": clamp, "clamp_min": clamp_min,
    "clamp_max": clamp_max, "addcmul": addcmul, "lerp": lerp, "gelu": gelu, "leaky_relu": leaky_relu, "elu": elu,
    "hardtanh": hardtanh,
    "softplus": softplus, "softmax": _softmax("Softmax"), "log_softmax": _softmax("LogSoftmax"),
    **{name: _one(op) for name, op in _UNARY.items()}, **{name: _two(op) for name, op in _COMPARE.items()},
}  # fmt: skip
