"""Small questions about a flat program that several passes ask."""

from genmad.importers.flat import Flat, FlatNode
from genmad.ir.types import Dim


def slice_of(flat: Flat, value: str) -> tuple[str, int, Dim, Dim] | None:
    """(source, axis, start, end) when `value` is a contiguous part of another value along one axis."""
    node = flat.producer.get(value)
    if node is None or node.op not in ("Slice", "Split"):
        return None
    source = node.inputs[0]
    shape = flat.types[source].shape
    axis = node.attrs["axis"] % len(shape)
    if node.op == "Split":
        index = node.outputs.index(value)
        start = sum(node.attrs["sizes"][:index])
        return source, axis, start, start + node.attrs["sizes"][index]
    start, end = node.attrs["start"], node.attrs["end"]
    size = shape[axis]
    if node.attrs["step"] != 1:
        return None
    if isinstance(start, int) and start < 0:
        start = size + start
    if end is None:
        end = size
    elif isinstance(end, int) and end < 0:
        end = size + end
    return source, axis, start, end


def is_last_axis(flat: Flat, node: FlatNode, name: str = "axis") -> bool:
    """Whether an attribute means the last axis of the node's first input."""
    return bool(node.attrs[name] % flat.types[node.inputs[0]].rank == flat.types[node.inputs[0]].rank - 1)


def parameter_of(flat: Flat, value: str) -> str | None:
    """Full name of the trainable parameter that `value` is."""
    node = flat.source(value, "Parameter")
    return node.param_map["value"] if node is not None and node.attrs["trainable"] else None
