"""AutoBuild's predictor: its predictions, and the norms of what it sees at every hop, with which modules are scored.

Axes: N architectures, M nodes of all of them, F feature categories, D width, H hops with the 0-hop.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from genmad.autobuild.architecture import ArchGraph, FeatureSchema, Floats
from genmad.autobuild.batching import GraphBatch, collate
from genmad.autobuild.choice_process import ChoiceProcess
from genmad.autobuild.fitting import FitSettings, FittedNetwork, fit_network
from genmad.autobuild.network import HopNetwork, HopSettings
from genmad.autobuild.predictor_files import PredictorError, Stored, read_stored, write_stored
from genmad.autobuild.teacher import TeacherSettings, fit_teacher, taught
from genmad.ir import Diagnostic

CHUNK = 4096


class AutoBuildPredictor:
    """Fit it to architectures and targets of one space; all other methods then work on graphs of that space.

    A Gaussian process over the choices of nodes has a part in predictions, and where labels are few it teaches the
    network (see `teacher`), if what it says of labels it has not seen is right.
    """

    def __init__(
        self, schema: FeatureSchema, *, hops: HopSettings | None = None, fitting: FitSettings | None = None,
        teaching: TeacherSettings | None = None, target: str = "target",
    ) -> None:  # fmt: skip
        """`target` is a name for messages and the checkpoint; `teaching=TeacherSettings(most=0)` turns it off."""
        self.schema, self.target = schema, target
        self.hops = hops or HopSettings()
        self.fitting = fitting or FitSettings()
        self.teaching = teaching or TeacherSettings()
        self._fitted: FittedNetwork | None = None
        self._teacher: ChoiceProcess | None = None

    @property
    def both_ways(self) -> bool:
        """Whether messages also run against the direction of the data."""
        return self.hops.both_ways

    @property
    def network(self) -> HopNetwork:
        """The trained network; its values are standardised. Raises `PredictorError` before `fit`."""
        network = self._trained.network
        assert isinstance(network, HopNetwork)
        return network

    @property
    def teacher(self) -> ChoiceProcess | None:
        """The process beside the network; None where there is none."""
        return self._teacher

    def fit(
        self, graphs: Sequence[ArchGraph], targets: Floats, *, seed: int, unlabelled: Sequence[ArchGraph] | None = None
    ) -> None:
        """Learns from float64[N] targets. `unlabelled` architectures help where labels are few; by default they are
        recombined from the labelled.

        Raises `PredictorError` on targets that are not finite or fewer than two, and on graphs of another schema.
        """
        targets = np.asarray(targets, np.float64)
        _check_targets(targets, len(graphs), self.target)
        self._tensors(graphs)
        settings, everything, wanted = self.fitting, list(graphs), targets
        self._teacher = fit_teacher(self.schema, graphs, targets, self.teaching)
        if self._teacher is not None and len(graphs) <= self.teaching.labels:
            settings = replace(settings, epochs=min(settings.epochs, self.teaching.epochs))
            everything, wanted = taught(
                self._teacher, graphs, targets, self.teaching, seed=seed, unlabelled=unlabelled
            )  # fmt: skip
        self._fitted = fit_network(self._build, collate(everything), wanted, settings, seed=seed)

    def predict(self, graphs: Sequence[ArchGraph] | GraphBatch) -> Floats:
        """float64[N], in the units of the targets."""
        batch = self._tensors(graphs)
        said = self.network_values(batch)
        if self._teacher is None:
            return said
        share = self.teaching.share
        return np.asarray(share * self._teacher.predict(batch) + (1 - share) * said, np.float64)

    def network_values(self, graphs: Sequence[ArchGraph] | GraphBatch) -> Floats:
        """float64[N]: what the network predicts by itself, in the units of the targets."""
        return self._trained.predict(self._tensors(graphs))

    def hop_norms(self, graphs: Sequence[ArchGraph] | GraphBatch) -> Floats:
        """float64[N, H]: norms of the embeddings of whole graphs."""
        return self._trained.hop_norms(self._tensors(graphs))

    def node_norms(self, graphs: Sequence[ArchGraph] | GraphBatch) -> Floats:
        """float64[M, H], graph after graph: the norm at hop h scores the subgraph of radius h that the node is root of.

        Radius is against the direction of the data, so a root is the last node of its module.
        """
        norms = [
            torch.stack([h.norm(p=self.hops.norm, dim=-1) for h in nodes], -1) for nodes in self._node_tensors(graphs)
        ]
        return torch.cat(norms).double().numpy()

    def node_embeddings(self, graphs: Sequence[ArchGraph] | GraphBatch, hop: int) -> Floats:
        """float64[M, F or D], graph after graph."""
        return torch.cat([nodes[hop] for nodes in self._node_tensors(graphs)]).double().numpy()

    @torch.no_grad()
    def feature_scores(self) -> dict[str, dict[str, float]]:
        """Category -> choice -> its scalar in FE-MLP: what it adds to the 0-hop norm of a node."""
        table = self.network.features.table().tolist()
        return {
            name: dict(zip(choices, row, strict=False))
            for name, choices, row in zip(self.schema.names, self.schema.choices, table, strict=True)
        }

    def save_pretrained(self, folder: str | Path) -> None:
        """Weights as safetensors and config.json; files that stand there are replaced."""
        fitted = self._trained
        tensors = {f"network.{name}": value for name, value in fitted.network.state_dict().items()}
        moments = (fitted.shift, fitted.scale)
        if self._teacher is not None:
            tensors |= {f"teacher.{name}": value for name, value in self._teacher.tensors().items()}
        stored = Stored(
            schema=self.schema, target=self.target, moments=moments, hops=self.hops, fitting=self.fitting,
            teaching=self.teaching, tensors=tensors,
        )  # fmt: skip
        write_stored(Path(folder), stored)

    @classmethod
    def from_pretrained(cls, folder: str | Path, schema: FeatureSchema | None = None) -> "AutoBuildPredictor":
        """A predictor as it was saved. With `schema` one of another space is refused.

        Raises `PredictorError` where files are missing or damaged, of another version, or of another schema.
        """
        stored = read_stored(Path(folder), schema)
        made = cls(
            stored.schema, hops=stored.hops, fitting=stored.fitting, teaching=stored.teaching, target=stored.target
        )
        network = made._build()
        own = {k.removeprefix("network."): v for k, v in stored.tensors.items() if k.startswith("network.")}
        process = {k.removeprefix("teacher."): v for k, v in stored.tensors.items() if k.startswith("teacher.")}
        try:
            network.load_state_dict(own)
            made._teacher = ChoiceProcess.of_tensors(process, stored.schema) if process else None
        except (RuntimeError, KeyError) as error:
            diagnostic = Diagnostic(
                where=f"{folder}", got="weights that do not fit config.json", expected="both files of one predictor",
                fix="save the predictor again with save_pretrained",
            )  # fmt: skip
            raise PredictorError(diagnostic) from error
        shift, scale = stored.moments
        made._fitted = FittedNetwork(network=network.eval(), shift=shift, scale=scale, settings=stored.fitting)
        return made

    def _build(self) -> HopNetwork:
        return HopNetwork(self.schema, self.hops)

    @property
    def _trained(self) -> FittedNetwork:
        if self._fitted is None:
            raise PredictorError(
                Diagnostic(where="predictor", got="one that was not trained", expected="a trained one", fix="call fit")
            )
        return self._fitted

    @torch.no_grad()
    def _node_tensors(self, graphs: Sequence[ArchGraph] | GraphBatch) -> Iterator[list[torch.Tensor]]:
        whole, network = self._tensors(graphs), self.network
        for part in whole.chunks(CHUNK) if whole.num_graphs > CHUNK else [whole]:
            yield network.embeddings(part).nodes

    def _tensors(self, graphs: Sequence[ArchGraph] | GraphBatch) -> GraphBatch:
        """Graphs as tensors. Raises `PredictorError` on choices that the schema does not have."""
        width = len(self.schema.names)
        if not isinstance(graphs, GraphBatch):
            other = [row for row, graph in enumerate(graphs) if graph.features.shape[1] != width]
            if other:
                raise _outside(other, f"nodes of other categories than {', '.join(self.schema.names)}")
        batch = graphs if isinstance(graphs, GraphBatch) else collate(graphs)
        wrong = ((batch.x < 0) | (batch.x >= torch.tensor(self.schema.sizes))).any(1)
        if wrong.any():
            raise _outside(batch.batch[wrong].unique().tolist(), f"choices outside {', '.join(self.schema.names)}")
        return batch


def _outside(rows: Sequence[int], got: str) -> PredictorError:
    named = ", ".join(map(str, rows[:5])) + (f" and {len(rows) - 5} more" if len(rows) > 5 else "")
    return PredictorError(
        Diagnostic(
            where=f"architectures of rows {named}",
            got=got,
            expected="members of the space that was learned",
            fix="remove these rows, or train on their space",
        )
    )


def _check_targets(targets: Floats, count: int, name: str) -> None:
    bad = np.flatnonzero(~np.isfinite(targets)) if targets.shape == (count,) else np.zeros(0, np.int64)
    if targets.shape == (count,) and count >= 2 and not len(bad):
        return
    got = f"{targets.shape} targets of {count} architectures"
    if len(bad):
        got = f"no finite number in rows {', '.join(map(str, bad[:5]))}" + (" ..." if len(bad) > 5 else "")
    raise PredictorError(
        Diagnostic(
            where=name,
            got=got,
            expected="one finite number per architecture, two or more",
            fix="leave out what was not measured",
        )
    )
