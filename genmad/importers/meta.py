"""A module without memory: its parameters and buffers on the meta device for the time of a trace."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

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
    try:
        for prefix, sub in module.named_modules():
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


def _role(
    sub: nn.Module, key: str, tensor: Tensor, is_buffer: bool, name: str, is_real: bool
) -> tuple[str, str, Tensor | None]:
    """A buffer is a constant when its contents are known: made by the code, or those of a module with its weights."""
    known = is_real or key in sub._non_persistent_buffers_set or not tensor.is_floating_point()
    fixed = is_buffer and known and tensor.device.type != "meta"
    return ("constant", name, tensor.detach()) if fixed else ("parameter", name, None)
