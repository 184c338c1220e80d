"""A model and its imported graph on the same weights and the same inputs."""

import os
import warnings
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from genmad.ir.types import evaluate_dim

if TYPE_CHECKING:
    from torch import Tensor

    from genmad.importers.inputs import Recipe
    from genmad.importers.report import Imported

SIZES = {"batch": 2, "seq": 9, "target": 7}
MAX_PARAMETERS = 400_000_000
_CHECKS = "TRANSFORMERS_DISABLE_TORCH_CHECK"


def compare(config: Any, imported: "Imported", seed: int) -> tuple[float, float]:
    """(largest difference, largest output) of a config's model with random weights and its imported graph.

    Raises `ValueError` where the shapes differ or the model is too large to be built.
    """
    import torch

    from genmad.importers.from_torch import ModuleParameters, main_outputs
    from genmad.importers.hf_model import build_random
    from genmad.importers.inputs import recipe_of
    from genmad.lowering.to_torch import to_torch

    if not isinstance(imported.parameters, ModuleParameters):
        raise ValueError(f"got parameters of {type(imported.parameters).__name__}; expected a module's")
    _check_size(imported.parameters)
    generator = torch.Generator().manual_seed(seed)
    module: Any = build_random(config, seed=seed)
    perturb({id(t): t for t in module.state_dict().values()}.values(), generator)
    weights = imported.parameters.of(module)
    lowered = to_torch(imported.graph, {name: weights[name] for name in weights})
    recipe = recipe_of(module)
    inputs = random_inputs(recipe, imported, config, generator)
    os.environ[_CHECKS] = "1"
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        want = [tensor for _, tensor in main_outputs(module(**inputs, **recipe.call_kwargs))]
        got = lowered(**{value.name: inputs[value.name] for value in imported.graph.main.inputs})
    got = [got] if isinstance(got, torch.Tensor) else list(got)
    if [t.shape for t in got] != [t.shape for t in want]:
        raise ValueError(f"got shapes {[tuple(t.shape) for t in got]}; expected {[tuple(t.shape) for t in want]}")
    pairs = list(zip(got, want, strict=True))
    return max(_difference(a, b) for a, b in pairs), max(_largest(b) for _, b in pairs)


def _check_size(parameters: Mapping[str, "Tensor"]) -> None:
    count = sum(parameters[name].numel() for name in parameters)
    if count > MAX_PARAMETERS:
        raise ValueError(f"{count / 1e6:.0f}M parameters are too many to compare")


def _difference(a: "Tensor", b: "Tensor") -> float:
    """Largest difference; equal infinities and equal NaNs count as equal."""
    import torch

    a, b = a.double(), b.double()
    same = (a == b) | (torch.isnan(a) & torch.isnan(b))
    gap = torch.where(same, 0.0, (a - b).abs()).nan_to_num(nan=float("inf"))
    return float(gap.max()) if gap.numel() else 0.0


def _largest(tensor: "Tensor") -> float:
    finite = tensor.double().nan_to_num(nan=0.0, posinf=0.0, neginf=0.0).abs()
    return float(finite.max()) if finite.numel() else 0.0


def perturb(tensors: Iterable["Tensor"], generator: Any) -> None:
    """Moves every parameter and statistic, so that a swapped or forgotten one changes the output.

    Tables that the code computes (rotary angles) are no part of a state and stay.
    """
    import torch

    with torch.no_grad():
        for tensor in tensors:
            if tensor.is_floating_point() and tensor.dim() > 0:
                noise = torch.rand(tensor.shape, generator=generator)
                tensor.mul_(1 + 0.2 * noise).add_((0.05 if tensor.dim() == 1 else 0.01) * noise)


def random_inputs(recipe: "Recipe", imported: "Imported", config: Any, generator: Any) -> dict[str, "Tensor"]:
    """Inputs at sizes other than the traced ones, wherever the graph leaves a size open."""
    import torch

    declared = {value.name: value.type for value in imported.graph.main.inputs}
    dims = [d for type_ in declared.values() for d in type_.shape if not isinstance(d, int)]
    open_sizes = {symbol for d in dims for symbol in d.symbols}
    made = {}
    for name, tensor in recipe.inputs.items():
        axes = recipe.dynamic.get(name, {})
        shape = [SIZES[axes[i]] if axes.get(i) in open_sizes else size for i, size in enumerate(tensor.shape)]
        if name in declared:
            shape = [evaluate_dim(d, SIZES) for d in declared[name].shape]
        if tensor.is_floating_point():
            made[name] = torch.randn(shape, generator=generator, dtype=tensor.dtype)
            continue
        made[name] = torch.randint(*recipe.bounds[name], shape, generator=generator).to(tensor.dtype)
        if name == "input_ids" and len(recipe.inputs) > 1:
            _place_markers(made[name], config)
    return made


def _place_markers(ids: "Tensor", config: Any) -> None:
    """Puts the words that stand for an image or a sound into every row, so that their features are used."""
    keys = ("image_token_id", "image_token_index", "audio_token_id", "audio_token_index")
    marks = [getattr(config, key, None) for key in keys]
    for place, mark in enumerate(m for m in marks if isinstance(m, int)):
        if ids.dim() == 2 and ids.shape[1] > 2 * place + 2:
            ids[:, 1 + 2 * place : 3 + 2 * place] = mark
