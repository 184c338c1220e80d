"""softmax(q k^T * scale + bias) v, written out, to Attention."""

from genmad.importers.flat import Flat, FlatNode
from genmad.importers.lifting.match import is_last_axis
from genmad.importers.masks import mask_kind


def lift_sdpa(flat: Flat) -> int:
    return flat.rewrite("Attention", _written_out)


def _written_out(flat: Flat, node: FlatNode) -> list[FlatNode] | None:
    if node.op != "MatMul" or node.types[0].rank != 4:
        return None
    softmax = flat.source(node.inputs[0], "Softmax")
    if softmax is None or not is_last_axis(flat, softmax):
        return None
    score, biases = _strip_biases(flat, softmax.inputs[0])
    hidden = _hidden_where(flat, score)
    score = hidden[0] if hidden else score
    factor = flat.source(score, "MulScalar")
    product = flat.source(factor.inputs[0] if factor else score, "MatMul")
    keys = flat.source(product.inputs[1], "Transpose") if product is not None else None
    if product is None or keys is None or keys.attrs["perm"] != (0, 1, 3, 2) or len(biases) > 2:
        return None
    scale = factor.attrs["value"] if factor else 1.0
    causal = hidden is not None and hidden[1] == "causal"
    return _attention(flat, node, (product.inputs[0], keys.inputs[0]), scale, biases, causal)


def _hidden_where(flat: Flat, score: str) -> tuple[str, str] | None:
    """(scores, kind of mask) under a `where` that puts a very low number at hidden keys."""
    node = flat.source(score, "Where")
    values = flat.constants.get(node.inputs[0]) if node is not None else None
    if node is None or values is None:
        return None
    for slot, flip in ((1, True), (2, False)):
        low = flat.source(node.inputs[slot], "Full")
        if low is None or low.attrs["value"] > -1e4:
            continue
        kinds = {mask_kind(values(sizes) ^ flip) for sizes in flat.sizes}
        kind = kinds.pop() if len(kinds) == 1 else None
        return None if kind is None else (node.inputs[3 - slot], kind)
    return None


def _strip_biases(flat: Flat, score: str) -> tuple[str, list[str]]:
    """The scores under the biases that were added to them."""
    biases: list[str] = []
    while (added := flat.source(score, "Add")) is not None:
        inner = [v for v in added.inputs if _is_score(flat, v)]
        if len(inner) != 1:
            break
        biases += [v for v in added.inputs if v != inner[0]]
        score = inner[0]
    return score, biases


def _is_score(flat: Flat, value: str) -> bool:
    node = flat.producer.get(value)
    return node is not None and value not in flat.constants and node.op in ("MulScalar", "MatMul", "Add")


def _attention(
    flat: Flat, node: FlatNode, pair: tuple[str, str], scale: float, biases: list[str], causal: bool
) -> list[FlatNode] | None:
    q, k = pair
    q_type, k_type, v_type = (flat.types[name] for name in (q, k, node.inputs[1]))
    if q_type.rank != 4 or q_type.shape[0] != k_type.shape[0] or k_type.shape[:3] != v_type.shape[:3] or scale <= 0:
        return None
    heads, width = q_type.shape[1], q_type.shape[3]
    if k_type.shape[1] not in (1, heads) or not isinstance(width, int):
        return None
    masks = [flat.masks[name] for name in biases if name in flat.masks]
    rest = [name for name in biases if name not in flat.masks]
    if len(masks) > 1 or len(rest) > 1:
        return None
    masked, window = masks[0] if masks else (False, None)
    causal = causal or masked
    attrs = {
        "num_heads": heads,
        "causal": causal,
        "window": window,
        "scale": None if abs(scale - width**-0.5) < 1e-7 else scale,
    }
    return [flat.make("Attention", (q, k, node.inputs[1], *rest), attrs, call=node.call, outputs=node.outputs)]


def drop_zero_bias(flat: Flat) -> int:
    """Attention whose bias is zero everywhere (T5's cross attention) loses it."""
    return flat.rewrite("Attention without bias", _zero_bias)


def _zero_bias(flat: Flat, node: FlatNode) -> list[FlatNode] | None:
    if node.op != "Attention" or len(node.inputs) < 4:
        return None
    full = flat.source(node.inputs[3], "Full")
    if full is None or full.attrs["value"] != 0 or full.attrs["dtype"] == "bool":
        return None
    return [flat.make("Attention", node.inputs[:3], dict(node.attrs), call=node.call, outputs=node.outputs)]
