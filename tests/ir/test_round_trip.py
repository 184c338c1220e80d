"""Text and JSON are lossless, and reading refuses what is broken with a message that says where."""

import copy
import json
import math
from typing import Any

import pytest
from hypothesis import given, settings

from genmad.ir import (
    Block,
    Graph,
    GraphBuilder,
    GraphError,
    Node,
    SymDim,
    TensorType,
    Value,
    evaluate_dim,
    from_json,
    from_text,
    to_json,
    to_text,
)
from genmad.ops import OPSET
from tests.strategies import graphs

FLOAT = TensorType.parse("float32[batch,8]")


@pytest.fixture
def net() -> Graph:
    builder = GraphBuilder(OPSET)
    main = builder.block("net", x="float32[batch,8]")
    main.finish(main.add("Relu", main.add("Linear", "x", name="mlp.fc", out_features=4, scope="mlp"), name="act"))
    return builder.build(builder.blocks["net"])


def odd_graph() -> Graph:
    """Every kind of attribute, absent inputs, odd words; not of any op set."""
    attrs = (
        ("b", True),
        ("i", 1),
        ("f", 1.0),
        ("tiny", 5e-324),
        ("inf", math.inf),
        ("ninf", -math.inf),
        ("none", None),
        ("text", 'a "quoted"\nline, true'),
        ("word", "true"),
        ("dim", 2 * SymDim.symbol("seq") * SymDim.symbol("batch") - 1),
        ("minus", -1 * SymDim.symbol("seq")),
        ("half", (SymDim.symbol("seq") + 1) // 2),
        ("empty", ()),
        ("mixed", (0, -1, SymDim.symbol("seq"), 1.5, "x", None)),
        ("in", 3),
    )
    node = Node(name="a.b-c", op="Odd", inputs=("x", "", "x"), types=(FLOAT, FLOAT), attrs=attrs, scope="1.weird path")
    call = Node(name="h.0", op="@inner block", inputs=("a.b-c:1",), types=(FLOAT,), scope="", params=())
    last = Node(name="c", op="Odd", inputs=("h.0",), types=(FLOAT,), scope="", params=(("weight", "0.weight"),))
    inner = Block(name="inner block", inputs=(Value("y", FLOAT),), nodes=(), outputs=("y",))
    main = Block(name="odd", inputs=(Value("x", FLOAT),), nodes=(node, call, last), outputs=("c", "a.b-c:0", "x"))
    return Graph(main=main, blocks=(inner,))


@settings(max_examples=60, deadline=None)
@given(graphs())
def test_json_and_text_give_back_the_graph(graph: Graph) -> None:
    assert repr(from_json(json.loads(json.dumps(to_json(graph), allow_nan=False)), OPSET)) == repr(graph)
    assert repr(from_text(to_text(graph), OPSET)) == repr(graph), to_text(graph)


def test_every_kind_of_attribute_and_odd_names_survive() -> None:
    """Compared by repr, because 1 == True == 1.0; guards dims read back as strings and strings as keywords."""
    graph = odd_graph()
    assert repr(from_json(json.loads(json.dumps(to_json(graph), allow_nan=False)))) == repr(graph)
    assert repr(from_text(to_text(graph))) == repr(graph), to_text(graph)


def test_dimensions_after_many_strided_layers_survive() -> None:
    """A wav2vec2 front end halves its length seven times; three nested divisions used to be written but not read."""
    dim = SymDim.symbol("time")
    for _ in range(12):
        dim = (dim - 3) // 2
    kind = TensorType(FLOAT.dtype, (dim, 8))
    node = Node(name="n", op="Relu", inputs=("x",), types=(kind,), attrs=(("size", dim),))
    graph = Graph(main=Block(name="deep", inputs=(Value("x", kind),), nodes=(node,), outputs=("n",)))
    assert from_json(json.loads(json.dumps(to_json(graph)))) == graph
    assert from_text(to_text(graph)) == graph
    assert evaluate_dim(dim, {"time": 100_000}) == 21


def test_text_is_what_people_expect_to_read(net: Graph) -> None:
    assert to_text(net) == (
        "genmad graph 1\n\n"
        "main net(x: float32[batch,8])\n"
        "  mlp.fc: float32[batch,4] = Linear(x) out_features=4 bias=true transposed=false"
        " {weight=mlp.fc.weight, bias=mlp.fc.bias}\n"
        "  act: float32[batch,4] = Relu(mlp.fc)\n"
        "  return act\n"
    )


def test_comments_and_blank_lines_are_skipped(net: Graph) -> None:
    text = "# by hand\n" + to_text(net).replace("  act", "\n  # the activation\n  act").replace("\n", "\r\n")
    assert from_text(text, OPSET) == net


@pytest.mark.parametrize(
    ("old", "new", "line", "under", "expected"),
    [
        ("= Relu(", "= Relu[", 5, "[mlp.fc)", "'('"),
        ("float32[batch,4] = Relu", "float33[batch,4] = Relu", 5, "float33", "a type such as"),
        ("out_features=4", "out_features=?", 4, "? bias", "a number, a quoted string"),
        ("bias=true ", "bias ", 4, "transposed", "= and the value of bias"),
        ("  return act\n", "", 5, "", "a return line for main net"),
        ("return act", "return", 6, "", "a value"),
        ("genmad graph 1", "genmad graph 2", 1, "genmad graph 2", 'the first line "genmad graph 1"'),
        ("main net(x: float32[batch,8])", "main net(x: float32[batch,8]", 3, "", "','"),
        ("(mlp.fc)", "(mlp.fc) {weight=1}", 5, "1}", "a parameter's name"),
        ("main net", "block net", 6, "", "one main block"),
    ],
)
def test_text_errors_give_line_and_caret(net: Graph, old: str, new: str, line: int, under: str, expected: str) -> None:
    """The caret must stand under the very character that is wrong."""
    text = to_text(net)
    assert old in text
    with pytest.raises(GraphError) as caught:
        from_text(text.replace(old, new))
    message = str(caught.value)
    assert message.startswith(f"line {line}, column ")
    assert expected in message
    *_, shown, caret = message.splitlines()
    assert shown[caret.index("^") :].startswith(under)
    assert under or caret.index("^") == len(shown)


def test_a_wrongly_typed_graph_is_refused_by_name(net: Graph) -> None:
    """Both nodes that disagree with their shape rule are named, not only the first."""
    text = to_text(net).replace("mlp.fc: float32[batch,4]", "mlp.fc: float32[batch,5]")
    with pytest.raises(GraphError) as caught:
        from_text(text, OPSET)
    assert 'Linear "mlp.fc": got output types (float32[batch,5],)' in str(caught.value)
    assert 'Relu "act"' in str(caught.value)
    assert from_text(text).main.types["mlp.fc"] == TensorType.parse("float32[batch,5]")


def test_a_cycle_is_refused_by_name(net: Graph) -> None:
    with pytest.raises(GraphError, match=r"mlp\.fc.*'act', which is defined later \(a cycle\)"):
        from_text(to_text(net).replace("Linear(x)", "Linear(act)"))


def _edit(data: Any, path: tuple[Any, ...], value: Any) -> Any:
    data = copy.deepcopy(data)
    at = data
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    return data


NODE = ("blocks", 0, "nodes", 0)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("version",), 2, "version 2; expected 'genmad.graph', version 1"),
        (("surprise",), 1, "graph: got unknown keys 'surprise'"),
        (("main",), "other", "graph.main: got 'other'"),
        (("blocks",), {}, "graph.blocks: got a JSON object"),
        ((*NODE, "colour"), "red", "nodes[0]: got unknown keys 'colour'"),
        ((*NODE, "op"), 3, 'nodes[0] "mlp.fc".op: got 3; expected a string'),
        ((*NODE, "types"), ["float32[3,"], 'nodes[0] "mlp.fc".types[0]'),
        ((*NODE, "types"), [], "no output; expected at least one"),
        ((*NODE, "inputs"), ["nowhere"], "'nowhere', which does not exist"),
        ((*NODE, "name"), "a b", "malformed"),
        ((*NODE, "name"), "x" * 5000, "5000 characters"),
        ((*NODE, "attrs", "out_features"), {"dim": "2*"}, "mlp.fc\".attrs.out_features: got '2*'"),
        ((*NODE, "attrs", "out_features"), [[1]], "attrs.out_features: got a JSON list"),
        ((*NODE, "attrs", "out_features"), float("nan"), "attrs.out_features: got nan"),
        ((*NODE, "attrs", "out_features"), list(range(70_000)), "70000 items"),
        ((*NODE, "attrs"), [], "attrs: got a JSON list"),
    ],
)
def test_hostile_json_is_refused_with_its_place(net: Graph, path: tuple[Any, ...], value: Any, message: str) -> None:
    with pytest.raises(GraphError) as caught:
        from_json(_edit(to_json(net), path, value))
    assert message in str(caught.value)


@pytest.mark.parametrize("data", [None, 3, [], {}, "x", {"format": "genmad.graph"}, {1: 2}])
def test_json_that_is_no_graph_is_refused(data: Any) -> None:
    with pytest.raises(GraphError, match="graph"):
        from_json(data)


def bomb(depth: int, calls: int) -> dict[str, Any]:
    """Blocks that each call the one before several times: exponentially many nodes from a small file."""
    kind = "float32[1]"
    blocks: list[Any] = [
        {"name": "b0", "inputs": [["x", kind]], "outputs": ["n"], "nodes": [_relu("n", "Relu", "x", kind)]}
    ]
    for i in range(1, depth):
        nodes = [_relu(f"c{k}", f"@b{i - 1}", f"c{k - 1}" if k else "x", kind) for k in range(calls)]
        blocks.append({"name": f"b{i}", "inputs": [["x", kind]], "outputs": [f"c{calls - 1}"], "nodes": nodes})
    return {"format": "genmad.graph", "version": 1, "main": f"b{depth - 1}", "blocks": blocks}


def _relu(name: str, op: str, value: str, kind: str) -> dict[str, Any]:
    return {"name": name, "op": op, "inputs": [value], "types": [kind]}


def test_a_bomb_of_nested_calls_is_refused_at_once() -> None:
    with pytest.raises(GraphError, match=r"nodes once every call is expanded|once expanded"):
        from_json(bomb(40, 10))
    with pytest.raises(GraphError, match="calls nested 99 deep"):
        from_json(bomb(100, 1))
