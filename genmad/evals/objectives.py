"""`genmad eval objectives`: masked ops and hidden links on held-out families, beside an n-gram and a plain GIN."""

import random
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from genmad.evals.block_graph import BlockGraph, Ngram, block_graphs
from genmad.evals.held_out import held_out_families, small_graphs
from genmad.evals.report import CpuClock, EvalReport, commit, fraction, use_one_thread
from genmad.ir.graph import Block, Graph

PER_FAMILY, PER_FAMILY_QUICK = 3, 1
GIN_STEPS, GIN_STEPS_QUICK = 400, 40
QUICK_TRAINING_FAMILIES = 10


class ProbeLike(Protocol):
    """The model's own skills: `genmad.sampling.probe.Probe`, or a stand-in."""

    def masked_op(self, graph: Graph, block: str, node: str) -> str: ...

    def link(self, graph: Graph, block: str, node: str, slot: int) -> str: ...


class Baseline(Protocol):
    """The same two skills on one block by positions."""

    def masked_op(self, block: BlockGraph, node: int) -> str: ...

    def link(self, block: BlockGraph, node: int, slot: int) -> int: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A hidden op (`slot` is None) or a hidden link of one node."""

    family: str
    graph: Graph
    block: Block
    view: BlockGraph
    node: int
    slot: int | None = None

    @property
    def answer(self) -> str:
        """The op, or the name of the link's producer."""
        if self.slot is None:
            return self.view.ops[self.node]
        return next(self.view.names[p] for n, s, p in self.view.links if (n, s) == (self.node, self.slot))


@dataclass
class Score:
    """Hits and questions, per family."""

    hits: dict[str, list[bool]] = field(default_factory=dict)

    def add(self, family: str, hit: bool) -> None:
        self.hits.setdefault(family, []).append(hit)

    @property
    def rate(self) -> float:
        every = [hit for hits in self.hits.values() for hit in hits]
        return fraction(sum(every), len(every))

    @property
    def by_family(self) -> dict[str, float]:
        return {name: fraction(sum(hits), len(hits)) for name, hits in sorted(self.hits.items())}


def run(
    quick: bool = False,
    seed: int = 0,
    n: int | None = None,
    checkpoint: str | None = None,
    *,
    probe: ProbeLike | None = None,
    graphs: Mapping[str, Sequence[Graph]] | None = None,
    training: Sequence[Graph] | None = None,
) -> dict[str, Any]:
    """The report as a JSON object; `n` questions of each of the two kinds. Graphs and probe may be stand-ins."""
    clock, threads = CpuClock(), use_one_thread()
    per_family = PER_FAMILY_QUICK if quick else PER_FAMILY
    graphs = graphs or small_graphs(held_out_families(), per_family, seed, say=_say)
    count = n or (40 if quick else 600)
    rng = random.Random(seed)
    ops, links = (questions(graphs, count, rng, links=kind) for kind in (False, True))
    blocks = block_graphs(training or _training_graphs(quick, seed))
    baselines = _baselines(blocks, quick, seed)
    probe = probe or _probe(checkpoint)
    model = tuple(_ask_probe(probe, items) for items in (ops, links))
    metrics = _metrics(*model) | {"num_masked_ops": len(ops), "num_links": len(links), "training_blocks": len(blocks)}
    others = {name: _metrics(*(_ask_baseline(b, items) for items in (ops, links))) for name, b in baselines.items()}
    return EvalReport(
        name="objectives",
        commit=commit(),
        seed=seed,
        n=len(ops) + len(links),
        split=f"held-out families ({', '.join(graphs)})",
        threads=threads,
        cpu_seconds=clock.seconds(),
        metrics=metrics,
        baselines=others,
        breakdown={"masked_op_top1": model[0].by_family, "link_hits1": model[1].by_family},
        quick=quick,
    ).to_json()


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _probe(checkpoint: str | None) -> ProbeLike:
    from genmad.sampling.probe import Probe

    return Probe.from_pretrained(checkpoint)


def _baselines(blocks: Sequence[BlockGraph], quick: bool, seed: int) -> dict[str, Baseline]:
    from genmad.evals.gin import train_gin

    _say(f"training the baselines on {len(blocks)} blocks")
    gin = train_gin(blocks, steps=GIN_STEPS_QUICK if quick else GIN_STEPS, seed=seed)
    return {"ngram": Ngram.fit(blocks), "gin": gin}


def _training_graphs(quick: bool, seed: int) -> tuple[Graph, ...]:
    """Two small graphs of every family that is not held out; in the quick version one of a few."""
    from genmad.data.families import FAMILIES

    held_out = set(held_out_families())
    names = [family.model_type for family in FAMILIES if family.model_type not in held_out]
    if quick:
        names = names[:QUICK_TRAINING_FAMILIES]
    found = small_graphs(names, 1 if quick else 2, seed, say=_say, skip_missing=True)
    return tuple(graph for graphs in found.values() for graph in graphs)


def questions(
    graphs: Mapping[str, Sequence[Graph]], count: int, rng: random.Random, *, links: bool
) -> tuple[Question, ...]:
    """Hidden ops, or hidden links, families in turn; each at most once."""
    pools = {family: _pool(family, members, links) for family, members in graphs.items()}
    for pool in pools.values():
        rng.shuffle(pool)
    out: list[Question] = []
    while len(out) < count and any(pools.values()):
        out += [pool.pop() for pool in pools.values() if pool]
    return tuple(out[:count])


def _pool(family: str, graphs: Iterable[Graph], links: bool) -> list[Question]:
    found = []
    for graph in graphs:
        for block in graph.all_blocks:
            if len(block.nodes) < 2:
                continue
            view = BlockGraph.of(block)
            if links:
                spots: list[tuple[int, int | None]] = [(node, slot) for node, slot, _ in view.links]
            else:
                plain = range(view.num_inputs, len(view.ops))
                spots = [(node, None) for node in plain if not block.by_name[view.names[node]].is_call]
            found += [Question(family=family, graph=graph, block=block, view=view, node=n, slot=s) for n, s in spots]
    return found


def _ask_probe(probe: ProbeLike, items: Sequence[Question]) -> Score:
    score = Score()
    for item in items:
        node = item.view.names[item.node]
        if item.slot is None:
            answer = probe.masked_op(item.graph, item.block.name, node)
        else:
            answer = probe.link(item.graph, item.block.name, node, item.slot)
        score.add(item.family, answer == item.answer)
    return score


def _ask_baseline(baseline: Baseline, items: Sequence[Question]) -> Score:
    score = Score()
    for item in items:
        if item.slot is None:
            answer = baseline.masked_op(item.view, item.node)
        else:
            answer = item.view.names[baseline.link(item.view, item.node, item.slot)]
        score.add(item.family, answer == item.answer)
    return score


def _metrics(ops: Score, links: Score) -> dict[str, float]:
    return {"masked_op_top1": ops.rate, "link_hits1": links.rate}
