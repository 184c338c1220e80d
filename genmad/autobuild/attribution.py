"""Other ways to say how much a node counts, to set AutoBuild's node scores beside.

Each gives a number per node of a batch. Two explain a trained network (integrated gradients, GNNExplainer); two read
the labels directly (linear weights of Weisfeiler-Lehman subtrees, mean labels per choice).

Axes: M nodes of a batch, N labelled architectures, F feature categories, K distinct subtrees.
"""

import copy
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from genmad.autobuild.architecture import ArchGraph, Floats
from genmad.autobuild.batching import GraphBatch, collate
from genmad.autobuild.network import HopNetwork

DEPTH = 2
"""Levels of the subtrees: more are rarely seen twice among some hundred architectures."""
LEARNING_RATE = 0.1
"""Of masks: with the 0.01 of the paper they have hardly moved after 100 steps."""
_STRENGTHS = np.logspace(-2, 4, 25)


class FromEmbeddings(nn.Module):
    """A network as a function of its 0-hop node embeddings [M, F]: choices have no gradient, these have."""

    def __init__(self, network: HopNetwork) -> None:
        super().__init__()
        self.rest = copy.deepcopy(network)
        self.rest.features = cast(nn.Module, nn.Identity())  # type: ignore[assignment]

    def forward(self, embeddings: Tensor, edge_index: Tensor, batch: GraphBatch) -> Tensor:
        """Predictions [B]. torch-geometric's explainers pass `edge_index`; it must be that of the batch."""
        del edge_index
        values: Tensor = self.rest(replace(batch, x=embeddings)).values
        return values


def mean_embedding(network: HopNetwork, graphs: Sequence[ArchGraph]) -> Tensor:
    """The 0-hop embedding [F] of the average node of these graphs: where integrated gradients start."""
    with torch.no_grad():
        return network.features(collate(graphs).x).mean(0)


def integrated_gradients(network: HopNetwork, batch: GraphBatch, start: Tensor, *, steps: int = 32) -> Floats:
    """float64[M]: (h - start) times the mean gradient on the straight way from `start` to the 0-hop embedding h.

    Summed over a graph they are its prediction minus that of a graph of average nodes. Sundararajan et al., Axiomatic
    Attribution for Deep Networks, ICML 2017, arXiv 1703.01365, eq. 1; midpoints of `steps` intervals.
    """
    model = FromEmbeddings(network).eval()
    with torch.no_grad():
        whole = network.features(batch.x) - start
    total = torch.zeros_like(whole)
    for step in range(steps):
        at = (start + whole * ((step + 0.5) / steps)).requires_grad_()
        (gradient,) = torch.autograd.grad(model(at, batch.edge_index, batch).sum(), at)
        total += gradient
    return (whole * total / steps).sum(1).double().numpy()


def gnn_explainer(network: HopNetwork, batch: GraphBatch, *, epochs: int = 60, seed: int = 0) -> Floats:
    """float64[M] between 0 and 1: the mask over nodes that keeps the predictions with as little of a graph as may be.

    Ying et al., GNNExplainer, NeurIPS 2019, arXiv 1903.03894, as torch-geometric has it, all graphs of the batch at
    once. A mask says that a node matters, not whether it is good.
    """
    from torch_geometric.explain import Explainer, GNNExplainer
    from torch_geometric.explain.config import ModelConfig, ModelMode, ModelTaskLevel

    explainer = Explainer(
        model=FromEmbeddings(network).eval(), algorithm=GNNExplainer(epochs=epochs, lr=LEARNING_RATE),
        explanation_type="model", node_mask_type="object",
        model_config=ModelConfig(mode=ModelMode.regression, task_level=ModelTaskLevel.graph, return_type="raw"),
    )  # fmt: skip
    with torch.no_grad():
        embeddings = network.features(batch.x)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        found = explainer(embeddings, batch.edge_index, batch=batch)
    return found.node_mask.squeeze(-1).double().numpy()


def subtree_labels(graph: ArchGraph, depth: int = DEPTH) -> list[list[str]]:
    """For each level from 0 the label of every node: its choices and the sorted labels of what it reads, so deep.

    Shervashidze et al., Weisfeiler-Lehman Graph Kernels, JMLR 12, 2011.
    """
    sources: list[list[int]] = [[] for _ in range(graph.num_nodes)]
    for a, b in graph.edges.tolist():
        sources[b].append(a)
    own = [",".join(map(str, row)) for row in graph.features.tolist()]
    levels = [own]
    for _ in range(depth):
        last = levels[-1]
        below = [f"{own[v]}({';'.join(sorted(last[a] for a in sources[v]))})" for v in range(graph.num_nodes)]
        levels.append([hashlib.blake2b(text.encode(), digest_size=8).hexdigest() for text in below])
    return levels


@dataclass(frozen=True, slots=True, kw_only=True)
class SubtreeWeights:
    """Ridge regression on how often each subtree occurs.

    Attributes:
        weights: (level, label) -> what one more such subtree adds to the target.
        mean: of the targets.
        offset: what the labelled architectures' mean counts give.
        depth: levels.
    """

    weights: Mapping[tuple[int, str], float]
    mean: float
    offset: float
    depth: int

    @classmethod
    def fit(cls, graphs: Sequence[ArchGraph], targets: Floats, depth: int = DEPTH) -> "SubtreeWeights":
        """Learns from float64[N] targets; the strength is that of the least leave-one-out error."""
        found = [_counted(graph, depth) for graph in graphs]
        keys = sorted({key for counts in found for key in counts})
        column = {key: i for i, key in enumerate(keys)}
        x_NK = np.zeros((len(graphs), len(keys)))
        for row, counts in enumerate(found):
            for key, count in counts.items():
                x_NK[row, column[key]] = count
        middle = x_NK.mean(0)
        weights = _ridge(x_NK - middle, targets - targets.mean())
        return cls(
            weights=dict(zip(keys, weights.tolist(), strict=True)), mean=float(targets.mean()),
            offset=float(middle @ weights), depth=depth,
        )  # fmt: skip

    def nodes(self, graphs: Sequence[ArchGraph]) -> Floats:
        """float64[M]: the sum over levels of the weights of the subtrees that each node is the root of; 0 if unseen."""
        out = []
        for graph in graphs:
            levels = subtree_labels(graph, self.depth)
            out += [
                sum(self.weights.get((level, labels[v]), 0.0) for level, labels in enumerate(levels))
                for v in range(graph.num_nodes)
            ]
        return np.array(out)

    def predict(self, graphs: Sequence[ArchGraph]) -> Floats:
        """float64[N]: the sum over nodes."""
        values = self.nodes(graphs)
        starts = np.cumsum([0, *(graph.num_nodes for graph in graphs)])[:-1]
        found: Floats = np.add.reduceat(values, starts) - self.offset + self.mean
        return found


def choice_means(graphs: Sequence[ArchGraph], targets: Floats) -> Mapping[tuple[int, ...], float]:
    """Features of a node -> mean target of the architectures that have such a node: the plainest score there is."""
    values: dict[tuple[int, ...], list[float]] = {}
    for graph, target in zip(graphs, targets.tolist(), strict=True):
        for row in {tuple(row) for row in graph.features.tolist()}:
            values.setdefault(row, []).append(target)
    return {row: float(np.mean(own)) for row, own in values.items()}


def _counted(graph: ArchGraph, depth: int) -> dict[tuple[int, str], int]:
    counts: dict[tuple[int, str], int] = {}
    for level, labels in enumerate(subtree_labels(graph, depth)):
        for label in labels:
            counts[level, label] = counts.get((level, label), 0) + 1
    return counts


def _ridge(x_NK: Floats, y: Floats) -> Floats:
    """float64[K]: (X'X + s)^-1 X'y through the N x N kernel, with the s of the least leave-one-out error (PRESS)."""
    values, vectors = np.linalg.eigh(x_NK @ x_NK.T)
    inside = vectors.T @ y
    best, kept = np.inf, np.zeros(len(y))
    for strength in _STRENGTHS:
        inverse = 1 / (values.clip(0) + strength)
        dual = vectors @ (inverse * inside)
        error = float(((dual / ((vectors**2) @ inverse)) ** 2).mean())
        if error < best:
            best, kept = error, dual
    found: Floats = x_NK.T @ kept
    return found
