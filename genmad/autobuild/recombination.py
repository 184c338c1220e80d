"""New architectures out of known ones: stages of several parents in a row, choices of others at the same place."""

from collections.abc import Sequence

import numpy as np

from genmad.autobuild.architecture import ArchGraph, Ints

MUTATION_RATE = 0.3
_Slot = tuple[int, int]


def recombine(graphs: Sequence[ArchGraph], count: int, *, seed: int) -> list[ArchGraph]:
    """`count` architectures, possibly with repeats; each choice stands where some parent has it.

    Where all graphs are chains of the same stages, each stage comes from another parent; else the edges are one
    parent's. Then choices are exchanged for those of other parents at the same place in the same stage, category by
    category; what is the same on all nodes of every parent (a bias everywhere or nowhere) stays one parent's. Nodes of
    stage -1 stay as they are.
    """
    rng = np.random.default_rng((seed, 17))
    runs = [_runs(graph) for graph in graphs]
    crossing = all(is_chain(graph) for graph in graphs) and len({tuple(names) for names, _ in runs}) == 1
    shared = _shared_categories(graphs)
    donors = _donors(graphs)
    made = []
    for _ in range(count):
        first = int(rng.integers(len(graphs)))
        graph = graphs[first]
        if crossing:
            graph = _crossed(graphs, [spans for _, spans in runs], rng)
        features = _mutated(graph, donors, ~shared, rng)
        if shared.any():
            features[:, shared] = graphs[first].features[0, shared]
        made.append(ArchGraph(features=features, edges=graph.edges, stages=graph.stages))
    return made


def is_chain(graph: ArchGraph) -> bool:
    """Whether every node reads the one before it and no other."""
    steps = np.arange(graph.num_nodes - 1)
    return len(graph.edges) == len(steps) and bool((np.sort(graph.edges[:, 0]) == steps).all()
                                                   and (graph.edges[:, 1] - graph.edges[:, 0] == 1).all())  # fmt: skip


def _runs(graph: ArchGraph) -> tuple[list[int], list[slice]]:
    """Stages in order of nodes, and the nodes of each."""
    cuts = np.flatnonzero(np.diff(graph.stages)) + 1
    starts, ends = [0, *cuts.tolist()], [*cuts.tolist(), graph.num_nodes]
    return graph.stages[starts].tolist(), [slice(a, b) for a, b in zip(starts, ends, strict=True)]


def _crossed(graphs: Sequence[ArchGraph], spans: Sequence[Sequence[slice]], rng: np.random.Generator) -> ArchGraph:
    parents = rng.integers(len(graphs), size=len(spans[0]))
    parts = [(graphs[p], spans[p][run]) for run, p in enumerate(parents.tolist())]
    stages = np.concatenate([graph.stages[span] for graph, span in parts])
    steps = np.arange(len(stages) - 1)
    return ArchGraph(
        features=np.concatenate([graph.features[span] for graph, span in parts]),
        edges=np.stack([steps, steps + 1], axis=1), stages=stages,
    )  # fmt: skip


def _shared_categories(graphs: Sequence[ArchGraph]) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """bool[F]: the categories in which every graph has one choice only, on more than one node."""
    if all(graph.num_nodes == 1 for graph in graphs):
        return np.zeros(graphs[0].features.shape[1], np.bool_)
    return np.all([(graph.features == graph.features[0]).all(0) for graph in graphs], axis=0)


def _slots(graph: ArchGraph) -> list[_Slot]:
    """Stage and place in it of every node."""
    seen: dict[int, int] = {}
    found = []
    for stage in graph.stages.tolist():
        found.append((stage, seen.get(stage, 0)))
        seen[stage] = seen.get(stage, 0) + 1
    return found


def _donors(graphs: Sequence[ArchGraph]) -> dict[_Slot, Ints]:
    """Slot -> int64[D, F], the features of all nodes that stand there."""
    rows: dict[_Slot, list[Ints]] = {}
    for graph in graphs:
        for slot, row in zip(_slots(graph), graph.features, strict=True):
            rows.setdefault(slot, []).append(row)
    return {slot: np.stack(own) for slot, own in rows.items()}


def _mutated(graph: ArchGraph, donors: dict[_Slot, Ints], free: object, rng: np.random.Generator) -> Ints:
    features = graph.features.copy()
    chosen = (rng.random(features.shape) < MUTATION_RATE) & np.asarray(free) & (graph.stages >= 0)[:, None]
    slots = _slots(graph)
    for node, category in np.argwhere(chosen).tolist():
        known = donors[slots[node]]
        features[node, category] = known[int(rng.integers(len(known))), category]
    return features
