"""Recognises what a constant is from its contents at two input sizes."""

from typing import Any

import torch
from torch import Tensor

from genmad.importers.symbols import Solver
from genmad.ir.types import SymDim, TensorType

Recipe = list[tuple[str, dict[str, Any]]]


def recognise(first: Tensor, second: Tensor, type_: TensorType, solve: Solver) -> Recipe | None:
    """Ops, each reading the one before, that give the constant at every size; None when it is nothing regular.

    Regular: one value everywhere (`Full`), or evenly spaced integers along one axis (`Arange`).
    """
    if first.numel() == 0 or second.numel() == 0 or type_.dtype.value == "complex64":
        return None
    if _uniform(first) and _uniform(second):
        value = first.flatten()[0]
        if bool(value == second.flatten()[0]) and bool(torch.isfinite(value.float())):
            attrs = {"shape": type_.shape, "value": float(value), "dtype": str(type_.dtype)}
            return [("Full", attrs)]
        return None
    for axis in range(first.dim()):
        spaced = _spaced(first, axis), _spaced(second, axis)
        if spaced[0] is not None and spaced[1] is not None and spaced[0][1] == spaced[1][1]:
            return _arange(spaced[0][0], spaced[1][0], spaced[0][1], axis, type_, solve)
    return None


def _uniform(tensor: Tensor) -> bool:
    return bool((tensor == tensor.flatten()[0]).all())


def _spaced(tensor: Tensor, axis: int) -> tuple[int, int] | None:
    """(start, step) of integers evenly spaced along `axis` and equal along the others."""
    if tensor.shape[axis] < 3 or tensor.dtype == torch.bool:
        return None
    line = tensor.movedim(axis, 0).reshape(tensor.shape[axis], -1)
    if not bool((line == line[:, :1]).all()):
        return None
    row = line[:, 0].double()
    start, step = float(row[0]), float(row[1] - row[0])
    if start != int(start) or step != int(step) or step < 1:
        return None
    even = torch.arange(len(row), dtype=torch.float64) * step + start
    return (int(start), int(step)) if torch.equal(row, even) else None


def _arange(first: int, second: int, step: int, axis: int, type_: TensorType, solve: Solver) -> Recipe | None:
    start = solve(first, second)
    if start is None:
        return None
    length = type_.shape[axis]
    attrs = {"start": start, "end": start + length * step, "step": step, "dtype": str(type_.dtype)}
    recipe: Recipe = [("Arange", attrs)]
    others = tuple(i for i in range(type_.rank) if i != axis)
    if others:
        recipe.append(("Unsqueeze", {"axes": others}))
    if any(isinstance(type_.shape[i], SymDim) or type_.shape[i] != 1 for i in others):
        recipe.append(("Expand", {"shape": tuple(-1 if i == axis else d for i, d in enumerate(type_.shape))}))
    return recipe
