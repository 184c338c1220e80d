"""An additive model of spaces of stages: ridge on one-hot layers, so that every module has an exact score.

Accuracy and latency of the Once-for-All spaces nearly add up over layers, and what adds up can be built stage by stage.
It is the plain peer of AutoBuild's module scores, and it sets the free number of proposed equations for what is built.

N members, T steps of a word, C choices of a step, M modules of a factor.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from genmad.autobuild.architecture import Floats
from genmad.autobuild.modules import ModuleSpace
from genmad.autobuild.proposals import Achieve
from genmad.spaces.grammar import Words
from genmad.spaces.ofa import NONE

STRENGTH = 1.0
"""Of the ridge, in rows: as much as one row of each choice."""


@dataclass(frozen=True, kw_only=True)
class AdditiveSolver:
    """What fitting any target to the same members needs, computed once.

    Attributes:
        choices: how many each step has.
        mean: float64[T * C], of the one-hot rows.
        solve: float64[T * C, N], from centred targets to weights.
    """

    choices: int
    mean: Floats
    solve: Floats

    @classmethod
    def of(cls, words: Words, *, choices: int = NONE + 1, strength: float = STRENGTH) -> "AdditiveSolver":
        rows = one_hot(words, choices)
        mean = rows.mean(0)
        centred = rows - mean
        gram = centred.T @ centred + strength * np.eye(len(mean))
        return cls(choices=choices, mean=mean, solve=np.linalg.solve(gram, centred.T))

    def fit(self, targets: Floats) -> "AdditiveModel":
        """A model of float64[N] targets."""
        shift = float(targets.mean())
        return AdditiveModel(solver=self, weights=self.solve @ (targets - shift), shift=shift)


@dataclass(frozen=True, kw_only=True)
class AdditiveModel:
    """A number per step and choice.

    Attributes:
        weights: float64[T * C].
        shift: mean of the targets.
    """

    solver: AdditiveSolver
    weights: Floats
    shift: float

    def predict(self, words: Words) -> Floats:
        """float64[N], in the unit of the targets."""
        rows = one_hot(words, self.solver.choices)
        return np.asarray(self.shift + (rows - self.solver.mean) @ self.weights)

    def module_scores(self, factors: Sequence[Words]) -> tuple[Floats, ...]:
        """For each factor int16[M, steps of it] float64[M]: what its modules add to the target."""
        table = self.weights.reshape(-1, self.solver.choices)
        found, start = [], 0
        for modules in factors:
            steps = np.arange(modules.shape[1])
            found.append(table[start + steps, modules].sum(1))
            start += modules.shape[1]
        return tuple(found)


def one_hot(words: Words, choices: int) -> Floats:
    """float64[N, T * C]."""
    return np.eye(choices)[words].reshape(len(words), -1)


def factors_of(space: ModuleSpace) -> tuple[Words, ...]:
    """Every module of every factor as steps of words, int16[M, steps of it]; a layer that is not there is the choice
    after the last kind, as in the words of `genmad.spaces.ofa`."""
    return tuple(np.where(codes < 0, _none(space), codes).astype(np.int16) for codes in space.codes)


def words_of(space: ModuleSpace, texts: Sequence[str]) -> Words:
    """int16[N, T] of architectures by their texts."""
    rows = []
    for text in texts:
        modules = zip(space.stages, space.modules_in(text), strict=True)
        rows.append([code for stage, module in modules for code in stage.code_of(module)])
    codes = np.array(rows, np.int16)
    return np.where(codes < 0, np.int16(_none(space)), codes)


def _none(space: ModuleSpace) -> int:
    return max(len(run.kinds) for stage in space.stages for run in stage.runs)


def best_modules(factors: Sequence[Words], scores: Sequence[Floats], count: int) -> tuple[Words, ...]:
    """The best `count` modules of each factor, best first, ties in the order of enumeration."""
    return tuple(
        modules[np.argsort(-score, kind="stable")[:count]] for modules, score in zip(factors, scores, strict=True)
    )


def built_by_addition(solver: AdditiveSolver, factors: Sequence[Words], quality: Floats, cost: Floats) -> Achieve:
    """An `Achieve` of what is built: the best module of every factor, its quality and cost as the model predicts them
    (cost by its logarithm, so that it stays positive)."""
    says_quality, says_cost = solver.fit(quality), solver.fit(np.log(cost))

    def achieve(targets: Floats) -> tuple[Floats, Floats]:
        scale = float(targets.std()) or 1.0
        scores = solver.fit((targets - targets.mean()) / scale).module_scores(factors)
        word = np.concatenate([modules[[np.argmax(score)]] for modules, score in zip(factors, scores, strict=True)], 1)
        return says_quality.predict(word), np.exp(says_cost.predict(word))

    return achieve
