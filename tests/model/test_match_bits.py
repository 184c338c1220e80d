"""What a prompt says of each token is compared on the graph, so that the network need not learn to count."""

import pytest

from genmad.model.collate import MATCHES, match_bits
from genmad.ops import OPSET
from genmad.tokenizer import GraphReader, PromptTokenizer, Vocab
from tests.graphs import gpt2_like


@pytest.fixture(scope="module")
def reader() -> GraphReader:
    text = PromptTokenizer.train(["set the window to 128 in layer 3"] * 20, ["relu"], vocab_size=60)
    return GraphReader(Vocab.from_opset(OPSET), text, OPSET)


def marked(reader: GraphReader, prompt: str, match: str, layers: int = 6) -> list[str]:
    """Names of the tokens that have the match's bit, of calls and ops alike."""
    graph = reader.read(gpt2_like(layers=layers))
    bits = match_bits(graph, prompt) >> MATCHES.index(match) & 1
    return [ref.name for ref, bit in zip(graph.refs, bits, strict=True) if bit and ref.kind == "node"]


@pytest.mark.parametrize(
    ("prompt", "match", "layers"),
    [
        ("layer 3", "its place among its sibling calls", [3]),
        ("layers 1 and four", "its place among its sibling calls", [1, 4]),
        ("the third layer", "the same, as an ordinal", [2]),
        ("layer -2", "the same, counted from the end", [4]),
        ("the second to last layer", "the same, counted from the end", [4]),
        ("layers 1 to 3", "within a range of places", [1, 2, 3]),
        ("layers 1 through four", "within a range of places", [1, 2, 3, 4]),
        ("layers 1 and 3", "within a range of places", []),
        ("the first 2 layers", "among the first n", [0, 1]),
        ("the last three layers", "among the last n", [3, 4, 5]),
    ],
)
def test_numbers_find_the_layers(reader: GraphReader, prompt: str, match: str, layers: list[int]) -> None:
    index = MATCHES.index(match)
    first = [m for m in MATCHES[: index + 1] if m == match]
    assert len(first) == 1, "the first of the two meanings, that of the call itself"
    assert marked(reader, prompt, match) == [f"transformer.h.{i}" for i in layers]


def test_an_op_is_found_by_its_name_in_words(reader: GraphReader) -> None:
    norms = marked(reader, "swap the layer normalization", "its op or an attribute in words")
    assert norms == ["transformer.ln_f", "ln_1", "ln_2"]
    assert marked(reader, "swap the layer", "its op or an attribute in words") == []


def test_a_size_is_found_by_its_number(reader: GraphReader) -> None:
    assert "attn.attention" in marked(reader, "4 heads instead", "value of an attribute")
    assert "attn.attention" not in marked(reader, "5 heads instead", "value of an attribute")
