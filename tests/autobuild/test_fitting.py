"""Batches, losses and the training loop that all neural predictors share."""

import numpy as np
import pytest
import torch
from torch import nn

from genmad.autobuild.architecture import ArchGraph, FeatureSchema
from genmad.autobuild.batching import GraphBatch, collate, to_geometric
from genmad.autobuild.fitting import FitSettings, Network, Prediction, fit_network
from genmad.autobuild.losses import LOSSES
from genmad.autobuild.network import HopNetwork, HopSettings

SCHEMA = FeatureSchema(names=("op", "size"), choices=(("a", "b", "c"), ("1", "2", "3", "4")))


def graphs(count: int, seed: int = 0) -> list[ArchGraph]:
    """Random directed graphs of 2 to 6 nodes."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        size = int(rng.integers(2, 7))
        edges = [(a, b) for a in range(size) for b in range(a + 1, size) if b == a + 1 or rng.random() < 0.3]
        features = np.stack([rng.integers(0, 3, size), rng.integers(0, 4, size)], axis=1)
        made.append(ArchGraph(features=features, edges=np.array(edges), stages=np.zeros(size, np.int64)))
    return made


def totals(made: list[ArchGraph]) -> np.ndarray:
    """A target that a network over choices can learn."""
    return np.array([float(graph.features[:, 1].mean() + 0.5 * (graph.features[:, 0] == 2).mean()) for graph in made])


def batches_equal(a: GraphBatch, b: GraphBatch) -> bool:
    return all(torch.equal(getattr(a, name), getattr(b, name)) for name in a.__slots__)


def test_rows_of_a_batch_are_the_batch_of_those_rows() -> None:
    made = graphs(9)
    numbers = np.random.default_rng(1).random((9, 2))
    whole = collate(made, numbers)
    wanted = [4, 0, 8, 4]
    assert batches_equal(whole.rows(torch.tensor(wanted)), collate([made[i] for i in wanted], numbers[wanted]))


def test_chunks_cover_all_graphs_in_order() -> None:
    made = graphs(7)
    sizes = [part.num_graphs for part in collate(made).chunks(3)]
    assert sizes == [3, 3, 1]
    assert torch.equal(torch.cat([part.x for part in collate(made).chunks(3)]), collate(made).x)


def test_dense_view_holds_the_same_edges() -> None:
    made = graphs(5)
    dense = collate(made).dense()
    for number, graph in enumerate(made):
        assert int(dense.mask[number].sum()) == graph.num_nodes
        assert torch.nonzero(dense.adjacency[number]).tolist() == sorted(graph.edges.tolist())
        assert dense.x[number, : graph.num_nodes].tolist() == graph.features.tolist()


def test_batch_is_that_of_torch_geometric() -> None:
    from torch_geometric.data import Batch

    made = graphs(4)
    theirs, ours = Batch.from_data_list([to_geometric(graph) for graph in made]), collate(made)
    assert torch.equal(theirs.edge_index, ours.edge_index)
    assert torch.equal(theirs.batch, ours.batch)
    assert torch.equal(theirs.x, ours.x)


def test_one_row_of_graph_features_per_graph() -> None:
    with pytest.raises(ValueError, match="3 rows of graph features for 2 graphs"):
        collate(graphs(2), np.zeros((3, 1)))


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_is_smaller_for_the_right_order(name: str) -> None:
    targets = torch.linspace(1, 2, 12)
    good = (targets + 0.01 * torch.sin(torch.arange(12.0))).requires_grad_()
    loss = LOSSES[name](good, targets)
    loss.backward()
    assert float(loss.detach()) < float(LOSSES[name](good.detach().flip(0), targets))
    assert good.grad is not None
    assert torch.isfinite(good.grad).all()


def test_pairwise_losses_are_the_sums_over_pairs() -> None:
    said, targets = torch.tensor([0.2, 0.1, 0.5]), torch.tensor([3.0, 1.0, 1.0])
    gaps = [0.2 - 0.1, 0.2 - 0.5]
    assert float(LOSSES["hinge"](said, targets)) == pytest.approx(np.mean([max(0, 0.1 - gap) for gap in gaps]))
    assert float(LOSSES["bpr"](said, targets)) == pytest.approx(np.mean([np.log1p(np.exp(-gap)) for gap in gaps]))


def hop_network() -> nn.Module:
    return HopNetwork(SCHEMA, HopSettings(width=8, hops=2))


def test_the_same_seed_gives_the_same_network() -> None:
    made = graphs(30)
    settings = FitSettings(epochs=3, batch_size=8)
    a, b, c = (fit_network(hop_network, made, totals(made), settings, seed=s).predict(made) for s in (1, 1, 2))
    assert a.tolist() == b.tolist() != c.tolist()


def test_training_leaves_the_global_generator_alone() -> None:
    made = graphs(10)
    torch.manual_seed(5)
    wanted = torch.rand(1)
    torch.manual_seed(5)
    fit_network(hop_network, made, totals(made), FitSettings(epochs=1), seed=1)
    assert torch.equal(torch.rand(1), wanted)


def test_a_network_learns_in_the_units_of_its_targets() -> None:
    made = graphs(120)
    targets = 1000 + 50 * totals(made)
    fitted = fit_network(hop_network, made, targets, FitSettings(epochs=40, batch_size=32, lr=1e-2), seed=0)
    error = np.abs(fitted.predict(made) - targets).mean()
    assert error < 0.35 * np.abs(targets - targets.mean()).mean()


def test_hop_loss_ranks_norms_of_every_hop() -> None:
    made = graphs(120)
    settings = FitSettings(epochs=40, batch_size=40, lr=1e-2)
    norms = fit_network(hop_network, made, totals(made), settings, seed=0).hop_norms(made)
    assert norms.shape == (120, 3)
    ranks = totals(made).argsort().argsort()
    assert all(np.corrcoef(column.argsort().argsort(), ranks)[0, 1] > 0.85 for column in norms.T)


class GraphNumbers(Network):
    """Reads nothing but the numbers of the graph."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(2, 1)

    def forward(self, batch: GraphBatch) -> Prediction:
        return Prediction(self.out(batch.graph_features).squeeze(-1))


def test_numbers_of_whole_graphs_reach_the_network() -> None:
    made, numbers = graphs(40), np.random.default_rng(2).normal(size=(40, 2))
    fitted = fit_network(GraphNumbers, made, numbers @ [3.0, -1.0], FitSettings(epochs=150, lr=0.05, batch_size=20),
                         seed=0, graph_features=numbers)  # fmt: skip
    np.testing.assert_allclose(fitted.predict(made, numbers), numbers @ [3.0, -1.0], atol=0.1)
    with pytest.raises(TypeError, match="GraphNumbers has no hop embeddings"):
        fitted.hop_norms(collate(made, numbers))


@pytest.mark.parametrize("targets", [np.ones(3), np.array([1.0, np.nan, 2.0, 3.0])])
def test_targets_must_be_finite_and_one_per_graph(targets: np.ndarray) -> None:
    with pytest.raises(ValueError, match="expected as many, finite"):
        fit_network(hop_network, graphs(4), targets, FitSettings(epochs=1), seed=0)


def test_unknown_losses_are_named() -> None:
    with pytest.raises(ValueError, match="expected one of mse, l1, mape"):
        FitSettings(loss="rmse")
    with pytest.raises(ValueError, match="expected one of corrected"):
        FitSettings(hop_loss="both")
