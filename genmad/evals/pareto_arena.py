"""What the protocol `pareto` searches on: two Once-for-All spaces, three devices, and the published predictors."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from genmad.autobuild.additive import AdditiveSolver, best_modules, built_by_addition, factors_of
from genmad.autobuild.architecture import ArchGraph, Floats
from genmad.autobuild.encodings import get_encoding
from genmad.autobuild.equations import parse_equation
from genmad.autobuild.labelled import load_set
from genmad.autobuild.modules import ModuleSpace
from genmad.autobuild.pareto import accuracy_and_cost, hypervolume
from genmad.autobuild.proposals import propose_equations
from genmad.autobuild.restrictions import DEVICES
from genmad.autobuild.surrogates import PublishedPredictor, load_published
from genmad.spaces.grammar import Words
from genmad.spaces.ofa import NONE, OPS, OfaSpace
from genmad.spaces.tables import csv_rows, find_table

NAMES = ("acc", "lat")
# The legends of fig. 5 print no scaling; accuracies are fractions in the published label files.
PUBLISHED: Mapping[str, tuple[str, ...]] = {
    "gpu": ("100**acc", "100**acc/log10(lat)", "sqrt(acc) - (1/4)*sqrt(lat)", "acc/lat"),
    "cpu": ("100**acc", "acc - lat", "acc - (1/2)*sqrt(lat)", "acc/lat"),
    "npu": ("100**acc/log10(lat)", "acc - log10(lat)", "acc/lat"),
}
NUM_AIMED = 8
_FIGURE = ("autobuild_figures/fig5_mbv3_frontiers_digitised.csv", "fig5_mbv3_frontiers_digitised.csv")


@dataclass(frozen=True, kw_only=True)
class Ground:
    """One space: its labelled members and what any member is worth.

    Attributes:
        name: `mbv3` or `pn`.
        words: int16[N, T], labelled.
        graphs: theirs.
        factors: all modules, int16[M, steps] per stage or merged stages.
        largest: int16[1, T], kernel 7, expansion 6 and as many layers as there can be.
    """

    name: str
    space: OfaSpace
    modules: ModuleSpace
    oracle: Mapping[str, PublishedPredictor]
    words: Words
    graphs: tuple[ArchGraph, ...]
    acc: Floats
    latency: Mapping[str, Floats]
    factors: tuple[Words, ...]
    solver: AdditiveSolver

    @property
    def largest(self) -> Words:
        return np.full((1, self.words.shape[1]), OPS.index("k7_e6"), np.int16)

    @property
    def smallest(self) -> Words:
        """int16[1, T], kernel 3, expansion 3 and as few layers as there can be."""
        least = OPS.index("k3_e3")
        return np.array([[least if j < 2 else NONE for _, j in self.space.places]], np.int16)


def load_ground(name: str, data: Path) -> Ground:
    """Space, labels and oracle of `mbv3` or `pn`. Raises `SpaceError` where a table is missing."""
    labelled = load_set(f"ofa_{name}_surrogate", data)
    oracle = load_published(data, name)
    space = oracle["acc"].space
    modules = get_encoding(space.name).modules
    assert modules is not None
    words = np.array([space.from_text(text) for text in labelled.texts], np.int16)
    return Ground(
        name=name, space=space, modules=modules, oracle=oracle, words=words, graphs=labelled.graphs,
        acc=labelled.targets["acc_top1_frac"], factors=factors_of(modules), solver=AdditiveSolver.of(words),
        latency={device: labelled.targets[f"latency_{device}_ms"] for device in DEVICES},
    )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Learning:
    """How AutoBuild's predictors are trained here: on so many of the labelled, for so many epochs."""

    rows: int
    epochs: int
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Field:
    """One space on one device."""

    ground: Ground
    device: str

    @property
    def name(self) -> str:
        return f"{self.ground.name}_{self.device}"

    @property
    def columns(self) -> dict[str, Floats]:
        """The labels as equations read them: accuracy a fraction, latency in milliseconds."""
        return {"acc": self.ground.acc, "lat": self.ground.latency[self.device]}

    def measure(self, words: Words) -> dict[str, Floats]:
        """The same columns of any members, from the oracle."""
        oracle = self.ground.oracle
        return {"acc": oracle["acc"].predict(words), "lat": oracle[f"latency_{self.device}"].predict(words)}

    def evaluate(self, words: Words) -> Floats:
        """float64[N, 2]: latency in ms and negated accuracy in per cent, both minimised."""
        found = self.measure(words)
        return accuracy_and_cost(100 * found["acc"], found["lat"])

    def volume(self, objectives: Floats) -> float:
        """Hypervolume against the worst latency and the worst accuracy that were labelled, in units of the labels'
        spans: 1 is the rectangle of the labels; what is better than all labels can go beyond."""
        acc, lat = 100 * self.columns["acc"], self.columns["lat"]
        reference = np.array([lat.max(), -acc.min()])
        return hypervolume(objectives, reference) / float(np.ptp(acc) * np.ptp(lat))

    def targets(self, equation: str) -> Floats:
        """float64[N] of the labelled members."""
        return parse_equation(equation, NAMES).evaluate(self.columns)

    def aimed(self, count: int = NUM_AIMED) -> dict[str, float]:
        """Equations `acc - w*log(lat)` whose built networks spread over the labelled front, each with its w."""
        achieve = built_by_addition(self.ground.solver, self.ground.factors, self.columns["acc"], self.columns["lat"])
        found = [
            propose_equations(
                quality=self.columns["acc"],
                cost=self.columns["lat"],
                quantile=float(q),
                achieve=achieve,
                families=("log",),
            )[0]
            for q in np.linspace(0, 1, count)
        ]
        return {proposal.text: proposal.number for proposal in found}

    def _two(self) -> dict[str, Floats]:
        return {"quality": self.columns["acc"], "cost": self.columns["lat"]}

    def additive_tops(self, equation: str, count: int) -> tuple[Words, ...]:
        """The best modules by ridge on one-hot layers."""
        model = self.ground.solver.fit(_standardised(self.targets(equation)))
        return best_modules(self.ground.factors, model.module_scores(self.ground.factors), count)

    def autobuild_tops(self, equation: str, count: int, how: Learning) -> tuple[Words, ...]:
        """The best modules by AutoBuild's scores (equation 5), learned for this target."""
        return best_modules(self.ground.factors, module_scores(self.ground, self.targets(equation), how), count)

    def combined_tops(
        self, weights: Mapping[str, float], count: int, good: Sequence[Floats], how: Learning
    ) -> dict[str, tuple[Words, ...]]:
        """The best modules for many equations `acc - w*log(lat)` by two predictors instead of one per equation: their
        scores are in the unit of their labels, so they can be weighed against each other. `good` are those of acc."""
        slow = module_scores(self.ground, np.log(self.columns["lat"]), how)
        return {
            text: best_modules(self.ground.factors, [g - w * s for g, s in zip(good, slow, strict=True)], count)
            for text, w in weights.items()
        }


def module_scores(ground: Ground, targets: Floats, how: Learning) -> list[Floats]:
    """For each factor float64[M], in the unit of the targets."""
    from genmad.autobuild.autobuild_predictor import AutoBuildPredictor
    from genmad.autobuild.fitting import FitSettings
    from genmad.autobuild.scores import Moments, score_modules

    chosen = np.random.default_rng(how.seed).permutation(len(ground.graphs))[: how.rows]
    graphs, own = [ground.graphs[i] for i in chosen], targets[chosen]
    predictor = AutoBuildPredictor(ground.modules.schema, fitting=FitSettings(epochs=how.epochs))
    predictor.fit(graphs, own, seed=how.seed)
    moments = Moments.of(predictor, graphs, own, ground.modules)
    return [stage.score for stage in score_modules(ground.modules, [predictor], [moments])]


def _standardised(targets: Floats) -> Floats:
    return (targets - targets.mean()) / (float(targets.std()) or 1.0)


def poster_fronts(data: Path, device: str) -> dict[str, Floats]:
    """Series of the paper's fig. 5 for MobileNetV3 as objectives, read off the authors' poster; empty without the file.

    Accuracies there are measured, latencies predicted; what legends hide is missing.
    """
    path = find_table(data, *_FIGURE) if data.is_dir() else None
    if path is None:
        return {}
    rows = csv_rows(path, ("device", "series", "latency_ms", "top1_pct_running_max"))
    found: dict[str, list[Sequence[float]]] = {}
    for row in rows:
        if row["device"] == device:
            found.setdefault(row["series"], []).append((float(row["latency_ms"]), -float(row["top1_pct_running_max"])))
    return {series: np.array(points) for series, points in found.items()}
