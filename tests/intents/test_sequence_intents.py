"""Intents for sequence models: what each must do, where it is refused, and that a decoder can write it."""

import random
import re
from functools import cache

import pytest
import torch

from genmad.evals.postconditions import POSTCONDITIONS, judge
from genmad.intents.anatomy import anatomy
from genmad.intents.library import BY_NAME, sample_example
from genmad.intents.types import EditExample
from genmad.intents.wordings import TEMPLATES
from genmad.ir.diagnostics import GraphError
from genmad.ir.graph import Graph, parameter_names
from genmad.ir.script import EditScript
from genmad.lowering.preserve import preserve
from genmad.lowering.to_torch import to_torch
from genmad.ops import OPSET
from genmad.tokenizer import GraphReader, GraphTokens, PromptTokenizer, ScriptGrammar, Vocab, encode_script
from genmad.validate.run import validate
from tests.graphs import bert_like, gpt2_like, llama_like, resnet_like, t5_like

MAKERS = {
    "gpt2": lambda: gpt2_like(4),
    "llama": lambda: llama_like(3),
    "mistral": lambda: llama_like(2, window=8),
    "bert": lambda: bert_like(2),
    "t5": lambda: t5_like(2),
    "resnet": lambda: resnet_like((1, 2)),
}
INTENTS = (
    "sg_conv", "sg_conv3", "lsh_attention", "separable_conv", "mixed_heads", "hierarchical_branch",
    "hierarchical_convert", "gated_mlp", "model_style", "parallel_block", "sandwich_norm", "qk_norm", "attention_gate",
    "remove_rope", "reduce_depth", "grow_depth", "vocab_size", "context_length", "make_causal", "make_bidirectional",
    "attention_scale", "norm_eps", "rope_scaling",
)  # fmt: skip
# The outputs stay as they are once the new parameters are set as `preserve` says.
PRESERVING = ("hierarchical_branch", "grow_depth")


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


def test_every_intent_here_is_in_the_library_and_can_be_judged() -> None:
    assert set(INTENTS) <= set(BY_NAME)
    assert set(INTENTS) <= set(POSTCONDITIONS)


@pytest.mark.parametrize("intent", INTENTS)
def test_twenty_patterns_for_training_and_five_that_are_held_out(intent: str) -> None:
    seen, unseen = BY_NAME[intent].seen, BY_NAME[intent].unseen
    assert len(set(seen)) >= 20
    assert len(set(unseen)) >= 5
    assert not set(seen) & set(unseen)


@pytest.mark.parametrize("intent", INTENTS)
def test_what_the_script_does_meets_the_post_condition_and_leaving_it_does_not(intent: str) -> None:
    """The post-conditions are written apart from the scripts; each guards the other."""
    found = possible(intent)
    assert len(found) >= 3
    for name, example in found:
        before = graph(name)
        assert example.script is not None
        after = example.script.run(before, OPSET).graph
        verdict = judge(example.request, before, after, OPSET)
        assert verdict.success, (name, example.prompt, verdict.reasons)
        assert not judge(example.request, before, before, OPSET).success, (name, example.prompt)


@pytest.mark.parametrize("intent", INTENTS)
def test_half_of_the_steps_do_not_meet_the_post_condition(intent: str) -> None:
    """Guards against conditions that any edit at the right place would meet."""
    for name, example in possible(intent)[::3]:
        before = graph(name)
        assert example.script is not None
        steps = example.script.steps
        for cut in range(2, len(steps)):
            try:
                after = EditScript(steps=steps[:cut]).run(before, OPSET).graph
            except GraphError:
                continue
            assert after == before or not judge(example.request, before, after, OPSET).success, (example.prompt, cut)


@cache
def codec() -> tuple[GraphReader, ScriptGrammar]:
    vocab = Vocab.from_opset(OPSET)
    text = PromptTokenizer.train(["use SGConv in layer 3 with kernel size 128"] * 20, ["relu"], vocab_size=60)
    return GraphReader(vocab, text, OPSET), ScriptGrammar(vocab=vocab, opset=OPSET)


@cache
def read(name: str) -> GraphTokens:
    return codec()[0].read(graph(name))


@pytest.mark.parametrize("intent", INTENTS)
def test_the_grammar_lets_every_script_through(intent: str) -> None:
    """A script that the decoder cannot write would be a training example that teaches nothing."""
    reader, grammar = codec()
    for name in MAKERS:
        tokens = read(name)
        for example in draw(name, intent, 2, seed=1):
            pieces = reader.text.encode(example.prompt, tokens.all_names)
            source = grammar.compile(graph(name), tokens, pieces)
            refusal = example.request.refusal
            written = encode_script(
                source, example.script, reading=example.reading, refusal=refusal, blocked=example.blocked
            )[0]
            assert len(written) <= 120, (example.prompt, len(written))
            state = source.start()
            for token in written:
                state = state.advance(token)
            if not refusal:
                assert example.script is not None
                assert state.edit.close().graph == example.script.run(graph(name), OPSET).graph


@pytest.mark.parametrize("intent", ["sg_conv", "lsh_attention", "mixed_heads", "hierarchical_branch", "remove_rope"])
def test_the_result_runs_and_its_onnx_form_agrees(intent: str) -> None:
    """Level 5 on one example of each intent."""
    name, example = possible(intent)[0]
    assert example.script is not None
    report = validate(example.script.run(graph(name), OPSET).graph, OPSET)
    assert report.passed, (name, example.prompt, [str(d) for d in report.diagnostics])


@pytest.mark.parametrize("name", ["gpt2", "llama"])
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
    state.update({key: torch.zeros_like(state[key]) for key in found.zeroed})
    new.load_state_dict(state)
    ids = torch.randint(0, 50, (2, 9), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(new(ids), old(ids), rtol=0, atol=0)
        new.load_state_dict({**state, **{k: torch.randn_like(state[k]) for k in found.zeroed}})
        assert not torch.allclose(new(ids), old(ids)), "the branch must matter once it is trained"


@pytest.mark.parametrize(
    ("name", "intent", "refusals"),
    [
        ("resnet", "sg_conv", {"not_applicable", "no_such_target"}),
        ("resnet", "vocab_size", {"not_applicable"}),
        ("gpt2", "remove_rope", {"no_such_target"}),
        ("bert", "rope_scaling", {"no_such_target"}),
        ("bert", "parallel_block", {"not_applicable", "no_such_target"}),
        ("gpt2", "make_causal", {"already_so", "no_such_target"}),
        ("llama", "gated_mlp", {"already_so", "no_such_target"}),
        ("t5", "reduce_depth", {"not_applicable"}),
    ],
)
def test_what_cannot_be_is_refused(name: str, intent: str, refusals: set[str]) -> None:
    examples = draw(name, intent, 30)
    assert examples
    assert {e.request.refusal for e in examples} <= refusals
    if intent == "gated_mlp":
        gates = [e for e in examples if e.request.refusal == "already_so"]
        assert all(e.request.value_map["activation"] == "silu" for e in gates)


def test_more_local_heads_than_heads_are_refused_at_the_number() -> None:
    blocked = [e for e in draw("gpt2", "mixed_heads", 60) if e.request.refusal == "not_divisible"]
    assert blocked
    for example in blocked:
        assert example.blocked is not None
        assert [name for name, _ in example.blocked.settings] == ["local_heads"]


def test_causal_attention_that_is_replaced_stays_causal() -> None:
    """A mixer that sees the future would make a language model worthless without any error."""
    for intent in ("sg_conv", "separable_conv", "lsh_attention", "mixed_heads", "hierarchical_convert"):
        example = next(e for e in draw("llama", intent, 20) if not e.request.refusal)
        assert example.script is not None
        module = to_torch(example.script.run(graph("llama"), OPSET).graph).double()
        ids = torch.randint(0, 50, (1, 12), generator=torch.Generator().manual_seed(0))
        other = torch.cat((ids[:, :7], (ids[:, 7:] + 1) % 50), dim=1)
        with torch.no_grad():
            torch.testing.assert_close(module(ids)[:, :7], module(other)[:, :7], msg=example.prompt)


def test_keeping_every_other_layer_keeps_the_first() -> None:
    found = [e for e in draw("gpt2", "reduce_depth", 40) if dict(e.request.values).get("keep") == "every_other"]
    assert found
    for example in found:
        assert example.script is not None
        after = anatomy(example.script.run(graph("gpt2"), OPSET).graph)
        assert [x.path for x in after.layers] == ["transformer.h.0", "transformer.h.2"]


def test_a_tied_vocabulary_stays_tied() -> None:
    example = next(e for e in draw("gpt2", "vocab_size", 10) if not e.request.refusal)
    assert example.script is not None
    after = example.script.run(graph("gpt2"), OPSET).graph
    assert parameter_names(after) == parameter_names(graph("gpt2"))
    assert after.main.output_types[0].shape[-1] == example.request.value_map["vocab_size"]


def ways(text: str) -> set[str]:
    """Everything that a template says, its optional parts left out and its slots as they are."""
    text = re.sub(r"\[[^\[\]]*\]", "", text.lstrip("~?"))
    while match := re.search(r"\(([^()]*)\)", text):
        head, tail = text[: match.start()], text[match.end() :]
        return {w for choice in match[1].split("|") for w in ways(head + choice + tail)}
    return {" ".join(text.split())}


@pytest.mark.parametrize(
    ("intent", "sentence"),
    [
        ("hierarchical_branch", "add self attention that scales hierarchically"),
        ("model_style", "make it like {style}"),
        ("gated_mlp", "use {glu} MLPs"),
        ("grow_depth", "make it {depth}"),
        ("reduce_depth", "{half} the depth"),
        ("lora", "add LoRA to my model at {target}"),
    ],
)
def test_the_words_that_users_ask_in_are_among_the_templates(intent: str, sentence: str) -> None:
    texts = (*BY_NAME[intent].seen, *TEMPLATES.get(intent, ()))
    assert any(sentence in ways(text) for text in texts)
