"""A graph as it stands in an ONNX file, through the lifting passes and folded along the exporter's module paths."""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from genmad.importers.blocks import build_graph
from genmad.importers.flat import Flat, FlatNode
from genmad.importers.lifting import lift
from genmad.importers.onnx_lift import lift_onnx
from genmad.importers.trace import ModuleCall
from genmad.ir.diagnostics import GenmadError
from genmad.ir.graph import Graph
from genmad.ops import OPSET

if TYPE_CHECKING:
    import numpy as np


def raise_level(graph: Graph, classes: Mapping[str, str], weights: "Mapping[str, np.ndarray]") -> tuple[Graph, Flat]:
    """The lifted graph, with a block for each module in a list, and the flat program that it was made from.

    Args:
        graph: without calls.
        classes: class name by module path, as far as the exporter noted them.
        weights: contents of the parameters; small ones may turn out to be numbers.
    """
    flat = to_flat(graph, classes)
    lift_onnx(flat, weights)
    lift(flat)
    try:
        return _with_inputs(build_graph(flat, graph.name), graph), flat
    except (GenmadError, ValueError):
        flat.calls = []  # paths that do not nest as modules do: one block
        flat.nodes = [replace(node, call=-1) for node in flat.nodes]
        return _with_inputs(build_graph(flat, graph.name), graph), flat


def to_flat(graph: Graph, classes: Mapping[str, str]) -> Flat:
    """The flat program of a graph without calls; each module path is one call of a module."""
    flat = Flat(OPSET, _calls(graph, classes))
    number = {call.path: call.number for call in flat.calls}
    for value in graph.main.inputs:
        flat.add_input(value.name, value.type)
    for node in graph.main.nodes:
        scope = node.scope if node.scope in number else ""
        is_layer = bool(node.params) or not scope
        made = FlatNode(
            op=node.op,
            inputs=node.inputs,
            outputs=node.outputs,
            attrs=node.attr_map,
            types=node.types,
            call=number.get(scope, 0),
            layer=node.name if is_layer else "",
            params=node.params,
        )
        flat.types.update(zip(made.outputs, made.types, strict=True))
        flat.append(made)
    flat.outputs = list(graph.main.outputs)
    return flat


def _calls(graph: Graph, classes: Mapping[str, str]) -> list[ModuleCall]:
    """A call for each module path and each path above it, the model itself first."""
    paths: dict[str, None] = {"": None}
    for node in graph.main.nodes:
        parts = node.scope.split(".") if node.scope else []
        for i in range(1, len(parts) + 1):
            paths.setdefault(".".join(parts[:i]))
    number = {path: i for i, path in enumerate(paths)}
    calls = []
    for path, i in number.items():
        parent = number[path.rpartition(".")[0]] if path else -1
        words = [word for word in path.split(".") if not word.isdigit()]
        name = classes.get(path) or (words[-1] if words and words[-1] else "block")
        calls.append(ModuleCall(number=i, parent=parent, path=path, class_name=name))
    return calls


def _with_inputs(made: Graph, graph: Graph) -> Graph:
    """With the inputs that nothing reads, which callers pass all the same."""
    if made.main.inputs == graph.main.inputs:
        return made
    return replace(made, main=replace(made.main, inputs=graph.main.inputs))
