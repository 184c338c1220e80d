"""The measures of fine-tuning: a distance that sees wiring, and a report that compares the same things twice."""

from pathlib import Path

import pytest

from genmad.data.corpus import ArchRecord
from genmad.evals.finetune import QUICK, run
from genmad.evals.finetune_zoos import EvalZoo, eval_zoo
from genmad.evals.graph_distance import kernel, mmd, wl_labels
from genmad.evals.held_out import EvalConfigError
from genmad.ir import Graph, GraphBuilder, canonical_hash, canonicalize
from genmad.ops import OPSET
from tests.checkpoints import write_checkpoint
from tests.graphs import bert_like, gpt2_like, llama_like, resnet_like


def chain(*ops: str) -> Graph:
    builder = GraphBuilder(OPSET)
    main = builder.block("Chain", x="float32[batch,8]")
    y = "x"
    for i, op in enumerate(ops):
        y = main.add(op, y, name=f"n{i}")
    return builder.build(main.finish(y))


def record(graph: Graph, name: str) -> ArchRecord:
    graph = canonicalize(graph)
    return ArchRecord(family=name, variant=name, split="train", hash=canonical_hash(graph), graph=graph)


def test_equal_sets_are_at_no_distance_and_strangers_are_far() -> None:
    mine, other = [gpt2_like(1), llama_like()], [resnet_like()]
    assert mmd(mine, mine) == pytest.approx(0.0, abs=1e-6)
    assert mmd(mine, other) > mmd(mine, [gpt2_like(1), bert_like(1)]) > 0


def test_the_distance_sees_wiring_and_not_names_or_widths() -> None:
    """The same ops in another order differ from the first round of relabelling on."""
    a, b = wl_labels(chain("Relu", "Sigmoid", "Tanh")), wl_labels(chain("Tanh", "Sigmoid", "Relu"))
    assert a[0] == b[0]
    assert a[1] != b[1]
    assert kernel(a, b) < 1
    wide, narrow = wl_labels(gpt2_like(1, width=64)), wl_labels(gpt2_like(1, width=32))
    assert wide == narrow


def test_the_report_holds_both_generators_on_the_same_things(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("genmad.sampling.decode.MAX_TOKENS", 8)
    zoo = EvalZoo(
        name="toys", seen="none", records=tuple(
            record(g, f"m{i}") for i, g in enumerate((gpt2_like(1), bert_like(1), llama_like(), resnet_like((1, 1))))
        ),
    )  # fmt: skip
    found = run(
        quick=True, checkpoint=str(write_checkpoint(tmp_path / "c")), size=QUICK, zoos=(zoo,),
        public={"p": (gpt2_like(2),)}, replay=[],
    )  # fmt: skip
    before, after = found["baselines"]["before tuning"], found["metrics"]
    assert set(before) <= set(after)
    fall = 1 - after["toys_node_nll"] / before["toys_node_nll"]
    assert after["toys_node_nll_fall"] == pytest.approx(fall, abs=1e-3)
    assert after["toys_pool_valid"] == before["toys_pool_valid"] == 1.0
    assert before["toys_pool_distance_dug"] == after["toys_pool_distance_dug"]
    assert after["toys_edit_num_possible"] == before["toys_edit_num_possible"]
    assert found["breakdown"]["toys"]["trained_on"] == 3


def test_an_unknown_zoo_is_named() -> None:
    with pytest.raises(EvalConfigError, match="mobile"):
        eval_zoo("cars")
