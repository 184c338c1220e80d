"""The editor on an untrained model: whatever it writes is valid, and the same seed writes it again."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from genmad.ir import Graph, check_types
from genmad.model import GraphTransformer, GraphTransformerConfig
from genmad.model.collate import Source, collate_sources
from genmad.ops import OPSET
from genmad.sampling import Editor
from genmad.sampling.decode import write_script
from genmad.sampling.pretrained import CheckpointError, load_pretrained
from genmad.sampling.probe import Probe
from genmad.tokenizer import GraphReader, PromptTokenizer, Vocab
from genmad.tokenizer.features import NUM_EDGE_KINDS, NUM_RELATIONS, NUM_VALUES
from genmad.training.checkpoint import save_pretrained
from genmad.training.config import CorpusConfig, TrainConfig
from tests.graphs import gpt2_like, llama_like, resnet_like


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights; large word scores so that untrained scripts differ from prompt to prompt."""
    torch.manual_seed(0)
    text = PromptTokenizer.train(
        ["add local attention to the last layer", "rank 8 lora in q_proj"] * 20, ["lora"], vocab_size=90
    )
    reader = GraphReader(Vocab.from_opset(OPSET), text, OPSET)
    config = GraphTransformerConfig(
        num_words=len(reader.vocab), num_fields=reader.num_fields, num_values=NUM_VALUES, num_pieces=len(text),
        num_relations=NUM_RELATIONS, num_edge_kinds=NUM_EDGE_KINDS, hidden_size=16, num_heads=2, num_text_layers=1,
        num_encoder_layers=1, num_decoder_layers=1, dropout=0.0,
    )  # fmt: skip
    model = GraphTransformer(config)
    with torch.no_grad():
        model.word_bias[[i for i in reader.vocab.family("refuse")]] = -50.0
        model.word_bias[reader.vocab.id("<eos>")] = 3.0
    folder = tmp_path_factory.mktemp("checkpoint")
    save_pretrained(folder, model, reader, TrainConfig(corpus=CorpusConfig(held_out=()), steps=1))
    return folder


@pytest.mark.parametrize("make", [gpt2_like, llama_like, resnet_like])
def test_whatever_is_written_is_valid(make: Callable[[], Graph], checkpoint: Path) -> None:
    kit = load_pretrained(checkpoint)
    graph = make()
    tokens = kit.reader.read(graph)
    pieces = kit.reader.text.encode("make 8 of 2")
    encoded = kit.model.encode(collate_sources([Source.of(tokens, pieces, "make 8 of 2")]))
    start = kit.grammar.compile(graph, tokens, pieces).start()
    for seed in range(12):
        written = write_script(kit.model, encoded, start, temperature=1.5, rng=torch.Generator().manual_seed(seed))
        check_types(written.state.edit.close().graph, OPSET)


def test_the_same_seed_gives_the_same_proposals(checkpoint: Path) -> None:
    editor = Editor.from_pretrained(checkpoint)
    runs = [editor.edit(gpt2_like(), "add local attention", samples=3, seed=7, temperature=1.5) for _ in range(2)]
    assert [(p.script, p.log_prob) for p in runs[0]] == [(p.script, p.log_prob) for p in runs[1]]


def test_a_forced_reading_is_taken(checkpoint: Path) -> None:
    proposal = Editor.from_pretrained(checkpoint).edit(gpt2_like(), "local attention", reading="connect")[0]
    assert proposal.reading in ("connect", "")
    assert proposal.reading == "connect" or proposal.status == "refused"


def test_the_probe_answers_with_names_of_the_graph(checkpoint: Path) -> None:
    probe, graph = Probe.from_pretrained(checkpoint), gpt2_like()
    assert probe.masked_op(graph, "GPT2Block", "ln_1") in OPSET
    block = graph.block_map["GPT2Block"]
    assert probe.link(graph, "GPT2Block", "add", 0) in {*block.by_name, *(v.name for v in block.inputs)}


def test_a_folder_without_a_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no config.json, model.safetensors"):
        Editor.from_pretrained(tmp_path)
