"""Scores of modules against sums by hand, and that what was shared to save time changes nothing."""

import time

import numpy as np
import pytest

from genmad.autobuild.encodings import get_encoding
from genmad.autobuild.scores import Moments, module_norms, node_scores, prefix_batch, score_modules
from genmad.autobuild.subgraphs import rooted_subgraphs
from tests.autobuild.scorers import AdditiveScorer


def _members(name: str, count: int) -> list[str]:
    encoding = get_encoding(name)
    assert encoding.modules is not None
    rng = np.random.default_rng(0)
    return [
        encoding.modules.text([codes[rng.integers(len(codes))].tolist() for codes in encoding.modules.codes])
        for _ in range(count)
    ]


def test_equation_5_by_hand() -> None:
    encoding = get_encoding("ofa_mbv3")
    space = encoding.modules
    assert space is not None
    scorer = AdditiveScorer(encoding.schema)
    graphs = [encoding.graph(text) for text in _members("ofa_mbv3", 60)]
    values = scorer.predict(graphs)
    moments = Moments.of(scorer, graphs, values, space)
    scores = score_modules(space, [scorer], [moments])
    stage, number = 2, 5000
    codes = scores[stage].codes[number].tolist()
    graph = space.stages[stage].graph(codes)
    size = graph.num_nodes
    norms = np.concatenate([scorer.node_norms([g]) for g in graphs])[:, size - 1]
    deep = [v for g, v in zip(graphs, values, strict=True) if (g.stages == stage).sum() == size]
    standardised = (scorer.worth(graph.features).sum() - norms.mean()) / norms.std()
    assert scores[stage].score[number] == pytest.approx(standardised * np.std(deep) + np.mean(deep))


def test_normalised_scores_are_weighted_by_their_hop() -> None:
    encoding = get_encoding("ofa_mbv3")
    space = encoding.modules
    assert space is not None
    scorer = AdditiveScorer(encoding.schema)
    graphs = [encoding.graph(text) for text in _members("ofa_mbv3", 20)]
    moments = Moments.of(scorer, graphs, scorer.predict(graphs), space)
    weights = np.array([1.0, 0.0, 0.5, 1.0, 1.0])
    found = score_modules(space, [scorer], [moments], shift="normalised", hop_weights=[weights])[0]
    assert (found.score[found.sizes == 2] == 0).all()
    plain = score_modules(space, [scorer], [moments], shift="normalised")[0]
    assert found.score[found.sizes == 3] == pytest.approx(plain.score[found.sizes == 3] / 2)
    with pytest.raises(ValueError, match="normalised"):
        score_modules(space, [scorer], [moments], shift="other")


@pytest.mark.parametrize("name", ["ofa_mbv3", "ofa_pn", "nb_macro"])
def test_modules_that_share_their_first_layers_score_as_they_do_alone(name: str) -> None:
    """The tree of beginnings is right only if each node has the parent that its module gives it."""
    encoding = get_encoding(name)
    space = encoding.modules
    assert space is not None
    rng = np.random.default_rng(3)
    shared, alone = AdditiveScorer(encoding.schema), AdditiveScorer(encoding.schema, both_ways=True)
    for stage, codes in zip(space.stages, space.codes, strict=True):
        some = codes[rng.choice(len(codes), min(200, len(codes)), replace=False)]
        assert module_norms(stage, some, shared) == pytest.approx(module_norms(stage, some, alone))
    batch, roots = prefix_batch(space.stages[-1], space.codes[-1])
    assert len(set(roots.tolist())) == len(space.codes[-1]) <= len(batch.x)


def test_layers_side_by_side_score_their_mean() -> None:
    encoding = get_encoding("nb201")
    space = encoding.modules
    assert space is not None
    scorer = AdditiveScorer(encoding.schema)
    stage, codes = space.stages[2], space.codes[2][77:78]
    worth = scorer.worth(stage.graph(codes[0].tolist()).features)
    assert module_norms(stage, codes, scorer)[0] == pytest.approx(worth.mean())


def test_all_mobilenet_modules_are_scored_in_two_seconds_by_the_real_network() -> None:
    """CPU seconds of one core; about 0.15 are usual."""
    torch = pytest.importorskip("torch")
    from genmad.autobuild.autobuild_predictor import AutoBuildPredictor
    from genmad.autobuild.fitting import FitSettings

    encoding = get_encoding("ofa_mbv3")
    space = encoding.modules
    assert space is not None
    predictor = AutoBuildPredictor(encoding.schema, fitting=FitSettings(epochs=1))
    graphs = [encoding.graph(text) for text in _members("ofa_mbv3", 20)]
    values = np.random.default_rng(0).normal(size=20)
    predictor.fit(graphs, values, seed=0)
    moments = Moments.of(predictor, graphs, values, space)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        begin = time.process_time()
        scores = score_modules(space, [predictor], [moments])
        seconds = time.process_time() - begin
    finally:
        torch.set_num_threads(threads)
    assert sum(len(stage.score) for stage in scores) == 36_855
    assert seconds < 2
    # In the whole network the module's root says the same at that hop.
    graph = encoding.graph(_members("ofa_mbv3", 1)[0])
    last = int(np.flatnonzero(graph.stages == 1)[-1])
    size = int((graph.stages == 1).sum())
    kinds = space.stages[1].code_of(space.modules_in(_members("ofa_mbv3", 1)[0])[1])
    alone = module_norms(space.stages[1], np.array([kinds], np.int8), predictor)
    assert alone[0] == pytest.approx(predictor.node_norms([graph])[last, size - 1], rel=1e-5)


def test_node_scores_are_deviations_of_their_hop() -> None:
    encoding = get_encoding("nb_macro")
    scorer = AdditiveScorer(encoding.schema)
    graphs = [encoding.graph(text) for text in ("01201201", "22222222", "11111111", "00000000", "20202020")]
    moments = Moments.of(scorer, graphs, scorer.predict(graphs), encoding.modules)
    scores = np.concatenate([node_scores(scorer, moments, graph) for graph in graphs])
    assert scores.mean(0) == pytest.approx(np.zeros(5), abs=1e-9)
    assert scores.std(0) == pytest.approx(np.ones(5))


def test_rooted_subgraphs_are_counted_by_what_they_read() -> None:
    encoding = get_encoding("nb101")
    cell = "111 conv3x3-bn-relu"
    graph = encoding.graph(cell)
    found = {each.text: (each.hop, each.count) for each in rooted_subgraphs(encoding.schema, [graph, graph], 2)}
    assert found == {"conv3x3-bn-relu": (0, 2), "conv3x3-bn-relu(input)": (1, 2)}
