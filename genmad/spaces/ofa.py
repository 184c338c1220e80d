"""Once-for-All spaces: MobileNetV3 and ProxylessNAS. Cai et al., ICLR 2020, arXiv 1908.09791.

A stage is two to four layers of nine kinds (kernel 3, 5 or 7, expansion 3, 4 or 6): 9^2 + 9^3 + 9^4 = 7,371 modules.
A word has four steps per stage, `-` for a layer that is not there; ProxylessNAS has a sixth stage of one layer.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from genmad.cost import cost_of
from genmad.ir import Diagnostic, Graph
from genmad.ops import OPSET
from genmad.spaces import ofa_rules
from genmad.spaces.grammar import Costs, Grammar, SpaceError, Step
from genmad.spaces.ofa_graph import MOBILENET_V3, PROXYLESS, Layer, Network, Supernet, read_stages
from genmad.spaces.space import Adjacency, LabelTable, Space, Word
from genmad.spaces.tables import find_table, json_lines

LAYERS: tuple[Layer, ...] = tuple((kernel, expand) for kernel in (3, 5, 7) for expand in (3, 4, 6))
OPS = tuple(f"k{kernel}_e{expand}" for kernel, expand in LAYERS)
NONE = len(OPS)
"""The choice of a layer that is not there."""
MODULES_PER_STAGE = 9**2 + 9**3 + 9**4
RESOLUTIONS = range(32, 513)


class OfaSpace(Space):
    """What the two spaces share.

    Attributes:
        width: multiplier of channels, a property of the supernet.
        resolution: side of the square input image in pixels, for graphs and for costs.
    """

    depth_is = "searched MBConv layers"
    source = "Cai et al., Once-for-All, ICLR 2020"
    supernet: Supernet
    tables: tuple[str, ...]

    def __init__(self, *, width: float, resolution: int = 224) -> None:
        self.width = width
        self.resolution = resolution

    @property
    def size(self) -> int:
        return MODULES_PER_STAGE**5 * (len(OPS) if self._single else 1)

    @property
    def _single(self) -> bool:
        return self.supernet.stages[-1].single

    @cached_property
    def places(self) -> tuple[tuple[int, int], ...]:
        """Stage and place in it of every step."""
        stages = enumerate(self.supernet.stages)
        return tuple((s, j) for s, stage in stages for j in range(1 if stage.single else 4))

    def grammar_for(self, metrics: tuple[str, ...]) -> Grammar:
        steps = [
            Step(name=f"stage {s + 1} layer {j + 1}", kind="op", choices=OPS if j < 2 else (*OPS, "-"))
            for s, j in self.places
        ]
        counted = bool(set(metrics) - {"depth"})
        base, table = self._layer_costs if counted else ((0, 0), {})

        def transition(t: int, state: object, choice: int) -> tuple[object, Costs] | None:
            stage, j = self.places[t]
            if choice == NONE:
                return True, (0,) * len(metrics)
            if j and state:
                return None
            params, macs = table[stage, j == 0, choice] if counted else (0, 0)
            cost = {"params": params, "macs": macs, "depth": 1}
            return False, tuple(cost[m] for m in metrics)

        known = {"params": base[0], "macs": base[1], "depth": 0}
        return Grammar.build(steps, False, transition, metrics=metrics, base=tuple(known[m] for m in metrics))

    @cached_property
    def _layer_costs(self) -> tuple[tuple[int, int], dict[tuple[int, bool, int], tuple[int, int]]]:
        """(params, MACs) without the searched layers, and of each layer by stage, first or not, and choice."""
        table: dict[tuple[int, bool, int], tuple[int, int]] = {}
        network = self.network()
        for stage, first in dict.fromkeys((s, j == 0) for s, j in self.places):
            for choice, layer in enumerate(LAYERS):
                report = cost_of(network.layer_graph(stage, layer, first=first), OPSET, {"batch": 1})
                table[stage, first, choice] = report.num_params, report.num_macs
        least = tuple(0 if j < 2 else NONE for _, j in self.places)
        rows = [table[s, j == 0, 0] for s, j in self.places if j < 2]
        params, macs = self.graph_costs(least)
        return (params - sum(r[0] for r in rows), macs - sum(r[1] for r in rows)), table

    def stages(self, word: Word) -> list[list[Layer]]:
        """Kernel and expansion of every layer, by stage."""
        found: list[list[Layer]] = [[] for _ in self.supernet.stages]
        for (stage, _), choice in zip(self.places, word, strict=True):
            if choice != NONE:
                found[stage].append(LAYERS[choice])
        return found

    def word_of(self, stages: Sequence[Sequence[Layer]]) -> Word:
        """The word of layers by stage. Raises `ValueError` on what is no member."""
        sizes = [len(stage) for stage in stages]
        good = all((1 if s.single else 2) <= n <= (1 if s.single else 4) for s, n in
                   zip(self.supernet.stages, sizes, strict=True))  # fmt: skip
        if not good:
            raise ValueError(f"stages of {sizes} layers")
        return tuple(LAYERS.index(stages[s][j]) if j < len(stages[s]) else NONE for s, j in self.places)

    def to_text(self, word: Word) -> str:
        return " | ".join(" ".join(f"k{k}_e{e}" for k, e in stage) for stage in self.stages(word))

    def from_text(self, text: str) -> Word:
        found = self.problems(text)
        if found:
            expected = f"{len(self.supernet.stages)} stages as k3_e6 k5_e4 | ..."
            raise SpaceError(Diagnostic(where=f"network {text[:200]!r}", got="; ".join(found), expected=expected))
        return self.word_of([[LAYERS[OPS.index(layer)] for layer in stage.split(" ")] for stage in text.split(" | ")])

    def problems(self, text: str) -> list[str]:
        return ofa_rules.problems(text, single=self._single)

    def adjacency(self, word: Word) -> tuple[Adjacency, ...]:
        """A chain: every layer reads the one before it."""
        ops = [f"k{k}_e{e}" for stage in self.stages(word) for k, e in stage]
        edges = tuple((i, i + 1) for i in range(len(ops) + 1))
        return (Adjacency(ops=("input", *ops, "output"), edges=edges),)

    def network(self, resolution: int | None = None) -> Network:
        """What makes the graphs. Raises `SpaceError` on a resolution out of range."""
        side = self.resolution if resolution is None else resolution
        if side not in RESOLUTIONS:
            expected = f"{RESOLUTIONS.start} to {RESOLUTIONS.stop - 1} pixels"
            raise SpaceError(Diagnostic(where=f"space {self.name}", got=f"resolution {side}", expected=expected))
        return Network(supernet=self.supernet, width=self.width, resolution=side)

    def to_graph(self, word: Word, *, resolution: int | None = None) -> Graph:
        """The network for ImageNet; `resolution` in pixels where it is not the space's own."""
        return self.network(resolution).graph(self.stages(word))

    def read_graph(self, graph: Graph) -> Word:
        return self.word_of(read_stages(graph))

    def from_graph(self, graph: Graph) -> Word:
        """The word of a graph of any resolution. Raises `SpaceError` on one that `to_graph` does not make."""
        shape = graph.main.input_types[0].shape if graph.main.inputs else ()
        side = shape[-1] if shape else None
        if side == self.resolution or side not in RESOLUTIONS:
            return super().from_graph(graph)
        other = type(self)(width=self.width, resolution=int(str(side)))
        return other.from_graph(graph)

    def read_labels(self, data: Path) -> LabelTable | None:
        """JSON Lines whose `stages` list layers as `{"kernel": k, "expand": e}`; other numbers are the columns."""
        path = find_table(data, *self.tables)
        if path is None:
            return None
        rows = list(json_lines(path))
        words = np.array([self._word_of_row(path, i, row) for i, row in enumerate(rows, 1)], np.int16)
        names = [name for name, value in (rows[0] if rows else {}).items() if isinstance(value, int | float)]
        columns = {name: np.array([_number(row.get(name)) for row in rows]) for name in names}
        return LabelTable(path=path, keys=tuple(self.keys(words)), words=words, columns=columns)

    def _word_of_row(self, path: Path, line: int, row: Mapping[str, Any]) -> Word:
        try:
            return self.word_of([[(x["kernel"], x["expand"]) for x in stage] for stage in row["stages"]])
        except (LookupError, TypeError, ValueError) as error:
            got = f"{type(error).__name__}: {error}"
            expected = f"stages of a member of {self.name}"
            raise SpaceError(Diagnostic(where=f"{path} line {line}", got=got, expected=expected)) from error


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else np.nan


class OfaMbv3(OfaSpace):
    """Labels were measured on the supernet of width 1.0; the AutoBuild paper uses the one of width 1.2."""

    name = "ofa_mbv3"
    title = "Once-for-All MobileNetV3"
    supernet = MOBILENET_V3
    tables = ("ofa_mbv3_dynast/unique_architectures.jsonl.gz", "unique_architectures.jsonl.gz",
              "autobuild_surrogates/mbv3_3k_surrogate_labelled.jsonl.gz")  # fmt: skip

    def __init__(self, *, width: float = 1.0, resolution: int = 224) -> None:
        super().__init__(width=width, resolution=resolution)


class OfaPN(OfaSpace):
    """Labels at hand are predictions, not measurements."""

    name = "ofa_pn"
    title = "Once-for-All ProxylessNAS"
    supernet = PROXYLESS
    tables = ("autobuild_surrogates/pn_3k_surrogate_labelled.jsonl.gz", "pn_3k_surrogate_labelled.jsonl.gz")

    def __init__(self, *, width: float = 1.3, resolution: int = 224) -> None:
        super().__init__(width=width, resolution=resolution)
