"""Rows of integers to padded tensors."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from genmad.model.batch import ScriptBatch, SourceBatch
from genmad.tokenizer.features import (
    NUM_EDGE_KINDS,
    REL_BACKWARD,
    REL_OTHER,
    REL_SAME_BLOCK,
    REL_SELF,
    GraphTokens,
    number_id,
)
from genmad.tokenizer.grammar import Mask, Token
from genmad.tokenizer.text import UNK_ID, PromptTokens, split_words

KINDS = ("word", "node", "text")

# The prompt that stands beside a graph with masked ops or hidden links, in training and in probes.
RESTORE_PROMPT = "restore"


@dataclass(frozen=True, kw_only=True)
class Source:
    """One graph with one prompt; `match` [N] marks the tokens that the prompt names."""

    graph: GraphTokens
    prompt: PromptTokens
    match: np.ndarray

    @staticmethod
    def of(graph: GraphTokens, prompt: PromptTokens, text: str) -> "Source":
        return Source(graph=graph, prompt=prompt, match=match_names(graph, text))

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


def match_names(graph: GraphTokens, text: str) -> np.ndarray:
    """[N] bit set: 1 the last part of the token's name is a word of the prompt, 2 a dotted suffix of its name is, 4 its
    place among its sibling calls is a number of the prompt, 8 that of the one call that runs its block is."""
    words = {word.lower() for word in split_words(text)}
    numbers = {int(word) for word in words if word.isdigit() and len(word) < 9}
    out = np.zeros(len(graph.refs), np.int16)
    places = zip(graph.names, graph.layer_index, graph.stage_index, strict=True)
    for i, (forms, layer, stage) in enumerate(places):
        named = words & forms
        if named:
            out[i] |= 1 if any("." not in form for form in named) else 0
            out[i] |= 2 if any("." in form for form in named) else 0
        out[i] |= (4 if int(layer) in numbers else 0) | (8 if int(stage) in numbers else 0)
    return out


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
