"""`genmad eval corpus`: what the importers cover, what a corpus holds, and how many edits there are in how many words.

Counts of graphs, and what came in of timm, diffusers and torch-geometric, are those of a corpus folder (`--corpus`).
Types of transformers with their parity, and the files in the onnx and onnxruntime wheels, are measured anew; both are
kept beside the corpus, in `<corpus>.eval/`, so that an evaluation that was ended goes on.
"""

import json
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genmad.data.card import percentile
from genmad.data.corpus import open_rows
from genmad.evals import import_scan, onnx_files
from genmad.evals.report import CpuClock, EvalReport, commit, use_one_thread
from genmad.importers.lifted import share_of
from genmad.zoo.jobs import NOT_BUILT

QUICK_TYPES = ("bert", "convnext", "gpt2", "llama", "resnet", "swin", "t5", "vit")
QUICK_PARITY, QUICK_ONNX = 3, 12
_GOOD = ("ok", "duplicate")


def run(
    quick: bool = False,
    seed: int = 0,
    n: int | None = None,
    checkpoint: str | None = None,  # noqa: ARG001 - every evaluation takes the same arguments
    *,
    corpus: str | None = None,
) -> dict[str, Any]:
    """The report as a JSON object. Without a corpus a small one is built.

    Args:
        n: so many model types, and so many ONNX files, are measured; all by default, a few when `quick`.
        corpus: a folder of `genmad zoo build`.

    Raises `CorpusError` for a folder that is none.
    """
    clock, threads = CpuClock(), use_one_thread()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(corpus) if corpus is not None else _small_corpus(Path(temporary) / "corpus", seed)
        counts = coverage(folder)
        notes = folder.with_name(f"{folder.name}.eval")
        notes.mkdir(exist_ok=True)
        types = _types(notes, seed, n or (QUICK_PARITY if quick else None))
        files = _onnx(notes, seed, n or (QUICK_ONNX if quick else None))
    patterns = patterns_by_intent()
    return EvalReport(
        name="corpus", commit=commit(), seed=seed, n=counts.graphs, threads=threads, cpu_seconds=clock.seconds(),
        split=corpus or f"a small corpus of {len(QUICK_TYPES)} model types, built for this",
        metrics={**_transformers(types), **counts.metrics(), **_files(files), **_edits(patterns)},
        breakdown={"sources": counts.table, "intents": patterns, "differing": _differing(types)},
        failures=[*counts.failures, *_differing(types), *_unread(files)][:60], quick=quick,
    ).to_json()  # fmt: skip


def _small_corpus(out: Path, seed: int) -> Path:
    """A corpus of a few model types at two sizes."""
    from genmad.zoo.build import build
    from genmad.zoo.config import ZooConfig
    from genmad.zoo.transformers_models import TransformersSource

    print("no --corpus: a small one is built", file=sys.stderr, flush=True)
    source = TransformersSource(types=QUICK_TYPES, sizes=2, variants=0, narrow=0)
    build((source,), ZooConfig(sources=("transformers",)), out, seed=seed)
    return out


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """What a corpus folder tells.

    Attributes:
        table: source -> `models` tried, `buildable` (their own code builds them), `imported` (a graph came of one
            size), `graphs` and `families` in the corpus.
        graphs, families: in the corpus, search spaces apart; so are the figures below.
        nodes: stored nodes of each graph, sorted.
        ops: op -> stored nodes; calls are `@`.
        duplicates: models whose graph another had brought.
        failures: models that came in at no size, at most twenty.
    """

    table: Mapping[str, Mapping[str, int]]
    graphs: int
    families: int
    nodes: Sequence[int]
    ops: Mapping[str, int]
    duplicates: int
    failures: Sequence[Mapping[str, Any]]

    def metrics(self) -> dict[str, float]:
        total = sum(self.ops.values())
        primitive = self.ops.get("TorchCall", 0) + self.ops.get("OnnxCall", 0)
        told = {f"{s}_{k}": self.table.get(s, {}).get(k, 0) for s in _LIBRARIES for k in ("imported", "buildable")}
        return {
            **told, "lifted_fraction": round(1 - primitive / total, 5) if total else 0.0,
            "layer_level_fraction": round(share_of(self.ops), 5),
            "nodes_median": percentile(self.nodes, 0.5) if self.nodes else 0.0,
            "nodes_p99": percentile(self.nodes, 0.99) if self.nodes else 0.0,
            "distinct_graphs": self.graphs, "families": self.families, "duplicates": self.duplicates,
        }  # fmt: skip


_LIBRARIES = ("timm", "diffusers", "pyg")


def coverage(folder: Path) -> Coverage:
    """Counts of a corpus folder. Raises `CorpusError`."""
    rows = open_rows(folder)
    rows = rows if "source" in rows.column_names else rows.add_column("source", ["transformers"] * len(rows))
    pairs = list(zip(rows["source"], rows["family"], strict=True))
    attempts = _attempts(folder)
    nodes: list[int] = []
    ops: Counter[str] = Counter()
    for row in rows.select([i for i, (source, _) in enumerate(pairs) if source != "spaces"]):
        found = [n["op"] for block in json.loads(row["graph"])["blocks"] for n in block["nodes"]]
        nodes.append(len(found))
        ops.update("@" if op.startswith("@") else op for op in found)
    real = [(source, family) for source, family in pairs if source != "spaces"]
    table = {
        s: _of_source(s, attempts, pairs) for s in dict.fromkeys([*(a["source"] for a in attempts), *rows["source"]])
    }
    return Coverage(
        table=table, graphs=len(nodes), families=len({family for _, family in real}), nodes=sorted(nodes), ops=ops,
        duplicates=sum(a["status"] == "duplicate" for a in attempts), failures=_never_in(attempts),
    )  # fmt: skip


def _of_source(source: str, attempts: Sequence[Mapping[str, Any]], pairs: Sequence[tuple[str, str]]) -> dict[str, int]:
    tried = [a for a in attempts if a["source"] == source]
    imported = {a["name"] for a in tried if a["status"] in _GOOD}
    unbuilt = {a["name"] for a in tried if a["variant"] == "full" and a["reason"].startswith(NOT_BUILT)}
    names = {a["name"] for a in tried}
    return {
        "models": len(names), "buildable": len(names - (unbuilt - imported)), "imported": len(imported),
        "graphs": sum(s == source for s, _ in pairs), "families": len({f for s, f in pairs if s == source}),
    }  # fmt: skip


def _attempts(folder: Path) -> list[dict[str, Any]]:
    try:
        lines = (folder / "attempts.jsonl").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []  # a corpus that training built
    return [json.loads(line) for line in lines]


def _never_in(attempts: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    good = {(a["source"], a["name"]) for a in attempts if a["status"] in _GOOD}
    first: dict[tuple[str, str], dict[str, Any]] = {}
    for a in attempts:
        key = (a["source"], a["name"])
        if a["status"] == "failed" and key not in good:
            first.setdefault(key, {"source": a["source"], "model": a["name"], "error": a["reason"]})
    return list(first.values())[:20]


def _types(notes: Path, seed: int, n: int | None) -> list[import_scan.TypeResult]:
    """Model types of transformers, each imported and compared; the folder of an earlier scan may be named."""
    from genmad.importers.hf_catalog import model_types

    chosen = QUICK_TYPES[:n] if n is not None and n <= len(QUICK_TYPES) else model_types()[:n]
    named = os.environ.get(import_scan.FOLDER_VARIABLE)
    return import_scan.scan(chosen, Path(named) if named else notes / "transformers", seed)


def _transformers(types: Sequence[import_scan.TypeResult]) -> dict[str, float]:
    told = import_scan.metrics_of(types)
    keys = ("transformers_imported", "transformers_buildable", "parity_checked", "parity_ok", "cpu_s_median")
    return {key: told[key] for key in keys}


def _differing(types: Sequence[import_scan.TypeResult]) -> list[dict[str, Any]]:
    """Types whose outputs were compared and differ, with the reason."""
    bad = [r for r in types if r.compared and not r.equal]
    return [{"model": r.model_type, "differs_by": r.max_abs_diff, "error": r.reason} for r in bad]


def _onnx(notes: Path, seed: int, n: int | None) -> list[onnx_files.OnnxResult]:
    from genmad.evals.onnx_cases import wheel_cases

    cases = list(wheel_cases())
    step = max(1, len(cases) // n) if n is not None else 1
    return onnx_files.measure_all(cases[::step][:n], seed, notes / "onnx.jsonl")


def _files(files: Sequence[onnx_files.OnnxResult]) -> dict[str, float]:
    there = [r for r in files if r.exists]
    return {"onnx_imported": sum(r.imported for r in there), "onnx_files": len(there)}


def _unread(files: Sequence[onnx_files.OnnxResult]) -> list[dict[str, Any]]:
    return [{"file": r.name, "error": r.error} for r in files if r.exists and not r.imported][:20]


def patterns_by_intent() -> dict[str, dict[str, int]]:
    """Intent -> how many sentence patterns training sees, and how many are held out."""
    from genmad.intents.library import INTENTS
    from genmad.intents.wordings import TEMPLATES

    return {
        intent.name: {
            "seen": len({*intent.seen, *TEMPLATES.get(intent.name, ())}), "held_out": len(set(intent.unseen)),
        }
        for intent in INTENTS
    }  # fmt: skip


def _edits(patterns: Mapping[str, Mapping[str, int]]) -> dict[str, float]:
    totals = [sum(row.values()) for row in patterns.values()]
    held_out = sum(row["held_out"] for row in patterns.values())
    return {
        "intents": len(patterns), "patterns": sum(totals), "patterns_least": min(totals),
        "patterns_held_out": held_out,
    }  # fmt: skip
