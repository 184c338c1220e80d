"""Masked-op and link completion: what a probe answers is what is counted, and the baselines learn what they can."""

import random

import pytest
import torch

from genmad.evals import objectives
from genmad.evals.block_graph import INPUT, BlockGraph, Ngram, block_graphs
from genmad.evals.gin import train_gin
from genmad.ir.graph import Graph, producer
from tests.graphs import bert_like, gpt2_like, llama_like, resnet_like


class Knows:
    """A probe that looks the answer up."""

    def masked_op(self, graph: Graph, block: str, node: str) -> str:
        return graph.block_map[block].by_name[node].op

    def link(self, graph: Graph, block: str, node: str, slot: int) -> str:
        return producer(graph.block_map[block].by_name[node].inputs[slot])


class KnowsNothing:
    """A probe that is always wrong."""

    def masked_op(self, graph: Graph, block: str, node: str) -> str:  # noqa: ARG002
        return ""

    def link(self, graph: Graph, block: str, node: str, slot: int) -> str:  # noqa: ARG002
        return ""


GRAPHS = {"gpt2": (gpt2_like(),), "resnet": (resnet_like(),)}
TRAINING = (bert_like(), llama_like(), gpt2_like(2, 16, 2))


@pytest.mark.parametrize(("probe", "rate"), [(Knows(), 1.0), (KnowsNothing(), 0.0)])
def test_the_probe_is_scored_on_what_it_answers(probe: objectives.ProbeLike, rate: float) -> None:
    report = objectives.run(quick=True, n=20, probe=probe, graphs=GRAPHS, training=TRAINING)
    assert report["metrics"]["masked_op_top1"] == report["metrics"]["link_hits1"] == rate
    assert set(report["baselines"]) == {"ngram", "gin"}
    assert report["metrics"]["num_masked_ops"] == report["metrics"]["num_links"] == 20
    assert set(report["breakdown"]["link_hits1"]) == set(GRAPHS)


def test_questions_are_asked_once_and_of_each_family() -> None:
    for links in (False, True):
        asked = objectives.questions(GRAPHS, 30, random.Random(0), links=links)
        assert len({(q.family, q.block.name, q.node, q.slot) for q in asked}) == len(asked) == 30
        assert {q.family for q in asked} == set(GRAPHS)


def test_links_point_backwards_in_canonical_order() -> None:
    for block in block_graphs([*TRAINING, resnet_like()]):
        assert all(source < node for node, _, source in block.links)
        assert block.ops[: block.num_inputs] == (INPUT,) * block.num_inputs


def test_an_ngram_repeats_what_it_has_read() -> None:
    """Trained on the block itself, the op after two that stand together only once is certain."""
    view = BlockGraph.of(gpt2_like().block_map["GPT2Block"])
    model = Ngram.fit([view])
    attention = view.ops.index("Attention")
    assert model.masked_op(view, attention) == "Attention"
    assert [model.link(view, attention, slot) for slot in range(3)] == [p for n, _, p in view.links if n == attention]


def test_an_ngram_backs_off_on_unseen_contexts() -> None:
    view = BlockGraph.of(resnet_like().block_map["Layer0"])
    model = Ngram.fit([BlockGraph.of(gpt2_like().block_map["GPT2Block"])])
    assert model.masked_op(view, view.num_inputs + 2) in {"Linear", "LayerNorm", "Add"}
    assert 0 <= model.link(view, view.num_inputs, 0) < view.num_inputs + 1


def test_a_gin_learns_the_blocks_that_it_is_trained_on() -> None:
    """120 steps on one block of 12 ops; at chance it would get one op in nine right."""
    torch.set_num_threads(1)
    view = BlockGraph.of(gpt2_like().block_map["GPT2Block"])
    model = train_gin([view], steps=120, seed=0)
    nodes = range(view.num_inputs, len(view.ops))
    assert sum(model.masked_op(view, i) == view.ops[i] for i in nodes) / len(nodes) >= 0.7
    assert sum(model.link(view, n, s) == p for n, s, p in view.links) / len(view.links) >= 0.6


def test_training_a_gin_leaves_the_global_random_state_alone() -> None:
    before = torch.random.get_rng_state()
    train_gin([BlockGraph.of(gpt2_like().block_map["GPT2Block"])], steps=1, seed=0)
    assert torch.equal(before, torch.random.get_rng_state())
