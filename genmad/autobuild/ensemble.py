"""Several predictors that each leave out a part of the labels, weighted by what they say of that part.

Axes: N architectures, E members, H hops with the 0-hop.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from genmad.autobuild.architecture import ArchGraph, FeatureSchema, Floats, Ints
from genmad.autobuild.autobuild_predictor import AutoBuildPredictor
from genmad.autobuild.fitting import FitSettings
from genmad.autobuild.network import HopSettings
from genmad.autobuild.predictor_files import PredictorError
from genmad.autobuild.scoring import group_folds, spearman
from genmad.autobuild.teacher import TeacherSettings
from genmad.ir import Diagnostic


@dataclass(frozen=True, kw_only=True)
class HeldOutMember:
    """One predictor of an ensemble.

    Attributes:
        predictor: trained on all folds but one.
        correlations: float64[H + 1], Spearman of each hop's norm, and of the prediction, with the labels left out.
        norm_mean, norm_std: float64[H], of the graphs it was trained on.
    """

    predictor: AutoBuildPredictor
    correlations: Floats
    norm_mean: Floats
    norm_std: Floats

    def scaled_norms(self, graphs: Sequence[ArchGraph]) -> Floats:
        """float64[N, H], in deviations of the norms it was trained on."""
        found: Floats = (self.predictor.hop_norms(graphs) - self.norm_mean) / self.norm_std
        return found


class AutoBuildEnsemble:
    """Folds times repeats predictors; hop by hop, a member counts as its rank correlation with labels it has not seen.

    A member that ranks them no better than chance counts nothing; where that are all of them, all count the same.
    """

    def __init__(
        self, schema: FeatureSchema, *, folds: int = 5, repeats: int = 1, hops: HopSettings | None = None,
        fitting: FitSettings | None = None, teaching: TeacherSettings | None = None, target: str = "target",
    ) -> None:  # fmt: skip
        """Raises `ValueError` on fewer than two folds or no repeat."""
        if folds < 2 or repeats < 1:
            raise ValueError(f"folds {folds}, repeats {repeats}: at least 2 and 1")
        self.schema, self.folds, self.repeats = schema, folds, repeats
        self.hops, self.fitting, self.teaching, self.target = hops, fitting, teaching, target
        self.members: tuple[HeldOutMember, ...] = ()

    def fit(self, graphs: Sequence[ArchGraph], targets: Floats, *, seed: int, groups: Ints | None = None) -> None:
        """Learns from float64[N] targets; rows of equal int64[N] `groups` stay in one fold.

        Raises `PredictorError` where there are fewer labels, or groups, than folds, or a target is not finite.
        """
        targets = np.asarray(targets, np.float64)
        own = np.arange(len(graphs)) if groups is None else groups
        self._check_enough(len(targets), len(np.unique(own)))
        members = []
        for repeat in range(self.repeats):
            folds = group_folds(own, self.folds, seed * 1000 + repeat)
            for fold in range(self.folds):
                number = seed * 1000 + repeat * self.folds + fold
                members.append(self._member(graphs, targets, folds == fold, number))
        self.members = tuple(members)

    def predict(self, graphs: Sequence[ArchGraph]) -> Floats:
        """float64[N], in the units of the targets."""
        said = np.stack([each.predictor.predict(graphs) for each in self._fitted()])
        found: Floats = self.weights()[:, -1] @ said
        return found

    def hop_norms(self, graphs: Sequence[ArchGraph]) -> Floats:
        """float64[N, H], standardised norms."""
        norms = np.stack([each.scaled_norms(graphs) for each in self._fitted()])
        return np.einsum("eh,enh->nh", self.weights()[:, :-1], norms)

    def weights(self) -> Floats:
        """float64[E, H + 1], the part of each member at each hop and in predictions; columns sum to 1."""
        correlations = np.stack([each.correlations for each in self._fitted()]).clip(0)
        correlations[:, correlations.sum(0) == 0] = 1.0
        found: Floats = correlations / correlations.sum(0)
        return found

    def _member(
        self, graphs: Sequence[ArchGraph], targets: Floats, left: np.ndarray[tuple[int], np.dtype[np.bool_]], seed: int
    ) -> HeldOutMember:
        kept = [graphs[i] for i in np.flatnonzero(~left).tolist()]
        out = [graphs[i] for i in np.flatnonzero(left).tolist()]
        predictor = AutoBuildPredictor(
            self.schema, hops=self.hops, fitting=self.fitting, teaching=self.teaching, target=self.target
        )
        predictor.fit(kept, targets[~left], seed=seed)
        norms = predictor.hop_norms(kept)
        said = np.column_stack([predictor.hop_norms(out), predictor.predict(out)])
        correlations = np.array([spearman(column, targets[left]) for column in said.T])
        return HeldOutMember(
            predictor=predictor, correlations=correlations, norm_mean=norms.mean(0),
            norm_std=np.maximum(norms.std(0), 1e-9),
        )  # fmt: skip

    def _fitted(self) -> tuple[HeldOutMember, ...]:
        if not self.members:
            raise PredictorError(
                Diagnostic(where="ensemble", got="one that was not trained", expected="a trained one", fix="call fit")
            )
        return self.members

    def _check_enough(self, labels: int, groups: int) -> None:
        """Every fold holds two labels, so that they have ranks."""
        if labels >= 2 * self.folds and groups >= self.folds:
            return
        got = f"{labels} labels of {groups} distinct architectures for {self.folds} folds"
        expected = f"at least {2 * self.folds} labels, and {self.folds} distinct architectures"
        most = min(labels // 2, groups)
        fix = f"use {most} folds" if most >= 2 else "label more architectures"
        raise PredictorError(Diagnostic(where="labels", got=got, expected=expected, fix=fix))
