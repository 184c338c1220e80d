"""Recognises a module by its numbers: a small CPU copy runs on random input and is compared with the op's formula."""

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_TOLERANCE = 2e-6
_PROBED: dict[Any, Any] = {}


@contextmanager
def _own_world() -> Iterator[torch.Generator]:
    """Runs outside of a trace that may be going on, with numbers of its own."""
    with torch._C.DisableTorchFunction(), torch.no_grad(), torch.device("cpu"):
        yield torch.Generator().manual_seed(0)


def _key(module: nn.Module) -> tuple[Any, ...]:
    """Class and plain settings: modules with equal keys compute the same formula."""
    plain = {k: v for k, v in vars(module).items() if isinstance(v, (int, float, str, bool, tuple))}
    shapes = tuple((k, tuple(v.shape)) for k, v in (*module.named_parameters(), *module.named_buffers()))
    return (type(module), tuple(sorted((k, repr(v)) for k, v in plain.items())), shapes)


def _once(kind: str, module: nn.Module, probe: Callable[[nn.Module], Any]) -> Any:
    key = (kind, *_key(module))
    if key not in _PROBED:
        original = nn.Module.__call__
        try:
            with _own_world():
                _PROBED[key] = probe(module)
        except (RuntimeError, TypeError, ValueError, AttributeError, NotImplementedError, IndexError):
            _PROBED[key] = None
        finally:
            nn.Module.__call__ = original  # type: ignore[method-assign]
    return _PROBED[key]


def _on_cpu(module: nn.Module, generator: torch.Generator) -> nn.Module:
    """A copy with random positive parameters and buffers."""
    twin = copy.deepcopy(module).to_empty(device="cpu")
    for tensor in (*twin.parameters(), *twin.buffers()):
        if tensor.is_floating_point():
            tensor.data.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    return twin


def _eps_of(module: nn.Module) -> float | None:
    for name in ("variance_epsilon", "eps", "epsilon", "norm_eps"):
        value = getattr(module, name, None)
        if isinstance(value, float):
            return value
    return None


def probe_norm(module: nn.Module) -> dict[str, Any] | None:
    """Attributes of the RMSNorm that `module` computes, or None. Its only parameter, if any, is a 1-D `weight`."""
    names = [name for name, _ in module.named_parameters()]
    if names not in (["weight"], []) or any(True for _ in module.buffers()):
        return None
    return _once("norm", module, _probe_norm)  # type: ignore[no-any-return]


def _probe_norm(module: nn.Module) -> dict[str, Any] | None:
    generator = torch.Generator().manual_seed(0)
    weight = getattr(module, "weight", None)
    width = 8 if weight is None else weight.numel()
    if weight is not None and weight.dim() != 1:
        return None
    twin = _on_cpu(module, generator)
    # Small numbers, so that a wrong eps shows.
    # Four axes, so that a norm over another one than the last shows, too.
    x = torch.randn(3, 2, 5, width, generator=generator) * torch.tensor([1.0, 0.02, 0.005])[:, None, None, None]
    given = type(twin).forward(twin, x)
    epsilons = [e for e in (_eps_of(module), 1e-6, 1e-5, torch.finfo(torch.float32).eps) if e is not None]
    scale: Any = twin.weight if weight is not None else None
    for eps in dict.fromkeys(epsilons):
        normed = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps)
        if weight is None:
            if torch.allclose(given, normed, atol=_TOLERANCE, rtol=1e-5):
                return {"eps": eps, "affine": False}
            continue
        for offset in (0.0, 1.0):
            if torch.allclose(given, normed * (scale + offset), atol=_TOLERANCE, rtol=1e-5):
                return {"eps": eps, "offset": offset}
    return None


_STATISTICS = {"weight", "bias", "running_mean", "running_var"}


def probe_batch_norm(module: nn.Module) -> float | None:
    """The eps of the BatchNorm over axis 1 that `module` computes from vectors of the usual names, or None."""
    held = {name: tensor.dim() for name, tensor in (*module.named_parameters(), *module.named_buffers())}
    if held.keys() != _STATISTICS or set(held.values()) != {1} or module.training:
        return None
    return _once("batch norm", module, _probe_batch_norm)  # type: ignore[no-any-return]


def _probe_batch_norm(module: nn.Module) -> float | None:
    generator = torch.Generator().manual_seed(0)
    twin: Any = _on_cpu(module, generator)
    twin.running_var.mul_(1e-4)  # so that a wrong eps shows
    x = torch.randn(2, twin.weight.numel(), 3, 2, generator=generator)
    given = type(twin).forward(twin, x)
    for eps in dict.fromkeys(e for e in (_eps_of(module), 1e-5, 1e-3, 1e-6) if e is not None):
        want = F.batch_norm(x, twin.running_mean, twin.running_var, twin.weight, twin.bias, eps=eps)
        if torch.allclose(given, want, atol=1e-4, rtol=1e-5):
            return eps
    return None


ACTIVATIONS: tuple[tuple[str, dict[str, Any], Callable[[Tensor], Tensor]], ...] = (
    ("Gelu", {"approximate": "none"}, F.gelu),
    ("Gelu", {"approximate": "tanh"}, lambda x: F.gelu(x, approximate="tanh")),
    ("Gelu", {"approximate": "sigmoid"}, lambda x: x * torch.sigmoid(1.702 * x)),
    ("Silu", {}, F.silu),
    ("Mish", {}, F.mish),
    ("Relu", {}, F.relu),
    ("Identity", {}, lambda x: x),
)


def probe_activation(module: nn.Module) -> tuple[str, dict[str, Any]] | None:
    """(op, attributes) of the activation that `module` computes, or None."""
    return _once("activation", module, _probe_activation)  # type: ignore[no-any-return]


def _probe_activation(module: nn.Module) -> tuple[str, dict[str, Any]] | None:
    x = torch.linspace(-8, 8, 997)
    given = type(module).forward(module, x)
    for op, attrs, formula in ACTIVATIONS:
        if torch.allclose(given, formula(x), atol=_TOLERANCE, rtol=1e-6):
            return op, attrs
    return None


def probe_rotary(module: nn.Module) -> float | None:
    """The scaling of a module (x, position_ids) -> (cos, sin) that is a RotaryTable over its `inv_freq`, or None."""
    inv_freq = getattr(module, "inv_freq", None)
    if not isinstance(inv_freq, Tensor) or inv_freq.dim() != 1:
        return None
    if getattr(module, "rope_type", "default") in ("dynamic", "longrope"):
        return None
    return _once("rotary", module, _probe_rotary)  # type: ignore[no-any-return]


def _probe_rotary(module: nn.Module) -> float | None:
    twin: Any = _on_cpu(module, torch.Generator().manual_seed(0))
    positions = torch.tensor([[0, 1, 2, 5, 9]])
    x = torch.zeros(1, 5, 2 * twin.inv_freq.numel())
    cos, sin = type(twin).forward(twin, x, positions)
    angles = positions[..., None].float() * twin.inv_freq
    scaling = float(cos[0, 0, 0])
    table = torch.cat([angles, angles], dim=-1)
    good = all(
        given.shape == table.shape and torch.allclose(given, fn(table) * scaling, atol=1e-5)
        for given, fn in ((cos, torch.cos), (sin, torch.sin))
    )
    return scaling if good and math.isfinite(scaling) else None
