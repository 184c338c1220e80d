"""Methods that query one member at a time: our generator with a predictor, and the field's baselines, on one interface.

A query is a new class; what was queried is known with its label, nothing else is. Every method sees the same labels.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from genmad.model.gaussian_process import GaussianProcess, Settings
from genmad.search.operators import mutate
from genmad.spaces import LabelTable, Space, Words
from genmad.spaces.split import representatives

Floats = NDArray[np.float64]
Query = Callable[[Words], Floats]
"""Labels of words; NaN for a member that has none."""
DrawMany = Callable[[np.random.Generator, int], Words]
START, FEW = 10, 5
CANDIDATES = 1000
PARENTS = 5
# Tries to mutate into a member that can be queried, where not all can.
CHILDREN = 64


def table_query(table: LabelTable, column: str, sign: float = 1.0, space: Space | None = None) -> Query:
    """Labels from a benchmark's table, times `sign`; with `space`, a word that is not in it has the label of its class.

    Raises `SpaceError` on a column that it does not have.
    """
    values = table.column(column)
    rows = {tuple(word): i for i, word in enumerate(table.words.tolist())}
    classes: dict[int, int] = {}
    if space is not None:
        classes = {mark: i for i, mark in enumerate(space.fingerprints(table.words).tolist())}

    def query(words: Words) -> Floats:
        found = [rows.get(tuple(word)) for word in words.tolist()]
        if space is not None and None in found:
            marks = space.fingerprints(words).tolist()
            found = [classes.get(mark) if i is None else i for i, mark in zip(found, marks, strict=True)]
        return np.array([np.nan if i is None else sign * values[i] for i in found])

    return query


@dataclass(frozen=True, kw_only=True)
class Listed:
    """The members that can be queried, where a table holds only some of the space's classes.

    Attributes:
        words: int16[N, T], one per class.
        marks: their fingerprints.
    """

    words: Words
    marks: frozenset[int]

    @classmethod
    def of(cls, space: Space, table: LabelTable, column: str) -> "Listed | None":
        """The labelled members of a table; None where it has every class of the space."""
        words = representatives(space, table.words[np.isfinite(table.column(column))])
        if len(words) >= (space.num_classes or space.size):
            return None
        return cls(words=words, marks=frozenset(space.fingerprints(words).tolist()))


@dataclass(kw_only=True)
class History:
    """What was queried, in order; equal classes are queried once.

    Attributes:
        query: gives labels.
        budget: most queries.
        stop: a label that ends the run.
        listed: the only members that can be queried; None for all of the space.
    """

    space: Space
    query: Query
    budget: int
    stop: float = np.inf
    listed: Listed | None = None
    words: list[tuple[int, ...]] = field(default_factory=list)
    labels: list[float] = field(default_factory=list)
    seen: set[int] = field(default_factory=set)

    @property
    def done(self) -> bool:
        most = self.budget if self.listed is None else min(self.budget, len(self.listed.words))
        return len(self.labels) >= most or bool(self.labels and max(self.labels) >= self.stop)

    def new(self, words: Words) -> Words:
        """The words of classes that were not queried and can be, each class once."""
        prints = self.space.fingerprints(words)
        _, first = np.unique(prints, return_index=True)
        kept = [i for i in np.sort(first).tolist() if int(prints[i]) not in self.seen]
        if self.listed is not None:
            kept = [i for i in kept if int(prints[i]) in self.listed.marks]
        return words[kept]

    def sample(self, rng: np.random.Generator, n: int) -> Words:
        """Independent uniform draws of what can be queried."""
        if self.listed is None:
            return self.space.sample(rng, n)
        drawn: Words = self.listed.words[rng.integers(len(self.listed.words), size=n)]
        return drawn

    def child(self, parent: Words, rng: np.random.Generator) -> Words:
        """int16[1, T]: a mutation of int16[1, T]; where few can be queried, a new one that can, or else a draw."""
        if self.listed is None:
            return mutate(self.space.grammar(), parent, rng)
        children = self.new(mutate(self.space.grammar(), np.repeat(parent, CHILDREN, axis=0), rng))
        return children[:1] if len(children) else self.sample(rng, 1)

    def ask(self, words: Words) -> Floats:
        """Labels of new words, as far as the budget goes; members without a label are passed over for nothing."""
        found = []
        for word, label in zip(words, self.query(words), strict=True):
            if self.done:
                break
            self.seen.add(int(self.space.fingerprints(word[None])[0]))
            if np.isfinite(label):
                self.words.append(tuple(word.tolist()))
                self.labels.append(float(label))
                found.append(float(label))
        return np.array(found)

    @property
    def table(self) -> Words:
        return np.array(self.words, np.int16).reshape(-1, len(self.space.steps))

    def best(self, count: int) -> Words:
        return self.table[np.argsort(-np.array(self.labels), kind="stable")[:count]]


Method = Callable[[History, np.random.Generator, DrawMany], None]


def random_search(history: History, rng: np.random.Generator, draw: DrawMany) -> None:
    """Independent draws of the space."""
    del draw
    while not history.done:
        history.ask(history.new(history.sample(rng, 64)))


def regularized_evolution(history: History, rng: np.random.Generator, draw: DrawMany) -> None:
    """Real et al., arXiv 1802.01548: population 30, tournaments of 10, the oldest dies. Repeats are looked up."""
    del draw
    space, population = history.space, 30
    known: dict[int, float] = {}

    def labels_of(words: Words) -> list[float]:
        prints = space.fingerprints(words).tolist()
        for word, mark in zip(words, prints, strict=True):
            if mark not in known and not history.done:
                got = history.ask(word[None])
                known[mark] = float(got[0]) if len(got) else -np.inf
        return [known.get(mark, -np.inf) for mark in prints]

    words = history.sample(rng, population)
    alive = list(zip(words, labels_of(words), strict=True))
    idle = 0
    while not history.done and idle < 2000:
        before = len(history.labels)
        rivals = [alive[i] for i in rng.choice(len(alive), min(10, len(alive)), replace=False)]
        parent = max(rivals, key=lambda item: item[1])[0]
        child = history.child(parent[None], rng)
        alive.append((child[0], labels_of(child)[0]))
        alive.pop(0)
        idle = 0 if len(history.labels) > before else idle + 1


def local_search(history: History, rng: np.random.Generator, draw: DrawMany) -> None:
    """White et al., arXiv 2005.02960: best of the neighbours until none is better, then from a new start."""
    del draw
    space = history.space
    while not history.done:
        start = history.new(history.sample(rng, 16))[:1]
        if not len(start):
            continue
        label = history.ask(start)
        at, best = start[0], float(label[0]) if len(label) else -np.inf
        better = True
        while better and not history.done:
            better = False
            near = np.array(list(space.neighbours(tuple(at.tolist()))), np.int16)
            near = history.new(near[rng.permutation(len(near))]) if len(near) else near
            for word in near:
                got = history.ask(word[None])
                if len(got) and got[0] > best:
                    at, best, better = word, float(got[0]), True
                if history.done:
                    return


def bananas_style(history: History, rng: np.random.Generator, draw: DrawMany) -> None:
    """After White et al., arXiv 1910.11858: an ensemble of five, independent Thompson sampling, mutations of the best,
    ten at a time. The members are networks with one random hidden layer, fitted in closed form on bootstraps."""
    del draw
    space = history.space
    history.ask(history.new(history.sample(rng, 4 * START))[:START])
    while not history.done:
        parents = history.best(10)
        repeated = parents[rng.integers(len(parents), size=100)]
        children = mutate(space.grammar(), repeated, rng)
        again = mutate(space.grammar(), children, rng)
        candidates = history.new(np.concatenate([children, again, history.sample(rng, 50)]))
        if not len(candidates):
            continue
        inside, asked = space.features(history.table), space.features(candidates)
        guesses = np.stack([_random_network(inside, np.array(history.labels), asked, rng) for _ in range(5)])
        thompson = guesses.mean(0) + guesses.std(0) * rng.standard_normal(len(candidates))
        history.ask(candidates[np.argsort(-thompson)[:10]])


def _random_network(x: Floats, y: Floats, asked: Floats, rng: np.random.Generator, hidden: int = 200) -> Floats:
    rows = rng.integers(len(x), size=len(x))
    weight, bias = rng.standard_normal((x.shape[1], hidden)) / np.sqrt(x.shape[1]), rng.standard_normal(hidden)
    ranks = np.argsort(np.argsort(y)) / max(1, len(y) - 1)

    def layer(rows_of: Floats) -> Floats:
        return np.asarray(np.maximum(rows_of @ weight + bias, 0))

    inner, mean = layer(x[rows]), float(ranks[rows].mean())
    solved = np.linalg.solve(inner @ inner.T + 1.0 * np.eye(len(rows)), ranks[rows] - mean)
    return np.asarray(layer(asked) @ (inner.T @ solved) + mean)


def generator_search(history: History, rng: np.random.Generator, draw: DrawMany) -> None:
    """Ours: the generator proposes members, half of them new draws and half mutations and neighbours of the best
    queried; a Gaussian process retrained on all that was queried picks the one with the greatest chance to gain."""
    space = history.space
    history.ask(_spread(space, history.new(draw(rng, 400)), FEW, rng))
    settings: Settings | None = None
    while not history.done:
        if len(history.labels) % 5 == 0:
            settings = None
        process = GaussianProcess.fit(space.features(history.table), np.array(history.labels), settings)
        settings = process.settings
        candidates = history.new(_proposals(history, rng, draw))
        if not len(candidates):
            continue
        mean, deviation = process.normal(space.features(candidates))
        top = float(process.scores[-1])
        history.ask(candidates[[int(np.argmax(expected_gain(mean, deviation, top)))]])


def _proposals(history: History, rng: np.random.Generator, draw: DrawMany) -> Words:
    parents = history.best(PARENTS)
    near = [np.array(list(history.space.neighbours(tuple(word.tolist()))), np.int16) for word in parents[:2]]
    children = mutate(history.space.grammar(), parents[rng.integers(len(parents), size=200)], rng)
    return np.concatenate([draw(rng, CANDIDATES), children, *(n for n in near if len(n))])


def _spread(space: Space, words: Words, count: int, rng: np.random.Generator) -> Words:
    """`count` words far from each other: each the farthest from those before it."""
    x = space.features(words)
    picked = [int(rng.integers(len(words)))]
    distance = ((x - x[picked[0]]) ** 2).sum(1)
    while len(picked) < min(count, len(words)):
        picked.append(int(distance.argmax()))
        distance = np.minimum(distance, ((x - x[picked[-1]]) ** 2).sum(1))
    return words[picked]


def expected_gain(mean: Floats, deviation: Floats, best: float) -> Floats:
    """Expected improvement (Jones et al., 1998)."""
    z = (mean - best) / deviation
    density = np.exp(-0.5 * z * z) / np.sqrt(2 * np.pi)
    return np.asarray(deviation * (z * _normal_cdf(z) + density))


def _normal_cdf(z: Floats) -> Floats:
    from math import erf

    return np.array([0.5 * (1 + erf(value / 2**0.5)) for value in z.tolist()])


METHODS: Mapping[str, Method] = {
    "generator": generator_search,
    "random": random_search,
    "evolution": regularized_evolution,
    "local": local_search,
    "bananas": bananas_style,
}
