"""The encoder's own skills, for evaluation: which op stands behind a mask, where does a hidden link come from."""

from pathlib import Path

import torch

from genmad.ir import Graph
from genmad.model.collate import RESTORE_PROMPT, Source, collate_sources, link_choices
from genmad.sampling.pretrained import Pretrained, load_pretrained
from genmad.tokenizer import GraphTokens, TokenRef


class Probe:
    """Answers one question at a time about one graph."""

    def __init__(self, pretrained: Pretrained) -> None:
        self.pretrained = pretrained

    @staticmethod
    def from_pretrained(folder: str | Path | None = None) -> "Probe":
        return Probe(load_pretrained(folder))

    @torch.no_grad()
    def masked_op(self, graph: Graph, block: str, node: str) -> str:
        """The likeliest op of `node` when its op, attributes and name are hidden."""
        ref = TokenRef("node", block, node)
        kit = self.pretrained
        tokens = kit.reader.read(graph, masked=frozenset({ref}))
        encoded = kit.model.encode(collate_sources([self._source(tokens)]))
        scores = kit.model.op_logits(encoded)[0, tokens.refs.index(ref)]
        words = kit.reader.vocab.tokens
        ops = torch.tensor([i for i, word in enumerate(words) if word.startswith(("op:", "leaf:"))])
        return words[int(ops[scores[ops].argmax()])].partition(":")[2].partition("=")[0]

    @torch.no_grad()
    def link(self, graph: Graph, block: str, node: str, slot: int) -> str:
        """Name of the likeliest producer (node or block input) of a hidden input."""
        kit = self.pretrained
        tokens = kit.reader.read(graph, hidden=frozenset({(block, node, slot)}))
        source = self._source(tokens)
        encoded = kit.model.encode(collate_sources([source]))
        consumer = tokens.refs.index(TokenRef("node", block, node))
        zero = torch.zeros(1, dtype=torch.long)
        scores = kit.model.link_logits(encoded, zero + consumer, zero + slot, zero)[0]
        choices = torch.from_numpy(link_choices(source, consumer))
        return tokens.refs[int(scores.masked_fill(~choices, -1e9).argmax())].name

    def _source(self, tokens: GraphTokens) -> Source:
        return Source.of(tokens, self.pretrained.reader.text.encode(RESTORE_PROMPT), RESTORE_PROMPT)
