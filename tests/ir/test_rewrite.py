"""The small rewrites that every room shares."""

from dataclasses import replace

import pytest
from hypothesis import given, settings

from genmad.ir import (
    Block,
    Graph,
    GraphBuilder,
    GraphError,
    Node,
    TensorType,
    Value,
    assemble,
    num_running_nodes,
    prune_dead,
    rename_blocks,
    rename_nodes,
    replace_block,
    same_structure,
    topological_sort,
)
from genmad.ops import OPSET
from tests.ir.test_canonical import layers
from tests.strategies import graphs

KIND = TensorType.parse("float32[batch,8]")


def node(name: str, *inputs: str) -> Node:
    return Node(name=name, op="Relu", inputs=inputs, types=(KIND,))


def test_sorting_keeps_the_given_order_where_it_can() -> None:
    nodes = [node("c", "b"), node("x1", "in"), node("b", "a"), node("a", "in"), node("x2", "in")]
    assert [n.name for n in topological_sort(nodes)] == ["x1", "a", "b", "c", "x2"]


def test_a_cycle_is_named_in_the_direction_of_data() -> None:
    nodes = [node("a", "c"), node("b", "a"), node("c", "b"), node("after", "c"), node("before", "in")]
    with pytest.raises(
        GraphError, match=r'block "m": got a cycle: (a -> b -> c -> a|b -> c -> a -> b|c -> a -> b -> c)'
    ):
        topological_sort(nodes, where='block "m"')


def test_a_node_that_reads_itself_is_a_cycle() -> None:
    with pytest.raises(GraphError, match="a cycle: a -> a"):
        topological_sort([node("a", "a")])


@settings(max_examples=30, deadline=None)
@given(graphs())
def test_valid_graphs_have_nothing_to_prune(graph: Graph) -> None:
    assert prune_dead(graph) == graph
    assert assemble(graph.main, graph.block_map, OPSET) == graph


def test_pruning_removes_dead_chains_and_what_only_they_call() -> None:
    graph = layers(2)
    main = graph.main
    dead = (replace(main.nodes[0], name="dead", scope="dead"), node("deader", "dead"))
    bloated = Graph(main=replace(main, nodes=(*main.nodes, *dead)), blocks=graph.blocks)
    assert prune_dead(bloated) == graph
    only_dead = Graph(main=Block(name="m", inputs=main.inputs, nodes=dead, outputs=("x",)), blocks=graph.blocks)
    assert prune_dead(only_dead) == Graph(main=Block(name="m", inputs=main.inputs, nodes=(), outputs=("x",)))


def wide_layer() -> Block:
    builder = GraphBuilder(OPSET)
    block = builder.block("Layer", x="float32[batch,8]")
    return block.finish(
        block.add("Linear", block.add("Linear", "x", name="up", out_features=32), name="fc", out_features=8)
    )


def test_replacing_a_block_changes_every_call() -> None:
    graph = replace_block(layers(3), wide_layer())
    assert num_running_nodes(graph) == 6
    assert graph.block_map["Layer"] == wide_layer()


def test_replacing_a_block_retypes_its_callers_only_when_asked() -> None:
    narrow = replace(wide_layer(), outputs=("up",))
    with pytest.raises(GraphError, match="outputs"):
        replace_block(layers(1), narrow)
    assert replace_block(layers(1), narrow, OPSET).main.output_types == (TensorType.parse("float32[batch,32]"),)
    with pytest.raises(GraphError, match='block "other": got an unknown block; expected one of Layer, net'):
        replace_block(layers(1), replace(narrow, name="other"))


def test_blocks_that_call_each_other_are_refused() -> None:
    def block(name: str, callee: str) -> Block:
        call = Node(name="c", op=f"@{callee}", inputs=("x",), types=(KIND,), scope="c")
        return Block(name=name, inputs=(Value("x", KIND),), nodes=(call,), outputs=("c",))

    table = {"a": block("a", "b"), "b": block("b", "a")}
    with pytest.raises(GraphError, match=r"a circle of calls: (a -> b -> a|b -> a -> b)"):
        assemble(block("main", "a"), table, OPSET)
    with pytest.raises(GraphError, match='call "c" in block "main": got block \'gone\''):
        assemble(block("main", "gone"), {}, OPSET)


@settings(max_examples=30, deadline=None)
@given(graphs())
def test_renaming_keeps_structure_and_meaning(graph: Graph) -> None:
    names = {n.name: f"{n.name}.new" for n in graph.main.nodes}
    other = replace_block(graph, rename_nodes(graph.main, names))
    other = rename_blocks(other, {b.name: f"new_{b.name}" for b in other.all_blocks})
    assert same_structure(graph, other)
    assert other.main.name == f"new_{graph.main.name}"


def test_renaming_to_a_taken_name_is_refused() -> None:
    with pytest.raises(GraphError, match="taken"):
        rename_nodes(layers(2).main, {"h.0": "h.1"})
    with pytest.raises(GraphError, match="expected nodes or inputs"):
        rename_nodes(layers(2).main, {"h.9": "h.1"})
