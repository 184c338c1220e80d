"""`genmad eval predictor --protocol build`: architectures put together from modules, judged by their true rank.

NAS-Bench-Macro (6,561 networks) and NAS-Bench-201 (15,625 cells) are complete: every network that is built has a true
label and a true rank (1 is the best of all rows). A predictor learns from a few random labels; what it builds stands
beside what it would have picked had it ranked every member (`exhaustive`, possible only because the spaces are small),
beside the same construction by other module scores, the best of the labelled, and as many members drawn at random.

The Stable Diffusion protocol of the paper's section 5.3 (68 labels, 20 predictors that each leave out a fold, four
architectures built, four picked by exhaustive ranking with the same predictors) is simulated on NAS-Bench-Macro.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from genmad.autobuild.architecture import Floats, Ints, LabelledSet
from genmad.autobuild.batching import GraphBatch, collate
from genmad.autobuild.construction import top_modules
from genmad.autobuild.encodings import Encoding, get_encoding
from genmad.autobuild.labelled import load_set
from genmad.autobuild.scores import Moments, StageScores, score_modules
from genmad.autobuild.scoring import Scorer, autobuild_scorer, group_folds, spearman
from genmad.evals.report import CpuClock, EvalReport, commit, use_one_thread

# Space of modules -> (labelled set, column).
ARENAS: Mapping[str, tuple[str, str]] = {"nb_macro": ("nb_macro", "acc_pct_mean"), "nb201": ("nb201_edges", "c10_test")}
LABELS = (50, 100, 300)
SEEDS, EPOCHS = 5, 100
# Modules kept per stage, and architectures of which the best counts as `top10`.
TOP_K, EVALUATED = 3, 10
SD_LABELS, SD_FOLDS, SD_SEEDS, SD_BUILT = 68, 5, 4, 4
SD_EPOCHS = 60
# A third of the shipped default's training, so that 30 predictors are trained in minutes.
TEACHING = {"architectures": 400, "epochs": 40}
Figures = dict[str, list[float]]


def run_build(
    *, quick: bool = False, seed: int = 0, n: int | None = None, data: str | Path | None = None
) -> dict[str, Any]:
    """The report as JSON; `n` seeds, and four times as many repeats of the Stable Diffusion protocol.

    Raises `SpaceError` without the tables.
    """
    clock, threads = CpuClock(), use_one_thread()
    seeds = range(seed, seed + (n or (1 if quick else SEEDS)))
    names, labels = (("nb_macro",), LABELS[:1]) if quick else (tuple(ARENAS), LABELS)
    table: dict[str, Figures] = {}
    for name in names:
        arena = Arena.load(name, data)
        for count, number in product(labels, seeds):
            for method, figures in _trial(arena, count, number, epochs=20 if quick else EPOCHS).items():
                _gather(table.setdefault(method, {}), {f"{name}_{key}_{count}": v for key, v in figures.items()})
    repeats = range(seed * 4, seed * 4 + (1 if quick else 4 * len(seeds)))
    macro = Arena.load("nb_macro", data)
    for number in repeats:
        for method, figures in stable_diffusion_trial(macro, number, members=2 if quick else None).items():
            _gather(table.setdefault(method, {}), {f"sd_{key}": value for key, value in figures.items()})
    report = EvalReport(
        name="predictor build", commit=commit(), seed=seed, n=len(seeds), threads=threads, quick=quick,
        split=f"complete spaces {', '.join(names)}; {', '.join(map(str, labels))} random labels, {len(seeds)} seeds; "
        f"Stable Diffusion protocol on nb_macro, {len(repeats)} repeats",
        cpu_seconds=clock.seconds(), metrics=_summary(table["built"]),
        baselines={name: _summary(found) for name, found in table.items() if name != "built"},
        breakdown={"top_k": TOP_K, "methods": METHODS, "published_fid": PUBLISHED},
    )  # fmt: skip
    return report.to_json()


METHODS = {
    "built": f"top {TOP_K} modules per stage by norm (equation 5), ranked by the predictor",
    "built_by_sum": "the same modules, ranked by the sum of their scores, as in the paper's code",
    "built_in_context": f"top {TOP_K} modules by the mean prediction of all members that hold them",
    "exhaustive": "every member ranked by the same predictor",
    "labelled": "the best of the labelled",
    "random": "the best of as many random members as were labelled and evaluated",
}
# Table 1 of the paper: Frechet inception distance, lower is better.
PUBLISHED = {
    "labelled_68_mean": 22.13, "labelled_best": 10.54, "exhaustive_4_mean": 10.82, "exhaustive_4_best": 10.29,
    "autobuild_4_mean": 10.13, "autobuild_4_best": 9.96,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Arena:
    """A complete space with true labels.

    Attributes:
        encoding: with stages of modules.
        data: every member.
        values: float64[N], true labels.
    """

    encoding: Encoding
    data: LabelledSet
    values: Floats

    @classmethod
    def load(cls, name: str, data: str | Path | None) -> "Arena":
        """From the benchmark's table. Raises `SpaceError`."""
        labelled, column = ARENAS[name]
        table = load_set(labelled, data)
        return cls(encoding=get_encoding(name), data=table, values=table.targets[column])

    @cached_property
    def ranks(self) -> Ints:
        """int64[N]: 1 for the best label."""
        order = np.sort(-self.values)
        return np.searchsorted(order, -self.values, side="left") + 1

    @cached_property
    def combined(self) -> tuple[Ints, Ints]:
        """Every combination of modules, int64[N, S], and the row of the member that it makes, int64[N]."""
        space = self.encoding.modules
        assert space is not None
        row = {text: i for i, text in enumerate(self.data.texts)}
        numbers = np.array(list(product(*(range(len(codes)) for codes in space.codes))), np.int64)
        return numbers, np.array([row[text] for text in space.every_text()], np.int64)

    @cached_property
    def batch(self) -> GraphBatch:
        """Every combination of modules as tensors."""
        return collate([self.data.graphs[i] for i in self.combined[1]])

    def first_of_class(self, order: Ints, count: int) -> Ints:
        """The first `count` rows of an order of combinations, each class once."""
        rows = self.combined[1][order[: 40 * count]]
        _, first = np.unique(self.data.groups[rows], return_index=True)
        return rows[np.sort(first)][:count]


def _trial(arena: Arena, count: int, seed: int, *, epochs: int) -> dict[str, dict[str, float]]:
    """One seed: what each method ends with."""
    rng = np.random.default_rng((seed, count, 17))
    rows = rng.choice(len(arena.values), count, replace=False)
    predictor, moments = _learned(arena, rows, seed, autobuild_scorer(epochs, **TEACHING))
    space = arena.encoding.modules
    assert space is not None
    scores = score_modules(space, [predictor], [moments])
    predicted = predictor.predict(arena.batch)
    found = {
        name: arena.first_of_class(order, EVALUATED)
        for name, order in _orders(arena, scores, predicted, TOP_K)
    }  # fmt: skip
    found["labelled"] = rows[np.argsort(-arena.values[rows])][:1]
    drawn = rng.choice(len(arena.values), count + EVALUATED, replace=False)
    found["random"] = drawn[np.argsort(-arena.values[drawn])][:1]
    figures = {name: _judged(arena, best) for name, best in found.items()}
    figures["built"]["srcc_of_sums"] = spearman(_sums(arena, scores), arena.values[arena.combined[1]])
    figures["exhaustive"]["srcc"] = spearman(predicted, arena.values[arena.combined[1]])
    figures["built"]["module_srcc"] = _module_srcc(arena, [stage.score for stage in scores])
    figures["built_in_context"]["module_srcc"] = _module_srcc(arena, _in_context(arena, predicted))
    return figures


def _learned(arena: Arena, rows: Ints, seed: int, make: Callable[..., Scorer]) -> tuple[Scorer, Moments]:
    graphs, values = [arena.data.graphs[i] for i in rows], arena.values[rows]
    predictor = make(arena.data.schema, graphs, values, seed)
    return predictor, Moments.of(predictor, graphs, values, arena.encoding.modules)


def _orders(arena: Arena, scores: Sequence[StageScores], predicted: Floats, top_k: int) -> Iterator[tuple[str, Ints]]:
    """Per method the combinations that it would evaluate, best first."""
    context = _in_context(arena, predicted)
    kept = _kept(arena, [top_modules(stage, top_k) for stage in scores])
    yield "built", _ordered(predicted, kept)
    yield "built_by_sum", _ordered(_sums(arena, scores), kept)
    own = [np.argsort(-column, kind="stable")[:top_k].astype(np.int64) for column in context]
    yield "built_in_context", _ordered(predicted, _kept(arena, own))
    yield "exhaustive", _ordered(predicted, np.ones(len(predicted), np.bool_))


def _kept(arena: Arena, modules: Sequence[Ints]) -> np.ndarray:
    """bool[N]: combinations of these modules alone."""
    numbers = arena.combined[0]
    return np.all([np.isin(numbers[:, s], own) for s, own in enumerate(modules)], axis=0)


def _ordered(values: Floats, kept: np.ndarray) -> Ints:
    at = np.flatnonzero(kept)
    return at[np.argsort(-values[at], kind="stable")].astype(np.int64)


def _sums(arena: Arena, scores: Sequence[StageScores]) -> Floats:
    numbers = arena.combined[0]
    found: Floats = np.sum([stage.score[numbers[:, s]] for s, stage in enumerate(scores)], axis=0)
    return found


def _in_context(arena: Arena, values: Floats) -> list[Floats]:
    """Per stage float64[M]: the mean value of all combinations that hold each module."""
    return [np.bincount(column, weights=values) / np.bincount(column) for column in arena.combined[0].T]


def _module_srcc(arena: Arena, scores: Sequence[Floats]) -> float:
    """Mean over stages of the rank correlation of modules' scores with the mean true label of all that hold them."""
    true = _in_context(arena, arena.values[arena.combined[1]])
    return float(np.mean([spearman(own, other) for own, other in zip(scores, true, strict=True)]))


def _judged(arena: Arena, rows: Ints) -> dict[str, float]:
    """True rank of the first row and of the best of all of them, and what they lack to the best label."""
    lack = float(arena.values.max()) - arena.values[rows]
    ranks = arena.ranks[rows]
    return {"rank": float(ranks[0]), "top10": float(ranks.min()), "regret": float(lack[0]),
            "top10_regret": float(lack.min())}  # fmt: skip


def stable_diffusion_trial(arena: Arena, seed: int, *, members: int | None = None) -> dict[str, dict[str, float]]:
    """68 labels, 20 predictors: mean and best true label of four built, of four ranked first among all members, and of
    the labelled; norms are standardised, weighted by the rank correlation of their hop and added up."""
    rng = np.random.default_rng((seed, 68))
    rows = rng.choice(len(arena.values), SD_LABELS, replace=False)
    make = autobuild_scorer(SD_EPOCHS, most=0)
    predictors: list[Any] = []
    moments: list[Any] = []
    weights: list[np.ndarray] = []
    for number in range(SD_SEEDS):
        folds = group_folds(arena.data.groups[rows], SD_FOLDS, seed * SD_SEEDS + number)
        for fold in range(SD_FOLDS):
            if members is not None and len(predictors) >= members:
                break
            kept, left = rows[folds != fold], rows[folds == fold]
            predictor, own = _learned(arena, kept, seed * 100 + number * SD_FOLDS + fold, make)
            norms = predictor.hop_norms([arena.data.graphs[i] for i in left])
            weights.append(np.array([max(spearman(column, arena.values[left]), 0.0) for column in norms.T]))
            predictors.append(predictor)
            moments.append(own)
    space = arena.encoding.modules
    assert space is not None
    scores = score_modules(space, predictors, moments, shift="normalised", hop_weights=weights)
    predicted = np.mean([each.predict(arena.batch) for each in predictors], axis=0)
    found = {
        name: arena.first_of_class(order, SD_BUILT) for name, order in _orders(arena, scores, predicted, TOP_K)
    }  # fmt: skip
    found["labelled"] = rows
    found["random"] = rng.choice(len(arena.values), SD_BUILT, replace=False)
    lead = arena.values[found["exhaustive"]].mean()
    return {
        name: {
            "mean": float(arena.values[own].mean()), "best": float(arena.values[own].max()),
            "best_rank": float(arena.ranks[own].min()),
            "not_below_exhaustive": float(arena.values[own].mean() >= lead),
        }
        for name, own in found.items()
    }  # fmt: skip


def _gather(table: Figures, figures: Mapping[str, float]) -> None:
    for key, value in figures.items():
        table.setdefault(key, []).append(value)


def _summary(table: Figures) -> dict[str, float]:
    """Mean and deviation over seeds; of ranks the median too, because one bad seed decides their mean."""
    found: dict[str, float] = {}
    for key, values in table.items():
        found[key] = round(float(np.mean(values)), 4)
        found[f"{key}_std"] = round(float(np.std(values)), 4)
        if "rank" in key or "top10" in key:
            found[f"{key}_median"] = round(float(np.median(values)), 4)
    return found
