"""AutoBuild's predictor: what its norms see, checkpoints, ensembles, refusals."""

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from genmad.autobuild.architecture import ArchGraph, FeatureSchema
from genmad.autobuild.autobuild_predictor import AutoBuildPredictor
from genmad.autobuild.batching import collate
from genmad.autobuild.ensemble import AutoBuildEnsemble
from genmad.autobuild.fitting import FitSettings
from genmad.autobuild.network import HopSettings
from genmad.autobuild.predictor import make_predictor
from genmad.autobuild.predictor_files import CONFIG, WEIGHTS, PredictorError
from genmad.autobuild.scoring import spearman
from genmad.autobuild.teacher import TeacherSettings

SCHEMA = FeatureSchema(names=("layer", "size"), choices=(("1", "2", "3", "4", "5"), ("3", "5", "7")))
SMALL = HopSettings(width=8, hops=3)
SHORT = FitSettings(epochs=3, batch_size=16)
UNTAUGHT = TeacherSettings(most=0)
LITTLE = TeacherSettings(architectures=60, epochs=3)


def chains(count: int, seed: int = 0) -> list[ArchGraph]:
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        size = int(rng.integers(3, 6))
        features = np.stack([np.arange(size), rng.integers(0, 3, size)], axis=1)
        steps = np.arange(size - 1)
        made.append(ArchGraph(features=features, edges=np.stack([steps, steps + 1], axis=1),
                              stages=np.zeros(size, np.int64)))  # fmt: skip
    return made


def worth(graphs: list[ArchGraph]) -> np.ndarray:
    return np.array([float((1 + graph.features[:, 1]).sum()) for graph in graphs])


def fitted(teaching: TeacherSettings = UNTAUGHT, hops: HopSettings = SMALL, seed: int = 0) -> AutoBuildPredictor:
    made = AutoBuildPredictor(SCHEMA, hops=hops, fitting=SHORT, teaching=teaching, target="accuracy")
    made.fit(chains(24), worth(chains(24)), seed=seed)
    return made


def changed(graph: ArchGraph, node: int) -> ArchGraph:
    features = graph.features.copy()
    features[node, 1] = (features[node, 1] + 1) % 3
    return replace(graph, features=features)


@pytest.mark.parametrize("both_ways", [False, True])
def test_a_nodes_embedding_sees_as_far_as_its_hop(both_ways: bool) -> None:
    """The last node's norm at hop h changes with the node h before it and not with the one before that."""
    predictor = fitted(hops=replace(SMALL, both_ways=both_ways))
    graph = next(g for g in chains(50) if g.num_nodes == 5)
    before = predictor.node_norms([graph])
    for distance in range(1, 5):
        after = predictor.node_norms([changed(graph, 4 - distance)])
        seen = ~np.isclose(before[4], after[4], rtol=1e-6)
        assert seen.tolist() == [h >= distance for h in range(4)]
    backwards = ~np.isclose(before[0], predictor.node_norms([changed(graph, 1)])[0], rtol=1e-6)
    assert bool(backwards.any()) is both_ways


def test_norms_are_those_of_embeddings_and_graphs_of_means() -> None:
    predictor, graphs = fitted(), chains(5)
    norms, starts = predictor.node_norms(graphs), np.cumsum([0, *(g.num_nodes for g in graphs)])
    for hop in range(4):
        nodes = predictor.node_embeddings(graphs, hop)
        np.testing.assert_allclose(np.abs(nodes).sum(1), norms[:, hop], rtol=1e-5)
        means = np.stack([nodes[a:b].mean(0) for a, b in pairwise(starts)])
        np.testing.assert_allclose(np.abs(means).sum(1), predictor.hop_norms(graphs)[:, hop], rtol=1e-5)


def test_norms_at_hop_0_are_sums_of_feature_scores() -> None:
    predictor, graphs = fitted(), chains(3)
    scores = predictor.feature_scores()
    assert {name: list(own) for name, own in scores.items()} == dict(zip(SCHEMA.names, map(list, SCHEMA.choices),
                                                                         strict=True))  # fmt: skip
    rows = np.concatenate([graph.features for graph in graphs])
    wanted = [sum(scores[n][c[v]] for n, c, v in zip(SCHEMA.names, SCHEMA.choices, row, strict=True)) for row in rows]
    np.testing.assert_allclose(predictor.node_norms(graphs)[:, 0], wanted, rtol=1e-5)


def test_tensors_can_be_given_for_graphs() -> None:
    predictor, graphs = fitted(LITTLE), chains(6)
    assert predictor.teacher is not None
    np.testing.assert_allclose(predictor.predict(collate(graphs)), predictor.predict(graphs))
    np.testing.assert_allclose(predictor.node_norms(collate(graphs)), predictor.node_norms(graphs))


def test_the_process_has_its_share_of_predictions() -> None:
    predictor, graphs = fitted(LITTLE), chains(30, seed=1)
    assert predictor.teacher is not None
    parts = LITTLE.share * predictor.teacher.predict(graphs) + (1 - LITTLE.share) * predictor.network_values(graphs)
    np.testing.assert_allclose(predictor.predict(graphs), parts)
    assert spearman(predictor.predict(graphs), worth(graphs)) > 0.9


def test_the_registry_makes_it() -> None:
    assert isinstance(make_predictor("autobuild", SCHEMA), AutoBuildPredictor)
    assert isinstance(make_predictor("autobuild_ensemble", SCHEMA, folds=3), AutoBuildEnsemble)


@pytest.mark.parametrize("teaching", [UNTAUGHT, LITTLE])
def test_a_saved_predictor_says_the_same(tmp_path: Path, teaching: TeacherSettings) -> None:
    predictor, graphs = fitted(teaching), chains(8, seed=2)
    predictor.save_pretrained(tmp_path / "p")
    again = AutoBuildPredictor.from_pretrained(tmp_path / "p", SCHEMA)
    np.testing.assert_allclose(again.predict(graphs), predictor.predict(graphs), rtol=1e-6)
    np.testing.assert_allclose(again.node_norms(graphs), predictor.node_norms(graphs), rtol=1e-5)
    assert again.target == "accuracy"
    assert sorted(path.name for path in (tmp_path / "p").iterdir()) == sorted([WEIGHTS, CONFIG])


def test_a_checkpoint_of_another_space_is_refused(tmp_path: Path) -> None:
    fitted().save_pretrained(tmp_path)
    other = replace(SCHEMA, choices=(SCHEMA.choices[0], ("3", "5", "9")))
    with pytest.raises(PredictorError, match=r"got a predictor for .*size \(3/5/7\).*expected one for .*\(3/5/9\)"):
        AutoBuildPredictor.from_pretrained(tmp_path, other)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"version": 99}, "got version 99; expected version 1"), ({"kind": "bert"}, "the config of something else"),
     ({"hops": {"depth": 3}}, "settings that cannot be read"), ({"hops": {"width": 16, "hops": 3}}, "do not fit")],
)  # fmt: skip
def test_checkpoints_that_are_wrong_are_named(tmp_path: Path, change: dict[str, object], message: str) -> None:
    fitted().save_pretrained(tmp_path)
    config = json.loads((tmp_path / CONFIG).read_text())
    (tmp_path / CONFIG).write_text(json.dumps(config | change))
    with pytest.raises(PredictorError, match=message):
        AutoBuildPredictor.from_pretrained(tmp_path)


def test_damaged_or_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(PredictorError, match=r"config\.json.*No such file"):
        AutoBuildPredictor.from_pretrained(tmp_path)
    fitted().save_pretrained(tmp_path)
    (tmp_path / WEIGHTS).write_bytes(b"not tensors at all")
    with pytest.raises(PredictorError, match="no safetensors file"):
        AutoBuildPredictor.from_pretrained(tmp_path)


def test_architectures_of_another_space_are_named_by_row() -> None:
    strange = chains(3)
    strange[1] = replace(strange[1], features=strange[1].features + 3)
    with pytest.raises(PredictorError, match="rows 1: got choices outside layer, size"):
        fitted().predict(strange)
    with pytest.raises(PredictorError, match="rows 0: got nodes of other categories"):
        fitted().predict([replace(strange[0], features=strange[0].features[:, :1])])


def test_targets_that_cannot_be_learned_are_named() -> None:
    graphs = chains(4)
    with pytest.raises(PredictorError, match="accuracy: got no finite number in rows 2"):
        AutoBuildPredictor(SCHEMA, target="accuracy").fit(graphs, np.array([1.0, 2.0, np.nan, 3.0]), seed=0)
    with pytest.raises(PredictorError, match="one that was not trained"):
        AutoBuildPredictor(SCHEMA).predict(graphs)


def test_an_ensemble_weighs_members_by_what_they_rank_rightly() -> None:
    graphs = chains(30)
    found = AutoBuildEnsemble(SCHEMA, folds=3, repeats=2, hops=SMALL, fitting=SHORT, teaching=LITTLE)
    found.fit(graphs, worth(graphs), seed=0)
    assert len(found.members) == 6
    table = np.stack([member.correlations for member in found.members]).clip(0)
    np.testing.assert_allclose(found.weights(), table / table.sum(0))
    asked = chains(40, seed=3)
    assert found.hop_norms(asked).shape == (40, 4)
    assert spearman(found.predict(asked), worth(asked)) > 0.9
    again = AutoBuildEnsemble(SCHEMA, folds=3, repeats=2, hops=SMALL, fitting=SHORT, teaching=LITTLE)
    again.fit(graphs, worth(graphs), seed=0)
    assert again.predict(asked).tolist() == found.predict(asked).tolist()


def test_fewer_labels_than_folds_is_an_error_that_says_how_many_folds() -> None:
    graphs = chains(6)
    with pytest.raises(PredictorError, match=r"6 labels of 6 distinct .* for 5 folds; .*use 3 folds"):
        AutoBuildEnsemble(SCHEMA).fit(graphs, worth(graphs), seed=0)
    with pytest.raises(PredictorError, match=r"20 labels of 2 distinct architectures for 5 folds; .*use 2 folds"):
        AutoBuildEnsemble(SCHEMA).fit(chains(20), worth(chains(20)), seed=0, groups=np.arange(20) % 2)
