"""How a model is called, and what the rules of `inputs.py` may look at."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

Axes = Mapping[int, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How to call a model.

    Attributes:
        inputs: name -> tensor on the meta device; they become inputs of the graph.
        dynamic: input -> axis -> symbol.
        constants: name -> real tensor that fixes the layout (the grid of an image); they become constants.
        kwargs: arguments that are no tensors.
        bounds: integer input -> (lowest, highest + 1) that its embedding takes.
        modality: kinds of content, in words: `text`, `vision`, `text + vision`, `audio`, ...
    """

    inputs: Mapping[str, Tensor]
    dynamic: Mapping[str, Axes]
    constants: Mapping[str, Tensor] = field(default_factory=dict)
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    bounds: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    modality: str = "text"

    @property
    def call_kwargs(self) -> dict[str, Any]:
        """Everything forward gets beside the inputs."""
        return {**self.kwargs, **self.constants}


@dataclass(frozen=True, slots=True)
class Given:
    """One argument: a tensor with its symbolic axes, `constant` when its values fix the layout."""

    tensor: Tensor
    axes: Axes = field(default_factory=dict)
    constant: bool = False
    bounds: tuple[int, int] = (0, 2)


class Context:
    """A module seen by the rules: its signature, its config and the parts of that by kind."""

    def __init__(self, module: Any) -> None:
        self.module = module
        self.config = module.config
        self.signature = {n: p for n, p in inspect.signature(type(module).forward).parameters.items() if n != "self"}

    def part(self, *kinds: str) -> Any:
        """The first part of the config that is there, else the config itself."""
        found = parts_of(self.config)
        return next((found[kind] for kind in kinds if kind in found), self.config)

    @property
    def text(self) -> Any:
        return self.part("text_config", "llm_config", "decoder", "text_encoder", "language_config", "text_model_config")

    @property
    def vision(self) -> Any:
        return self.part("vision_config", "vision_encoder", "encoder", "backbone_config", "image_config")

    @property
    def audio(self) -> Any:
        return self.part(
            "audio_config", "encoder_config", "audio_encoder", "speech_config", "encoder", "sound_config",
            "audio_encoder_config", "acoustic_tokenizer_config", "codec_config",
        )  # fmt: skip

    def takes(self, name: str) -> bool:
        return name in self.signature

    def needs(self, name: str) -> bool:
        return self.takes(name) and self.signature[name].default is inspect.Parameter.empty


def parts_of(config: Any) -> dict[str, Any]:
    """Parts of a config by name, at any depth; the outer one wins."""
    found: dict[str, Any] = {}
    for key in getattr(config, "sub_configs", None) or {}:
        part = getattr(config, key, None)
        if part is not None and not isinstance(part, dict):
            found[key] = part
    for key in ("encoder", "decoder", "backbone_config"):
        part = getattr(config, key, None)
        if hasattr(part, "model_type"):
            found.setdefault(key, part)
    for part in list(found.values()):
        for key, inner in parts_of(part).items():
            found.setdefault(key, inner)
    return found


def first_of(config: Any, *names: str, default: Any = None) -> Any:
    """The first field that is set."""
    return next((v for n in names if (v := getattr(config, n, None)) is not None), default)


def pair(value: Any, default: int) -> tuple[int, int]:
    """Height and width of a size given as a number, a pair or a mapping."""
    if isinstance(value, Mapping):
        height = value.get("height") or value.get("shortest_edge") or value.get("longest_edge") or default
        return int(height), int(value.get("width") or height)
    if isinstance(value, (tuple, list)) and value:
        return int(value[0]), int(value[-1])
    return (int(value), int(value)) if isinstance(value, (int, float)) and value else (default, default)


def meta_tensor(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def vocabulary(config: Any) -> int:
    return int(first_of(config, "vocab_size", "num_tokens", "src_vocab_size", "encoder_vocab_size", default=100))


Rule = Callable[[Context], Given]
