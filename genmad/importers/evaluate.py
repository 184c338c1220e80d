"""Constants of a trace by their values."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from genmad.importers.records import Ref, Trace, map_tensors, tensors_in
from genmad.importers.report import UnsupportedError

FACTORIES = {"arange", "zeros", "ones", "full", "empty", "tensor", "linspace", "eye", "scalar_tensor", "as_tensor",
              "tril_indices", "triu_indices", "hann_window", "logspace", "from_numpy", "range"}  # fmt: skip


class ConstantEvaluator:
    """Computes constants on the CPU by running their records again.

    `resolve` turns sizes that are stored otherwise (symbolic dimensions) into integers.
    """

    def __init__(
        self, trace: Trace, resolve: Callable[[Any], Any] = lambda tree: tree, *, everything: bool = False
    ) -> None:
        """`everything`: also what depends on inputs, whose contents are put into `done`."""
        self.trace = trace
        self.resolve = resolve
        records = [record for record in trace.records if record.is_constant or everything]
        self.makers = {number: record for record in records for number in record.outputs}
        self.done: dict[int, Tensor] = {}

    def __call__(self, number: int) -> Tensor:
        if number in self.done:
            return self.done[number]
        real = self.trace.values[number].real
        if real is not None:
            self.done[number] = real
            return real
        record = self.makers.get(number)
        if record is None or record.func is None:
            raise UnsupportedError([f"a constant that cannot be computed (value {number})"])
        args = map_tensors(self.resolve(record.args), lambda r: self(r.number), Ref)
        kwargs = map_tensors(self.resolve(dict(record.kwargs)), lambda r: self(r.number), Ref)
        if "device" in kwargs or record.target in FACTORIES:
            kwargs["device"] = "cpu"
        args = tuple(torch.device("cpu") if isinstance(a, torch.device) else a for a in args)
        if record.path.endswith("_") or record.target == "setitem":
            args = (args[0].clone(), *args[1:])
            result = record.func(*args, **kwargs)
            result = args[0] if result is None else result
        else:
            # `contiguous` is not recorded, so a view may be one that needs a copy.
            func = torch.Tensor.reshape if record.target == "view" else record.func
            result = func(*args, **kwargs)
        for out, tensor in zip(record.outputs, tensors_in(result), strict=True):
            self.done[out] = tensor
        return self.done[number]
