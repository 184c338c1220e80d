"""Attributions keep what their papers promise: completeness, determinism, additivity."""

import numpy as np
import pytest
import torch

from genmad.autobuild.architecture import ArchGraph, FeatureSchema, Floats
from genmad.autobuild.attribution import (
    FromEmbeddings,
    SubtreeWeights,
    choice_means,
    gnn_explainer,
    integrated_gradients,
    mean_embedding,
    subtree_labels,
)
from genmad.autobuild.batching import collate
from genmad.autobuild.network import HopNetwork, HopSettings

SCHEMA = FeatureSchema(names=("layer", "op"), choices=(("1", "2", "3"), ("a", "b", "c")))
EFFECT = np.array([0.0, 1.0, 3.0])


def chain(*ops: int) -> ArchGraph:
    features = np.array([(i, op) for i, op in enumerate(ops)], np.int64)
    edges = np.array([(i, i + 1) for i in range(len(ops) - 1)], np.int64).reshape(-1, 2)
    return ArchGraph(features=features, edges=edges, stages=np.zeros(len(ops), np.int64))


GRAPHS = [chain(a, b, c) for a in range(3) for b in range(3) for c in range(3)]


def additive(graphs: list[ArchGraph]) -> Floats:
    return np.array([EFFECT[graph.features[:, 1]].sum() for graph in graphs])


@pytest.fixture
def network() -> HopNetwork:
    torch.manual_seed(0)
    return HopNetwork(SCHEMA, HopSettings(width=8, hops=2)).eval()


def test_a_network_from_embeddings_is_the_network(network: HopNetwork) -> None:
    batch = collate(GRAPHS[:5])
    with torch.no_grad():
        again = FromEmbeddings(network)(network.features(batch.x), batch.edge_index, batch)
        assert torch.allclose(again, network(batch).values)


def test_integrated_gradients_add_up_to_the_prediction(network: HopNetwork) -> None:
    batch = collate(GRAPHS[:9])
    start = mean_embedding(network, GRAPHS)
    found = integrated_gradients(network, batch, start, steps=256)
    with torch.no_grad():
        average = FromEmbeddings(network)(start.expand(len(batch.x), -1), batch.edge_index, batch)
        expected = (network(batch).values - average).numpy()
    assert found.reshape(9, 3).sum(1) == pytest.approx(expected, abs=1e-3)
    assert np.ptp(expected) > 1e-3


def test_masks_are_shares_that_follow_from_the_seed(network: HopNetwork) -> None:
    batch = collate(GRAPHS[:4])
    before = {name: value.clone() for name, value in network.state_dict().items()}
    masks = [gnn_explainer(network, batch, epochs=5, seed=seed) for seed in (1, 1, 2)]
    assert masks[0].shape == (12,)
    assert ((masks[0] > 0) & (masks[0] < 1)).all()
    assert (masks[0] == masks[1]).all()
    assert (masks[0] != masks[2]).any()
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_subtrees_follow_structure_not_numbering() -> None:
    features = np.array([(0, 0), (1, 1), (1, 2), (2, 0)], np.int64)
    edges = np.array([(0, 1), (0, 2), (1, 3), (2, 3)], np.int64)
    one = ArchGraph(features=features, edges=edges, stages=np.zeros(4, np.int64))
    two = ArchGraph(features=features[[0, 2, 1, 3]], edges=edges, stages=np.zeros(4, np.int64))
    assert [sorted(level) for level in subtree_labels(one)] == [sorted(level) for level in subtree_labels(two)]
    first, second = (subtree_labels(chain(0, op, 2), depth=2) for op in (0, 1))
    assert first[0][2] == second[0][2]
    assert first[1][2] != second[1][2]


def test_subtree_weights_learn_what_each_operation_adds() -> None:
    graphs = GRAPHS[::2]
    found = SubtreeWeights.fit(graphs, additive(graphs), depth=0)
    others = GRAPHS[1::2]
    assert found.predict(others) == pytest.approx(additive(others), abs=0.05)
    nodes = found.nodes([chain(0, 0, 0), chain(0, 2, 0)])
    assert nodes[4] - nodes[1] == pytest.approx(3, abs=0.05)


def test_choice_means_are_means() -> None:
    found = choice_means([chain(0, 1), chain(0, 2), chain(1, 1)], np.array([1.0, 2.0, 6.0]))
    assert found[0, 0] == 1.5
    assert found[1, 1] == 3.5
    assert (1, 0) not in found
