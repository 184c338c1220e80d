"""ONNX files that torch exports: plain modules, small transformers and timm models, by both exporters."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genmad.evals.onnx_cases import Arrays, OnnxCase

if TYPE_CHECKING:
    from torch import Tensor, nn

PLAIN = ("mlp", "cnn", "unet", "encoder", "lstm", "gru", "conv1d", "conv3d", "gated", "pooled")
FAMILIES = (
    "gpt2", "llama", "gemma2", "mistral", "qwen2", "bert", "distilbert", "opt", "t5", "vit", "resnet", "convnext",
    "swin", "mobilenet_v2", "segformer",
)  # fmt: skip
TIMM = (
    "resnet18",
    "mobilenetv3_small_050",
    "vit_tiny_patch16_224",
    "convnext_atto",
    "mixer_s32_224",
    "efficientnet_b0",
)
DYNAMO_OPSETS = (17, 18, 20, 21, 22, 23)
SCRIPT_OPSETS = (11, 13, 17)


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A model to export: its name, and what makes it, its inputs by name, and their symbolic axes."""

    name: str
    make: "Callable[[], tuple[nn.Module, dict[str, Tensor], Mapping[str, Mapping[int, str]]]]"


def sources() -> Iterator[Source]:
    for name in PLAIN:
        yield Source(name=name, make=partial(plain_model, name))
    for name in FAMILIES:
        yield Source(name=name, make=partial(_family_model, name))
    for name in TIMM:
        yield Source(name=f"timm-{name}", make=partial(_timm_model, name))


def export_cases(
    folder: Path, *, every_opset: tuple[str, ...] = ("mlp", "cnn", "encoder", "llama")
) -> Iterator[OnnxCase]:
    """A case per model and exporter; the files are made in `folder` when first asked for and kept there.

    Args:
        every_opset: models that dynamo exports at each opset from 17 to 23; the others at 18 and 23.
    """
    for source in sources():
        for opset in SCRIPT_OPSETS:
            yield _case(source, folder, False, opset)
    for source in sources():
        for opset in DYNAMO_OPSETS if source.name in every_opset else (18, 23):
            yield _case(source, folder, True, opset)


def _case(source: Source, folder: Path, dynamo: bool, opset: int) -> OnnxCase:
    kind = f"{'dynamo' if dynamo else 'script'}-{opset}"
    path = folder / f"{source.name}-{kind}.onnx"
    return OnnxCase(
        name=f"{kind}/{source.name}",
        source=f"torch/{kind}",
        load=partial(_exported, source, path, dynamo, opset),
        data=partial(_outputs, path),
    )


def _exported(source: Source, path: Path, dynamo: bool, opset: int) -> bytes:
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        export(source, path, dynamo=dynamo, opset=opset)
    return path.read_bytes()


def export(source: Source, path: Path, *, dynamo: bool, opset: int) -> None:
    """Writes the file and, beside it, the inputs and what the module computes from them."""
    import logging
    import warnings

    import numpy as np
    import torch

    module, inputs, dynamic = source.make()
    module.eval()
    partly = path.with_suffix(".part")
    named = {name: dict(dynamic.get(name, {})) for name in inputs}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        level = logging.root.manager.disable
        logging.disable(logging.WARNING)
        try:
            if dynamo:
                dims = {name: {a: torch.export.Dim.DYNAMIC for a in axes} for name, axes in named.items()}
                torch.onnx.export(
                    module, (), str(partly), kwargs=inputs, dynamo=True, opset_version=opset, dynamic_shapes=dims,
                    verbose=False, external_data=False, optimize=True,
                )  # fmt: skip
            else:
                torch.onnx.export(
                    module, (), str(partly), kwargs=inputs, dynamo=False, opset_version=opset,
                    input_names=list(inputs), dynamic_axes={k: v for k, v in named.items() if v},
                )  # fmt: skip
        finally:
            logging.disable(level)
        wanted = _tensors(module(**inputs))
    arrays: dict[str, Any] = {f"in{i}": t.numpy() for i, t in enumerate(inputs.values())}
    arrays |= {f"out{i}": t.numpy() for i, t in enumerate(wanted)}
    np.savez(path.with_suffix(".npz"), **arrays)
    partly.replace(path)


def _tensors(result: Any) -> "list[Tensor]":
    """Every tensor of a nested result, in order."""
    import torch

    if isinstance(result, torch.Tensor):
        return [result]
    if isinstance(result, Mapping):
        return [t for value in result.values() for t in _tensors(value)]
    return [t for value in result for t in _tensors(value)] if isinstance(result, (list, tuple)) else []


def _outputs(path: Path) -> list[tuple[Arrays, Arrays]]:
    import numpy as np

    with np.load(path.with_suffix(".npz")) as arrays:
        pair = [
            [arrays[f"{kind}{i}"] for i in range(sum(k.startswith(kind) for k in arrays))] for kind in ("in", "out")
        ]
    return [(pair[0], pair[1])]


def _family_model(name: str) -> Any:
    import torch

    from genmad.data.families import family
    from genmad.importers.from_hf import build_random, example_inputs

    config = family(name).make_config()
    if hasattr(config, "use_cache"):
        config.use_cache = False
    config.return_dict = True
    module = build_random(config, seed=0)
    move(module)
    examples, dynamic = example_inputs(module)
    generator = torch.Generator().manual_seed(0)
    sizes = {"batch": 2, "seq": 9, "target": 7}
    inputs = {}
    for key, tensor in examples.items():
        shape = [sizes.get(dynamic.get(key, {}).get(i, ""), d) for i, d in enumerate(tensor.shape)]
        ids = tensor.dtype == torch.int64
        inputs[key] = (
            torch.randint(3, 40, shape, generator=generator) if ids else torch.randn(shape, generator=generator)
        )
    return module, inputs, dynamic


def move(module: "nn.Module") -> None:
    """Moves every parameter and statistic a little, because exporters store equal tensors once."""
    import torch

    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in (*module.parameters(), *module.buffers()):
            if tensor.is_floating_point() and tensor.dim():
                tensor.mul_(1 + 0.1 * torch.rand(tensor.shape, generator=generator)).add_(0.01)


def _timm_model(name: str) -> Any:
    import torch

    from genmad.importers.torchvision_ops import ensure_torchvision_ops

    ensure_torchvision_ops()
    import timm

    torch.manual_seed(0)
    module: Any = timm.create_model(name, pretrained=False)
    move(module)
    _, height, width = module.default_cfg.get("input_size", (3, 224, 224))
    generator = torch.Generator().manual_seed(0)
    return module, {"x": torch.randn(2, 3, height, width, generator=generator)}, {"x": {0: "batch"}}


def plain_model(name: str) -> Any:
    """A small module of its own kind, its inputs and symbolic axes."""
    import torch

    from genmad.evals.onnx_modules import MODULES

    torch.manual_seed(0)
    make, shape, axes = MODULES[name]
    return make(), {"x": torch.randn(shape)}, {"x": dict(axes)}
