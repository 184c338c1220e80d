"""Models of timm, diffusers and torch-geometric by name: they import, compute the same, and errors say what to type."""

import importlib.util
from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from genmad.importers.catalog import Entry, catalogue, import_entry
from genmad.importers.from_hf import load_source
from genmad.importers.from_torch import ModuleParameters, call_forward, main_outputs
from genmad.importers.report import Imported, SourceError
from genmad.lowering.to_torch import to_torch

TOLERANCE = 1e-5
SIZES = {"batch": 2, "seq": 9, "nodes": 30, "edges": 70}
NEEDS = {"timm": ("timm", "torchvision"), "diffusers": ("diffusers",), "pyg": ("torch_geometric",)}


def need(library: str) -> None:
    missing = [name for name in NEEDS[library] if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} is not installed")


def perturb(module: nn.Module, generator: torch.Generator) -> None:
    """Moves every parameter and statistic, so that a swapped or forgotten one changes the output."""
    with torch.no_grad():
        for tensor in {id(t): t for t in module.state_dict().values()}.values():
            if tensor.is_floating_point() and tensor.dim() > 0:
                noise = torch.rand(tensor.shape, generator=generator)
                tensor.mul_(1 + 0.2 * noise).add_(0.05 * noise if tensor.dim() == 1 else 0.01 * noise)


def random_inputs(entry: Entry, module: nn.Module, generator: torch.Generator) -> dict[str, Tensor]:
    made = {}
    for name, tensor in entry.inputs(module).items():
        axes = entry.dynamic.get(name, {})
        shape = [SIZES[axes[i]] if i in axes else size for i, size in enumerate(tensor.shape)]
        whole = tensor.dtype == torch.int64
        made[name] = (
            torch.randint(0, 3, shape, generator=generator) if whole else torch.rand(shape, generator=generator)
        )
    return made


def round_trip(library: str, name: str, **overrides: Any) -> Imported:
    """Imports a small model and asserts that its graph gives the same outputs with the same weights.

    Where the largest output is above 1 the tolerance is `TOLERANCE` of it, as in `genmad.evals.import_scan`: the
    small U-Net of diffusers reaches 11.5, where sums in another order differ by 1.5e-5.
    """
    need(library)
    entry = catalogue(library).entry(name, size="small", **overrides)
    generator = torch.Generator().manual_seed(0)
    module = entry.random(0)
    perturb(module, generator)
    imported = import_entry(entry)
    assert isinstance(imported.parameters, ModuleParameters)
    weights = imported.parameters.of(module)
    lowered = to_torch(imported.graph, seed=None)
    lowered.load_state_dict({key: weights[key] for key in weights})
    inputs = random_inputs(entry, module, generator)
    with torch.no_grad():
        got = lowered(**{value.name: inputs[value.name] for value in imported.graph.main.inputs})
        want = [tensor for _, tensor in main_outputs(call_forward(module, inputs, entry.call_kwargs))]
    got = [got] if isinstance(got, Tensor) else list(got)
    assert [t.shape for t in got] == [t.shape for t in want]
    difference = max(float((a - b).abs().max()) for a, b in zip(got, want, strict=True))
    largest = max(1.0, *(float(tensor.abs().max()) for tensor in want))
    assert difference <= TOLERANCE * largest, f"{library}:{name} differs by {difference:.1e} of {largest:.1e}"
    return imported


def ops(imported: Imported) -> Counter[str]:
    return Counter(node.op for block in imported.graph.all_blocks for node in block.nodes)


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_convnext", "test_efficientnet", "resnetv2_18"])
def test_timm_models_give_the_same_outputs(name: str) -> None:
    found = round_trip("timm", name)
    assert found.report.primitive == {}


@pytest.mark.parametrize("name", ["UNet2DConditionModel", "AutoencoderKL", "DiTTransformer2DModel", "UNet1DModel"])
def test_diffusers_models_give_the_same_outputs(name: str) -> None:
    found = round_trip("diffusers", name)
    assert found.report.primitive == {}


@pytest.mark.parametrize(
    "name", ["GCN", "GraphSAGE", "GIN", "GAT", "PNA", "EdgeCNN", "AttentiveFP", "SchNet", "LightGCN", "GroupAddRev"]
)
def test_graph_networks_give_the_same_outputs_on_another_graph(name: str) -> None:
    """Scatters are in-place calls (`scatter_add_`, `F.elu_`); a tracer that drops one is silently wrong."""
    round_trip("pyg", name)


def test_the_unet_of_stable_diffusion_1_4_has_its_published_size() -> None:
    """860 million parameters; cross-attention to text of width 768 in stages of 320, 640 and 1280 channels."""
    need("diffusers")
    found = load_source("diffusers:UNet2DConditionModel", weights=False)
    assert found.report.primitive == {}
    assert found.report.source == "diffusers:UNet2DConditionModel"
    assert ops(found)["Attention"] >= 2
    made_by_the_import = {name for name in found.parameters if name.endswith("constant")}
    sizes = {name: found.parameters[name].numel() for name in found.parameters}
    assert sum(n for name, n in sizes.items() if name not in made_by_the_import) == 859_520_964
    assert found.graph.num_nodes < 500


@pytest.mark.parametrize("name", ["efficientnet_b0", "mobilenetv3_large_100", "regnety_002"])
def test_squeeze_and_excite_is_one_node(name: str) -> None:
    need("timm")
    found = catalogue("timm").import_name(name)
    gates = sum(count for op, count in ops(found).items() if op == "SqueezeExcite")
    assert gates >= 5
    assert ops(found)["ReduceMean"] == 0


def test_standardised_weights_are_folded_into_the_convolutions() -> None:
    """ScaledStdConv computes its weight from its parameters at every run; the graph holds a plain convolution."""
    found = round_trip("timm", "test_nfnet")
    assert ops(found)["SqueezeExcite"] == 4
    assert found.report.primitive == {}


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("timm:resnet5O", "timm:resnet50"),
        ("diffusers:UNet2DConditionalModel", "diffusers:UNet2DConditionModel"),
        ("pyg:GNC", "pyg:GCN"),
    ],
)
def test_unknown_names_are_answered_with_the_nearest(source: str, message: str) -> None:
    need(source.partition(":")[0])
    with pytest.raises(SourceError, match=message) as caught:
        load_source(source)
    assert caught.value.exit_code == 3


@pytest.mark.parametrize(("library", "fix"), [("timm", "--no-deps timm torchvision"), ("diffusers", "diffusers")])
def test_a_missing_package_is_told_with_what_installs_it(
    library: str, fix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalogue(library).model_names.cache_clear()
    monkeypatch.setattr(importlib.util, "find_spec", lambda *_args, **_kwargs: None)
    with pytest.raises(SourceError, match=fix):
        load_source(f"{library}:resnet50")


def test_random_weights_of_a_catalogue_model_follow_the_seed() -> None:
    need("pyg")
    first, again, other = (load_source("pyg:GCN", seed=seed) for seed in (0, 0, 1))
    name = next(iter(first.parameters))
    assert first.report.weights == "random"
    assert torch.equal(first.parameters[name], again.parameters[name])
    assert any(not torch.equal(first.parameters[n], other.parameters[n]) for n in first.parameters)
