"""A vocabulary over the whole op set and a tiny prompt tokenizer, made once."""

import pytest

from genmad.ops import OPSET
from genmad.tokenizer import GraphReader, PromptTokenizer, ScriptGrammar, Vocab
from genmad.tokenizer.encode import GraphTokenizer

SENTENCES = ["add local attention to the last layer", "lora of rank 8 to q_proj with window 128"] * 20


@pytest.fixture(scope="session")
def prompt_tokenizer() -> PromptTokenizer:
    return PromptTokenizer.train(SENTENCES, ["lora", "attention"], vocab_size=120)


@pytest.fixture(scope="session")
def graph_tokenizer(prompt_tokenizer: PromptTokenizer) -> GraphTokenizer:
    return GraphTokenizer(Vocab.from_opset(OPSET), prompt_tokenizer, OPSET)


@pytest.fixture(scope="session")
def reader(graph_tokenizer: GraphTokenizer) -> GraphReader:
    return graph_tokenizer.reader


@pytest.fixture(scope="session")
def grammar(graph_tokenizer: GraphTokenizer) -> ScriptGrammar:
    return ScriptGrammar(vocab=graph_tokenizer.vocab, opset=OPSET)
