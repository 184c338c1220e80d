"""Once-for-All networks: a node per MBConv layer, in a chain. Labels are measured (`ofa_mbv3`) or predicted."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from genmad.autobuild.architecture import ArchGraph, FeatureSchema, LabelledSet
from genmad.autobuild.labelled.reading import chain, class_numbers, lower_is_better, present, table_path
from genmad.spaces.ofa import OfaMbv3, OfaPN, OfaSpace
from genmad.spaces.ofa_graph import Layer

EXPANDS = (3, 4, 6)
KERNELS = (3, 5, 7)
MAX_LAYERS = 4
_SURROGATES = "github.com/Ascend-Research/AutoBuild, l1_models"
# Set -> (space, file, where the public original is).
_SOURCES: Mapping[str, tuple[type[OfaMbv3] | type[OfaPN], str, str]] = {
    "ofa_mbv3": (OfaMbv3, "ofa_mbv3_dynast/unique_architectures.jsonl.gz", "github.com/IntelLabs/DyNAS-T"),
    "ofa_mbv3_surrogate": (OfaMbv3, "autobuild_surrogates/mbv3_3k_surrogate_labelled.jsonl.gz", _SURROGATES),
    "ofa_pn_surrogate": (OfaPN, "autobuild_surrogates/pn_3k_surrogate_labelled.jsonl.gz", _SURROGATES),
}


def ofa_schema(space: OfaSpace) -> FeatureSchema:
    """Stage, place in the stage, expansion and kernel of each layer."""
    stages = tuple(str(number + 1) for number in range(len(space.supernet.stages)))
    return FeatureSchema(
        names=("stage", "layer", "expand", "kernel"),
        choices=(stages, tuple(str(j + 1) for j in range(MAX_LAYERS)), tuple(map(str, EXPANDS)),
                 tuple(map(str, KERNELS))),
    )  # fmt: skip


def ofa_graph(stages: Sequence[Sequence[Layer]]) -> ArchGraph:
    """The graph of (kernel, expansion) per layer, by stage. Raises `ValueError` on a layer that is none."""
    rows = [
        (stage, layer, EXPANDS.index(expand), KERNELS.index(kernel))
        for stage, layers in enumerate(stages)
        for layer, (kernel, expand) in enumerate(layers)
    ]
    return chain(rows, [row[0] for row in rows])


def load_ofa(name: str, data: Path) -> LabelledSet:
    """Measured ImageNet accuracy with MACs and parameters, or predicted accuracy and latencies (milliseconds)."""
    kind, file, original = _SOURCES[name]
    space = kind()
    path = table_path(data, original, file, file.rsplit("/", 1)[-1])
    table = present(space.read_labels(path), name, data, original)
    words = [tuple(word) for word in table.words.tolist()]
    return LabelledSet(
        name=name, schema=ofa_schema(space), graphs=tuple(ofa_graph(space.stages(word)) for word in words),
        groups=class_numbers(table.keys), targets=dict(table.columns), texts=tuple(map(space.to_text, words)),
        lower_is_better=lower_is_better([*table.columns]),
    )  # fmt: skip
