"""The corpus of architecture graphs: built from configs of known families, split by family, stored with `datasets`."""

import json
import random
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genmad.ir import Diagnostic, GenmadError, Graph, GraphError, canonical_hash, canonicalize, from_json, to_json

SPLITS = ("train", "validation", "heldout")


class CorpusError(GenmadError):
    """A folder that holds no corpus, or one that cannot be read."""

    exit_code = 3

    def __init__(self, diagnostic: Diagnostic) -> None:
        self.diagnostic = diagnostic
        super().__init__(str(diagnostic))


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchRecord:
    """One architecture.

    Attributes:
        family: what it is a member of: a transformers model type (`gpt2`), `timm.resnet`, `diffusers.UNet2DModel`.
        variant: what tells it from the family's others, `small` or a config in words.
        split: `train`, `validation` or `heldout`; all graphs of a family stand in one split.
        hash: canonical hash.
        name: what the model is called, where it has a name of its own (`resnet18`).
        group: families of one group, as those of one transformers model folder, stand in one split.
        source: where it comes from: `transformers`, `timm`, `diffusers`, `pyg`, `spaces`, `private`.
        source_version: package and version, `transformers 5.23.0`.
        config: what the model was built with, as JSON.
        text: a description in our own words, made from facts of the graph.
        modality: `text`, `image`, `audio`, `text+image`, `graph` ...
        task: what its head gives, `language modelling`, `classification` ...
        num_params: trainable elements, tied ones once; None where costs could not be told.
        num_macs: multiply-accumulates at batch 1 and 128 for every other symbol.
        num_nodes: nodes as stored, each block once; `num_nodes_flat` counts a block once per call.
        num_blocks: blocks, the main one included.
        num_primitive: stored nodes that are `TorchCall`s or `OnnxCall`s.
        labels: measured figures of a private zoo (`{"accuracy": 0.91}`), as JSON.
    """

    family: str
    variant: str
    split: str
    hash: str
    graph: Graph
    name: str = ""
    group: str = ""
    source: str = "transformers"
    source_version: str = ""
    config: str = "{}"
    text: str = ""
    modality: str = ""
    task: str = ""
    num_params: int | None = None
    num_macs: int | None = None
    num_nodes: int = 0
    num_nodes_flat: int = 0
    num_blocks: int = 0
    num_primitive: int = 0
    labels: str = "{}"


# Column -> Arrow type, in the order in which they are stored.
COLUMNS: Mapping[str, str] = {
    "family": "string", "variant": "string", "split": "string", "hash": "string", "name": "string", "group": "string",
    "source": "string", "source_version": "string", "config": "string", "text": "string", "modality": "string",
    "task": "string", "num_params": "int64", "num_macs": "int64", "num_nodes": "int64", "num_nodes_flat": "int64",
    "num_blocks": "int64", "num_primitive": "int64", "labels": "string", "graph": "string",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A variant that could not be imported, and why."""

    family: str
    variant: str
    reason: str


def build(
    variants: Iterable[tuple[str, str, Callable[[], Graph]]],
    heldout: frozenset[str],
    *,
    report: Callable[[str], None] = lambda _: None,
) -> tuple[list[ArchRecord], list[Failure]]:
    """Imports every (family, variant, maker); one bad model never stops it.

    Duplicates by canonical hash are dropped, first one kept; a graph that a held-out family shares with a training
    family is dropped from training.
    """
    records: dict[str, ArchRecord] = {}
    failures = []
    for family, variant, make in variants:
        try:
            graph = canonicalize(make())
            key = canonical_hash(graph)
        except Exception as error:
            failures.append(Failure(family=family, variant=variant, reason=f"{type(error).__name__}: {error}"[:300]))
            report(f"{family} {variant}: failed, {failures[-1].reason[:100]}")
            continue
        split = "heldout" if family in heldout else "train"
        known = records.get(key)
        if known is None or (known.split == "train" and split == "heldout"):
            records[key] = ArchRecord(family=family, variant=variant, split=split, hash=key, graph=graph)
        report(f"{family} {variant}: {graph.num_nodes} nodes")
    return list(records.values()), failures


def graph_text(graph: Graph) -> str:
    """The graph as stored: JSON without spaces. The same for graphs that are equal."""
    return json.dumps(to_json(graph), separators=(",", ":"), allow_nan=False)


def row_of(record: ArchRecord) -> dict[str, Any]:
    """A record as one row of the data set."""
    return {name: getattr(record, name) for name in COLUMNS if name != "graph"} | {"graph": graph_text(record.graph)}


def write_rows(rows: Iterable[Mapping[str, Any]], folder: Path) -> int:
    """Writes rows of `COLUMNS` as a data set into `folder`, one row in memory at a time; how many there were."""
    from datasets import Features, Value

    return write_dataset(rows, Features({name: Value(kind) for name, kind in COLUMNS.items()}), folder)


def write_dataset(rows: Iterable[Mapping[str, Any]], features: Any, folder: Path) -> int:
    """Writes rows with the given `datasets.Features` into `folder`; how many there were."""
    from datasets import Dataset, disable_progress_bars
    from datasets.arrow_writer import ArrowWriter

    disable_progress_bars()
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = folder.with_name(f"{folder.name}.rows")  # a data set cannot be saved over its own file
    with ArrowWriter(path=str(part), features=features, writer_batch_size=200) as writer:
        for row in rows:
            writer.write({name: row[name] for name in features})
        count, _ = writer.finalize()
    Dataset.from_file(str(part)).save_to_disk(str(folder))
    part.unlink()
    return int(count)


def save(records: Iterable[ArchRecord], failures: Iterable[Failure], folder: Path) -> None:
    """Writes an Arrow data set and `failures.json` into `folder`."""
    write_rows(map(row_of, records), folder)
    failed = [{"family": f.family, "variant": f.variant, "reason": f.reason} for f in failures]
    (folder / "failures.json").write_text(json.dumps(failed, indent=1), encoding="utf-8")


def load(
    folder: Path, split: str | None = None, *, sources: Collection[str] | None = None, max_nodes: int | None = None
) -> list[ArchRecord]:
    """The records of one split, or of all.

    Args:
        sources: only these.
        max_nodes: leave out graphs with more stored nodes, before they are read.

    Raises `CorpusError` for a folder that holds no corpus, `GraphError` for a row that is none.
    """
    return list(iterate(folder, split, sources=sources, max_nodes=max_nodes))


def iterate(
    folder: Path, split: str | None = None, *, sources: Collection[str] | None = None, max_nodes: int | None = None
) -> Iterator[ArchRecord]:
    """The records of `load`, one in memory at a time."""
    rows = open_rows(folder)
    old = "source" not in rows.column_names
    chosen = [
        i
        for i, (part, source, size) in enumerate(
            zip(
                rows["split"],
                ["transformers"] * len(rows) if old else rows["source"],
                [0] * len(rows) if old else rows["num_nodes"],
                strict=True,
            )
        )
        if split in (None, part) and (sources is None or source in sources) and (max_nodes is None or size <= max_nodes)
    ]
    for row in rows if len(chosen) == len(rows) else rows.select(chosen):
        yield record_of(row)


def open_rows(folder: Path) -> Any:
    """The `datasets.Dataset` of a corpus folder. Raises `CorpusError`."""
    from datasets import load_from_disk

    if not (folder / "dataset_info.json").is_file():
        got = "a folder without dataset_info.json" if folder.is_dir() else "no such folder"
        fix = f"genmad zoo build -o {folder}"
        raise CorpusError(Diagnostic(where=str(folder), got=got, expected="a corpus", fix=fix))
    try:
        rows: Any = load_from_disk(str(folder))
    except (OSError, ValueError, KeyError, TypeError) as error:
        got = f"{type(error).__name__}: {error}"[:300]
        fix = f"genmad zoo build -o {folder} --force"
        raise CorpusError(Diagnostic(where=str(folder), got=got, expected="a corpus", fix=fix)) from error
    missing = {"family", "variant", "split", "hash", "graph"} - set(getattr(rows, "column_names", ()))
    if missing:
        got = f"no column {', '.join(sorted(missing))}"
        raise CorpusError(Diagnostic(where=str(folder), got=got, expected=f"columns {', '.join(COLUMNS)}"))
    return rows


def record_of(row: Mapping[str, Any]) -> ArchRecord:
    """The record of a row; columns that older corpora lack take their defaults. Raises `GraphError`."""
    if row["split"] not in SPLITS:
        expected = f"one of {', '.join(SPLITS)}"
        raise GraphError(Diagnostic(where="corpus", got=f"split {row['split']!r}", expected=expected))
    known = {name: row[name] for name in COLUMNS if name in row and name != "graph"}
    return ArchRecord(**known, graph=from_json(json.loads(row["graph"])))


def family_variants(
    families: Iterable[str] | None, per_family: int, narrow: int, seed: int
) -> Iterator[tuple[str, str, Callable[[], Graph]]]:
    """Makers of every known family (`genmad.data.families`): sizes as they occur in practice, and `narrow` more."""
    from genmad.data.families import FAMILIES, Family, narrow_size
    from genmad.importers.from_hf import import_config

    def maker(family: Family, settings: dict[str, Any]) -> Callable[[], Graph]:
        return lambda: import_config(family.make_config(settings)).graph

    for family in FAMILIES:
        if families is None or family.model_type in families:
            rng = random.Random(f"narrow {family.model_type} {seed}")
            small = [dict(family.config(narrow_size(rng))) for _ in range(narrow)]
            for i, settings in enumerate([*family.variants(seed, per_family), *small]):
                yield family.model_type, f"v{i}", maker(family, settings)
