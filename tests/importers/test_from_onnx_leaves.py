"""Operators without a layer-level op: kept as leaves that compute the same and are written back as they were."""

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from genmad.evals.onnx_files import run_model
from genmad.importers import from_onnx as importer
from genmad.importers.from_onnx import from_onnx
from genmad.importers.report import SourceError, UnsupportedError
from genmad.ir.canonical import check_same_structure
from genmad.ir.graph import Graph
from genmad.lowering.errors import LoweringError
from genmad.lowering.to_onnx import to_onnx
from genmad.lowering.to_torch import to_torch
from genmad.ops import OPSET
from genmad.ops.onnx_call import MAX_TEXT, encode_attribute

RNG = np.random.default_rng(0)
X = RNG.standard_normal((3, 4)).astype(np.float32)


def info(name: str, shape: list[int | str] | None = None, kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def constant(name: str, value: object, dtype: str = "int64") -> onnx.TensorProto:
    return numpy_helper.from_array(np.asarray(value, dtype), name)


def model(
    nodes: list[onnx.NodeProto], *stored: onnx.TensorProto, opset: int = 18, out: int = TensorProto.FLOAT
) -> bytes:
    graph = helper.make_graph(nodes, "g", [info("x", ["N", 4])], [info("y", None, out)], initializer=list(stored))
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=10).SerializeToString()


def branch(name: str, *nodes: onnx.NodeProto, stored: tuple[onnx.TensorProto, ...] = ()) -> onnx.GraphProto:
    return helper.make_graph(list(nodes), name, [], [info(f"{name}_y")], initializer=list(stored))


def choice() -> bytes:
    """y = x + w where the sum is positive, else -h; both branches read values from outside."""
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["s"], keepdims=0),
        helper.make_node("Greater", ["s", "zero"], ["c"]),
        helper.make_node("Relu", ["x"], ["h"]),
        helper.make_node(
            "If",
            ["c"],
            ["y"],
            then_branch=branch("t", helper.make_node("Add", ["x", "w"], ["t_y"])),
            else_branch=branch("e", helper.make_node("Neg", ["h"], ["e_y"])),
        ),
    ]
    return model(nodes, constant("zero", 0.0, "float32"), constant("w", [1, 2, 3, 4], "float32"))


def loop() -> bytes:
    """y = x doubled three times, by a Loop that carries it."""
    body = helper.make_graph(
        [helper.make_node("Add", ["v", "v"], ["v_out"]), helper.make_node("Identity", ["go"], ["go_out"])],
        "body",
        [info("i", [], TensorProto.INT64), info("go", [], TensorProto.BOOL), info("v", ["N", 4])],
        [info("go_out", [], TensorProto.BOOL), info("v_out", ["N", 4])],
    )
    nodes = [helper.make_node("Loop", ["trips", "", "x"], ["y"], body=body)]
    return model(nodes, constant("trips", 3))


def scan() -> bytes:
    """Running sums over rows."""
    body = helper.make_graph(
        [helper.make_node("Add", ["s", "row"], ["s_out"]), helper.make_node("Identity", ["s_out"], ["each"])],
        "body",
        [info("s", [4]), info("row", [4])],
        [info("s_out", [4]), info("each", [4])],
    )
    nodes = [helper.make_node("Scan", ["start", "x"], ["last", "y"], body=body, num_scan_inputs=1)]
    return model(nodes, constant("start", [0, 0, 0, 0], "float32"))


def top_k() -> bytes:
    nodes = [helper.make_node("TopK", ["x", "k"], ["values", "y"], axis=-1)]
    return model(nodes, constant("k", [2]), out=TensorProto.INT64)


def sequences() -> bytes:
    """Rows split into a sequence, each mapped, one of them taken: only tensors leave the region."""
    body = helper.make_graph([helper.make_node("Abs", ["a"], ["b"])], "body", [info("a")], [info("b")])
    nodes = [
        helper.make_node("SplitToSequence", ["x", "one"], ["rows"], axis=1),
        helper.make_node("SequenceMap", ["rows"], ["mapped"], body=body),
        helper.make_node("SequenceAt", ["mapped", "two"], ["y"]),
    ]
    return model(nodes, constant("one", 1), constant("two", 2))


def quantised() -> bytes:
    """Through eight bits and back, and through a four-bit weight."""
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["d"]),
        helper.make_node("DequantizeLinear", ["w4", "scale"], ["w"]),
        helper.make_node("MatMul", ["d", "w"], ["y"]),
    ]
    four_bits = helper.make_tensor("w4", TensorProto.INT4, [4, 2], [1, -2, 3, -4, 5, -6, 7, 0])
    stored = constant("scale", 0.1, "float32"), constant("zero", 3, "uint8"), four_bits
    return model(nodes, *stored, opset=21)


def places_of_nonzero() -> bytes:
    """The number of results depends on the data, and a shape is computed from it."""
    nodes = [
        helper.make_node("NonZero", ["x"], ["where"]),
        helper.make_node("Shape", ["where"], ["shape"]),
        helper.make_node("Gather", ["shape", "one"], ["count"]),
        helper.make_node("Concat", ["count", "two"], ["wanted"], axis=0),
        helper.make_node("Reshape", ["where", "wanted"], ["y"]),
    ]
    return model(nodes, constant("one", [1]), constant("two", [2]), out=TensorProto.INT64)


CASES = {
    "if": (choice, {"If"}),
    "loop": (loop, {"Loop"}),
    "scan": (scan, {"Scan"}),
    "top_k": (top_k, {"TopK"}),
    "sequences": (sequences, {"Region"}),
    "quantised": (quantised, {"QuantizeLinear", "DequantizeLinear", "Region"}),
    "nonzero": (places_of_nonzero, {"NonZero"}),
}


def leaves(graph: Graph) -> set[str]:
    return {str(n.attr_map["op_type"]) for n in graph.main.nodes if n.op == "OnnxCall"}


@pytest.mark.parametrize("name", CASES)
def test_a_leaf_computes_the_same_and_comes_back_as_it_was(name: str) -> None:
    """Leaves that lost a branch, an attribute or a captured value would change what the user's model computes."""
    data, kept = CASES[name][0](), CASES[name][1]
    graph, weights, report = from_onnx(data)
    assert leaves(graph) == kept == set(report.primitive)
    written = to_onnx(graph, weights=weights)
    for x in (X, -X, np.abs(X[:2])):
        expected, got = run_model(data, {"x": x}), run_model(written.SerializeToString(), {"x": x})
        assert expected is not None
        assert got is not None
        for a, b in zip(got, expected, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-6)
    again, _, _ = from_onnx(written.SerializeToString())
    check_same_structure(graph, again)


def test_weights_that_a_branch_reads_are_parameters() -> None:
    graph, weights, _ = from_onnx(choice())
    assert set(weights) == {"w"}
    assert [n.op for n in graph.main.nodes if n.params] == ["Parameter"]


def test_operators_of_new_opsets_raise_the_opset_that_is_written() -> None:
    nodes = [helper.make_node("RMSNormalization", ["x", "w"], ["h"], axis=0), helper.make_node("Abs", ["h"], ["y"])]
    graph, weights, _ = from_onnx(model(nodes, constant("w", np.ones((3, 4)), "float32"), opset=24))
    written = to_onnx(graph, weights=weights)
    assert leaves(graph) == {"RMSNormalization"}
    assert [item.version for item in written.opset_import] == [23]
    onnx.checker.check_model(written)


def test_operators_that_exclude_each_other_are_refused() -> None:
    """One model has one opset; an operator in its old meaning must not be written under a new one."""
    builder = importer.GraphBuilder(OPSET)
    main = builder.block("main", x="float32[4,8]")
    first = main.add("OnnxCall", "x", op_type="BitwiseNot", version=18, types="float32[4,8]", name="a")
    last = main.add("OnnxCall", first, op_type="GroupNormalization", version=18, types="float32[4,8]", name="old")
    new = main.add("OnnxCall", last, op_type="RMSNormalization", version=23, types="float32[4,8]", name="new")
    with pytest.raises(LoweringError, match=r'node "old": GroupNormalization as of opset 18; opset 23'):
        to_onnx(builder.build(main.finish(new)))


@pytest.mark.parametrize(
    ("nodes", "stored", "opset"),
    [
        ([helper.make_node("Softmax", ["x4"], ["y"])], (), 9),
        ([helper.make_node("TopK", ["x"], ["y", "i"], k=2)], (), 9),
        ([helper.make_node("Upsample", ["x4", "scales"], ["y"])], (constant("scales", [1, 1, 2, 2], "float32"),), 9),
        ([helper.make_node("Hardmax", ["x"], ["y"])], (), 11),
        ([helper.make_node("Squeeze", ["x4"], ["y"], axes=[1])], (), 11),
        ([helper.make_node("Dropout", ["x"], ["y"], ratio=0.5)], (), 10),
    ],
    ids=["softmax", "top_k", "upsample", "hardmax", "squeeze", "dropout"],
)
def test_old_forms_of_operators_keep_their_meaning(
    nodes: list[onnx.NodeProto], stored: tuple[onnx.TensorProto, ...], opset: int
) -> None:
    """Softmax meant all axes from the second on before opset 13; attributes have since become inputs."""
    first = helper.make_node("Reshape", ["x", "shape"], ["x4"])
    data = model([first, *nodes], constant("shape", [-1, 1, 2, 2]), *stored, opset=opset)
    graph, weights, _ = from_onnx(data)
    expected = run_model(data, {"x": X})
    got = run_model(to_onnx(graph, weights=weights).SerializeToString(), {"x": X})
    assert expected is not None
    assert got is not None
    np.testing.assert_allclose(got[0], expected[0], atol=1e-6)


def test_pytorch_code_is_written_for_plain_leaves_and_refused_for_others() -> None:
    import torch

    nodes = [helper.make_node("Ceil", ["x"], ["c"]), helper.make_node("Xor", ["b", "b"], ["n"])]
    nodes.insert(1, helper.make_node("IsNaN", ["c"], ["b"]))
    nodes.append(helper.make_node("Where", ["n", "x", "c"], ["y"]))
    graph, _, _ = from_onnx(model(nodes))
    torch.testing.assert_close(to_torch(graph, {})(torch.from_numpy(X)), torch.from_numpy(X).ceil())
    other, weights, _ = from_onnx(choice())
    with pytest.raises(LoweringError, match="OnnxCall of If: PyTorch has no form of it; hand over ONNX instead"):
        to_torch(other, weights)


def test_a_subgraph_that_is_too_large_is_refused() -> None:
    big = numpy_helper.from_array(np.zeros(MAX_TEXT, np.int8), "big")
    steps = (helper.make_node("Cast", ["big"], ["f"], to=TensorProto.FLOAT), helper.make_node("Abs", ["f"], ["t_y"]))
    other = branch("e", helper.make_node("Neg", ["x"], ["e_y"]))
    true = helper.make_node("Constant", [], ["c"], value=constant("", True, "bool"))
    node = helper.make_node("If", ["c"], ["y"], then_branch=branch("t", *steps, stored=(big,)), else_branch=other)
    with pytest.raises(UnsupportedError, match=f"at most {MAX_TEXT} are kept"):
        from_onnx(model([true, node]))


def test_a_leaf_that_points_to_a_file_is_not_written() -> None:
    """A graph file from a stranger must not make the model that is written read the user's files."""
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="/etc/hostname")
    builder = importer.GraphBuilder(OPSET)
    main = builder.block("main")
    text = json.dumps({"value": encode_attribute(tensor)})
    made = main.add("OnnxCall", op_type="Constant", version=13, attributes=text, types="float32[4]", name="leaf")
    with pytest.raises(LoweringError, match="kept in another file"):
        to_onnx(builder.build(main.finish(made)))


def test_inputs_that_are_no_tensors_are_named() -> None:
    kinds = {
        "SequenceType": helper.make_tensor_sequence_value_info("x", TensorProto.FLOAT, None),
        "float8e4m3fn": info("x", [2], TensorProto.FLOAT8E4M3FN),
        "string": info("x", [2], TensorProto.STRING),
    }
    for word, value in kinds.items():
        graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [value], [value])
        graph.output[0].name = "y"
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=10)
        with pytest.raises(UnsupportedError, match=f'input "x" of ONNX bytes: .*{word}'):
            from_onnx(made.SerializeToString())


def test_reading_that_takes_too_long_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importer, "MAX_SECONDS", -1.0)
    with pytest.raises(SourceError, match="seconds of reading"):
        from_onnx(top_k())
