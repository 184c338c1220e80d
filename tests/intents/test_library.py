"""The library of edits: what every example promises, on small graphs of each kind."""

import random
import re
from collections.abc import Iterator
from functools import cache

import pytest

from genmad.intents.anatomy import anatomy
from genmad.intents.library import BY_NAME, COMBINED, INTENTS, sample_example, sample_examples
from genmad.intents.types import READINGS, EditExample
from genmad.ir.build import retype
from genmad.ir.diagnostics import GraphError
from genmad.ir.graph import Graph
from genmad.ir.script import EditScript
from genmad.ops import OPSET
from tests.graphs import bert_like, gpt2_like, llama_like, mobile_like, resnet_like, t5_like


@cache
def graphs() -> dict[str, Graph]:
    return {
        "gpt2": gpt2_like(5),
        "llama": llama_like(6),
        "mistral": llama_like(4, window=8),
        "gemma2": llama_like(6, window=8, alternate=True),
        "bert": bert_like(4),
        "t5": t5_like(3),
        "resnet": resnet_like((2, 3)),
        "mobile": mobile_like(),
    }


def draw(name: str, seed: int, count: int, intent: str | None = None, unseen: bool = False) -> Iterator[EditExample]:
    rng = random.Random(seed)
    for _ in range(count):
        example = sample_example(graphs()[name], rng, intent=intent, unseen=unseen)
        if example is not None:
            yield example


REFUSED_ALWAYS = ("training_only",)


@pytest.mark.parametrize("intent", [*(n for n in BY_NAME if n not in REFUSED_ALWAYS), "both"])
def test_every_script_runs_and_changes_the_graph(intent: str) -> None:
    """Guards the corpus against scripts that only ran while they were written."""
    ran = 0
    for name, graph in graphs().items():
        for example in draw(name, 1, 8, intent):
            if example.request.refusal:
                continue
            assert example.script is not None
            state = example.script.run(graph, OPSET)
            assert state.graph != graph, example
            assert retype(state.graph, OPSET).main.output_types == state.graph.main.output_types
            assert EditScript.from_json(example.script.to_json()) == example.script
            ran += 1
    assert ran >= 4, f"{intent}: {ran} scripts in all"


@pytest.mark.parametrize("intent", list(BY_NAME))
def test_a_number_that_cannot_be_met_ends_the_script_before_it(intent: str) -> None:
    for name, graph in graphs().items():
        for example in draw(name, 2, 10, intent):
            if example.request.refusal == "not_divisible":
                assert example.script is not None
                state = example.script.run(graph, OPSET)
                if example.blocked is not None:
                    with pytest.raises(GraphError):
                        state_after(example.script, graph).step(example.blocked)
                assert state.graph.main.output_types == graph.main.output_types
            elif example.request.refusal:
                assert example.script is None


def state_after(script: EditScript, graph: Graph):  # type: ignore[no-untyped-def]
    """The state with the last section still open."""
    from genmad.ir.script import EditState

    state = EditState.start(graph, OPSET)
    for step in script.steps:
        state = state.step(step)
    return state


def test_every_intent_has_enough_templates_and_a_reading() -> None:
    assert len(INTENTS) >= 20
    for intent in INTENTS:
        assert len(set(intent.seen)) >= 12, intent.name
        assert len(set(intent.unseen)) >= 4, intent.name
        assert intent.reading in READINGS


def test_held_out_phrasings_never_occur_in_training() -> None:
    """A held-out template that training had seen would make the drop on unseen phrasings zero by construction."""
    seen, unseen = set(), set()
    for seed, name in enumerate(graphs()):
        for example in draw(name, seed, 500):
            assert example.seen
            assert not re.search(r"\.u\d", example.phrasing)
            seen.add(plain(example.prompt))
        for example in draw(name, seed, 120, unseen=True):
            assert not example.seen
            if example.request.intent != "nonsense":
                unseen.add(plain(example.prompt))
    assert not seen & unseen, sorted(seen & unseen)[:5]


def plain(prompt: str) -> str:
    return prompt.lower().strip(" .!?")


def test_the_same_seed_gives_the_same_examples() -> None:
    for name in ("gpt2", "resnet"):
        a, b = (list(sample_examples(graphs()[name], random.Random(5), 60)) for _ in range(2))
        assert a == b
        fresh = gpt2_like(5) if name == "gpt2" else resnet_like((2, 3))
        assert list(sample_examples(fresh, random.Random(5), 60)) == a


def test_one_request_has_one_script() -> None:
    for name in graphs():
        table: dict[object, object] = {}
        for example in draw(name, 7, 300):
            if example.request.intent not in ("nonsense", "both"):
                assert table.setdefault(example.request, example.script) == example.script


def test_refusals_and_combinations_have_their_share() -> None:
    examples = [e for name in ("gpt2", "llama", "bert", "t5", "resnet") for e in draw(name, 9, 300)]
    refused = sum(bool(e.request.refusal) for e in examples) / len(examples)
    both = sum(e.request.intent == "both" for e in examples) / len(examples)
    assert 0.08 <= refused <= 0.22
    assert 0.6 * COMBINED <= both <= 1.3 * COMBINED


def test_a_cnn_operation_on_a_text_model_is_refused_and_the_reverse() -> None:
    for name, intent in (
        ("bert", "squeeze_excite"),
        ("llama", "depthwise_separable"),
        ("resnet", "long_conv"),
        ("resnet", "num_heads"),
    ):
        examples = list(draw(name, 3, 20, intent))
        assert examples
        assert all(e.request.refusal for e in examples)


def test_layers_outside_the_target_keep_their_blocks() -> None:
    graph = graphs()["gpt2"]
    for example in draw("gpt2", 11, 80, "local_attention_branch"):
        if example.request.refusal or example.script is None:
            continue
        after = anatomy(example.script.run(graph, OPSET).graph)
        branched = tuple(x.path for x in after.layers if len(after.roles(x.block).attentions) == 2)
        assert branched == example.request.layers, example.prompt
