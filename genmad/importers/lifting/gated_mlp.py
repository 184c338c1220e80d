"""down(activation(gate(x)) * up(x)) to GatedMLP (GLU variants, arXiv 2002.05202, eq. 6).

Not among the passes that always run: projections of their own are what edits name (`up_proj`, `gate_proj`).
"""

from genmad.importers.flat import Flat, FlatNode

_ACTIVATIONS = {
    ("Silu", ""): "silu", ("Relu", ""): "relu", ("Sigmoid", ""): "sigmoid", ("Tanh", ""): "tanh",
    ("Gelu", "none"): "gelu", ("Gelu", "tanh"): "gelu_tanh",
}  # fmt: skip


def lift_gated_mlp(flat: Flat) -> int:
    return flat.rewrite("GatedMLP", _gated)


def _gated(flat: Flat, node: FlatNode) -> list[FlatNode] | None:
    """Rooted at the projection back."""
    if not _is_plain(node):
        return None
    product = flat.source(node.inputs[0], "Mul")
    if product is None:
        return None
    for gated, straight in (product.inputs, product.inputs[::-1]):
        activation = flat.producer.get(gated)
        gate = flat.source(activation.inputs[0], "Linear") if activation is not None and activation.inputs else None
        up = flat.source(straight, "Linear")
        if activation is None or gate is None or up is None or gate.inputs != up.inputs:
            continue
        kind = _ACTIVATIONS.get((activation.op, activation.attrs.get("approximate", "")))
        parts = {"gate": gate, "up": up, "down": node}
        if kind is None or not all(_is_plain(part) for part in parts.values()):
            continue
        if len({part.attrs["bias"] for part in parts.values()}) > 1 or gate.types != up.types:
            continue
        params = [(f"{name}_{slot}", full) for name, part in parts.items() for slot, full in part.params]
        attrs = {
            "hidden_features": up.attrs["out_features"], "out_features": node.attrs["out_features"],
            "activation": kind, "bias": node.attrs["bias"],
        }  # fmt: skip
        return [flat.make("GatedMLP", up.inputs, attrs, call=node.call, params=params, outputs=node.outputs)]
    return None


def _is_plain(node: FlatNode) -> bool:
    """Whether a node is a Linear whose weight and bias have names."""
    return node.op == "Linear" and not node.attrs["transposed"] and len(node.params) == 1 + int(node.attrs["bias"])
