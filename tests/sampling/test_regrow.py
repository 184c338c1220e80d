"""Graphs grown from seeds: valid, distinct, never a seed, and the same for the same seed of the draws."""

from pathlib import Path

import pytest
import torch

from genmad.ir import canonical_hash, canonicalize, type_problems
from genmad.ir.script import EditScript, EditState
from genmad.ops import OPSET
from genmad.sampling import Proposal, editor
from genmad.sampling.pretrained import HASHES, CheckpointError, Pretrained, load_pretrained
from genmad.sampling.regrow import RegrowSettings, can_go, complete, dig, regrow_many, without
from tests.checkpoints import relu_at_the_end, write_checkpoint
from tests.graphs import gpt2_like, resnet_like


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Pretrained:
    return load_pretrained(write_checkpoint(tmp_path_factory.mktemp("c")))


def test_a_node_that_keeps_the_type_can_be_bypassed_and_others_cannot() -> None:
    graph = canonicalize(resnet_like((1, 1)))
    kinds = {n.op for b in graph.all_blocks for n in b.nodes if can_go(b, n)}
    assert "Relu" in kinds
    assert not kinds & {"Flatten", "GlobalAveragePool"}
    block, node = next((b, n) for b in graph.all_blocks for n in b.nodes if n.op == "Relu")
    rest = without(graph, block, node)
    assert rest is not None
    assert rest.num_nodes == graph.num_nodes - 1
    assert not list(type_problems(rest, OPSET))


def test_holes_are_dug_by_the_generator_of_randomness_alone() -> None:
    graph = canonicalize(gpt2_like(2))
    first, second = (dig(graph, 3, torch.Generator().manual_seed(4)) for _ in range(2))
    assert canonical_hash(first[0]) == canonical_hash(second[0])
    assert first[1] == 3
    assert first[0].num_nodes == graph.num_nodes - 3


def test_what_is_grown_is_valid_distinct_and_no_seed(kit: Pretrained, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("genmad.sampling.regrow.complete", relu_at_the_end)
    seeds = [gpt2_like(1), resnet_like((1, 1))]

    def grown() -> list[str]:
        out = []
        for found, _ in zip(regrow_many(kit, seeds, RegrowSettings(holes=2), seed=1), range(4), strict=False):
            assert not list(type_problems(found.graph, OPSET))
            assert found.hash == canonical_hash(found.graph)
            out.append(found.hash)
        return out

    first = grown()
    assert len(set(first)) == 4
    assert not set(first) & {canonical_hash(canonicalize(g)) for g in seeds}
    assert first == grown()
    avoided = regrow_many(kit, seeds, RegrowSettings(holes=2), seed=1, avoid=frozenset(first[:1]))
    assert next(avoided).hash != first[0]


def test_a_completion_is_valid_or_none(kit: Pretrained, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of random weights most scripts do not end in time; what ends is a typed graph."""
    monkeypatch.setattr("genmad.sampling.decode.MAX_TOKENS", 16)
    found = [complete(kit, canonicalize(resnet_like((1,))), 1.0, torch.Generator().manual_seed(i)) for i in range(8)]
    assert all(made is None or not list(type_problems(made[0], OPSET)) for made in found)
    assert any(made is not None for made in found)


def test_a_forbidden_graph_is_no_answer() -> None:
    graph = canonicalize(gpt2_like(1))
    state = EditState.start(graph, OPSET)
    good = Proposal(status="ok", script=EditScript(), state=state, confidence=0.5, log_prob=-0.7)
    assert editor._not_forbidden(good, frozenset({"another"})) == good
    refused = editor._not_forbidden(good, frozenset({canonical_hash(graph)}))
    assert (refused.status, refused.state) == ("failed", None)
    assert "copies are forbidden" in refused.blocked


def test_a_file_of_forbidden_hashes_that_is_none_is_refused(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "c")
    (folder / HASHES).write_text('["ab"]', encoding="utf-8")
    assert load_pretrained(folder).forbidden == {"ab"}
    for text in ("{}", "[1]", "{"):
        (folder / HASHES).write_text(text, encoding="utf-8")
        with pytest.raises(CheckpointError):
            load_pretrained(folder)
