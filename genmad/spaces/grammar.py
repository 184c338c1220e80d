"""Grammars of search spaces: layered automata whose every prefix can be completed, also within a budget.

A member is written as a word: one choice per step, always the same number of steps; a step that a member does not need
has the single choice `-`. A grammar is built from one function, `transition`, by walking every state once, so that
masks, exact counts, cheapest completions and uniform draws are table look-ups over whole batches of words.

B words, T steps, S states before a step, W choices of a step, M metrics, K points of a Pareto front.
"""

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from genmad.ir import Diagnostic, GenmadError

Words = NDArray[np.int16]
"""int16[B, T]: the index of the choice at each step."""
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Costs = tuple[int, ...]
Transition = Callable[[int, Hashable, int], "tuple[Hashable, Costs] | None"]
"""(step, state, choice) -> the state after it and what the choice costs per metric; None where it is not allowed."""
MAX_STATES = 2_000_000
MAX_FRONT = 64


class SpaceError(GenmadError):
    """A request that a space cannot meet, as a budget below the smallest member; `exit_code` 2 where it names nothing
    that exists (no such space, op or column), 3 where a table cannot be read."""

    exit_code = 4

    def __init__(self, diagnostic: Diagnostic, *, exit_code: int = 4) -> None:
        self.diagnostic = diagnostic
        self.exit_code = exit_code
        super().__init__(str(diagnostic))


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One position of a word.

    Attributes:
        name: what is chosen, unique in its space: `edge 0-1`, `stage 2 depth`.
        kind: steps of one kind have the same choices and share their embeddings: `op`, `kernel`.
        choices: a label for each choice.
    """

    name: str
    kind: str
    choices: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Walk:
    """A batch of prefixes after the same number of steps.

    Attributes:
        step: how many steps are behind them.
        states: int64[B], index of the state of each prefix.
        spent: int64[B, M], what each prefix costs so far.
    """

    step: int
    states: Ints
    spent: Ints


@dataclass(frozen=True, slots=True)
class _Layer:
    """The tables of one step. Rows are states before the step.

    Attributes:
        next: int64[S, W], state after the choice, -1 where it is not allowed or cannot be completed.
        cost: int64[S, W, M].
    """

    next: Ints
    cost: Ints


@dataclass(frozen=True, kw_only=True)
class Grammar:
    """A layered automaton. Make one with `Grammar.build`.

    Attributes:
        steps: the positions of a word.
        metrics: names of what choices cost.
        base: what every member costs before the first choice, one number per metric.
        layers: the tables, one per step; the first has one state.
    """

    steps: tuple[Step, ...]
    metrics: tuple[str, ...]
    base: Costs
    layers: tuple[_Layer, ...]

    @classmethod
    def build(
        cls, steps: Sequence[Step], start: Hashable, transition: Transition, *, metrics: Sequence[str] = (),
        base: Costs = (), final: Callable[[Hashable], bool] = lambda _: True,
    ) -> "Grammar":  # fmt: skip
        """Walks every state forwards, then drops what cannot reach a state that is `final` after the last step."""
        base = base or (0,) * len(metrics)
        states: list[Hashable] = [start]
        raw: list[tuple[Ints, Ints]] = []
        for t, step in enumerate(steps):
            index: dict[Hashable, int] = {}
            shape = (len(states), len(step.choices))
            after = np.full(shape, -1, np.int64)
            cost = np.zeros((*shape, len(metrics)), np.int64)
            for s, state in enumerate(states):
                for c in range(len(step.choices)):
                    found = transition(t, state, c)
                    if found is not None:
                        after[s, c] = index.setdefault(found[0], len(index))
                        cost[s, c] = found[1][: len(metrics)] if metrics else ()
            raw.append((after, cost))
            states = list(index)
            if len(states) > MAX_STATES:
                raise ValueError(f"step {step.name}: more than {MAX_STATES} states")
        return cls(steps=tuple(steps), metrics=tuple(metrics), base=base, layers=_live(raw, [final(s) for s in states]))

    @property
    def length(self) -> int:
        return len(self.steps)

    @cached_property
    def counts(self) -> tuple[tuple[int, ...], ...]:
        """How many ways there are to finish from each state before each step; one more entry for after the last."""
        last = int(self.layers[-1].next.max(initial=0)) + 1 if self.layers else 1
        table = [(1,) * last]
        for layer in reversed(self.layers):
            ends = table[0]
            table.insert(0, tuple(sum(ends[c] for c in row if c >= 0) for row in layer.next.tolist()))
        return tuple(table)

    @property
    def num_words(self) -> int:
        """Exact number of words."""
        return self.counts[0][0] if self.counts[0] else 0

    @cached_property
    def uniform(self) -> tuple[NDArray[np.float64], ...]:
        """Per step float64[S, W]: the law of the next choice under which every word is equally likely."""
        tables = []
        for t, layer in enumerate(self.layers):
            here, ends = self.counts[t], self.counts[t + 1]
            rows = [
                [ends[c] / n if c >= 0 else 0.0 for c in row] for row, n in zip(layer.next.tolist(), here, strict=True)
            ]
            tables.append(np.array(rows, np.float64))
        return tuple(tables)

    @cached_property
    def fronts(self) -> tuple[Ints, ...]:
        """Per step and after the last int64[S, K, M]: Pareto-optimal costs of finishing from each state.

        Rows are padded with their last point. Beyond `MAX_FRONT` points a front is thinned, its extremes kept: every
        prefix that is then allowed can still be finished within the budget, and some that could are not.
        """
        M = len(self.metrics)
        last = int(self.layers[-1].next.max(initial=0)) + 1
        table = [np.zeros((last, 1, M), np.int64)]
        for layer in reversed(self.layers):
            table.insert(0, _pad([_front(layer, s, table[0]) for s in range(len(layer.next))]))
        return tuple(table)

    def start(self, batch: int) -> Walk:
        """`batch` empty prefixes."""
        spent = np.tile(np.array(self.base, np.int64), (batch, 1)).reshape(batch, len(self.metrics))
        return Walk(0, np.zeros(batch, np.int64), spent)

    def allowed(self, walk: Walk, limits: Sequence[int | None] = ()) -> Bools:
        """bool[B, W]: the choices from which a member can be reached, within `limits` (one per metric) if given."""
        layer = self.layers[walk.step]
        after = layer.next[walk.states]
        mask = after >= 0
        bounded = [m for m, limit in enumerate(limits) if limit is not None]
        if not bounded:
            return mask
        room = np.array([limits[m] for m in bounded], np.int64)
        left = room - walk.spent[:, None, bounded] - layer.cost[walk.states][:, :, bounded]
        fronts = self.fronts[walk.step + 1][:, :, bounded]
        fits = (fronts[np.maximum(after, 0)] <= left[:, :, None, :]).all(-1).any(-1)
        return mask & fits

    def advance(self, walk: Walk, choices: NDArray[np.integer]) -> Walk:
        """The prefixes, each with one more choice. Raises `ValueError` where one is not allowed."""
        layer = self.layers[walk.step]
        after = layer.next[walk.states, choices]
        if (after < 0).any():
            bad = int(np.flatnonzero(after < 0)[0])
            raise ValueError(f"word {bad}: choice {int(choices[bad])} is not allowed at {self.steps[walk.step].name}")
        return Walk(walk.step + 1, after, walk.spent + layer.cost[walk.states, choices])

    def accepts(self, words: Words) -> Bools:
        """bool[B]: whether each row is a word."""
        good = np.ones(len(words), np.bool_)
        states = np.zeros(len(words), np.int64)
        for t, layer in enumerate(self.layers):
            column = words[:, t].astype(np.int64)
            good &= (column >= 0) & (column < layer.next.shape[1])
            states = layer.next[states, np.where(good, column, 0)]
            good &= states >= 0
            states = np.maximum(states, 0)
        return good

    def costs(self, words: Words) -> Ints:
        """int64[B, M]: what whole words cost. Raises `ValueError` on a row that is not a word."""
        walk = self.start(len(words))
        for t in range(self.length):
            walk = self.advance(walk, words[:, t])
        return walk.spent

    def smallest(self, metric: int) -> int:
        """The least that a member costs."""
        return int(self.fronts[0][0, :, metric].min()) + self.base[metric]

    def sample(self, rng: np.random.Generator, n: int, limits: Sequence[int | None] = ()) -> Words:
        """int16[n, T]: every word equally likely; under limits step by step by the number of unlimited completions."""
        walk, words = self.start(n), np.zeros((n, self.length), np.int16)
        for t in range(self.length):
            law = np.where(self.allowed(walk, limits), self.uniform[t][walk.states], 0.0)
            words[:, t] = draw(law, rng)
            walk = self.advance(walk, words[:, t])
        return words

    def words(self, limits: Sequence[int | None] = (), at_most: int = 5_000_000) -> Words:
        """Every word within limits, in lexicographic order. Raises `ValueError` when there are more than `at_most`."""
        walk, words = self.start(1), np.zeros((1, 0), np.int16)
        for _ in range(self.length):
            row, choice = np.nonzero(self.allowed(walk, limits))
            if len(row) > at_most:
                raise ValueError(f"more than {at_most} words")
            words = np.concatenate([words[row], choice[:, None].astype(np.int16)], axis=1)
            walk = self.advance(Walk(walk.step, walk.states[row], walk.spent[row]), choice)
        return words

    def restrict(self, choices: Mapping[int, frozenset[int]]) -> "Grammar":
        """The grammar in which some steps may take only some choices; empty tables where nothing is left."""
        raw = []
        for t, layer in enumerate(self.layers):
            after = layer.next.copy()
            if t in choices:
                out = [c for c in range(after.shape[1]) if c not in choices[t]]
                after[:, out] = -1
            raw.append((after, layer.cost))
        last = int(self.layers[-1].next.max(initial=0)) + 1
        return Grammar(steps=self.steps, metrics=self.metrics, base=self.base, layers=_live(raw, [True] * last))

    def labels(self, word: Sequence[int]) -> tuple[str, ...]:
        return tuple(step.choices[c] for step, c in zip(self.steps, word, strict=True))


def draw(law: NDArray[np.floating], rng: np.random.Generator) -> NDArray[np.int64]:
    """int64[B]: one index per row of float[B, W], with chances in proportion to the row; rows need not sum to 1.

    Raises `ValueError` on a row without a positive entry: fail closed, never draw what is masked.
    """
    sums = np.cumsum(law, axis=1, dtype=np.float64)
    if not (sums[:, -1] > 0).all():
        raise ValueError(f"row {int(np.flatnonzero(~(sums[:, -1] > 0))[0])}: nothing is allowed")
    point = rng.random(len(law)) * sums[:, -1]
    picked = (sums <= point[:, None]).sum(axis=1)
    # Rounding may put the point on the last sum; the last positive entry is then meant.
    last = law.shape[1] - 1 - np.argmax(law[:, ::-1] > 0, axis=1)
    return np.minimum(picked, last)


def _live(raw: Sequence[tuple[Ints, Ints]], final: Sequence[bool]) -> tuple[_Layer, ...]:
    """The layers without the states and choices from which no final state can be reached."""
    layers: list[_Layer] = []
    new = np.cumsum(final, dtype=np.int64) - 1
    new[~np.array(final, np.bool_)] = -1
    for t in range(len(raw) - 1, -1, -1):
        after, cost = raw[t]
        after = np.where(after >= 0, new[np.maximum(after, 0)] if len(new) else -1, -1)
        keep = np.any(after >= 0, axis=1) if t else np.ones(len(after), np.bool_)
        layers.insert(0, _Layer(after[keep], cost[keep]))
        new = np.where(keep, np.cumsum(keep) - 1, -1)
    return _reachable(layers)


def _reachable(layers: Sequence[_Layer]) -> tuple[_Layer, ...]:
    """The layers without the states that no prefix leads to."""
    out: list[_Layer] = []
    used = np.array([0], np.int64)
    for layer in layers:
        after, cost = layer.next[used], layer.cost[used]
        used = np.unique(after[after >= 0])
        place = np.full(int(layer.next.max(initial=-1)) + 2, -1, np.int64)
        place[used] = np.arange(len(used))
        out.append(_Layer(place[after], cost))
    return tuple(out)


def _front(layer: _Layer, state: int, after: Ints) -> Ints:
    """int64[K, M]: the Pareto front of finishing from one state."""
    points = [after[n] + layer.cost[state, c] for c, n in enumerate(layer.next[state].tolist()) if n >= 0]
    if not points:
        return np.zeros((0, after.shape[2]), np.int64)
    return pareto(np.unique(np.concatenate(points), axis=0))


def pareto(points: Ints) -> Ints:
    """The rows of int64[N, M], distinct and in lexicographic order, that no other row beats; thinned to MAX_FRONT."""
    if points.shape[1] == 1:
        return points[:1]
    if points.shape[1] == 2:
        # In lexicographic order a point survives when its second cost is below all before it.
        best = np.minimum.accumulate(points[:, 1])
        kept = points[np.concatenate([[True], points[1:, 1] < best[:-1]])]
    else:
        rows: list[Ints] = []
        for point in points:
            if not any((row <= point).all() for row in rows):
                rows.append(point)
        kept = np.array(rows, np.int64).reshape(-1, points.shape[1])
    if len(kept) <= MAX_FRONT:
        return kept
    ends = [int(kept[:, m].argmin()) for m in range(kept.shape[1])]
    spread = np.linspace(0, len(kept) - 1, MAX_FRONT - len(ends)).round().astype(int).tolist()
    return kept[sorted({*ends, *spread})]


def _pad(fronts: Sequence[Ints]) -> Ints:
    """int64[S, K, M] from fronts of several lengths, each padded with its last point; empty ones with huge costs."""
    widest = max((len(front) for front in fronts), default=1) or 1
    M = fronts[0].shape[1] if fronts else 0
    out = np.full((len(fronts), widest, M), np.iinfo(np.int64).max // 4, np.int64)
    for i, front in enumerate(fronts):
        if len(front):
            out[i, : len(front)] = front
            out[i, len(front) :] = front[-1]
    return out


def iterate(words: Words) -> Iterator[tuple[int, ...]]:
    """The rows as tuples of Python integers."""
    return map(tuple, words.tolist())
