"""Probe data sets derived from a corpus: what a model of graphs can be asked without any training on edits.

Every probe inherits the splits of the corpus; what is drawn depends on the graph's hash, the kind and the seed alone.
"""

import json
import random
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from genmad.data.corpus import ArchRecord, CorpusError, graph_text, iterate, write_dataset
from genmad.data.corrupt import anonymous, hide_links, hide_ops, without_node
from genmad.ir import Block, Diagnostic, GraphDelta, GraphError, Node, producer

OP_SHARE, LINK_SHARE = 0.15, 0.12
# Nodes of one graph that the operation probe asks about.
PER_GRAPH = 8
_FAMILY_PARTS = ((0.8, "train"), (0.9, "validation"), (1.0, "heldout"))

Row = dict[str, Any]


def operation_rows(record: ArchRecord, rng: random.Random) -> Iterator[Row]:
    """What op a node is, from what it reads, what it gives and what its neighbours are."""
    graph = record.graph
    plain = [(b, n) for b in graph.all_blocks for n in b.nodes if not n.is_call]
    for block, node in rng.sample(plain, min(PER_GRAPH, len(plain))):
        yield {
            "inputs": [str(block.types[v]) if v else "" for v in node.inputs], "outputs": [str(t) for t in node.types],
            "before": [_op(block, producer(v)) for v in node.inputs if v],
            "after": sorted(_op(block, user) for value in node.outputs for user, _ in block.users[value]),
            "num_params": len(node.params), "label": node.op,
        }  # fmt: skip


def _op(block: Block, name: str) -> str:
    """The op of a neighbour; calls and inputs are told as such."""
    node: Node | None = block.by_name.get(name)
    return "input" if node is None else "call" if node.is_call else node.op


def graph_rows(record: ArchRecord, rng: random.Random) -> Iterator[Row]:
    """Family and modality of a graph without names. `part` splits within families, for the question of the family:
    a family that training has never seen cannot be named."""
    roll = rng.random()
    yield {
        "graph": graph_text(anonymous(record.graph)), "modality": record.modality, "group": record.group,
        "part": next(part for limit, part in _FAMILY_PARTS if roll < limit),
    }  # fmt: skip


def masked_op_rows(record: ArchRecord, rng: random.Random) -> Iterator[Row]:
    """A graph with hidden ops, and what they are."""
    hidden, labels = hide_ops(anonymous(record.graph), rng, OP_SHARE)
    yield {
        "graph": graph_text(hidden), "blocks": [h.block for h in labels], "nodes": [h.node for h in labels],
        "labels": [h.op for h in labels],
    }  # fmt: skip


def masked_link_rows(record: ArchRecord, rng: random.Random) -> Iterator[Row]:
    """A graph with hidden links, and the values that were read."""
    hidden, labels = hide_links(anonymous(record.graph), rng, LINK_SHARE)
    yield {
        "graph": graph_text(hidden), "blocks": [h.block for h in labels], "nodes": [h.node for h in labels],
        "slots": [h.slot for h in labels], "labels": [h.value for h in labels],
    }  # fmt: skip


def incomplete_rows(record: ArchRecord, rng: random.Random) -> Iterator[Row]:
    """A graph as it is, label 1, and with one node taken out, label 0; both without names."""
    made = without_node(record.graph, rng)
    if made is None:
        return
    rest, block, op = made
    yield {"graph": graph_text(anonymous(record.graph)), "label": 1, "missing_op": "", "missing_in": -1}
    order = [b.name for b in rest.all_blocks]
    yield {
        "graph": graph_text(anonymous(rest)), "label": 0, "missing_op": op, "missing_in": order.index(block),
    }  # fmt: skip


def complete_rows(record: ArchRecord, rng: random.Random) -> Iterator[Row]:
    """A graph with one node taken out, the whole graph, and the delta between them."""
    made = without_node(record.graph, rng)
    if made is None:
        return
    rest, _, op = made
    delta = GraphDelta.between(rest, record.graph)
    yield {
        "graph": graph_text(rest), "target": graph_text(record.graph), "delta": json.dumps(delta.to_json()),
        "missing_op": op,
    }  # fmt: skip


Maker = Callable[[ArchRecord, random.Random], Iterator[Row]]
_TEXT, _TEXTS, _INT, _INTS = "string", ["string"], "int64", ["int64"]
# Kind -> its rows, and its columns after those that all have.
KINDS: Mapping[str, tuple[Maker, Mapping[str, Any]]] = {
    "operation": (operation_rows, {
        "inputs": _TEXTS, "outputs": _TEXTS, "before": _TEXTS, "after": _TEXTS, "num_params": _INT, "label": _TEXT,
    }),
    "graph": (graph_rows, {"graph": _TEXT, "modality": _TEXT, "group": _TEXT, "part": _TEXT}),
    "masked-op": (masked_op_rows, {"graph": _TEXT, "blocks": _TEXTS, "nodes": _TEXTS, "labels": _TEXTS}),
    "masked-link": (
        masked_link_rows, {"graph": _TEXT, "blocks": _TEXTS, "nodes": _TEXTS, "slots": _INTS, "labels": _TEXTS},
    ),
    "incomplete": (incomplete_rows, {"graph": _TEXT, "label": _INT, "missing_op": _TEXT, "missing_in": _INT}),
    "complete": (complete_rows, {"graph": _TEXT, "target": _TEXT, "delta": _TEXT, "missing_op": _TEXT}),
}  # fmt: skip


def derive(
    corpus: Path, kind: str, out: Path, *, seed: int = 0, limit: int | None = None,
    on_graph: Callable[[int], None] = lambda _: None,
) -> dict[str, Any]:  # fmt: skip
    """Writes the probe data set of one kind into `out`; its counts.

    Args:
        limit: so many graphs of the corpus at most, from its start.
        on_graph: told how many graphs are done.

    Raises `CorpusError` where the corpus cannot be read or `out` is in use.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        diagnostic = Diagnostic(where=f"-o {out}", got="a folder in use", expected="a new folder", fix="name another")
        raise CorpusError(diagnostic)
    fresh = out.with_name(out.name + ".partial")
    shutil.rmtree(fresh, ignore_errors=True)
    counts: dict[str, int] = {}
    try:
        rows = _rows(corpus, kind, seed, limit, counts, on_graph)
        total = write_dataset(rows, _features(KINDS[kind][1]), fresh)
        if not total:
            raise CorpusError(Diagnostic(where=str(corpus), got="no graph to ask about", expected="one or more"))
        told = {"kind": kind, "seed": seed, "rows": total, "splits": dict(sorted(counts.items()))}
        (fresh / "summary.json").write_text(json.dumps(told, indent=1), encoding="utf-8")
        if out.exists():
            out.rmdir()
        fresh.rename(out)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.with_name(f"{fresh.name}.rows").unlink(missing_ok=True)
    return told


def _features(columns: Mapping[str, Any]) -> Any:
    from datasets import Features, List, Value

    shared = {"split": _TEXT, "family": _TEXT, "source": _TEXT, "hash": _TEXT}
    table = {**shared, **columns}
    return Features({k: List(Value(v[0])) if isinstance(v, list) else Value(v) for k, v in table.items()})


def _rows(
    corpus: Path, kind: str, seed: int, limit: int | None, counts: dict[str, int], on_graph: Callable[[int], None]
) -> Iterator[Row]:
    make = KINDS[kind][0]
    for index, record in enumerate(iterate(corpus)):
        if limit is not None and index >= limit:
            return
        rng = random.Random(f"{kind} {seed} {record.hash}")
        try:
            made = list(make(record, rng))
        except GraphError:  # too small to hide anything
            made = []
        for row in made:
            counts[record.split] = counts.get(record.split, 0) + 1
            yield {"split": record.split, "family": record.family, "source": record.source, "hash": record.hash} | row
        on_graph(index + 1)
