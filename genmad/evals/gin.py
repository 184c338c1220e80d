"""A plain graph isomorphism network (GIN; Xu et al., arXiv 1810.00826) as a baseline of masked-op and link completion.

It reads one block as an undirected graph of ops, without attributes, names, blocks around it or directions.
"""

# N nodes of a block (its inputs first), D width

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.nn import GINConv

from genmad.evals.block_graph import MASK, BlockGraph

MAX_SLOT = 8
HIDDEN_SHARE = 0.15


class PlainGin(nn.Module):
    """Op embeddings, three GIN layers, a classifier of ops and a bilinear scorer of links."""

    def __init__(self, num_ops: int, width: int = 64, num_layers: int = 3) -> None:
        super().__init__()
        self.embed = nn.Embedding(num_ops, width)
        self.slots = nn.Embedding(MAX_SLOT, width)
        self.layers = nn.ModuleList(
            GINConv(nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width)))
            for _ in range(num_layers)
        )
        self.ops = nn.Linear(width, num_ops)
        self.pair = nn.Linear(width, width)

    def forward(self, ops_N: Tensor, edges: Tensor) -> Tensor:
        """Node states [N, D]; `edges` is [2, E]."""
        x_ND = self.embed(ops_N)
        for layer in self.layers:
            x_ND = F.relu(layer(x_ND, edges)) + x_ND
        return x_ND

    def link_scores(self, x_ND: Tensor, consumer: int, slot: int) -> Tensor:
        """A score for each node that stands before the consumer, [consumer]."""
        query_D = self.pair(x_ND[consumer] + self.slots.weight[min(slot, MAX_SLOT - 1)])
        return x_ND[:consumer] @ query_D


@dataclass(frozen=True)
class GinBaseline:
    """A trained network with the names of the ops that it knows."""

    model: PlainGin
    names: tuple[str, ...]

    @torch.no_grad()
    def masked_op(self, block: BlockGraph, node: int) -> str:
        ops = _ids(block, self.names)
        ops[node] = self.names.index(MASK)
        logits = self.model.ops(self.model(ops, _edges(block, None)))[node]
        logits[[i for i, name in enumerate(self.names) if name == MASK]] = -torch.inf
        return self.names[int(logits.argmax())]

    @torch.no_grad()
    def link(self, block: BlockGraph, node: int, slot: int) -> int:
        states = self.model(_ids(block, self.names), _edges(block, (node, slot)))
        return int(self.model.link_scores(states, node, slot).argmax())


def _ids(block: BlockGraph, names: Sequence[str]) -> Tensor:
    known = {name: i for i, name in enumerate(names)}
    return torch.tensor([known.get(op, known[MASK]) for op in block.ops])


def _edges(block: BlockGraph, hidden: tuple[int, int] | None) -> Tensor:
    pairs = [(p, n) for n, slot, p in block.links if (n, slot) != hidden]
    both = pairs + [(b, a) for a, b in pairs]
    return torch.tensor(both, dtype=torch.long).reshape(-1, 2).T


def train_gin(blocks: Sequence[BlockGraph], *, steps: int, seed: int, batch: int = 8) -> GinBaseline:
    """Trains on masked ops and hidden links of random blocks for a fixed number of steps."""
    names = (MASK, *sorted({op for block in blocks for op in block.ops}))
    rng = random.Random(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = PlainGin(len(names))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        losses = [_loss(model, rng.choice(blocks), names, rng) for _ in range(batch)]
        torch.stack(losses).mean().backward()
        optimizer.step()
    return GinBaseline(model.eval(), names)


def _loss(model: PlainGin, block: BlockGraph, names: Sequence[str], rng: random.Random) -> Tensor:
    """Cross-entropy of some masked ops, and of one hidden link with its edge taken out."""
    ids, first = _ids(block, names), block.num_inputs
    hidden = [i for i in range(first, len(ids)) if rng.random() < HIDDEN_SHARE] or [rng.randrange(first, len(ids))]
    masked = ids.clone()
    masked[hidden] = names.index(MASK)
    loss = F.cross_entropy(model.ops(model(masked, _edges(block, None)))[hidden], ids[hidden])
    if block.links:
        node, slot, source = rng.choice(block.links)
        states = model(ids, _edges(block, (node, slot)))
        loss = loss + F.cross_entropy(model.link_scores(states, node, slot)[None], torch.tensor([source]))
    return loss
