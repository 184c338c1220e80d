"""Imported families compute what the original model does with the same weights, at sizes other than the traced ones."""

import warnings
from typing import Any

import pytest
import torch
from torch import nn

from genmad.data.families import FAMILIES, Family
from genmad.importers.from_hf import build_random, example_inputs, import_config
from genmad.importers.from_torch import ModuleParameters, main_outputs
from genmad.lowering.to_torch import to_torch

TOLERANCE = 1e-5
SIZES = {"batch": 2, "seq": 9, "target": 7}


def perturb(module: nn.Module, generator: torch.Generator) -> None:
    """Moves every parameter and statistic, so that a swapped or forgotten one changes the output."""
    with torch.no_grad():
        for tensor in {id(t): t for t in module.state_dict().values()}.values():
            if tensor.is_floating_point() and tensor.dim() > 0:
                noise = torch.rand(tensor.shape, generator=generator)
                tensor.mul_(1 + 0.2 * noise).add_(0.05 * noise if tensor.dim() == 1 else 0.01 * noise)


def random_inputs(module: Any, generator: torch.Generator) -> dict[str, torch.Tensor]:
    examples, dynamic = example_inputs(module)
    made = {}
    for name, tensor in examples.items():
        shape = [SIZES[dynamic[name][i]] if i in dynamic[name] else size for i, size in enumerate(tensor.shape)]
        if tensor.dtype == torch.int64:
            made[name] = torch.randint(3, 90, shape, generator=generator)
        else:
            made[name] = torch.randn(shape, generator=generator)
    return made


def largest_difference(family: Family, kwargs: dict[str, Any] | None = None) -> tuple[float, int, Any]:
    """(largest absolute difference over the outputs, folded node count, report)."""
    generator = torch.Generator().manual_seed(0)
    module = build_random(family.make_config(kwargs), seed=0)
    perturb(module, generator)
    imported = import_config(family.make_config(kwargs))
    assert isinstance(imported.parameters, ModuleParameters)
    weights = imported.parameters.of(module)
    lowered = to_torch(imported.graph, seed=None)
    missing, unexpected = lowered.load_state_dict({name: weights[name] for name in weights}, strict=False)
    assert not missing
    assert not unexpected
    inputs = random_inputs(module, generator)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        extra = {"use_cache": False} if hasattr(module.config, "use_cache") else {}
        want = [t for _, t in main_outputs(module(**inputs, **extra))]
        got = lowered(**inputs)
    got = [got] if isinstance(got, torch.Tensor) else list(got)
    assert [t.shape for t in got] == [t.shape for t in want]
    return (
        max(float((a - b).abs().max()) for a, b in zip(got, want, strict=True)),
        imported.graph.num_nodes,
        imported.report,
    )


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.model_type)
def test_imported_family_gives_the_same_outputs(family: Family, capsys: pytest.CaptureFixture[str]) -> None:
    difference, nodes, report = largest_difference(family)
    with capsys.disabled():
        print(
            f"\n{family.model_type}: max difference {difference:.1e}, {nodes} nodes, primitive {dict(report.primitive)}"
        )
    assert difference <= TOLERANCE
