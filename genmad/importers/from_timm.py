"""Image models of timm by name, built without weights."""

import importlib.util
from functools import cache
from typing import Any

import torch
from torch import Tensor

from genmad.importers.catalog import Entry, check_size, import_entry, missing_package, unknown_name
from genmad.importers.report import Imported
from genmad.importers.torchvision_ops import ensure_torchvision_ops

LIBRARY = "timm"
_INSTALL = "pip install --no-deps timm torchvision (plainly they bring gigabytes of CUDA packages)"


def _timm() -> Any:
    """The package. Raises `SourceError` where it is not installed."""
    if importlib.util.find_spec("timm") is None or importlib.util.find_spec("torchvision") is None:
        raise missing_package(LIBRARY, "timm", _INSTALL)
    ensure_torchvision_ops()
    import timm

    return timm


@cache
def model_names() -> tuple[str, ...]:
    """Every model timm can build, without its tags. Raises `SourceError` where timm is not installed."""
    return tuple(_timm().list_models())


def model_family(name: str) -> str:
    """The file of timm that defines a model: `resnet`, `vision_transformer`. Raises `SourceError`."""
    return str(_timm().models.model_entrypoint(name.partition(".")[0]).__module__.rsplit(".", 1)[-1])


def entry(name: str, *, size: str = "full", **overrides: Any) -> Entry:
    """A model by name; a tag behind a dot (`resnet50.a1_in1k`) chooses the input size.

    Args:
        name: of timm's registry.
        size: `small` builds it on a smaller image with 10 classes where it allows that.
        overrides: further arguments of `timm.create_model` (`num_classes=10`, `img_size=96`).

    Raises:
        SourceError: timm is not installed or has no such model.
    """
    check_size(size)
    timm = _timm()
    if name.partition(".")[0] not in model_names():
        raise unknown_name(LIBRARY, name, model_names())
    given = ({"num_classes": 10} if size == "small" else {}) | overrides
    return Entry(
        name=name, library=LIBRARY, build=lambda: timm.create_model(name, pretrained=False, **given),
        inputs=_inputs, dynamic={"x": {0: "batch"}},
    )  # fmt: skip


def _inputs(module: Any) -> dict[str, Tensor]:
    config = module.pretrained_cfg
    size = config.get("input_size") or (3, 224, 224)
    return {"x": torch.empty(1, *size, device="meta")}


def import_name(name: str, *, size: str = "full", **overrides: Any) -> Imported:
    """The graph of a model; see `entry`. Raises `SourceError` or `UnsupportedError`."""
    return import_entry(entry(name, size=size, **overrides))
