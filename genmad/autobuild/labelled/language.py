"""Language models: HW-GPT-Bench within one width, NAS-Bench-BERT; a node per layer, in a chain."""

from pathlib import Path

import numpy as np

from genmad.autobuild.architecture import ArchGraph, FeatureSchema, LabelledSet
from genmad.autobuild.labelled.reading import chain, class_numbers, lower_is_better, present
from genmad.ir import Diagnostic
from genmad.spaces.bert import FFN, HEADS, HIDDEN, LAYERS, NUM_FFN, OPS, NasBenchBert
from genmad.spaces.bert_graph import Layer
from genmad.spaces.grammar import SpaceError
from genmad.spaces.hw_gpt import RATIOS, HwGpt, HwGptL, HwGptM, HwGptS
from genmad.spaces.space import Word

_SCALES: dict[str, type[HwGptS] | type[HwGptM] | type[HwGptL]] = {"s": HwGptS, "m": HwGptM, "l": HwGptL}
BERT_SCHEMA = FeatureSchema(
    names=("layer", "op", "heads", "ffn", "ffn_depth", "hidden"),
    choices=(tuple(str(i + 1) for i in range(max(LAYERS))), OPS, tuple(map(str, HEADS)), tuple(map(str, FFN)),
             tuple(map(str, NUM_FFN)), tuple(map(str, HIDDEN))),
)  # fmt: skip


def hw_gpt_schema(space: HwGpt) -> FeatureSchema:
    """Place, heads and MLP ratio of each layer, and whether the network has biases (the same on all its layers)."""
    places = tuple(str(i + 1) for i in range(max(space.layers)))
    return FeatureSchema(
        names=("layer", "heads", "mlp_ratio", "bias"),
        choices=(places, tuple(map(str, space.heads)), tuple(map(str, RATIOS)), ("no", "yes")),
    )


def hw_gpt_graph(space: HwGpt, word: Word) -> ArchGraph:
    """The graph of a member, whatever its width."""
    _, bias, rows = space.unpack(word)
    layers = [(i, space.heads.index(h), RATIOS.index(r), int(bias)) for i, (h, r) in enumerate(rows)]
    return chain(layers, [0] * len(layers))


def load_hw_gpt(name: str, data: Path) -> LabelledSet:
    """The rows of one width: `hw_gpt_s_192`; without a width the widest. Perplexity with inherited weights, latency,
    energy and memory by device, parameters.

    Widths stand apart because the width decides nearly all of the perplexity.
    """
    scale, _, width = name.removeprefix("hw_gpt_").partition("_")
    space = _SCALES[scale]()
    embed = int(width) if width else max(space.embeds)
    table = present(space.read_labels(data), name, data, "github.com/automl/HW-GPT-Bench")
    words = [tuple(word) for word in table.words.tolist()]
    kept = [i for i, word in enumerate(words) if space.unpack(word)[0] == embed]
    if not kept:
        raise SpaceError(Diagnostic(where=str(table.path), got=f"no row of width {embed}", expected="some"))
    at = np.array(kept, np.int64)
    columns = {key: column[at] for key, column in table.columns.items()}
    return LabelledSet(
        name=name, schema=hw_gpt_schema(space), graphs=tuple(hw_gpt_graph(space, words[i]) for i in kept),
        groups=class_numbers([table.keys[i] for i in kept]), targets=columns,
        texts=tuple(space.to_text(words[i]) for i in kept), lower_is_better=lower_is_better([*columns]),
    )  # fmt: skip


def bert_graph(hidden: int, layers: list[Layer]) -> ArchGraph:
    """The graph of a member; the hidden size stands on every layer."""
    rows = [
        (i, OPS.index(x.op), HEADS.index(x.heads), FFN.index(x.ffn), NUM_FFN.index(x.num_ffn), HIDDEN.index(hidden))
        for i, x in enumerate(layers)
    ]
    return chain(rows, [0] * len(rows))


def load_bert(name: str, data: Path) -> LabelledSet:
    """500 encoders with eight GLUE scores and their mean `glue` (per cent), parameters, training time, proxies."""
    space = NasBenchBert()
    table = present(space.read_labels(data), name, data, "github.com/aaronserianni/training-free-nas")
    words = [tuple(word) for word in table.words.tolist()]
    columns = {key: value for key, value in table.columns.items() if key != "id"}
    return LabelledSet(
        name=name, schema=BERT_SCHEMA, graphs=tuple(bert_graph(*space.unpack(word)) for word in words),
        groups=class_numbers(table.keys), targets=columns, texts=tuple(map(space.to_text, words)),
        lower_is_better=lower_is_better([*columns]),
    )  # fmt: skip
