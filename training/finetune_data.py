"""What a tuning run reads: the zoo in two parts, public graphs, and batches that follow from seed and step alone."""

import contextlib
import hashlib
import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files

import yaml
from torch.utils.data import Dataset

from genmad.data.corpus import ArchRecord
from genmad.intents.renaming import rename_modules
from genmad.ir import Block, Graph
from genmad.model.collate import collate_scripts, collate_sources
from genmad.tokenizer import GraphReader, GraphTokens, ScriptGrammar
from genmad.training.objectives.restore import collate_restore, corrupt
from genmad.training.objectives.scripts import ScriptExample, completion_example, edit_example
from genmad.training.stream import BUCKETS, TrainBatch, token_count

MAX_TRIES = 400
RENAMED = 2


@dataclass(frozen=True, kw_only=True)
class ZooParts:
    """A zoo's graphs, each once.

    Attributes:
        train: what is trained on.
        held_out: what stops the training and is measured; twins, which differ in sizes and names alone, stand in one
            part.
        too_large: (name, tokens) of graphs beyond the limit, which are left out.
        own: whether `held_out` is a part of its own; without enough different graphs it is `train` itself.
    """

    train: tuple[ArchRecord, ...]
    held_out: tuple[ArchRecord, ...]
    too_large: tuple[tuple[str, int], ...]
    own: bool


def twin_key(graph: Graph) -> str:
    """The same for graphs that differ in attributes, sizes and names alone."""

    def links(block: Block) -> list[list[object]]:
        place = {v.name: i for i, v in enumerate(block.inputs)}
        rows: list[list[object]] = []
        for node in block.nodes:
            for out in node.outputs:
                place[out] = len(place)
            callee = order.get(node.callee) if node.is_call else node.op
            rows.append([callee, [place.get(v, -1) for v in node.inputs]])
        return rows

    order = {block.name: i for i, block in enumerate(graph.all_blocks)}
    text = json.dumps([links(block) for block in graph.all_blocks])
    return hashlib.sha256(text.encode()).hexdigest()


def split_zoo(records: Sequence[ArchRecord], share: float, max_tokens: int) -> ZooParts:
    """Parts by hash of what the graphs are, so that the same zoo is always split alike."""
    sizes = [(record, token_count(record.graph)) for record in records]
    fitting = [record for record, size in sizes if size <= max_tokens]
    too_large = tuple((r.variant, size) for r, size in sizes if size > max_tokens)
    groups: dict[str, list[ArchRecord]] = {}
    for record in fitting:
        groups.setdefault(twin_key(record.graph), []).append(record)
    wanted, chosen = share * len(fitting), set()
    taken = 0
    for key in sorted(groups):
        if taken >= max(1.0, wanted) or len(groups) < 3:
            break
        # A group of twins that is most of the zoo is trained on, or little would be left.
        if taken + len(groups[key]) <= max(1.0, 1.5 * wanted):
            chosen.add(key)
            taken += len(groups[key])
    held_out = tuple(r for key in sorted(chosen) for r in groups[key])
    kept = {r.hash for r in held_out}
    train = tuple(r for r in fitting if r.hash not in kept)
    return ZooParts(train=train, held_out=held_out or train, too_large=too_large, own=bool(held_out))


@dataclass(frozen=True, kw_only=True)
class BatchSettings:
    """How batches are made.

    Attributes:
        steps: of the whole run.
        tokens: graph tokens of a batch of scripts, padding included.
        replay_share: of batches that are of public graphs.
        completion_share: of scripts over the zoo that put a removed node back; the rest are edits from sentences.
    """

    seed: int
    steps: int
    tokens: int = 1200
    max_batch: int = 24
    replay_share: float = 0.3
    completion_share: float = 0.5
    replay_completion_share: float = 0.1
    rename_share: float = 0.3
    word_dropout: float = 0.05


class _Pool:
    """Graphs by size; each is read once as it is and once for each way of renaming."""

    def __init__(self, records: Sequence[ArchRecord], reader: GraphReader) -> None:
        self._reader = reader
        self._read: dict[tuple[str, int], tuple[Graph, GraphTokens]] = {}
        table: dict[int, list[ArchRecord]] = {}
        for record in records:
            size = token_count(record.graph)
            table.setdefault(next((b for b in BUCKETS if size <= b), size), []).append(record)
        self.buckets = [(size, table[size]) for size in sorted(table)]
        self.weights = [len(members) for _, members in self.buckets]

    def read(self, record: ArchRecord, way: int) -> tuple[Graph, GraphTokens]:
        """Way -1 is the graph itself."""
        key = (record.hash, way)
        if key not in self._read:
            graph = record.graph
            if way >= 0:
                graph = rename_modules(graph, random.Random(f"{record.hash}-{way}"))
            self._read[key] = graph, self._reader.read(graph)
        return self._read[key]


class TuneStream(Dataset[TrainBatch]):
    """Batch k of a tuning run, which follows from the seed and k alone; of the zoo or of public graphs."""

    def __init__(
        self, zoo: Sequence[ArchRecord], replay: Sequence[ArchRecord], reader: GraphReader, grammar: ScriptGrammar,
        settings: BatchSettings,
    ) -> None:  # fmt: skip
        self.reader, self.grammar, self.settings = reader, grammar, settings
        self._zoo, self._replay = _Pool(zoo, reader), _Pool(replay, reader)

    def __len__(self) -> int:
        return self.settings.steps

    def is_replay(self, index: int) -> bool:
        """Whether batch `index` is of public graphs."""
        return self._source(index)[0] is self._replay

    def _source(self, index: int) -> tuple[_Pool, random.Random]:
        rng = random.Random(f"tune-{self.settings.seed}-{index}")
        replays = rng.random() < self.settings.replay_share and bool(self._replay.buckets)
        return (self._replay if replays else self._zoo), rng

    def __getitem__(self, index: int) -> TrainBatch:
        pool, rng = self._source(index)
        size, members = rng.choices(pool.buckets, pool.weights)[0]
        count = max(2, min(self.settings.max_batch, self.settings.tokens // size))
        scripts = [self._script(pool, members, rng) for _ in range(count)]
        source = collate_sources([s.source for s in scripts])
        script = collate_scripts([(s.tokens, s.masks) for s in scripts], source, len(self.reader.vocab))
        drawn = [self._variant(pool, rng.choice(members), rng)[0] for _ in range(max(2, count // 2))]
        restore = collate_restore([corrupt(graph, self.reader, rng) for graph in drawn])
        return TrainBatch(source=source, script=script, restore=restore)

    def _script(self, pool: _Pool, members: Sequence[ArchRecord], rng: random.Random) -> ScriptExample:
        settings = self.settings
        share = settings.replay_completion_share if pool is self._replay else settings.completion_share
        completes = rng.random() < share
        for attempt in range(MAX_TRIES):
            graph, tokens = self._variant(pool, rng.choice(members), rng)
            if completes and attempt < 8:
                made = completion_example(graph, self.reader, self.grammar, rng)
            else:
                made = edit_example(graph, tokens, self.reader, self.grammar, rng, settings.word_dropout)
            if made is not None:
                return made
        raise RuntimeError(f"no example over {len(members)} graphs in {MAX_TRIES} draws")

    def _variant(self, pool: _Pool, record: ArchRecord, rng: random.Random) -> tuple[Graph, GraphTokens]:
        renames = rng.random() < self.settings.rename_share
        return pool.read(record, rng.randrange(RENAMED) if renames else -1)


def replay_graphs(
    seed: int, count: int, seconds: float, clock: Callable[[], float], avoid: frozenset[str] = frozenset()
) -> list[ArchRecord]:
    """Public graphs, small ones of families in turn, imported from configs of transformers until `count` or `seconds`.

    Args:
        avoid: canonical hashes of graphs to leave out.
    """
    from genmad.data.corpus import build, family_variants
    from genmad.data.families import FAMILIES

    began = clock()
    names = sorted(f.model_type for f in FAMILIES if f.model_type not in _held_out_families())
    random.Random(f"replay-{seed}").shuffle(names)
    found: dict[str, ArchRecord] = {}
    for round_number in range(4):
        for name in names:
            if len(found) >= count or clock() - began > seconds:
                return list(found.values())[:count]
            variants = list(family_variants((name,), 1, 4, seed))
            with _quiet_transformers():
                made, _ = build(variants[1 + round_number : 2 + round_number], frozenset())
            found |= {r.hash: r for r in made if r.hash not in avoid and token_count(r.graph) <= BUCKETS[5]}
    return list(found.values())[:count]


@contextlib.contextmanager
def _quiet_transformers() -> Iterator[None]:
    """While active, transformers does not warn of configs whose special tokens lie beyond a narrow vocabulary."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _held_out_families() -> frozenset[str]:
    """Families that evaluations keep to themselves, as `configs/corpus.yaml` names them."""
    text = files("genmad.configs").joinpath("corpus.yaml").read_text(encoding="utf-8")
    return frozenset(yaml.safe_load(text)["held_out"])
