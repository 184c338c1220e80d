"""A Gaussian process beside the network, which teaches it where labels are few.

A network cannot learn from 50 labels what a kernel with the right symmetries can, but only the network gives norms of
modules. So where the process predicts labels that it has not seen well, it has a part in predictions; and where labels
are few it labels architectures recombined from the labelled, and the network is trained on both (distillation; Hinton
et al., arXiv 1503.02531).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from genmad.autobuild.architecture import ArchGraph, FeatureSchema, Floats
from genmad.autobuild.choice_process import ChoiceProcess
from genmad.autobuild.recombination import is_chain, recombine
from genmad.autobuild.soft_rank import hard_rank, spearman

LEAST_LABELS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherSettings:
    """When and how a process helps the network.

    Attributes:
        most: labels above which there is no process, because its cost grows with their cube; 0 for none ever.
        least: rank correlation of its leave-one-out predictions below which a process is not used.
        labels: at most so many labels are few: the process then teaches.
        architectures: how many it labels.
        epochs: passes over labelled and taught together.
        share: its part in predictions; the rest is the network's.
    """

    most: int = 3000
    least: float = 0.85
    labels: int = 500
    architectures: int = 800
    epochs: int = 60
    share: float = 0.8


def fit_teacher(
    schema: FeatureSchema, graphs: Sequence[ArchGraph], targets: Floats, settings: TeacherSettings
) -> ChoiceProcess | None:
    """A process that is good enough to be used, else None; None for graphs that are no chains: it sees no edges."""
    if not LEAST_LABELS <= len(graphs) <= settings.most or np.ptp(targets) == 0:
        return None
    if not all(is_chain(graph) for graph in graphs):
        return None
    try:
        found = ChoiceProcess.fit(schema, graphs, targets)
    except ValueError:
        return None
    correlation = spearman(hard_rank(found.left_out), hard_rank(torch.from_numpy(targets)))
    return found if float(correlation) >= settings.least else None


def taught(
    teacher: ChoiceProcess, graphs: Sequence[ArchGraph], targets: Floats, settings: TeacherSettings, *, seed: int,
    unlabelled: Sequence[ArchGraph] | None = None,
) -> tuple[list[ArchGraph], Floats]:  # fmt: skip
    """The labelled, and after them `unlabelled` architectures, or recombined ones, with the teacher's labels."""
    more = recombine(graphs, settings.architectures, seed=seed) if unlabelled is None else list(unlabelled)
    if not more:
        return list(graphs), targets
    return [*graphs, *more], np.concatenate([targets, teacher.predict(more)])
