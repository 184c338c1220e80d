"""Benchmarks become graphs: equal where cells compute the same, with classes that no split can leak across."""

import gzip
import itertools
import json
import os
from pathlib import Path

import numpy as np
import pytest

from genmad.autobuild.architecture import ArchGraph
from genmad.autobuild.labelled import SETS, load_set
from genmad.autobuild.labelled.edge_cells import NODE_OPS, _classes, edges_graph, merged_graph
from genmad.autobuild.labelled.macro import accel_graph, macro_class, macro_graph
from genmad.autobuild.labelled.node_cells import gnn_graph
from genmad.autobuild.labelled.ofa import ofa_graph
from genmad.spaces.grammar import SpaceError
from genmad.spaces.nb201 import EDGES, OPS, unique_string

NONE, SKIP, CONV1, CONV3, POOL = range(5)


def _ops(graph: ArchGraph) -> list[str]:
    return [NODE_OPS[op] for op in graph.features[:, 0]]


def test_skips_become_edges_and_what_none_cuts_off_is_gone() -> None:
    # 0-1 conv3, 0-2 none, 1-2 skip, 0-3 skip, 1-3 none, 2-3 conv1: a conv3, then a conv1, beside the input.
    graph = merged_graph((CONV3, NONE, SKIP, SKIP, NONE, CONV1))
    assert _ops(graph) == ["input", "nor_conv_3x3", "nor_conv_1x1", "output"]
    assert graph.edges.tolist() == [[0, 1], [0, 3], [1, 2], [2, 3]]


def test_an_operation_that_feeds_nothing_is_no_node() -> None:
    # Point 1 is filled by a conv3 but both edges leaving it are none.
    assert _ops(merged_graph((CONV3, NONE, NONE, POOL, NONE, NONE))) == ["input", "avg_pool_3x3", "output"]


def test_ways_of_skips_are_counted() -> None:
    # The input reaches point 2 twice by skips, then a conv1: one edge and one way through a skip node.
    graph = merged_graph((SKIP, SKIP, SKIP, NONE, NONE, CONV1))
    assert sorted(_ops(graph)) == sorted(["input", "skip_connect", "nor_conv_1x1", "output"])
    assert len(graph.edges) == 4


def test_a_cell_without_a_path_is_two_nodes() -> None:
    graph = merged_graph((NONE,) * 6)
    assert _ops(graph) == ["input", "output"]
    assert not len(graph.edges)


def test_merged_graphs_do_not_depend_on_the_point_a_computation_passes() -> None:
    """conv3 then pool, through point 1 or through point 2, is one graph, though the unique strings differ."""
    through_1 = (CONV3, NONE, NONE, NONE, POOL, NONE)
    through_2 = (NONE, CONV3, NONE, NONE, NONE, POOL)
    a, b = merged_graph(through_1), merged_graph(through_2)
    assert np.array_equal(a.features, b.features)
    assert np.array_equal(a.edges, b.edges)
    assert unique_string(through_1) != unique_string(through_2)
    assert len(set(_classes([through_1, through_2]).tolist())) == 1


def _output(word: tuple[int, ...], seed: int) -> int:
    """What a cell computes with random numbers for its operations: made edge by edge, without graphs."""
    gains = dict(zip(range(2, 5), np.random.default_rng(seed).integers(2, 97, 3).tolist(), strict=True))
    points = [7, 0, 0, 0]
    for (a, b), op in zip(EDGES, word, strict=True):
        if op == SKIP:
            points[b] += points[a]
        elif op != NONE and points[a]:
            points[b] += gains[op] * points[a] ** 2 + gains[op]
    return points[3]


def _graph_output(graph: ArchGraph, seed: int) -> int:
    """The same from the graph alone."""
    gains = dict(zip(range(2, 5), np.random.default_rng(seed).integers(2, 97, 3).tolist(), strict=True))
    values: list[int] = []
    for v, op in enumerate(graph.features[:, 0].tolist()):
        read = sum(values[a] for a, b in graph.edges.tolist() if b == v)
        values.append(7 if op == 0 else read if op in (1, SKIP + 2) else gains[op - 2] * read**2 + gains[op - 2])
    return values[-1]


def test_merged_graphs_compute_what_their_cells_compute() -> None:
    """Exact whole numbers: 400 random cells, through polynomials in place of operations."""
    rng = np.random.default_rng(0)
    for seed, row in enumerate(rng.integers(0, 5, (400, 6)).tolist()):
        word = tuple(row)
        assert _graph_output(merged_graph(word), seed) == _output(word, seed), word


def test_classes_join_both_notions_of_equal_cells() -> None:
    words = list(itertools.product((NONE, SKIP, CONV3), repeat=6))
    classes = _classes(words)
    graphs = [merged_graph(word) for word in words]
    by_graph = [graph.edges.tobytes() + graph.features.tobytes() for graph in graphs]
    for keys in ([unique_string(word) for word in words], by_graph):
        pairs = set(zip(keys, classes.tolist(), strict=True))
        assert len(pairs) == len(set(keys))


def test_the_six_edges_keep_their_places() -> None:
    graph = edges_graph((CONV3, NONE, SKIP, POOL, NONE, CONV1))
    assert _ops(graph)[1:-1] == [OPS[op] for op in (CONV3, NONE, SKIP, POOL, NONE, CONV1)]
    assert graph.features[:, 1].tolist() == [0, 1, 2, 3, 4, 5, 6, 0]
    assert graph.stages.tolist() == [-1, 0, 0, 0, 0, 0, 0, -1]


def test_an_identity_behind_the_first_layer_of_a_stage_is_nothing() -> None:
    assert macro_class("00201110") == macro_class("00210110")
    assert macro_class("01000000") != macro_class("10000000")
    assert macro_graph("00201110").stages.tolist() == [0, 0, 1, 1, 1, 2, 2, 2]
    with pytest.raises(ValueError, match="eight digits"):
        macro_graph("0020111")


def test_chains_hold_one_node_per_layer() -> None:
    ofa = ofa_graph([[(3, 6), (7, 3)], [(5, 4), (5, 4)]])
    assert ofa.features.tolist() == [[0, 0, 2, 0], [0, 1, 0, 2], [1, 0, 1, 1], [1, 1, 1, 1]]
    stage = {"expand": 4, "kernel": 5, "layers": 2, "se": True}
    assert accel_graph([stage] * 7).num_nodes == 14
    with pytest.raises(ValueError, match="stage 1: 9 layers"):
        accel_graph([stage | {"layers": 9}, *[stage] * 6])


def test_layers_of_graph_networks_that_nobody_reads_feed_the_output() -> None:
    graph = gnn_graph("0012", ["gat", "gcn", "fc", "skip"])
    assert graph.edges.tolist() == [[0, 1], [0, 2], [1, 3], [2, 4], [3, 5], [4, 5]]
    with pytest.raises(ValueError, match="link"):
        gnn_graph("0512", ["gat", "gcn", "fc", "skip"])


def test_a_bad_row_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "nas_bench_macro"
    folder.mkdir()
    with gzip.open(folder / "architectures.jsonl.gz", "wt") as file:
        file.write(json.dumps({"id": "00000000", "acc_pct_mean": 50.0}) + "\n" + json.dumps({"id": "0009"}) + "\n")
    with pytest.raises(SpaceError, match="line 2"):
        load_set("nb_macro", tmp_path)


def test_missing_data_says_what_to_give(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GENMAD_DATA", raising=False)
    with pytest.raises(SpaceError, match="--data"):
        load_set("nb201")
    with pytest.raises(SpaceError, match="NAS-Bench-Macro"):
        load_set("nb_macro", tmp_path)
    with pytest.raises(SpaceError, match="nb201"):
        load_set("nb20", tmp_path)


@pytest.mark.parametrize("name", ["ofa_mbv3", "ofa_pn_surrogate", "nb_macro", "nas_bench_bert", "transnas"])
def test_real_tables_become_sets(name: str) -> None:
    folder = os.environ.get("GENMAD_DATA")
    if not folder:
        pytest.skip("no benchmark tables: set GENMAD_DATA to a folder that holds them")
    found = load_set(name, folder)
    assert name in SETS
    assert len(found.graphs) == len(found.texts) > 400
    sizes = np.array(found.schema.sizes)
    assert all((graph.features < sizes).all() for graph in found.graphs)
