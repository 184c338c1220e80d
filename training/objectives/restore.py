"""Objectives on the encoder: restore masked ops and hidden links of a corrupted graph (DESIGN, 'Model')."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from genmad.ir import Graph, producer
from genmad.model import GraphTransformer
from genmad.model.batch import SourceBatch
from genmad.model.collate import RESTORE_PROMPT, Source, collate_sources, link_choices
from genmad.tokenizer import GraphReader, TokenRef


@dataclass(frozen=True, kw_only=True)
class Corrupted:
    """A graph with hidden parts. `ops`: token -> op id; `links`: (consumer token, slot) -> producer token."""

    source: Source
    ops: dict[int, int]
    links: dict[tuple[int, int], int]


@dataclass(frozen=True, kw_only=True)
class RestoreBatch:
    """Q hidden links and K masked ops over a batch of corrupted graphs."""

    source: SourceBatch
    op_example_K: Tensor
    op_token_K: Tensor
    op_target_K: Tensor
    link_example_Q: Tensor
    link_token_Q: Tensor
    link_slot_Q: Tensor
    link_target_Q: Tensor
    link_choices_QN: Tensor


def corrupt(
    graph: Graph, reader: GraphReader, rng: random.Random, *, ops: float = 0.15, links: float = 0.12
) -> Corrupted:
    """Masks a share of the ops and hides a share of the links, at least one of each."""
    nodes = [(b, n) for b in graph.all_blocks for n in b.nodes]
    plain = [(b, n) for b, n in nodes if not n.is_call]
    chosen = rng.sample(plain, max(1, int(ops * len(plain)))) if plain else []
    wires = [(b, n, slot) for b, n in nodes for slot, v in enumerate(n.inputs) if v and slot < 15]
    cut = rng.sample(wires, max(1, int(links * len(wires)))) if wires else []
    masked = frozenset(TokenRef("node", b.name, n.name) for b, n in chosen)
    tokens = reader.read(graph, masked=masked, hidden=frozenset((b.name, n.name, slot) for b, n, slot in cut))
    index = {ref: i for i, ref in enumerate(tokens.refs)}
    targets = {}
    for block, node, slot in cut:
        name = producer(node.inputs[slot])
        kind = "node" if name in block.by_name else "input"
        targets[(index[TokenRef("node", block.name, node.name)], slot)] = index[TokenRef(kind, block.name, name)]
    prompt = reader.text.encode(RESTORE_PROMPT)
    op_ids = {index[TokenRef("node", b.name, n.name)]: reader.op_id(n) for b, n in chosen}
    return Corrupted(source=Source.of(tokens, prompt, RESTORE_PROMPT), ops=op_ids, links=targets)


def collate_restore(examples: Sequence[Corrupted]) -> RestoreBatch:
    source = collate_sources([e.source for e in examples])
    ops = [(b, t, op) for b, e in enumerate(examples) for t, op in e.ops.items()]
    links = [(b, t, slot, p) for b, e in enumerate(examples) for (t, slot), p in e.links.items()]
    choices = np.zeros((len(links), source.op_BN.shape[1]), bool)
    for row, (b, t, _, p) in enumerate(links):
        allowed = link_choices(examples[b].source, t)
        choices[row, : len(allowed)] = allowed
        choices[row, p] = True
    columns = torch.tensor(ops, dtype=torch.long).reshape(-1, 3).T
    wires = torch.tensor(links, dtype=torch.long).reshape(-1, 4).T
    return RestoreBatch(
        source=source, op_example_K=columns[0], op_token_K=columns[1], op_target_K=columns[2], link_example_Q=wires[0],
        link_token_Q=wires[1], link_slot_Q=wires[2], link_target_Q=wires[3], link_choices_QN=torch.from_numpy(choices),
    )  # fmt: skip


def restore_loss(model: GraphTransformer, batch: RestoreBatch) -> tuple[Tensor, dict[str, Tensor]]:
    """Sum of the two mean cross-entropies, and the two accuracies."""
    encoded = model.encode(batch.source)
    ops = model.op_head(encoded.nodes_BND[batch.op_example_K, batch.op_token_K]).float()
    links = model.link_logits(encoded, batch.link_token_Q, batch.link_slot_Q, batch.link_example_Q).float()
    links = links.masked_fill(~batch.link_choices_QN, -1e9)
    loss = F.cross_entropy(ops, batch.op_target_K) + F.cross_entropy(links, batch.link_target_Q)
    accuracy = {
        "op_top1": (ops.argmax(-1) == batch.op_target_K).float().mean(),
        "link_hits1": (links.argmax(-1) == batch.link_target_Q).float().mean(),
    }
    return loss, accuracy
