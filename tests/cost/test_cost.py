"""Costs are counted once per tensor and once per run, and never negative."""

import pytest
from hypothesis import given, settings

from genmad.cost import cost_of
from genmad.ir import Graph, GraphBuilder, GraphError, SymDim, evaluate_dim, flatten, num_running_nodes, prune_dead
from genmad.ops import OPSET
from tests.ir.test_canonical import layers, pair
from tests.strategies import graphs

SIZES = {"batch": 2, "seq": 5}


@settings(max_examples=60, deadline=None)
@given(graphs())
def test_costs_are_never_negative_and_rows_add_up(graph: Graph) -> None:
    report = cost_of(graph, OPSET, SIZES)
    for row in report.rows:
        assert min(row.num_params, row.num_buffers, row.num_macs, row.output_bytes) >= 0
    assert report.num_params == sum(row.num_params for row in report.rows)
    assert report.num_macs == sum(row.num_macs for row in report.rows) == evaluate_dim(report.macs, SIZES)
    assert report.num_nodes == num_running_nodes(graph) >= report.depth >= 1
    largest = max(row.output_bytes for row in report.rows)
    assert largest <= report.peak_activation_bytes <= sum(row.output_bytes for row in report.rows) + 2 * 5 * 8 * 4


@settings(max_examples=60, deadline=None)
@given(graphs())
def test_blocks_cost_what_they_cost_written_out(graph: Graph) -> None:
    """Except that a flat graph may free a call's input earlier than its caller would."""
    folded, flat = cost_of(graph, OPSET, SIZES), cost_of(flatten(graph), OPSET, SIZES)
    assert (folded.num_params, folded.macs, folded.depth) == (flat.num_params, flat.macs, flat.depth)
    assert folded.rows == flat.rows
    assert folded.peak_activation_bytes >= flat.peak_activation_bytes


def test_peak_memory_of_a_branch_is_counted_by_hand() -> None:
    """x 2*8 floats stays alive for the skip; at `act` x, up and act are alive: 16 + 64 + 64 floats."""
    builder = GraphBuilder(OPSET)
    main = builder.block("net", x="float32[batch,8]")
    up = main.add("Linear", "x", name="up", out_features=32)
    down = main.add("Linear", main.add("Relu", up, name="act"), name="down", out_features=8)
    graph = builder.build(main.finish(main.add("Add", "x", down)))
    report = cost_of(graph, OPSET, {"batch": 2})
    assert report.peak_activation_bytes == 4 * (16 + 64 + 64)
    assert report.num_params == 8 * 32 + 32 + 32 * 8 + 8
    assert report.param_bytes == 4 * report.num_params
    assert report.macs == 512 * SymDim.symbol("batch")
    assert (report.num_macs, report.depth) == (1024, 4)
    assert [row.path for row in report.under("up")] == ["up"]


def test_tied_and_shared_parameters_count_once() -> None:
    assert cost_of(pair(), OPSET).num_params - cost_of(pair("a.weight"), OPSET).num_params == 64
    apart, shared = cost_of(layers(3), OPSET), cost_of(layers(3, shared_scope=True), OPSET)
    assert apart.num_params == 3 * shared.num_params == 3 * 72
    assert apart.num_macs == shared.num_macs
    assert [row.num_params for row in shared.rows] == [72, 0, 0, 0, 0, 0]


def test_running_statistics_are_buffers() -> None:
    builder = GraphBuilder(OPSET)
    main = builder.block("net", x="float32[batch,3,4,4]")
    graph = builder.build(main.finish(main.add("BatchNorm", "x")))
    report = cost_of(graph, OPSET)
    assert (report.num_params, report.num_buffers, report.param_bytes) == (6, 6, 48)


def test_a_symbol_without_a_size_is_named() -> None:
    builder = GraphBuilder(OPSET)
    main = builder.block("net", x="float32[frames,3]")
    graph = builder.build(main.finish(main.add("Relu", "x")))
    with pytest.raises(GraphError, match="no size for frames"):
        cost_of(graph, OPSET)
    assert cost_of(graph, OPSET, {"frames": 7}).peak_activation_bytes == 2 * 7 * 3 * 4


@settings(max_examples=20, deadline=None)
@given(graphs())
def test_pruning_never_makes_a_graph_dearer(graph: Graph) -> None:
    assert cost_of(prune_dead(graph), OPSET).num_params <= cost_of(graph, OPSET).num_params
