"""Each level refuses what it is there for, reports every problem of its level, and names the user's node."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings

from genmad.ir import Block, Diagnostic, Graph, GraphBuilder, GraphError, Node, from_text
from genmad.ops import OPSET
from genmad.validate import Budget, CheckResult, Level, ValidationReport, execute, validate
from tests.ir.test_canonical import layers
from tests.strategies import graphs

NET = """genmad graph 1

block Layer(x: float32[batch,8])
  fc: float32[batch,8] = Linear(x) out_features=8 bias=true transposed=false {weight=fc.weight, bias=fc.bias}
  act: float32[batch,8] = Tanh(fc)
  return act

main net(x: float32[batch,8])
  h.0: float32[batch,8] = @Layer(x)
  h.1: float32[batch,8] = @Layer(h.0)
  end: float32[batch,8] = Silu(h.1)
  return end
"""


@pytest.fixture
def net() -> Graph:
    return from_text(NET, OPSET)


def failed(report: ValidationReport) -> list[str]:
    return [check.name for check in report.checks if not check.passed]


def _has_infinite_factor(graph: Graph) -> bool:
    values = [v for b in graph.all_blocks for n in b.nodes if n.op == "MulScalar" for _, v in n.attrs]
    return any(abs(v) > 1e6 for v in values)


@settings(max_examples=10, deadline=None)
@given(graphs(max_nodes=5))
def test_what_the_builder_makes_reaches_the_last_level(graph: Graph) -> None:
    torch.set_num_threads(1)
    assume(not _has_infinite_factor(graph))
    report = validate(graph, OPSET)
    assert report.passed, "\n".join(map(str, report.diagnostics))
    assert report.level is Level.EXECUTABLE


@settings(max_examples=40, deadline=None)
@given(graphs())
def test_what_the_builder_makes_is_within_an_empty_budget(graph: Graph) -> None:
    assert validate(graph, OPSET, Level.WITHIN_BUDGET, budget=Budget()).level is Level.WITHIN_BUDGET


def test_every_dangling_thing_is_reported_with_its_place(net: Graph) -> None:
    layer = net.block_map["Layer"]
    extra = replace(layer.nodes[1], name="loose", inputs=("x",))
    layer = replace(layer, nodes=(*layer.nodes, extra, replace(extra, name="looser")))
    spare = replace(layer, name="spare")
    report = validate(Graph(main=net.main, blocks=(layer, spare)), OPSET)
    assert report.level is None
    assert failed(report) == ["nothing_dangles"]
    assert [d.where for d in report.diagnostics] == [
        'Tanh "h.0.loose" and 1 more place, in block "Layer"',
        'Tanh "h.0.looser" and 1 more place, in block "Layer"',
        'block "spare"',
    ]


def test_arity_and_reachability_are_both_reported(net: Graph) -> None:
    """A level goes on after its first failing check."""
    kind = net.main.inputs[0].type
    lonely = Node(name="one", op="Full", inputs=(), types=(kind,), attrs=())
    both = Node(name="two", op="Add", inputs=("x",), types=(kind,))
    absent = Node(name="three", op="Relu", inputs=("",), types=(kind,))
    main = Block(name="m", inputs=net.main.inputs, nodes=(lonely, both, absent), outputs=("one", "two", "three"))
    report = validate(Graph(main=main), OPSET)
    assert failed(report) == ["arity", "outputs_reachable"]
    text = "\n".join(map(str, report.diagnostics))
    assert 'Add "two": got 1 inputs; expected 2' in text
    assert 'Relu "three": got an absent input' in text
    assert 'output "one": got a value that depends on no input' in text
    assert 'output "three"' in text
    with pytest.raises(GraphError, match="depends on no input"):
        report.raise_if_failed()


def test_an_output_that_depends_on_no_input_is_found_through_calls() -> None:
    """The call reads x, but its second output does not: guards treating a call as one op."""
    text = """genmad graph 1

block Two(x: float32[2])
  relu: float32[2] = Relu(x)
  full: float32[2] = Full() shape=[2] value=1.0 dtype="float32"
  return relu, full

main net(x: float32[2])
  c: float32[2], float32[2] = @Two(x)
  return c:0, c:1
"""
    report = validate(from_text(text, OPSET), OPSET, Level.WELL_FORMED)
    assert [d.where for d in report.diagnostics] == ['output "c:1"']


def test_a_bomb_is_reported_and_not_expanded() -> None:
    builder = GraphBuilder(OPSET)
    block = builder.block("b0", x="float32[1]")
    block.finish(block.add("Relu", "x"))
    for i in range(1, 40):
        block = builder.block(f"b{i}", x="float32[1]")
        block.finish(block.add(f"@b{i - 1}", block.add(f"@b{i - 1}", "x", name="c0"), name="c1"))
    report = validate(builder.build(builder.blocks["b39"]), OPSET)
    assert failed(report) == ["acyclic"]
    assert "549755813888 nodes" in str(report.diagnostics[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"attrs": (("out_features", 9), ("bias", True), ("transposed", False))}, "got output types"),
        ({"attrs": (("out_features", 8),)}, "got attributes out_features; expected all of out_features, bias, transp"),
        (
            {"attrs": (("out_features", 0), ("bias", True), ("transposed", False))},
            "out_features=0; expected at least 1",
        ),
        ({"params": (("weight", "fc.weight"),)}, "got parameters weight; expected weight, bias"),
        ({"params": ()}, "got parameters none"),
    ],
)
def test_types_that_the_shape_rules_do_not_give_are_refused(net: Graph, change: dict[str, Any], message: str) -> None:
    """onnx's checks accept a Linear with the wrong width; level 2 does not, and names where it runs."""
    layer = net.block_map["Layer"]
    layer = replace(layer, nodes=(replace(layer.nodes[0], **change), layer.nodes[1]))
    report = validate(Graph(main=net.main, blocks=(layer,)), OPSET)
    assert report.level is Level.WELL_FORMED
    assert failed(report) == ["types"]
    assert report.diagnostics[0].where == 'Linear "h.0.fc" and 1 more place, in block "Layer"'
    assert message in str(report.diagnostics[0])


def test_an_unknown_op_is_refused(net: Graph) -> None:
    main = replace(net.main, nodes=(*net.main.nodes[:2], replace(net.main.nodes[2], op="Sliu")))
    report = validate(replace(net, main=main), OPSET)
    assert report.level is None
    assert "Sliu \"end\": got op 'Sliu'" in str(report.diagnostics[0])


def test_every_exceeded_bound_is_reported_with_the_largest_share(net: Graph) -> None:
    budget = Budget(
        max_params=100, max_macs=1, max_peak_activation_bytes=1, max_depth=4, max_nodes=4,
        allowed_ops=frozenset({"Linear", "Tanh"}),
    )  # fmt: skip
    report = validate(net, OPSET, budget=budget, sizes={"batch": 1})
    assert report.level is Level.TYPED
    assert [str(d) for d in report.diagnostics] == [
        'budget: got 144 parameters; expected at most 100; the largest share is Linear "h.0.fc" with 72',
        'budget: got 128 MACs; expected at most 1; the largest share is Linear "h.0.fc" with 64',
        "budget: got 128 bytes of activations at peak; expected at most 1; "
        'the largest share is Linear "h.0.fc" with 32',
        "budget: got 5 ops on the longest path; expected at most 4",
        "budget: got 5 ops; expected at most 4",
        'Silu "end": got an op outside the budget; expected one of Linear, Tanh',
    ]
    assert report.checks[-1].measured["num_params"] == 144


def test_a_bound_that_is_met_exactly_passes(net: Graph) -> None:
    budget = Budget(max_params=144, max_macs=128, max_depth=5, max_nodes=5)
    assert validate(net, OPSET, Level.WITHIN_BUDGET, budget=budget, sizes={"batch": 1}).passed


def test_a_runtime_that_disagrees_is_traced_to_the_users_node(net: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in ONNX Runtime that computes Relu for Tanh: the first Tanh is named by its path, not by its block."""

    def broken(graph: Graph, weights: Mapping[str, Any], inputs: Mapping[str, Any]) -> tuple[torch.Tensor, ...]:
        def wrong(block: Block) -> Block:
            nodes = tuple(replace(n, op="Relu") if n.op == "Tanh" else n for n in block.nodes)
            return replace(block, nodes=nodes)

        wrong_graph = Graph(main=wrong(graph.main), blocks=tuple(map(wrong, graph.blocks)))
        return execute.run_torch(wrong_graph, weights, inputs)

    monkeypatch.setattr(execute, "run_onnx", broken)
    report = validate(net, OPSET)
    assert report.level is Level.ONNX
    assert report.diagnostics[0].where == 'Tanh "h.0.act"'
    assert "differs by" in report.diagnostics[0].got
    assert report.checks[-1].measured["max_abs_diff"] > 0.01


def test_a_runtime_that_fails_is_traced_to_the_users_node(net: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(graph: Graph, weights: Mapping[str, Any], inputs: Mapping[str, Any]) -> tuple[torch.Tensor, ...]:
        if any(n.op == "Silu" for n in graph.main.nodes):
            raise RuntimeError("no kernel for Silu\nin /some/where.cc")
        return execute.run_torch(graph, weights, inputs)

    monkeypatch.setattr(execute, "run_onnx", failing)
    report = validate(net, OPSET)
    assert [str(d) for d in report.diagnostics] == [
        'Silu "end": got ONNX Runtime fails: RuntimeError: no kernel for Silu; '
        "expected torch and ONNX Runtime to run it and agree"
    ]


def test_outputs_that_are_not_numbers_in_one_runtime_only_do_not_agree() -> None:
    good, bad = torch.ones(3), torch.tensor([1.0, float("nan"), 1.0])
    assert execute._difference(good, bad)[0] == float("inf")
    assert execute._difference(bad, bad)[0] == 0.0
    assert execute._difference(good, good + 1e-3)[0] == pytest.approx(1e-3, rel=1e-3)
    assert execute._difference(good, torch.ones(2))[0] == float("inf")


def test_ids_stay_inside_every_table_they_reach() -> None:
    text = """genmad graph 1

block Embed(ids: int64[batch,seq])
  shifted: int64[batch,seq] = AddScalar(ids) value=2.0
  small: float32[batch,seq,4] = Embedding(shifted) num_embeddings=6 embedding_dim=4 {weight=small.weight}
  return small

main net(ids: int64[batch,seq], mask: int64[batch,seq])
  e: float32[batch,seq,4] = @Embed(ids)
  large: float32[batch,seq,4] = Embedding(ids) num_embeddings=100 embedding_dim=4 {weight=large.weight}
  sum: float32[batch,seq,4] = Add(e, large)
  kept: float32[batch,seq] = Cast(mask) dtype="float32"
  wide: float32[batch,seq,1] = Unsqueeze(kept) axes=[2]
  out: float32[batch,seq,4] = Mul(sum, wide)
  return out
"""
    graph = from_text(text, OPSET)
    inputs = execute.random_inputs(graph, {"batch": 2, "seq": 50}, seed=0)
    assert 0 <= int(inputs["ids"].min()) <= int(inputs["ids"].max()) <= 2
    assert bool((inputs["mask"] == 1).all())
    assert validate(graph, OPSET).passed


def test_the_same_seed_measures_the_same(net: Graph) -> None:
    first, second, other = (validate(net, OPSET, seed=s).checks[-1].measured for s in (1, 1, 2))
    assert first == second
    assert other.keys() == first.keys()


def test_no_weight_starts_at_zero_when_a_graph_is_run() -> None:
    """LoRA's B starts at zero in training; here a wrong adapter must not hide behind it."""
    builder = GraphBuilder(OPSET)
    main = builder.block("net", x="float32[batch,8]")
    graph = builder.build(main.finish(main.add("LoRALinear", "x", out_features=8, rank=2)))
    assert all(bool(w.abs().max() > 0) for w in execute.random_weights(graph, OPSET, 0).values())


def test_a_model_too_large_for_its_weights_runs_on_windows_of_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """A 7B model needs 28 GB of weights; windows of shared tensors need as much as the largest."""
    graph = layers(6)
    monkeypatch.setattr(execute, "MAX_SEPARATE_PARAMS", 100)
    weights = execute.random_weights(graph, OPSET, 0)
    assert len({w.untyped_storage().data_ptr() for w in weights.values()}) == 2
    assert [tuple(w.shape) for w in weights.values()] == [(8, 8), (8,)] * 6
    assert not torch.equal(weights["h.0.fc.weight"], weights["h.1.fc.weight"])
    assert validate(graph, OPSET).passed


def test_outputs_without_a_single_number_prove_nothing() -> None:
    graph = from_text(NET.replace("= Silu(h.1)", "= MulScalar(h.1) value=inf"), OPSET)
    report = validate(graph, OPSET)
    assert report.diagnostics[0].where == 'MulScalar "end"'
    assert "every value of output 'end' is infinite or not a number" in report.diagnostics[0].got


def test_tied_weights_are_one_tensor_in_both_runtimes() -> None:
    assert validate(layers(3, shared_scope=True), OPSET).passed


def test_a_report_is_plain_json(net: Graph) -> None:
    data = validate(net, OPSET, Level.TYPED).to_json()
    assert (data["level"], data["asked"], data["passed"]) == (2, 2, True)
    assert [c["name"] for c in data["checks"]] == [
        "acyclic", "arity", "outputs_reachable", "nothing_dangles", "types",
    ]  # fmt: skip
    problem = Diagnostic(where="a", got="b", expected="c")
    result = CheckResult(name="types", level=Level.TYPED, diagnostics=(problem,))
    report = ValidationReport(level=Level.WELL_FORMED, asked=Level.TYPED, checks=(result,))
    assert report.to_json()["checks"][0]["problems"] == ["a: got b; expected c"]
