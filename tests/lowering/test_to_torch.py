"""The generated PyTorch: state-dict keys, tied and shared parameters, symbolic sizes, hostile names."""

import ast
import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from genmad.ir.build import GraphBuilder
from genmad.ir.diagnostics import GenmadError
from genmad.ir.fold import flatten
from genmad.ir.graph import Block, Graph, Node, Value, parameter_names
from genmad.ir.types import SymDim, TensorType, evaluate_dim
from genmad.lowering import LoweringError
from genmad.lowering.to_torch import initialise, module_source, parameters, to_torch
from genmad.ops import OPSET
from tests.graphs import bert_like, gpt2_like, llama_like, resnet_like, t5_like

SIZES = {"batch": 2, "seq": 5, "target": 4}
MODELS = {"gpt2": gpt2_like, "llama": llama_like, "bert": bert_like, "t5": t5_like, "resnet": resnet_like}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Tiny tensors on many threads are slow, most of all on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def example(graph: Graph, device: str = "cpu") -> dict[str, torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    made = {}
    for value in graph.main.inputs:
        shape = [evaluate_dim(dim, SIZES) for dim in value.type.shape]
        ids = value.type.dtype.is_integer
        tensor = torch.randint(0, 3, shape, generator=rng) if ids else torch.randn(shape, generator=rng)
        made[value.name] = tensor.to(device)
    return made


def run(graph: Graph, module: nn.Module | None = None) -> torch.Tensor:
    with torch.no_grad():
        result = (module or to_torch(graph))(*example(graph).values())
    assert isinstance(result, torch.Tensor)
    return result


@pytest.mark.parametrize("name", MODELS)
def test_state_dict_keys_are_the_parameter_names(name: str) -> None:
    graph = MODELS[name]()
    module = to_torch(graph, device="meta")
    assert list(module.state_dict()) == sorted(parameter_names(graph), key=list(module.state_dict()).index)
    assert set(parameters(graph)) == set(parameter_names(graph))
    assert {k: tuple(v.shape) for k, v in module.state_dict().items()} == {
        k: p.type.shape for k, p in parameters(graph).items()
    }


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_models_run_by_position_and_by_name(name: str, device: str) -> None:
    graph = MODELS[name]()
    module, inputs = to_torch(graph, device=device), example(graph, device)
    with torch.no_grad():
        first, second = module(*inputs.values()), module(**inputs)
    assert [evaluate_dim(d, SIZES) for d in graph.main.output_types[0].shape] == list(first.shape)
    assert first.device.type == device
    if device == "cpu":
        torch.testing.assert_close(first, second, rtol=0, atol=0)
        assert torch.isfinite(first).all()


@pytest.mark.parametrize("name", MODELS)
def test_flat_and_folded_graphs_compute_the_same(name: str) -> None:
    graph = MODELS[name]()
    flat = flatten(graph)
    state = to_torch(graph, seed=3).state_dict()
    assert set(parameter_names(flat)) == set(state)
    torch.testing.assert_close(run(flat, to_torch(flat, state)), run(graph, to_torch(graph, state)), rtol=0, atol=0)


def test_source_is_deterministic_and_imports_only_torch_and_math() -> None:
    source = module_source(gpt2_like())
    assert source == module_source(gpt2_like())
    tree = ast.parse(source)
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert names == {"math", "torch", "torch.nn", "json", "os"}
    top = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    assert all(not str(node.module).startswith("safetensors") for node in top)
    assert "self.transformer.h = nn.ModuleList([GPT2Block() for _ in range(4)])" in source
    assert "hidden_states: Tensor" in source


def test_tied_weights_are_one_parameter() -> None:
    graph = gpt2_like(layers=1)
    module = to_torch(graph)
    assert "lm_head.weight" not in module.state_dict()
    before = run(graph, module)
    with torch.no_grad():
        module.get_parameter("transformer.wte.weight").zero_()
    assert torch.count_nonzero(run(graph, module)) == 0
    assert torch.count_nonzero(before) > 0


def two_level(tie: dict[str, str] | None = None, second_scope: str = "layers.1") -> Graph:
    """main calls Layer twice, Layer calls Leaf twice; `tie` names the parameters of main's own last node."""
    builder = GraphBuilder(OPSET)
    leaf = builder.block("Leaf", x="float32[batch,4]")
    y = leaf.add("Linear", "x", name="fc", scope="fc", out_features=4)
    leaf.finish(leaf.add("Relu", y, name="act"))
    layer = builder.block("Layer", x="float32[batch,4]")
    y = layer.add("@Leaf", "x", name="mlp.0")
    y = layer.add("@Leaf", y, name="mlp.1")
    layer.finish(layer.add("LayerNorm", y, name="norm"))
    main = builder.block("net", x="float32[batch,4]")
    y = main.add("@Layer", "x", name="layers.0", scope="layers.0")
    y = main.add("@Layer", y, name="layers.1", scope=second_scope)
    y = main.add("Linear", y, name="head", out_features=4, bias=False, params=tie)
    return builder.build(main.finish(y))


def linear(module: nn.Module, name: str, x: torch.Tensor) -> torch.Tensor:
    state = module.state_dict()
    return nn.functional.linear(x, state[f"{name}.weight"], state.get(f"{name}.bias"))


def reference(module: nn.Module, x: torch.Tensor, scopes: tuple[str, str], head: str) -> torch.Tensor:
    for scope in scopes:
        for leaf in ("mlp.0.fc", "mlp.1.fc"):
            x = linear(module, f"{scope}.{leaf}", x).relu()
        x = nn.functional.layer_norm(x, (4,))
    return x @ module.state_dict()[head].T


@pytest.mark.parametrize("head", ["head.weight", "layers.1.mlp.0.fc.weight", "layers.0.norm.other"])
@pytest.mark.parametrize("scope", ["layers.1", "layers.0"])
def test_ties_across_levels_and_shared_scopes(head: str, scope: str) -> None:
    """A node of main may own a parameter inside a call's scope, and two calls may share one scope."""
    graph = two_level({"weight": head}, second_scope=scope)
    module = to_torch(graph)
    assert set(module.state_dict()) == set(parameter_names(graph))
    assert sum(1 for _ in module.parameters()) == len(set(parameter_names(graph)))
    got = run(graph, module)
    expected = reference(module, example(graph)["x"], ("layers.0", scope), head)
    torch.testing.assert_close(got, expected)


def test_two_different_blocks_may_use_one_scope() -> None:
    """Then neither class can stand there; both run on the same tree of parameters."""
    builder = GraphBuilder(OPSET)
    for name, extra in (("A", "first"), ("B", "second")):
        inner = builder.block(f"{name}Inner", x="float32[batch,4]")
        names = {"weight": "0.fc.weight", "bias": "0.fc.bias"}
        inner.finish(inner.add("Linear", "x", name="fc", out_features=4, params=names))
        block = builder.block(name, x="float32[batch,4]")
        y = block.add("@" + f"{name}Inner", "x", name="list")
        block.finish(block.add("Linear", y, name=extra, out_features=4))
    main = builder.block("net", x="float32[batch,4]")
    y = main.add("@A", "x", name="a", scope="enc")
    graph = builder.build(main.finish(main.add("@B", y, name="b", scope="enc")))
    module = to_torch(graph)
    assert set(module.state_dict()) == set(parameter_names(graph))
    x = example(graph)["x"]
    for name in ("list.0.fc", "first", "list.0.fc", "second"):
        x = linear(module, f"enc.{name}", x)
    torch.testing.assert_close(run(graph, module), x)


def test_one_name_with_two_shapes_is_refused() -> None:
    builder = GraphBuilder(OPSET)
    main = builder.block("net", x="float32[batch,4]")
    y = main.add("Linear", "x", name="a", out_features=5, bias=False)
    y = main.add("Linear", y, name="b", out_features=4, bias=False, params={"weight": "a.weight"})
    with pytest.raises(LoweringError, match=r'"a.weight": got float32\[5,4\] and float32\[4,5\]'):
        to_torch(builder.build(main.finish(y)))


def test_blocks_are_given_sizes_that_their_inputs_do_not_tell() -> None:
    builder = GraphBuilder(OPSET)
    seq = SymDim.symbol("seq")
    leaf = builder.block("Steps", x="float32[1,4]")
    ids = leaf.add("Arange", start=0, end=2 * seq + 1)
    table = leaf.add("Embedding", ids, name="table", num_embeddings=20, embedding_dim=4)
    leaf.finish(leaf.add("Add", table, "x"))
    free = builder.block("Ones", x="float32[1,4]")
    free.finish(free.add("Full", shape=(seq // 2, 4), value=1.0))
    main = builder.block("net", ids="int64[batch,seq]", x="float32[1,4]")
    steps = main.add("@Steps", "x", name="steps")
    ones = main.add("@Ones", "x", name="ones")
    graph = builder.build(main.finish([main.add("Concat", steps, ones, axis=0), ones]))
    module = to_torch(graph)
    assert "seq = ids.shape[1]" in module.source
    first, second = module(*example(graph).values())
    assert first.shape == (11 + 2, 4)
    assert torch.equal(second, torch.ones(2, 4))
    meta = to_torch(graph, device="meta")(*example(graph, "meta").values())
    assert isinstance(meta, tuple)
    assert meta[0].device.type == "meta"


def test_a_size_that_no_input_tells_is_refused() -> None:
    builder = GraphBuilder(OPSET)
    main = builder.block("net", x="float32[1,4]")
    main.add("Arange", start=0, end=SymDim.symbol("seq"), name="steps")
    with pytest.raises(LoweringError, match="depend on seq"):
        module_source(builder.build(main.finish("x")))


HOSTILE = (
    '"""; import os; os.environ["GENMAD_PWNED"] = "1"; """',
    "x\n    import os; os.environ['GENMAD_PWNED'] = '1'",
    "__import__('os').environ.update(GENMAD_PWNED='1')",
    "\\",
    "# }{ {0} %s \u2028 \x00",
)


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_names_are_only_names(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Graph files come from strangers: whatever they call a block, scope, parameter or symbol, nothing of it runs."""
    import os

    monkeypatch.delenv("GENMAD_PWNED", raising=False)
    key = text.replace(".", "")
    x = TensorType.parse("float32[batch,4]")
    params = (("weight", f"a.{key}"), ("bias", f"{key}.b"))
    attrs = tuple(OPSET["Linear"].complete({"out_features": 4}).items())
    node = Node(name="fc", op="Linear", inputs=("x",), types=(x,), scope=text, attrs=attrs, params=params)
    inner = Block(name=text, inputs=(Value("x", x),), nodes=(node,), outputs=("fc",))
    call = Node(name="call", op=f"@{text}", inputs=("x",), types=inner.output_types, scope=key)
    main = Block(name=text + " ", inputs=(Value("x", x),), nodes=(call,), outputs=call.outputs)
    graph = Graph(main=main, blocks=(inner,))
    module = to_torch(graph)
    assert set(module.state_dict()) == {f"{key}.a.{key}", f"{key}.{key}.b"}
    assert module(torch.ones(3, 4)).shape == (3, 4)
    assert "GENMAD_PWNED" not in os.environ
    size = SymDim.symbol(text)
    value = Value("x", x.with_shape((size, 4)))
    with pytest.raises(LoweringError, match="a polynomial of names"):
        to_torch(Graph(main=Block(name="net", inputs=(value,), nodes=(), outputs=("x",))))


def test_hostile_attributes_are_refused() -> None:
    text = "none\") or __import__('os').abort() or (\""
    value = TensorType.parse("float32[batch,4]")
    for op, attrs in (("Gelu", {"approximate": text}), ("Cast", {"dtype": text}), ("Relu", {"slope": 1.0})):
        node = Node(name="n", op=op, inputs=("x",), types=(value,), attrs=tuple(attrs.items()))
        graph = Graph(main=Block(name="net", inputs=(Value("x", value),), nodes=(node,), outputs=("n",)))
        with pytest.raises(GenmadError):
            to_torch(graph)


def test_a_node_that_lies_about_its_type_is_refused() -> None:
    graph = two_level()
    head = graph.main.nodes[-1]
    lie = dataclasses.replace(head, types=(TensorType.parse("float32[batch,5]"),))
    main = dataclasses.replace(graph.main, nodes=(*graph.main.nodes[:-1], lie))
    with pytest.raises(LoweringError, match="head"):
        to_torch(dataclasses.replace(graph, main=main))


ODD_NAMES = ("forward", "lambda", "0", "7", "weight-x", "onnx::MatMul_12", "__len__", "é", "keys", "type")


@pytest.mark.parametrize("name", ODD_NAMES)
def test_odd_parameter_names_keep_their_keys(name: str) -> None:
    builder = GraphBuilder(OPSET)
    main = builder.block("net", x="float32[batch,4]")
    y = main.add("Linear", "x", name="a", out_features=4, params={"weight": f"{name}.weight", "bias": f"{name}.bias"})
    y = main.add("Linear", y, name="b", out_features=4, params={"weight": f"p.{name}", "bias": f"q.{name}.{name}"})
    y = main.add("BatchNorm", y, name="n", params={s: f"n{s}.{name}" for s in ("weight", "bias", "running_mean")})
    graph = builder.build(main.finish(y))
    module = to_torch(graph)
    assert set(module.state_dict()) == set(parameter_names(graph))
    copy = to_torch(graph, module.state_dict())
    torch.testing.assert_close(run(graph, module), run(graph, copy), rtol=0, atol=0)


@pytest.mark.parametrize("name", ["a..b", "a.training.b"])
def test_names_that_no_module_can_have_are_refused(name: str) -> None:
    with pytest.raises(LoweringError, match="component"):
        to_torch(two_level({"weight": name}))


@pytest.mark.parametrize("name", ["self", "torch", "F", "input", "long_conv", "Net", "x.y", "device", "class"])
def test_inputs_may_be_called_anything(name: str) -> None:
    builder = GraphBuilder(OPSET)
    main = builder.block("net", [Value(name, TensorType.parse("float32[batch,seq,4]"))])
    y = main.add("LongConv", name, name="long_conv_1", kernel_size=3)
    y = main.add("LongConv", y, name="b.long_conv_2", kernel_size=3)
    graph = builder.build(main.finish(main.add("Softmax", y, name="torch_x")))
    assert run(graph).shape == (2, 5, 4)
    if name == "input":
        assert to_torch(graph)(input=torch.ones(1, 3, 4)).shape == (1, 3, 4)


def test_load_reads_weights_and_reports_missing_ones(tmp_path: Path) -> None:
    save_file = pytest.importorskip("safetensors.torch").save_file
    graph = resnet_like()
    module = to_torch(graph, seed=5)
    state = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    save_file(state, tmp_path / "model.safetensors")
    space: dict[str, object] = {}
    exec(compile(module_source(graph), "model.py", "exec"), space)
    load = space["load"]
    assert callable(load)
    torch.testing.assert_close(run(graph, load(tmp_path)), run(graph, module), rtol=0, atol=0)
    save_file({**dict(list(state.items())[1:]), "more": torch.ones(1)}, tmp_path / "model.safetensors")
    with pytest.raises(KeyError, match=r"lacks 1 tensors: resnet.embedder.embedder.convolution.weight"):
        load(tmp_path)


def test_initial_values_depend_on_seed_and_name_only() -> None:
    small, large = gpt2_like(layers=1), gpt2_like(layers=2)
    a, b, c = to_torch(small, seed=1), to_torch(large, seed=1), to_torch(small, seed=2)
    for name, tensor in a.state_dict().items():
        assert torch.equal(tensor, b.state_dict()[name])
    weight = "transformer.h.0.attn.c_attn.weight"
    assert not torch.equal(a.state_dict()[weight], c.state_dict()[weight])
    assert a.state_dict()[weight].std().item() == pytest.approx(0.02, rel=0.1)
    assert torch.count_nonzero(a.state_dict()["transformer.h.0.ln_1.bias"]) == 0
    initialise(a, small, 2)
    assert all(torch.equal(t, c.state_dict()[name]) for name, t in a.state_dict().items())


def test_initialising_a_meta_module_changes_nothing() -> None:
    graph = gpt2_like(layers=1)
    module = to_torch(graph, device="meta")
    initialise(module, graph, 0)
    assert all(tensor.device.type == "meta" for tensor in module.state_dict().values())


def test_building_does_not_touch_the_global_generator() -> None:
    before = torch.get_rng_state()
    to_torch(resnet_like())
    assert torch.equal(before, torch.get_rng_state())


def test_module_trains() -> None:
    graph = gpt2_like(layers=1)
    module = to_torch(graph).train()
    module(**example(graph)).sum().backward()
    lacking = [name for name, p in module.named_parameters() if p.grad is None]
    assert lacking == []
