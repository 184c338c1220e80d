"""What experts may learn from: nothing that a full training has written."""

import numpy as np
import pytest

from genmad.autobuild.architecture import ArchGraph, FeatureSchema, LabelledSet
from genmad.autobuild.peers import experts as peer_experts
from genmad.evals import predictor_experts

FULL = ("c10_test", "c100_test", "in16_test", "c10_val", "c10_val_s", "c10_test_s", "c100_val_s", "nb360_ninapro",
        "nb360_darcy", "val_ep36", "val_ep108", "train_time_s")  # fmt: skip
SHORT = ("c10_test_ep12_s", "c100_val_ep12_s")
COSTS = ("params_M", "flops_M", "c10_edgegpu_latency", "in16_fpga_energy", "help_pixel3", "help_titanx_1")
PROXIES = ("zc_c10_synflow", "zc_in16_params_M", "zen_c100", "naswot_score_c10")


def small_set(name: str = "nb201", columns: tuple[str, ...] = (*FULL, *SHORT, *COSTS, *PROXIES)) -> LabelledSet:
    """Eight chains of one to four operations with random columns."""
    rng = np.random.default_rng(0)
    graphs = []
    for ops in [(2,), (3,), (2, 3), (3, 2), (2, 2, 3), (3, 3, 2), (2, 3, 2, 3), (3, 3, 3, 3)]:
        nodes = np.array([0, *ops, 1], np.int64)
        at = np.arange(len(nodes) - 1)
        graphs.append(ArchGraph(features=nodes[:, None], edges=np.stack([at, at + 1], 1).astype(np.int64),
                                stages=np.zeros(len(nodes), np.int64)))  # fmt: skip
    return LabelledSet(
        name=name, schema=FeatureSchema(names=("op",), choices=(("input", "output", "nor_conv_3x3", "avg_pool_3x3"),)),
        graphs=tuple(graphs), groups=np.arange(8), targets={c: rng.normal(size=8) for c in columns},
        texts=tuple(map(str, range(8))),
    )  # fmt: skip


def test_no_column_of_a_full_training_is_cheap() -> None:
    labelled = small_set()
    chosen = (predictor_experts.proxy_columns(labelled), predictor_experts.cost_columns(labelled))
    assert chosen == (list(PROXIES), list(COSTS))
    assert predictor_experts.short_columns(labelled) == list(SHORT)


def test_of_nas_bench_101_the_first_two_schedules_are_short() -> None:
    labelled = small_set("nb101", ("val_ep4", "val_ep12", "val_ep36", "val_ep108", "params", "train_time_s", "zen"))
    assert predictor_experts.short_columns(labelled) == ["val_ep4", "val_ep12"]
    assert predictor_experts.cost_columns(labelled) == ["params"]
    assert predictor_experts.proxy_columns(labelled) == ["zen"]


def test_the_short_schedule_is_a_task_only_where_it_is_asked_for() -> None:
    labelled = small_set()
    assert [task.name for task in predictor_experts.tasks(labelled, short=False)] == ["structure", "costs", "proxies"]
    assert [task.name for task in predictor_experts.tasks(labelled, short=True)][-1] == "short"


def test_experts_are_pretrained_once_for_all_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []

    def pretrain(*_: object, seed: int, **__: object) -> peer_experts.ExpertBank:
        made.append(seed)
        return peer_experts.ExpertBank(tasks=("structure",), ensembles=())

    monkeypatch.setattr(predictor_experts, "pretrain", pretrain)
    monkeypatch.setattr(predictor_experts, "_banks", {})
    labelled = small_set()
    first, second = (predictor_experts.experts(labelled, seed)["bank"] for seed in (0, 1))
    assert first is second
    assert len(made) == 1
    assert predictor_experts.experts_short(labelled, 0)["bank"] is not first
