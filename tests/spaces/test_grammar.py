"""Grammars: masks that never lead into a dead end, exact counts, exact laws, budgets kept while writing."""

from collections import Counter
from itertools import product

import numpy as np
import pytest

from genmad.spaces.grammar import Grammar, Step, Walk, draw, pareto

STEPS = [Step(name=f"digit {i}", kind="digit", choices=("0", "1", "2")) for i in range(3)]


def increasing(_: int, state: object, choice: int) -> tuple[object, tuple[int, ...]] | None:
    """Digits that never fall; a digit costs its square and, second, two less it."""
    assert isinstance(state, int)
    return (choice, (choice * choice, 2 - choice)) if choice >= state else None


def toy(**more: object) -> Grammar:
    return Grammar.build(STEPS, 0, increasing, metrics=("a", "b"), base=(1, 0), **more)  # type: ignore[arg-type]


MEMBERS = [w for w in product(range(3), repeat=3) if list(w) == sorted(w)]


def test_a_grammar_counts_and_lists_exactly_its_words() -> None:
    assert toy().num_words == len(MEMBERS) == 10
    assert list(map(tuple, toy().words().tolist())) == MEMBERS


def test_accepts_is_membership() -> None:
    every = np.array(list(product(range(-1, 4), repeat=3)), np.int16)
    found = [tuple(row) for row, good in zip(every.tolist(), toy().accepts(every), strict=True) if good]
    assert found == MEMBERS


def test_choices_without_an_end_are_masked_from_the_start() -> None:
    """Only words that end in 0: everything but 0 is a dead end two steps before it shows."""
    grammar = toy(final=lambda state: state == 0)
    assert grammar.allowed(grammar.start(1)).tolist() == [[True, False, False]]
    assert grammar.num_words == 1


def test_uniform_draws_follow_the_exact_law() -> None:
    """Chi-square over ten equally likely words, 9 degrees of freedom: above 27.9 once in a thousand seeds."""
    rows = toy().sample(np.random.default_rng(0), 5000)
    counts = Counter(map(tuple, rows.tolist()))
    assert set(counts) == set(MEMBERS)
    assert sum((counts[w] - 500) ** 2 / 500 for w in MEMBERS) < 27.9


@pytest.mark.parametrize("limits", [(4, None), (None, 3), (6, 3), (3, 5)])
def test_budgets_leave_exactly_the_members_within_them(limits: tuple[int | None, int | None]) -> None:
    def fits(word: tuple[int, ...]) -> bool:
        spent = (1 + sum(c * c for c in word), sum(2 - c for c in word))
        return all(limit is None or s <= limit for s, limit in zip(spent, limits, strict=True))

    assert list(map(tuple, toy().words(limits).tolist())) == [w for w in MEMBERS if fits(w)]
    drawn = toy().sample(np.random.default_rng(1), 200, limits) if any(map(fits, MEMBERS)) else []
    assert all(fits(tuple(w)) for w in np.asarray(drawn).tolist())


def test_two_budgets_together_never_lead_into_a_dead_end() -> None:
    """Each budget alone can be met after digit 0, both together cannot: the front sees it, single minima would not."""
    grammar = toy()
    limits = (6, 3)
    walk = grammar.start(1)
    for _ in range(3):
        row, choice = np.nonzero(grammar.allowed(walk, limits))
        assert set(row) == set(range(len(walk.states)))
        walk = grammar.advance(Walk(walk.step, walk.states[row], walk.spent[row]), choice)
    assert (walk.spent <= np.array(limits)).all()


def test_costs_and_the_smallest_member() -> None:
    assert toy().costs(np.array([[0, 1, 2]], np.int16)).tolist() == [[6, 3]]
    assert toy().smallest(0) == 1
    assert toy().smallest(1) == 0


def test_restricted_grammars_keep_only_completable_prefixes() -> None:
    grammar = toy().restrict({2: frozenset({1})})
    assert list(map(tuple, grammar.words().tolist())) == [(0, 0, 1), (0, 1, 1), (1, 1, 1)]
    assert toy().restrict({0: frozenset({2}), 2: frozenset({0})}).num_words == 0


def test_a_masked_choice_is_never_drawn_and_an_empty_mask_raises() -> None:
    law = np.tile([0.0, 1e-12, 0.0, 1.0, 0.0], (20_000, 1))
    assert set(draw(law, np.random.default_rng(0)).tolist()) <= {1, 3}
    with pytest.raises(ValueError, match="row 1: nothing is allowed"):
        draw(np.array([[1.0], [0.0]]), np.random.default_rng(0))
    walk = toy().advance(toy().start(1), np.array([2]))
    with pytest.raises(ValueError, match="choice 0 is not allowed at digit 1"):
        toy().advance(walk, np.array([0]))


def test_pareto_fronts_are_what_no_other_point_beats() -> None:
    points = np.unique(np.random.default_rng(0).integers(0, 9, (60, 3)), axis=0)
    kept = [p for p in points.tolist() if not any((q <= np.array(p)).all() and q.tolist() != p for q in points)]
    assert pareto(points).tolist() == kept
    flat = np.unique(points[:, :2], axis=0)
    kept = [p for p in flat.tolist() if not any((q <= np.array(p)).all() and q.tolist() != p for q in flat)]
    assert pareto(flat).tolist() == kept
