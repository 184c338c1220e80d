"""Training: batches depend on seed and step alone, and a resumed run is the uninterrupted one, bit for bit."""

import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from genmad.data.corpus import ArchRecord, build, load, save
from genmad.ir import Graph, canonical_hash
from genmad.model import GraphTransformer
from genmad.ops import OPSET
from genmad.tokenizer import GraphReader, PromptTokenizer, ScriptGrammar, Vocab
from genmad.training.checkpoint import CheckpointError, warm_start
from genmad.training.config import ConfigError, CorpusConfig, ModelSizes, TrainConfig, load_config
from genmad.training.loop import model_config, train
from genmad.training.objectives.restore import collate_restore, corrupt
from genmad.training.objectives.scripts import incomplete
from genmad.training.stream import TrainStream
from tests.graphs import bert_like, gpt2_like, llama_like

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


def record(graph: Graph, family: str) -> ArchRecord:
    return ArchRecord(family=family, variant="v0", split="train", hash=canonical_hash(graph), graph=graph)


@pytest.fixture(scope="module")
def kit() -> tuple[list[ArchRecord], GraphReader, ScriptGrammar]:
    records = [record(gpt2_like(), "gpt2"), record(bert_like(), "bert"), record(llama_like(), "llama")]
    text = PromptTokenizer.train(
        ["add local attention to the last layer", "rank 8 lora in q_proj"] * 20, ["lora"], vocab_size=90
    )
    vocab = Vocab.from_opset(OPSET)
    return records, GraphReader(vocab, text, OPSET), ScriptGrammar(vocab=vocab, opset=OPSET)


def tiny(steps: int) -> TrainConfig:
    sizes = ModelSizes(
        hidden_size=16, num_heads=2, num_text_layers=1, num_encoder_layers=1, num_decoder_layers=1, dropout=0.0
    )
    return TrainConfig(
        corpus=CorpusConfig(held_out=()), model=sizes, steps=steps, warmup_steps=2, tokens_per_batch=200, max_batch=4,
        workers=0, save_every=2, log_every=1, mixed_precision="no",
    )  # fmt: skip


def test_a_batch_depends_on_seed_and_index_alone(kit: tuple[list[ArchRecord], GraphReader, ScriptGrammar]) -> None:
    records, reader, grammar = kit
    first, second = TrainStream(records, reader, grammar, tiny(9)), TrainStream(records, reader, grammar, tiny(9))
    second[3]
    a, b = first[5], second[5]
    assert torch.equal(a.script.index_BL, b.script.index_BL)
    assert torch.equal(a.source.text_BT, b.source.text_BT)
    assert not torch.equal(a.source.text_BT, first[6].source.text_BT)


def test_every_written_token_is_in_its_mask(kit: tuple[list[ArchRecord], GraphReader, ScriptGrammar]) -> None:
    """Complete: what the library wants written, the grammar allows."""
    records, reader, grammar = kit
    stream = TrainStream(records, reader, grammar, tiny(9))
    for index in range(6):
        script = stream[index].script
        tables = (script.words_BLV, script.nodes_BLN, script.texts_BLT)
        for kind, table in enumerate(tables):
            at = (script.kind_BL == kind).nonzero()
            assert bool(table[at[:, 0], at[:, 1], script.index_BL[at[:, 0], at[:, 1]]].all())


def test_a_resumed_run_is_the_uninterrupted_one(
    kit: tuple[list[ArchRecord], GraphReader, ScriptGrammar], tmp_path: Path
) -> None:
    records, reader, grammar = kit
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir()
    parts.mkdir()
    train(tiny(4), records, reader, grammar, whole)

    class Stop(Exception):
        pass

    def stop(row: dict[str, float]) -> None:
        if row["step"] == 3:
            raise Stop

    with pytest.raises(Stop):
        train(tiny(4), records, reader, grammar, parts, report=stop)
    train(tiny(4), records, reader, grammar, parts, resume=True)
    a, b = ((folder / "model" / "model.safetensors").read_bytes() for folder in (whole, parts))
    assert a == b


def test_incomplete_graphs_are_completed_by_their_scripts() -> None:
    for graph in (gpt2_like(), bert_like(), llama_like()):
        made = [incomplete(graph, OPSET, random.Random(i)) for i in range(12)]
        found = [m for m in made if m is not None]
        assert len(found) >= 6
        for rest, script in found:
            assert canonical_hash(script.run(rest, OPSET).graph) == canonical_hash(graph)
            assert canonical_hash(rest) != canonical_hash(graph)


def test_corruption_hides_what_must_be_restored(kit: tuple[list[ArchRecord], GraphReader, ScriptGrammar]) -> None:
    """The bug this guards: a masked op that can still be read off its attributes or name."""
    _, reader, _ = kit
    graph = gpt2_like()
    corrupted = corrupt(graph, reader, random.Random(3))
    mask = reader.vocab.id("<mask>")
    for token in corrupted.ops:
        assert corrupted.source.graph.op[token] == mask
        assert not corrupted.source.graph.pieces[token].any()
    edges = set(map(tuple, corrupted.source.graph.edges.T.tolist()))
    whole = set(map(tuple, reader.read(graph).edges.T.tolist()))
    for (consumer, _), source in corrupted.links.items():
        assert (source, consumer) in whole
    assert edges < whole
    batch = collate_restore([corrupted])
    assert bool(batch.link_choices_QN[torch.arange(len(batch.link_target_Q)), batch.link_target_Q].all())


def broken() -> Graph:
    raise ZeroDivisionError


def test_a_family_stands_in_one_split_only(tmp_path: Path) -> None:
    """The same graph under a training and a held-out family belongs to the held-out one."""
    variants = [
        ("gpt2", "v0", gpt2_like),
        ("copy", "v0", gpt2_like),
        ("bert", "v0", bert_like),
        ("broken", "v0", broken),
    ]
    records, failures = build(variants, frozenset({"copy"}))
    save(records, failures, tmp_path / "corpus")
    assert {r.family for r in load(tmp_path / "corpus", "train")} == {"bert"}
    assert {r.family for r in load(tmp_path / "corpus", "heldout")} == {"copy"}
    assert [f.family for f in failures] == ["broken"]
    assert failures[0].reason.startswith("ZeroDivisionError")


@pytest.mark.parametrize("name", ["pretrain.yaml"])
def test_shipped_configs_load(name: str) -> None:
    assert load_config(CONFIGS / name).steps > 0


def test_an_unknown_key_is_named(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("steps: 3\nlearning_rat: 1\ncorpus: {held_out: []}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="learning_rat"):
        load_config(path)


def test_word_vectors_keep_near_words_near() -> None:
    """Row 0 stands for unknown words; two words with like vectors stay alike."""
    import numpy as np

    from genmad.training.word_vectors import reduce, whole_words

    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(200, 40))
    vectors[1] = vectors[0] + 0.05 * rng.normal(size=40)
    table = reduce(vectors, 16)
    assert not table[0].any()
    likeness = table[1:] @ table[1]
    assert likeness[1] == max(likeness[1:])
    assert whole_words({"add": 3, "##ing": 1, "Trade": 2, "a": 0, "the": 1}) == ["the", "add"]


def test_a_run_can_start_from_the_weights_of_another(
    kit: tuple[list[ArchRecord], GraphReader, ScriptGrammar], tmp_path: Path
) -> None:
    records, reader, grammar = kit
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    train(tiny(2), records, reader, grammar, first)
    model = GraphTransformer(model_config(tiny(2), reader))
    warm_start(first, model, reader.text)
    saved = load_file(first / "state.safetensors")
    assert torch.equal(model.words.weight, saved["model.words.weight"])
    again = GraphTransformer(model_config(tiny(2), reader))
    warm_start(first / "model", again, reader.text)
    assert torch.allclose(again.words.weight, saved["model.words.weight"], atol=1e-3)
    with pytest.raises(CheckpointError, match="no state"):
        warm_start(second, model, reader.text)
