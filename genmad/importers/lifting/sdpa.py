"""softmax(q k^T * scale + bias) v, written out, to Attention.

The scores may be held as [B, H, S, T] or as [B*H, S, T]; masks may be added, or put in place with `where`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from genmad.importers.flat import Flat, FlatNode
from genmad.importers.lifting.match import is_last_axis
from genmad.importers.masks import Rule, mask_rule
from genmad.importers.report import UnsupportedError

# Long enough to show a window; tables of masks are seldom shorter than twice a window.
_LENGTH = 700
_LOWEST = -1e4
_SWAP = (0, 1, 3, 2)
_OF_SCORES = ("MulScalar", "MatMul", "Add", "Where", "Max")


def lift_sdpa(flat: Flat) -> int:
    return flat.rewrite("Attention", _written_out)


@dataclass(slots=True)
class _Scores:
    """What stands between the product of queries and keys and the softmax."""

    product: FlatNode
    scale: float = 1.0
    biases: list[str] = field(default_factory=list)
    hidden: list[Rule] = field(default_factory=list)


def _written_out(flat: Flat, node: FlatNode) -> list[FlatNode] | None:
    if node.op != "MatMul" or node.types[0].rank not in (3, 4):
        return None
    softmax = flat.source(_same_heads(flat, node.inputs[0]), "Softmax")
    if softmax is None or not is_last_axis(flat, softmax):
        return None
    scores = _peel(flat, softmax.inputs[0])
    if scores is None:
        return None
    keys = _keys(flat, scores.product.inputs[1])
    values, queries = _four_axes(flat, node.inputs[1]), _four_axes(flat, scores.product.inputs[0])
    if keys is None or values is None or queries is None:
        return None
    return _attention(flat, node, (queries, keys[0], values), keys[1], scores)


def _same_heads(flat: Flat, value: str) -> str:
    """The value under reshapes that only merge or split the axes of batch and heads."""
    while (node := flat.source(value, "Reshape")) is not None:
        before, after = flat.types[node.inputs[0]], node.types[0]
        if before.shape[-2:] != after.shape[-2:] or {before.rank, after.rank} - {3, 4}:
            break
        value = node.inputs[0]
    return value


def _peel(flat: Flat, value: str) -> _Scores | None:
    """Takes masks, biases, a lower bound and the scale off, from the outside; None when no product is found."""
    biases: list[str] = []
    hidden: list[Rule] = []
    for _ in range(8):
        value = _same_heads(flat, value)
        node = flat.producer.get(value)
        if node is None or value in flat.constants:
            return None
        if node.op == "MatMul":
            return _Scores(node, 1.0, biases, hidden)
        if node.op == "MulScalar":
            product = flat.source(_same_heads(flat, node.inputs[0]), "MatMul")
            return None if product is None else _Scores(product, node.attrs["value"], biases, hidden)
        if node.op == "Add":
            inner = [v for v in node.inputs if _is_score(flat, v)]
            if len(inner) != 1:
                return None
            biases += [v for v in node.inputs if v != inner[0]]
            value = inner[0]
        elif node.op == "Where":
            under = _hidden_where(flat, node)
            if under is None:
                return None
            hidden.append(under[1])
            value = under[0]
        elif node.op == "Max":
            rest = [v for v in node.inputs if not _is_lowest(flat, v)]
            if len(rest) != 1:
                return None
            value = rest[0]
        else:
            return None
    return None


def _is_lowest(flat: Flat, value: str) -> bool:
    full = flat.source(value, "Full")
    return full is not None and full.attrs["value"] <= -1e30


def _is_score(flat: Flat, value: str) -> bool:
    node = flat.producer.get(_same_heads(flat, value))
    return node is not None and value not in flat.constants and node.op in _OF_SCORES


def _hidden_where(flat: Flat, node: FlatNode) -> tuple[str, Rule] | None:
    """(scores, rule) under a `where` that puts a very low number at hidden keys."""
    values = flat.constants.get(node.inputs[0])
    if values is None:
        return None
    for slot, flip in ((1, True), (2, False)):
        low = flat.source(node.inputs[slot], "Full")
        if low is None or low.attrs["value"] > _LOWEST:
            continue
        found = None
        for sizes in (_long(flat.sizes[0]), *flat.sizes):
            try:
                mask: Tensor = values(sizes) ^ flip
            except (UnsupportedError, RuntimeError):
                continue
            rule = mask_rule(mask)
            if rule is None or (found is not None and not _agrees(found, rule, mask.shape[-1])):
                return None
            found = found or rule
        return None if found is None else (node.inputs[3 - slot], found)
    return None


def _long(sizes: Mapping[str, int]) -> dict[str, int]:
    return {symbol: 2 if symbol == "batch" else _LENGTH for symbol in sizes}


def _agrees(long: Rule, short: Rule, length: int) -> bool:
    """Whether a shorter mask is what the rule of a longer one gives: a window wider than it does not show."""
    hides = long[1] is not None and long[1] < length
    return long[0] == short[0] and (short[1] == long[1] if hides else short[1] is None)


def _keys(flat: Flat, value: str) -> tuple[str, list[FlatNode]] | None:
    """(keys [B, H, T, D], nodes needed for them) behind their transpose."""
    value = _under_merge(flat, value)
    node = flat.source(value, "Transpose")
    if node is None:
        return None
    perm = node.attrs["perm"]
    if perm in (_SWAP, (0, 2, 1)):
        found = _four_axes(flat, node.inputs[0])
        return None if found is None else (found, [])
    if len(perm) == 4 and perm == (0, 2, 3, 1):
        made = flat.make("Transpose", node.inputs, {"perm": (0, 2, 1, 3)}, call=node.call)
        flat.producer[made.outputs[0]] = made
        return made.outputs[0], [made]
    return None


def _under_merge(flat: Flat, value: str) -> str:
    """The value [B, H, X, Y] that was reshaped to [B*H, X, Y]."""
    node = flat.source(value, "Reshape")
    if node is None or node.types[0].rank != 3 or flat.types[node.inputs[0]].rank != 4:
        return value
    return node.inputs[0] if flat.types[node.inputs[0]].shape[-2:] == node.types[0].shape[-2:] else value


def _four_axes(flat: Flat, value: str) -> str | None:
    value = _under_merge(flat, value)
    return value if flat.types[value].rank == 4 else None


def _attention(
    flat: Flat, node: FlatNode, qkv: tuple[str, str, str], new: list[FlatNode], scores: _Scores
) -> list[FlatNode] | None:
    q_type, k_type, v_type = (flat.types[name] for name in qkv)
    if q_type.shape[0] != k_type.shape[0] or k_type.shape[:3] != v_type.shape[:3] or scores.scale <= 0:
        return None
    heads, width = q_type.shape[1], q_type.shape[3]
    if k_type.shape[1] not in (1, heads) or not isinstance(width, int) or not isinstance(heads, int):
        return None
    rules = [flat.masks[name] for name in scores.biases if name in flat.masks] + scores.hidden
    rest = [name for name in scores.biases if name not in flat.masks]
    if len(rest) > 1:
        return None
    rule = _joint(rules)
    bias = [_bias(flat, name, heads, new, node.call) for name in rest]
    attrs = {
        "num_heads": heads, "causal": rule[0], "window": rule[1],
        "scale": None if abs(scores.scale - width**-0.5) < 1e-7 else scores.scale,
    }  # fmt: skip
    if node.types[0].rank == 4:
        return [*new, flat.make("Attention", (*qkv, *bias), attrs, call=node.call, outputs=node.outputs)]
    made = flat.make("Attention", (*qkv, *bias), attrs, call=node.call)
    shape = (node.types[0].shape[0], -1, node.types[0].shape[2])
    merged = flat.make("Reshape", made.outputs, {"shape": shape}, call=node.call, outputs=node.outputs)
    return [*new, made, merged]


def _joint(rules: list[Rule]) -> Rule:
    """What several masks hide together."""
    windows = [window for _, window in rules if window is not None]
    return any(causal for causal, _ in rules), min(windows, default=None)


def _bias(flat: Flat, value: str, heads: int, new: list[FlatNode], call: int) -> str:
    """A bias that was added to scores [B*H, S, T], as one for [B, H, S, T]."""
    type_ = flat.types[value]
    symbolic = type_.rank == 3 and type_.shape[0] not in (1, heads)
    if not symbolic:
        return value
    new.append(flat.make("Reshape", (value,), {"shape": (-1, heads, *type_.shape[1:])}, call=call))
    return new[-1].outputs[0]


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
