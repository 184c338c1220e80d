"""Flattening and folding lose nothing, and folding follows module paths."""

import pytest
from hypothesis import given, settings

from genmad.ir import (
    Graph,
    GraphBuilder,
    GraphError,
    canonical_hash,
    flatten,
    fold,
    from_text,
    num_running_nodes,
    parameter_names,
    places,
    same_structure,
    to_text,
    type_problems,
)
from genmad.ops import OPSET
from tests.ir.test_canonical import layers
from tests.strategies import graphs


@settings(max_examples=60, deadline=None)
@given(graphs())
def test_folding_a_flat_graph_and_flattening_it_again_changes_nothing(graph: Graph) -> None:
    flat = flatten(graph)
    folded = fold(flat)
    assert same_structure(flatten(folded), flat)
    assert {n.name for n in flatten(folded).main.nodes} == {n.name for n in flat.main.nodes}
    assert same_structure(fold(flatten(folded)), folded)
    assert not list(type_problems(folded, OPSET))


@settings(max_examples=60, deadline=None)
@given(graphs())
def test_flattening_keeps_every_place_and_parameter(graph: Graph) -> None:
    flat = flatten(graph)
    assert not flat.blocks
    assert len(flat.main.nodes) == num_running_nodes(graph)
    assert parameter_names(flat) == parameter_names(graph)
    assert [n.name for n in flat.main.nodes] == [p.path for p in places(graph) if not p.node.is_call]
    assert not list(type_problems(flat, OPSET))


NESTED = """genmad graph 1

block Layer(x: float32[batch,8])
  fc: float32[batch,8] = Linear(x) out_features=8 bias=false transposed=false {weight=fc.weight}
  relu: float32[batch,8] = Relu(fc)
  return relu

block Stage(x: float32[batch,8])
  norm: float32[batch,8] = LayerNorm(x) eps=1e-05 num_axes=1 affine=true bias=true {weight=norm.weight, bias=norm.bias}
  layers.0: float32[batch,8] = @Layer(norm)
  layers.1: float32[batch,8] = @Layer(layers.0)
  return layers.1

block Stage_1(x: float32[batch,8])
  layers.0: float32[batch,8] = @Layer(x)
  tanh: float32[batch,8] = Tanh(layers.0)
  return tanh

main net(x: float32[batch,8])
  stages.0: float32[batch,8] = @Stage(x) in enc.stages.0
  stages.1: float32[batch,8] = @Stage_1(stages.0) in enc.stages.1
  return stages.1
"""


def test_nested_blocks_come_back_and_leaves_are_shared() -> None:
    graph = from_text(NESTED, OPSET)
    names = {"stages": "Stage", "layers": "Layer"}
    folded = fold(flatten(graph), block_name=lambda path: names[path.split(".")[-2]])
    assert same_structure(folded, graph)
    assert [b.name for b in folded.all_blocks] == ["Layer", "Stage", "Stage_1", "net"]
    assert parameter_names(folded) == parameter_names(graph)


def test_a_block_with_calls_is_never_shared() -> None:
    """A call in a shared block would stand for two places, and an edit of one layer would change two."""
    text = NESTED.replace("@Stage_1", "@Stage")
    text = text[: text.index("block Stage_1")] + text[text.index("main") :]
    folded = fold(flatten(from_text(text, OPSET)))
    called = [n.callee for b in folded.all_blocks for n in b.nodes if n.is_call]
    assert sum(called.count(b.name) == 1 for b in folded.blocks) == 2
    assert called.count("layers") == 4


def test_calls_that_share_parameters_come_back_as_such() -> None:
    """ALBERT: one layer's parameters, three calls."""
    graph = layers(3, shared_scope=True)
    flat = flatten(graph)
    assert [n.name for n in flat.main.nodes][::2] == ["h.0.fc", "h.0_1.fc", "h.0_2.fc"]
    assert parameter_names(flat) == ("h.0.fc.weight", "h.0.fc.bias")
    assert canonical_hash(fold(flat)) == canonical_hash(graph)


def _flat(*lines: str) -> Graph:
    body = "\n".join(f"  {line}" for line in lines)
    text = f"genmad graph 1\n\nmain net(x: float32[batch,8])\n{body}\n  return end\n"
    return from_text(text.replace("T ", "float32[batch,8] "), OPSET)


def test_paths_that_cannot_run_in_one_go_stay_unfolded() -> None:
    """Contracting `a.0` would make a cycle through `mid`; `b.0` is fine and is folded."""
    graph = _flat(
        "a.0.r: T = Relu(x)",
        "mid: T = Tanh(a.0.r)",
        "a.0.s: T = Relu(mid)",
        "b.0.r: T = Relu(a.0.s)",
        "b.0.s: T = Tanh(b.0.r)",
        "end: T = Relu(b.0.s)",
    )
    folded = fold(graph)
    assert [b.name for b in folded.blocks] == ["b"]
    assert same_structure(flatten(folded), graph)


def test_two_paths_that_wait_for_each_other_stay_unfolded() -> None:
    """Each alone could be contracted, both together could not: guards a test of convexity one group at a time."""
    graph = _flat(
        "a.0.p: T = Relu(x)",
        "b.0.p: T = Relu(x)",
        "b.0.q: T = Tanh(a.0.p)",
        "a.0.q: T = Tanh(b.0.p)",
        "s: T = Add(a.0.q, b.0.q)",
        "end: T = Relu(s)",
    )
    folded = fold(graph)
    assert len(folded.blocks) <= 1
    assert same_structure(flatten(folded), graph)


def test_parameters_from_elsewhere_keep_a_path_unfolded() -> None:
    builder = GraphBuilder(OPSET)
    main = builder.block("net", x="float32[batch,8]")
    value = "x"
    for i in range(2):
        names = {"weight": "shared.weight"}
        value = main.add("Linear", value, name=f"h.{i}.fc", out_features=8, bias=False, params=names)
        value = main.add("Relu", value, name=f"h.{i}.act")
    graph = builder.build(main.finish(value))
    assert not fold(graph).blocks


def test_a_graph_too_large_to_run_is_not_flattened() -> None:
    builder = GraphBuilder(OPSET)
    block = builder.block("b0", x="float32[1]")
    block.finish(block.add("Relu", "x"))
    for i in range(1, 30):
        block = builder.block(f"b{i}", x="float32[1]")
        block.finish(block.add(f"@b{i - 1}", block.add(f"@b{i - 1}", "x", name="c0"), name="c1"))
    graph = builder.build(builder.blocks["b29"])
    for function in (flatten, fold, canonical_hash):
        with pytest.raises(GraphError, match="536870912 nodes"):
            function(graph)
    assert "main b29" in to_text(graph)
