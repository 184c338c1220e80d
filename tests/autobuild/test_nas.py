"""Searches stay inside what they were given, spend exactly their budget, and gain on random draws."""

import itertools

import numpy as np
import pytest

from genmad.autobuild.additive import AdditiveSolver, best_modules, built_by_addition, factors_of
from genmad.autobuild.encodings import get_encoding
from genmad.autobuild.nas import LayerProposer, ModuleProposer, Proposer, pareto_search, random_search
from genmad.autobuild.pareto import ParetoError, front, hypervolume
from genmad.autobuild.restrictions import DEVICES, insight, unrestricted
from genmad.spaces.grammar import Words
from genmad.spaces.ofa import NONE, OPS, OfaMbv3, OfaPN, OfaSpace

pytest.importorskip("pymoo")
SPACES = (OfaMbv3(), OfaPN())


def toy(words: Words) -> np.ndarray:
    """Depth against a quality that has its own weight per step and choice."""
    table = np.random.default_rng(5).random((words.shape[1], NONE + 1))
    table[:, NONE] = 0
    quality = table[np.arange(words.shape[1]), words].sum(1)
    return np.stack([(words != NONE).sum(1) + 0.01 * words[:, 0], -quality], axis=1).astype(float)


def modules_of(space: OfaSpace) -> tuple[Words, ...]:
    found = get_encoding(space.name).modules
    assert found is not None
    return factors_of(found)


def is_member(space: OfaSpace, word: tuple[int, ...]) -> bool:
    return not space.problems(space.to_text(word))


@pytest.mark.parametrize("space", SPACES, ids=lambda s: s.name)
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", ["both", "layers", "depth"])
def test_layer_searches_stay_inside_the_published_restriction(space: OfaSpace, device: str, kind: str) -> None:
    restriction = insight(space, device, kind)
    proposer = LayerProposer(space=space, restriction=restriction)
    rng = np.random.default_rng(0)
    words = proposer.sample(rng, 40)
    for _ in range(4):
        words = proposer.mutate(words, rng)
    for word in words.tolist():
        assert is_member(space, tuple(word))
        stages = [[c for (s, _), c in zip(space.places, word, strict=True) if s == stage and c != NONE]
                  for stage in range(len(space.supernet.stages))]  # fmt: skip
        assert restriction.allows(stages)


def test_the_published_restrictions_are_those_of_the_paper() -> None:
    """GPU: no 3x3 with expansion 3 or 4, no 7x7 with expansion 3, and short stages; NPU: no 7x7; CPU: short stages."""
    gpu, cpu, npu = (insight(OfaMbv3(), device) for device in DEVICES)
    assert [OPS[i] for i in gpu.layers[0]] == ["k3_e6", "k5_e3", "k5_e4", "k5_e6", "k7_e4", "k7_e6"]
    assert gpu.most == (4, 3, 4, 3, 3)
    assert cpu.layers == unrestricted(OfaMbv3()).layers
    assert cpu.most == (3, 3, 3, 4, 4)
    assert all(not OPS[i].startswith("k7") for i in npu.layers[2])
    assert npu.rates == (0.25, 0.25, 0.25, 0.5, 0.5)
    assert insight(OfaPN(), "cpu").most == (3, 3, 4, 4, 4, 1)
    with pytest.raises(ValueError, match="phone"):
        insight(OfaPN(), "phone")


@pytest.mark.parametrize("space", SPACES, ids=lambda s: s.name)
def test_module_searches_use_only_the_modules_given(space: OfaSpace) -> None:
    rng = np.random.default_rng(0)
    factors = modules_of(space)
    few = tuple(each[rng.permutation(len(each))[:4]] for each in factors)
    done = pareto_search(ModuleProposer(modules=few), toy, rng=rng, budget=120)
    start = 0
    for each in few:
        allowed = {tuple(row) for row in each.tolist()}
        assert {tuple(row) for row in done.words[:, start : start + each.shape[1]].tolist()} <= allowed
        start += each.shape[1]
    assert all(is_member(space, tuple(word)) for word in done.words[:20].tolist())


def test_factors_are_all_modules_in_the_order_of_steps() -> None:
    sizes = [len(each) for each in modules_of(OfaMbv3())]
    assert sizes == [7371] * 5
    assert [len(each) for each in modules_of(OfaPN())] == [7371] * 4 + [66339]


@pytest.mark.parametrize("budget", [30, 250])
def test_searches_spend_exactly_their_budget_on_different_members(budget: int) -> None:
    space = OfaMbv3()
    proposers: list[Proposer] = [LayerProposer(space=space, restriction=unrestricted(space)),
                                 ModuleProposer(modules=modules_of(space))]  # fmt: skip
    for proposer, search in itertools.product(proposers, (pareto_search, random_search)):
        asked: list[int] = []

        def count(words: Words, asked: list[int] = asked) -> np.ndarray:
            asked.append(len(words))
            return toy(words)

        done = search(proposer, count, rng=np.random.default_rng(1), budget=budget)
        assert sum(asked) == budget == len({tuple(word) for word in done.words.tolist()})
        np.testing.assert_array_equal(done.objectives, toy(done.words))


def test_a_search_ends_where_there_is_nothing_new() -> None:
    few = tuple(each[:1] if i else each[:7] for i, each in enumerate(modules_of(OfaMbv3())))
    done = pareto_search(ModuleProposer(modules=few), toy, rng=np.random.default_rng(0))
    assert len(done.words) == 7
    assert len(ModuleProposer(modules=few).members()) == ModuleProposer(modules=few).size == 7


def test_evolution_beats_random_draws_of_the_same_space() -> None:
    space = OfaMbv3()
    proposer = LayerProposer(space=space, restriction=unrestricted(space))
    reference = np.array([21.0, 0.0])
    volumes = [
        [hypervolume(search(proposer, toy, rng=np.random.default_rng(seed)).objectives, reference) for seed in range(4)]
        for search in (pareto_search, random_search)
    ]
    assert all(ours > random for ours, random in zip(*volumes, strict=True))


def test_members_are_first_drawn_within_one_equation() -> None:
    """Modules of an equation for fast networks and of one for good networks do not mix before the first mutation."""
    factors = modules_of(OfaMbv3())
    sets = (tuple(each[:2] for each in factors), tuple(each[-2:] for each in factors))
    apart = ModuleProposer.of_sets(sets, apart=True)
    depths = {int((word != NONE).sum()) for word in apart.sample(np.random.default_rng(0), 40)}
    assert depths == {10, 20}
    mixed = ModuleProposer.of_sets(sets, apart=False)
    assert len({int((word != NONE).sum()) for word in mixed.sample(np.random.default_rng(0), 40)}) > 2
    assert mixed.size == apart.size == 4**5


def test_the_additive_model_finds_the_best_modules_of_an_additive_target() -> None:
    space = OfaMbv3()
    words = space.sample(np.random.default_rng(0), 1500)
    quality, cost = -toy(words)[:, 1], toy(words)[:, 0]
    solver = AdditiveSolver.of(words)
    model = solver.fit(quality)
    assert np.corrcoef(model.predict(words), quality)[0, 1] > 0.999
    factors = modules_of(space)
    best = best_modules(factors, model.module_scores(factors), 1)
    built = np.concatenate(best, axis=1)
    others = space.sample(np.random.default_rng(1), 2000)
    assert toy(built)[0, 1] < toy(others)[:, 1].min()
    got_quality, got_cost = built_by_addition(solver, factors, quality, cost)(quality)
    assert got_quality[0] == pytest.approx(-toy(built)[0, 1], rel=0.02)
    assert got_cost[0] == pytest.approx(toy(built)[0, 0], rel=0.1)


def test_fronts_and_volumes_of_a_known_set() -> None:
    points = np.array([[1.0, 3.0], [2.0, 2.0], [3.0, 1.0], [3.0, 3.0], [2.0, 2.0]])
    assert front(points).tolist() == [0, 1, 4, 2]
    # Three unit steps under (4, 4): 3 + 2 + 1 unit squares.
    assert hypervolume(points, np.array([4.0, 4.0])) == pytest.approx(6.0)
    assert hypervolume(points, np.array([1.0, 1.0])) == 0.0
    with pytest.raises(ParetoError, match="row 2"):
        front(np.array([[1.0, 2.0], [np.nan, 1.0]]))


def test_without_pymoo_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "pymoo.indicators.hv", None)
    with pytest.raises(ParetoError, match=r"genmad\[search\]"):
        hypervolume(np.zeros((1, 2)), np.ones(2))
