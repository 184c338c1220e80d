"""Weights that a model computes from its parameters alone, at every run, before a layer uses them.

Weight normalisation (arXiv 1602.07868) and weight standardisation (arXiv 1903.10520) do so. In evaluation mode the
outcome is a constant, so the layer takes it as its weight: the graph holds the layer, and the computation is repeated
on the module's parameters when the weight is asked for.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from genmad.importers.symbols import Sizes, at_sizes
from genmad.importers.trace import ConstantEvaluator, Record, Ref, Trace, tensors_in

# Full name -> what gives the weight, when told how to look parameters of the module up by name.
Folded = dict[str, Callable[[Callable[[str], Tensor]], Tensor]]


class WeightFolder:
    """Knows which values of a trace depend on no input, and names those that layers use as weights."""

    def __init__(self, trace: Trace, sizes: Sizes) -> None:
        self.trace, self.sizes = trace, sizes
        self.folded: Folded = {}
        self._names: dict[int, str] = {}
        self._fixed: set[int] | None = None

    def is_fixed(self, number: int) -> bool:
        """Whether a value is computed from parameters and constants alone."""
        if self._fixed is None:
            self._fixed = {n for n, v in enumerate(self.trace.values) if v.kind in ("parameter", "constant")}
            for record in self.trace.records:
                if all(ref.number in self._fixed for ref in _reads(record)):
                    self._fixed.update(record.outputs)
        return number in self._fixed

    def name(self, number: int, path: str, slot: str) -> str:
        """The name of a fixed value as the weight `slot` of the layer at `path`."""
        if number not in self._names:
            stem = f"{path}.{slot}".lstrip(".")
            found, count = stem, 0
            while found in self.folded:
                count += 1
                found = f"{stem}_{count}"
            self._names[number] = found
            self.folded[found] = lambda look_up: self._value(number, look_up)
        return self._names[number]

    def _value(self, number: int, look_up: Callable[[str], Tensor]) -> Tensor:
        evaluate = ConstantEvaluator(self.trace, lambda tree: at_sizes(tree, self.sizes))
        evaluate.makers = {out: record for record in self.trace.records for out in record.outputs}
        evaluate.done = _Parameters(self.trace, look_up)
        with torch.no_grad():
            return evaluate(number).contiguous()


class _Parameters(dict[int, Tensor]):
    """Values that are known: parameters are looked up when they are asked for."""

    def __init__(self, trace: Trace, look_up: Callable[[str], Tensor]) -> None:
        super().__init__()
        self._trace, self._look_up = trace, look_up

    def __contains__(self, number: object) -> bool:
        return super().__contains__(number) or self._trace.values[_index(number)].kind == "parameter"

    def __missing__(self, number: int) -> Tensor:
        return self._look_up(self._trace.values[number].name)


def _index(number: Any) -> int:
    return int(number)


def _reads(record: Record) -> list[Any]:
    held: Mapping[str, Any] = record.kwargs
    return tensors_in((record.args, dict(held)), Ref)
