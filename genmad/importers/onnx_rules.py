"""ONNX operators to our ops, one small rule each: layers with weights, activations, elementwise, reductions."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from genmad.importers.onnx_match import dtype_of
from genmad.importers.onnx_values import NodeReader, Ref, Refused, array_of, ints_of, scalar_of
from genmad.ir.types import DType

Rule = Callable[[NodeReader], Any]


def _same(op: str, **attrs: str) -> Rule:
    """Our op with the same inputs; `attrs` maps our attributes to theirs where both have the same default."""

    def rule(n: NodeReader) -> Ref:
        n.only(*attrs.values())
        known: dict[str, Any] = {ours: value for ours, theirs in attrs.items() if (value := n.attr(theirs)) is not None}
        return n.emit(op, *n.inputs, **known)

    return rule


def _binary(op: str, with_scalar: str = "", commutes: bool = False) -> Rule:
    def rule(n: NodeReader) -> Ref:
        a, b = n.input(0), n.input(1)
        number = scalar_of(b) if b.type.rank <= a.type.rank else None
        if with_scalar and number is not None and not b.is_param:
            named: dict[str, Any] = {"exponent" if op == "Pow" else "value": number}
            return n.emit(with_scalar, a, **named)
        if commutes and with_scalar and not a.is_param and a.type.rank <= b.type.rank:
            number = scalar_of(a)
            if number is not None:
                return n.emit(with_scalar, b, value=number)
        return n.emit(op, a, b)

    return rule


def _chain(op: str) -> Rule:
    def rule(n: NodeReader) -> Ref:
        total = n.input(0)
        for i in range(1, len(n.inputs)):
            total = n.emit(op, total, n.input(i))
        return total

    return rule


def _dropout(n: NodeReader) -> Ref:
    """Its input: at inference nothing is dropped."""
    n.only_first("the mask of a Dropout")
    training = n.optional(2)
    if training is not None and array_of(training).any():
        raise Refused("a Dropout that drops")
    return n.input(0)


def _mul(n: NodeReader) -> Ref:
    """Mul, or the Silu that exporters write as x * Sigmoid(x)."""
    for i in (0, 1):
        gate, x = n.node.inputs[i], n.node.inputs[1 - i]
        node = gate.producer() if gate is not None else None
        if n.block.totals.ours or gate is None or node is None or (node.domain, node.op_type) != ("", "Sigmoid"):
            continue
        if node.inputs[0] is x and len(list(gate.uses())) == 1:
            return n.emit("Silu", n.input(1 - i))
    return _PLAIN_MUL(n)


def _identity(n: NodeReader) -> Ref:
    x = n.input(0)
    own = n.block.totals.ours and x.value and not str(n.node.name).endswith("/output")
    return n.emit("Identity", x) if own else x


def _linear(n: NodeReader, x: Ref, weight: Ref, bias: Ref | None, transposed: bool) -> Ref:
    """weight [in, out] if `transposed`, else [out, in]; both after a Transpose that the file may hold."""
    stored = transposed != weight.swapped
    plain = (
        replace(weight, swapped=False, type=weight.type.with_shape(reversed(weight.type.shape)))
        if weight.swapped
        else weight
    )
    out = plain.type.shape[1 if stored else 0]
    params = {"weight": plain} if bias is None else {"weight": plain, "bias": bias}
    return n.emit("Linear", x, params=params, out_features=out, bias=bias is not None, transposed=stored)


def _gemm(n: NodeReader) -> Ref:
    n.require(alpha=1.0, beta=1.0, transA=0)
    weight, bias = n.input(1), n.optional(2)
    if not weight.is_param or (bias is not None and not (bias.is_param and bias.type.rank == 1)):
        raise Refused("a weight or bias that is computed")
    return _linear(n, n.input(0), weight, bias, transposed=not n.attr("transB", 0))


def _matmul(n: NodeReader) -> Any:
    x, weight = n.input(0), n.input(1)
    if not (weight.is_param and weight.type.rank == 2 and x.value):
        return n.emit("MatMul", x, weight)
    bias = _following_bias(n, weight)
    return _linear(n, x, weight, bias, transposed=True)


def _following_bias(n: NodeReader, weight: Ref) -> Ref | None:
    """The vector that the only reader of this product adds; that Add then passes its input through."""
    out = n.node.outputs[0]
    uses = list(out.uses())
    if len(uses) != 1 or out.is_graph_output() or (uses[0].node.domain, uses[0].node.op_type) != ("", "Add"):
        return None
    add = uses[0].node
    other = add.inputs[1 - uses[0].idx]
    bias = n.block.env.get(other)
    if (
        bias is None
        or not bias.is_param
        or bias.type.shape != weight.type.shape[1:]
        or bias.type.dtype != weight.type.dtype
    ):
        return None
    n.block.absorbed[add] = out
    return bias


def _pads(n: NodeReader, size: int) -> tuple[int, ...]:
    kind = n.attr("auto_pad", "NOTSET")
    if kind not in ("NOTSET", "VALID", ""):
        return _same_pads(n, size, kind)
    pads = n.attr("pads", (0,) * 2 * size) if kind != "VALID" else (0,) * 2 * size
    return pads[:size] if pads[:size] == pads[size:] else pads


def _same_pads(n: NodeReader, size: int, kind: str) -> tuple[int, ...]:
    spatial, strides = n.input(0).type.shape[2:], n.attr("strides", (1,) * size)
    kernel = n.attr("kernel_shape") or n.input(1).type.shape[2:]
    dilations = n.attr("dilations", (1,) * size)
    begins, ends = [], []
    for length, stride, width, dilation in zip(spatial, strides, kernel, dilations, strict=True):
        if not isinstance(length, int):
            raise Refused(f"auto_pad={kind} over a symbolic size")
        total = max((-(-length // stride) - 1) * stride + dilation * (int(str(width)) - 1) + 1 - length, 0)
        small, large = total // 2, total - total // 2
        begins.append(small if kind == "SAME_UPPER" else large)
        ends.append(large if kind == "SAME_UPPER" else small)
    return tuple(begins) if begins == ends else (*begins, *ends)


def _window(n: NodeReader, kernel: tuple[int, ...]) -> dict[str, Any]:
    size = len(kernel)
    return {"kernel_size": kernel, "stride": n.attr("strides", (1,) * size), "padding": _pads(n, size)}


def _kernel(weight: Ref) -> tuple[int, ...]:
    return tuple(int(str(d)) for d in weight.type.shape[2:])


def _weights(weight: Ref, bias: Ref | None) -> dict[str, Ref]:
    return {"weight": weight} if bias is None else {"weight": weight, "bias": bias}


def _conv(n: NodeReader) -> Ref:
    weight, bias = n.input(1), n.optional(2)
    kernel = _kernel(weight)
    more = {"groups": n.attr("group", 1), "dilation": n.attr("dilations", (1,) * len(kernel)), "bias": bias is not None}
    params = _weights(weight, bias)
    return n.emit("Conv", n.input(0), params=params, out_channels=weight.type.shape[0], **_window(n, kernel), **more)


def _conv_transpose(n: NodeReader) -> Ref:
    weight, bias, groups = n.input(1), n.optional(2), n.attr("group", 1)
    kernel = _kernel(weight)
    size = len(kernel)
    if n.attr("output_shape") is not None or n.attr("auto_pad", "NOTSET") != "NOTSET":
        raise Refused("output_shape or auto_pad")
    more = {"dilation": n.attr("dilations", (1,) * size), "output_padding": n.attr("output_padding", (0,) * size)}
    out = int(str(weight.type.shape[1])) * groups
    params = _weights(weight, bias)
    window = _window(n, kernel)
    return n.emit(
        "ConvTranspose",
        n.input(0),
        params=params,
        out_channels=out,
        groups=groups,
        bias=bias is not None,
        **window,
        **more,
    )


def _max_pool(n: NodeReader) -> Ref:
    n.require(storage_order=0)
    n.only_first("the indices of a MaxPool")
    kernel = n.attr("kernel_shape")
    more = {"dilation": n.attr("dilations", (1,) * len(kernel)), "ceil_mode": bool(n.attr("ceil_mode", 0))}
    return n.emit("MaxPool", n.input(0), **_window(n, kernel), **more)


def _average_pool(n: NodeReader) -> Ref:
    kernel = n.attr("kernel_shape")
    n.require(dilations=(1,) * len(kernel))
    window = _window(n, kernel)
    # Without padding both ways of counting agree; torch's default is then the plainer one.
    include = bool(n.attr("count_include_pad", 0)) or not any(window["padding"])
    return n.emit(
        "AveragePool", n.input(0), **window, ceil_mode=bool(n.attr("ceil_mode", 0)), count_include_pad=include
    )


def _batch_norm(n: NodeReader) -> Ref:
    n.require(training_mode=0)
    n.only_first("the statistics of a BatchNormalization")
    slots = ("weight", "bias", "running_mean", "running_var")
    params = {slot: n.input(i + 1) for i, slot in enumerate(slots)}
    return n.emit("BatchNorm", n.input(0), params=params, eps=n.attr("epsilon", 1e-5))


def _layer_norm(n: NodeReader) -> Ref:
    n.only_first("the mean or deviation of a LayerNormalization")
    x, weight, bias = n.input(0), n.input(1), n.optional(2)
    axis = n.attr("axis", -1)
    attrs = {"eps": n.attr("epsilon", 1e-5), "num_axes": -axis if axis < 0 else x.type.rank - axis}
    if weight.is_param:
        return n.emit("LayerNorm", x, params=_weights(weight, bias), bias=bias is not None, **attrs)
    if bias is not None or not (array_of(weight) == 1).all():
        raise Refused("a scale that is computed")
    return n.emit("LayerNorm", x, affine=False, **attrs)


def _rms_norm(n: NodeReader) -> Ref:
    n.require(axis=-1)
    return n.emit("RMSNorm", n.input(0), params={"weight": n.input(1)}, eps=n.attr("epsilon", 1e-5))


def _instance_norm(n: NodeReader) -> Ref:
    x, weight, bias, eps = n.input(0), n.input(1), n.input(2), n.attr("epsilon", 1e-5)
    if weight.is_param and bias.is_param:
        return n.emit("InstanceNorm", x, params={"weight": weight, "bias": bias}, eps=eps)
    if not (array_of(weight) == 1).all() or array_of(bias).any():
        raise Refused("a scale that is computed")
    return n.emit("InstanceNorm", x, affine=False, eps=eps)


def _clip(n: NodeReader) -> Ref:
    bounds = [n.attr("min"), n.attr("max")]
    for i in (1, 2):
        ref = n.optional(i)
        if ref is not None:
            bounds[i - 1] = scalar_of(ref)
            if bounds[i - 1] is None:
                raise Refused("a computed bound")
    if bounds == [0.0, 6.0]:
        return n.emit("Relu6", n.input(0))
    return n.emit("Clip", n.input(0), min=bounds[0], max=bounds[1])


def _hard_sigmoid(n: NodeReader) -> Ref:
    if abs(n.attr("alpha", 0.2) - 1 / 6) > 1e-6 or n.attr("beta", 0.5) != 0.5:
        raise Refused(f"alpha={n.attr('alpha', 0.2)}, beta={n.attr('beta', 0.5)}; only 1/6 and 0.5 are torch's")
    return n.emit("HardSigmoid", n.input(0))


def _softmax(op: str) -> Rule:
    """Before opset 13 the axes from `axis` on are one."""

    def rule(n: NodeReader) -> Ref:
        x, old = n.input(0), n.block.totals.opset < 13
        axis = n.attr("axis", 1 if old else -1)
        start = axis % x.type.rank if x.type.rank else 0
        tail = x.type.shape[start + 1 :]
        if not old or all(d == 1 for d in tail):
            return n.emit(op, x, axis=axis)
        merged = n.emit("Reshape", x, shape=(*(0,) * start, -1))
        return n.emit("Reshape", n.emit(op, merged, axis=-1), shape=(*(0,) * start, *x.type.shape[start:]))

    return rule


def _cast(n: NodeReader) -> Ref:
    x = n.input(0)
    try:
        dtype = dtype_of(n.attr("to"))
    except ValueError:
        raise Refused(f"to={n.attr('to')}") from None
    if x.dims is not None and dtype in (DType.INT64, DType.INT32):
        return x
    return n.emit("Cast", x, dtype=dtype.value)


def _reduce(op: str) -> Rule:
    def rule(n: NodeReader) -> Ref:
        x, axes = n.input(0), n.attr("axes")
        if axes is None and n.optional(1) is not None:
            axes = ints_of(n.input(1))
        if not axes:
            if n.attr("noop_with_empty_axes", 0):
                return x
            axes = tuple(range(x.type.rank))
        return n.emit(op, x, axes=axes, keepdims=bool(n.attr("keepdims", 1)))

    return rule


def _argmax(n: NodeReader) -> Ref:
    n.require(select_last_index=0)
    return n.emit("ArgMax", n.input(0), axis=n.attr("axis", 0), keepdims=bool(n.attr("keepdims", 1)))


def _cumsum(n: NodeReader) -> Ref:
    n.require(exclusive=0, reverse=0)
    return n.emit("CumSum", n.input(0), axis=ints_of(n.input(1))[0])


def _div(n: NodeReader) -> Ref:
    if not n.input(0).type.dtype.is_float:
        raise Refused("a division of integers, which truncates")
    return n.emit("Div", n.input(0), n.input(1))


def _selu(n: NodeReader) -> Ref:
    """Only the constants of the paper, which are those of the op."""
    if abs(n.attr("alpha", 1.67326) - 1.67326) > 1e-4 or abs(n.attr("gamma", 1.0507) - 1.0507) > 1e-4:
        raise Refused(f"alpha={n.attr('alpha')}, gamma={n.attr('gamma')}")
    return n.emit("Selu", n.input(0))


def _mod(n: NodeReader) -> Ref:
    n.require(fmod=0)
    if not n.input(0).type.dtype.is_integer:
        raise Refused("a remainder of floats, of which runtimes differ in the sign")
    return n.emit("Mod", n.input(0), n.input(1))


_UNARY = (
    "Relu", "Sigmoid", "Tanh", "HardSwish", "Mish", "Softplus", "Softsign", "Erf", "Exp", "Log", "Sqrt",
    "Reciprocal", "Abs", "Neg", "Sin", "Cos", "Not", "Floor", "Sign",
)  # fmt: skip
_PLAIN_MUL = _binary("Mul", "MulScalar", commutes=True)
_COMPARE = ("Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual", "And", "Or")

LAYER_RULES: dict[str, Rule] = {
    **{name: _same(name) for name in (*_UNARY, "Where")},
    **{name: _binary(name) for name in (*_COMPARE, "Sub")},
    "Div": _div,
    "Selu": _selu,
    "Add": _binary("Add", "AddScalar", commutes=True),
    "Mul": _mul,
    "Pow": _binary("Pow", "PowScalar"),
    "Max": _chain("Max"),
    "Min": _chain("Min"),
    "Sum": _chain("Add"),
    "Mod": _mod,
    "LeakyRelu": lambda n: n.emit("LeakyRelu", n.input(0), slope=n.attr("alpha", 0.01)),
    "Elu": _same("Elu", alpha="alpha"),
    "Celu": _same("Celu", alpha="alpha"),
    "Gelu": _same("Gelu", approximate="approximate"),
    "Softmax": _softmax("Softmax"),
    "LogSoftmax": _softmax("LogSoftmax"),
    "HardSigmoid": _hard_sigmoid,
    "Clip": _clip,
    "Identity": _identity,
    "Dropout": _dropout,
    "Cast": _cast,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "Einsum": lambda n: n.emit("Einsum", *n.inputs, equation=n.attr("equation").replace(" ", "")),
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "MaxPool": _max_pool,
    "AveragePool": _average_pool,
    "GlobalAveragePool": lambda n: n.emit("GlobalAveragePool", n.input(0)),
    "BatchNormalization": _batch_norm,
    "LayerNormalization": _layer_norm,
    "RMSNormalization": _rms_norm,
    "InstanceNormalization": _instance_norm,
    "ReduceMean": _reduce("ReduceMean"),
    "ReduceSum": _reduce("ReduceSum"),
    "ReduceMax": _reduce("ReduceMax"),
    "ReduceMin": _reduce("ReduceMin"),
    "ArgMax": _argmax,
    "CumSum": _cumsum,
}
