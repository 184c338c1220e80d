"""The outputs of a model before and after an edit, on one random input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from genmad.inspection import graph_cost
from genmad.ir.graph import Graph

if TYPE_CHECKING:
    from genmad.session import Architecture, Edited

# Longest sequence on which outputs are compared.
MAX_COMPARED_LENGTH = 264


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Outputs before and after on one random input: largest absolute difference, largest output, sizes of the input."""

    difference: float
    scale: float
    sizes: Mapping[str, int]


def compare_outputs(before: Architecture, after: Edited) -> Comparison | None:
    """The outputs of both on one random input; None when they have other shapes."""
    import torch

    from genmad.validate.execute import random_inputs

    sizes = comparison_sizes(before.graph, after.graph, exact=not after.reasons)
    inputs = random_inputs(before.graph, sizes, 0)
    results = []
    with torch.no_grad():
        for model in (before, after):
            found = model.to_torch()(*(inputs[value.name] for value in model.graph.main.inputs))
            results.append(found if isinstance(found, (tuple, list)) else (found,))
    old, new = results
    if [t.shape for t in old] != [t.shape for t in new]:
        return None
    pairs = [(a.double(), b.double()) for a, b in zip(old, new, strict=True) if a.numel()]
    difference = max((float((a - b).nan_to_num().abs().max()) for a, b in pairs), default=0.0)
    scale = max((float(a.nan_to_num().abs().max()) for a, _ in pairs), default=0.0)
    return Comparison(difference=difference, scale=scale, sizes=sizes)


def comparison_sizes(before: Graph, after: Graph, *, exact: bool) -> dict[str, int]:
    """Small sizes; where outputs may change, a sequence longer than a new window, as far as that is cheap."""
    from genmad.validate.execute import small_sizes

    sizes = small_sizes(before, graph_cost(before)["params"])
    windows = _windows(after) - _windows(before)
    if "seq" in sizes and windows and not exact:
        needed = min(windows) + 8
        if sizes["seq"] < needed <= min([MAX_COMPARED_LENGTH, *_position_tables(before)]):
            sizes["seq"] = needed
    return sizes


def _position_tables(graph: Graph) -> list[int]:
    """How many rows the embeddings have that do not look up a model input: at most so long can a sequence be."""
    ids = {value.name for value in graph.main.inputs}
    nodes = (n for block in graph.all_blocks for n in block.nodes if n.op == "Embedding")
    return [int(n.attr_map["num_embeddings"]) for n in nodes if n.inputs[0] not in ids]


def _windows(graph: Graph) -> set[int]:
    nodes = (node for block in graph.all_blocks for node in block.nodes if node.op == "Attention")
    return {int(node.attr_map["window"]) for node in nodes if node.attr_map.get("window")}


def output_line(before: Graph, after: Graph, measured: Comparison | None, reasons: Sequence[str]) -> str:
    """Whether outputs stay as they are, measured where it could be."""
    old, new = (", ".join(map(str, graph.main.output_types)) for graph in (before, after))
    if old != new:
        return f"outputs: {old} became {new}, so they cannot be compared"
    if measured is None:
        expected = f"expected to change ({reasons[0]})" if reasons else "expected unchanged: what is new starts at zero"
        return f"outputs: {expected}; not measured"
    difference, scale = measured.difference, measured.scale
    sizes = ", ".join(f"{name} {size}" for name, size in measured.sizes.items())
    on = "on random input" + (f" at {sizes}" if sizes else "")
    if difference > 1e-5 * max(scale, 1.0):
        return f"outputs: changed by up to {difference:.3g} {on}, where the largest output is {scale:.3g}"
    if reasons:
        return f"outputs: no difference seen {on} (largest {difference:.2g}), though they may change: {reasons[0]}"
    return f"outputs: unchanged (largest difference {difference:.2g} {on})"
