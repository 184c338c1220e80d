"""Negative log-likelihoods of held-out graphs: what tells a tuning run when to stop, and what it reports.

Three figures in nats, all on examples that are drawn once:
- `node_nll`: of a node's op and of each of its inputs, given the rest of the graph; the pseudo-likelihood of Besag
  (1975) a node, by the heads that restore masked ops and hidden links. Words for opaque leaves count as the op that
  keeps them, so the figure is comparable between vocabularies.
- `completion_nll`: of the whole script that puts one removed node back (its place, op, inputs, settings and users),
  under the grammar's masks; a script a node.
- `edit_nll`: of the scripts that answer sentences, a token.
"""

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from genmad.data.corpus import ArchRecord
from genmad.ir import Graph, GraphError
from genmad.model import GraphTransformer
from genmad.model.batch import ScriptBatch, SourceBatch
from genmad.model.collate import Source, collate_scripts, collate_sources
from genmad.tokenizer import GrammarError, GraphReader, ScriptGrammar, Vocab, encode_script
from genmad.training.objectives.restore import Corrupted, RestoreBatch, collate_restore, corrupt
from genmad.training.objectives.scripts import ScriptExample, edit_example, incomplete
from genmad.training.stream import token_count

BATCH_TOKENS = 1500
MAX_SCRIPT = 250
COMPLETE = "complete the graph"
Figures = dict[str, float]
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class MeasureSettings:
    """How many examples a graph gives; graphs beyond `graphs` are left out, an even sample of them is taken."""

    seed: int = 0
    graphs: int = 24
    completions: int = 3
    edits: int = 2
    corruptions: int = 2


class HeldOutLoss:
    """Fixed examples over some graphs; calling it gives a model's figures on them."""

    def __init__(
        self, records: Sequence[ArchRecord], reader: GraphReader, grammar: ScriptGrammar, settings: MeasureSettings
    ) -> None:
        self._vocab = reader.vocab
        rng = random.Random(f"measure-{settings.seed}")
        ordered = sorted(records, key=lambda r: r.hash)
        chosen = sorted(rng.sample(ordered, min(settings.graphs, len(ordered))), key=lambda r: token_count(r.graph))
        self._completions: list[tuple[SourceBatch, ScriptBatch]] = []
        self._edits: list[tuple[SourceBatch, ScriptBatch]] = []
        self._restores: list[RestoreBatch] = []
        self.num_graphs = len(chosen)
        links = nodes = 0
        completions: list[ScriptExample] = []
        edits: list[ScriptExample] = []
        corrupted: list[Corrupted] = []
        for record in chosen:
            own = random.Random(f"measure-{settings.seed}-{record.hash}")
            graph, tokens = record.graph, reader.read(record.graph)
            drawn = [_completion(graph, reader, grammar, own) for _ in range(3 * settings.completions)]
            completions += [e for e in drawn if e is not None][: settings.completions]
            asked = [edit_example(graph, tokens, reader, grammar, own, 0.0) for _ in range(settings.edits)]
            edits += [e for e in asked if e is not None]
            corrupted += [corrupt(graph, reader, own) for _ in range(settings.corruptions)]
            for block in graph.all_blocks:
                nodes += len(block.nodes)
                links += sum(bool(v) for n in block.nodes for v in n.inputs)
        self._links_a_node = links / max(nodes, 1)
        for part, table in ((completions, self._completions), (edits, self._edits)):
            for group in _grouped(part, [len(e.source.graph.refs) for e in part]):
                source = collate_sources([e.source for e in group])
                table.append((source, collate_scripts([(e.tokens, e.masks) for e in group], source, len(reader.vocab))))
        sizes = [len(c.source.graph.refs) for c in corrupted]
        self._restores = [collate_restore(group) for group in _grouped(corrupted, sizes)]

    @torch.no_grad()
    def __call__(self, model: GraphTransformer) -> Figures:
        """The figures; those of which there are no examples are left out."""
        was_training = model.training
        model.eval()
        bos, device = self._vocab.id("<bos>"), next(model.parameters()).device
        out: Figures = {}
        for name, batches in (("completion_nll", self._completions), ("edit_nll", self._edits)):
            nats = scripts = tokens = 0.0
            for source, script in batches:
                loss, _ = model.script_loss(source.to(device), script.to(device), bos)
                nats += float(loss.sum())
                scripts += len(loss)
                tokens += float((script.kind_BL >= 0).sum())
            if scripts:
                out[name] = nats / (scripts if name == "completion_nll" else tokens)
        out |= self._restored(model, device)
        model.train(was_training)
        return {name: round(value, 5) for name, value in out.items()}

    def _restored(self, model: GraphTransformer, device: torch.device) -> Figures:
        groups = op_groups(self._vocab).to(device)
        sums = {"op": [0.0, 0], "link": [0.0, 0], "op_hit": [0.0, 0], "link_hit": [0.0, 0]}
        for batch in self._restores:
            encoded = model.encode(batch.source.to(device))
            ops = model.op_head(encoded.nodes_BND[batch.op_example_K, batch.op_token_K]).float()
            nats, hits = grouped_nll(ops, batch.op_target_K.to(device), groups)
            _count(sums, "op", nats, hits)
            links = model.link_logits(encoded, batch.link_token_Q, batch.link_slot_Q, batch.link_example_Q).float()
            links = links.masked_fill(~batch.link_choices_QN.to(device), -1e9)
            target = batch.link_target_Q.to(device)
            _count(sums, "link", F.cross_entropy(links, target, reduction="none"), links.argmax(-1) == target)
        if not sums["op"][1]:
            return {}
        op, link = (sums[k][0] / max(sums[k][1], 1) for k in ("op", "link"))
        return {
            "node_nll": op + self._links_a_node * link, "op_nll": op, "link_nll": link,
            "op_top1": sums["op_hit"][0] / sums["op_hit"][1],
            "link_hits1": sums["link_hit"][0] / max(sums["link_hit"][1], 1),
        }  # fmt: skip


def _count(sums: dict[str, list[float]], name: str, nats: Tensor, hits: Tensor) -> None:
    for key, values in ((name, nats), (f"{name}_hit", hits.float())):
        sums[key][0] += float(values.sum())
        sums[key][1] += len(values)


def op_groups(vocab: Vocab) -> Tensor:
    """[V] the op that each word stands for, as that op's id: a leaf's word counts as the op that keeps it; -1 for words
    that stand for none."""
    out = torch.full((len(vocab),), -1)
    for i, word in enumerate(vocab.tokens):
        kind, _, name = word.partition(":")
        if kind in ("op", "leaf"):
            out[i] = vocab.id(f"op:{name.partition('=')[0]}")
    return out


def grouped_nll(logits_KV: Tensor, target_K: Tensor, groups_V: Tensor) -> tuple[Tensor, Tensor]:
    """Of each target's op under the law over ops alone, and whether it is the likeliest; both [K].

    The probability of an op is the sum over the words that stand for it.
    """
    law_KV = torch.softmax(logits_KV.masked_fill(groups_V < 0, -1e9), -1)
    by_op_KV = torch.zeros_like(law_KV).index_add_(1, groups_V.clamp(min=0), law_KV * (groups_V >= 0))
    wanted_K = groups_V[target_K]
    chosen_K = by_op_KV.gather(1, wanted_K[:, None]).squeeze(1)
    return -chosen_K.clamp(min=1e-12).log(), by_op_KV.argmax(-1) == wanted_K


def _completion(graph: Graph, reader: GraphReader, grammar: ScriptGrammar, rng: random.Random) -> ScriptExample | None:
    """One node taken out and the script that puts it back; the sentence does not say which."""
    made = incomplete(graph, grammar.opset, rng)
    if made is None:
        return None
    rest, script = made
    tokens = reader.read(rest)
    pieces = reader.text.encode(COMPLETE, tokens.all_names)
    try:
        written, _, masks = encode_script(grammar.compile(rest, tokens, pieces), script, reading="complete")
    except (GrammarError, GraphError):
        return None
    if len(written) > MAX_SCRIPT:
        return None
    return ScriptExample(source=Source.of(tokens, pieces, COMPLETE), tokens=written, masks=masks)


def _grouped(items: Sequence[T], sizes: Sequence[int]) -> Iterator[list[T]]:
    """Runs of items of like size, padded to at most `BATCH_TOKENS` tokens each where they fit at all."""
    order = sorted(range(len(items)), key=lambda i: sizes[i])
    group: list[T] = []
    for i in order:
        if group and (len(group) + 1) * sizes[i] > BATCH_TOKENS:
            yield group
            group = []
        group.append(items[i])
    if group:
        yield group


def relative(figures: Figures, before: Figures, names: Iterable[str]) -> float:
    """The mean of `figures` as shares of what they were before; 1 where nothing can be compared."""
    shares = [figures[n] / before[n] for n in names if before.get(n, 0) > 0 and n in figures]
    return sum(shares) / len(shares) if shares else 1.0
