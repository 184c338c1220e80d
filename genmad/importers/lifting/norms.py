"""Norms written out in arithmetic: RMSNorm (arXiv 1910.07467, eq. 4) and LayerNorm (arXiv 1607.06450, eq. 4)."""

from genmad.importers.flat import Flat, FlatNode
from genmad.importers.lifting.match import parameter_of


def lift_norms(flat: Flat) -> int:
    """x / sqrt(mean(x^2) + eps), with or without the mean taken off, then the weight after it."""
    count = flat.rewrite("written-out norm", _plain)
    flat.rewrite("norm with weight", _with_weight)
    flat.rewrite("norm with bias", _with_bias)
    return count


def _plain(flat: Flat, node: FlatNode) -> list[FlatNode] | None:
    """Mul(x, Rsqrt(AddScalar(mean of squares))), or Div(x, Sqrt(...))."""
    if node.op not in ("Mul", "Div"):
        return None
    pairs = [node.inputs, node.inputs[::-1]] if node.op == "Mul" else [node.inputs]
    for x, root in pairs:
        variance = _variance(flat, root, "Rsqrt" if node.op == "Mul" else "Sqrt")
        if variance is None or flat.types[x] != node.types[0]:
            continue
        squared, eps = variance
        source = _centred(flat, x)
        if source is not None and (squared == x or source == _centred(flat, squared)):
            attrs = {"eps": eps, "affine": False, "bias": False}
            return [flat.make("LayerNorm", (source,), attrs, call=node.call, outputs=node.outputs)]
        if squared == x:
            return [flat.make("RMSNorm", (x,), {"eps": eps, "affine": False}, call=node.call, outputs=node.outputs)]
    return None


def _variance(flat: Flat, value: str, root: str) -> tuple[str, float] | None:
    """(y, eps) when the value is root(mean(y^2) + eps) over the last axis."""
    node = flat.source(value, root)
    if node is None and root == "Rsqrt":
        power = flat.source(value, "PowScalar")
        inverse = flat.source(value, "Reciprocal")
        node = power if power is not None and power.attrs["exponent"] == -0.5 else None
        node = flat.source(inverse.inputs[0], "Sqrt") if inverse is not None else node
    shifted = flat.source(node.inputs[0], "AddScalar") if node is not None else None
    mean = flat.source(shifted.inputs[0], "ReduceMean") if shifted is not None else None
    if shifted is None or mean is None or mean.attrs["axes"] != (-1,) or not mean.attrs["keepdims"]:
        return None
    square = flat.producer.get(mean.inputs[0])
    if square is None or shifted.attrs["value"] <= 0:
        return None
    is_square = square.op == "Square" or (square.op == "PowScalar" and square.attrs["exponent"] == 2)
    is_product = square.op == "Mul" and square.inputs[0] == square.inputs[1]
    return (square.inputs[0], shifted.attrs["value"]) if is_square or is_product else None


def _centred(flat: Flat, value: str) -> str | None:
    """x when the value is x - mean(x) over the last axis."""
    node = flat.source(value, "Sub")
    mean = flat.source(node.inputs[1], "ReduceMean") if node is not None else None
    if node is None or mean is None or mean.inputs[0] != node.inputs[0]:
        return None
    return node.inputs[0] if mean.attrs["axes"] == (-1,) and mean.attrs["keepdims"] else None


def _with_weight(flat: Flat, node: FlatNode) -> list[FlatNode] | None:
    """A norm without weight that is multiplied by a parameter, or by one plus a parameter."""
    if node.op not in ("Mul", "Scale"):
        return None
    for place, value in enumerate(node.inputs):
        norm = flat.producer.get(value)
        if norm is None or norm.op not in ("RMSNorm", "LayerNorm") or norm.attrs["affine"]:
            continue
        if norm.op == "LayerNorm" and norm.attrs["num_axes"] != 1:
            continue
        if node.op == "Scale":
            weight, offset = (node.param_map["weight"], 0.0) if node.attrs["axis"] == -1 else (None, 0.0)
        else:
            weight, offset = _weight(flat, node.inputs[1 - place], node)
        if weight is None or (offset and norm.op == "LayerNorm"):
            continue
        more = {"offset": offset} if norm.op == "RMSNorm" else {}
        attrs = {**norm.attrs, "affine": True, **more}
        params = [("weight", weight)]
        return [flat.make(norm.op, norm.inputs, attrs, call=node.call, params=params, outputs=node.outputs)]
    return None


def _weight(flat: Flat, value: str, node: FlatNode) -> tuple[str | None, float]:
    """(parameter as wide as the last axis, what is added to it)."""
    shifted = flat.source(value, "AddScalar")
    value, offset = (shifted.inputs[0], shifted.attrs["value"]) if shifted is not None else (value, 0.0)
    name = parameter_of(flat, value)
    return (name, offset) if name is not None and flat.types[value].shape == node.types[0].shape[-1:] else (None, 0.0)


def _with_bias(flat: Flat, node: FlatNode) -> list[FlatNode] | None:
    """A LayerNorm with a weight and without a bias, to which a parameter is added."""
    if node.op != "Add":
        return None
    for value, other in (node.inputs, node.inputs[::-1]):
        norm = flat.source(value, "LayerNorm")
        name = parameter_of(flat, other)
        if norm is None or name is None or not norm.attrs["affine"] or norm.attrs["bias"]:
            continue
        if flat.types[other].shape != node.types[0].shape[-1:] or norm.attrs["num_axes"] != 1 or norm.layer:
            continue
        params = [*norm.params, ("bias", name)]
        attrs = {**norm.attrs, "bias": True}
        return [flat.make("LayerNorm", norm.inputs, attrs, call=node.call, params=params, outputs=node.outputs)]
    return None
