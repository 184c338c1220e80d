"""Modules: everything that a stage of a space may hold, enumerated, and how modules make an architecture.

A module of L layers is one choice for a whole stage ("unit" in the paper's code). An Once-for-All stage holds
9^2 + 9^3 + 9^4 = 7,371 of them; the two last stages of ProxylessNAS are one of 66,339.

Axes: M modules of a stage, P places for layers in it, C kinds of a layer, F feature categories, N nodes of all modules.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from math import prod

import numpy as np
from numpy.typing import NDArray

from genmad.autobuild.architecture import ArchGraph, FeatureSchema, Ints

Codes = NDArray[np.int8]
"""int8[M, P]: the kind of the layer at each place, -1 where there is no layer."""
MAX_MODULES = 2_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Layers in a row that choose from the same kinds.

    Attributes:
        number: what `ArchGraph.stages` says of their nodes.
        least: the fewest layers; the most are as many as `features` has places.
        kinds: names of the kinds, as they stand in the text of an architecture.
        features: int64[places, C, F], the node features of every kind at every place.
    """

    number: int
    least: int
    kinds: tuple[str, ...]
    features: Ints

    @property
    def most(self) -> int:
        return len(self.features)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One factor of a space: its modules are chosen independently of those of other stages.

    Attributes:
        name: for people.
        runs: one, or several where stages are scored as one.
        in_chain: whether each layer reads the one before; else layers stand side by side (edges into a node of a cell).
    """

    name: str
    runs: tuple[Run, ...]
    in_chain: bool = True

    @property
    def sizes(self) -> tuple[int, ...]:
        """The numbers of layers that a module may have, ascending."""
        spans = [range(run.least, run.most + 1) for run in self.runs]
        return tuple(sorted({sum(lengths) for lengths in product(*spans)}))

    @property
    def num_modules(self) -> int:
        """Exact number of modules."""
        return prod(sum(len(run.kinds) ** n for n in range(run.least, run.most + 1)) for run in self.runs)

    @property
    def places(self) -> int:
        return sum(run.most for run in self.runs)

    def hop(self, size: int) -> int:
        """The hop whose embedding of the module's root covers all of it: of a chain's last layer L - 1 hops."""
        return size - 1 if self.in_chain else 0

    def size_in(self, graph: ArchGraph) -> int:
        """How many layers this stage has in an architecture."""
        if len(self.sizes) == 1:
            return self.sizes[0]
        numbers = [run.number for run in self.runs]
        return int(np.isin(graph.stages, numbers).sum())

    def codes(self) -> Codes:
        """Every module, those of fewer layers first. Raises `ValueError` where they are too many to list."""
        if self.num_modules > MAX_MODULES:
            raise ValueError(f"{self.name}: {self.num_modules:,} modules, more than {MAX_MODULES:,}")
        blocks = []
        for lengths in product(*(range(run.least, run.most + 1) for run in self.runs)):
            blocks.append(self._block(lengths))
        found = np.concatenate(blocks)
        return found[np.argsort((found >= 0).sum(1), kind="stable")]

    def _block(self, lengths: Sequence[int]) -> Codes:
        """All modules with so many layers in each run."""
        kinds = [range(len(run.kinds)) for run, n in zip(self.runs, lengths, strict=True) for _ in range(n)]
        grid = np.stack([axis.ravel() for axis in np.meshgrid(*kinds, indexing="ij")], axis=1) if kinds else None
        out = np.full((1 if grid is None else len(grid), self.places), -1, np.int8)
        start = used = 0
        for run, n in zip(self.runs, lengths, strict=True):
            if grid is not None:
                out[:, start : start + n] = grid[:, used : used + n]
            start, used = start + run.most, used + n
        return out

    def text(self, codes: Sequence[int]) -> str:
        """Kinds of layers with spaces; runs with ` | `."""
        return " | ".join(" ".join(names) for names in self.layers(codes))

    def layers(self, codes: Sequence[int]) -> tuple[tuple[str, ...], ...]:
        """Names of the kinds of each run's layers."""
        out, start = [], 0
        for run in self.runs:
            out.append(tuple(run.kinds[c] for c in codes[start : start + run.most] if c >= 0))
            start += run.most
        return tuple(out)

    def code_of(self, text: str) -> tuple[int, ...]:
        """The codes of a text of `text`. Raises `ValueError`."""
        parts = text.split(" | ")
        if len(parts) != len(self.runs):
            raise ValueError(f"{len(parts)} runs of layers, not {len(self.runs)}")
        found: list[int] = []
        for run, part in zip(self.runs, parts, strict=True):
            names = part.split(" ")
            if not run.least <= len(names) <= run.most:
                raise ValueError(f"{len(names)} layers, not {run.least} to {run.most}")
            found += [run.kinds.index(name) for name in names] + [-1] * (run.most - len(names))
        return tuple(found)

    @property
    def table(self) -> Ints:
        """int64[P, C, F]: node features by place and kind, 0 where a run has fewer kinds."""
        widest = max(len(run.kinds) for run in self.runs)
        parts = [np.pad(run.features, ((0, 0), (0, widest - len(run.kinds)), (0, 0))) for run in self.runs]
        return np.concatenate(parts)

    def nodes(self, codes: Codes) -> tuple[Ints, Ints, Ints, Ints]:
        """Modules as graphs side by side: features int64[N, F], stages int64[N], where each begins int64[M + 1], and
        edges int64[E, 2] in node numbers of all."""
        row, place = np.nonzero(codes >= 0)
        features = self.table[place, codes[row, place]]
        number = np.concatenate([np.full(run.most, run.number, np.int64) for run in self.runs])
        start = np.concatenate([[0], np.cumsum((codes >= 0).sum(1))]).astype(np.int64)
        inner = np.flatnonzero(row[1:] == row[:-1]) if self.in_chain else np.zeros(0, np.int64)
        return features, number[place], start, np.stack([inner, inner + 1], axis=1).astype(np.int64)

    def graph(self, codes: Sequence[int]) -> ArchGraph:
        """One module alone."""
        features, stages, _, edges = self.nodes(np.array([codes], np.int8))
        return ArchGraph(features=features, edges=edges, stages=stages)


@dataclass(frozen=True, kw_only=True)
class ModuleSpace:
    """A space as a product of stages.

    Attributes:
        name: of the space.
        schema: of its graphs.
        stages: in the order of the data.
        compose: the text of the architecture with these layers: one tuple of runs per stage.
        split: the inverse: layers of each stage's runs, of a text that is a member.
    """

    name: str
    schema: FeatureSchema
    stages: tuple[Stage, ...]
    compose: Callable[[Sequence[tuple[tuple[str, ...], ...]]], str]
    split: Callable[[str], tuple[tuple[tuple[str, ...], ...], ...]]

    @property
    def num_modules(self) -> int:
        return sum(stage.num_modules for stage in self.stages)

    @property
    def size(self) -> int:
        """Exact number of architectures."""
        return prod(stage.num_modules for stage in self.stages)

    @cached_property
    def codes(self) -> tuple[Codes, ...]:
        """Every module of every stage."""
        return tuple(stage.codes() for stage in self.stages)

    def text(self, choice: Sequence[Sequence[int]]) -> str:
        """The text of the architecture made of one module per stage, given by codes."""
        return self.compose([stage.layers(codes) for stage, codes in zip(self.stages, choice, strict=True)])

    def modules_in(self, text: str) -> tuple[str, ...]:
        """The text of each stage's module in an architecture."""
        return tuple(" | ".join(" ".join(names) for names in runs) for runs in self.split(text))

    def every_text(self) -> Iterator[str]:
        """Every architecture; for spaces that are small enough to list."""
        for choice in product(*(codes.tolist() for codes in self.codes)):
            yield self.text(choice)
