"""Models of diffusers by class name, built from their default or published sizes without weights.

What each class is called with stands in `diffusers_models.yaml`, which its first lines explain.
"""

import importlib.util
import re
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from genmad.importers.catalog import Entry, check_size, import_entry, missing_package, unknown_name
from genmad.importers.from_torch import InputSlot
from genmad.importers.report import Imported
from genmad.importers.torchvision_ops import ensure_torchvision_ops

LIBRARY = "diffusers"
_SYMBOLS = {"B": "batch", "S": "seq"}
_EXAMPLE = {"B": 1, "S": 16}
# Last words of inputs whose contents decide which code runs: they are constants of the import.
_FILLED: Mapping[str, Callable[[list[int]], Tensor]] = {
    "ones": torch.ones, "zeros": torch.zeros, "arange": lambda sizes: torch.arange(sizes[-1]).expand(sizes),
    "tail": lambda sizes: (torch.arange(sizes[-1]) >= sizes[-1] // 2).expand(sizes),
}  # fmt: skip
# How deep a small model is, by the names that depths and head counts have.
_SMALL = {
    "num_layers": 2, "num_single_layers": 1, "num_attention_heads": 2, "num_refiner_layers": 1, "n_layers": 2,
    "num_hidden_layers": 2, "num_mmdit_layers": 1, "num_single_dit_layers": 1, "n_refiner_layers": 1, "nlayers": 2,
    "dit_depth": 2, "depth": 2, "num_heads": 2, "n_heads": 2, "num_text_blocks": 1, "num_visual_blocks": 1,
}  # fmt: skip


def _diffusers() -> Any:
    """The package. Raises `SourceError` where it is not installed."""
    if importlib.util.find_spec("diffusers") is None:
        raise missing_package(LIBRARY, "diffusers", "pip install diffusers")
    ensure_torchvision_ops()
    import diffusers

    return diffusers


@cache
def _table() -> Mapping[str, Mapping[str, Any]]:
    text = Path(__file__).with_name("diffusers_models.yaml").read_text(encoding="utf-8")
    found: Mapping[str, Mapping[str, Any]] = yaml.safe_load(text)
    return found


@cache
def model_names() -> tuple[str, ...]:
    """Every class that has a recipe and that this version of diffusers has. Raises `SourceError` without diffusers."""
    package = _diffusers()
    return tuple(name for name in _table() if hasattr(package, name))


def entry(name: str, *, size: str = "full", **overrides: Any) -> Entry:
    """A model by class name.

    Args:
        name: a class of diffusers.
        size: `full` takes the published sizes where the default ones are a toy's, `small` those of a test.
        overrides: arguments of its constructor.

    Raises:
        SourceError: diffusers is not installed or has no such model.
    """
    check_size(size)
    package = _diffusers()
    if name not in model_names():
        raise unknown_name(LIBRARY, name, model_names())
    recipe, kind = _table()[name], getattr(package, name)
    settings = {**recipe.get("full", {})}
    if size == "small":
        fields = _fields(kind)
        cut = {key: value for key, value in _SMALL.items() if isinstance(settings.get(key, fields.get(key)), int)}
        settings |= {**cut, **recipe.get("small", {})}
    settings |= overrides
    shapes = {key: str(text).split() for key, text in recipe["inputs"].items()}
    fixed = {key: _constant(words) for key, words in shapes.items() if words[-1] in _FILLED}
    shapes = {key: words for key, words in shapes.items() if key not in fixed}
    call, held = recipe.get("call", {}), set(re.findall(r"\$(\w+)", str(recipe.get("call", ""))))
    return Entry(
        name=name, library=LIBRARY, build=lambda: kind(**settings), inputs=lambda module: _inputs(shapes, module),
        dynamic={key: axes for key, words in shapes.items() if (axes := _axes(words))},
        call_kwargs={key: t for key, t in fixed.items() if key not in held} | _with_slots(call, fixed),
    )  # fmt: skip


def _fields(kind: Any) -> dict[str, Any]:
    import inspect

    return {key: parameter.default for key, parameter in inspect.signature(kind.__init__).parameters.items()}


def _axes(words: list[str]) -> dict[int, str]:
    return {axis: _SYMBOLS[word] for axis, word in enumerate(words) if word in _SYMBOLS}


def _inputs(shapes: Mapping[str, list[str]], module: Any) -> dict[str, Tensor]:
    """Meta tensors of the recipe's shapes, its words looked up in the module's config."""
    made = {}
    for key, words in shapes.items():
        dtype = getattr(torch, words[-1], None)
        is_typed = isinstance(dtype, torch.dtype)
        sizes = [_size(word, module.config) for word in (words[:-1] if is_typed else words)]
        made[key] = torch.empty(sizes, dtype=dtype if is_typed else torch.float32, device="meta")
    return made


def _size(word: str, config: Any) -> int:
    """`in_channels*4+1` by the fields of a config, from left to right."""
    parts = re.split(r"(//|[*+-])", word)
    total = _atom(parts[0], config)
    for sign, part in zip(parts[1::2], parts[2::2], strict=True):
        other = _atom(part, config)
        total = {"*": total * other, "+": total + other, "-": total - other, "//": total // max(other, 1)}[sign]
    return total


def _atom(word: str, config: Any) -> int:
    if word in _EXAMPLE:
        return _EXAMPLE[word]
    if word.isdigit():
        return int(word)
    name, _, index = word.partition(".")
    value = config[name]
    return int(value[int(index)] if index else value)


def _constant(words: list[str]) -> Tensor:
    """`1 16 bool ones` as a tensor with these contents."""
    sizes, dtype = [int(word) for word in words if word.isdigit()], getattr(torch, words[-2], None)
    return _FILLED[words[-1]](sizes).to(dtype if isinstance(dtype, torch.dtype) else torch.float32)


def _with_slots(tree: Any, fixed: Mapping[str, Tensor]) -> Any:
    """The `call` part of a recipe with "$name" as `InputSlot`, or as the constant of that name."""
    if isinstance(tree, str) and tree.startswith("$"):
        return fixed.get(tree[1:], InputSlot(tree[1:]))
    if isinstance(tree, list):
        return [_with_slots(item, fixed) for item in tree]
    if isinstance(tree, dict):
        return {key: _with_slots(item, fixed) for key, item in tree.items()}
    return tree


def import_name(name: str, *, size: str = "full", **overrides: Any) -> Imported:
    """The graph of a model; see `entry`. Raises `SourceError` or `UnsupportedError`."""
    return import_entry(entry(name, size=size, **overrides))
