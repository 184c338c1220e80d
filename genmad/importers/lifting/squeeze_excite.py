"""x * gate(conv(act(conv(mean(x))))) with 1x1 convolutions to SqueezeExcite.

Hu et al., arXiv 1709.01507; EfficientNet, MobileNetV3 and RegNet of timm and of transformers write it so.
"""

from genmad.importers.flat import Flat, FlatNode

# Activations between the two convolutions and behind them, as the op names them.
_INNER = {
    "Relu": "relu", "Relu6": "relu6", "Silu": "silu", "Sigmoid": "sigmoid", "HardSigmoid": "hard_sigmoid",
    "HardSwish": "hard_swish", "Tanh": "tanh",
}  # fmt: skip


def lift_squeeze_excite(flat: Flat) -> int:
    uses = flat.use_counts()

    def rule(flat: Flat, node: FlatNode) -> list[FlatNode] | None:
        if node.op != "Mul":
            return None
        for x, gate in (node.inputs, node.inputs[::-1]):
            made = _gated(flat, node, x, gate, uses)
            if made is not None:
                return [made]
        return None

    return flat.rewrite("SqueezeExcite", rule)


def _gated(flat: Flat, node: FlatNode, x: str, gate: str, uses: dict[str, int]) -> FlatNode | None:
    chain = _chain(flat, gate, uses)
    if chain is None or flat.types[x].rank < 3:
        return None
    gate_name, second, name, first, squeezed = chain
    if not _is_mean(flat, squeezed, x) or second.attrs["out_channels"] != flat.types[x].shape[1]:
        return None
    params = [
        (f"{part}_{slot}", conv.param_map[slot]) for part, conv in (("fc1", first), ("fc2", second))
        for slot in ("weight", "bias")
    ]  # fmt: skip
    attrs = {"reduced_channels": first.attrs["out_channels"], "activation": name, "gate": gate_name}
    owners = [name.rpartition(".")[0].rpartition(".")[0] for _, name in params]
    layer = owners[0] if len(set(owners)) == 1 else ""
    return flat.make("SqueezeExcite", (x,), attrs, call=node.call, layer=layer, params=params, outputs=node.outputs)


def _chain(flat: Flat, gate: str, uses: dict[str, int]) -> tuple[str, FlatNode, str, FlatNode, FlatNode] | None:
    """(gate, second convolution, activation, first convolution, mean), each read only by the next."""
    nodes: list[FlatNode] = []
    value = gate
    for _ in range(5):
        node = flat.producer.get(value)
        if node is None or uses.get(value) != 1:
            return None
        nodes.append(node)
        value = node.inputs[0] if node.inputs else ""
    last, second, activation, first, squeezed = nodes
    gate_name, name = _INNER.get(last.op), _inner(activation)
    if gate_name is None or name is None or not (_is_pointwise(first) and _is_pointwise(second)):
        return None
    return gate_name, second, name, first, squeezed


def _inner(node: FlatNode) -> str | None:
    if node.op == "Gelu":
        return {"none": "gelu", "tanh": "gelu_tanh"}.get(node.attrs["approximate"])
    return _INNER.get(node.op)


def _is_pointwise(node: FlatNode) -> bool:
    """Whether a node is a 1x1 convolution with a bias."""
    if node.op != "Conv" or not node.attrs["bias"] or node.attrs["groups"] != 1:
        return False
    return all(k == 1 for k in (*node.attrs["kernel_size"], *node.attrs["stride"])) and not any(node.attrs["padding"])


def _is_mean(flat: Flat, node: FlatNode, x: str) -> bool:
    """Whether a node is the mean of x over all positions, its axes kept."""
    if node.inputs[:1] != (x,) or not node.attrs.get("keepdims"):
        return False
    rank = flat.types[x].rank
    axes = {axis % rank for axis in node.attrs.get("axes", ())}
    return node.op == "GlobalAveragePool" or (node.op == "ReduceMean" and axes == set(range(2, rank)))
