"""Many architectures as tensors, made once and then indexed.

Axes: B graphs, M nodes of all of them one after another, E edges, F feature categories, V nodes of the largest graph,
K numbers per graph.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from genmad.autobuild.architecture import ArchGraph, Floats

if TYPE_CHECKING:
    from torch_geometric.data import Data


class DenseGraphs(NamedTuple):
    """The same graphs padded to the largest: x int64[B, V, F] (0 where padded), adjacency float32[B, V, V] with 1 at
    [b, source, target], mask bool[B, V], stages int64[B, V] (-1 where padded)."""

    x: Tensor
    adjacency: Tensor
    mask: Tensor
    stages: Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class GraphBatch:
    """Graphs side by side, as torch-geometric lays them out: `network(batch)` reads x, edge_index and batch.

    Attributes:
        x: int64[M, F], choice numbers.
        edge_index: int64[2, E], (source, target) in node numbers of the batch, in the direction of the data.
        batch: int64[M], the graph of each node.
        ptr: int64[B + 1], where each graph's nodes begin.
        edge_ptr: int64[B + 1], where each graph's edges begin.
        stages: int64[M], stage of each node, -1 for nodes that no module holds.
        graph_features: float32[B, K], numbers of the whole graph that a network may read; K is 0 where none were given.
    """

    x: Tensor
    edge_index: Tensor
    batch: Tensor
    ptr: Tensor
    edge_ptr: Tensor
    stages: Tensor
    graph_features: Tensor

    @property
    def num_graphs(self) -> int:
        return len(self.ptr) - 1

    @property
    def positions(self) -> Tensor:
        """int64[M]: the number of each node inside its graph."""
        return torch.arange(len(self.x)) - self.ptr[self.batch]

    def rows(self, numbers: Tensor) -> "GraphBatch":
        """The graphs of these numbers, in that order; int64[...] numbers."""
        nodes, ptr = _ranges(self.ptr, numbers)
        edges, edge_ptr = _ranges(self.edge_ptr, numbers)
        shift = torch.repeat_interleave(ptr[:-1] - self.ptr[numbers], edge_ptr.diff())
        return GraphBatch(
            x=self.x[nodes], edge_index=self.edge_index[:, edges] + shift, ptr=ptr, edge_ptr=edge_ptr,
            batch=torch.repeat_interleave(torch.arange(len(numbers)), ptr.diff()), stages=self.stages[nodes],
            graph_features=self.graph_features[numbers],
        )  # fmt: skip

    def chunks(self, size: int) -> Iterator["GraphBatch"]:
        """The graphs in order, at most `size` at a time."""
        for start in range(0, self.num_graphs, size):
            yield self.rows(torch.arange(start, min(start + size, self.num_graphs)))

    def dense(self) -> DenseGraphs:
        """Padded to the largest graph, for networks that attend over all pairs of nodes."""
        at = (self.batch, self.positions)
        shape = (self.num_graphs, int(self.ptr.diff().max()))
        x = self.x.new_zeros(*shape, self.x.shape[1])
        x[at] = self.x
        adjacency = torch.zeros(*shape, shape[1])
        source, target = self.positions[self.edge_index]
        adjacency[self.batch[self.edge_index[0]], source, target] = 1.0
        mask = torch.zeros(shape, dtype=torch.bool)
        mask[at] = True
        stages = torch.full(shape, -1)
        stages[at] = self.stages
        return DenseGraphs(x, adjacency, mask, stages)


def collate(graphs: Sequence[ArchGraph], graph_features: Floats | None = None) -> GraphBatch:
    """Graphs as tensors; `graph_features` is float64[B, K].

    Raises `ValueError` where there is no graph, or not one row of features per graph.
    """
    if not graphs:
        raise ValueError("no graphs to collate")
    if graph_features is not None and len(graph_features) != len(graphs):
        raise ValueError(f"{len(graph_features)} rows of graph features for {len(graphs)} graphs")
    nodes = np.array([g.num_nodes for g in graphs], np.int64)
    edges = np.array([len(g.edges) for g in graphs], np.int64)
    ptr, edge_ptr = (np.concatenate([[0], np.cumsum(counts)]) for counts in (nodes, edges))
    links = np.concatenate([g.edges for g in graphs]) + np.repeat(ptr[:-1], edges)[:, None]
    given = np.zeros((len(graphs), 0)) if graph_features is None else graph_features
    return GraphBatch(
        x=torch.from_numpy(np.concatenate([g.features for g in graphs]).astype(np.int64)),
        edge_index=torch.from_numpy(np.ascontiguousarray(links.T.astype(np.int64))),
        batch=torch.from_numpy(np.repeat(np.arange(len(graphs)), nodes)),
        ptr=torch.from_numpy(ptr), edge_ptr=torch.from_numpy(edge_ptr),
        stages=torch.from_numpy(np.concatenate([g.stages for g in graphs]).astype(np.int64)),
        graph_features=torch.from_numpy(np.asarray(given, np.float32)),
    )  # fmt: skip


def to_geometric(graph: ArchGraph) -> "Data":
    """One architecture as torch-geometric's `Data`: x, edge_index, stages."""
    from torch_geometric.data import Data

    batch = collate([graph])
    return Data(x=batch.x, edge_index=batch.edge_index, stages=batch.stages)


def _ranges(ptr: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
    """All places of the chosen ranges one after another, and where each begins there."""
    starts = ptr[numbers]
    lengths = ptr[numbers + 1] - starts
    begin = torch.zeros(len(numbers) + 1, dtype=torch.long)
    begin[1:] = lengths.cumsum(0)
    places = torch.arange(int(begin[-1])) + torch.repeat_interleave(starts - begin[:-1], lengths)
    return places, begin
