"""Functions run on the meta device: what they are called with there, and what plain arithmetic gives."""

from typing import Any

import torch
from torch import Tensor

from genmad.importers.evaluate import FACTORIES
from genmad.importers.records import map_tensors, tensors_in

# Functions of one floating tensor, or of two of one dtype, that keep the dtype.
_ARITHMETIC = {
    "add", "__add__", "__radd__", "sub", "__sub__", "__rsub__", "mul", "__mul__", "__rmul__", "div", "__truediv__",
    "__rtruediv__", "neg", "__neg__", "sigmoid", "tanh", "exp", "relu", "rsqrt", "sqrt", "sin", "cos", "square",
    "pow", "__pow__", "silu", "gelu",
}  # fmt: skip


def elementwise(name: str, args: Any, kwargs: Any) -> Tensor | None:
    """The result of arithmetic whose type is plain to see; torch's own rules on meta take far longer."""
    if kwargs or name not in _ARITHMETIC or len(args) > 2:
        return None
    first, second = args[0], args[-1]
    if not isinstance(first, Tensor):
        first, second = second, first
    if not isinstance(first, Tensor) or not first.dtype.is_floating_point:
        return None
    if isinstance(second, Tensor):
        if second.dtype != first.dtype or first.dim() == 0 or second.dim() == 0:
            return None
        shape = first.shape if first.shape == second.shape else _broadcast(first.shape, second.shape)
    elif isinstance(second, (int, float)):
        shape = first.shape
    else:
        return None
    return torch.empty(shape, dtype=first.dtype, device="meta")


def _broadcast(first: tuple[int, ...], second: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of arithmetic on two shapes. Raises `RuntimeError`, in torch's words, where they do not fit."""
    long, short = (first, second) if len(first) >= len(second) else (second, first)
    shape, gap = list(long), len(long) - len(short)
    for axis, size in enumerate(short, start=gap):
        if shape[axis] != size and size != 1:
            if shape[axis] != 1:
                return torch.broadcast_shapes(first, second)
            shape[axis] = size
    return tuple(shape)


def is_in_place(name: str) -> bool:
    """Whether `name` is the in-place form of a method of tensors, `scatter_add_`, or of a function, `elu_`."""
    if not name.endswith("_") or name.endswith("__"):
        return False
    return hasattr(Tensor, name[:-1]) or hasattr(torch.nn.functional, name[:-1])


def on_meta_device(name: str, kwargs: dict[str, Any]) -> dict[str, Any]:
    if name in FACTORIES and name not in ("as_tensor", "from_numpy"):
        return {**kwargs, "device": "meta"}
    if "device" in kwargs:
        return {**kwargs, "device": "meta"}
    return kwargs


def run_on_meta(func: Any, args: Any, kwargs: Any) -> Any:
    """What a function gives; real tensors among its arguments go to the meta device first."""
    if all(t.is_meta for t in tensors_in((args, kwargs))):
        return func(*args, **kwargs)
    return func(*map_tensors(args, to_meta), **map_tensors(kwargs, to_meta))


def to_meta(tensor: Tensor) -> Tensor:
    return tensor if tensor.device.type == "meta" or tensor.ndim == 0 else tensor.detach().to("meta")
