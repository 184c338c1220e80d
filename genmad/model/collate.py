"""Rows of integers to padded tensors."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch

from genmad.model.batch import ScriptBatch, SourceBatch
from genmad.tokenizer.features import (
    FIRST_ATTR_FIELD,
    NUM_EDGE_KINDS,
    REL_BACKWARD,
    REL_OTHER,
    REL_SAME_BLOCK,
    REL_SELF,
    GraphTokens,
    number_id,
)
from genmad.tokenizer.grammar import Mask, Token
from genmad.tokenizer.numbers import SpokenNumber, spoken_numbers
from genmad.tokenizer.text import UNK_ID, PromptTokens, split_words

KINDS = ("word", "node", "text")

# The prompt that stands beside a graph with masked ops or hidden links, in training and in probes.
RESTORE_PROMPT = "restore"


@dataclass(frozen=True, kw_only=True)
class Source:
    """One graph with one prompt; `match` [N] says how the prompt names each token (`MATCHES`)."""

    graph: GraphTokens
    prompt: PromptTokens
    match: np.ndarray

    @staticmethod
    def of(graph: GraphTokens, prompt: PromptTokens, text: str) -> "Source":
        return Source(graph=graph, prompt=prompt, match=match_bits(graph, text))

    def without_text(self) -> "Source":
        """The ablation: nothing of the prompt is left."""
        count = len(self.prompt.ids)
        blank = PromptTokens(ids=(UNK_ID,) * count, numbers=(-1,) * count, marks=(0,) * count, words=(0,) * count)
        return Source(graph=self.graph, prompt=blank, match=np.zeros_like(self.match))

    def without_structure(self) -> "Source":
        """The ablation: a bag of tokens without edges or distances."""
        fields = {name: getattr(self.graph, name) for name in self.graph.__dataclass_fields__}
        relation = np.full_like(self.graph.relation, REL_OTHER)
        np.fill_diagonal(relation, REL_SELF)
        fields |= {"edges": self.graph.edges[:, :0], "kinds": self.graph.kinds[:0], "relation": relation}
        return Source(graph=GraphTokens(**fields), prompt=self.prompt, match=self.match)


# What a prompt may say of a token, one bit each, in the order of the columns of `match_bits`.
MATCHES = (
    "last part of its name", "dotted suffix of its name", "its op or an attribute in words", "value of an attribute",
    "its place among its sibling calls", "the same, as an ordinal", "the same, counted from the end",
    "within a range of places", "among the first n", "among the last n",
    "place of the call that runs its block", "the same, as an ordinal", "the same, counted from the end",
)  # fmt: skip


def match_bits(graph: GraphTokens, text: str) -> np.ndarray:
    """[N] bit set, one bit for each of `MATCHES`.

    Numbers are compared as they are, so that the network need not learn to count; which of the matches is meant, it
    reads from the sentence.
    """
    words = split_words(text)
    lower = {word.lower() for word in words}
    numbers = spoken_numbers(words)
    plain = [n.value for n in numbers if not n.is_ordinal]
    places = [n.value - 1 for n in numbers if n.is_ordinal]
    back = [n.value - 1 for n in numbers if n.is_ordinal or n.is_negative]
    layer, layer_back = graph.layer_index, graph.layer_back
    ranges = np.zeros(len(layer), bool)
    for first, last in _ranges(numbers, words):
        ranges |= (layer >= first) & (layer <= last)
    most = max((n for n in plain if n > 1), default=0)
    called = layer >= 0
    attrs = graph.fields >= FIRST_ATTR_FIELD
    sizes = np.isin(graph.values, [number_id(n) for n in plain]) & attrs
    named = [lower & forms for forms in graph.names]
    columns = (
        [any("." not in form for form in found) for found in named],
        [any("." in form for form in found) for found in named],
        _kinds_said(graph, words),
        sizes.any(1),
        np.isin(layer, plain), np.isin(layer, places), np.isin(layer_back, back), ranges,
        called & (layer < most), called & (layer_back < most),
        np.isin(graph.stage_index, plain), np.isin(graph.stage_index, places), np.isin(graph.stage_back, back),
    )  # fmt: skip
    out = np.zeros(len(layer), np.int16)
    for bit, column in enumerate(columns):
        out |= np.asarray(column, bool).astype(np.int16) << bit
    return out


def _kinds_said(graph: GraphTokens, words: Sequence[str]) -> list[bool]:
    """Per token, whether one to three words of the prompt in a row are its op or a text attribute of it."""
    plain = [re.sub("[^a-z0-9]", "", word.lower()) for word in words]
    runs = {"".join(plain[i : i + n]) for n in (1, 2, 3) for i in range(len(plain) - n + 1)}
    runs |= {run.removesuffix("s") for run in runs} | {re.sub("normali[sz]ation", "norm", run) for run in runs}
    return [bool(runs & kinds) for kinds in graph.kinds_said]


def _ranges(numbers: Sequence[SpokenNumber], words: Sequence[str]) -> list[tuple[int, int]]:
    """Pairs of rising numbers with a few words between them that are not a mere list: `3 to 6`, `4-8`."""
    found = []
    for a, b in pairwise(numbers):
        between = {word.lower() for word in words[a.end : b.start]}
        lists = between <= {",", "and", "&", "or", ";", "as", "well", "plus", "both", "also"}
        if 0 < b.start - a.end <= 5 and a.value < b.value and not lists:
            shift = int(a.is_ordinal and b.is_ordinal)
            found.append((a.value - shift, b.value - shift))
    return found


def collate_sources(sources: Sequence[Source]) -> SourceBatch:
    """Pads to the longest graph and prompt."""
    batch = len(sources)
    most = max(len(s.graph.refs) for s in sources)
    longest = max(len(s.prompt.ids) for s in sources)
    fields, pieces = sources[0].graph.fields.shape[1], sources[0].graph.pieces.shape[1]
    op = np.zeros((batch, most), np.int64)
    field_ids = np.zeros((batch, most, fields), np.int64)
    values = np.zeros((batch, most, fields), np.int64)
    names = np.zeros((batch, most, pieces), np.int64)
    match = np.zeros((batch, most), np.int64)
    relation = np.full((batch, most, most), REL_OTHER, np.uint8)
    text = np.zeros((4, batch, longest), np.int64)
    edges, kinds = [], []
    for b, source in enumerate(sources):
        n, t = len(source.graph.refs), len(source.prompt.ids)
        op[b, :n], match[b, :n] = source.graph.op, source.match
        field_ids[b, :n], values[b, :n], names[b, :n] = source.graph.fields, source.graph.values, source.graph.pieces
        relation[b, :n, :n] = source.graph.relation
        text[0, b, :t] = source.prompt.ids
        text[1, b, :t] = [number_id(x) + 1 if x >= 0 else 0 for x in source.prompt.numbers]
        text[2, b, :t] = source.prompt.marks
        text[3, b, :t] = source.prompt.words
        forward = source.graph.edges.astype(np.int64) + b * most
        edges += [forward, forward[::-1]]
        kinds += [source.graph.kinds.astype(np.int64), source.graph.kinds.astype(np.int64) + NUM_EDGE_KINDS // 2]
    to = torch.from_numpy
    return SourceBatch(
        op_BN=to(op), fields_BNF=to(field_ids), values_BNF=to(values), pieces_BNP=to(names), match_BN=to(match),
        edges_2E=to(np.concatenate(edges, 1)), kinds_E=to(np.concatenate(kinds)), relation_BNN=to(relation),
        text_BT=to(text[0]), number_BT=to(text[1]), mark_BT=to(text[2]), word_BT=to(text[3]),
    )  # fmt: skip


def collate_scripts(
    scripts: Sequence[tuple[Sequence[Token], Sequence[Mask]]], source: SourceBatch, num_words: int
) -> ScriptBatch:
    """Pads scripts and their grammar masks to the longest script."""
    batch, longest = len(scripts), max(len(tokens) for tokens, _ in scripts)
    kind = np.full((batch, longest), -1, np.int64)
    index = np.zeros((batch, longest), np.int64)
    words = np.zeros((batch, longest, num_words), bool)
    nodes = np.zeros((batch, longest, source.op_BN.shape[1]), bool)
    texts = np.zeros((batch, longest, source.text_BT.shape[1]), bool)
    for b, (tokens, masks) in enumerate(scripts):
        for i, (token, mask) in enumerate(zip(tokens, masks, strict=True)):
            kind[b, i], index[b, i] = KINDS.index(token.kind), token.index
            words[b, i, : len(mask.words)] = mask.words
            nodes[b, i, : len(mask.nodes)] = mask.nodes
            texts[b, i, : len(mask.texts)] = mask.texts
    words[kind < 0, 0] = True
    to = torch.from_numpy
    return ScriptBatch(
        kind_BL=to(kind), index_BL=to(index), words_BLV=to(words), nodes_BLN=to(nodes), texts_BLT=to(texts)
    )


def link_choices(source: Source, consumer: int) -> np.ndarray:
    """[N] tokens that may feed `consumer`: inputs and nodes of its block, not itself or what is computed from it."""
    refs = source.graph.refs
    block = refs[consumer].block
    relation = source.graph.relation[consumer]
    later = (relation >= REL_BACKWARD) & (relation < REL_SAME_BLOCK)
    same = np.array([ref.block == block and ref.kind != "output" for ref in refs])
    same[consumer] = False
    return same & ~later
