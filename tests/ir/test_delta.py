"""A delta is exact: applied it gives the other graph, inverted it gives the first one back."""

import json
from typing import Any

import pytest
from hypothesis import given, settings

from genmad.ir import Block, Graph, GraphDelta, GraphError, Node, Rewiring, Value, from_text, to_text
from genmad.ir.delta import BlockDelta
from genmad.ops import OPSET
from tests.strategies import graphs


def content(graph: Graph) -> dict[str, tuple[tuple[Value, ...], tuple[str, ...], dict[str, Node]]]:
    """A graph up to the order of its nodes and blocks."""
    return {b.name: (b.inputs, b.outputs, dict(b.by_name)) for b in graph.all_blocks}


@settings(max_examples=80, deadline=None)
@given(graphs(), graphs())
def test_apply_gives_the_other_graph_and_inverse_restores(before: Graph, after: Graph) -> None:
    delta = GraphDelta.between(before, after)
    applied = delta.apply(before, OPSET)
    assert content(applied) == content(after)
    assert content(delta.inverse().apply(applied, OPSET)) == content(before)
    assert delta.inverse().inverse() == delta
    assert GraphDelta.from_json(json.loads(json.dumps(delta.to_json(), allow_nan=False))) == delta


@settings(max_examples=30, deadline=None)
@given(graphs(), graphs(), graphs())
def test_compose_is_one_after_the_other(a: Graph, b: Graph, c: Graph) -> None:
    both = GraphDelta.between(a, b).compose(GraphDelta.between(b, c), on=a, opset=OPSET)
    assert content(both.apply(a, OPSET)) == content(c)


@settings(max_examples=30, deadline=None)
@given(graphs())
def test_a_graph_does_not_differ_from_itself(graph: Graph) -> None:
    delta = GraphDelta.between(graph, graph)
    assert delta.is_empty
    assert not any(delta.counts.values())


NET = """genmad graph 1

block Layer(x: float32[batch,seq,8])
  norm: float32[batch,seq,8] = LayerNorm(x) eps=1e-05 num_axes=1 affine=true bias=true\
 {weight=norm.weight, bias=norm.bias}
  up: float32[batch,seq,16] = Linear(norm) out_features=16 bias=false transposed=false {weight=up.weight}
  act: float32[batch,seq,16] = Relu(up)
  down: float32[batch,seq,8] = Linear(act) out_features=8 bias=false transposed=false {weight=down.weight}
  add: float32[batch,seq,8] = Add(x, down)
  return add

main net(x: float32[batch,seq,8])
  h.0: float32[batch,seq,8] = @Layer(x)
  h.1: float32[batch,seq,8] = @Layer(h.0)
  end: float32[batch,seq,8] = Relu(h.1)
  return end
"""


@pytest.fixture
def net() -> Graph:
    return from_text(NET, OPSET)


def edited_last_layer() -> Graph:
    """Copy on write: the second call gets a definition of its own, in which Relu is Tanh and `up` is wider."""
    layer = NET[NET.index("block Layer") : NET.index("main")]
    copy = layer.replace("block Layer", "block Layer_1").replace("= Relu(", "= Tanh(").replace("16", "32")
    return from_text(NET.replace("main", f"{copy}main").replace("@Layer(h.0)", "@Layer_1(h.0)"), OPSET)


def test_an_edit_of_one_layer_is_a_changed_copy_of_its_block(net: Graph) -> None:
    after = edited_last_layer()
    delta = GraphDelta.between(net, after)
    copy = next(d for d in delta.blocks if d.block == "Layer_1")
    assert (copy.kind, copy.base) == ("added", "Layer")
    assert [(old.name, old.op, new.op) for old, new in copy.changed] == [
        ("up", "Linear", "Linear"),
        ("act", "Relu", "Tanh"),
    ]
    assert delta.counts == {
        "removed": 0, "added": 0, "changed": 3, "rewired": 0, "blocks_added": 1, "blocks_dropped": 0,
    }  # fmt: skip
    assert delta.touched(net, after) == ("h.1", "h.1.up", "h.1.act")
    assert delta.apply(net, OPSET).block_map["Layer_1"].types["act"] == after.block_map["Layer_1"].types["act"]


def test_an_edit_of_the_shared_definition_touches_every_layer(net: Graph) -> None:
    after = from_text(NET.replace("Relu(up)", "Tanh(up)"), OPSET)
    delta = GraphDelta.between(net, after)
    assert [(d.block, d.kind) for d in delta.blocks] == [("Layer", "changed")]
    assert delta.touched(net, after) == ("h.0.act", "h.1.act")


def test_widths_downstream_are_not_part_of_a_delta(net: Graph) -> None:
    """One changed node, though three types change: `act` and `down`'s weight follow from `up`."""
    after = from_text(NET.replace("16", "32"), OPSET)
    delta = GraphDelta.between(net, after)
    assert [node.name for _, node in delta.added] == ["up"]
    assert content(delta.apply(net, OPSET)) == content(after)


def test_rewired_outputs_and_variadic_slots_are_exact(net: Graph) -> None:
    before = from_text(_concat("x, x, r"), OPSET)
    after = from_text(_concat("r, x").replace("return", "return r,"), OPSET)
    delta = GraphDelta.between(before, after)
    assert set(delta.blocks[0].rewired) == {
        Rewiring("cat", 0, "x", "r"),
        Rewiring("cat", 2, "r", None),
        Rewiring("", 0, "cat", "r"),
        Rewiring("", 1, None, "cat"),
    }
    assert content(delta.apply(before, OPSET)) == content(after)
    assert content(delta.inverse().apply(after, OPSET)) == content(before)
    with pytest.raises(GraphError, match="main block"):
        delta.apply(
            net.__class__(main=net.main.__class__(name="y", inputs=net.main.inputs, nodes=(), outputs=("x",))), OPSET
        )


def _concat(inputs: str) -> str:
    count = inputs.count(",") + 1
    return (
        "genmad graph 1\n\nmain net(x: float32[2,4])\n  r: float32[2,4] = Relu(x)\n"
        f"  cat: float32[2,{4 * count}] = Concat({inputs}) axis=-1\n  return cat\n"
    )


def test_a_changed_model_input_is_part_of_the_delta(net: Graph) -> None:
    after = from_text(NET.replace("seq", "time"), OPSET)
    delta = GraphDelta.between(net, after)
    assert [(d.block, d.inputs is not None) for d in delta.blocks] == [("net", True)]
    assert content(delta.apply(net, OPSET)) == content(after)


def test_every_place_where_a_delta_does_not_fit_is_named(net: Graph) -> None:
    delta = GraphDelta.between(
        net, from_text(NET.replace("16", "32").replace("Add(x, down)", "Add(down, down)"), OPSET)
    )
    other = from_text(NET.replace("16", "24").replace("Add(x, down)", "Add(x, norm)"), OPSET)
    with pytest.raises(GraphError) as caught:
        delta.apply(other, OPSET)
    assert 'node "up" in block "Layer": got Linear with other attributes' in str(caught.value)
    assert 'node "add" in block "Layer"' not in str(caught.value)
    missing = from_text(NET.replace("act:", "act2:").replace("(act)", "(act2)"), OPSET)
    gone = GraphDelta.between(net, from_text(NET.replace("Relu(up)", "Tanh(up)"), OPSET))
    with pytest.raises(GraphError, match='node "act" in block "Layer": got no such node'):
        gone.apply(missing, OPSET)


def test_a_recipe_replays_on_a_wider_model(net: Graph) -> None:
    delta = GraphDelta.between(net, from_text(NET.replace("Relu(up)", "Tanh(up)"), OPSET))
    wide = from_text(NET.replace("8", "12").replace("16", "24"), OPSET)
    assert "Tanh(up)" in to_text(delta.apply(wide, OPSET))


def test_a_delta_that_makes_a_cycle_or_a_wrong_type_names_the_node(net: Graph) -> None:
    def rewired(slot: int, old: str, new: str) -> GraphDelta:
        changed = BlockDelta(block="Layer", rewired=(Rewiring("add", slot, old, new),))
        return GraphDelta(blocks=(changed,), main=("net", "net"))

    with pytest.raises(GraphError, match='Add "add" in block "Layer"'):
        rewired(0, "x", "act").apply(net, OPSET)
    with pytest.raises(GraphError, match="'nowhere', which does not exist"):
        rewired(0, "x", "nowhere").apply(net, OPSET)
    cycle = BlockDelta(block="Layer", rewired=(Rewiring("up", 0, "norm", "down"),))
    with pytest.raises(GraphError, match=r"a cycle: (up -> act -> down -> up|act -> down -> up -> act|down -> up)"):
        GraphDelta(blocks=(cycle,), main=("net", "net")).apply(net, OPSET)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "delta: got a JSON list"),
        ({"version": 9, "main": ["a", "a"], "blocks": []}, "delta.version: got 9"),
        ({"version": 1, "main": ["a"], "blocks": []}, "delta.main: got 1 names"),
        ({"version": 1, "main": ["a", "a"], "blocks": [{"block": "b"}]}, "no kind, removed, added, rewired"),
        (
            {
                "version": 1,
                "main": ["a", "a"],
                "blocks": [{"block": "b", "kind": "bent", "removed": [], "added": [], "rewired": []}],
            },
            "got kind 'bent'",
        ),
        (
            {
                "version": 1,
                "main": ["a", "a"],
                "blocks": [
                    {"block": "b", "kind": "changed", "removed": [], "added": [], "rewired": [["n", -1, "a", "b"]]}
                ],
            },
            "expected [consumer, slot, old, new]",
        ),
    ],
)
def test_broken_json_is_refused_with_its_place(data: Any, message: str) -> None:
    with pytest.raises(GraphError) as caught:
        GraphDelta.from_json(data)
    assert message in str(caught.value)


@pytest.mark.parametrize(("was", "now"), [("0.0", "-0.0"), ("1.0", "1"), ("1", "true")])
def test_attributes_that_python_calls_equal_still_differ(was: str, now: str) -> None:
    """1 == True == 1.0 and 0.0 == -0.0 in Python; read without an op set, which would make them one type."""
    text = "genmad graph 1\n\nmain net(x: float32[2])\n  n: float32[2] = MulScalar(x) value={}\n  return n\n"
    delta = GraphDelta.between(from_text(text.format(was)), from_text(text.format(now)))
    assert delta.counts["changed"] == 1


def test_unused_blocks_do_not_break_a_delta(net: Graph) -> None:
    extra = Block(name="spare", inputs=net.main.inputs, nodes=(), outputs=("x",))
    spare = Graph(main=net.main, blocks=(*net.blocks, extra))
    delta = GraphDelta.between(spare, net)
    assert [(d.block, d.kind) for d in delta.blocks] == [("spare", "dropped")]
    assert content(delta.apply(spare, OPSET)) == content(net)
