"""Sound: what the grammar lets through runs to a valid graph. Complete: a real script passes. Live: it can go on."""

import random
from collections.abc import Callable

import pytest

from genmad.ir import Graph, GraphError, call_places, check_types
from genmad.ir.script import Add, At, EditScript, Number, Remove, Replace, ReplaceUses, Rewire, SetAttrs
from genmad.ops import OPSET
from genmad.tokenizer import GrammarError, GrammarState, GraphReader, ScriptGrammar, SourceGrammar, Token, encode_script
from tests.graphs import bert_like, gpt2_like, llama_like, resnet_like

PROMPT = "set it to 2 or 7 or 64"


def source_of(
    graph: Graph, reader: GraphReader, grammar: ScriptGrammar, prompt: str = PROMPT, **options: str
) -> SourceGrammar:
    tokens = reader.read(graph)
    return grammar.compile(graph, tokens, reader.text.encode(prompt, tokens.all_names), **options)


@pytest.mark.parametrize("make", [gpt2_like, bert_like, llama_like, resnet_like])
def test_random_walks_end_in_valid_graphs(
    make: Callable[[], Graph], reader: GraphReader, grammar: ScriptGrammar
) -> None:
    """Every walk, whatever it picks, ends, and its graph passes the shape rules from scratch."""
    rng = random.Random(f"walk {make.__name__}")
    source = source_of(make(), reader, grammar)
    edited = 0
    for _ in range(60):
        state, count = source.start(), 0
        while not state.is_terminated:
            count += 1
            assert count < 4000, "a walk does not end"
            choices = state.mask().tokens()
            rng.shuffle(choices)
            words = [t for t in choices if t.kind == "word" and state.describe(t).startswith(("<eos>", "reading"))]
            token = next((t for t in (words if words and rng.random() < 0.3 else choices) if state.allows(t)), None)
            token = token or Token("word", state.vocab.id("ABORT"))
            state = state.advance(token)
        check_types(state.edit.graph, OPSET)
        edited += state.edit.graph != source.graph
    assert edited >= 10, f"only {edited} of 60 walks changed anything"


def script_of_everything() -> EditScript:
    """Uses each kind of step and number once, on GPT-2."""
    width = Number("channels", ref="ln_1")
    heads = Number("like", ref="attn.attention")
    attention = (("num_heads", heads), ("causal", True), ("window", Number.of(64)))
    return EditScript(
        steps=(
            At(("transformer.h.1", "transformer.h.2", "transformer.h.3")),
            Add("new_linear", "Linear", ("ln_1",), (("out_features", width), ("bias", False))),
            Add("new_attention", "Attention", ("new_linear",) * 3, attention),
            ReplaceUses("attn.attention", "new_attention"),
            SetAttrs("mlp.c_fc", (("out_features", Number("old", times=2)),)),
            Replace("mlp.act", "Relu"),
            At(),
            Remove("transformer.h.0"),
            Add("transformer.h.4", "@GPT2Block_1", ("transformer.h.3",), like="transformer.h.3", weights="copy"),
            Rewire("transformer.ln_f", 0, "transformer.h.4"),
        )
    )  # fmt: skip


def test_a_script_of_every_step_survives_its_tokens(reader: GraphReader, grammar: ScriptGrammar) -> None:
    graph, script = gpt2_like(), script_of_everything()
    names = [s.name for s in script.steps if isinstance(s, Add)]
    tokens, states, _ = encode_script(source_of(graph, reader, grammar), script, reading="replace")
    final = states[-1].advance(tokens[-1])
    written = EditScript(steps=final.steps)
    assert final.is_terminated
    assert [type(s) for s in written.steps] == [type(s) for s in script.steps]
    assert written.run(graph, OPSET).graph.num_nodes == final.edit.graph.num_nodes
    assert len(names) == 3
    assert EditScript.from_json(script.to_json()) == script


def test_a_number_that_does_not_divide_the_width_is_masked(reader: GraphReader, grammar: ScriptGrammar) -> None:
    """2 heads fit a width of 32, 7 do not; 64 are more than there are channels."""
    state = source_of(gpt2_like(width=32), reader, grammar).start()
    block = "GPT2Block"
    index = state.source.index
    call = next(i for i, (path, _) in state.source.calls.items() if path.endswith(".3"))
    node = next(i for ref, i in index.items() if (ref.block, ref.name) == (block, "attn.attention"))
    for step in ("reading:resize", "AT", call, "DO", "SET", node, "attr:num_heads"):
        state = state.advance(word(step, state) if isinstance(step, str) else Token("node", step))
    numbers = state.source.number_texts
    allowed = {numbers[t.index] for t in state.mask().tokens() if t.kind == "text"}
    assert allowed == {2}
    assert word("refuse:not_divisible", state) in state.mask()


def word(text: str, state: GrammarState) -> Token:
    return Token("word", state.vocab.id(text))


def test_a_forced_reading_is_the_only_one_left(reader: GraphReader, grammar: ScriptGrammar) -> None:
    state = source_of(gpt2_like(), reader, grammar, reading="convert").start()
    allowed = {state.describe(t) for t in state.mask().tokens()}
    assert {a for a in allowed if a.startswith("reading:")} == {"reading:convert"}


def test_at_keeps_the_edit_inside(reader: GraphReader, grammar: ScriptGrammar) -> None:
    state = source_of(gpt2_like(), reader, grammar, at="transformer.h.2").start()
    state = state.advance(word("reading:replace", state)).advance(word("AT", state))
    named = [state.source.calls[t.index][0] for t in state.mask().tokens() if t.kind == "node"]
    assert named == ["transformer.h.2"]


def test_advance_leaves_the_parent_as_it_was(reader: GraphReader, grammar: ScriptGrammar) -> None:
    start = source_of(gpt2_like(), reader, grammar).start()
    before = start.mask().tokens()
    start.advance(word("reading:branch", start))
    assert start.mask().tokens() == before
    assert not start.reading


def test_a_token_outside_the_mask_is_refused(reader: GraphReader, grammar: ScriptGrammar) -> None:
    start = source_of(gpt2_like(), reader, grammar).start()
    with pytest.raises(GrammarError, match="does not fit"):
        start.advance(word("SET", start))


def test_a_step_that_breaks_a_shape_is_not_allowed(reader: GraphReader, grammar: ScriptGrammar) -> None:
    """Adding the norm (width 32) to the four times wider hidden layer cannot be broadcast."""
    script = EditScript(steps=(At(("transformer.h.0",)), Add("new_add", "Add", ("ln_1", "mlp.c_fc"))))
    with pytest.raises((GrammarError, GraphError), match="Add"):
        encode_script(source_of(gpt2_like(), reader, grammar), script, reading="connect")


def test_at_bounds_all_and_to(reader: GraphReader, grammar: ScriptGrammar) -> None:
    """The bug this guards: "all", inside --at, once named the layers outside it too."""
    state = source_of(gpt2_like(), reader, grammar, at="transformer.h.2").start()
    state = state.advance(word("reading:replace", state)).advance(word("AT", state))
    state = state.advance(next(t for t in state.mask().tokens() if t.kind == "node"))
    assert {state.describe(t) for t in state.mask().tokens()} == {"DO"}
    wide = source_of(gpt2_like(), reader, grammar, at="transformer.h").start()
    wide = wide.advance(word("reading:replace", wide)).advance(word("AT", wide))
    wide = wide.advance(next(t for t in wide.mask().tokens() if t.kind == "node")).advance(word("ALL", wide))
    assert wide.advance(word("DO", wide)).steps == (At(tuple(f"transformer.h.{i}" for i in range(4))),)


def test_equal_sections_are_written_once(reader: GraphReader, grammar: ScriptGrammar) -> None:
    """In a staged network every block is a section of its own; "all layers" was once as long as the network."""
    graph = resnet_like()
    calls = [p.path for p in call_places(graph) if "layer.1.convolution" in graph.block_map[p.node.callee].by_name]
    steps = (SetAttrs("layer.1.convolution", (("kernel_size", Number.of(7)),)),)
    script = EditScript(steps=tuple(step for call in calls for step in (At((call,)), *steps)))
    assert len({p.node.callee for p in call_places(graph) if p.path in calls}) > 1
    tokens, states, _ = encode_script(source_of(graph, reader, grammar), script, reading="resize")
    words = [states[0].describe(t) for t in tokens if t.kind == "word"]
    assert words.count("SET") == 1
    assert words.count("SAME") == len(calls) - 1
    final = states[-1].advance(tokens[-1])
    assert final.edit.graph == script.run(graph, OPSET).graph


def test_a_section_is_not_repeated_where_it_does_not_fit(reader: GraphReader, grammar: ScriptGrammar) -> None:
    """The blocks of a residual stage differ: only some have a shortcut convolution."""
    source = source_of(resnet_like(), reader, grammar)
    steps = (SetAttrs("shortcut.convolution", (("bias", True),)),)
    paths = {p.path: "shortcut.convolution" in source.graph.block_map[p.node.callee].by_name
             for p in call_places(source.graph) if p.node.callee and "layer.1.convolution" in
             source.graph.block_map[p.node.callee].by_name}  # fmt: skip
    has, lacks = [p for p, found in paths.items() if found], [p for p, found in paths.items() if not found]
    assert has
    assert lacks
    _, states, _ = encode_script(source, EditScript(steps=(At((has[0],)), *steps)), reading="replace")
    state = states[-1]
    call = next(i for i, (path, _) in source.calls.items() if path == lacks[0])
    for token in (Token("word", state.vocab.id("AT")), Token("node", call)):
        state = state.advance(token)
    same = Token("word", state.vocab.id("SAME"))
    assert same in state.mask()
    assert not state.allows(same)
