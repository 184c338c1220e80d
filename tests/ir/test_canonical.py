"""The canonical hash keys caches and removes duplicates: it must ignore names and order, and nothing else."""

import random
import time
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genmad.ir import (
    Block,
    Graph,
    GraphBuilder,
    Node,
    TensorType,
    Value,
    canonical_hash,
    canonical_order,
    canonicalize,
    rename_blocks,
    rename_nodes,
    same_structure,
    topological_sort,
)
from genmad.ops import OPSET
from tests.strategies import graphs


def shuffled(block: Block, rng: random.Random) -> Block:
    """The same block with its nodes in a random legal order."""
    nodes = list(block.nodes)
    rng.shuffle(nodes)
    return replace(block, nodes=topological_sort(nodes))


def renamed(graph: Graph, rng: random.Random) -> Graph:
    """The same graph with new names for nodes, inputs, blocks, scopes and parameters; ties stay ties."""
    graph = rename_blocks(graph, {b.name: f"B{rng.randrange(10**9)}x{i}" for i, b in enumerate(graph.all_blocks)})

    def block(b: Block) -> Block:
        names = [v.name for v in b.inputs] + [n.name for n in b.nodes]
        b = rename_nodes(b, {name: f"n{i}_{rng.randrange(10**9)}" for i, name in enumerate(names)})
        nodes = [
            replace(n, scope=f"S{n.scope}" if n.scope else "", params=tuple((s, f"{p}_z") for s, p in n.params))
            for n in b.nodes
        ]
        return replace(b, nodes=tuple(nodes))

    return Graph(main=block(graph.main), blocks=tuple(block(b) for b in graph.blocks))


@settings(max_examples=60, deadline=None)
@given(graphs(), st.integers(0, 2**32))
def test_hash_and_order_survive_renaming_and_reordering(graph: Graph, seed: int) -> None:
    rng = random.Random(seed)
    other = renamed(graph, rng)
    other = Graph(main=shuffled(other.main, rng), blocks=tuple(shuffled(b, rng) for b in other.blocks))
    assert canonical_hash(other) == canonical_hash(graph)
    ops = [[n.op if not n.is_call else "@" for n in b.nodes] for b in canonicalize(graph).all_blocks]
    assert [[n.op if not n.is_call else "@" for n in b.nodes] for b in canonicalize(other).all_blocks] == ops


@settings(max_examples=60, deadline=None)
@given(graphs())
def test_canonicalize_keeps_the_graph_and_its_names(graph: Graph) -> None:
    once = canonicalize(graph)
    assert {b.name: (b.inputs, dict(b.by_name), b.outputs) for b in once.all_blocks} == {
        b.name: (b.inputs, dict(b.by_name), b.outputs) for b in graph.all_blocks
    }
    assert canonicalize(once) == once


@settings(max_examples=60, deadline=None)
@given(graphs(), st.data())
def test_hash_changes_with_any_attribute(graph: Graph, data: st.DataObject) -> None:
    spots = [(b, n, i) for b in graph.all_blocks for n in b.nodes for i in range(len(n.attrs))]
    if not spots:
        return
    block, node, i = data.draw(st.sampled_from(spots))
    name, value = node.attrs[i]
    for other in (not value, "changed", None, (value,)):
        if repr(other) == repr(value):
            continue
        attrs = (*node.attrs[:i], (name, other), *node.attrs[i + 1 :])
        assert canonical_hash(_with_node(graph, block, replace(node, attrs=attrs))) != canonical_hash(graph)


def _with_node(graph: Graph, block: Block, node: Node) -> Graph:
    changed = replace(block, nodes=tuple(node if n.name == node.name else n for n in block.nodes))
    blocks = tuple(changed if b is block else b for b in graph.blocks)
    return Graph(main=changed if graph.main is block else graph.main, blocks=blocks)


def pair(second_weight: str = "b.weight", *, swapped: bool = False, op: str = "Sub", eps: float = 1e-5) -> Graph:
    builder = GraphBuilder(OPSET)
    main = builder.block("net", x="float32[batch,8]")
    a = main.add("Linear", "x", name="a", out_features=8, bias=False)
    b = main.add("Linear", "x", name="b", out_features=8, bias=False, params={"weight": second_weight})
    a = main.add("LayerNorm", a, name="norm", eps=eps)
    return builder.build(main.finish(main.add(op, *((b, a) if swapped else (a, b)), name="end")))


@pytest.mark.parametrize(
    "other",
    [pair("a.weight"), pair(swapped=True), pair(op="Add"), pair(eps=2e-5)],
    ids=["tied parameters", "swapped inputs", "other op", "other attribute"],
)
def test_what_counts_as_structure(other: Graph) -> None:
    assert same_structure(pair(), pair("anything.else"))
    assert not same_structure(pair(), other)


def test_one_is_not_true_is_not_one_point_zero() -> None:
    kind = TensorType.parse("float32[2]")

    def graph(value: object) -> Graph:
        node = Node(name="n", op="Any", inputs=("x",), types=(kind,), attrs=(("a", value),))
        return Graph(main=Block(name="g", inputs=(Value("x", kind),), nodes=(node,), outputs=("n",)))

    assert len({canonical_hash(graph(v)) for v in (1, True, 1.0, "1", (1,), None)}) == 6


def layers(count: int, *, shared_scope: bool = False) -> Graph:
    builder = GraphBuilder(OPSET)
    block = builder.block("Layer", x="float32[batch,8]")
    block.finish(block.add("Relu", block.add("Linear", "x", name="fc", out_features=8)))
    main = builder.block("net", x="float32[batch,8]")
    value = "x"
    for i in range(count):
        value = main.add("@Layer", value, name=f"h.{i}", scope="h.0" if shared_scope else f"h.{i}")
    return builder.build(main.finish(value))


def test_calls_that_share_parameters_differ_from_calls_that_do_not() -> None:
    """ALBERT is not BERT: guards ties seen only inside one block."""
    assert canonical_hash(layers(3)) != canonical_hash(layers(3, shared_scope=True))


def test_order_depends_on_outputs_not_on_listing() -> None:
    graph = pair()
    assert [n.name for n in canonical_order(graph.main)] == ["a", "norm", "b", "end"]


def test_dead_nodes_count_and_do_not_depend_on_listing() -> None:
    builder = GraphBuilder(OPSET)
    main = builder.block("net", x="float32[batch,8]")
    main.add("Relu", "x", name="dead")
    main.add("Tanh", "x", name="dead_too")
    block = main.finish(main.add("Silu", "x", name="live"))
    swapped = replace(block, nodes=(block.nodes[1], block.nodes[0], block.nodes[2]))
    assert [n.name for n in canonical_order(block)] == [n.name for n in canonical_order(swapped)]
    assert canonical_hash(Graph(main=block)) == canonical_hash(Graph(main=swapped))
    assert canonical_hash(Graph(main=block)) != canonical_hash(Graph(main=replace(block, nodes=block.nodes[1:])))


def test_ten_thousand_nodes_take_less_than_three_seconds() -> None:
    """A chain, because recursion would end at a depth of a thousand."""
    kind = TensorType.parse("float32[batch,8]")
    nodes = [
        Node(name=f"n{i}", op="Relu", inputs=(f"n{i - 1}" if i else "x",), types=(kind,), attrs=(("a", i),))
        for i in range(10_000)
    ]
    graph = Graph(main=Block(name="g", inputs=(Value("x", kind),), nodes=tuple(nodes), outputs=("n9999",)))
    start = time.process_time()
    canonical_hash(graph)
    canonicalize(graph)
    assert time.process_time() - start < 3
