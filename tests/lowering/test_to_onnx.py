"""Whole graphs in ONNX: nested functions, shared and tied weights, symbolic sizes, files, and names on failure."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from genmad.ir.build import GraphBuilder
from genmad.ir.graph import Graph, parameter_names
from genmad.lowering import onnx_check
from genmad.lowering.errors import LoweringError
from genmad.lowering.onnx_check import check_onnx
from genmad.lowering.onnx_files import save_onnx
from genmad.lowering.to_onnx import to_onnx, write_model
from genmad.ops import OPSET
from tests.graphs import bert_like, gpt2_like, llama_like, resnet_like, t5_like

FAMILIES = {
    "gpt2": gpt2_like(2),
    "llama": llama_like(2, alternate=True),
    "bert": bert_like(2),
    "t5": t5_like(1),
    "resnet": resnet_like(),
}


def random_weights(graph: Graph) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    _, params = write_model(graph)
    shapes = {name: tuple(int(str(d)) for d in type_.shape) for name, type_ in params.items()}
    return {name: (rng.random(shape) * 0.2 + 0.01).astype(np.float32) for name, shape in shapes.items()}


def inputs_of(graph: Graph, batch: int = 2, seq: int = 5) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    sizes = {"batch": batch, "seq": seq, "target": seq - 1}
    made = {}
    for value in graph.main.inputs:
        shape = [sizes.get(str(d)) or int(str(d)) for d in value.type.shape]
        ids = value.type.dtype.is_integer
        made[value.name] = rng.integers(0, 20, shape) if ids else rng.random(shape, dtype=np.float32)
    return made


def run(model: "onnx.ModelProto | Path", inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    return onnxruntime.InferenceSession(source, providers=["CPUExecutionProvider"]).run(None, inputs)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_passes_the_full_check_without_weights(name: str) -> None:
    graph = FAMILIES[name]
    assert check_onnx(graph) == []
    model = to_onnx(graph)
    assert [v.name for v in model.graph.input[: len(graph.main.inputs)]] == [v.name for v in graph.main.inputs]
    assert not model.graph.initializer


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_runs_at_sizes_it_was_not_written_for(name: str) -> None:
    graph = FAMILIES[name]
    model = to_onnx(graph, weights=random_weights(graph))
    assert sorted(t.name for t in model.graph.initializer) == sorted(parameter_names(graph))
    for batch, seq in ((1, 3), (3, 7)):
        for out, type_ in zip(run(model, inputs_of(graph, batch, seq)), graph.main.output_types, strict=True):
            assert out.shape[0] == batch
            assert out.ndim == type_.rank
            assert np.isfinite(out).all()


def test_a_block_is_written_once_however_often_it_is_called() -> None:
    """Level 4 is fast because a model of twelve equal layers holds one layer."""
    two, many = to_onnx(gpt2_like(2)), to_onnx(gpt2_like(12))
    assert len(two.functions) == len(many.functions)
    assert len(many.graph.node) == len(two.graph.node) + 10


def test_tied_weights_are_one_initializer() -> None:
    graph = FAMILIES["gpt2"]
    names = [t.name for t in to_onnx(graph, weights=random_weights(graph)).graph.initializer]
    assert "transformer.wte.weight" in names
    assert "lm_head.weight" not in names
    assert len(names) == len(set(names))


def sizes_from_outside() -> Graph:
    """A block that needs `batch`, which none of its inputs has, two calls deep; and a parameter named like its node."""
    builder = GraphBuilder(OPSET)
    inner = builder.block("Inner", x="float32[seq,4]")
    mask = inner.add("Full", name="mask", shape=(inner_dim("batch"), inner_dim("2*seq"), 4), value=2.0)
    both = inner.add("Concat", "x", "x", name="both", axis=0)
    inner.finish(inner.add("Add", mask, both, name="sum"))
    outer = builder.block("Outer", x="float32[seq,4]")
    outer.finish(outer.add("@Inner", "x", name="inner"))
    main = builder.block("main", ids="int64[batch,seq]")
    table = main.add("Parameter", name="table", shape=(7, 4), params={"value": "table"})
    rows = main.add("Gather", table, main.add("Select", "ids", name="row", axis=0, index=0), name="rows", axis=0)
    return builder.build(main.finish((main.add("@Outer", rows, name="outer"), table)))


def inner_dim(text: str) -> object:
    from genmad.ir.types import parse_dim

    return parse_dim(text)


def test_sizes_that_a_block_cannot_measure_are_passed_down() -> None:
    graph = sizes_from_outside()
    assert check_onnx(graph) == []
    table = np.arange(28, dtype=np.float32).reshape(7, 4)
    out, same = run(to_onnx(graph, weights={"table": table}), {"ids": np.array([[1, 2, 3], [0, 0, 0]])})
    assert out.shape == (2, 6, 4)
    np.testing.assert_array_equal(out[1], np.concatenate([table[1:4]] * 2) + 2)
    np.testing.assert_array_equal(same, table)


def test_a_size_that_no_input_tells_is_refused() -> None:
    builder = GraphBuilder(OPSET)
    main = builder.block("main", x="float32[batch,4]")
    graph = builder.build(main.finish(main.add("Arange", name="steps", end=inner_dim("seq"))))
    with pytest.raises(LoweringError, match=r'node "steps" in block "main".*axis of size \'seq\''):
        to_onnx(graph)
    assert "steps" in check_onnx(graph)[0].got


def test_weights_that_do_not_fit_are_all_named() -> None:
    graph = FAMILIES["gpt2"]
    weights = random_weights(graph)
    weights["transformer.ln_f.weight"] = np.zeros((3,), np.float32)
    del weights["transformer.wpe.weight"]
    with pytest.raises(
        LoweringError, match=r"wpe.weight: got no weight; expected float32\[64,32\](.|\n)*got float32\[3\]"
    ):
        to_onnx(graph, weights=weights)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_torch_weights_keep_their_bytes(dtype: torch.dtype) -> None:
    builder = GraphBuilder(OPSET)
    main = builder.block("main", x="float32[batch,2]")
    name = str(dtype).removeprefix("torch.")
    value = main.add("Parameter", name="p", shape=(2, 3), dtype=name, params={"value": "p.value"})
    graph = builder.build(main.finish(main.add("Cast", value, name="cast", dtype="float32")))
    weight = torch.tensor([[1.5, -2.0, 3.25], [0.0, 7.0, -0.5]], dtype=dtype)
    (out,) = run(to_onnx(graph, weights={"p.value": weight}), {"x": np.zeros((1, 2), np.float32)})
    np.testing.assert_array_equal(out, weight.float().numpy())


def test_large_weights_go_beside_the_model(tmp_path: Path) -> None:
    """A protobuf holds at most 2 GB, and one in memory would be a second copy of the weights."""
    graph, weights = FAMILIES["bert"], random_weights(FAMILIES["bert"])
    small = save_onnx(graph, tmp_path / "small.onnx", weights)
    large = save_onnx(graph, tmp_path / "large.onnx", weights, external_data_threshold=0)
    assert [p.name for p in small] == ["small.onnx"]
    assert [p.name for p in large] == ["large.onnx", "large.onnx.data"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["large.onnx", "large.onnx.data", "small.onnx"]
    inputs = inputs_of(graph)
    np.testing.assert_array_equal(run(small[0], inputs)[0], run(large[0], inputs)[0])
    locations = [t.external_data[0].value for t in onnx.load(large[0], load_external_data=False).graph.initializer]
    assert set(locations) == {"large.onnx.data"}


def test_a_write_that_fails_leaves_nothing(tmp_path: Path) -> None:
    weights = random_weights(FAMILIES["bert"])

    class Broken(dict[str, np.ndarray]):
        reads = 0

        def __getitem__(self, name: str) -> np.ndarray:
            self.reads += 1
            if self.reads > 60:
                raise OSError("disk full")
            return super().__getitem__(name)

    with pytest.raises(OSError, match="disk full"):
        save_onnx(FAMILIES["bert"], tmp_path / "m.onnx", Broken(weights), external_data_threshold=0)
    assert list(tmp_path.iterdir()) == []


def test_node_names_carry_the_path_of_the_user() -> None:
    model = to_onnx(FAMILIES["gpt2"])
    (block,) = (f for f in model.functions if f.name == "GPT2Block")
    names = [n.name for n in block.node if n.op_type != "Constant"]
    assert names[:5] == ["ln_1", "attn.c_attn/MatMul", "attn.c_attn/Add", "attn.split", "attn.attention"]
    assert "transformer.h.1" in [n.name for n in model.graph.node]


def test_no_path_of_the_machine_is_written() -> None:
    text = to_onnx(FAMILIES["t5"]).SerializeToString()
    assert str(Path(__file__).resolve().parents[2]).encode() not in text


def test_a_node_that_onnx_rejects_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a wrong lowering can get this far, so one is put in: the report must name the user's node."""
    from dataclasses import replace

    from genmad.lowering import to_onnx as lowering

    wrong = replace(OPSET["Gelu"], is_function=False, to_onnx=lambda ctx: (ctx.op("Flatten", ctx.inputs[0], axis=1),))
    monkeypatch.setattr(lowering, "OPSET", {**OPSET, "Gelu": wrong})
    (found,) = onnx_check.check_onnx(FAMILIES["gpt2"])
    assert found.where == 'Gelu "mlp.act" in block "GPT2Block"'
