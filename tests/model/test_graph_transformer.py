"""The graph transformer: padding and caching change nothing, structure and text do."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from genmad.ir import Graph
from genmad.ir.script import At, EditScript, Number, Replace, SetAttrs
from genmad.model import GraphTransformer, GraphTransformerConfig
from genmad.model.collate import Source, collate_scripts, collate_sources
from genmad.ops import OPSET
from genmad.tokenizer import GraphReader, Mask, PromptTokenizer, ScriptGrammar, Token, Vocab, encode_script
from genmad.tokenizer.features import NUM_EDGE_KINDS, NUM_RELATIONS, NUM_VALUES
from tests.graphs import gpt2_like, llama_like

PROMPT = "use relu in the last layer"
TOLERANCE = 2e-5
Script = tuple[Sequence[Token], Sequence[Mask]]


@pytest.fixture(scope="module")
def reader() -> GraphReader:
    text = PromptTokenizer.train([PROMPT, "window 128 in layer 3"] * 20, ["relu"], vocab_size=80)
    return GraphReader(Vocab.from_opset(OPSET), text, OPSET)


@pytest.fixture(scope="module")
def model(reader: GraphReader) -> GraphTransformer:
    torch.manual_seed(0)
    config = GraphTransformerConfig(
        num_words=len(reader.vocab), num_fields=reader.num_fields, num_values=NUM_VALUES, num_pieces=len(reader.text),
        num_relations=NUM_RELATIONS, num_edge_kinds=NUM_EDGE_KINDS, hidden_size=32, num_heads=2, num_text_layers=1,
        num_encoder_layers=2, num_decoder_layers=2, dropout=0.0,
    )  # fmt: skip
    return GraphTransformer(config).eval()


def source(graph: Graph, reader: GraphReader, prompt: str = PROMPT) -> Source:
    tokens = reader.read(graph)
    return Source.of(tokens, reader.text.encode(prompt, tokens.all_names), prompt)


def script(graph: Graph, reader: GraphReader, *, op: str = "Relu", prompt: str = PROMPT) -> Script:
    grammar = ScriptGrammar(vocab=reader.vocab, opset=OPSET)
    made = source(graph, reader, prompt)
    steps = (
        At(("transformer.h.3",)),
        Replace("mlp.act", op),
        SetAttrs("mlp.c_fc", (("out_features", Number("old", times=2)),)),
    )
    tokens, states, _ = encode_script(
        grammar.compile(graph, made.graph, made.prompt), EditScript(steps=steps), reading="replace"
    )
    return tokens, [s.mask() for s in states]


def losses(model: GraphTransformer, sources: list[Source], scripts: list[Script], reader: GraphReader) -> Tensor:
    batch = collate_sources(sources)
    loss, _ = model.script_loss(batch, collate_scripts(scripts, batch, len(reader.vocab)), reader.vocab.id("<bos>"))
    return loss.detach()


def test_padding_does_not_change_losses(model: GraphTransformer, reader: GraphReader) -> None:
    """A graph beside a larger one, with a longer prompt, scores as it does alone."""
    small, large = gpt2_like(layers=4), gpt2_like(layers=9)
    pair = [source(small, reader), source(large, reader, PROMPT + " and nothing else please")]
    scripts = [script(small, reader), script(large, reader, prompt=PROMPT + " and nothing else please")]
    alone = losses(model, pair[:1], scripts[:1], reader)
    both = losses(model, pair, scripts, reader)
    assert (alone[0] - both[0]).abs().max() < TOLERANCE


def test_cached_decoding_equals_uncached(model: GraphTransformer, reader: GraphReader) -> None:
    encoded = model.encode(collate_sources([source(gpt2_like(), reader)]))
    kind, index = torch.tensor([[0, 0, 1, 0]]), torch.tensor([[1, 9, 3, 12]])
    whole, _ = model.decode(encoded, model.embed_script(encoded, kind, index))
    past, steps = None, []
    for i in range(4):
        x = model.embed_script(encoded, kind[:, i : i + 1], index[:, i : i + 1], start=i)
        hidden, past = model.decode(encoded, x, past)
        steps.append(hidden)
    assert (torch.cat(steps, 1) - whole).abs().max() < TOLERANCE


def test_later_script_tokens_do_not_reach_earlier_ones(model: GraphTransformer, reader: GraphReader) -> None:
    graph = gpt2_like()
    first, second = script(graph, reader, op="Relu"), script(graph, reader, op="Silu")
    place = next(i for i, (a, b) in enumerate(zip(first[0], second[0], strict=True)) if a != b)
    a, b = (losses(model, [source(graph, reader)], [s], reader)[0] for s in (first, second))
    assert torch.equal(a[:place], b[:place])
    assert not torch.equal(a[place:], b[place:])


@pytest.mark.parametrize("ablate", ["without_text", "without_structure"])
def test_ablations_hide_something(ablate: str, model: GraphTransformer, reader: GraphReader) -> None:
    full = source(gpt2_like(), reader)
    a, b = (model.encode(collate_sources([s])).nodes_BND for s in (full, getattr(full, ablate)()))
    assert (a - b).abs().max() > 1e-3


def test_without_text_two_prompts_look_alike(model: GraphTransformer, reader: GraphReader) -> None:
    graphs = [source(gpt2_like(), reader, p).without_text() for p in ("relu in layer 3", "relu in layer 2")]
    a, b = (model.encode(collate_sources([s])).nodes_BND for s in graphs)
    assert torch.equal(a, b)


def test_one_batch_is_learned_by_heart(reader: GraphReader) -> None:
    """The bug this guards: a target or mask that is shifted by one can never be learned."""
    torch.manual_seed(1)
    config = GraphTransformerConfig(
        num_words=len(reader.vocab), num_fields=reader.num_fields, num_values=NUM_VALUES, num_pieces=len(reader.text),
        num_relations=NUM_RELATIONS, num_edge_kinds=NUM_EDGE_KINDS, hidden_size=32, num_heads=2, num_text_layers=1,
        num_encoder_layers=1, num_decoder_layers=1, dropout=0.0,
    )  # fmt: skip
    small = GraphTransformer(config)
    graph = gpt2_like()
    sources = [source(graph, reader, "use relu"), source(graph, reader, "use silu")]
    batch = collate_sources(sources)
    scripts = collate_scripts(
        [script(graph, reader, op=o, prompt=f"use {o.lower()}") for o in ("Relu", "Silu")], batch, len(reader.vocab)
    )
    optimizer = torch.optim.AdamW(small.parameters(), 3e-3)
    for _ in range(120):
        loss, right = small.script_loss(batch, scripts, reader.vocab.id("<bos>"))
        loss.mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    assert bool((right | (scripts.kind_BL < 0)).all())


def test_a_call_reads_its_block(model: GraphTransformer, reader: GraphReader) -> None:
    """What stands inside a shared block reaches the tokens of its calls."""
    plain, windowed = llama_like(), llama_like(window=8)
    a, b = (model.encode(collate_sources([source(g, reader)])).nodes_BND[0] for g in (plain, windowed))
    tokens = reader.read(plain).refs
    call = next(i for i, ref in enumerate(tokens) if ref.name == "model.layers.2")
    assert (a[call] - b[call]).abs().max() > 1e-5
