"""softmax(q k^T * scale + mask) v as ONNX exporters write it, to Attention; reshapes around Linear layers."""

from genmad.importers.flat import Flat, FlatNode
from genmad.importers.lifting.match import is_last_axis

_MAX_MASKS = 2


def lift_attention(flat: Flat) -> int:
    return flat.rewrite("Attention", _written_out)


def _written_out(flat: Flat, node: FlatNode) -> list[FlatNode] | None:
    """Scores may be scaled on q, on k, on both or on the product, divided too; masks are added or chosen by Where."""
    if node.op != "MatMul" or node.types[0].rank != 4:
        return None
    softmax = flat.source(_not_nan(flat, node.inputs[0]), "Softmax")
    if softmax is None or not is_last_axis(flat, softmax):
        return None
    score, masks = _strip_masks(flat, softmax.inputs[0])
    score, scale = scaled(flat, score)
    product = flat.source(score, "MatMul")
    if product is None or len(masks) > 1:
        return None
    q, q_scale = scaled(flat, product.inputs[0])
    turned, k_scale = scaled(flat, product.inputs[1])
    keys = _keys(flat, turned)
    if keys is None:
        return None
    before, k, inner_scale = keys
    return _attention(flat, node, (q, k), scale * q_scale * k_scale * inner_scale, masks, before)


def _not_nan(flat: Flat, value: str) -> str:
    """The softmax under Where(IsNaN(softmax), 0, softmax), which exporters write for rows that see no key."""
    chosen = flat.source(value, "Where")
    test = flat.source(chosen.inputs[0], "OnnxCall") if chosen is not None else None
    if chosen is None or test is None or test.attrs["op_type"] != "IsNaN":
        return value
    return chosen.inputs[2] if test.inputs[0] == chosen.inputs[2] else value


def scaled(flat: Flat, value: str) -> tuple[str, float]:
    """(source, factor) under multiplications by numbers."""
    factor = 1.0
    while (node := flat.source(value, "MulScalar")) is not None:
        factor *= node.attrs["value"]
        value = node.inputs[0]
    return value, factor


def _strip_masks(flat: Flat, score: str) -> tuple[str, list[str]]:
    masks: list[str] = []
    while (added := flat.source(score, "Add")) is not None:
        inner = [v for v in added.inputs if _is_score(flat, v)]
        if len(inner) != 1:
            break
        masks += [v for v in added.inputs if v != inner[0]]
        score = inner[0]
    return score, masks


def _is_score(flat: Flat, value: str) -> bool:
    source, _ = scaled(flat, value)
    node = flat.producer.get(source)
    if node is not None and node.op == "Add":
        return any(_is_score(flat, v) for v in node.inputs)
    return node is not None and node.op == "MatMul"


def _keys(flat: Flat, value: str) -> tuple[list[FlatNode], str, float] | None:
    """(nodes to add, k as [B, H, T, D], its factor) when the value is k with the last two axes swapped."""
    swap = flat.source(value, "Transpose")
    if swap is not None and swap.attrs["perm"] == (0, 1, 3, 2):
        k, factor = scaled(flat, swap.inputs[0])
        return [], k, factor
    if swap is not None and swap.attrs["perm"] == (0, 2, 3, 1):
        made = flat.make("Transpose", swap.inputs, {"perm": (0, 2, 1, 3)}, call=swap.call)
        return [made], made.outputs[0], 1.0
    # Batch and heads merged for a batched product, and split again.
    outer = flat.source(value, "Reshape")
    swap = flat.source(outer.inputs[0], "Transpose") if outer is not None else None
    inner = flat.source(swap.inputs[0], "Reshape") if swap is not None and swap.attrs["perm"] == (0, 2, 1) else None
    if outer is None or inner is None:
        return None
    own, out = flat.types[inner.inputs[0]].shape, outer.types[0].shape
    fits = len(own) == 4 and (*own[:2], *own[:1:-1]) == out
    if fits and inner.types[0].shape[1:] == own[2:]:
        return [], inner.inputs[0], 1.0
    return None


def _attention(
    flat: Flat, node: FlatNode, pair: tuple[str, str], scale: float, masks: list[str], before: list[FlatNode]
) -> list[FlatNode] | None:
    q, k = (flat.types[name] for name in pair)
    v = flat.types[node.inputs[1]]
    if q.rank != 4 or q.shape[:2] != k.shape[:2] or k.shape[:3] != v.shape[:3] or scale <= 0:
        return None
    heads, width = q.shape[1], q.shape[3]
    if not isinstance(heads, int) or not isinstance(width, int):
        return None
    if any(flat.types[m].dtype != q.dtype or flat.types[m].rank > 4 for m in masks):
        return None
    plain = abs(scale - width**-0.5) < 1e-6 * width**-0.5
    attrs = {"num_heads": heads, "scale": None if plain else float(f"{scale:.9g}")}
    inputs = (*pair, node.inputs[1], *masks)
    return [*before, flat.make("Attention", inputs, attrs, call=node.call, outputs=node.outputs)]


def merge_linear_reshapes(flat: Flat) -> int:
    """Reshape to a matrix, Linear, Reshape back: the Linear alone, which works over the last axis anyway."""
    return flat.rewrite("Linear over more axes", _reshaped)


def _reshaped(flat: Flat, node: FlatNode) -> list[FlatNode] | None:
    linear = flat.source(node.inputs[0], "Linear") if node.op == "Reshape" else None
    flatten = flat.producer.get(linear.inputs[0]) if linear is not None else None
    if linear is None or flatten is None or flatten.op not in ("Reshape", "Flatten"):
        return None
    x = flat.types[flatten.inputs[0]]
    whole = linear.types[0].rank == 2 and flatten.types[0].rank == 2 and flatten.types[0].shape[-1] == x.shape[-1]
    if not whole or node.types[0].shape != (*x.shape[:-1], linear.types[0].shape[-1]) or x.rank < 3:
        return None
    return [
        flat.make(
            "Linear", flatten.inputs, linear.attrs, call=linear.call, layer=linear.layer, params=linear.params,
            outputs=node.outputs,
        )
    ]  # fmt: skip
