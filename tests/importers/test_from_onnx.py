"""ONNX files in: what we wrote comes back as it was, torch's exports compute the same, hostile files are refused."""

import json
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

from genmad.importers.from_onnx import from_onnx
from genmad.importers.report import SourceError, UnsupportedError
from genmad.ir.build import GraphBuilder
from genmad.ir.canonical import check_same_structure
from genmad.ir.graph import Graph, parameter_names, places
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


def run(model: onnx.ModelProto, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, inputs)


def inputs_of(graph: Graph) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    sizes = {"batch": 2, "seq": 5, "target": 4}
    made = {}
    for value in graph.main.inputs:
        shape = [sizes.get(str(d)) or int(str(d)) for d in value.type.shape]
        ids = value.type.dtype.is_integer
        made[value.name] = rng.integers(0, 20, shape) if ids else rng.random(shape, dtype=np.float32)
    return made


@pytest.mark.parametrize("name", FAMILIES)
def test_what_we_wrote_comes_back_as_it_was(name: str) -> None:
    """An edit of `edited/model.onnx` must see blocks and layers, not the hundred nodes inside an Attention."""
    graph, weights = FAMILIES[name], random_weights(FAMILIES[name])
    model = to_onnx(graph, weights=weights)
    back, loaded, report = from_onnx(model.SerializeToString())
    check_same_structure(graph, back)
    assert [n.name for b in back.all_blocks for n in b.nodes] == [n.name for b in graph.all_blocks for n in b.nodes]
    assert parameter_names(back) == parameter_names(graph)
    assert all(np.array_equal(loaded[k], weights[k]) for k in weights)
    assert report.weights == "loaded"
    inputs = inputs_of(graph)
    for a, b in zip(run(model, inputs), run(to_onnx(back, weights=loaded), inputs), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_weightless_model_of_ours_comes_back_too(name: str) -> None:
    back, loaded, report = from_onnx(to_onnx(FAMILIES[name]).SerializeToString())
    check_same_structure(FAMILIES[name], back)
    assert loaded == {}
    assert report.weights == "none"


def test_a_function_that_claims_to_be_another_op_is_not_believed() -> None:
    """The metadata of a file is only a claim: trusting it would import a model that computes something else."""
    builder = GraphBuilder(OPSET)
    main = builder.block("main", x="float32[batch,4]")
    graph = builder.build(main.finish(main.add("Gelu", "x", name="act")))
    honest = to_onnx(graph, weights={})
    assert [n.op for n in from_onnx(honest.SerializeToString())[0].main.nodes] == ["Gelu"]
    forged = onnx.ModelProto()
    forged.CopyFrom(honest)
    entry = forged.functions[0].metadata_props[0]
    entry.value = json.dumps({**json.loads(entry.value), "op": "Silu", "attrs": {}})
    back, loaded, _ = from_onnx(forged.SerializeToString())
    ops = [n.op for n in back.main.nodes]
    assert "Silu" not in ops
    assert "Erf" in ops
    x = {"x": np.linspace(-2, 2, 8, dtype=np.float32).reshape(2, 4)}
    np.testing.assert_allclose(run(to_onnx(back, weights=loaded), x)[0], run(honest, x)[0], atol=1e-6)


class Cnn(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.bn = nn.BatchNorm2d(8)
        self.depth = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False)
        self.pool = nn.MaxPool2d(2)
        self.head = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.bn(self.stem(x)))
        y = nn.functional.silu(self.depth(y)) + y
        y = nn.functional.interpolate(self.pool(y), scale_factor=2.0, mode="nearest")
        return self.head(y.mean(dim=(2, 3)))


class Mlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.norm = nn.LayerNorm(8)
        self.up = nn.Linear(8, 16)
        self.down = nn.Linear(16, 8, bias=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.embed(ids)
        x = x + self.down(nn.functional.gelu(self.up(self.norm(x))))
        heads = x.reshape(x.shape[0], x.shape[1], 2, 4).transpose(1, 2)
        scores = torch.softmax(heads @ heads.transpose(-1, -2) * 0.5, dim=-1)
        return (scores @ heads).transpose(1, 2).reshape(x.shape[0], x.shape[1], 8)[:, 1:]


def exported(module: nn.Module, example: torch.Tensor, dynamic: dict[int, str], path: Path) -> Path:
    module.eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        shapes = ({axis: torch.export.Dim(name, min=2, max=64) for axis, name in dynamic.items()},)
        torch.onnx.export(module, (example,), str(path), dynamo=True, dynamic_shapes=shapes, verbose=False)
    return path


@pytest.mark.parametrize(
    ("make", "example", "other", "dynamic", "ops"),
    [
        (
            Cnn,
            lambda: torch.rand(2, 3, 16, 16),
            lambda: torch.rand(3, 3, 16, 16),
            {0: "batch"},
            {"Conv": 2, "Linear": 1, "Silu": 1, "Sigmoid": None},
        ),
        (
            Mlp,
            lambda: torch.arange(10).reshape(2, 5),
            lambda: torch.arange(21).reshape(3, 7) % 11,
            {0: "batch", 1: "seq"},
            {"Embedding": 1, "LayerNorm": 1, "Linear": 2},
        ),
    ],
    ids=["cnn", "mlp"],
)
def test_a_model_exported_by_torch_computes_the_same(
    make: Callable[[], nn.Module],
    example: Callable[[], torch.Tensor],
    other: Callable[[], torch.Tensor],
    dynamic: dict[int, str],
    ops: dict[str, int | None],
    tmp_path: Path,
) -> None:
    torch.manual_seed(0)
    module = make()
    graph, weights, report = from_onnx(exported(module, example(), dynamic, tmp_path / "m.onnx"))
    # The exporter's Sigmoid is read before the product that makes it a Silu, so what is left is counted.
    found = Counter(node.op for node in graph.main.nodes)
    assert {k: found.get(k) for k in ops} == ops
    assert report.lifted["Linear"] == ops["Linear"]
    modules = {name for name, child in module.named_children() if list(child.parameters())}
    assert {name.split(".")[0] for name in weights} == modules - {"bn"}  # the exporter folds it into the convolution
    x = other()
    with torch.no_grad():
        expected = module(x).numpy()
    (got,) = run(to_onnx(graph, weights=weights), {graph.main.inputs[0].name: x.numpy()})
    assert got.shape == expected.shape
    np.testing.assert_allclose(got, expected, atol=1e-5)


def model_of(nodes: list[onnx.NodeProto], initializers: tuple[onnx.TensorProto, ...] = (), **more: object) -> bytes:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "g", [x], [y], initializer=list(initializers))
    imports = [helper.make_opsetid("", 18), helper.make_opsetid("f", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=10, **more).SerializeToString()


def test_every_node_that_cannot_be_imported_is_listed() -> None:
    nodes = [
        helper.make_node("Sparkle", ["x"], ["i"], name="which", domain="f"),
        helper.make_node("Conv", ["x", "x"], ["d"], name="volume"),
        helper.make_node("Relu", ["d"], ["y"], name="after"),
    ]
    with pytest.raises(UnsupportedError) as caught:
        from_onnx(model_of(nodes))
    assert [p.split(":")[0] for p in caught.value.problems] == ['f.Sparkle "which"', 'Conv "volume"']


def test_nameless_sizes_become_batch_and_seq() -> None:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, "T-o", 4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y])
    data = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10).SerializeToString()
    assert str(from_onnx(data)[0].main.inputs[0].type) == "float32[batch,T_o,4]"


def test_a_missing_file_is_told_with_its_neighbours(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"")
    with pytest.raises(SourceError, match=r"no such file; expected an \.onnx file; there is model\.onnx"):
        from_onnx(tmp_path / "modle.onnx")


@pytest.mark.parametrize("keep", [0.3, 0.7, 0.999])
def test_a_truncated_file_is_refused(keep: float) -> None:
    data = to_onnx(FAMILIES["gpt2"], weights=random_weights(FAMILIES["gpt2"])).SerializeToString()
    with pytest.raises(SourceError, match="expected") as caught:
        from_onnx(data[: int(len(data) * keep)])
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("data", [b"", b"\x80\x04not an onnx file", b"PK\x03\x04" + bytes(64)])
def test_something_else_than_onnx_is_refused(data: bytes) -> None:
    with pytest.raises(SourceError):
        from_onnx(data)


def external(folder: Path, location: str, length: int = 16, offset: int = 0) -> Path:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=str(value))
    path = folder / "m.onnx"
    path.write_bytes(model_of([helper.make_node("Mul", ["x", "w"], ["y"], name="scale")], (tensor,)))
    return path


def test_external_data_beside_the_model_is_read(tmp_path: Path) -> None:
    graph = FAMILIES["bert"]
    weights = random_weights(graph)
    save_onnx(graph, tmp_path / "m.onnx", weights, external_data_threshold=0)
    _, loaded, _ = from_onnx(tmp_path / "m.onnx")
    assert all(np.array_equal(loaded[k], weights[k]) for k in weights)


@pytest.mark.parametrize("location", ["../secret", "/etc/hostname", "link", "", "sub/../../secret"])
def test_external_data_outside_the_folder_is_refused(location: str, tmp_path: Path) -> None:
    """A model from a stranger must not be able to read the user's files into weights that are then shared."""
    (tmp_path / "secret").write_bytes(bytes(64))
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    (folder / "link").symlink_to(tmp_path / "secret")
    with pytest.raises(SourceError, match="a file inside the model's folder"):
        from_onnx(external(folder, location))


def test_external_data_that_is_missing_or_short_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"no file 'gone\.bin'"):
        from_onnx(external(tmp_path, "gone.bin"))
    (tmp_path / "short.bin").write_bytes(bytes(10))
    with pytest.raises(SourceError, match="expected 16 bytes there"):
        from_onnx(external(tmp_path, "short.bin"))
    with pytest.raises(SourceError, match="a model that holds its weights"):
        from_onnx(external(tmp_path, "short.bin").read_bytes())


def nested(levels: int, width: int, cycle: bool = False) -> bytes:
    """Functions f0 .. fN, each calling the next `width` times."""
    functions = []
    for i in range(levels):
        last = i == levels - 1 and not cycle
        target = f"f{(i + 1) % levels}"
        values = ["a", *(f"v{j}" for j in range(width - 1)), "b"]
        op, domain = ("Relu", "") if last else (target, "f")
        nodes = [helper.make_node(op, [values[j]], [values[j + 1]], domain=domain) for j in range(width)]
        imports = [helper.make_opsetid("", 18), helper.make_opsetid("f", 1)]
        functions.append(helper.make_function("f", f"f{i}", ["a"], ["b"], nodes, imports))
    call = helper.make_node("f0", ["x"], ["y"], domain="f")
    return model_of([call], functions=functions)


def test_nested_functions_that_explode_are_refused_at_once() -> None:
    """2 kB of nested functions can stand for 10^30 nodes."""
    with pytest.raises(SourceError, match="expand to more than 2000000 nodes"):
        from_onnx(nested(levels=30, width=10))


def test_functions_nested_too_deeply_or_calling_themselves_are_refused() -> None:
    with pytest.raises(SourceError, match="64"):
        from_onnx(nested(levels=80, width=1))
    with pytest.raises(SourceError, match="calls itself"):
        from_onnx(nested(levels=3, width=1, cycle=True))


def test_functions_of_other_programs_become_blocks() -> None:
    """Two calls of one function are two calls of one block; each call's weights are named after it."""
    steps = [helper.make_node("MatMul", ["a", "w"], ["h"]), helper.make_node("Tanh", ["h"], ["b"])]
    layer = helper.make_function("f", "Layer", ["a", "w"], ["b"], steps, [helper.make_opsetid("", 18)])
    calls = [helper.make_node("Layer", [a, f"w{i}"], [b], domain="f") for i, (a, b) in enumerate(("xh", "hy"))]
    rng = np.random.default_rng(0)
    stored = [onnx.numpy_helper.from_array(rng.random((4, 4), dtype=np.float32), f"w{i}") for i in range(2)]
    data = model_of(calls, tuple(stored), functions=[layer])
    back, weights, _ = from_onnx(data)
    assert [n.op for n in back.main.nodes] == ["@Layer", "@Layer"]
    assert [n.op for n in back.blocks[0].nodes] == ["Linear", "Tanh"]
    assert list(weights) == ["Layer.0.w", "Layer.1.w"]
    x = {"x": rng.random((3, 4), dtype=np.float32)}
    expected = run(onnx.ModelProto.FromString(data), x)[0]
    np.testing.assert_allclose(run(to_onnx(back, weights=weights), x)[0], expected, atol=1e-6)


def test_small_functions_inside_functions_are_expanded() -> None:
    back, _, _ = from_onnx(nested(levels=3, width=2))
    assert [p.node.op for p in places(back) if not p.node.is_call] == ["Relu"] * 8


def test_a_constant_shape_that_would_fill_the_memory_stays_a_node() -> None:
    shape = helper.make_tensor("s", TensorProto.INT64, [2], [10**7, 10**7])
    nodes = [
        helper.make_node("ConstantOfShape", ["s"], ["big"], name="big"),
        helper.make_node("ReduceMax", ["big"], ["m"], name="m", keepdims=0),
        helper.make_node("Add", ["x", "m"], ["y"], name="sum"),
    ]
    back, _, _ = from_onnx(model_of(nodes, (shape,)))
    assert [n.op for n in back.main.nodes] == ["Full", "ReduceMax", "Add"]


def test_constants_that_broadcast_to_a_bomb_are_not_computed() -> None:
    """Three vectors of 4096 numbers broadcast to 6.9e10; the graph may say so, reading it may not do so."""
    sizes = ((4096, 1, 1), (4096, 1), (4096,))
    made = tuple(helper.make_tensor(f"c{i}", TensorProto.INT64, s, [1] * 4096) for i, s in enumerate(sizes))
    nodes = [
        helper.make_node("Max", ["c0", "c1", "c2"], ["m"], name="m"),
        helper.make_node("Cast", ["m"], ["f"], name="f", to=TensorProto.FLOAT),
        helper.make_node("ReduceMax", ["f"], ["s"], name="s", keepdims=0),
        helper.make_node("Add", ["x", "s"], ["y"], name="sum"),
    ]
    back, _, _ = from_onnx(model_of(nodes, made))
    ops = Counter(node.op for node in back.main.nodes)
    assert ops["Max"] == 2
    assert "int64[4096,4096,4096]" in {str(t) for t in back.main.types.values()}


@pytest.mark.parametrize("opset", [5, 99])
def test_an_opset_whose_rules_are_unknown_is_refused(opset: int) -> None:
    model = onnx.ModelProto.FromString(model_of([helper.make_node("Relu", ["x"], ["y"])]))
    model.opset_import[0].version = opset
    with pytest.raises(SourceError, match=f"opset {opset}; expected opset 6 to"):
        from_onnx(model.SerializeToString())
