"""DELE: experts pretrained on what is known without training, then a dynamic ensemble tuned on the few labels.

Zhao et al., Dynamic Ensemble of Low-fidelity Experts: Mitigating NAS "Cold-Start", AAAI 2023, arXiv 2302.00932. An
expert is an encoder; it learns the columns of one kind (sizes, latencies, zero-cost proxies, accuracy of a short
schedule) for every architecture of the space, labelled or not. A gate that sees all experts' embeddings weighs them
for each architecture (section 3.3), and everything is tuned with a ranking loss. Here there may be such an ensemble
per architecture of experts, and predictions are averaged.
"""

# B graphs, D width, E experts; N architectures, K columns

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from genmad.autobuild.architecture import ArchGraph, FeatureSchema, Floats
from genmad.autobuild.batching import GraphBatch, collate
from genmad.autobuild.fitting import FitSettings, Network, Prediction, fit_network
from genmad.autobuild.graph_features import GraphColumns, distinct, features
from genmad.autobuild.normal_scores import NormalScores
from genmad.autobuild.peers.adjacency_attention import AttentionEncoder
from genmad.autobuild.peers.encoder import Encoder, HeadedNetwork, PeerPredictor, at_most
from genmad.autobuild.peers.gates import GatesEncoder
from genmad.autobuild.peers.gin import GinEncoder
from genmad.autobuild.peers.ta_gates import TaGatesEncoder

PRETRAINING = FitSettings(epochs=15, lr=3e-3, weight_decay=1e-4, batch_size=256, loss="mse", hop_loss="none")
MOST_PRETRAINING_STEPS = 330
MOST_GRAPHS = 8_000
"""So many graphs show what structure is."""
TUNING = FitSettings(epochs=100, lr=1e-3, weight_decay=1e-3, batch_size=64, loss="hinge", hop_loss="none")
ENCODERS: Mapping[str, Callable[[FeatureSchema, int], Encoder]] = {
    "gates": lambda schema, width: GatesEncoder(schema, width=width, layers=4),
    "gin": lambda schema, width: GinEncoder(schema, width=width),
    "ta_gates": lambda schema, width: TaGatesEncoder(schema, width=width),
    "adjacency_attention": lambda schema, width: AttentionEncoder(schema, width=width),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class CheapTask:
    """What one expert learns.

    Attributes:
        name: `proxies`, `latency`, `short` ...
        graphs: architectures for which all columns are known.
        values: float64[N, K], standardised.
    """

    name: str
    graphs: tuple[ArchGraph, ...]
    values: Floats

    def __post_init__(self) -> None:
        if self.values.ndim != 2 or len(self.values) != len(self.graphs) or not np.isfinite(self.values).all():
            raise ValueError(f"task {self.name}: {self.values.shape} values of {len(self.graphs)} graphs, all finite")


def cheap_task(name: str, graphs: Sequence[ArchGraph], columns: Sequence[Floats]) -> CheapTask:
    """A task of float64[N] columns: means over equal graphs, then normal scores; graphs that lack a column are left
    out, and so are columns that are constant.

    Raises `ValueError` where nothing remains.
    """
    unique, at = distinct(graphs)
    table = np.stack([_means(column, at, len(unique)) for column in columns], 1)
    known = np.isfinite(table).all(1)
    table = table[known]
    table = table[:, [len(np.unique(column)) > 1 for column in table.T]]
    if not table.size:
        raise ValueError(f"task {name}: no graph has all of its {len(columns)} columns, or all are constant")
    scores = np.stack([NormalScores.fit(column).score(column) for column in table.T], 1)
    kept = tuple(graph for graph, has in zip(unique, np.asarray(known), strict=True) if has)
    return CheapTask(name=name, graphs=kept, values=(scores - scores.mean(0)) / scores.std(0))


def structure_task(schema: FeatureSchema, graphs: Sequence[ArchGraph]) -> CheapTask:
    """What can be read from the graphs themselves: numbers of operations, lengths of paths, degrees."""
    unique, _ = distinct(graphs)
    unique = unique[:: -(-len(unique) // MOST_GRAPHS)]
    found = features(schema, unique)
    found = found[:, found.std(0) > 1e-9]
    if not found.size:
        raise ValueError(f"{len(unique)} graphs that all look alike teach no structure")
    return CheapTask(name="structure", graphs=tuple(unique), values=(found - found.mean(0)) / found.std(0))


def _means(column: Floats, at: np.ndarray, count: int) -> Floats:
    """Mean of the finite values of each number in `at`, NaN where there is none."""
    known = np.isfinite(column)
    sums = np.bincount(at[known], column[known], count)
    sizes = np.bincount(at[known], minlength=count)
    return np.where(sizes > 0, sums / np.maximum(sizes, 1), np.nan)


class ManyHeads(Network):
    """An encoder with a linear head per column; values [B, K]."""

    def __init__(self, encoder: Encoder, columns: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.heads = nn.Linear(encoder.width, columns)

    def forward(self, batch: GraphBatch) -> Prediction:
        return Prediction(self.heads(self.encoder(batch)))


def _many_heads(kind: str, schema: FeatureSchema, width: int, columns: int) -> ManyHeads:
    return ManyHeads(ENCODERS[kind](schema, width), columns)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertBank:
    """Experts as they are before any label is seen; make one with `pretrain`, use it for any number of fits.

    Attributes:
        tasks: names of what was learned.
        ensembles: per architecture of encoders, an encoder per task.
    """

    tasks: tuple[str, ...]
    ensembles: tuple[tuple[Encoder, ...], ...]


def pretrain(
    schema: FeatureSchema, tasks: Sequence[CheapTask], *, encoders: Sequence[str] = ("gates", "gin"), width: int = 64,
    settings: FitSettings = PRETRAINING, seed: int,
) -> ExpertBank:  # fmt: skip
    """Experts of every task, once per name in `encoders` (names may repeat). Raises `ValueError` without tasks."""
    if not tasks or not encoders:
        raise ValueError(f"{len(tasks)} tasks and {len(encoders)} encoders: expected one or more of each")
    batches = [collate(task.graphs) for task in tasks]
    ensembles = []
    for number, kind in enumerate(encoders):
        experts = []
        for task, batch in zip(tasks, batches, strict=True):
            fitted = fit_network(
                partial(_many_heads, kind, schema, width, task.values.shape[1]),
                batch, task.values, at_most(MOST_PRETRAINING_STEPS, settings, len(task.graphs)),
                seed=seed * 1009 + number,
            )  # fmt: skip
            assert isinstance(fitted.network, ManyHeads)
            experts.append(fitted.network.encoder)
        ensembles.append(tuple(experts))
    return ExpertBank(tasks=tuple(task.name for task in tasks), ensembles=tuple(ensembles))


class DynamicEnsemble(Encoder):
    """Experts whose embeddings are mixed by a gate that sees all of them."""

    def __init__(self, experts: Sequence[Encoder]) -> None:
        super().__init__()
        self.width = experts[0].width
        self.experts = nn.ModuleList(experts)
        self.gate = nn.Linear(len(experts) * self.width, len(experts))
        # Before tuning every expert has the same say.
        nn.init.zeros_(self.gate.weight)
        nn.init.zeros_(self.gate.bias)

    def forward(self, batch: GraphBatch) -> Tensor:
        found_BED = torch.stack([expert(batch) for expert in self.experts], 1)
        weights_BE = torch.softmax(self.gate(found_BED.flatten(1)), -1)
        return (weights_BE[..., None] * found_BED).sum(1)


class ExpertsPredictor(PeerPredictor):
    """Dynamic ensembles of experts; `members` of them, which take the bank's ensembles in turn."""

    settings = TUNING
    most_steps = 300

    def __init__(
        self, schema: FeatureSchema, *, bank: ExpertBank | None = None, tasks: Sequence[CheapTask] = (),
        width: int = 64, members: int = 2, settings: FitSettings | None = None, columns: GraphColumns | None = None,
    ) -> None:  # fmt: skip
        """`bank` holds experts that are trained already; else they are trained on `tasks`, or, where there are none,
        on the structure of the labelled graphs, at every fit and with its seed."""
        super().__init__(schema, width=width, members=members, settings=settings, columns=columns)
        self.bank, self.tasks = bank, tuple(tasks)
        self._used = bank

    def fit(self, graphs: Sequence[ArchGraph], targets: Floats, *, seed: int) -> None:
        self._used = self.bank
        if self._used is None:
            tasks = self.tasks or (structure_task(self.schema, graphs),)
            self._used = pretrain(self.schema, tasks, width=self.width, seed=seed)
        super().fit(graphs, targets, seed=seed)

    def network(self, _number: int) -> nn.Module:
        assert self._used is not None
        experts = copy.deepcopy(self._used.ensembles[_number % len(self._used.ensembles)])
        encoder = experts[0] if len(experts) == 1 else DynamicEnsemble(experts)
        return HeadedNetwork(encoder, self._num_columns)
