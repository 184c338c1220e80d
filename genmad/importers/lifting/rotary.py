"""`x * cos + rotate_half(x) * sin` to RotaryEmbedding, also on the first features only.

RoFormer, arXiv 2104.09864, eq. 34.
"""

from genmad.importers.flat import Flat, FlatNode
from genmad.importers.lifting.match import is_last_axis, slice_of
from genmad.importers.lifting.rotary_tables import TableMaker


def lift_rotary(flat: Flat) -> int:
    maker = TableMaker(flat)
    count = flat.rewrite("RotaryEmbedding", lambda flat, node: _whole(flat, node, maker))
    flat.rewrite("partial RotaryEmbedding", _partial)
    flat.rewrite("partial RotaryEmbedding", _partial_rows)
    return count


def _whole(flat: Flat, node: FlatNode, maker: TableMaker) -> list[FlatNode] | None:
    """Add(Mul(x, cos), Mul(rotate_half(x), sin)) on x [B, H, S, D], in pairs also on x [B, S, H, D]."""
    if node.op != "Add" or node.types[0].rank != 4:
        return None
    products = [flat.source(value, "Mul") for value in node.inputs]
    for straight, rotated in (products, products[::-1]):
        if straight is None or rotated is None:
            continue
        for x, cos in (straight.inputs, straight.inputs[::-1]):
            for turned, sin in (rotated.inputs, rotated.inputs[::-1]):
                made = _rotated(flat, node, x, (cos, sin), turned, maker)
                if made is not None:
                    return made
    return None


def _rotated(
    flat: Flat, node: FlatNode, x: str, cos_sin: tuple[str, str], turned: str, maker: TableMaker
) -> list[FlatNode] | None:
    for interleaved, source, table in ((False, _half_source, _table), (True, _pair_source, _pair_table)):
        if source(flat, turned) != x:
            continue
        found = [table(flat, value) for value in cos_sin]
        if None not in found:
            attrs = {"interleaved": interleaved}
            inputs = (x, *(t for t in found if t is not None))
            return [flat.make("RotaryEmbedding", inputs, attrs, call=node.call, outputs=node.outputs)]
    if _pair_source(flat, turned) != x:
        return None
    for axis in (1, 2):
        pairs = [maker.pairs(value, axis) for value in cos_sin]
        tables = [t for t in pairs if t is not None]
        if len(tables) < 2:
            continue
        if axis == 1:
            made = flat.make(
                "RotaryEmbedding", (x, *tables), {"interleaved": True}, call=node.call, outputs=node.outputs
            )
            return [*maker.taken(), made]
        return [*maker.taken(), *_on_rows(flat, node, x, tables, {"interleaved": True})]
    return None


def _on_rows(flat: Flat, node: FlatNode, x: str, tables: list[str], attrs: dict[str, object]) -> list[FlatNode]:
    """RotaryEmbedding of x [B, S, H, D] as [B, S, H*D]."""
    heads = flat.types[x].shape[2]
    source = flat.source(x, "Reshape")
    new: list[FlatNode] = []
    if source is not None and flat.types[source.inputs[0]].rank == 3:
        rows = source.inputs[0]
    else:
        new.append(flat.make("Reshape", (x,), {"shape": (0, 0, -1)}, call=node.call))
        rows = new[0].outputs[0]
    new.append(flat.make("RotaryEmbedding", (rows, *tables), {**attrs, "num_heads": heads}, call=node.call))
    for made in new:
        flat.producer[made.outputs[0]] = made
    shape = (0, 0, heads, -1)
    return [*new, flat.make("Reshape", new[-1].outputs, {"shape": shape}, call=node.call, outputs=node.outputs)]


def _partial_rows(flat: Flat, node: FlatNode) -> list[FlatNode] | None:
    """Concat of the rotated first features and the rest, on [B, S, H, D]."""
    if node.op != "Concat" or len(node.inputs) != 2 or node.types[0].rank != 4 or not is_last_axis(flat, node):
        return None
    back = flat.source(node.inputs[0], "Reshape")
    rotary = flat.source(back.inputs[0], "RotaryEmbedding") if back is not None else None
    flat_rows = flat.source(rotary.inputs[0], "Reshape") if rotary is not None else None
    first = slice_of(flat, flat_rows.inputs[0]) if flat_rows is not None else None
    rest = slice_of(flat, node.inputs[1])
    if rotary is None or first is None or rest is None or first[0] != rest[0] or rotary.attrs["num_heads"] is None:
        return None
    width = flat.types[first[0]].shape[-1]
    if (first[1], rest[1], first[2], rest[3]) != (3, 3, 0, width) or first[3] != rest[2]:
        return None
    attrs = {key: value for key, value in rotary.attrs.items() if key != "num_heads"}
    return _on_rows(flat, node, first[0], list(rotary.inputs[1:]), attrs)


def _pair_table(flat: Flat, value: str) -> str | None:
    """The table [B, S, R] whose first half was repeated in pairs: cos[..., :R/2].repeat_interleave(2)."""
    merged = flat.source(value, "Flatten")
    spread = flat.source(merged.inputs[0], "Expand") if merged is not None else None
    single = flat.source(spread.inputs[0], "Unsqueeze") if spread is not None else None
    half = slice_of(flat, single.inputs[0]) if single is not None else None
    if spread is None or half is None or spread.attrs["shape"] != (-1, -1, -1, -1, 2):
        return None
    width = flat.types[value].shape[-1]
    return _table(flat, half[0]) if half[2] == 0 and flat.types[half[0]].shape[-1] == width else None


def _pair_source(flat: Flat, value: str) -> str | None:
    """x when `value` is (-x1, x0, -x3, x2, ...)."""
    merged = flat.source(value, "Flatten")
    stack = flat.source(merged.inputs[0], "Stack") if merged is not None else None
    if stack is None or len(stack.inputs) != 2 or flat.types[value].rank + 1 != stack.types[0].rank:
        return None
    negative, even = flat.source(stack.inputs[0], "Neg"), flat.source(stack.inputs[1], "Slice")
    odd = flat.source(negative.inputs[0], "Slice") if negative is not None else None
    if (
        even is None
        or odd is None
        or even.inputs != odd.inputs
        or stack.attrs["axis"] not in (-1, stack.types[0].rank - 1)
    ):
        return None
    starts = [(n.attrs["start"], n.attrs["step"], n.attrs["end"]) for n in (even, odd)]
    if starts != [(0, 2, None), (1, 2, None)] or not (is_last_axis(flat, even) and is_last_axis(flat, odd)):
        return None
    return even.inputs[0]


def _table(flat: Flat, value: str) -> str | None:
    """cos or sin [B, S, R], from its form [B, 1, S, R]."""
    node = flat.source(value, "Unsqueeze")
    if node is None or flat.types[value].rank != 4 or node.attrs["axes"] not in ((1,), (-3,)):
        return None
    return node.inputs[0]


def _half_source(flat: Flat, value: str) -> str | None:
    """x when `value` is Concat(-x[..., half:], x[..., :half])."""
    node = flat.source(value, "Concat")
    if node is None or len(node.inputs) != 2 or not is_last_axis(flat, node):
        return None
    negative = flat.source(node.inputs[0], "Neg")
    if negative is None:
        return None
    upper, lower = slice_of(flat, negative.inputs[0]), slice_of(flat, node.inputs[1])
    if upper is None or lower is None or upper[0] != lower[0]:
        return None
    width = flat.types[upper[0]].shape[-1]
    rank = flat.types[upper[0]].rank
    if not isinstance(width, int) or upper[1] != rank - 1 or lower[1] != rank - 1:
        return None
    return upper[0] if (lower[2], lower[3], upper[2], upper[3]) == (0, width // 2, width // 2, width) else None


def _partial(flat: Flat, node: FlatNode) -> list[FlatNode] | None:
    """Concat(RotaryEmbedding(x[..., :r]), x[..., r:]): the op passes the features that it does not rotate."""
    if node.op != "Concat" or len(node.inputs) != 2 or not is_last_axis(flat, node):
        return None
    rotary = flat.source(node.inputs[0], "RotaryEmbedding")
    rest = slice_of(flat, node.inputs[1])
    first = slice_of(flat, rotary.inputs[0]) if rotary is not None else None
    if rotary is None or rest is None or first is None or first[0] != rest[0]:
        return None
    width = flat.types[first[0]].shape[-1]
    axis = flat.types[first[0]].rank - 1
    if (first[1], rest[1], first[2], rest[3]) != (axis, axis, 0, width) or first[3] != rest[2]:
        return None
    inputs = (first[0], *rotary.inputs[1:])
    return [flat.make("RotaryEmbedding", inputs, dict(rotary.attrs), call=rotary.call, outputs=node.outputs)]
