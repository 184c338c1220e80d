"""Search: operators stay inside the space, predictors learn, no class is asked for twice, guidance moves the mean."""

from pathlib import Path

import numpy as np
import pytest

from genmad.model.gaussian_process import GaussianProcess
from genmad.sampling.pools import NetLaw, PoolSampler, UniformLaw
from genmad.sampling.pools.law_draws import law_draw
from genmad.search.guidance import learn
from genmad.search.methods import METHODS, History, Listed, table_query
from genmad.search.operators import cross, fixed_choices, mutate
from genmad.spaces import SPACES, LabelTable, Words, get_space

NB201 = get_space("nb201")


def quality(words: Words) -> np.ndarray:
    """A made-up label: 3x3 convolutions late in the cell are good, `none` is bad; distinct optimum."""
    weight = np.array([1.0, 1.0, 2.0, 1.5, 2.5, 3.0])
    return ((words == 3) * weight).sum(1) + 0.5 * (words == 2).sum(1) - (words == 0) @ weight


@pytest.mark.parametrize("name", sorted(SPACES))
def test_children_are_members_within_the_budget(name: str) -> None:
    space = get_space(name)
    rng = np.random.default_rng(0)
    grammar = space.grammar(("params",))
    costs = space.costs(space.sample(rng, 200))[:, 0]
    limits = (int(np.median(costs)),)
    parents = grammar.sample(rng, 60, limits)
    children = mutate(grammar, parents, rng, limits)
    mixed = cross(grammar, parents[:30], parents[30:], rng, limits)
    for words in (children, mixed):
        assert grammar.accepts(words).all()
        assert (space.costs(words)[:, 0] <= limits[0]).all()
        assert all(space.contains(space.to_text(tuple(word))) for word in words.tolist())
    assert (children != parents).any(1).all()


def test_a_child_of_two_has_every_choice_from_one_of_them_where_all_mix() -> None:
    rng = np.random.default_rng(0)
    a, b = NB201.sample(rng, 50), NB201.sample(rng, 50)
    mixed = cross(NB201.grammar(), a, b, rng)
    assert ((mixed == a) | (mixed == b)).all()
    assert (cross(NB201.grammar(), a, a, rng) == a).all()


def test_partial_members_are_read_by_name() -> None:
    assert fixed_choices(NB201.grammar(), {"edge 0-3": "skip_connect"}) == {3: 1}
    with pytest.raises(LookupError, match="no step 'edge 3-0'"):
        fixed_choices(NB201.grammar(), {"edge 3-0": "none"})
    with pytest.raises(LookupError, match="no choice 'conv'"):
        fixed_choices(NB201.grammar(), {"edge 0-3": "conv"})


def test_the_process_learns_passes_through_its_labels_and_is_unsure_elsewhere() -> None:
    rng = np.random.default_rng(0)
    words = NB201.sample(rng, 260)
    x, y = NB201.features(words), quality(words)
    process = GaussianProcess.fit(x[:60], y[:60])
    mean, deviation = process.predict(x[60:])
    assert np.corrcoef(mean, y[60:])[0, 1] > 0.9
    assert process.normal(x[:60])[1].mean() < process.normal(x[60:])[1].mean()
    assert (deviation >= 0).all()


def draw(rng: np.random.Generator, n: int) -> Words:
    return NB201.sample(rng, n)


@pytest.mark.parametrize("name", sorted(METHODS))
def test_methods_ask_for_no_class_twice_and_keep_to_the_budget(name: str) -> None:
    asked: list[Words] = []

    def query(words: Words) -> np.ndarray:
        asked.append(words)
        return quality(words)

    history = History(space=NB201, query=query, budget=40)
    METHODS[name](history, np.random.default_rng(0), draw)
    assert len(history.labels) == 40
    assert len(set(NB201.keys(history.table))) == 40
    assert history.labels == quality(history.table).tolist()


def test_the_generator_with_its_predictor_beats_chance() -> None:
    """Median queries over three seeds to the best of 15,625 members; chance needs thousands."""
    goal = quality(NB201.grammar().words()).max()
    needed = []
    for seed in range(3):
        history = History(space=NB201, query=quality, budget=120, stop=goal)
        METHODS["generator"](history, np.random.default_rng(seed), draw)
        needed.append(len(history.labels) if max(history.labels) >= goal else 1000)
    assert np.median(needed) < 60


def test_members_without_a_label_cost_no_query() -> None:
    def query(words: Words) -> np.ndarray:
        return np.where(words[:, 0] == 0, np.nan, quality(words))

    history = History(space=NB201, query=query, budget=20)
    METHODS["random"](history, np.random.default_rng(0), draw)
    assert len(history.labels) == 20
    assert (history.table[:, 0] != 0).all()


def test_guided_pools_are_better_than_free_ones_and_inverted_ones_worse() -> None:
    """The condition works: means of the true label over 300 members, guided by 60 labels."""
    from genmad.training.pools import PoolTraining, fit

    def small(space: object, words: Words, conditions: np.ndarray, seed: int) -> object:
        del space
        settings = PoolTraining(hidden_size=24, steps=150, batch_size=128, seed=seed, conditions=int(conditions.max()))
        return fit(NB201.grammar(), words, settings, conditions=conditions).frozen(space="nb201")

    free = PoolSampler(space=NB201, law=UniformLaw())
    words = NB201.sample(np.random.default_rng(5), 60)
    means = {"free": quality(free.draw(300).words).mean()}
    for name, invert in (("guided", False), ("inverted", True)):
        found = learn(
            NB201, words, quality(words), lambda n: free.independent(min(n, 3000))[0], small, invert=invert  # type: ignore[arg-type]
        )  # fmt: skip
        law = NetLaw(net=found.net, condition=found.condition, guidance=1.5)
        means[name] = quality(PoolSampler(space=NB201, law=law).draw(300).words).mean()
    assert means["guided"] > means["free"] + 1.5
    assert means["inverted"] < means["free"] - 1


def test_a_table_of_some_members_restricts_every_method_to_it() -> None:
    """NAS-Bench-101 with 300 labelled cells: isomorphic words have one label, nothing else is asked for, and asking for
    more than there are ends."""
    space = get_space("nb101")
    words = space.sample(np.random.default_rng(3), 300)
    labels = np.log(space.costs(words)[:, 0].astype(np.float64))
    labels[:20] = np.nan
    table = LabelTable(path=Path("t.csv"), keys=tuple(space.keys(words)), words=words, columns={"label": labels})
    listed = Listed.of(space, table, "label")
    assert listed is not None
    known = set(space.keys(words[20:]))
    assert len(listed.words) == len(known)
    proposes = law_draw(space, UniformLaw(), listed.words)
    for name, method in METHODS.items():
        budget = 1000 if name == "random" else 12
        history = History(space=space, query=table_query(table, "label", space=space), budget=budget, listed=listed)
        method(history, np.random.default_rng(0), proposes)
        keys = space.keys(history.table)
        assert len(keys) == len(set(keys)) == min(budget, len(known)), name
        assert set(keys) <= known, name


def test_a_table_of_every_class_restricts_nothing() -> None:
    words = NB201.grammar().words()
    table = LabelTable(path=Path("t.csv"), keys=(), words=words, columns={"label": quality(words)})
    assert Listed.of(NB201, table, "label") is None


def test_features_of_nb101_are_those_of_the_class() -> None:
    space = get_space("nb101")
    words = space.sample(np.random.default_rng(0), 2000)
    features = space.features(words)
    seen: dict[str, np.ndarray] = {}
    pairs = [(row, seen.setdefault(key, row)) for key, row in zip(space.keys(words), features, strict=True)]
    twins = [(row, first) for row, first in pairs if row is not first]
    assert len(twins) > 2
    assert all((row == first).all() for row, first in twins)
    assert len(np.unique(features, axis=0)) > 0.95 * len(seen)
