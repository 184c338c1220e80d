"""Activations written out in arithmetic to one op, recognised by their numbers.

A cone of elementwise ops over one value is computed on a row of numbers and compared with each formula: the variants of
GELU (erf, tanh, sigmoid: arXiv 1606.08415), SiLU, Mish, ...
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from genmad.importers.flat import Flat, FlatNode
from genmad.importers.probes import ACTIVATIONS

_MOST = 14
_TOLERANCE = 2e-6
_ONE: dict[str, Callable[[Tensor], Tensor]] = {
    "Tanh": torch.tanh, "Sigmoid": torch.sigmoid, "Erf": torch.erf, "Exp": torch.exp, "Softplus": F.softplus,
    "Square": torch.square, "Neg": torch.neg, "Reciprocal": torch.reciprocal, "Sqrt": torch.sqrt, "Abs": torch.abs,
    "Relu": F.relu, "Silu": F.silu,
}  # fmt: skip
_TWO: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "Add": torch.add, "Sub": torch.sub, "Mul": torch.mul, "Div": torch.div,
}  # fmt: skip
_NUMBER = ("MulScalar", "AddScalar", "PowScalar")


def lift_activations(flat: Flat) -> int:
    return flat.rewrite("activation", _activation)


def _activation(flat: Flat, node: FlatNode) -> list[FlatNode] | None:
    """Rooted at the last product of the formula."""
    if node.op not in ("Mul", "MulScalar", "Div") or not node.types[0].dtype.is_float:
        return None
    cone: dict[str, FlatNode] = {}
    leaves: dict[str, None] = {}
    if not _collect(flat, node, cone, leaves) or len(leaves) != 1 or len(cone) < 2:
        return None
    (source,) = leaves
    if flat.types[source] != node.types[0]:
        return None
    row = torch.linspace(-8, 8, 997)
    given = _compute(node.outputs[0], source, row, cone, {})
    for op, attrs, formula in ACTIVATIONS:
        if op != "Identity" and torch.allclose(given, formula(row), atol=_TOLERANCE, rtol=1e-5):
            return [flat.make(op, (source,), attrs, call=node.call, outputs=node.outputs)]
    return None


def _collect(flat: Flat, node: FlatNode, cone: dict[str, FlatNode], leaves: dict[str, None]) -> bool:
    """Adds a node and what stands under it; False when the cone grows beyond what a formula has."""
    cone[node.outputs[0]] = node
    if len(cone) > _MOST:
        return False
    for value in node.inputs:
        below = flat.producer.get(value)
        if value in cone or value in leaves:
            continue
        if below is not None and _is_arithmetic(below) and _opens(flat, below, node):
            if not _collect(flat, below, cone, leaves):
                return False
        else:
            leaves[value] = None
    return len(leaves) == 1


def _opens(flat: Flat, below: FlatNode, above: FlatNode) -> bool:
    """Whether a node belongs to the formula: it has one type with what reads it and ends over the same value."""
    if below.types[0] != above.types[0]:
        return False
    return below.op not in ("Add", "Mul", "Div", "Sub", "Silu", "Relu") or len({*_ends(flat, below, 6)}) == 1


def _ends(flat: Flat, node: FlatNode, depth: int) -> list[str]:
    """Values under the arithmetic of a node."""
    found: list[str] = []
    for value in node.inputs:
        below = flat.producer.get(value)
        if depth and below is not None and _is_arithmetic(below) and below.types[0] == node.types[0]:
            found += _ends(flat, below, depth - 1)
        else:
            found.append(value)
    return found


def _is_arithmetic(node: FlatNode) -> bool:
    return node.op in _ONE or node.op in _TWO or node.op in _NUMBER


def _compute(value: str, source: str, row: Tensor, cone: dict[str, FlatNode], done: dict[str, Tensor]) -> Tensor:
    if value == source:
        return row
    if value not in done:
        node = cone[value]
        args = [_compute(v, source, row, cone, done) for v in node.inputs]
        done[value] = _apply(node, args)
    return done[value]


def _apply(node: FlatNode, args: list[Tensor]) -> Tensor:
    if node.op == "MulScalar":
        return args[0] * node.attrs["value"]
    if node.op == "AddScalar":
        return args[0] + node.attrs["value"]
    if node.op == "PowScalar":
        return args[0] ** node.attrs["exponent"]
    return _ONE[node.op](args[0]) if node.op in _ONE else _TWO[node.op](*args)
