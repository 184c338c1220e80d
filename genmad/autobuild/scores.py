"""Scores of modules and nodes: the norm of a rooted subgraph's embedding at the hop that covers it (section 4.3).

Norms of different hops are not on one scale. Equation 5 moves them there: they are standardised by the moments of all
node norms of their hop, then given the moments of the labels of architectures that have so many layers in that stage.
With few labels those moments are noise; then the standardised norm alone is used, weighted by the rank correlation of
its hop on held-out labels ("normalised").

Axes: N architectures, M modules of a stage, H hops with the 0-hop, E members of an ensemble.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from genmad.autobuild.architecture import ArchGraph, Floats, Ints
from genmad.autobuild.modules import Codes, ModuleSpace, Stage

if TYPE_CHECKING:
    from genmad.autobuild.batching import GraphBatch

SHIFTS = ("labels", "normalised")
# A stage and size seen in fewer architectures than this takes the moments of all labels.
LEAST_FOR_MOMENTS = 5
_CHUNK = 16_384


class Embeds(Protocol):
    """A predictor whose nodes have embeddings at every hop.

    Attributes:
        both_ways: whether messages also run against the direction of the data.
    """

    @property
    def both_ways(self) -> bool: ...

    def node_norms(self, graphs: "Sequence[ArchGraph] | GraphBatch") -> Floats:
        """float64[nodes of all graphs, H]: norms of node embeddings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Moments:
    """What equation 5 needs of the architectures that were learned from.

    Attributes:
        norm_mean, norm_std: float64[H], of the norms of all nodes that belong to a stage.
        labels: (stage, layers) -> mean and deviation of the labels of architectures with so many layers there, and how
            many there are.
        label_mean, label_std: of all labels.
    """

    norm_mean: Floats
    norm_std: Floats
    labels: Mapping[tuple[int, int], tuple[float, float, int]]
    label_mean: float
    label_std: float

    @classmethod
    def of(cls, predictor: Embeds, graphs: Sequence[ArchGraph], values: Floats, space: ModuleSpace | None) -> "Moments":
        """The moments of labelled architectures."""
        norms = predictor.node_norms(graphs)
        inside = np.concatenate([graph.stages for graph in graphs]) >= 0
        kept = norms[inside] if inside.any() else norms
        labels: dict[tuple[int, int], tuple[float, float, int]] = {}
        for number, stage in enumerate(() if space is None else space.stages):
            sizes = np.array([stage.size_in(graph) for graph in graphs])
            for size in stage.sizes:
                own = values[sizes == size]
                if len(own) >= LEAST_FOR_MOMENTS:
                    labels[number, size] = (float(own.mean()), float(own.std()), len(own))
        return cls(
            norm_mean=kept.mean(0), norm_std=np.maximum(kept.std(0), 1e-9), labels=labels,
            label_mean=float(values.mean()), label_std=float(values.std()),
        )  # fmt: skip

    def standardised(self, norms: Floats, hop: int) -> Floats:
        """Norms of one hop in deviations from the mean of their hop."""
        found: Floats = (norms - self.norm_mean[hop]) / self.norm_std[hop]
        return found

    def shifted(self, norms: Floats, hop: int, stage: int, size: int) -> Floats:
        """Equation 5: norms of one hop in the unit of the labels."""
        mean, deviation, _ = self.labels.get((stage, size), (self.label_mean, self.label_std, 0))
        return self.standardised(norms, hop) * deviation + mean


@dataclass(frozen=True, slots=True, kw_only=True)
class StageScores:
    """Every module of a stage with its score.

    Attributes:
        stage: which.
        codes: int8[M, P].
        sizes: int64[M], numbers of layers.
        members: float64[E, M], the score that each member of the ensemble gives.
    """

    stage: Stage
    codes: Codes
    sizes: Ints
    members: Floats

    @property
    def score(self) -> Floats:
        """float64[M], the mean over members."""
        found: Floats = self.members.mean(0)
        return found

    @property
    def deviation(self) -> Floats:
        """float64[M], over members; 0 for one member."""
        found: Floats = self.members.std(0)
        return found


def score_modules(
    space: ModuleSpace, members: Sequence[Embeds], moments: Sequence[Moments], *, shift: str = "labels",
    hop_weights: Sequence[Floats] | None = None,
) -> tuple[StageScores, ...]:  # fmt: skip
    """The scores of every module of every stage.

    `shift` is `labels` (equation 5) or `normalised` (standardised norms times the member's weight of their hop).
    Raises `ValueError` on another.
    """
    if shift not in SHIFTS:
        raise ValueError(f"shift {shift!r}: expected one of {', '.join(SHIFTS)}")
    found = []
    for number, (stage, codes) in enumerate(zip(space.stages, space.codes, strict=True)):
        sizes = (codes >= 0).sum(1).astype(np.int64)
        rows = []
        for at, (member, own) in enumerate(zip(members, moments, strict=True)):
            norms = module_norms(stage, codes, member)
            score = np.empty(len(codes))
            for size in stage.sizes:
                here, hop = sizes == size, min(stage.hop(size), len(own.norm_mean) - 1)
                if shift == "labels":
                    score[here] = own.shifted(norms[here], hop, number, size)
                else:
                    weight = 1.0 if hop_weights is None else float(hop_weights[at][hop])
                    score[here] = own.standardised(norms[here], hop) * weight
            rows.append(score)
        found.append(StageScores(stage=stage, codes=codes, sizes=sizes, members=np.stack(rows)))
    return tuple(found)


def module_norms(stage: Stage, codes: Codes, predictor: Embeds) -> Floats:
    """float64[M]: the norm of each module's root at its hop; of modules without a root the mean over nodes.

    Where messages run with the data only, a layer's embedding depends on nothing behind it, so modules that begin alike
    share their first layers: 7,371 modules are 7,380 nodes instead of 28,800.
    """
    sizes = (codes >= 0).sum(1)
    hops = np.array([stage.hop(int(size)) for size in sizes])
    if stage.in_chain and not predictor.both_ways:
        batch, roots = prefix_batch(stage, codes)
        norms = predictor.node_norms(batch)
        return np.asarray(norms[roots, np.minimum(hops, norms.shape[1] - 1)])
    parts = []
    for start in range(0, len(codes), _CHUNK):
        norms = predictor.node_norms(module_batch(stage, codes[start : start + _CHUNK]))
        own = sizes[start : start + _CHUNK]
        ends = np.cumsum(own)
        if stage.in_chain:
            parts.append(norms[ends - 1, np.minimum(hops[start : start + _CHUNK], norms.shape[1] - 1)])
        else:
            parts.append(np.add.reduceat(norms[:, 0], ends - own) / own)
    return np.concatenate(parts)


def module_batch(stage: Stage, codes: Codes) -> "GraphBatch":
    """Modules side by side as tensors, without an object per module."""
    features, stages, start, edges = stage.nodes(codes)
    return _batch(features, stages, start, edges)


def prefix_batch(stage: Stage, codes: Codes) -> "tuple[GraphBatch, Ints]":
    """The tree of all beginnings of modules as one graph, and int64[M], the node at which each module ends."""
    base = np.int64(stage.table.shape[1] + 1) ** np.arange(codes.shape[1], dtype=np.int64)
    digits = (codes.astype(np.int64) + 1) * base
    here = np.cumsum(digits, axis=1)
    there = codes >= 0
    place = np.broadcast_to(np.arange(codes.shape[1]), codes.shape)[there]
    keys, first, inverse = np.unique(here[there], return_index=True, return_inverse=True)
    # Nodes in the order of places, so that edges go from lower to higher numbers.
    order = np.lexsort((keys, place[first]))
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    chosen = first[order]
    parent = (here - digits)[there][chosen]
    inner = np.flatnonzero(parent > 0)
    sources = rank[np.searchsorted(keys, parent[inner])]
    features = stage.table[place[chosen], codes[there][chosen]]
    numbers = np.concatenate([np.full(run.most, run.number, np.int64) for run in stage.runs])
    start = np.array([0, len(order)], np.int64)
    batch = _batch(features, numbers[place[chosen]], start, np.stack([sources, inner], axis=1))
    ends = np.cumsum(there.sum(1)) - 1
    return batch, rank[inverse[ends]]


def _batch(features: Ints, stages: Ints, start: Ints, edges: Ints) -> "GraphBatch":
    """Graphs that begin at `start`, edges in node numbers of all of them."""
    import torch

    from genmad.autobuild.batching import GraphBatch

    count = len(start) - 1
    owners = np.repeat(np.arange(count), np.diff(start))
    per_graph = np.bincount(owners[edges[:, 0]], minlength=count) if len(edges) else np.zeros(count, np.int64)
    return GraphBatch(
        x=torch.from_numpy(features), edge_index=torch.from_numpy(np.ascontiguousarray(edges.T)),
        batch=torch.from_numpy(owners), ptr=torch.from_numpy(start),
        edge_ptr=torch.from_numpy(np.concatenate([[0], np.cumsum(per_graph)]).astype(np.int64)),
        stages=torch.from_numpy(stages), graph_features=torch.zeros(count, 0),
    )  # fmt: skip


def node_scores(predictor: Embeds, moments: Moments, graph: ArchGraph) -> Floats:
    """float64[V, H]: the standardised norm of every node at every hop: of the subgraph that it is the root of."""
    norms = predictor.node_norms([graph])
    found: Floats = (norms - moments.norm_mean) / moments.norm_std
    return found
