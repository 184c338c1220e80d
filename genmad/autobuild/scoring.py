"""From labels to scores: predictors that each leave out a part of the labels, what they say of the part left out, and
the modules, features and architectures as all of them see them.

Axes: N labelled, E members of the ensemble, H hops with the 0-hop.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from genmad.autobuild.architecture import ArchGraph, FeatureSchema, Floats, Ints
from genmad.autobuild.encodings import Encoding
from genmad.autobuild.labels import LabelError, Labels
from genmad.autobuild.scores import SHIFTS, Embeds, Moments, StageScores, score_modules
from genmad.autobuild.subgraphs import RootedSubgraph, rooted_subgraphs
from genmad.ir import Diagnostic

if TYPE_CHECKING:
    from genmad.autobuild.batching import GraphBatch

# Below so many labels the moments of a stage and size are noise: module scores are then normalised.
ENOUGH_FOR_MOMENTS = 50
LEAST_LABELS = 10
# Scores of modules: two of norms, and the mean prediction of all members that hold a module, where all can be listed.
KINDS = (*SHIFTS, "context")
MOST_IN_CONTEXT = 20_000


class Scorer(Embeds, Protocol):
    """What is asked of a predictor here; `AutoBuildPredictor` is one."""

    def predict(self, graphs: "Sequence[ArchGraph] | GraphBatch") -> Floats:
        """float64[N], in the unit of the targets."""

    def hop_norms(self, graphs: Sequence[ArchGraph]) -> Floats:
        """float64[N, H]: norms of graph embeddings."""

    def feature_scores(self) -> Mapping[str, Mapping[str, float]]:
        """Category -> choice -> its part of the 0-hop norm."""

    def save_pretrained(self, folder: Path) -> None:
        """Weights and settings as files."""


MakeScorer = Callable[[FeatureSchema, Sequence[ArchGraph], Floats, int], Scorer]
"""(schema, graphs, targets, seed) -> a trained predictor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreSettings:
    """How scores are learned.

    Attributes:
        seed: of folds and predictors.
        epochs: passes over the labels.
        folds: predictors; each leaves out another fold.
        shift: `labels` (equation 5), `normalised` or `context`; None to choose by the number of labels.
    """

    seed: int = 0
    epochs: int = 200
    folds: int = 5
    shift: str | None = None


@dataclass(frozen=True, kw_only=True)
class Member:
    """One predictor of the ensemble.

    Attributes:
        predictor: trained on all folds but one.
        moments: of what it was trained on.
        correlations: float64[H + 1], Spearman of each hop's norm and of the prediction with the labels left out.
    """

    predictor: Scorer
    moments: Moments
    correlations: Floats


@dataclass(frozen=True, kw_only=True)
class Scored:
    """Everything that `genmad score` found.

    Attributes:
        labels: what was learned from.
        settings: how.
        shift: the unit of module scores that was chosen.
        members: the ensemble.
        stages: scores of all modules; empty where the space has no stages.
        subgraphs: where it has none, the rooted subgraphs that occur, each with its mean score over members.
    """

    labels: Labels
    settings: ScoreSettings
    shift: str
    members: tuple[Member, ...]
    stages: tuple[StageScores, ...]
    subgraphs: tuple[tuple[RootedSubgraph, float], ...] = ()

    def predict(self, texts: Sequence[str]) -> Floats:
        """float64[...]: the mean prediction of all members, in the unit of the target."""
        return predict_with([each.predictor for each in self.members], [self.labels.encoding.graph(t) for t in texts])

    @property
    def correlations(self) -> dict[str, tuple[float, float]]:
        """`hop 0` ... `prediction` -> mean and deviation over folds."""
        table = np.stack([each.correlations for each in self.members])
        names = [*(f"hop {h}" for h in range(table.shape[1] - 1)), "prediction"]
        means, deviations = table.mean(0).tolist(), table.std(0).tolist()
        return {name: pair for name, pair in zip(names, zip(means, deviations, strict=True), strict=True)}

    def features(self) -> dict[str, dict[str, tuple[float, float]]]:
        """Category -> choice -> mean and deviation over members, in deviations of the 0-hop norm."""
        tables = [
            {
                k: {c: v / m.moments.norm_std[0] for c, v in own.items()}
                for k, own in m.predictor.feature_scores().items()
            }
            for m in self.members
        ]
        return {
            name: {
                choice: (float(np.mean(own)), float(np.std(own)))
                for choice in choices
                for own in [[table[name][choice] for table in tables]]
            }
            for name, choices in tables[0].items()
        }


def predict_with(predictors: Sequence[Scorer], graphs: Sequence[ArchGraph]) -> Floats:
    """float64[...]: the mean prediction."""
    found: Floats = np.mean([each.predict(graphs) for each in predictors], axis=0)
    return found


def score_labels(
    labels: Labels, settings: ScoreSettings, phase: Callable[[str], None] = lambda _: None,
    make: MakeScorer | None = None,
) -> Scored:  # fmt: skip
    """Learns and scores. Raises `LabelError` on fewer labels than are needed, `ValueError` on an unknown shift."""
    if settings.shift is not None and settings.shift not in KINDS:
        raise ValueError(f"shift {settings.shift!r}: expected one of {', '.join(KINDS)}")
    check_enough(labels, settings.folds)
    if settings.shift == "context":
        check_listable(labels)
    members = train_members(labels, settings, phase, make or autobuild_scorer(settings.epochs))
    shift = settings.shift or ("labels" if len(labels.values) >= ENOUGH_FOR_MOMENTS else "normalised")
    space = labels.encoding.modules
    phase("scoring modules")
    stages: tuple[StageScores, ...] = ()
    subgraphs: tuple[tuple[RootedSubgraph, float], ...] = ()
    if space is not None and shift == "context":
        stages = score_in_context(labels.encoding, [m.predictor for m in members])
    elif space is not None:
        stages = score_modules(
            space, [m.predictor for m in members], [m.moments for m in members], shift=shift,
            hop_weights=[np.maximum(m.correlations[:-1], 0.0) for m in members],
        )  # fmt: skip
    else:
        subgraphs = tuple(_score_subgraphs(labels, members))
    return Scored(
        labels=labels, settings=settings, shift=shift, members=tuple(members), stages=stages, subgraphs=subgraphs
    )


def check_enough(labels: Labels, folds: int) -> None:
    """Raises `LabelError` where there are too few labels, or fewer distinct architectures than folds."""
    count, classes = len(labels.values), len(np.unique(labels.data.groups))
    if count < LEAST_LABELS or classes < folds:
        least = max(LEAST_LABELS, folds)
        got = f"{count} labels of {classes} distinct architectures for {folds} folds"
        fix = f"--folds {max(2, classes)}" if classes >= 2 and count >= LEAST_LABELS else f"label {least - count} more"
        raise LabelError(Diagnostic(where="labels", got=got, expected=f"at least {least}, and one per fold", fix=fix))


def check_listable(labels: Labels) -> None:
    """Raises `LabelError` where a space has too many members to predict them all."""
    modules = labels.encoding.modules
    if modules is None or modules.size > MOST_IN_CONTEXT:
        size = "no stages" if modules is None else f"{modules.size:,} members"
        got, expected = f"context for {labels.encoding.name} with {size}", f"at most {MOST_IN_CONTEXT:,} members"
        raise LabelError(Diagnostic(where="--shift", got=got, expected=expected, fix="--shift labels"))


def score_in_context(encoding: Encoding, predictors: Sequence[Scorer]) -> tuple[StageScores, ...]:
    """Modules by the mean prediction of all members that hold them: what they are worth on average, and no norm."""
    from genmad.autobuild.batching import collate

    space = encoding.modules
    assert space is not None
    batch = collate([encoding.graph(text) for text in space.every_text()])
    counts = [len(codes) for codes in space.codes]
    said = [predictor.predict(batch).reshape(counts) for predictor in predictors]
    found = []
    for number, (stage, codes) in enumerate(zip(space.stages, space.codes, strict=True)):
        others = tuple(axis for axis in range(len(counts)) if axis != number)
        members = np.stack([table.mean(axis=others) for table in said])
        found.append(StageScores(stage=stage, codes=codes, sizes=(codes >= 0).sum(1).astype(np.int64), members=members))
    return tuple(found)


def train_members(
    labels: Labels, settings: ScoreSettings, phase: Callable[[str], None], make: MakeScorer
) -> list[Member]:
    """One predictor per fold, and what it says of that fold."""
    folds = group_folds(labels.data.groups, settings.folds, settings.seed)
    data, values, members = labels.data, labels.values, []
    for number in range(settings.folds):
        phase(f"training predictor {number + 1} of {settings.folds}")
        kept, left = np.flatnonzero(folds != number), np.flatnonzero(folds == number)
        graphs = [data.graphs[i] for i in kept]
        predictor = make(data.schema, graphs, values[kept], settings.seed * 1000 + number)
        moments = Moments.of(predictor, graphs, values[kept], labels.encoding.modules)
        members.append(
            Member(predictor=predictor, moments=moments, correlations=_held_out(predictor, labels, left.tolist()))
        )
    return members


def group_folds(groups: Ints, folds: int, seed: int) -> Ints:
    """int64[N]: the fold of each row; rows of one group share theirs, folds are as even as groups allow."""
    names, counts = np.unique(groups, return_counts=True)
    order = np.random.default_rng((seed, 11)).permutation(len(names))
    order = order[np.argsort(-counts[order], kind="stable")]
    filled = np.zeros(folds, np.int64)
    fold_of = np.zeros(len(names), np.int64)
    for name in order:
        fold_of[name] = int(np.argmin(filled))
        filled[fold_of[name]] += counts[name]
    return fold_of[np.searchsorted(names, groups)]


def _held_out(predictor: Scorer, labels: Labels, rows: Sequence[int]) -> Floats:
    graphs, values = [labels.data.graphs[i] for i in rows], labels.values[list(rows)]
    table = np.column_stack([predictor.hop_norms(graphs), predictor.predict(graphs)])
    return np.array([spearman(column, values) for column in table.T])


def spearman(a: Floats, b: Floats) -> float:
    """Rank correlation with mean ranks for ties; 0 where one side is constant or there are fewer than two."""
    if len(a) < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return 0.0
    return float(np.corrcoef(_ranks(a), _ranks(b))[0, 1])


def _ranks(values: Floats) -> Floats:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    found: Floats = (last - (counts - 1) / 2)[inverse]
    return found


def _score_subgraphs(labels: Labels, members: Sequence[Member]) -> list[tuple[RootedSubgraph, float]]:
    """Distinct rooted subgraphs of the labelled, each with its standardised norm weighted by its hop, best first."""
    hops = len(members[0].moments.norm_mean) - 1
    graphs = labels.data.graphs
    found = rooted_subgraphs(labels.data.schema, graphs, hops)
    starts = np.concatenate([[0], np.cumsum([graph.num_nodes for graph in graphs])])
    at = np.array([starts[each.example[0]] + each.example[1] for each in found])
    hop = np.array([each.hop for each in found])
    total = np.zeros(len(found))
    for member in members:
        norms = member.predictor.node_norms(graphs)[at, hop]
        weight = np.maximum(member.correlations[hop], 0.0)
        total += weight * (norms - member.moments.norm_mean[hop]) / member.moments.norm_std[hop]
    total /= len(members)
    return [(found[i], float(total[i])) for i in np.argsort(-total, kind="stable")]


def autobuild_scorer(epochs: int, /, **teaching: int) -> MakeScorer:
    """Makes and trains AutoBuild's own predictor; `teaching` are settings of its teacher (`most=0`: none)."""

    def make(schema: FeatureSchema, graphs: Sequence[ArchGraph], targets: Floats, seed: int) -> Scorer:
        from genmad.autobuild.autobuild_predictor import AutoBuildPredictor
        from genmad.autobuild.fitting import FitSettings
        from genmad.autobuild.teacher import TeacherSettings

        settings = TeacherSettings(**teaching)
        predictor = AutoBuildPredictor(schema, fitting=FitSettings(epochs=epochs), teaching=settings)
        predictor.fit(graphs, targets, seed=seed)
        return predictor

    return make
