"""A value that a module computes twice in one run is computed once."""

from genmad.importers.flat import Flat


def share_repeats(flat: Flat) -> int:
    """Lets readers of a node that repeats an earlier one of the same module call read the earlier one."""
    same: dict[str, str] = {}
    seen: dict[tuple[object, ...], tuple[str, ...]] = {}
    for node in flat.nodes:
        inputs = tuple(same.get(name, name) for name in node.inputs)
        key = (node.op, inputs, tuple(node.attrs.items()), node.params, node.layer if node.params else "", node.call)
        first = seen.setdefault(key, node.outputs)
        if first is not node.outputs:
            same.update(zip(node.outputs, first, strict=True))
    if same:
        flat.forward_values(same)
    return len(same)
