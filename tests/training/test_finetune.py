"""Fine-tuning: batches follow from seed and step, an interrupted run is the unbroken one, old words keep their ids."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from genmad.data.corpus import ArchRecord
from genmad.ir import Graph, GraphBuilder, canonical_hash, canonicalize
from genmad.ops import OPSET
from genmad.tokenizer import Vocab
from genmad.training.checkpoint import CheckpointError
from genmad.training.finetune import LOG, TuneConfig, TuneResult, chosen_rank, finetune
from genmad.training.finetune_base import leaf_words, load_base
from genmad.training.finetune_data import BatchSettings, TuneStream, split_zoo, twin_key
from genmad.training.finetune_folder import About, TunedFolderError, save_tuned
from genmad.training.finetune_measure import grouped_nll, op_groups
from genmad.training.low_rank import add_low_rank, merge_low_rank, train_new_rows
from tests.checkpoints import write_checkpoint
from tests.graphs import bert_like, gpt2_like, llama_like, mobile_like, resnet_like

LEAF = "leaf:TorchCall=torch.nn.functional.normalize"


def record(graph: Graph, name: str) -> ArchRecord:
    graph = canonicalize(graph)
    return ArchRecord(family=name, variant=name, split="train", hash=canonical_hash(graph), graph=graph)


def with_leaf() -> Graph:
    builder = GraphBuilder(OPSET)
    main = builder.block("Normed", x="float32[batch,8]")
    y = main.add("Linear", "x", out_features=8, name="up")
    kept = {
        "target": "torch.nn.functional.normalize", "arguments": '{"args": [{"$": 0}], "kwargs": {"dim": -1}}',
        "types": "float32[batch,8]",
    }  # fmt: skip
    y = main.add("TorchCall", y, name="unit", **kept)
    return builder.build(main.finish(main.add("Relu", y, name="act")))


ZOO = tuple(
    record(graph, f"m{i}")
    for i, graph in enumerate((gpt2_like(2), gpt2_like(3), llama_like(), bert_like(2), resnet_like(), with_leaf()))
)
PUBLIC = [record(mobile_like(), "p0"), record(resnet_like((1, 1)), "p1")]
QUICK = TuneConfig(steps=6, check_every=2, warmup_steps=2, tokens_per_batch=160, learning_rate=0.01)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny checkpoint whose vocabulary knows no op `Mish`."""
    return write_checkpoint(tmp_path_factory.mktemp("base"), without=frozenset({"op:Mish"}))


def tuned(checkpoint: Path, run: Path, config: TuneConfig = QUICK, **options: object) -> TuneResult:
    base = load_base(checkpoint, [r.graph for r in ZOO])
    parts = split_zoo(ZOO[2:], config.held_out_share, config.max_graph_tokens)
    return finetune(base, parts, PUBLIC, config, run, **options)  # type: ignore[arg-type]


def test_new_words_stand_behind_the_old_ones_and_start_as_their_op(checkpoint: Path) -> None:
    """The bug this guards: a grown vocabulary that renumbers tokens turns every trained row into another's."""
    base = load_base(checkpoint, [with_leaf()])
    old = Vocab.load(checkpoint / "vocab.json")
    assert base.reader.vocab.tokens[: len(old)] == old.tokens
    assert base.added == ("op:Mish", LEAF)
    saved = load_file(checkpoint / "model.safetensors")["words.weight"].float()
    table = base.model.words.weight
    assert torch.equal(table[: len(old)], saved)
    assert torch.equal(table[base.reader.vocab.id(LEAF)], saved[old.id("op:TorchCall")])
    unit = base.reader.read(canonicalize(with_leaf()))
    assert base.reader.vocab.id(LEAF) in unit.op.tolist()


def test_a_leaf_keeps_the_reference_to_its_code() -> None:
    builder = GraphBuilder(OPSET)
    main = builder.block("Fused", x="float32[batch,8]")
    y = main.add("OnnxCall", "x", op_type="FusedThing", domain="com.acme", types="float32[batch,8]")
    foreign = builder.build(main.finish(y))
    assert leaf_words([with_leaf(), gpt2_like(1), foreign]) == ("leaf:OnnxCall=com.acme.FusedThing", LEAF)


def test_low_rank_starts_as_the_model_and_merges_into_plain_weights(checkpoint: Path) -> None:
    model = load_base(checkpoint).model
    names, before = set(model.state_dict()), model.op_head.weight.detach().clone()
    trained = add_low_rank(model, 2)
    assert trained < sum(p.numel() for p in model.parameters()) / 2
    assert torch.equal(model.op_head.weight, before)
    with torch.no_grad():
        model.op_head.parametrizations.weight[0].b_Dr.fill_(0.5)
    moved = model.op_head.weight.detach().clone()
    assert not torch.equal(moved, before)
    merge_low_rank(model)
    assert set(model.state_dict()) == names
    assert torch.equal(model.op_head.weight, moved)


def test_only_new_rows_of_a_table_are_trained() -> None:
    table = torch.nn.Parameter(torch.ones(4, 3), requires_grad=False)
    train_new_rows(table, 3)
    (table.sum() * 2).backward()
    assert table.grad is not None
    assert table.grad.tolist() == [[0.0] * 3] * 3 + [[2.0] * 3]


def test_twins_stand_in_one_part() -> None:
    """Models that differ in width alone would make the held-out figures those of training."""
    zoo = [record(gpt2_like(2, width=16 * w), f"w{w}") for w in (1, 2, 3)]
    zoo += [record(g, f"o{i}") for i, g in enumerate((bert_like(2), llama_like(), resnet_like(), mobile_like()))]
    parts = split_zoo(zoo, 0.3, 700)
    keys = [{twin_key(r.graph) for r in part} for part in (parts.train, parts.held_out)]
    assert parts.own
    assert not keys[0] & keys[1]
    assert len(parts.train) + len(parts.held_out) == len(zoo)
    assert split_zoo(list(reversed(zoo)), 0.3, 700).held_out == parts.held_out


def test_a_zoo_of_one_is_measured_on_itself_and_large_graphs_are_named() -> None:
    one = split_zoo(ZOO[:1], 0.2, 700)
    assert (one.own, one.train, one.held_out) == (False, ZOO[:1], ZOO[:1])
    assert split_zoo(ZOO[:1], 0.2, 5).too_large[0][0] == "m0"


def test_batches_follow_from_seed_and_step_alone(checkpoint: Path) -> None:
    base = load_base(checkpoint, [r.graph for r in ZOO])
    settings = BatchSettings(seed=3, steps=9, tokens=160, replay_share=0.5)

    def stream() -> TuneStream:
        return TuneStream(ZOO, PUBLIC, base.reader, base.grammar, settings)

    first, second = stream(), stream()
    second[4]
    assert torch.equal(first[7].script.index_BL, second[7].script.index_BL)
    kinds = [first.is_replay(i) for i in range(40)]
    assert 8 < sum(kinds) < 32


@pytest.mark.parametrize("rank", [0, 2])
def test_an_interrupted_run_is_the_unbroken_one(checkpoint: Path, tmp_path: Path, rank: int) -> None:
    """Loss curve and weights, bit for bit; the interruption comes between two checks, whose steps are done again."""
    config = replace(QUICK, rank=rank, steps=4)
    whole = tuned(checkpoint, tmp_path / "whole", config)

    class Stop(Exception):
        pass

    def stop(row: dict[str, float]) -> None:
        if row["step"] == 2:
            raise Stop

    with pytest.raises(Stop):
        tuned(checkpoint, tmp_path / "parts", config, report=stop)
    again = tuned(checkpoint, tmp_path / "parts", config, resume=True)
    logs = [(tmp_path / name / LOG).read_text(encoding="utf-8") for name in ("whole", "parts")]
    assert logs[0] == logs[1]
    assert [json.loads(line)["step"] for line in logs[0].splitlines()] == [0, 2, 4]
    a, b = whole.model.state_dict(), again.model.state_dict()
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_tuning_lowers_the_likelihood_it_is_stopped_by(checkpoint: Path, tmp_path: Path) -> None:
    result = tuned(checkpoint, tmp_path / "run", replace(QUICK, steps=16, check_every=8, rank=0))
    first, best = result.state.checks[0], result.state.best
    assert best.step > 0
    assert best.zoo["node_nll"] < 0.9 * first.zoo["node_nll"]


def test_the_time_limit_ends_a_run_that_can_go_on(checkpoint: Path, tmp_path: Path) -> None:
    def ticks() -> Iterator[float]:
        now = 0.0
        while True:
            yield now
            now += 1.0

    time = ticks()
    config = replace(QUICK, seconds=22.0)
    short = tuned(checkpoint, tmp_path / "run", config, clock=lambda: next(time))
    assert short.state.stopped == "time"
    assert 0 < short.state.step < 6
    after = tuned(checkpoint, tmp_path / "run", replace(config, seconds=None), resume=True)
    assert (after.state.stopped, after.state.step) == ("end", 6)


def test_a_folder_without_a_run_cannot_be_gone_on_with(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="leave --resume out"):
        tuned(checkpoint, tmp_path / "none", resume=True)


def test_the_way_follows_from_the_size_of_the_zoo() -> None:
    assert [chosen_rank(TuneConfig(), n) for n in (3, 20, 500)] == [4, 16, 0]
    assert chosen_rank(TuneConfig(rank=7), 500) == 7


def test_a_checkpoint_of_another_version_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    import shutil

    newer, other, torn = tmp_path / "newer", tmp_path / "other", tmp_path / "torn"
    for folder in (newer, other, torn):
        shutil.copytree(checkpoint, folder)
    vocab = json.loads((newer / "vocab.json").read_text(encoding="utf-8"))
    vocab["tokens"].append("op:FromTheFuture")
    (newer / "vocab.json").write_text(json.dumps(vocab), encoding="utf-8")
    tensors = load_file(other / "model.safetensors")
    save_file({f"old_{k}" if k == "word_bias" else k: v for k, v in tensors.items()}, other / "model.safetensors")
    (torn / "model.safetensors").write_bytes((torn / "model.safetensors").read_bytes()[:500])
    for folder, match in (
        (newer, "FromTheFuture"),
        (other, "word_bias"),
        (torn, "Error"),
        (tmp_path, "no config.json"),
    ):
        with pytest.raises(CheckpointError, match=match):
            load_base(folder)


def test_leaves_count_as_their_op_in_the_measure() -> None:
    """So that a vocabulary that has grown is compared fairly with the one before."""
    vocab = Vocab.from_opset(OPSET).extended([LEAF])
    call, leaf, relu = (vocab.id(t) for t in ("op:TorchCall", LEAF, "op:Relu"))
    logits = torch.full((2, len(vocab)), -50.0)
    logits[:, [call, leaf, relu]] = torch.tensor([1.0, 1.0, 1.0])
    nats, hits = grouped_nll(logits, torch.tensor([leaf, relu]), op_groups(vocab))
    assert torch.allclose(nats, torch.tensor([1.5, 3.0]).log(), atol=1e-5)
    assert hits.tolist() == [True, False]


ABOUT = About(license="mit", base="x", zoo={"models": 6}, tuning={"steps": 6}, before={}, after={})


def test_a_full_disk_leaves_the_folder_as_it_was(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = load_base(checkpoint)
    save_tuned(tmp_path / "out", base.model, base.reader, ABOUT)
    before = {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()}

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("genmad.training.finetune_folder.save_file", full)
    with pytest.raises(TunedFolderError, match="No space left"):
        save_tuned(tmp_path / "out", base.model, base.reader, ABOUT)
    assert {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()} == before
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
