"""One graph, one token sequence, and the very graph back."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from genmad.ir import Graph, GraphError, canonicalize, rename_nodes, replace_block, same_structure
from genmad.ops import OPSET
from genmad.tokenizer.encode import GraphTokenizer, TokenSequence
from tests.graphs import bert_like, gpt2_like, llama_like, resnet_like, t5_like

GRAPHS = [gpt2_like, bert_like, llama_like, t5_like, resnet_like]


@pytest.mark.parametrize("make", GRAPHS)
def test_decoding_gives_the_very_graph(make: Callable[[], Graph], graph_tokenizer: GraphTokenizer) -> None:
    graph = canonicalize(make())
    assert graph_tokenizer.decode(graph_tokenizer.encode(graph)) == graph


@pytest.mark.parametrize("make", GRAPHS)
def test_structure_alone_holds_everything_but_names(make: Callable[[], Graph], graph_tokenizer: GraphTokenizer) -> None:
    """Ties were once lost here: a decoded GPT-2 had a head of its own."""
    graph = make()
    assert same_structure(graph_tokenizer.decode(graph_tokenizer.encode(graph, names=False)), graph)


def test_renaming_leaves_the_structure_ids_as_they_are(graph_tokenizer: GraphTokenizer) -> None:
    graph = gpt2_like()
    names = {"ln_1": "first_norm", "attn.c_proj": "attn.out"}
    renamed = replace_block(graph, rename_nodes(graph.block_map["GPT2Block"], names))
    assert graph_tokenizer.encode(renamed).structure == graph_tokenizer.encode(graph).structure
    assert graph_tokenizer.encode(renamed).names != graph_tokenizer.encode(graph).names


def test_a_repeated_call_repeats_its_ids(graph_tokenizer: GraphTokenizer) -> None:
    short, long = (graph_tokenizer.encode(gpt2_like(layers=n)).structure for n in (2, 9))
    assert (len(long) - len(short)) % 7 == 0


def test_random_ids_are_refused_with_the_position(graph_tokenizer: GraphTokenizer) -> None:
    rng = random.Random(0)
    for _ in range(50):
        ids = tuple(rng.randrange(len(graph_tokenizer.vocab)) for _ in range(30))
        with pytest.raises(GraphError, match=r"position \d+|block|node"):
            graph_tokenizer.decode(TokenSequence(structure=ids))


def test_a_truncated_sequence_is_refused(graph_tokenizer: GraphTokenizer) -> None:
    ids = graph_tokenizer.encode(gpt2_like()).structure
    with pytest.raises(GraphError, match="position"):
        graph_tokenizer.decode(TokenSequence(structure=ids[: len(ids) // 2]))


def test_saved_tokenizer_gives_the_same_ids(graph_tokenizer: GraphTokenizer, tmp_path: Path) -> None:
    graph_tokenizer.save_pretrained(tmp_path)
    again = GraphTokenizer.from_pretrained(tmp_path, OPSET)
    assert again.encode(llama_like()) == graph_tokenizer.encode(llama_like())
    assert again.text.encode("rank 8") == graph_tokenizer.text.encode("rank 8")


def test_numbers_and_known_names_are_marked(graph_tokenizer: GraphTokenizer) -> None:
    tokens = graph_tokenizer.text.encode("lora of rank 16 to c_attn and q_proj", frozenset({"c_attn"}))
    assert list(tokens.number_values.values()) == [16]
    assert {1, 2} <= set(tokens.marks)
