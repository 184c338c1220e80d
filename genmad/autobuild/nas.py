"""Multi-objective evolution over Once-for-All spaces with a budget of evaluations, as in fig. 5 of the AutoBuild paper.

The published settings: 50 random members, then four generations of 50, each made by mutating every member of the front
in turn; nothing is evaluated twice. What differs between the searches is what is drawn and how it is mutated:

- Layer-Full: layers of a stage are added, removed or exchanged, in the whole space.
- Layer-Insight: the same inside a published restriction (`restrictions.insight`).
- Stage-Full: whole stages are exchanged, for any of all their modules.
- AutoBuild-NAS: whole stages are exchanged, for the modules that scored best.

T steps of a word, N members.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from genmad.autobuild.architecture import Floats
from genmad.autobuild.pareto import front
from genmad.autobuild.restrictions import Restriction
from genmad.spaces.grammar import Words
from genmad.spaces.ofa import NONE, OfaSpace

Evaluate = Callable[[Words], Floats]
"""Words int16[N, T] -> objectives float64[N, K], all minimised."""
BUDGET = 250
GENERATION = 50
STAGE_RATE = 0.5
_PASSES = 200


class Proposer(Protocol):
    """What a search draws from."""

    def sample(self, rng: np.random.Generator, count: int) -> Words:
        """Independent draws."""

    def mutate(self, words: Words, rng: np.random.Generator) -> Words:
        """One mutation of each."""


@dataclass(frozen=True, kw_only=True)
class LayerProposer:
    """Adds, removes and exchanges single layers; depths of a stage are drawn uniformly, layers too."""

    space: OfaSpace
    restriction: Restriction

    def sample(self, rng: np.random.Generator, count: int) -> Words:
        return np.array([self._word([self._stage(s, rng) for s in range(len(self._least))]) for _ in range(count)],
                        np.int16)  # fmt: skip

    def mutate(self, words: Words, rng: np.random.Generator) -> Words:
        return np.array([self._word(self._child(self._stages(word), rng)) for word in words.tolist()], np.int16)

    @property
    def _least(self) -> tuple[int, ...]:
        return tuple(1 if stage.single else 2 for stage in self.space.supernet.stages)

    def _stage(self, stage: int, rng: np.random.Generator) -> list[int]:
        depth = int(rng.integers(self._least[stage], self.restriction.most[stage] + 1))
        return rng.choice(self.restriction.layers[stage], depth).tolist()

    def _stages(self, word: Sequence[int]) -> list[list[int]]:
        found: list[list[int]] = [[] for _ in self._least]
        for (stage, _), choice in zip(self.space.places, word, strict=True):
            if choice != NONE:
                found[stage].append(choice)
        return found

    def _word(self, stages: Sequence[Sequence[int]]) -> list[int]:
        return [stages[s][j] if j < len(stages[s]) else NONE for s, j in self.space.places]

    def _child(self, stages: list[list[int]], rng: np.random.Generator) -> list[list[int]]:
        """At least one stage is touched, each with the rate of the restriction."""
        touched = rng.random(len(stages)) < self.restriction.rates
        while not touched.any():
            touched = rng.random(len(stages)) < self.restriction.rates
        return [self._changed(s, layers, rng) if touched[s] else layers for s, layers in enumerate(stages)]

    def _changed(self, stage: int, layers: list[int], rng: np.random.Generator) -> list[int]:
        kinds = ["swap"]
        kinds += ["add"] if len(layers) < self.restriction.most[stage] else []
        kinds += ["remove"] if len(layers) > self._least[stage] else []
        kind, allowed = kinds[int(rng.integers(len(kinds)))], self.restriction.layers[stage]
        at = int(rng.integers(len(layers) + (kind == "add")))
        if kind == "remove":
            return layers[:at] + layers[at + 1 :]
        others = [choice for choice in allowed if kind == "add" or choice != layers[at]]
        new = int(rng.choice(others)) if others else layers[at]
        return [*layers[:at], new, *layers[at + (kind == "swap") :]]


@dataclass(frozen=True, kw_only=True)
class ModuleProposer:
    """Exchanges whole stages, or stages that are one module.

    Attributes:
        modules: for each factor of the space, in the order of the steps, int16[M, steps of it].
        rate: the chance that a mutation exchanges a factor.
        sets: where modules come from several equations, the modules of each: members are then drawn within one of
            them, each in turn, and mixed by mutations only. Empty: drawn from all modules, as published.
    """

    modules: tuple[Words, ...]
    rate: float = STAGE_RATE
    sets: tuple[tuple[Words, ...], ...] = ()

    @classmethod
    def of_sets(cls, sets: Sequence[tuple[Words, ...]], *, apart: bool, rate: float = STAGE_RATE) -> "ModuleProposer":
        """The union of the modules of several equations, first drawn `apart` or not."""
        union = tuple(np.unique(np.concatenate(factor), axis=0) for factor in zip(*sets, strict=True))
        return cls(modules=union, rate=rate, sets=tuple(sets) if apart else ())

    @property
    def size(self) -> int:
        """Exact number of members."""
        size = 1
        for each in self.modules:
            size *= len(each)
        return size

    def members(self) -> Words:
        """Every member, int16[size, T]; for products that are small enough to list."""
        grid = np.meshgrid(*(np.arange(len(each)) for each in self.modules), indexing="ij")
        return np.concatenate([each[at.ravel()] for each, at in zip(self.modules, grid, strict=True)], axis=1)

    def sample(self, rng: np.random.Generator, count: int) -> Words:
        if not self.sets:
            return _product_draws(self.modules, rng, count)
        each = -(-count // len(self.sets))
        drawn = np.stack([_product_draws(modules, rng, each) for modules in self.sets], axis=1)
        return drawn.reshape(-1, drawn.shape[-1])[:count]

    def mutate(self, words: Words, rng: np.random.Generator) -> Words:
        count, factors = len(words), len(self.modules)
        touched = rng.random((count, factors)) < self.rate
        while not touched.any(1).all():
            none = ~touched.any(1)
            touched[none] = rng.random((int(none.sum()), factors)) < self.rate
        widths = [each.shape[1] for each in self.modules]
        drawn = _product_draws(self.modules, rng, count)
        return np.where(np.repeat(touched, widths, axis=1), drawn, words).astype(np.int16)


def _product_draws(modules: Sequence[Words], rng: np.random.Generator, count: int) -> Words:
    """int16[count, T]: one module of each factor, independently."""
    return np.concatenate([each[rng.integers(len(each), size=count)] for each in modules], axis=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Searched:
    """What a search evaluated, in order.

    Attributes:
        words: int16[N, T], all different.
        objectives: float64[N, K], minimised.
    """

    words: Words
    objectives: Floats

    def front(self) -> "Searched":
        """The members of the front, ascending by the first objective."""
        rows = front(self.objectives)
        return Searched(words=self.words[rows], objectives=self.objectives[rows])


def pareto_search(
    proposer: Proposer, evaluate: Evaluate, *, rng: np.random.Generator, budget: int = BUDGET,
    generation: int = GENERATION,
) -> Searched:  # fmt: skip
    """Evolution; it ends early where the proposer has nothing new."""
    words = _new(_draws(proposer, generation, rng), set(), min(generation, budget))
    objectives = evaluate(words)
    seen = {tuple(word) for word in words.tolist()}
    while len(words) < budget:
        parents = words[front(objectives)]
        wanted = min(generation, budget - len(words))
        children = _new(_children(proposer, parents, generation, rng), seen, max(generation, len(parents)))
        if not len(children):
            children = _new(_draws(proposer, generation, rng), seen, wanted)
        if not len(children):
            break
        children = children[rng.permutation(len(children))][:wanted]
        seen.update(tuple(word) for word in children.tolist())
        words, objectives = np.concatenate([words, children]), np.concatenate([objectives, evaluate(children)])
    return Searched(words=words, objectives=objectives)


def random_search(
    proposer: Proposer, evaluate: Evaluate, *, rng: np.random.Generator, budget: int = BUDGET
) -> Searched:
    """Independent draws, each member once."""
    words = _new(_draws(proposer, budget, rng), set(), budget)
    return Searched(words=words, objectives=evaluate(words))


def _draws(proposer: Proposer, count: int, rng: np.random.Generator) -> Iterator[Words]:
    for _ in range(_PASSES):
        yield proposer.sample(rng, count)


def _children(proposer: Proposer, parents: Words, count: int, rng: np.random.Generator) -> Iterator[Words]:
    """Every parent in turn, again and again."""
    for _ in range(max(_PASSES, count)):
        yield proposer.mutate(parents, rng)


def _new(rounds: Iterator[Words], seen: set[tuple[int, ...]], count: int) -> Words:
    """The first `count` words, each once, that are not in `seen`; fewer where the rounds end before."""
    found: dict[tuple[int, ...], None] = {}
    width = 0
    for words in rounds:
        width = words.shape[1]
        found |= {tuple(word): None for word in words.tolist() if tuple(word) not in seen}
        if len(found) >= count:
            break
    return np.array(list(found)[:count], np.int16).reshape(-1, width)
