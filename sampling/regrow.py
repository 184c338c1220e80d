"""Graphs in the manner of what a generator was trained on: nodes of a seed are taken out and written anew.

No generator of GenMAD writes a whole graph from nothing; it completes incomplete ones. So a new graph starts from a
seed: some nodes are bypassed, and the generator completes what is left, a script each, with tokens drawn by their
probabilities. Every script is written under the grammar, so every graph is valid.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from genmad.ir import Block, Graph, GraphError, Node, canonical_hash, canonicalize, prune_dead, replace_block
from genmad.model.collate import Source, collate_sources
from genmad.sampling.decode import write_script
from genmad.sampling.pretrained import Pretrained

PROMPT, READING = "complete the graph", "complete"
# So many draws without a new graph end a run.
PATIENCE = 25


@dataclass(frozen=True, slots=True, kw_only=True)
class Regrown:
    """One new graph.

    Attributes:
        seed: index of the graph that it started from.
        holes: nodes that were taken out; `written`: scripts that were completed after that.
        log_prob: of the scripts.
    """

    graph: Graph
    hash: str
    seed: int
    holes: int
    written: int
    log_prob: float


def can_go(block: Block, node: Node) -> bool:
    """Whether a node can be bypassed: no call, with one output of the type of its first input."""
    plain = not node.is_call and len(node.types) == 1 and bool(node.inputs) and bool(node.inputs[0])
    return plain and block.types[node.inputs[0]] == node.types[0]


def without(graph: Graph, block: Block, node: Node) -> Graph | None:
    """The graph with a node bypassed; None where that leaves other nodes without use."""

    def past(names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(node.inputs[0] if name == node.name else name for name in names)

    nodes = tuple(replace(n, inputs=past(n.inputs)) for n in block.nodes if n.name != node.name)
    try:
        rest = replace_block(graph, replace(block, nodes=nodes, outputs=past(block.outputs)))
    except GraphError:
        return None
    return rest if prune_dead(rest).num_nodes == rest.num_nodes else None


def dig(graph: Graph, holes: int, rng: torch.Generator) -> tuple[Graph, int]:
    """The graph with up to `holes` nodes bypassed, drawn evenly, and how many went."""
    done = 0
    for _ in range(4 * holes):
        choices = [(b, n) for b in graph.all_blocks for n in b.nodes if can_go(b, n)]
        if done == holes or not choices:
            break
        rest = without(graph, *choices[_draw(len(choices), rng)])
        if rest is not None:
            graph, done = rest, done + 1
    return canonicalize(graph), done


def _draw(count: int, rng: torch.Generator) -> int:
    return int(torch.randint(count, (1,), generator=rng))


@torch.no_grad()
def complete(kit: Pretrained, graph: Graph, temperature: float, rng: torch.Generator) -> tuple[Graph, float] | None:
    """The graph with one more script completed, and its log-likelihood; None where the generator did not finish one."""
    tokens = kit.reader.read(graph)
    pieces = kit.reader.text.encode(PROMPT, tokens.all_names)
    start = kit.grammar.compile(graph, tokens, pieces, reading=READING).start()
    encoded = kit.model.encode(collate_sources([Source.of(tokens, pieces, PROMPT)]))
    written = write_script(kit.model, encoded, start, temperature=temperature, rng=rng)
    state = written.state
    if not state.is_terminated or state.refusal or state.aborted:
        return None
    return canonicalize(state.edit.graph), written.log_prob


@dataclass(frozen=True, slots=True, kw_only=True)
class RegrowSettings:
    """How far from the seeds to go.

    Attributes:
        holes: nodes that are taken out, at most; at least one is.
        more: further completions, so many at most; each adds what the generator misses.
        temperature: below 1 likelier nodes, above 1 more variety.
    """

    holes: int = 4
    more: int = 1
    temperature: float = 1.0


def regrow(kit: Pretrained, seed: Graph, settings: RegrowSettings, rng: torch.Generator) -> Regrown | None:
    """One graph from one seed; None where nothing could be taken out or nothing was completed."""
    wanted = 1 + _draw(settings.holes, rng)
    graph, holes = dig(seed, wanted, rng)
    written, total = 0, 0.0
    for _ in range(holes + _draw(settings.more + 1, rng)):
        made = complete(kit, graph, settings.temperature, rng)
        if made is not None:
            graph, log_prob = made
            written, total = written + 1, total + log_prob
    if not written:
        return None
    return Regrown(graph=graph, hash=canonical_hash(graph), seed=0, holes=holes, written=written, log_prob=total)


def regrow_many(
    kit: Pretrained, seeds: Sequence[Graph], settings: RegrowSettings, *, seed: int = 0,
    avoid: frozenset[str] = frozenset(),
) -> Iterator[Regrown]:  # fmt: skip
    """Distinct graphs, seeds in turn, without those that the checkpoint forbids, those in `avoid` and the seeds.

    Ends where `PATIENCE` draws from each seed give nothing new.
    """
    rng = torch.Generator().manual_seed(seed)
    plain = [canonicalize(graph) for graph in seeds]
    known = {canonical_hash(graph) for graph in plain} | avoid | kit.forbidden
    index = idle = 0
    while plain and idle < PATIENCE * len(plain):
        found = regrow(kit, plain[index % len(plain)], settings, rng)
        if found is not None and found.hash not in known:
            known.add(found.hash)
            idle = 0
            yield replace(found, seed=index % len(plain))
        else:
            idle += 1
        index += 1
