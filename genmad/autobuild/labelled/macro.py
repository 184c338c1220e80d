"""Macro spaces: NAS-Bench-Macro (all 6,561 networks) and Accel-NASBench, layers in a chain."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from genmad.autobuild.architecture import ArchGraph, FeatureSchema, LabelledSet
from genmad.autobuild.labelled.reading import (
    bad_row,
    chain,
    class_numbers,
    lower_is_better,
    number_columns,
    present_rows,
    table_path,
)

MACRO_OPS = ("identity", "MB3_K3", "MB6_K5")
MACRO_STAGES = (2, 3, 3)
_PLACES = tuple((stage, layer) for stage, size in enumerate(MACRO_STAGES) for layer in range(size))
MACRO_SCHEMA = FeatureSchema(names=("stage", "layer", "op"), choices=(("1", "2", "3"), ("1", "2", "3"), MACRO_OPS))
ACCEL_STAGES = 7
_EXPANDS, _KERNELS = (1, 4, 6), (3, 5)
_MOST_LAYERS = (3, 3, 3, 3, 3, 4, 3)
ACCEL_SCHEMA = FeatureSchema(
    names=("stage", "layer", "expand", "kernel", "se"),
    choices=(tuple(str(i + 1) for i in range(ACCEL_STAGES)), ("1", "2", "3", "4"), tuple(map(str, _EXPANDS)),
             tuple(map(str, _KERNELS)), ("no", "yes")),
)  # fmt: skip


def macro_graph(digits: str) -> ArchGraph:
    """Eight layers in three stages; `digits` as in the benchmark: 0 identity, 1 MB3_K3, 2 MB6_K5.

    Raises `ValueError` on other text.
    """
    if len(digits) != len(_PLACES) or set(digits) - set("012"):
        raise ValueError(f"{digits[:40]!r} is not eight digits 0 to 2")
    return chain([(*place, int(c)) for place, c in zip(_PLACES, digits, strict=True)], [s for s, _ in _PLACES])


def macro_class(digits: str) -> str:
    """Equal for equal networks: an identity behind the first layer of a stage is nothing (the first is a strided
    convolution), so `201` and `210` are one stage."""
    parts = []
    for stage in range(len(MACRO_STAGES)):
        own = "".join(c for c, (s, _) in zip(digits, _PLACES, strict=True) if s == stage)
        parts.append(own[0] + own[1:].replace("0", ""))
    return "|".join(parts)


def load_nb_macro(name: str, data: Path) -> LabelledSet:
    """CIFAR-10 accuracy of three trainings each, parameters, FLOPs."""
    path = table_path(data, "github.com/xiusu/NAS-Bench-Macro", "nas_bench_macro/architectures.jsonl.gz",
                      "nas_bench_macro.jsonl.gz")  # fmt: skip
    rows = present_rows(path)
    graphs = []
    for line, row in enumerate(rows, 1):
        try:
            graphs.append(macro_graph(str(row["id"])))
        except (LookupError, ValueError) as error:
            raise bad_row(path, line, error, "an id of eight digits 0 to 2") from error
    texts = tuple(str(row["id"]) for row in rows)
    columns = number_columns(rows) | _runs(rows)
    return LabelledSet(
        name=name, schema=MACRO_SCHEMA, graphs=tuple(graphs), groups=class_numbers([macro_class(t) for t in texts]),
        targets=columns, texts=texts, lower_is_better=lower_is_better([*columns]),
    )  # fmt: skip


def _runs(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """`acc_pct_run1` ...: the single trainings."""
    lists = [row.get("acc_pct_runs") for row in rows]
    size = min((len(runs) if isinstance(runs, list) else 0 for runs in lists), default=0)
    flat = [{f"acc_pct_run{i + 1}": runs[i] for i in range(size)} for runs in lists if isinstance(runs, list)]
    return dict(number_columns(flat)) if size else {}


def accel_graph(stages: Sequence[Mapping[str, Any]]) -> ArchGraph:
    """A node per MBConv layer; layers of a stage are alike. Raises `ValueError` on a stage that is none."""
    if len(stages) != ACCEL_STAGES:
        raise ValueError(f"{len(stages)} stages, not {ACCEL_STAGES}")
    rows = []
    for number, stage in enumerate(stages):
        kind = (_EXPANDS.index(stage["expand"]), _KERNELS.index(stage["kernel"]), int(bool(stage["se"])))
        if not 1 <= stage["layers"] <= _MOST_LAYERS[number]:
            raise ValueError(f"stage {number + 1}: {stage['layers']} layers")
        rows += [(number, layer, *kind) for layer in range(stage["layers"])]
    return chain(rows, [row[0] for row in rows])


def load_accel(name: str, data: Path) -> LabelledSet:
    """ImageNet accuracy of short trainings, throughput and latency on six accelerators, parameters, MACs."""
    path = table_path(data, "github.com/afzalxo/Accel-NASBench", "accel_nasbench/architectures.jsonl.gz",
                      "accel_nasbench.jsonl.gz")  # fmt: skip
    rows = present_rows(path)
    graphs = []
    for line, row in enumerate(rows, 1):
        try:
            graphs.append(accel_graph(row["stages"]))
        except (LookupError, TypeError, ValueError) as error:
            raise bad_row(path, line, error, "seven stages of expand, kernel, layers and se") from error
    texts = tuple(" | ".join(_stage_text(stage) for stage in row["stages"]) for row in rows)
    columns = number_columns(rows)
    return LabelledSet(
        name=name, schema=ACCEL_SCHEMA, graphs=tuple(graphs), groups=class_numbers(texts), targets=columns,
        texts=texts, lower_is_better=lower_is_better([*columns]),
    )  # fmt: skip


def _stage_text(stage: Mapping[str, Any]) -> str:
    return f"{stage['layers']}x k{stage['kernel']}_e{stage['expand']}{'_se' if stage['se'] else ''}"
