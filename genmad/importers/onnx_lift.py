"""Activations and norms that ONNX exporters write out in elementary operators, to layer-level ops."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from genmad.importers.flat import Flat, FlatNode
from genmad.importers.onnx_lift_attention import lift_attention, merge_linear_reshapes, scaled

if TYPE_CHECKING:
    import numpy as np

_SQRT_2 = 2.0**0.5
_TANH = (2.0 / 3.141592653589793) ** 0.5


def lift_onnx(flat: Flat, weights: "Mapping[str, np.ndarray]") -> None:
    """Runs every pass once."""
    _drop_idle(flat)
    _numbers(flat, weights)
    for name, rule in _RULES:
        flat.rewrite(name, rule)
    lift_attention(flat)
    merge_linear_reshapes(flat)


def _drop_idle(flat: Flat) -> None:
    """Takes out reshapes, expansions and casts to what a value is already."""
    idle = {
        node.outputs[0]: node.inputs[0]
        for node in flat.nodes
        if node.op in ("Reshape", "Expand", "Cast", "Identity") and node.types[0] == flat.types[node.inputs[0]]
    }
    given = {name for name, _ in flat.inputs}
    flat.forward_values({out: source for out, source in idle.items() if out not in flat.outputs or source not in given})


def _numbers(flat: Flat, weights: "Mapping[str, np.ndarray]") -> None:
    """Elementwise ops with a stored tensor of one element that belongs to no module take the number as attribute."""
    with_number = {"Mul": "MulScalar", "Add": "AddScalar"}

    def rule(flat: Flat, node: FlatNode) -> list[FlatNode] | None:
        if node.op not in (*with_number, "Div", "Sub", "Pow"):
            return None
        for i in (0, 1) if node.op in with_number else (1,):
            number = number_of(flat, node.inputs[i], weights)
            other = node.inputs[1 - i]
            kind, kept = flat.types[other], flat.types[node.inputs[i]].rank <= flat.types[other].rank
            if number is None or not kept or not kind.dtype.is_float or kind != node.types[0]:
                continue
            if node.op == "Pow":
                return [_make(flat, node, "PowScalar", (other,), {"exponent": number})]
            if node.op == "Div" and not number:
                return None
            value = _short(1 / number) if node.op == "Div" else -number if node.op == "Sub" else number
            op = {"Div": "MulScalar", "Sub": "AddScalar"}.get(node.op) or with_number[node.op]
            return [_make(flat, node, op, (other,), {"value": value})]
        return None

    flat.rewrite("numbers", rule)
    flat.lifted.pop("numbers", None)


def number_of(flat: Flat, value: str, weights: "Mapping[str, np.ndarray]") -> float | None:
    """The number, when a value is a stored tensor of one element that no module is named after."""
    from genmad.importers.onnx_values import decimal

    constant = flat.source(value, "Constant")
    if constant is not None and len(constant.attrs["values"]) == 1 and constant.types[0].dtype.is_float:
        return decimal(float(constant.attrs["values"][0]))
    stored = flat.source(value, "Parameter")
    if stored is not None and stored.types[0].numel == 1 and stored.types[0].dtype.is_float:
        name = stored.param_map["value"]
        if "." not in name and name in weights:
            return decimal(float(weights[name].reshape(-1)[0]))
    return None


def _short(value: float) -> float:
    return float(f"{value:.9g}")


def _make(flat: Flat, node: FlatNode, op: str, inputs: tuple[str, ...], attrs: Mapping[str, object]) -> FlatNode:
    return flat.make(op, inputs, attrs, call=node.call, layer=node.layer, outputs=node.outputs)


def _product(flat: Flat, value: str) -> tuple[list[str], float]:
    """Values that are multiplied, and the numbers among them as one factor."""
    value, factor = scaled(flat, value)
    node = flat.source(value, "Mul")
    if node is None:
        return [value], factor
    terms: list[str] = []
    for side in node.inputs:
        more, inner = _product(flat, side)
        terms += more
        factor *= inner
    return terms, factor


def _near(a: float, b: float) -> bool:
    return abs(a - b) <= 1e-5 * max(1.0, abs(b))


def _gelu(flat: Flat, node: FlatNode) -> list[FlatNode] | None:
    """0.5 x (1 + erf(x / sqrt 2)), or with tanh. Hendrycks and Gimpel, arXiv 1606.08415."""
    if node.op not in ("Mul", "MulScalar"):
        return None
    terms, factor = _product(flat, node.outputs[0])
    if len(terms) != 2 or not _near(factor, 0.5):
        return None
    for x, other in (terms, terms[::-1]):
        one = flat.source(other, "AddScalar")
        if one is None or one.attrs["value"] != 1.0:
            continue
        erf = flat.source(one.inputs[0], "Erf")
        if erf is not None and _is_scaled(flat, erf.inputs[0], x, 1 / _SQRT_2):
            return [_make(flat, node, "Gelu", (x,), {})]
        tanh = flat.source(one.inputs[0], "Tanh")
        if tanh is not None and _is_tanh_argument(flat, tanh.inputs[0], x):
            return [_make(flat, node, "Gelu", (x,), {"approximate": "tanh"})]
    return None


def _is_scaled(flat: Flat, value: str, x: str, wanted: float) -> bool:
    source, factor = scaled(flat, value)
    return source == x and _near(factor, wanted)


def _is_tanh_argument(flat: Flat, value: str, x: str) -> bool:
    """sqrt(2 / pi) (x + 0.044715 x^3), also as sqrt(2 / pi) x (1 + 0.044715 x^2)."""
    terms, factor = _product(flat, value)
    if not _near(factor, _TANH):
        return False
    if len(terms) == 1:
        added = flat.source(terms[0], "Add")
        if added is None or x not in added.inputs:
            return False
        cube = added.inputs[1 - added.inputs.index(x)]
        return _is_power(flat, cube, x, 3)
    rest = [t for t in terms if t != x]
    one = flat.source(rest[0], "AddScalar") if len(rest) == 1 and len(terms) == 2 else None
    return one is not None and one.attrs["value"] == 1.0 and _is_power(flat, one.inputs[0], x, 2)


def _is_power(flat: Flat, value: str, x: str, exponent: int) -> bool:
    """0.044715 x^exponent."""
    terms, factor = _product(flat, value)
    count = 0
    for term in terms:
        power = flat.source(term, "PowScalar")
        if term == x:
            count += 1
        elif power is not None and power.inputs[0] == x:
            count += int(power.attrs["exponent"])
        else:
            return False
    return count == exponent and _near(factor, 0.044715)


def _gate(op: str, gate: str) -> Callable[[Flat, FlatNode], list[FlatNode] | None]:
    """x * gate(x)."""

    def rule(flat: Flat, node: FlatNode) -> list[FlatNode] | None:
        if node.op != "Mul":
            return None
        for x, value in (node.inputs, node.inputs[::-1]):
            found = flat.source(value, gate)
            if found is not None and found.inputs[0] == x:
                return [_make(flat, node, op, (x,), {})]
        return None

    return rule


def _unbind(flat: Flat, node: FlatNode) -> list[FlatNode] | None:
    """One of the slices of length 1 that a Split makes, its axis dropped: Select."""
    split = flat.source(node.inputs[0], "Split") if node.op == "Squeeze" else None
    if split is None or set(split.attrs["sizes"]) != {1}:
        return None
    axis = split.attrs["axis"] % split.types[0].rank
    if [a % split.types[0].rank for a in node.attrs["axes"]] != [axis]:
        return None
    index = split.outputs.index(node.inputs[0])
    return [_make(flat, node, "Select", split.inputs, {"axis": axis, "index": index})]


def _mish(flat: Flat, node: FlatNode) -> list[FlatNode] | None:
    """x * tanh(softplus(x)). Misra, arXiv 1908.08681."""
    if node.op != "Mul":
        return None
    for x, value in (node.inputs, node.inputs[::-1]):
        tanh = flat.source(value, "Tanh")
        soft = flat.source(tanh.inputs[0], "Softplus") if tanh is not None else None
        if soft is not None and soft.inputs[0] == x:
            return [_make(flat, node, "Mish", (x,), {})]
    return None


def _square_mean(flat: Flat, value: str) -> str | None:
    """x when the value is the mean of x * x over the last axis, that axis kept."""
    mean = flat.source(value, "ReduceMean")
    if mean is None or not mean.attrs["keepdims"] or not _is_last(flat, mean):
        return None
    power, product = flat.source(mean.inputs[0], "PowScalar"), flat.source(mean.inputs[0], "Mul")
    if power is not None and power.attrs["exponent"] == 2.0:
        return power.inputs[0]
    return product.inputs[0] if product is not None and product.inputs[0] == product.inputs[1] else None


def _is_last(flat: Flat, node: FlatNode) -> bool:
    rank = flat.types[node.inputs[0]].rank
    return bool([axis % rank for axis in node.attrs["axes"]] == [rank - 1])


def _deviation(flat: Flat, value: str) -> tuple[str, float] | None:
    """(x, eps) when the value is sqrt(mean(x * x) + eps)."""
    root = flat.source(value, "Sqrt")
    power = flat.source(value, "PowScalar")
    under = root.inputs[0] if root is not None else None
    if power is not None and power.attrs["exponent"] == 0.5:
        under = power.inputs[0]
    added = flat.source(under, "AddScalar") if under is not None else None
    x = _square_mean(flat, added.inputs[0]) if added is not None else None
    return (x, added.attrs["value"]) if x is not None and added is not None else None


def _inverse_deviation(flat: Flat, value: str) -> tuple[str, float] | None:
    """(x, eps) when the value is 1 / sqrt(mean(x * x) + eps)."""
    for op in ("Reciprocal", "Rsqrt", "PowScalar", "Div"):
        node = flat.source(value, op)
        if node is None:
            continue
        if op == "Reciprocal":
            return _deviation(flat, node.inputs[0])
        if op == "Div":
            one = flat.source(node.inputs[0], "Constant") or flat.source(node.inputs[0], "Full")
            is_one = one is not None and (one.attrs.get("value") == 1.0 or set(one.attrs.get("values", ())) == {1.0})
            return _deviation(flat, node.inputs[1]) if is_one else None
        if op == "Rsqrt" or node.attrs["exponent"] == -0.5:
            added = flat.source(node.inputs[0], "AddScalar")
            x = _square_mean(flat, added.inputs[0]) if added is not None else None
            return (x, added.attrs["value"]) if x is not None and added is not None else None
    return None


def _normalised(flat: Flat, value: str) -> tuple[str, float] | None:
    """(x, eps) when the value is x / sqrt(mean(x * x) + eps)."""
    quotient = flat.source(value, "Div")
    if quotient is not None:
        found = _deviation(flat, quotient.inputs[1])
        return found if found is not None and found[0] == quotient.inputs[0] else None
    product = flat.source(value, "Mul")
    for x, factor in (product.inputs, product.inputs[::-1]) if product is not None else ():
        found = _inverse_deviation(flat, factor)
        if found is not None and found[0] == x:
            return found
    return None


def _vector(flat: Flat, value: str, width: object) -> str | None:
    """Name of the parameter that a value is, when it has one number per feature."""
    node = flat.source(value, "Parameter")
    fits = node is not None and node.types[0].shape == (width,) and node.types[0].dtype.is_float
    return node.param_map["value"] if node is not None and fits else None


def _norm(flat: Flat, node: FlatNode) -> list[FlatNode] | None:
    """weight * x / rms(x), where x may be centred, written out. Ba et al., arXiv 1607.06450, and 1910.07467."""
    if node.op != "Mul" or not node.types[0].rank:
        return None
    for inner, factor in (node.inputs, node.inputs[::-1]):
        weight = _vector(flat, factor, node.types[0].shape[-1])
        found = _normalised(flat, _uncast(flat, inner)) if weight is not None else None
        if found is not None and weight is not None:
            return _norm_node(flat, node, found, weight)
    return None


def _norm_bias(flat: Flat, node: FlatNode) -> list[FlatNode] | None:
    """A LayerNorm and the vector that is added to it."""
    if node.op != "Add" or not node.types[0].rank:
        return None
    for inner, other in (node.inputs, node.inputs[::-1]):
        norm, bias = flat.source(inner, "LayerNorm"), _vector(flat, other, node.types[0].shape[-1])
        if norm is None or bias is None or norm.attrs["bias"] or not norm.attrs["affine"]:
            continue
        attrs, params = {**norm.attrs, "bias": True}, (*norm.params, ("bias", bias))
        return [
            flat.make(
                "LayerNorm", norm.inputs, attrs, call=norm.call, layer=norm.layer, params=params, outputs=node.outputs
            )
        ]
    return None


def _uncast(flat: Flat, value: str) -> str:
    node = flat.source(value, "Cast")
    return node.inputs[0] if node is not None and flat.types[node.inputs[0]] == node.types[0] else value


def _norm_node(flat: Flat, node: FlatNode, found: tuple[str, float], weight: str) -> list[FlatNode] | None:
    x, eps = found
    centred = flat.source(x, "Sub")
    mean = flat.source(centred.inputs[1], "ReduceMean") if centred is not None else None
    layer = weight.rpartition(".")[0]
    if centred is not None and mean is not None and mean.inputs[0] == centred.inputs[0]:
        if not mean.attrs["keepdims"] or not _is_last(flat, mean):
            return None
        attrs: dict[str, object] = {"eps": eps, "bias": False}
        op, x = "LayerNorm", centred.inputs[0]
    else:
        op, attrs = "RMSNorm", {"eps": eps}
    params = [("weight", weight)]
    return [flat.make(op, (x,), attrs, call=node.call, layer=layer, params=params, outputs=node.outputs)]


_RULES = (
    ("Gelu", _gelu),
    ("Silu", _gate("Silu", "Sigmoid")),
    ("HardSwish", _gate("HardSwish", "HardSigmoid")),
    ("Mish", _mish),
    ("Select", _unbind),
    ("LayerNorm or RMSNorm", _norm),
    ("LayerNorm with bias", _norm_bias),
)
