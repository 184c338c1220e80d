"""Modules of spaces without stages: the rooted subgraphs that occur among architectures.

A node's embedding at hop h follows from the tree of what it reads, h levels deep, so every distinct tree is one module.
Trees are written inside out: `conv3x3(input, maxpool(input))` reads its arguments.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from genmad.autobuild.architecture import ArchGraph, FeatureSchema

MAX_TREES = 200_000


@dataclass(frozen=True, slots=True, kw_only=True)
class RootedSubgraph:
    """One distinct subgraph.

    Attributes:
        text: of its tree.
        hop: levels below the root.
        count: how many nodes are the root of one.
        example: number of an architecture and of a node in it that is such a root.
    """

    text: str
    hop: int
    count: int
    example: tuple[int, int]


def rooted_subgraphs(schema: FeatureSchema, graphs: Sequence[ArchGraph], hops: int) -> list[RootedSubgraph]:
    """Every tree of 0 to `hops` levels, in order of levels and text; beyond `MAX_TREES` of one hop, no deeper ones.

    A tree that ends before its last level is listed at the hop that covers it.
    """
    found: list[RootedSubgraph] = []
    listed: set[str] = set()
    trees = [_labels(schema, graph) for graph in graphs]
    labels = [list(each) for each in trees]
    for hop in range(hops + 1):
        if hop:
            trees = [_deeper(graph, own, below) for graph, own, below in zip(graphs, labels, trees, strict=True)]
        seen: dict[str, list[int]] = {}
        for number, (graph, texts) in enumerate(zip(graphs, trees, strict=True)):
            for node, text in enumerate(texts):
                if graph.stages[node] >= 0:
                    seen.setdefault(text, [0, number, node])[0] += 1
        found += [
            RootedSubgraph(text=text, hop=hop, count=count, example=(number, node))
            for text, (count, number, node) in sorted(seen.items())
            if text not in listed
        ]
        listed |= seen.keys()
        if len(seen) > MAX_TREES:
            break
    return found


def _labels(schema: FeatureSchema, graph: ArchGraph) -> list[str]:
    return [
        ".".join(schema.choices[f][choice] for f, choice in enumerate(row)) for row in graph.features.tolist()
    ]  # fmt: skip


def _deeper(graph: ArchGraph, own: Sequence[str], below: Sequence[str]) -> list[str]:
    """Trees one level deeper: each node with the trees of what it reads."""
    sources: dict[int, list[str]] = {}
    for a, b in graph.edges.tolist():
        sources.setdefault(b, []).append(below[a])
    return [f"{text}({', '.join(sorted(sources[i]))})" if i in sources else text for i, text in enumerate(own)]
