"""Predictors that need no training loop: they learn made-up laws, tell what they cannot know, and keep order."""

import itertools

import numpy as np
import pytest

from genmad.autobuild.architecture import ArchGraph, FeatureSchema, Floats
from genmad.autobuild.blend import Blend
from genmad.autobuild.graph_features import cell_properties, distinct, features, one_hot, paths, reaches_output
from genmad.autobuild.kernel_process import wl_labels
from genmad.autobuild.labelled.edge_cells import EDGES_SCHEMA, MERGED_SCHEMA, edges_graph, merged_graph
from genmad.autobuild.labelled.macro import MACRO_SCHEMA, macro_graph
from genmad.autobuild.normal_scores import NormalScores
from genmad.autobuild.predictor import make_predictor
from genmad.autobuild.ridge import Ridge

NONE, SKIP, CONV1, CONV3, POOL = range(5)
LEARNERS = ("ridge", "boosting", "feature_gp", "wl_gp", "blend")


def _macro(n: int, seed: int) -> tuple[list[ArchGraph], Floats]:
    digits = np.random.default_rng(seed).integers(0, 3, (n, 8))
    gains = np.array([0.0, 2.0, 3.0])[digits]
    return [macro_graph("".join(map(str, row))) for row in digits], gains.sum(1) + 0.3 * gains[:, 0] * gains[:, 4]


def _cells(n: int, seed: int) -> tuple[list[ArchGraph], Floats]:
    words = np.random.default_rng(seed).integers(0, 5, (n, 6))
    graphs = [merged_graph(tuple(word)) for word in words.tolist()]
    convolutions = np.array([np.isin(graph.features[:, 0], (CONV1 + 2, CONV3 + 2)).sum() for graph in graphs])
    direct = np.array([[0, graph.num_nodes - 1] in graph.edges.tolist() for graph in graphs])
    return graphs, convolutions + 0.5 * direct


@pytest.mark.parametrize("name", LEARNERS)
@pytest.mark.parametrize(("schema", "make"), [(MACRO_SCHEMA, _macro), (MERGED_SCHEMA, _cells)])
def test_every_predictor_learns_a_law(name: str, schema: FeatureSchema, make: object) -> None:
    assert callable(make)
    graphs, y = make(120, 0)
    others, true = make(200, 1)
    predictor = make_predictor(name, schema)
    predictor.fit(graphs, y, seed=0)
    said = predictor.predict(others)
    assert np.isfinite(said).all()
    # The WL kernel of cells is the weakest here, at .83 when this was written; chance is 0.
    assert np.corrcoef(np.argsort(np.argsort(said)), np.argsort(np.argsort(true)))[0, 1] > 0.7


@pytest.mark.parametrize("name", LEARNERS)
def test_the_same_seed_gives_the_same_predictions(name: str) -> None:
    graphs, y = _macro(40, 0)
    pair = [make_predictor(name, MACRO_SCHEMA) for _ in range(2)]
    for each in pair:
        each.fit(graphs, y, seed=3)
    assert np.array_equal(pair[0].predict(graphs), pair[1].predict(graphs))


@pytest.mark.parametrize("name", ["boosting", "feature_gp", "wl_gp", "blend"])
def test_a_cell_without_a_path_is_put_last(name: str) -> None:
    """It computes a constant, whatever the labelled ones are like; there are 341 such cells in NAS-Bench-201."""
    graphs, y = _cells(60, 0)
    kept = reaches_output(MERGED_SCHEMA, graphs)
    predictor = make_predictor(name, MERGED_SCHEMA)
    predictor.fit([g for g, k in zip(graphs, kept, strict=True) if k], y[kept] + 5, seed=0)
    assert predictor.predict([merged_graph((NONE,) * 6)])[0] == y[kept].min() + 5


def test_ridge_leaves_one_out_as_if_it_were_fitted_again() -> None:
    graphs, y = _macro(25, 0)
    (strength,) = strengths = (2.0,)
    x = one_hot(MACRO_SCHEMA, graphs)
    errors = []
    for i in range(len(y)):
        rest = np.arange(len(y)) != i
        # The mean is taken off with the mean of all, as in the closed form: an intercept with no penalty.
        design = np.concatenate([x, np.ones((len(y), 1))], 1)
        penalty = np.diag([strength] * x.shape[1] + [0.0])
        weights = np.linalg.solve(design[rest].T @ design[rest] + penalty, design[rest].T @ y[rest])
        errors.append((design[i] @ weights - y[i]) ** 2)
    from genmad.autobuild.ridge import _left_out

    centred = x - x.mean(0)
    values, vectors = np.linalg.eigh(centred @ centred.T)
    found = _left_out(np.maximum(values, 0), vectors, vectors.T @ (y - y.mean()), strength)
    assert found == pytest.approx(np.mean(errors), rel=1e-6)
    assert Ridge(MACRO_SCHEMA, strengths=strengths).strengths == strengths


def test_graph_properties_of_a_cell_are_those_counted_by_hand() -> None:
    # Input to a conv3 to a conv1 to the output, and the input straight to the output.
    graph = merged_graph((CONV3, NONE, NONE, SKIP, CONV1, NONE))
    found = cell_properties(MERGED_SCHEMA, [graph])[0].reshape(15, 8)
    # The set of both convolutions is the fifth of the four operations' sets of two: (skip, 1x1) (skip, 3x3)
    # (skip, pool) (1x1, 3x3).
    count, shortest, longest, ways, readers, feeders, *_ = found[4 + 3]
    assert (count, shortest, longest, ways, readers, feeders) == (2, 1, 3, 2, 1, 1)


def test_properties_are_the_same_with_and_without_places() -> None:
    """Both forms of a cell without skips have the same properties: dead ends are no part of either."""
    word = (CONV3, NONE, POOL, CONV1, NONE, CONV3)
    assert np.array_equal(
        cell_properties(MERGED_SCHEMA, [merged_graph(word)]), cell_properties(EDGES_SCHEMA, [edges_graph(word)])
    )
    assert np.array_equal(paths(MERGED_SCHEMA, [merged_graph(word)]), paths(EDGES_SCHEMA, [edges_graph(word)]))


def test_one_hot_has_a_one_per_node_and_category() -> None:
    graphs, _ = _macro(5, 0)
    assert (one_hot(MACRO_SCHEMA, graphs).sum(1) == 8).all()


def test_features_tell_all_layers_apart() -> None:
    graphs = [macro_graph("".join(map(str, row))) for row in itertools.product(range(3), repeat=3) for row in [(*row, *row, 0, 1)]]  # fmt: skip  # noqa: E501
    assert len(np.unique(features(MACRO_SCHEMA, graphs), axis=0)) == len(graphs) == len(distinct(graphs)[0])


def test_wl_labels_see_as_far_as_they_are_refined() -> None:
    a = merged_graph((CONV3, NONE, NONE, NONE, POOL, NONE))
    b = merged_graph((POOL, NONE, NONE, NONE, CONV3, NONE))
    assert wl_labels(a, 0) == wl_labels(b, 0)
    assert wl_labels(a, 1) != wl_labels(b, 1)


def test_normal_scores_keep_order_beyond_the_ends() -> None:
    y = np.array([1.0, 5.0, 5.0, 9.0, 20.0])
    scores = NormalScores.fit(y)
    asked = np.array([-4.0, 1.0, 5.0, 7.0, 25.0, 90.0])
    assert (np.diff(scores.score(asked)) > 0).all()
    assert np.allclose(scores.target(scores.score(asked)), asked)
    assert scores.score(np.array([5.0]))[0] == pytest.approx(scores.scores[1])
    with pytest.raises(ValueError, match="not finite"):
        NormalScores.fit(np.array([1.0, np.nan]))


def test_constant_targets_give_that_constant() -> None:
    graphs, _ = _macro(12, 0)
    for name in LEARNERS:
        predictor = make_predictor(name, MACRO_SCHEMA)
        predictor.fit(graphs, np.full(12, 3.0), seed=0)
        assert np.allclose(predictor.predict(graphs), 3.0), name


def test_further_columns_reach_boosting_and_the_process() -> None:
    """A law that no graph shows: only the column knows it."""
    graphs, _ = _macro(120, 0)
    secret = np.random.default_rng(5).normal(size=len(graphs))
    known = {graph.features.tobytes(): value for graph, value in zip(graphs, secret, strict=True)}

    def columns(asked: list[ArchGraph]) -> Floats:
        return np.array([[known[graph.features.tobytes()], np.nan] for graph in asked])

    unique, at = distinct(graphs)
    truth = columns(unique)[:, 0]
    for name in ("boosting", "feature_gp"):
        predictor = make_predictor(name, MACRO_SCHEMA, columns=columns)
        predictor.fit(unique[:80], truth[:80], seed=0)
        assert np.corrcoef(predictor.predict(unique[80:]), truth[80:])[0, 1] > 0.8, name
    assert len(at) == len(graphs)


def test_a_blend_asks_for_as_many_settings_as_members() -> None:
    with pytest.raises(ValueError, match="2 members with 1"):
        Blend(MACRO_SCHEMA, members=("ridge", "wl_gp"), settings=({},))
    with pytest.raises(ValueError, match="no predictors"):
        Blend(MACRO_SCHEMA, members=())


@pytest.mark.parametrize("name", LEARNERS)
def test_predicting_before_fitting_is_an_error(name: str) -> None:
    with pytest.raises(RuntimeError, match="before fit"):
        make_predictor(name, MACRO_SCHEMA).predict([macro_graph("00000000")])


def test_a_missing_package_is_a_usage_error_that_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards the exit code of an installation without extras: it was 1, which no table of codes lists."""
    import sys

    from genmad.autobuild.boosting import MissingPackageError, sklearn_ensemble

    monkeypatch.setitem(sys.modules, "sklearn.ensemble", None)
    with pytest.raises(MissingPackageError, match="no scikit-learn") as found:
        sklearn_ensemble("RandomForestRegressor")
    assert found.value.exit_code == 2
    assert found.value.diagnostic.fix == 'pip install "genmad[predictors]"'
