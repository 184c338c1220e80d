"""Blocks in canonical order as lists of ops and links, and an n-gram over them: what the cheap baselines read."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from genmad.ir.canonical import canonical_order
from genmad.ir.graph import CALL, Block, Graph, producer

MASK, INPUT, START = "<mask>", "<input>", "<start>"


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockGraph:
    """A block as numbers: its inputs first, then its nodes in canonical order.

    Attributes:
        names: of inputs and nodes.
        ops: `<input>`, the op, or `@` for a call.
        links: (consumer, slot, producer) as positions; a producer stands before its consumer.
        num_inputs: how many of the positions are block inputs.
    """

    names: tuple[str, ...]
    ops: tuple[str, ...]
    links: tuple[tuple[int, int, int], ...]
    num_inputs: int

    @staticmethod
    def of(block: Block) -> "BlockGraph":
        nodes = canonical_order(block)
        names = (*(v.name for v in block.inputs), *(n.name for n in nodes))
        where = {name: i for i, name in enumerate(names)}
        links = tuple((where[n.name], slot, where[producer(v)]) for n in nodes for slot, v in enumerate(n.inputs) if v)
        ops = (*(INPUT for _ in block.inputs), *(CALL if n.is_call else n.op for n in nodes))
        return BlockGraph(names=names, ops=ops, links=links, num_inputs=len(block.inputs))


def block_graphs(graphs: Iterable[Graph]) -> tuple[BlockGraph, ...]:
    """Every block with at least two nodes, those that occur more than once counted as often."""
    return tuple(BlockGraph.of(block) for graph in graphs for block in graph.all_blocks if len(block.nodes) > 1)


@dataclass(frozen=True, kw_only=True)
class Ngram:
    """Counts over canonical order: an op after the two before it, a link's distance by op and slot; with back-off."""

    ops: dict[tuple[str, ...], Counter[str]] = field(default_factory=dict)
    links: dict[tuple[str, int] | tuple[str], Counter[int]] = field(default_factory=dict)

    @staticmethod
    def fit(blocks: Sequence[BlockGraph]) -> "Ngram":
        model = Ngram()
        for block in blocks:
            for i in range(block.num_inputs, len(block.ops)):
                for context in _contexts(block, i):
                    model.ops.setdefault(context, Counter())[block.ops[i]] += 1
            for node, slot, source in block.links:
                for key in ((block.ops[node], slot), (block.ops[node],)):
                    model.links.setdefault(key, Counter())[node - source] += 1
        return model

    def masked_op(self, block: BlockGraph, node: int) -> str:
        """The commonest op after the two before it, after the one before it, or at all."""
        found = next(self.ops[context] for context in _contexts(block, node) if context in self.ops)
        return found.most_common(1)[0][0]

    def link(self, block: BlockGraph, node: int, slot: int) -> int:
        """The commonest distance of this op and slot that stays inside the block; else the position before."""
        for key in ((block.ops[node], slot), (block.ops[node],)):
            for distance, _ in self.links.get(key, Counter()).most_common():
                if distance <= node:
                    return node - distance
        return node - 1


def _contexts(block: BlockGraph, node: int) -> tuple[tuple[str, ...], ...]:
    before = (START, START, *block.ops[block.num_inputs : node])
    return (before[-2:], before[-1:], ())
