"""Node scores for Model Explorer: graphs, and the node data that colours them.

Formats of google-ai-edge/model-explorer: a graph collection (`graphs.json`, opened as a model) and custom node data by
graph and node (`model_explorer.json`, loaded on top of it).
"""

from collections.abc import Mapping, Sequence
from typing import Any

from genmad.autobuild.architecture import ArchGraph, FeatureSchema, Floats

# Hex colours are what its gradients take.
GRADIENT = ({"stop": 0, "bgColor": "#4a78b5"}, {"stop": 0.5, "bgColor": "#f2f2f2"}, {"stop": 1, "bgColor": "#d9762b"})


def graph_collection(label: str, schema: FeatureSchema, graphs: Mapping[str, ArchGraph]) -> dict[str, Any]:
    """The graphs, each node with its choices as attributes and its stage as namespace."""
    return {"label": label, "graphs": [_graph(name, schema, graph) for name, graph in graphs.items()]}


def node_data(scores: Mapping[str, Floats]) -> dict[str, Any]:
    """float64[V] per graph as node data."""
    return {
        name: {
            "results": {node_id(i): {"value": round(float(value), 6)} for i, value in enumerate(values)},
            "gradient": list(GRADIENT),
        }
        for name, values in scores.items()
    }  # fmt: skip


def node_id(number: int) -> str:
    return f"node{number}"


def _graph(name: str, schema: FeatureSchema, graph: ArchGraph) -> dict[str, Any]:
    sources: dict[int, list[int]] = {}
    for a, b in graph.edges.tolist():
        sources.setdefault(b, []).append(a)
    nodes = [
        {
            "id": node_id(i), "label": _label(schema, row), "namespace": f"stage {stage + 1}" if stage >= 0 else "",
            "attrs": [
                {"key": key, "value": schema.choices[f][choice]}
                for f, (key, choice) in enumerate(zip(schema.names, row, strict=True))
            ],
            "incomingEdges": [
                {"sourceNodeId": node_id(a), "sourceNodeOutputId": "0", "targetNodeInputId": str(k)}
                for k, a in enumerate(sources.get(i, []))
            ],
            "outputsMetadata": [{"id": "0", "attrs": []}],
        }
        for i, (row, stage) in enumerate(zip(graph.features.tolist(), graph.stages.tolist(), strict=True))
    ]  # fmt: skip
    return {"id": name, "nodes": nodes}


def _label(schema: FeatureSchema, row: Sequence[int]) -> str:
    """The choices of a node, places left out."""
    places = ("stage", "layer", "part", "edge")
    kinds = [
        f"{'' if name == 'op' else name + ' '}{schema.choices[f][choice]}"
        for f, (name, choice) in enumerate(zip(schema.names, row, strict=True))
        if name not in places
    ]
    return ", ".join(kinds)
