"""Several predictors as one: the mean of what they say, in normal scores."""

from collections.abc import Mapping, Sequence

import numpy as np

from genmad.autobuild.architecture import ArchGraph, FeatureSchema, Floats
from genmad.autobuild.graph_features import reaches_output
from genmad.autobuild.normal_scores import NormalScores
from genmad.autobuild.predictor import Predictor, make_predictor

MEMBERS = ("boosting", "feature_gp")


class Blend:
    """Every member learns the same labels; predictions are averaged as normal scores.

    Attributes:
        members: names in `PREDICTORS`; a name may stand there twice.
        settings: what each member is made with, in the same order.
    """

    def __init__(
        self, schema: FeatureSchema, *, members: Sequence[str] = MEMBERS,
        settings: Sequence[Mapping[str, object]] | None = None,
    ) -> None:  # fmt: skip
        if not members:
            raise ValueError("a blend of no predictors")
        if settings is not None and len(settings) != len(members):
            raise ValueError(f"{len(members)} members with {len(settings)} settings")
        self.schema = schema
        self.members = tuple(members)
        self.settings = tuple(dict(each) for each in settings or [{}] * len(self.members))
        self.fitted: list[Predictor] = []
        self._scores: NormalScores | None = None
        self._moments = (0.0, 1.0)

    def fit(self, graphs: Sequence[ArchGraph], targets: Floats, *, seed: int) -> None:
        """Learns from float64[N] targets, higher is better."""
        self._scores = NormalScores.fit(targets)
        pairs = zip(self.members, self.settings, strict=True)
        self.fitted = [make_predictor(name, self.schema, **settings) for name, settings in pairs]
        for member in self.fitted:
            member.fit(graphs, targets, seed=seed)
        self._moments = float(targets.mean()), float(targets.std()) or 1.0

    def predict(self, graphs: Sequence[ArchGraph]) -> Floats:
        """float64[N] in the units of the targets. Raises `RuntimeError` before `fit`.

        A member's prediction counts by its normal score among the labelled targets. Members of a ranking loss
        (`in_target_units` false) have the mean and deviation of the targets but not their law: they count as they are,
        standardised. A cell that computes a constant is predicted as the least of the targets.
        """
        if self._scores is None:
            raise RuntimeError("predict before fit")
        mean: Floats = np.mean([self._score(member, graphs) for member in self.fitted], axis=0)
        return np.where(reaches_output(self.schema, graphs), self._scores.target(mean), self._scores.levels[0])

    def _score(self, member: Predictor, graphs: Sequence[ArchGraph]) -> Floats:
        assert self._scores is not None
        said = member.predict(graphs)
        if getattr(member, "in_target_units", True):
            return self._scores.score(said)
        return (said - self._moments[0]) / self._moments[1]
