"""The batches of a run: batch k depends on the seed and k alone, so a resumed run sees what an unbroken one would."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch.utils.data import Dataset

from genmad.data.corpus import ArchRecord
from genmad.intents.renaming import rename_modules
from genmad.ir import Graph
from genmad.model.batch import ScriptBatch, SourceBatch
from genmad.model.collate import collate_scripts, collate_sources
from genmad.tokenizer import GraphReader, GraphTokens, ScriptGrammar
from genmad.training.config import TrainConfig
from genmad.training.objectives.restore import RestoreBatch, collate_restore, corrupt
from genmad.training.objectives.scripts import ScriptExample, completion_example, edit_example

BUCKETS = (48, 72, 110, 170, 260, 420, 700, 1200)


@dataclass(frozen=True, kw_only=True)
class TrainBatch:
    """One step's data."""

    source: SourceBatch
    script: ScriptBatch
    restore: RestoreBatch


@dataclass
class _Entry:
    family: str
    graph: Graph
    tokens: GraphTokens | None = field(default=None)


class TrainStream(Dataset[TrainBatch]):
    """Batch k of the run, made on demand. Graphs of like size come together; within a size, families weigh alike."""

    def __init__(
        self, records: Sequence[ArchRecord], reader: GraphReader, grammar: ScriptGrammar, config: TrainConfig
    ) -> None:
        self.reader, self.grammar, self.config = reader, grammar, config
        self._buckets: list[dict[str, list[_Entry]]] = [{} for _ in BUCKETS]
        for record in records:
            size = token_count(record.graph)
            if size <= min(config.max_graph_tokens, BUCKETS[-1]):
                bucket = next(i for i, limit in enumerate(BUCKETS) if size <= limit)
                self._buckets[bucket].setdefault(record.family, []).append(_Entry(record.family, record.graph))
        self._buckets = [b for b in self._buckets if b]
        self._weights = [sum(min(len(g), 4) for g in b.values()) for b in self._buckets]

    def __len__(self) -> int:
        return self.config.steps

    def __getitem__(self, index: int) -> TrainBatch:
        rng = random.Random(f"{self.config.seed}-{index}")
        bucket = rng.choices(self._buckets, self._weights)[0]
        families = sorted(bucket)
        longest = max(token_count(e.graph) for entries in bucket.values() for e in entries)
        size = max(6, min(self.config.max_batch, self.config.tokens_per_batch // longest))
        scripts: list[ScriptExample] = []
        while len(scripts) < size:
            entry = rng.choice(bucket[rng.choice(families)])
            made = self._script(entry, rng)
            if made is not None:
                scripts.append(made)
        graphs = [rng.choice(bucket[rng.choice(families)]).graph for _ in range(max(4, size // 2))]
        corrupted = [corrupt(self._renamed(g, rng), self.reader, rng) for g in graphs]
        source = collate_sources([s.source for s in scripts])
        script = collate_scripts([(s.tokens, s.masks) for s in scripts], source, len(self.reader.vocab))
        return TrainBatch(source=source, script=script, restore=collate_restore(corrupted))

    def _script(self, entry: _Entry, rng: random.Random) -> ScriptExample | None:
        if rng.random() < self.config.completion_share:
            return completion_example(self._renamed(entry.graph, rng), self.reader, self.grammar, rng)
        if rng.random() < self.config.rename_share:
            graph = rename_modules(entry.graph, rng)
            return edit_example(
                graph, self.reader.read(graph), self.reader, self.grammar, rng, self.config.word_dropout
            )
        if entry.tokens is None:
            entry.tokens = self.reader.read(entry.graph)
        return edit_example(entry.graph, entry.tokens, self.reader, self.grammar, rng, self.config.word_dropout)

    def _renamed(self, graph: Graph, rng: random.Random) -> Graph:
        return rename_modules(graph, rng) if rng.random() < self.config.rename_share else graph


def token_count(graph: Graph) -> int:
    """Tokens that the model reads: inputs, nodes and one output list per block."""
    return sum(len(b.inputs) + len(b.nodes) + 1 for b in graph.all_blocks)


def pick_first(batch: Sequence[Any]) -> Any:
    """Collate function of a loader whose items are batches already."""
    return batch[0]
