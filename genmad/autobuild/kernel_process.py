"""A Gaussian process with the Weisfeiler-Lehman kernel of graphs.

Ru et al., Interpretable Neural Architecture Search via Bayesian Optimisation with Weisfeiler-Lehman Kernels, ICLR 2021.
Labels of nodes are refined `depth` times by the labels of what they read and of what reads them; the kernel is the
cosine of the counts of all labels up to there, linear or as the squared exponential of its distance.

N labelled, M asked, L labels.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from genmad.autobuild.architecture import ArchGraph, FeatureSchema, Floats
from genmad.autobuild.graph_features import distinct, reaches_output
from genmad.autobuild.normal_scores import NormalScores

DEPTHS = (0, 1, 2, 3)
LENGTHS = (0.0, 0.25, 0.5, 1.0, 2.0)
"""Of the squared exponential; 0 is the linear kernel."""
NOISES = (1e-3, 1e-2, 3e-2, 0.1, 0.3)
Counts = Counter[tuple[int, int]]


def wl_labels(graph: ArchGraph, depth: int) -> Counts:
    """How often each (round, label) stands in a graph; labels are hashes of whole numbers, the same in every run."""
    readers: list[list[int]] = [[] for _ in range(graph.num_nodes)]
    sources: list[list[int]] = [[] for _ in range(graph.num_nodes)]
    for a, b in graph.edges.tolist():
        readers[a].append(b)
        sources[b].append(a)
    labels = [hash(tuple(row)) for row in graph.features.tolist()]
    counts: Counts = Counter((0, label) for label in labels)
    for turn in range(1, depth + 1):
        labels = [
            hash((label, tuple(sorted(labels[a] for a in sources[v])), tuple(sorted(labels[b] for b in readers[v]))))
            for v, label in enumerate(labels)
        ]
        counts.update((turn, label) for label in labels)
    return counts


class WLProcess:
    """The process; depth, kernel and noise are those of the greatest marginal likelihood on a small grid.

    Attributes:
        settings: (depth, length, share of noise) that were found.
    """

    def __init__(self, schema: FeatureSchema, *, depths: Sequence[int] = DEPTHS) -> None:
        self.schema = schema
        self.depths = tuple(depths)
        self.settings: tuple[int, float, float] | None = None
        self._scores: NormalScores | None = None
        self._labels: dict[tuple[int, int], int] = {}
        self._known: Floats = np.zeros((0, 0))
        self._weights: Floats = np.zeros(0)

    def fit(self, graphs: Sequence[ArchGraph], targets: Floats, *, seed: int = 0) -> None:
        """Learns from float64[N] targets; nothing here is random."""
        del seed
        self._scores = NormalScores.fit(targets)
        y = self._scores.score(targets)
        counts = [wl_labels(graph, max(self.depths)) for graph in graphs]
        self._labels = {label: i for i, label in enumerate(dict.fromkeys(label for c in counts for label in c))}
        best = -np.inf
        for depth in self.depths:
            known = self._cosines(counts, depth)
            alike = known @ known.T
            for length in LENGTHS:
                for noise in NOISES:
                    found, weights = evidence(_kernel(alike, length), y, noise)
                    if found > best:
                        best, self.settings, self._weights, self._known = (
                            found,
                            (depth, length, noise),
                            weights,
                            known,
                        )

    def predict(self, graphs: Sequence[ArchGraph]) -> Floats:
        """float64[M] in the units of the targets. Raises `RuntimeError` before `fit`."""
        if self._scores is None or self.settings is None:
            raise RuntimeError("predict before fit")
        depth, length, _ = self.settings
        unique, at = distinct(graphs)
        asked = self._cosines([wl_labels(graph, depth) for graph in unique], depth)
        mean = self._scores.target(_kernel(asked @ self._known.T, length) @ self._weights)
        return np.where(reaches_output(self.schema, graphs), mean[at], self._scores.levels[0])

    def _cosines(self, counts: Sequence[Counts], depth: int) -> Floats:
        """float64[M, L]: counts of the labels known from `fit`, over the length of all counts."""
        out = np.zeros((len(counts), len(self._labels)))
        for i, found in enumerate(counts):
            kept = {label: count for label, count in found.items() if label[0] <= depth}
            total = np.sqrt(sum(count * count for count in kept.values()))
            for label, count in kept.items():
                if label in self._labels:
                    out[i, self._labels[label]] = count / total
        return out


def _kernel(alike: Floats, length: float) -> Floats:
    """float64[N, M] of cosines; the squared distance of two unit vectors is 2 - 2 cos."""
    if not length:
        return alike
    out: Floats = np.exp((alike - 1.0) / length**2)
    return out


def evidence(kernel: Floats, y: Floats, noise: float) -> tuple[float, Floats]:
    """Log marginal likelihood at the best scale, without its constant (Rasmussen and Williams, 2006, equation 5.8),
    and the weights float64[N] of the mean."""
    n = len(y)
    lower = np.linalg.cholesky(kernel + (noise + 1e-8) * np.eye(n))
    half = np.linalg.solve(lower, y)
    evidence = -0.5 * n * np.log(max(float(half @ half) / n, 1e-12)) - float(np.log(np.diag(lower)).sum())
    return evidence, np.linalg.solve(lower.T, half)
