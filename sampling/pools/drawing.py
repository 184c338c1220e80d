"""Drawing distinct members: batches under the mask, repeats dropped by class, the rest listed when draws run dry.

B words, T steps, W choices of a step.
"""

import difflib
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import count
from multiprocessing import get_context
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from genmad.ir import Diagnostic
from genmad.sampling.pools.laws import Law
from genmad.spaces import METRICS, Grammar, Space, SpaceError, Words, draw
from genmad.spaces.grammar import Bools, Walk
from genmad.spaces.split import in_training

BATCH = 2048
# A round with fewer new classes than this share of its draws is dry; after so many dry rounds the rest is listed.
DRY_SHARE, DRY_ROUNDS = 0.02, 2
MAX_LISTED = 2_000_000
# A law that runs dry where members are too many to list is flattened by this factor each time.
HEAT, MAX_HEAT = 1.5, 12
Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """What members must meet, all of it enforced while they are written.

    Attributes:
        limits: metric -> inclusive upper bound.
        ops: the op choices allowed; None for all.
        temperature: of the law; 1 is the law itself, lower is greedier.
        novel: leave out the classes that the generator was trained on, as if they had been drawn before.
        fixed: step -> the choice it must take (`genmad complete`).
        within: step -> the choices it may take (a reduced space).
    """

    limits: Mapping[str, int] = field(default_factory=dict)
    ops: frozenset[str] | None = None
    temperature: float = 1.0
    novel: bool = False
    fixed: Mapping[int, int] = field(default_factory=dict)
    within: Mapping[int, frozenset[int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            got = f"{self.temperature:g}"
            found = Diagnostic(where="--temperature", got=got, expected="a number above 0", fix="--temperature 1")
            raise SpaceError(found, exit_code=2)
        for metric, limit in self.limits.items():
            if metric not in METRICS or limit < 0:
                raise SpaceError(
                    Diagnostic(where=f"--max-{metric}", got=str(limit), expected=f"0 or more of {', '.join(METRICS)}")
                )


def conditions_for(space: Space, **given: object) -> Conditions:
    """Conditions checked against a space. Raises `SpaceError`: an unknown op (nearest names), an impossible budget."""
    conditions = Conditions(**given)  # type: ignore[arg-type]
    unknown = sorted((conditions.ops or frozenset()) - set(space.ops))
    if unknown:
        near = difflib.get_close_matches(unknown[0], space.ops, n=1, cutoff=0.3)
        fix = f"--ops {near[0] if near else space.ops[0]}"
        expected = f"ops of {space.name}: {', '.join(space.ops)}"
        found = Diagnostic(where="--ops", got=", ".join(unknown), expected=expected, fix=fix)
        raise SpaceError(found, exit_code=2)
    check_reachable(space, conditions)
    return conditions


def grammar_of(space: Space, conditions: Conditions) -> tuple[Grammar, tuple[int | None, ...]]:
    """The grammar with the metrics that are bounded, restricted to the ops allowed, and its limits."""
    grammar = space.grammar(tuple(conditions.limits))
    limits = tuple(conditions.limits.get(metric) for metric in grammar.metrics)
    choices: dict[int, frozenset[int]] = dict(conditions.within)
    choices |= {t: frozenset({c}) & choices.get(t, frozenset({c})) for t, c in conditions.fixed.items()}
    if conditions.ops is not None:
        for t, step in enumerate(grammar.steps):
            if step.kind.startswith("op"):
                allowed = {c for c, name in enumerate(step.choices) if name in conditions.ops or name == "-"}
                choices[t] = choices.get(t, frozenset(range(len(step.choices)))) & allowed
    return (grammar.restrict(choices) if choices else grammar), limits


def check_reachable(space: Space, conditions: Conditions) -> None:
    """Raises `SpaceError` saying the smallest member when no member meets the conditions."""
    grammar, limits = grammar_of(space, conditions)
    if grammar.num_words == 0:
        got = f"only {', '.join(sorted(conditions.ops or ()))}" if conditions.ops else "fixed choices"
        expected = f"conditions that some member of {space.name} meets"
        raise SpaceError(Diagnostic(where="--ops", got=got, expected=expected, fix="allow more ops"))
    if grammar.allowed(grammar.start(1), limits).any():
        return
    least = {metric: grammar.smallest(m) for m, metric in enumerate(grammar.metrics)}
    flags = " ".join(f"--max-{metric} {limit}" for metric, limit in conditions.limits.items())
    smallest = ", ".join(f"{value:,} {metric}" for metric, value in least.items())
    where = " (with the ops allowed)" if conditions.ops else ""
    together = ", not necessarily by one member" if len(least) > 1 else ""
    fix = " ".join(f"--max-{metric} {value}" for metric, value in least.items())
    raise SpaceError(
        Diagnostic(
            where=flags, got="a budget that no member meets", fix=f"for example {fix}",
            expected=f"at least the smallest of {space.title}{where}: {smallest}{together}",
        )
    )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """Distinct members, in the order drawn.

    Attributes:
        words: int16[N, T].
        log_likelihood: float64[N], of the word under the masked law, at temperature 1.
        fingerprints: uint64[N].
        num_draws: words drawn to get them, repeats included.
        heat: how often the law had been flattened when they were drawn.
        exhausted: whether every member that meets the conditions has been given.
    """

    words: Words
    log_likelihood: Floats
    fingerprints: NDArray[np.uint64]
    num_draws: int
    heat: int = 0
    exhausted: bool = False


@dataclass(frozen=True, kw_only=True)
class PoolSampler:
    """Draws members of a space from a law, without replacement by class.

    The draws of round r depend on the seed and r alone, so a run can be taken up after any round, and a longer pool
    begins with the shorter one.
    """

    space: Space
    law: Law
    conditions: Conditions = field(default_factory=Conditions)
    seed: int = 0
    train_share: float | None = None
    workers: int = 1

    def rounds(self, n: int, known: Sequence[Drawn] = ()) -> Iterator[Drawn]:
        """Rounds of new members until there are `n`; `known` are the rounds of an interrupted run."""
        grammar, limits = grammar_of(self.space, self.conditions)
        seen = _Seen()
        dry = total = heat = 0
        for done in known:
            seen.add(done.fingerprints)
            total += len(done.words)
            dry, heat = _drought(dry, heat, done)
            if done.exhausted:
                return
        number = len(known)
        batches = self._batches(number, heat)
        listed: Words | None = None
        while total < n:
            if dry >= DRY_ROUNDS and heat == 0:
                listed = _listing(grammar, limits)
                if listed is not None:
                    yield self._rest(listed, seen, n - total, number)
                    return
            if dry >= DRY_ROUNDS and heat == MAX_HEAT:
                return
            if dry >= DRY_ROUNDS:
                # Too many members to list, and a law that hardly varies: draw on from a flatter one.
                heat, dry = heat + 1, 0
                batches = self._batches(number, heat)
            found = self._round(next(batches), seen)
            kept = min(len(found.words), n - total)
            dry, total, number = _drought(dry, heat, found)[0], total + kept, number + 1
            yield _cut(found, kept, heat)

    def draw(self, n: int) -> Drawn:
        """Up to `n` distinct members; fewer when there are no more."""
        return join(list(self.rounds(n)), self.space)

    def independent(self, n: int) -> tuple[Words, Floats]:
        """`n` draws with replacement, and their log-likelihoods: what the law gives by itself."""
        grammar, limits = grammar_of(self.space, self.conditions)
        parts = [
            self._batch(grammar, limits, np.random.default_rng((self.seed, number)), min(BATCH, n - start))
            for number, start in enumerate(range(0, n, BATCH))
        ]
        return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])

    def log_likelihood(self, words: Words) -> Floats:
        """float64[B]: of given words, under the law and the mask, at temperature 1."""
        grammar, limits = grammar_of(self.space, self.conditions)
        found = np.zeros(len(words))
        for start in range(0, len(words), BATCH):
            part = words[start : start + BATCH]
            walk, memory = grammar.start(len(part)), self.law.begin(len(part))
            for t in range(grammar.length):
                scores, choices = _masked(self.law, grammar, walk, memory, limits), part[:, t]
                found[start : start + len(part)] += _log_law(scores)[np.arange(len(part)), choices]
                walk, memory = grammar.advance(walk, choices), self.law.add(t, memory, choices)
        return found

    def _round(self, batch: tuple[Words, Floats], seen: "_Seen") -> Drawn:
        words, chances = batch
        fingerprints = self.space.fingerprints(words)
        new = seen.new(fingerprints) & self._wanted(words)
        seen.add(fingerprints[new])
        return Drawn(words=words[new], log_likelihood=chances[new], fingerprints=fingerprints[new], num_draws=BATCH)

    def _batches(self, first: int, heat: int) -> Iterator[tuple[Words, Floats]]:
        """The draws of every round from `first` on; with workers, a few rounds ahead, the same draws in order."""
        if self.workers > 1:
            yield from self._spread(first, heat)
            return
        grammar, limits = grammar_of(self.space, self.conditions)
        for number in count(first):
            yield self._batch(grammar, limits, np.random.default_rng((self.seed, number)), BATCH, heat)

    def _spread(self, first: int, heat: int) -> Iterator[tuple[Words, Floats]]:
        # Spawned, not forked: numpy's and torch's threads do not survive a fork.
        context = get_context("spawn")
        numbers = count(first)
        with ProcessPoolExecutor(self.workers, context, _Worker.begin, (replace(self, workers=1), heat)) as pool:
            pending = deque(pool.submit(_Worker.batch, next(numbers)) for _ in range(self.workers))
            try:
                while True:
                    # One more before the wait, so that nobody idles while this process drops repeats.
                    pending.append(pool.submit(_Worker.batch, next(numbers)))
                    yield pending.popleft().result()
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    def _batch(
        self, grammar: Grammar, limits: Sequence[int | None], rng: np.random.Generator, batch: int, heat: int = 0
    ) -> tuple[Words, Floats]:
        walk, memory = grammar.start(batch), self.law.begin(batch)
        words, total = np.zeros((batch, grammar.length), np.int16), np.zeros(batch)
        rows, temperature = np.arange(batch), self.conditions.temperature * HEAT**heat
        for t in range(grammar.length):
            scores = _masked(self.law, grammar, walk, memory, limits)
            law = np.exp(scores / np.asarray(temperature, scores.dtype))
            choices = draw(law, rng)
            words[:, t] = choices
            plain = law if temperature == 1 else np.exp(scores)
            total += scores[rows, choices] - np.log(plain.sum(1))
            walk, memory = grammar.advance(walk, choices), self.law.add(t, memory, choices)
        return words, total

    def _rest(self, words: Words, seen: "_Seen", missing: int, number: int) -> Drawn:
        """Of all members, listed, those not yet drawn; if more than are missing, that many in proportion to the law
        (Gumbel top-k, Kool et al., arXiv 1903.06059)."""
        fingerprints = np.concatenate(
            [self.space.fingerprints(words[i : i + 50_000]) for i in range(0, len(words), 50_000)]
        )
        new = seen.new(fingerprints) & self._wanted(words)
        words, fingerprints = words[new], fingerprints[new]
        chances = self.log_likelihood(words)
        noise = np.random.default_rng((self.seed, number)).gumbel(size=len(words))
        order = np.argsort(-(chances / self.conditions.temperature + noise), kind="stable")
        picked = order[:missing]
        return Drawn(
            words=words[picked], log_likelihood=chances[picked], fingerprints=fingerprints[picked],
            num_draws=len(words), exhausted=len(words) <= missing,
        )  # fmt: skip

    def _wanted(self, words: Words) -> Bools:
        if not self.conditions.novel or self.train_share is None:
            return np.ones(len(words), np.bool_)
        return ~in_training(self.space, words, self.train_share)


def join(rounds: Sequence[Drawn], space: Space) -> Drawn:
    """Rounds as one."""
    if not rounds:
        empty = np.zeros((0, len(space.steps)), np.int16)
        return Drawn(words=empty, log_likelihood=np.zeros(0), fingerprints=np.zeros(0, np.uint64), num_draws=0)
    return Drawn(
        words=np.concatenate([r.words for r in rounds]),
        log_likelihood=np.concatenate([r.log_likelihood for r in rounds]),
        fingerprints=np.concatenate([r.fingerprints for r in rounds]),
        num_draws=sum(r.num_draws for r in rounds),
        exhausted=rounds[-1].exhausted,
    )


def _cut(drawn: Drawn, count: int, heat: int) -> Drawn:
    return Drawn(
        words=drawn.words[:count], log_likelihood=drawn.log_likelihood[:count],
        fingerprints=drawn.fingerprints[:count], num_draws=drawn.num_draws, heat=heat,
    )  # fmt: skip


def _drought(dry: int, heat: int, drawn: Drawn) -> tuple[int, int]:
    """Dry rounds in a row at this heat, and the heat, after one more round."""
    before = dry if drawn.heat in (heat, 0) else 0
    return (before + 1 if len(drawn.words) < DRY_SHARE * drawn.num_draws else 0), max(heat, drawn.heat)


def _listing(grammar: Grammar, limits: Sequence[int | None]) -> Words | None:
    """Every member within the limits; None where there are too many."""
    try:
        return grammar.words(limits, at_most=MAX_LISTED)
    except ValueError:
        return None


class _Worker:
    """One process of several: it is given the sampler once and builds the grammar once."""

    _batches: ClassVar[Callable[[int], tuple[Words, Floats]]]

    @classmethod
    def begin(cls, sampler: PoolSampler, heat: int) -> None:
        grammar, limits = grammar_of(sampler.space, sampler.conditions)

        def batch(number: int) -> tuple[Words, Floats]:
            return sampler._batch(grammar, limits, np.random.default_rng((sampler.seed, number)), BATCH, heat)

        cls._batches = staticmethod(batch)

    @classmethod
    def batch(cls, number: int) -> tuple[Words, Floats]:
        """The draws of one round: words and their log-likelihoods."""
        return cls._batches(number)


class _Seen:
    """Fingerprints of the classes given so far."""

    def __init__(self) -> None:
        self._known: set[int] = set()

    def add(self, fingerprints: NDArray[np.uint64]) -> None:
        self._known.update(fingerprints.tolist())

    def new(self, fingerprints: NDArray[np.uint64]) -> Bools:
        """bool[B]: the first of each class that was not seen before."""
        _, first = np.unique(fingerprints, return_index=True)
        found = np.zeros(len(fingerprints), np.bool_)
        known = self._known
        found[
            [i for i, value in zip(first.tolist(), fingerprints[first].tolist(), strict=True) if value not in known]
        ] = True
        return found


def _masked(
    law: Law, grammar: Grammar, walk: Walk, memory: object, limits: Sequence[int | None]
) -> NDArray[np.floating]:
    """[B, W] scores, -inf where the grammar or a budget masks, the highest 0."""
    scores = np.where(grammar.allowed(walk, limits), law.scores(grammar, walk, memory), -np.inf)
    return np.asarray(scores - scores.max(axis=1, keepdims=True))


def _log_law(scores: NDArray[np.floating]) -> NDArray[np.floating]:
    return np.asarray(scores - np.log(np.exp(scores).sum(axis=1, keepdims=True)))
