"""Multiplication by a parameter along one axis to Scale (LayerScale, arXiv 2103.17239)."""

from genmad.importers.flat import Flat, FlatNode
from genmad.importers.lifting.match import parameter_of


def lift_scale(flat: Flat) -> int:
    return flat.rewrite("Scale", _scale)


def _scale(flat: Flat, node: FlatNode) -> list[FlatNode] | None:
    if node.op != "Mul":
        return None
    for x, weight in (node.inputs, node.inputs[::-1]):
        name = parameter_of(flat, weight)
        if name is None or parameter_of(flat, x) is not None or flat.types[weight].rank != 1:
            continue
        if flat.types[x].shape[-1:] == flat.types[weight].shape:
            params = [("weight", name)]
            return [flat.make("Scale", (x,), {"axis": -1}, call=node.call, params=params, outputs=node.outputs)]
    return None
