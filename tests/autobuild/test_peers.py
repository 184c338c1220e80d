"""Neural peers: what an encoder must see, must not see, and that training reaches what it should."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from genmad.autobuild.architecture import ArchGraph, FeatureSchema, Floats
from genmad.autobuild.batching import collate
from genmad.autobuild.fitting import FitSettings
from genmad.autobuild.peers.adjacency_attention import AttentionEncoder, AttentionPredictor, relations
from genmad.autobuild.peers.encoder import Encoder, PeerPredictor
from genmad.autobuild.peers.experts import (
    DynamicEnsemble,
    ExpertsPredictor,
    cheap_task,
    pretrain,
    structure_task,
)
from genmad.autobuild.peers.gates import GatesEncoder, GatesPredictor
from genmad.autobuild.peers.gin import GinEncoder, GinPredictor
from genmad.autobuild.peers.pretrained import PretrainedPredictor
from genmad.autobuild.peers.ta_gates import TaGatesEncoder, TaGatesPredictor
from genmad.autobuild.predictor import PREDICTORS, make_predictor

SCHEMA = FeatureSchema(names=("op",), choices=(("input", "output", "conv", "pool", "skip"),))
SHORT = FitSettings(epochs=30, lr=5e-3, weight_decay=0.0, batch_size=32, loss="hinge", hop_loss="none")
ENCODERS = (GinEncoder, GatesEncoder, TaGatesEncoder, AttentionEncoder)
PEERS = (GinPredictor, GatesPredictor, TaGatesPredictor, AttentionPredictor)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def graph(ops: Sequence[int], edges: Sequence[tuple[int, int]]) -> ArchGraph:
    return ArchGraph(
        features=np.array(ops, np.int64)[:, None], edges=np.array(edges, np.int64).reshape(-1, 2),
        stages=np.zeros(len(ops), np.int64),
    )  # fmt: skip


def chains(count: int, seed: int) -> list[ArchGraph]:
    """Chains of three to five operations between input and output."""
    rng = np.random.default_rng(seed)
    out = []
    for _ in range(count):
        ops = [0, *rng.integers(2, 5, rng.integers(3, 6)).tolist(), 1]
        out.append(graph(ops, [(i, i + 1) for i in range(len(ops) - 1)]))
    return out


def order_matters(graphs: Sequence[ArchGraph]) -> Floats:
    """How many pools come right after a convolution: a count of operations does not know it."""
    return np.array(
        [float(((g.features[:-1, 0] == 2) & (g.features[1:, 0] == 3)).sum()) + 0.1 * len(g.features) for g in graphs]
    )


def embed(encoder: Encoder, graphs: Sequence[ArchGraph]) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = encoder.eval()(collate(graphs))
    return found


@pytest.mark.parametrize("kind", ENCODERS)
def test_renumbered_nodes_and_padding_change_nothing(kind: type[Encoder]) -> None:
    torch.manual_seed(0)
    encoder = kind(SCHEMA, width=16)  # type: ignore[call-arg]
    one = graph([0, 2, 3, 1], [(0, 1), (0, 2), (1, 3), (2, 3)])
    other = graph([0, 3, 2, 1], [(0, 1), (0, 2), (1, 3), (2, 3)])
    long = chains(1, 0)[0]
    alone, beside = embed(encoder, [one]), embed(encoder, [other, long])
    assert torch.allclose(alone[0], beside[0], atol=1e-5)


@pytest.mark.parametrize("kind", ENCODERS)
def test_direction_and_order_are_seen(kind: type[Encoder]) -> None:
    torch.manual_seed(0)
    encoder = kind(SCHEMA, width=16)  # type: ignore[call-arg]
    links = [(0, 1), (1, 2), (2, 3)]
    found = embed(encoder, [graph([0, 2, 3, 1], links), graph([0, 3, 2, 1], links)])
    assert (found[0] - found[1]).abs().max() > 1e-3


def test_attention_sees_parents_children_and_siblings_only() -> None:
    """Two nodes of a fork are siblings by their source; two of a join by their reader; strangers are neither."""
    fork = collate([graph([0, 2, 3, 4], [(0, 1), (0, 2), (2, 3)])]).dense()
    reads, read_by = relations(fork)[0, 1], relations(fork)[0, 0]
    common_reader, common_source = relations(fork)[0, 2], relations(fork)[0, 3]
    assert bool(reads[1, 0])
    assert not bool(reads[0, 1])
    assert bool(read_by[0, 1])
    assert bool(common_source[1, 2])
    assert not bool(common_reader[1, 2])
    assert not bool((reads | read_by | common_reader | common_source)[1, 3])


@pytest.mark.parametrize("kind", PEERS)
def test_peers_learn_what_counts_do_not_know(kind: type[PeerPredictor]) -> None:
    known, asked = chains(64, 1), chains(60, 2)
    predictor = kind(SCHEMA, width=16, members=1, settings=SHORT)
    predictor.fit(known, order_matters(known), seed=0)
    assert np.corrcoef(predictor.predict(asked), order_matters(asked))[0, 1] > 0.7


def test_the_same_seed_gives_the_same_predictions_and_another_does_not() -> None:
    known = chains(16, 3)
    brief = FitSettings(epochs=2, loss="hinge", hop_loss="none")

    def said(seed: int) -> Floats:
        predictor = GatesPredictor(SCHEMA, width=8, members=1, settings=brief)
        predictor.fit(known, order_matters(known), seed=seed)
        return predictor.predict(known)

    assert np.array_equal(said(1), said(1))
    assert not np.array_equal(said(1), said(2))


def test_columns_of_the_whole_graph_are_read() -> None:
    """Graphs that look alike but for a column, the only thing that says their target; not finite ones are bearable."""
    known = chains(64, 4)
    hidden = dict(zip([g.features.tobytes() for g in known], np.random.default_rng(0).normal(size=64), strict=True))

    def columns(graphs: Sequence[ArchGraph]) -> Floats:
        return np.array([[hidden[g.features.tobytes()], np.nan] for g in graphs])

    predictor = GinPredictor(SCHEMA, width=16, members=1, settings=SHORT, columns=columns)
    predictor.fit(known, columns(known)[:, 0], seed=0)
    said = predictor.predict(known)
    assert np.isfinite(said).all()
    assert np.corrcoef(said, columns(known)[:, 0])[0, 1] > 0.9


def test_stopping_ta_gates_early_gives_another_answer_and_bad_steps_are_refused() -> None:
    known = chains(24, 5)
    brief = FitSettings(epochs=4, lr=1e-2, loss="hinge", hop_loss="none")
    predictor = TaGatesPredictor(SCHEMA, width=8, members=1, settings=brief, anytime=True)
    predictor.fit(known, order_matters(known), seed=0)
    assert np.array_equal(predictor.predict_after(known, 2), predictor.predict(known))
    assert not np.array_equal(predictor.predict_after(known, 1), predictor.predict(known))
    with pytest.raises(ValueError, match="expected 1 to 2"):
        predictor.predict_after(known, 3)


def test_a_cheap_task_means_over_equal_graphs_and_leaves_out_what_lacks_a_column() -> None:
    a, b, c = graph([0, 2, 1], [(0, 1), (1, 2)]), graph([0, 3, 1], [(0, 1), (1, 2)]), graph([0, 1], [(0, 1)])
    task = cheap_task("t", [a, b, a, c], [np.array([1.0, 3.0, 9.0, np.nan]), np.array([2.0, 2.0, 2.0, 2.0])])
    assert len(task.graphs) == 2
    assert task.values.shape == (2, 1)
    assert task.values[0, 0] > task.values[1, 0]
    with pytest.raises(ValueError, match="no graph has all"):
        cheap_task("t", [a], [np.array([np.nan])])


def test_pretraining_on_a_cheap_column_helps_where_labels_are_few() -> None:
    """The cheap column is the target with noise, known for all; eight labels alone do not teach the pair's order."""
    everything, asked = chains(240, 6), chains(60, 7)
    cheap = order_matters(everything) + 0.05 * np.random.default_rng(0).normal(size=len(everything))
    fast = FitSettings(epochs=24, lr=1e-2, batch_size=32, loss="mse", hop_loss="none")
    bank = pretrain(SCHEMA, [cheap_task("noisy", everything, [cheap])], encoders=["gates"], width=24, settings=fast,
                    seed=0)  # fmt: skip
    known = everything[:8]

    def quality(predictor: PeerPredictor) -> float:
        predictor.fit(known, order_matters(known), seed=0)
        return float(np.corrcoef(predictor.predict(asked), order_matters(asked))[0, 1])

    with_experts = quality(ExpertsPredictor(SCHEMA, bank=bank, width=24, members=1))
    scratch = quality(GatesPredictor(SCHEMA, width=24, members=1, settings=SHORT))
    assert with_experts > scratch + 0.1


def test_a_bank_is_not_changed_by_tuning() -> None:
    known = chains(12, 8)
    once = FitSettings(epochs=1, loss="mse", hop_loss="none")
    bank = pretrain(SCHEMA, [structure_task(SCHEMA, known)] * 2, encoders=["gin"], width=8, settings=once, seed=0)
    before = [p.clone() for p in bank.ensembles[0][0].parameters()]
    ExpertsPredictor(SCHEMA, bank=bank, width=8, members=1).fit(known, order_matters(known), seed=0)
    assert all(torch.equal(a, b) for a, b in zip(before, bank.ensembles[0][0].parameters(), strict=True))
    with pytest.raises(ValueError, match="0 tasks"):
        pretrain(SCHEMA, [], seed=0)


def test_the_gate_can_choose_an_expert_and_starts_with_none_preferred() -> None:
    torch.manual_seed(0)
    experts = [GinEncoder(SCHEMA, width=8), GinEncoder(SCHEMA, width=8)]
    mixed = DynamicEnsemble(experts)
    graphs = chains(3, 9)
    parts = [embed(expert, graphs) for expert in experts]
    assert torch.allclose(embed(mixed, graphs), (parts[0] + parts[1]) / 2, atol=1e-6)
    mixed.gate.bias.data = torch.tensor([50.0, -50.0])
    assert torch.allclose(embed(mixed, graphs), parts[0], atol=1e-6)


@pytest.mark.parametrize("head", ["process", "ridge", "mlp"])
def test_heads_read_embeddings_that_come_in(head: str) -> None:
    known, asked = chains(60, 10), chains(40, 11)

    def numbers(graphs: Sequence[ArchGraph]) -> Floats:
        rng = np.random.default_rng(0)
        return order_matters(graphs)[:, None] * rng.normal(size=(1, 12)) + 0.01 * rng.normal(size=(len(graphs), 12))

    predictor = PretrainedPredictor(SCHEMA, embed=numbers, head=head)
    predictor.fit(known, order_matters(known), seed=0)
    assert np.corrcoef(predictor.predict(asked), order_matters(asked))[0, 1] > 0.9
    with pytest.raises(ValueError, match="expected one of process, ridge, mlp"):
        PretrainedPredictor(SCHEMA, head="forest")


@pytest.mark.parametrize("name", ["gin", "gates", "ta_gates", "adjacency_attention", "pretrained", "experts"])
def test_the_registry_makes_them_and_asking_too_early_is_refused(name: str) -> None:
    assert name in PREDICTORS
    with pytest.raises(RuntimeError, match="was not fitted"):
        make_predictor(name, SCHEMA).predict(chains(1, 0))
