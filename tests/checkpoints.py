"""A checkpoint that knows nothing, small enough for tests, and completions for it: its own take long and seldom end."""

from pathlib import Path
from typing import Any

import torch

from genmad.ir import Graph, canonicalize
from genmad.ir.script import Add, At, EditScript, Rewire, fresh_name
from genmad.model import GraphTransformer
from genmad.ops import OPSET
from genmad.tokenizer import GraphReader, PromptTokenizer, Vocab
from genmad.training.checkpoint import save_pretrained
from genmad.training.config import CorpusConfig, ModelSizes, TrainConfig
from genmad.training.loop import model_config

SIZES = ModelSizes(
    hidden_size=16, num_heads=2, num_text_layers=1, num_encoder_layers=1, num_decoder_layers=1, dropout=0.0
)
SENTENCES = ("add local attention to the last layer", "complete the graph")


def write_checkpoint(folder: Path, *, without: frozenset[str] = frozenset()) -> Path:
    """Writes one of random weights, whose vocabulary lacks the words `without`."""
    text = PromptTokenizer.train(SENTENCES * 20, [], vocab_size=60)
    vocab = Vocab(tokens=tuple(t for t in Vocab.from_opset(OPSET).tokens if t not in without))
    reader = GraphReader(vocab, text, OPSET)
    config = TrainConfig(corpus=CorpusConfig(held_out=()), model=SIZES, steps=1)
    torch.manual_seed(1)
    save_pretrained(folder, GraphTransformer(model_config(config, reader)), reader, config)
    return folder


def relu_at_the_end(_: Any, graph: Graph, *__: Any) -> tuple[Graph, float]:
    """Stands in for `genmad.sampling.regrow.complete`."""
    last = graph.main.outputs[0]
    name = fresh_name(graph.main, "Relu", (last,))
    script = EditScript(steps=(At(()), Add(name, "Relu", (last,)), Rewire("", 0, name)))
    return canonicalize(script.run(graph, OPSET).graph), -1.0
