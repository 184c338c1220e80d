"""The batches of a run: batch k depends on the seed and k alone, so a resumed run sees what an unbroken one would."""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch.utils.data import Dataset

from genmad.data.corpus import ArchRecord
from genmad.intents.renaming import rename_modules
from genmad.ir import Graph, GraphError
from genmad.model.batch import ScriptBatch, SourceBatch
from genmad.model.collate import collate_scripts, collate_sources
from genmad.tokenizer import GraphReader, GraphTokens, ScriptGrammar
from genmad.training.config import TrainConfig
from genmad.training.objectives.restore import RestoreBatch, collate_restore, corrupt
from genmad.training.objectives.scripts import ScriptExample, completion_example, edit_example

BUCKETS = (48, 72, 110, 170, 260, 420, 700, 1200)


@dataclass(frozen=True, kw_only=True)
class TrainBatch:
    """One step's data; `restore` in every `TrainConfig.restore_every`th batch."""

    source: SourceBatch
    script: ScriptBatch
    restore: RestoreBatch | None


RENAMED = 4


class _Entry:
    """A graph of the corpus, as it is and with its modules renamed in `RENAMED` ways; read once each."""

    def __init__(self, record: ArchRecord) -> None:
        self._record = record
        self._read: dict[int, tuple[Graph, GraphTokens]] = {}
        self.num_tokens = token_count(record.graph)

    def variant(self, way: int, reader: GraphReader) -> tuple[Graph, GraphTokens]:
        """Way -1 is the graph itself; the others depend on the graph and their number alone."""
        if way not in self._read:
            graph = self._record.graph
            if way >= 0:
                graph = rename_modules(graph, random.Random(f"{self._record.hash}-{way}"))
            self._read[way] = graph, reader.read(graph)
        return self._read[way]


class TrainStream(Dataset[TrainBatch]):
    """Batch k of the run, made on demand. Graphs of like size come together.

    A family weighs as the root of its number of graphs: one with a hundred models is worth more than one with a single
    model, but ten times as much, not a hundred times.
    """

    def __init__(
        self, records: Sequence[ArchRecord], reader: GraphReader, grammar: ScriptGrammar, config: TrainConfig
    ) -> None:
        self.reader, self.grammar, self.config = reader, grammar, config
        self._buckets: list[dict[str, list[_Entry]]] = [{} for _ in BUCKETS]
        for record in records:
            entry = _Entry(record)
            if entry.num_tokens <= min(config.max_graph_tokens, BUCKETS[-1]):
                bucket = next(i for i, limit in enumerate(BUCKETS) if entry.num_tokens <= limit)
                self._buckets[bucket].setdefault(record.family, []).append(entry)
        self._buckets = [b for b in self._buckets if b]
        self._weights = [sum(_weight(g) for g in b.values()) for b in self._buckets]

    def __len__(self) -> int:
        return self.config.steps

    def __getitem__(self, index: int) -> TrainBatch:
        rng = random.Random(f"{self.config.seed}-{index}")
        bucket = rng.choices(self._buckets, self._weights)[0]
        families = sorted(bucket)
        weights = [_weight(bucket[f]) for f in families]
        longest = max(e.num_tokens for entries in bucket.values() for e in entries)
        size = max(6, min(self.config.max_batch, self.config.tokens_per_batch // longest))
        scripts: list[ScriptExample] = []
        while len(scripts) < size:
            entry = rng.choice(bucket[rng.choices(families, weights)[0]])
            made = self._script(entry, rng)
            if made is not None:
                scripts.append(made)
        source = collate_sources([s.source for s in scripts])
        script = collate_scripts([(s.tokens, s.masks) for s in scripts], source, len(self.reader.vocab))
        restore = None
        if index % self.config.restore_every == 0:
            names = rng.choices(families, weights, k=max(4, size // 2))
            drawn = [rng.choice(bucket[name]) for name in names]
            restore = collate_restore([corrupt(self._variant(e, rng)[0], self.reader, rng) for e in drawn])
        return TrainBatch(source=source, script=script, restore=restore)

    def _script(self, entry: _Entry, rng: random.Random) -> ScriptExample | None:
        config = self.config
        completes = rng.random() < config.completion_share
        try:
            graph, tokens = self._variant(entry, rng)
            if completes:
                return completion_example(graph, self.reader, self.grammar, rng)
            return edit_example(graph, tokens, self.reader, self.grammar, rng, config.word_dropout)
        except GraphError:
            # An edit that does not fit an odd graph: another is drawn, and a long run goes on.
            return None

    def _variant(self, entry: _Entry, rng: random.Random) -> tuple[Graph, GraphTokens]:
        renames = rng.random() < self.config.rename_share
        return entry.variant(rng.randrange(RENAMED) if renames else -1, self.reader)


def _weight(entries: Sequence[_Entry]) -> float:
    return math.sqrt(len(entries))


def token_count(graph: Graph) -> int:
    """Tokens that the model reads: inputs, nodes and one output list per block."""
    return sum(len(b.inputs) + len(b.nodes) + 1 for b in graph.all_blocks)


def pick_first(batch: Sequence[Any]) -> Any:
    """Collate function of a loader whose items are batches already."""
    return batch[0]
