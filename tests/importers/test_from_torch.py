"""The eager tracer on modules made here: every way in which a module can say a thing gives the op that it is."""

import inspect
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genmad.data.families import family
from genmad.importers.from_function import parse_inputs
from genmad.importers.from_hf import (
    build_random,
    build_skeleton,
    example_inputs,
    import_config,
    load_source,
)
from genmad.importers.from_torch import ModuleParameters, export_flat, from_torch, trace_flat
from genmad.importers.lifting import lift
from genmad.importers.report import Imported, SourceError, UnsupportedError
from genmad.ir.types import SymDim
from genmad.lowering.to_torch import to_torch


def check(
    module: nn.Module, *shapes: tuple[int, ...], dynamic: Any = None, dtype: torch.dtype = torch.float32
) -> Imported:
    """Imports, lowers with the same weights and compares at batch 3; returns the import."""
    names = [n for n in inspect.signature(type(module).forward).parameters if n != "self"]
    generator = torch.Generator().manual_seed(1)

    def make(batch: int) -> dict[str, Tensor]:
        sizes = [(batch, *shape[1:]) for shape in shapes]
        if dtype == torch.int64:
            return {n: torch.randint(0, 9, s, generator=generator) for n, s in zip(names, sizes, strict=False)}
        return {n: torch.randn(s, generator=generator) for n, s in zip(names, sizes, strict=False)}

    imported = from_torch(module.eval(), make(1), dynamic=dynamic)
    lowered = to_torch(imported.graph, seed=None)
    lowered.load_state_dict({name: imported.parameters[name] for name in imported.parameters})
    inputs = make(3)
    with torch.no_grad():
        torch.testing.assert_close(lowered(**inputs), module(**inputs), atol=1e-5, rtol=1e-5)
    return imported


def ops(imported: Imported) -> Counter[str]:
    return Counter(node.op for block in imported.graph.all_blocks for node in block.nodes)


class CausalSelfAttention(nn.Module):
    """Attention as nanoGPT writes it out: one projection, a buffer of ones below the diagonal, -inf elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.c_attn = nn.Linear(16, 48)
        self.c_proj = nn.Linear(16, 16)
        self.register_buffer("bias", torch.tril(torch.ones(64, 64)).view(1, 1, 64, 64))

    def forward(self, x: Tensor) -> Tensor:
        batch, seq, width = x.shape
        q, k, v = self.c_attn(x).split(width, dim=2)
        q, k, v = (t.view(batch, seq, 4, width // 4).transpose(1, 2) for t in (q, k, v))
        scores = (q @ k.transpose(-2, -1)) * (1.0 / 4**0.5)
        scores = scores.masked_fill(self.bias[:, :, :seq, :seq] == 0, float("-inf"))
        y = F.softmax(scores, dim=-1) @ v
        return self.c_proj(y.transpose(1, 2).contiguous().view(batch, seq, width))


def test_written_out_causal_attention_becomes_one_node() -> None:
    """The mask is recognised by its values, and no node is left of it."""
    found = check(CausalSelfAttention(), (1, 8, 16), dynamic={"x": {0: "batch", 1: "seq"}})
    assert ops(found) == {"Linear": 2, "Split": 1, "Attention": 1}
    attention = next(n for n in found.graph.main.nodes if n.op == "Attention")
    assert attention.attr_map["causal"]
    assert attention.attr_map["num_heads"] == 4


class Tower(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.encoder(x)


def test_torch_transformer_layers_share_one_block() -> None:
    found = check(Tower(), (1, 6, 16), dynamic={"x": {0: "batch", 1: "seq"}})
    assert [b.name for b in found.graph.blocks] == ["TransformerEncoderLayer"]
    assert ops(found)["@TransformerEncoderLayer"] == 3
    assert ops(found)["Attention"] == 1


class SmallCNN(nn.Module):
    """Layers as modules and as functions, a residual, in-place activations, a flattening by `view`."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding="same"), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.down = nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=2, bias=False)
        self.head = nn.Linear(8 * 16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + F.conv2d(x, self.down.weight, padding=1, groups=2)
        x = F.max_pool2d(F.silu(x, inplace=True), 2)
        x += 1.0
        return self.head(x.view(x.size(0), -1))


def test_functions_and_modules_give_the_same_ops() -> None:
    found = check(SmallCNN(), (1, 3, 8, 8))
    assert ops(found) == {
        "Conv": 2, "BatchNorm": 1, "Relu": 1, "Add": 1, "Silu": 1, "MaxPool": 1, "AddScalar": 1, "Reshape": 1,
        "Linear": 1,
    }  # fmt: skip
    assert {"stem.0", "stem.1", "stem.2", "head"} <= {n.name for n in found.graph.main.nodes}


class Odd(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.special.i0e(x).cumprod(-1) + torch.logsumexp(x, dim=-1, keepdim=True)


def test_functions_without_an_op_stay_primitive_and_are_reported() -> None:
    """Import must not fail because a model does something odd."""
    found = check(Odd(), (1, 5))
    assert ops(found)["TorchCall"] == 3
    assert sum(found.report.primitive.values()) == 3
    assert len(found.report.notes) == 3


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if x.sum() > 0 else x


def test_control_flow_on_data_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="depends on data"):
        from_torch(Branching(), {"x": torch.zeros(1, 3)})


class ByLength(nn.Module):
    """Runs other code for long inputs."""

    def forward(self, x: Tensor) -> Tensor:
        return x.relu() if x.shape[1] > 20 else x.tanh()


def test_code_that_follows_a_size_keeps_that_size_concrete() -> None:
    found = from_torch(ByLength(), {"x": torch.zeros(1, 30)}, dynamic={"x": {0: "batch", 1: "seq"}})
    assert found.graph.main.inputs[0].type.shape == (SymDim.symbol("batch"), 30)
    assert any("kept at its example size" in note for note in found.report.notes)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.head = nn.Linear(8, 11, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.embed(ids))


def test_tied_weights_have_one_name() -> None:
    found = check(Tied(), (1, 4), dtype=torch.int64, dynamic={"ids": {0: "batch", 1: "seq"}})
    assert list(found.parameters) == ["embed.weight"]


def test_tracing_leaves_the_module_as_it_was() -> None:
    """Parameters are swapped for meta twins while tracing; the module must come back whole, also in training mode."""
    module = SmallCNN().train()
    before = {name: id(t) for name, t in (*module.named_parameters(), *module.named_buffers())}
    call = nn.Module.__call__
    from_torch(module, {"x": torch.zeros(1, 3, 8, 8)})
    assert {name: id(t) for name, t in (*module.named_parameters(), *module.named_buffers())} == before
    assert module.training
    assert nn.Module.__call__ is call


@pytest.mark.parametrize("model_type", ["bert", "resnet", "vit"])
def test_torch_export_sees_the_same_layers(model_type: str) -> None:
    """torch.export is the oracle of the eager tracer: equal counts of every op after lifting."""
    module = build_skeleton(family(model_type).make_config())
    inputs, dynamic = example_inputs(module)
    eager, exported = trace_flat(module, inputs, dynamic, {}), export_flat(module, inputs, dynamic, {})
    for flat in (eager, exported):
        lift(flat)
    assert Counter(n.op for n in exported.nodes) == Counter(n.op for n in eager.nodes)


def test_gpt2_layers_are_twelve_calls_of_one_block_of_eleven_nodes() -> None:
    found = load_source("gpt2", weights=False)
    (block,) = found.graph.blocks
    assert block.name == "GPT2Block"
    assert [n.op for n in block.nodes] == [
        "LayerNorm", "Linear", "Split", "Attention", "Linear", "Add", "LayerNorm", "Linear", "Gelu", "Linear", "Add",
    ]  # fmt: skip
    assert sum(n.is_call for n in found.graph.main.nodes) == 12
    assert found.report.primitive == {}
    assert str(found.graph.main.output_types[0]) == "float32[batch,seq,50257]"


def test_gemma2_layers_alternate_windows_and_cap_scores() -> None:
    found = import_config(family("gemma2").make_config())
    attentions = [n.attr_map for b in found.graph.blocks for n in b.nodes if n.op == "Attention"]
    assert [a["window"] for a in attentions] == [5, None]
    assert all(a["softcap"] == 50.0 and a["causal"] for a in attentions)


def test_t5_position_bias_is_one_node_per_stack() -> None:
    found = import_config(family("t5").make_config())
    biases = [n for b in found.graph.all_blocks for n in b.nodes if n.op == "RelativePositionBias"]
    assert sorted(n.attr_map["bidirectional"] for n in biases) == [False, True]


def test_random_weights_follow_the_seed() -> None:
    small = {"n_layer": 1, "n_embd": 8, "n_head": 2, "vocab_size": 20, "bos_token_id": 1, "eos_token_id": 2}
    first, again, other = (load_source("gpt2", seed=s, config_overrides=small) for s in (0, 0, 1))
    name = "transformer.wte.weight"
    assert first.report.weights == "random"
    assert torch.equal(first.parameters[name], again.parameters[name])
    assert not torch.equal(first.parameters[name], other.parameters[name])


def test_folder_with_safetensors_loads_its_weights(tmp_path: Path) -> None:
    model: Any = build_random(family("gpt2").make_config(), seed=3)
    model.save_pretrained(tmp_path)
    found = load_source(str(tmp_path))
    assert found.report.weights == "loaded"
    state = model.state_dict()
    for name in found.parameters:
        assert torch.equal(found.parameters[name], state[name])


def test_folder_with_a_pickle_only_is_refused(tmp_path: Path) -> None:
    config = family("gpt2").make_config()
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict()))
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(SourceError, match="safetensors"):
        load_source(str(tmp_path))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("gtp2", "gpt2"),
        ("weights.pt", "safetensors"),
        ("no_such_module:make", "package.module:function"),
        ("genmad.importers.from_function:parse_inputs", "without arguments"),
    ],
)
def test_sources_that_cannot_be_read_say_what_to_type(source: str, message: str) -> None:
    with pytest.raises(SourceError, match=message) as caught:
        load_source(source)
    assert caught.value.exit_code == 3


def test_inputs_are_parsed_or_refused() -> None:
    parsed = parse_inputs(["x=1x3x8x8:float32", "ids=2x5:int64"])
    assert parsed["x"].shape == (1, 3, 8, 8)
    assert parsed["ids"].dtype == torch.int64
    with pytest.raises(SourceError, match="name=1x3x224x224"):
        parse_inputs(["x=3,3"])


def test_parameters_cover_every_weight_of_the_model() -> None:
    """Nothing of the source is lost: names are exactly the keys of the state dict, tied ones once."""
    found = import_config(family("llama").make_config())
    assert isinstance(found.parameters, ModuleParameters)
    state = build_skeleton(family("llama").make_config()).state_dict()
    assert {n for n in found.parameters if "inv_freq" not in n} == set(state)
