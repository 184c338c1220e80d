"""What a forward pass computes on its way, whether a layer is a module or a function call in generated source."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

_LINEAR_MAPS = (torch.conv1d, torch.conv2d, torch.conv3d, F.linear)
_RELUS = (F.relu, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_)


class Trace(TorchFunctionMode):
    """Records while it is entered: `with Trace() as trace: module(images)`.

    What a recorded function calls itself is not seen, so nothing counts twice.

    Attributes:
        maps: (weight, output) of every convolution and linear layer, in order.
        relus: what goes into every ReLU, in order.
        variances: the batch variance of each channel at every batch norm, in order; those of its input.
        last_map: the last tensor of rank 4: the features that the classifier pools.
    """

    def __init__(self, *, without_norms: bool = False) -> None:
        """`without_norms` lets batch norms hand their input through."""
        super().__init__()
        self.maps: list[tuple[Tensor, Tensor]] = []
        self.relus: list[Tensor] = []
        self.variances: list[Tensor] = []
        self.last_map: Tensor | None = None
        self._without_norms = without_norms

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # fmt: skip
        del types
        if func is F.batch_norm:
            x = args[0]
            if self._without_norms:
                return x
            self.variances.append(x.detach().var([0, *range(2, x.ndim)], unbiased=False))
        result = func(*args, **(kwargs or {}))
        if func in _LINEAR_MAPS:
            self.maps.append((args[1], result))
        elif func in _RELUS:
            self.relus.append(args[0])
        if isinstance(result, Tensor) and result.ndim == 4:
            self.last_map = result
        return result
