"""An architecture as predictors see it: a small graph whose nodes carry one choice per feature category.

Axes: V nodes, F feature categories, E edges, N architectures.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureSchema:
    """The feature categories that all graphs of one space share.

    Attributes:
        names: the categories, `stage`, `layer`, `kernel`, `expand`, `op` ...
        choices: the names of the values of each category.
    """

    names: tuple[str, ...]
    choices: tuple[tuple[str, ...], ...]

    def __post_init__(self) -> None:
        if len(self.names) != len(self.choices) or len(set(self.names)) != len(self.names):
            raise ValueError(f"{len(self.choices)} lists of choices for the categories {self.names}")

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of choices of each category."""
        return tuple(len(names) for names in self.choices)

    def column(self, name: str) -> int:
        """Place of a category. Raises `ValueError` on one that is not there."""
        return self.names.index(name)


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchGraph:
    """One architecture.

    Attributes:
        features: int64[V, F], a choice number per node and category of the schema; V >= 1.
        edges: int64[E, 2], (source, target) node numbers in the direction of the data, source < target: nodes stand
            in topological order.
        stages: int64[V], the stage each node belongs to, counted from 0; all 0 where a space knows no stages, -1 for
            nodes that no module holds (inputs, outputs, stems).
    """

    features: Ints
    edges: Ints
    stages: Ints

    def __post_init__(self) -> None:
        nodes = len(self.features)
        if self.features.ndim != 2 or not nodes or self.stages.shape != (nodes,):
            raise ValueError(f"features {self.features.shape}, stages {self.stages.shape}: expected [V, F] and [V]")
        if self.edges.ndim != 2 or self.edges.shape[1] != 2:
            raise ValueError(f"edges {self.edges.shape}: expected [E, 2]")
        if len(self.edges) and not (self.edges.min() >= 0 and (self.edges[:, 0] < self.edges[:, 1]).all()
                                    and self.edges.max() < nodes):  # fmt: skip
            raise ValueError(f"edges must go from lower to higher numbers of {nodes} nodes")

    @property
    def num_nodes(self) -> int:
        return len(self.features)


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledSet:
    """Architectures of one space with what was measured on them.

    Attributes:
        name: as on the command line: `nb201`, `ofa_mbv3` ...
        schema: of all graphs.
        graphs: one per row.
        groups: int64[N], equal where two rows are isomorphic or otherwise must not stand in two splits.
        targets: column -> float64[N], NaN where nothing was measured.
        texts: one per row, the space's own sequential encoding.
        lower_is_better: columns whose small values are good (losses, latencies, energies).
    """

    name: str
    schema: FeatureSchema
    graphs: tuple[ArchGraph, ...]
    groups: Ints
    targets: Mapping[str, Floats]
    texts: tuple[str, ...]
    lower_is_better: frozenset[str] = field(default_factory=frozenset)

    def __post_init__(self) -> None:
        sizes = {"groups": len(self.groups), "texts": len(self.texts)}
        sizes |= {name: len(column) for name, column in self.targets.items()}
        wrong = [f"{name} has {size}" for name, size in sizes.items() if size != len(self.graphs)]
        if wrong:
            raise ValueError(f"{len(self.graphs)} graphs, but {', '.join(wrong)}")

    def rows(self, numbers: Sequence[int] | Ints) -> "LabelledSet":
        """The rows of these numbers, in that order."""
        at = np.asarray(numbers, np.int64)
        return LabelledSet(
            name=self.name, schema=self.schema, graphs=tuple(self.graphs[i] for i in at), groups=self.groups[at],
            targets={name: column[at] for name, column in self.targets.items()},
            texts=tuple(self.texts[i] for i in at), lower_is_better=self.lower_is_better,
        )  # fmt: skip
