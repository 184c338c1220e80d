"""Answers in parts: taken where they are likelier than the answer to the whole sentence, and only where they replay."""

import math

import pytest

from genmad.ir import Graph, GraphBuilder
from genmad.ir.script import EditScript, Remove, SetAttrs
from genmad.ops import OPSET
from genmad.sampling.chain import Answer, answer_in_parts
from genmad.sampling.proposal import Proposal

PROMPT = "drop the first norm and give it eps 1"


@pytest.fixture
def graph() -> Graph:
    builder = GraphBuilder(OPSET)
    main = builder.block("Net", x="float32[batch,4]")
    value = main.add("LayerNorm", "x", name="a", eps=1e-5)
    value = main.add("LayerNorm", value, name="b", eps=1e-5)
    return builder.build(main.finish(value))


def _proposal(graph: Graph, steps: tuple, log_prob: float, status: str = "ok") -> Proposal:  # type: ignore[type-arg]
    script = EditScript(steps=steps)
    state = script.run(graph, OPSET) if status == "ok" else None
    return Proposal(
        status=status, script=script, state=state, confidence=math.exp(log_prob), log_prob=log_prob, reading="plain"
    )


class _Asked:
    """Knows two clauses; everything else is refused. Counts what it is asked, and on which graph."""

    def __init__(self, log_prob: float) -> None:
        self.log_prob = log_prob
        self.asked: list[tuple[str, int]] = []

    def __call__(self, graph: Graph, text: str) -> Answer:
        self.asked.append((text, len(graph.main.nodes)))
        steps = {"drop the first norm": (Remove("a"),), "give it eps 1": (SetAttrs("b", (("eps", 1.0),)),)}
        if text in steps:
            return Answer(proposal=_proposal(graph, steps[text], self.log_prob), nonsense=0.0)
        return Answer(proposal=_proposal(graph, (), -0.1, "refused"), nonsense=0.9)


def test_clauses_that_are_likelier_than_the_whole_are_taken_each_on_what_the_last_one_left(graph: Graph) -> None:
    asked = _Asked(-0.2)
    found = answer_in_parts(graph, PROMPT, _proposal(graph, (Remove("b"),), -3.0), asked, OPSET)
    assert found is not None
    assert found.state is not None
    assert [(n.name, n.attr_map["eps"]) for n in found.state.graph.main.nodes] == [("b", 1.0)]
    assert found.log_prob == pytest.approx(-0.4)
    assert ("give it eps 1", 1) in asked.asked


def test_a_whole_that_is_likelier_stands(graph: Graph) -> None:
    assert answer_in_parts(graph, PROMPT, _proposal(graph, (Remove("b"),), -0.3), _Asked(-0.2), OPSET) is None


def test_a_sure_answer_asks_nothing_more(graph: Graph) -> None:
    asked = _Asked(-0.001)
    assert answer_in_parts(graph, PROMPT, _proposal(graph, (Remove("b"),), -0.01), asked, OPSET) is None
    assert asked.asked == []


def test_a_clause_that_cannot_be_met_leaves_the_sentence_to_the_whole(graph: Graph) -> None:
    prompt = "drop the first norm and make it rain"
    assert answer_in_parts(graph, prompt, _proposal(graph, (), -5.0, "refused"), _Asked(-0.01), OPSET) is None


def test_what_is_left_out_costs_the_chance_that_it_asks_for_something(graph: Graph) -> None:
    prompt = "drop the first norm; on top of that, give it eps 1"
    found = answer_in_parts(graph, prompt, _proposal(graph, (Remove("b"),), -9.0), _Asked(-0.2), OPSET)
    assert found is not None
    assert found.log_prob == pytest.approx(-0.4 + math.log(0.9))
