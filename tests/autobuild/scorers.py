"""A scorer whose norms are known by hand: what each node and those before it were given, added up."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from genmad.autobuild.architecture import ArchGraph, FeatureSchema, Floats


class AdditiveScorer:
    """The norm of a node at hop h is the sum of what it and the h nodes before it are worth.

    What a node is worth is `worth` of its features; a prediction is the sum over all nodes.
    """

    hops = 4

    def __init__(self, schema: FeatureSchema, worth: Any = None, *, both_ways: bool = False) -> None:
        self.schema = schema
        self.both_ways = both_ways
        self.worth = worth or (lambda features: 1.0 + features[:, -1] + 0.1 * features[:, 0])

    def node_norms(self, graphs: Any) -> Floats:
        if isinstance(graphs, Sequence):
            return np.concatenate([self._norms(graph.features, graph.edges) for graph in graphs])
        return self._norms(graphs.x.numpy(), graphs.edge_index.numpy().T)

    def _norms(self, features: np.ndarray, edges: np.ndarray) -> Floats:
        own = self.worth(features).astype(np.float64)
        columns = [own]
        for _ in range(self.hops):
            after = own.copy()
            np.add.at(after, edges[:, 1], columns[-1][edges[:, 0]])
            columns.append(after)
        return np.stack(columns, axis=1)

    def hop_norms(self, graphs: Sequence[ArchGraph]) -> Floats:
        return np.array([self.node_norms([graph]).mean(0) for graph in graphs])

    def predict(self, graphs: Any) -> Floats:
        if isinstance(graphs, Sequence):
            return np.array([self.worth(graph.features).sum() for graph in graphs])
        return np.add.reduceat(self.worth(graphs.x.numpy()), graphs.ptr.numpy()[:-1])

    def feature_scores(self) -> dict[str, dict[str, float]]:
        return {
            name: {choice: float(i) for i, choice in enumerate(choices)}
            for name, choices in zip(self.schema.names, self.schema.choices, strict=True)
        }

    def save_pretrained(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}", encoding="utf-8")
