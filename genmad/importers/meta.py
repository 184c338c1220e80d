"""A module without memory: its parameters and buffers on the meta device for the time of a trace."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_DEVICE = Tensor.device.__get__  # type: ignore[attr-defined]
# Attributes that every module has from torch.
_OF_TORCH = frozenset(vars(nn.Module()))
_NOTHING = object()
Known = dict[int, tuple[str, str, Tensor | None]]


@contextmanager
def on_meta(module: nn.Module) -> Iterator[dict[int, tuple[str, str, Tensor | None]]]:
    """The module with every parameter and buffer replaced by a meta twin while the context is open.

    Yields id of each twin -> (kind, full name, real value of a constant). Tied parameters share one twin and carry
    the first name.
    """
    twins: dict[int, Tensor] = {}
    known: dict[int, tuple[str, str, Tensor | None]] = {}
    is_real = not any(p.device.type == "meta" for p in module.parameters())
    undo: list[tuple[dict[str, Any], str, Any]] = []
    caches: list[tuple[dict[Any, Any], dict[Any, Any]]] = []
    kept: list[tuple[dict[str, Any], dict[str, Any]]] = []
    try:
        for prefix, sub in module.named_modules():
            plain = {k: v for k, v in vars(sub).items() if k not in _OF_TORCH}
            kept.append((vars(sub), plain))
            caches += [(v, dict(v)) for k, v in plain.items() if type(v) is dict and not k.startswith("_")]
            for table, is_buffer in ((sub._parameters, False), (sub._buffers, True)):
                for key, tensor in table.items():
                    if tensor is None:
                        continue
                    if id(tensor) not in twins:
                        twin = tensor.detach().to("meta")
                        twins[id(tensor)] = twin if is_buffer else nn.Parameter(twin, requires_grad=False)
                        name = f"{prefix}.{key}" if prefix else key
                        known[id(twins[id(tensor)])] = _role(sub, key, tensor, is_buffer, name, is_real)
                    undo.append((table, key, tensor))
                    table[key] = twins[id(tensor)]
        yield known
    finally:
        for table, key, tensor in undo:
            table[key] = tensor
        for attributes, before in kept:  # models keep tables of meta tensors from one run to the next
            changed = [k for k, v in attributes.items() if _is_own(k, v) and before.get(k, _NOTHING) is not v]
            for key in changed:
                if key in before:
                    attributes[key] = before[key]
                else:
                    del attributes[key]
        for cache, before in caches:
            cache.clear()
            cache.update(before)


def _is_own(key: str, value: Any) -> bool:
    """Whether an attribute is the model's, not a library's mark on it: of private ones, tensors are."""
    return key not in _OF_TORCH and (not key.startswith("_") or isinstance(value, Tensor))


def _role(
    sub: nn.Module, key: str, tensor: Tensor, is_buffer: bool, name: str, is_real: bool
) -> tuple[str, str, Tensor | None]:
    """A buffer is a constant when its contents are known: made by the code, or those of a module with its weights."""
    known = is_real or key in sub._non_persistent_buffers_set or not tensor.is_floating_point()
    fixed = is_buffer and known and tensor.device.type != "meta"
    if fixed:
        return "constant", name, tensor.detach()
    # A buffer that is saved may hold anything; what it holds at first decides branches only.
    return "parameter", name, tensor.detach() if is_buffer and tensor.device.type != "meta" else None


class _DeviceOfParameters(TorchFunctionMode):
    """Lets parameters on the meta device say `cpu`: buffers that are made on the device of a parameter stay real."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        return torch.device("cpu") if func == _DEVICE and result.type == "meta" else result


@contextmanager
def parameters_on_meta(*, as_if_real: bool = False) -> Iterator[None]:
    """Modules keep the shapes of their parameters only; buffers are computed as usual.

    Args:
        as_if_real: parameters say that they are on the CPU, for code that makes its buffers where a parameter is; it
            costs a fifth more time.
    """
    register = nn.Module.register_parameter

    def register_on_meta(module: nn.Module, name: str, param: nn.Parameter | None) -> None:
        if param is not None and param.device.type != "meta":
            param = nn.Parameter(param.detach().to("meta"), requires_grad=param.requires_grad)
        register(module, name, param)

    nn.Module.register_parameter = register_on_meta  # type: ignore[method-assign,assignment]
    try:
        with _DeviceOfParameters() if as_if_real else nullcontext():
            yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]
