"""Attention on [B, S, H*D] instead of [B, H, S, D]: takes the reshapes and transposes around it away."""

from genmad.importers.flat import Flat, FlatNode

_SWAP = (0, 2, 1, 3)


def lift_attention_3d(flat: Flat) -> int:
    return flat.rewrite("Attention 3D", _around)


def _around(flat: Flat, node: FlatNode) -> list[FlatNode] | None:
    """Rooted at the reshape [B, S, H, D] -> [B, S, H*D] behind an attention."""
    if node.op not in ("Reshape", "Flatten") or node.types[0].rank != 3:
        return None
    swapped = flat.source(node.inputs[0], "Transpose")
    if swapped is None or swapped.attrs["perm"] != _SWAP:
        return None
    attention = flat.source(swapped.inputs[0], "Attention")
    if attention is None or node.types[0].shape[:2] != swapped.types[0].shape[:2]:
        return None
    new: list[FlatNode] = []
    rows = [_joined(flat, value, attention.call, new) for value in attention.inputs[:3]]
    inputs = [row for row in rows if row is not None]
    if len(inputs) < 3:
        return None
    made = flat.make(
        "Attention", (*inputs, *attention.inputs[3:]), dict(attention.attrs), call=attention.call, outputs=node.outputs
    )
    return [*new, made]


def _joined(flat: Flat, value: str, call: int, new: list[FlatNode]) -> str | None:
    """The value [B, S, H*D] behind `value` [B, H, S, D]; nodes that are needed for it are added to `new`."""
    node = flat.producer.get(value)
    if node is None:
        return None
    if node.op == "RotaryEmbedding" and node.attrs["num_heads"] is None:
        inside = _joined(flat, node.inputs[0], call, new)
        if inside is None:
            return None
        heads = flat.types[node.inputs[0]].shape[1]
        attrs = {**node.attrs, "num_heads": heads}
        new.append(flat.make("RotaryEmbedding", (inside, *node.inputs[1:]), attrs, call=node.call))
        return new[-1].outputs[0]
    if node.op != "Transpose" or node.attrs["perm"] != _SWAP:
        return None
    source = flat.source(node.inputs[0], "Reshape")
    if source is not None:
        before, after = flat.types[source.inputs[0]], source.types[0]
        if before.rank == 3 and before.shape[:2] == after.shape[:2]:
            return source.inputs[0]
    new.append(flat.make("Reshape", (node.inputs[0],), {"shape": (0, 0, -1)}, call=call))
    return new[-1].outputs[0]


def fold_scale(flat: Flat) -> int:
    """Attention whose queries were multiplied by a number takes the number as its scale."""
    return flat.rewrite("Attention scale", _scaled)


def _scaled(flat: Flat, node: FlatNode) -> list[FlatNode] | None:
    if node.op != "Attention" or flat.types[node.inputs[0]].rank != 3:
        return None
    factor = flat.source(node.inputs[0], "MulScalar")
    if factor is None:
        return None
    width = flat.types[node.inputs[0]].shape[-1]
    if not isinstance(width, int):
        return None
    usual = (width // node.attrs["num_heads"]) ** -0.5
    scale = (node.attrs["scale"] if node.attrs["scale"] is not None else usual) * factor.attrs["value"]
    if scale <= 0:
        return None
    attrs = {**node.attrs, "scale": None if abs(scale - usual) < 1e-9 else scale}
    return [flat.make("Attention", (factor.inputs[0], *node.inputs[1:]), attrs, call=node.call, outputs=node.outputs)]
