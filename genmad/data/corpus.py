"""The corpus of architecture graphs: built from configs of known families, split by family, stored with `datasets`."""

import json
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genmad.ir import Diagnostic, Graph, GraphError, canonical_hash, canonicalize, from_json, to_json

SPLITS = ("train", "heldout")


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchRecord:
    """One architecture.

    Attributes:
        family: model type that it comes from (`gpt2`).
        variant: what tells it from the family's others, `small` or a config in words.
        split: `train` or `heldout`; all graphs of a family stand in one split.
        hash: canonical hash.
    """

    family: str
    variant: str
    split: str
    hash: str
    graph: Graph


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


def save(records: Iterable[ArchRecord], failures: Iterable[Failure], folder: Path) -> None:
    """Writes an Arrow data set and `failures.json` into `folder`."""
    from datasets import Dataset, disable_progress_bars

    disable_progress_bars()
    rows = [
        {
            "family": r.family,
            "variant": r.variant,
            "split": r.split,
            "hash": r.hash,
            "graph": json.dumps(to_json(r.graph)),
        }
        for r in records
    ]
    Dataset.from_list(rows).save_to_disk(str(folder))
    failed = [{"family": f.family, "variant": f.variant, "reason": f.reason} for f in failures]
    (folder / "failures.json").write_text(json.dumps(failed, indent=1), encoding="utf-8")


def load(folder: Path, split: str | None = None) -> list[ArchRecord]:
    """The records of one split, or of all. Raises `GraphError` for a file that is not a corpus."""
    from datasets import load_from_disk

    rows: Any = load_from_disk(str(folder))
    return [_record(row) for row in rows if split is None or row["split"] == split]


def _record(row: dict[str, Any]) -> ArchRecord:
    graph = from_json(json.loads(row["graph"]))
    if row["split"] not in SPLITS:
        expected = f"one of {', '.join(SPLITS)}"
        raise GraphError(Diagnostic(where="corpus", got=f"split {row['split']!r}", expected=expected))
    return ArchRecord(family=row["family"], variant=row["variant"], split=row["split"], hash=row["hash"], graph=graph)


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
