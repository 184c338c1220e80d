"""Operators that `import torchvision` expects of its compiled part, declared where that part cannot be loaded.

torchvision's wheel is built for CUDA; beside a CPU build of torch its library does not load and its import fails, and
takes timm and parts of transformers down with it. Nothing that is imported here calls these operators.
"""

import importlib.util
from pathlib import Path

import torch

_SCHEMAS = ("nms", "qnms")


def ensure_torchvision_ops() -> None:
    """Loads torchvision's compiled part, or declares the operators that it would have defined."""
    if hasattr(torch.ops.torchvision, "nms"):
        return
    found = importlib.util.find_spec("torchvision")
    folders = list(found.submodule_search_locations or ()) if found is not None else []
    if not folders:
        return
    for library in Path(folders[0]).glob("_C.*"):
        try:
            torch.ops.load_library(str(library))
        except OSError:
            continue
    for name in _SCHEMAS:
        if not hasattr(torch.ops.torchvision, name):
            schema = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            torch.library.define(f"torchvision::{name}", schema)
