"""A product with a transposed parameter to Linear."""

from genmad.importers.flat import Flat, FlatNode
from genmad.importers.lifting.match import parameter_of


def lift_linear(flat: Flat) -> int:
    return flat.rewrite("Linear", _product)


def _product(flat: Flat, node: FlatNode) -> list[FlatNode] | None:
    """x W^T, or x W, on a parameter W that is a matrix; a bias stays an addition."""
    if node.op != "MatMul" or flat.types[node.inputs[1]].rank != 2 or flat.types[node.inputs[0]].rank < 2:
        return None
    swapped = flat.source(node.inputs[1], "Transpose")
    name = parameter_of(flat, swapped.inputs[0] if swapped else node.inputs[1])
    width = node.types[0].shape[-1]
    if name is None or not isinstance(width, int):
        return None
    attrs = {"out_features": width, "bias": False, "transposed": swapped is None}
    layer = name.removesuffix(".weight") if name.endswith(".weight") else ""
    params = [("weight", name)]
    return [
        flat.make("Linear", node.inputs[:1], attrs, call=node.call, layer=layer, params=params, outputs=node.outputs)
    ]
