"""Intents for convolutional models and sentences of several requests: what each must do, and that it can be written."""

import random
from functools import cache

import pytest
import torch

from genmad.evals.postconditions import POSTCONDITIONS, judge
from genmad.intents.library import BY_NAME, sample_example
from genmad.intents.repair import SEEN, UNSEEN, repair_example
from genmad.intents.types import EditExample
from genmad.ir.graph import Graph, parameter_names
from genmad.lowering.preserve import preserve
from genmad.lowering.to_torch import to_torch
from genmad.ops import OPSET
from genmad.tokenizer import GraphReader, GraphTokens, PromptTokenizer, ScriptGrammar, Vocab, encode_script
from genmad.validate.run import validate
from tests.graphs import gpt2_like, llama_like, mobile_like, resnet_like

MAKERS = {
    "mobile": lambda: mobile_like(2, 2),
    "resnet": lambda: resnet_like((2, 2)),
    "gpt2": lambda: gpt2_like(3),
    "llama": lambda: llama_like(3),
}
INTENTS = (
    "dilation", "conv_groups", "conv_stride", "toggle_bias", "conv_width", "swap_pooling", "remove_pooling",
    "pool_size", "token_mixer", "insert_conv", "conv_attention", "remove_squeeze_excite", "se_ratio",
    "upsampling_mode", "remove_norm", "remove_activation", "norm_groups", "num_classes", "add_classifier",
    "budget",
)  # fmt: skip
PRESERVING = ("insert_conv", "conv_attention")


@cache
def graph(name: str) -> Graph:
    return MAKERS[name]()


def draw(name: str, intent: str, count: int, seed: int = 0, unseen: bool = False) -> list[EditExample]:
    rng = random.Random(seed)
    found = (sample_example(graph(name), rng, intent=intent, unseen=unseen) for _ in range(count))
    return [e for e in found if e is not None]


@cache
def possible(intent: str) -> tuple[tuple[str, EditExample], ...]:
    """Requests that can be met, over all graphs."""
    drawn = [(name, e) for name in MAKERS for e in draw(name, intent, 3)]
    return tuple((name, e) for name, e in drawn if not e.request.refusal)


@pytest.mark.parametrize("intent", [*INTENTS, "training_only"])
def test_twenty_patterns_for_training_and_five_that_are_held_out(intent: str) -> None:
    seen, unseen = BY_NAME[intent].seen, BY_NAME[intent].unseen
    assert len(set(seen)) >= 20
    assert len(set(unseen)) >= 5
    assert not set(seen) & set(unseen)


@pytest.mark.parametrize("intent", [*INTENTS, "both"])
def test_what_the_script_does_meets_the_post_condition_and_leaving_it_does_not(intent: str) -> None:
    """The post-conditions are written apart from the scripts; each guards the other."""
    assert intent == "both" or intent in POSTCONDITIONS
    found = possible(intent)
    assert found
    for name, example in found:
        before = graph(name)
        assert example.script is not None
        after = example.script.run(before, OPSET).graph
        verdict = judge(example.request, before, after, OPSET)
        assert verdict.success, (name, example.prompt, verdict.reasons)
        assert not judge(example.request, before, before, OPSET).success, (name, example.prompt)


@cache
def codec() -> tuple[GraphReader, ScriptGrammar]:
    vocab = Vocab.from_opset(OPSET)
    text = PromptTokenizer.train(["use a dilation of 2 in layer 3 with kernel size 7"] * 20, ["relu"], vocab_size=60)
    return GraphReader(vocab, text, OPSET), ScriptGrammar(vocab=vocab, opset=OPSET)


@cache
def read(name: str) -> GraphTokens:
    return codec()[0].read(graph(name))


@pytest.mark.parametrize("intent", [*INTENTS, "both"])
def test_the_grammar_lets_every_script_through(intent: str) -> None:
    """A script that the decoder cannot write would be a training example that teaches nothing."""
    reader, grammar = codec()
    for name in MAKERS:
        for example in draw(name, intent, 2, seed=1):
            pieces = reader.text.encode(example.prompt, read(name).all_names)
            source = grammar.compile(graph(name), read(name), pieces)
            refusal = example.request.refusal
            written = encode_script(
                source, example.script, reading=example.reading, refusal=refusal, blocked=example.blocked
            )[0]
            assert len(written) <= 250, (example.prompt, len(written))
            state = source.start()
            for token in written:
                state = state.advance(token)
            if not refusal:
                assert example.script is not None
                assert state.edit.close().graph == example.script.run(graph(name), OPSET).graph


@pytest.mark.parametrize("intent", ["conv_width", "swap_pooling", "conv_attention", "add_classifier", "both"])
def test_the_result_runs_and_its_onnx_form_agrees(intent: str) -> None:
    """Level 5 on one example of each intent."""
    name, example = possible(intent)[0]
    assert example.script is not None
    report = validate(example.script.run(graph(name), OPSET).graph, OPSET)
    assert report.passed, (name, example.prompt, [str(d) for d in report.diagnostics])


@pytest.mark.parametrize("name", ["mobile", "resnet"])
@pytest.mark.parametrize("intent", PRESERVING)
def test_a_branch_changes_nothing_until_it_is_trained(intent: str, name: str) -> None:
    """Exact in float64, with the zeros that `preserve` asks for."""
    before = graph(name)
    example = next(e for e in draw(name, intent, 20) if not e.request.refusal)
    assert example.script is not None
    after = example.script.run(before, OPSET).graph
    found = preserve(before, after, OPSET, frozenset(parameter_names(before)))
    assert found.exact, found.reasons
    old, new = to_torch(before).double(), to_torch(after).double()
    state = {**new.state_dict(), **old.state_dict()}
    new.load_state_dict({**state, **{key: torch.zeros_like(state[key]) for key in found.zeroed}})
    shape = [d if isinstance(d, int) else 2 for d in before.main.input_types[0].shape]
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(new(x), old(x), rtol=0, atol=0)
        new.load_state_dict({**state, **{k: torch.randn_like(state[k]) for k in found.zeroed}})
        assert not torch.allclose(new(x), old(x)), "the branch must matter once it is trained"


@pytest.mark.parametrize(
    ("name", "intent", "refusals"),
    [
        ("gpt2", "dilation", {"not_applicable", "no_such_target"}),
        ("gpt2", "swap_pooling", {"not_applicable"}),
        ("llama", "upsampling_mode", {"not_applicable"}),
        ("resnet", "norm_groups", {"no_such_target"}),
        ("resnet", "remove_squeeze_excite", {"no_such_target"}),
        ("gpt2", "num_classes", {"no_such_target"}),
        ("gpt2", "training_only", {"not_applicable"}),
        ("mobile", "training_only", {"not_applicable"}),
    ],
)
def test_what_cannot_be_is_refused(name: str, intent: str, refusals: set[str]) -> None:
    examples = draw(name, intent, 30)
    assert examples
    assert {e.request.refusal for e in examples} <= refusals


@pytest.mark.parametrize("name", ["gpt2", "mobile"])
def test_sentences_of_several_requests(name: str) -> None:
    """Of two and of three, in one place and in several, of layers and of the whole model."""
    parts = [e.request.value_map["parts"] for e in draw(name, "both", 150)]
    assert len(parts) > 140
    three = sum(len(p) == 3 for p in parts) / len(parts)
    assert 0.08 <= three <= 0.3
    assert sum(len({p.layers for p in found if p.layers}) == 1 for found in parts) > 10
    assert sum(any(not p.layers for p in found) for found in parts) > 10
    assert len({frozenset(p.intent for p in found) for found in parts}) > 100


def test_one_sentence_has_one_script_whatever_its_words() -> None:
    table: dict[object, object] = {}
    for example in draw("gpt2", "both", 120):
        assert table.setdefault(example.request, example.script) == example.script


def test_an_incomplete_graph_and_the_request_to_finish_it() -> None:
    reader, grammar = codec()
    made = [repair_example(graph(name), OPSET, random.Random(i)) for name in MAKERS for i in range(8)]
    found = [m for m in made if m is not None]
    assert len(found) >= 16
    for rest, example in found:
        assert example.script is not None
        after = example.script.run(rest, OPSET).graph
        assert judge(example.request, rest, after, OPSET).success, example.prompt
        assert not judge(example.request, rest, rest, OPSET).success
        tokens = reader.read(rest)
        source = grammar.compile(rest, tokens, reader.text.encode(example.prompt, tokens.all_names))
        assert encode_script(source, example.script, reading=example.reading)[0]
    held_out = [repair_example(graph("gpt2"), OPSET, random.Random(i), unseen=True) for i in range(8)]
    assert all(".u" in m[1].phrasing for m in held_out if m is not None)
    assert len(set(SEEN)) >= 25
    assert len(set(UNSEEN)) >= 6
