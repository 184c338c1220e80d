"""Probe data sets: the answers are true, names do not give them away, splits are the corpus's."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from datasets import load_from_disk

from genmad.cli import main
from genmad.data.corpus import CorpusError, save
from genmad.data.corrupt import anonymous, hide_links, hide_ops, without_node
from genmad.data.probes import KINDS, derive
from genmad.ir import Graph, GraphDelta, canonical_hash, canonicalize, from_json, same_structure
from genmad.ops import OPSET
from tests.data.test_corpus import record
from tests.graphs import gpt2_like

GRAPHS = (gpt2_like(layers=2), gpt2_like(layers=3, width=64))


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    save([record(1, modality="text"), record(2), record(3, "b", "heldout")], [], tmp_path / "c")
    return tmp_path / "c"


def rows(corpus: Path, kind: str) -> list[dict[str, Any]]:
    out = corpus.with_name(kind)
    told = derive(corpus, kind, out)
    found: list[dict[str, Any]] = list(load_from_disk(str(out)))
    assert told["rows"] == len(found)
    assert {r["split"] for r in found if r["family"] == "b"} == {"heldout"}
    assert {r["split"] for r in found if r["family"] == "a"} == {"train"}
    return found


@pytest.mark.parametrize("graph", GRAPHS)
def test_an_anonymous_graph_has_the_same_structure_and_no_names(graph: Graph) -> None:
    neutral = anonymous(graph)
    assert canonical_hash(neutral) == canonical_hash(graph)
    names = {n.name for b in neutral.all_blocks for n in b.nodes} | {b.name for b in neutral.all_blocks}
    assert all(name[0] in "nb" and name[1:].isdigit() for name in names)


@pytest.mark.parametrize("graph", GRAPHS)
def test_hidden_ops_and_links_are_the_graphs_own(graph: Graph) -> None:
    hidden, ops = hide_ops(graph, random.Random(0), 0.3)
    assert len(ops) > 1
    for item in ops:
        assert graph.block_map[item.block].by_name[item.node].op == item.op
        left = hidden.block_map[item.block].by_name[item.node]
        assert (left.op, left.attrs, left.params) == ("Hidden", (), ())
    cut, links = hide_links(graph, random.Random(0), 0.3)
    for link in links:
        assert graph.block_map[link.block].by_name[link.node].inputs[link.slot] == link.value
        assert cut.block_map[link.block].by_name[link.node].inputs[link.slot] == ""


def test_masked_rows_hold_the_answers(corpus: Path) -> None:
    for row in rows(corpus, "masked-op"):
        graph = from_json(json.loads(row["graph"]))
        assert [graph.block_map[b].by_name[n].op for b, n in zip(row["blocks"], row["nodes"], strict=True)] == [
            "Hidden"
        ] * len(row["labels"])
        assert set(row["labels"]) <= set(OPSET)


def test_the_complete_graph_follows_from_the_incomplete_one_by_the_delta(corpus: Path) -> None:
    for row in rows(corpus, "complete"):
        before, after = (from_json(json.loads(row[key])) for key in ("graph", "target"))
        assert canonical_hash(after) == row["hash"]
        assert not same_structure(before, after)
        assert before.num_nodes == after.num_nodes - 1
        delta = GraphDelta.from_json(json.loads(row["delta"]))
        assert canonicalize(delta.apply(before, OPSET)) == canonicalize(after)


def test_half_of_the_graphs_are_incomplete(corpus: Path) -> None:
    found = rows(corpus, "incomplete")
    assert [r["label"] for r in found] == [1, 0] * 3
    for whole, cut in zip(found[::2], found[1::2], strict=True):
        assert canonical_hash(from_json(json.loads(whole["graph"]))) == whole["hash"]
        assert cut["missing_op"] in OPSET
        assert "wte" not in cut["graph"]


def test_graph_and_operation_rows_ask_without_names(corpus: Path) -> None:
    graphs = rows(corpus, "graph")
    assert graphs[0]["modality"] == "text"
    assert "transformer" not in graphs[0]["graph"]
    operations = rows(corpus, "operation")
    assert {"Linear", "LayerNorm"} <= {r["label"] for r in operations}
    adds = [r for r in operations if r["label"] == "Add"]
    assert all(len(r["inputs"]) == 2 and r["num_params"] == 0 for r in adds)


def test_no_node_goes_where_that_would_tell() -> None:
    for graph in GRAPHS:
        made = without_node(graph, random.Random(1))
        assert made is not None
        rest, block, op = made
        assert rest.num_nodes == graph.num_nodes - 1
        gone = {n.op for n in graph.block_map[block].nodes}
        assert op in gone


def test_the_same_seed_gives_the_same_rows(corpus: Path) -> None:
    first = rows(corpus, "masked-link")
    derive(corpus, "masked-link", corpus.with_name("again"))
    derive(corpus, "masked-link", corpus.with_name("other"), seed=1)
    assert list(load_from_disk(str(corpus.with_name("again")))) == first
    assert list(load_from_disk(str(corpus.with_name("other")))) != first


def test_nothing_is_written_where_something_is(corpus: Path, capsys: Any) -> None:
    with pytest.raises(CorpusError, match="a folder in use"):
        derive(corpus, "graph", corpus)
    assert main(["zoo", "probes", str(corpus), "-o", str(corpus.with_name("p")), "--kind", "nonsense"]) == 2
    assert ", ".join(KINDS) in capsys.readouterr().err
    assert main(["zoo", "probes", str(corpus), "-o", str(corpus.with_name("p")), "--kind", "graph", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == 3
