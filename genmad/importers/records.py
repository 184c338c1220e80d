"""What a trace writes down: values, records of functions and layers, module calls."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Ref:
    """A tensor in the arguments of a record, by the number of its value."""

    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TracedValue:
    """One tensor seen while tracing.

    Attributes:
        shape, dtype: of the tensor at the sizes of this trace.
        kind: `input`, `parameter`, `constant` (depends on no input and no parameter) or `computed`.
        name: input name or full parameter name.
        real: the contents of a constant that the module holds (a buffer), else None.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    kind: str
    name: str = ""
    real: Tensor | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One recorded function or layer.

    Attributes:
        target: short function name (`add`, `view`) or `leaf:OP`.
        path: importable name of the function (`torch.Tensor.view`), for ops that stay primitive.
        func: the function itself, to evaluate constants.
        args, kwargs: arguments, tensors replaced by `Ref`.
        outputs: value numbers; one unless the function gave a tuple.
        call: number of the module call it ran in.
        is_constant: whether nothing it reads depends on an input or a parameter.
        layer: for leaves, the module's path; else "".
        params: for leaves, (slot, full parameter name).
    """

    target: str
    path: str = ""
    func: Callable[..., Any] | None = None
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    outputs: tuple[int, ...] = ()
    call: int = 0
    is_constant: bool = False
    layer: str = ""
    params: tuple[tuple[str, str], ...] = ()


@dataclass(slots=True)
class ModuleCall:
    """One run of a module's forward: its number, its caller's number, path, class and first tensor argument."""

    number: int
    parent: int
    path: str
    class_name: str
    first_input: int = -1


@dataclass(slots=True)
class Trace:
    """Everything one run wrote down."""

    values: list[TracedValue] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)
    calls: list[ModuleCall] = field(default_factory=list)
    outputs: list[tuple[str, int]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


# Types without tensors inside, looked up first: most arguments are of one of them.
_PLAIN = frozenset({int, float, bool, str, type(None), torch.dtype, torch.device})


def map_tensors(tree: Any, change: Callable[[Any], Any], kind: type = Tensor) -> Any:
    """`tree` (nested tuples, lists, dicts, slices) with `change` applied to each `kind`."""
    own = type(tree)
    if own in _PLAIN:
        return tree
    if isinstance(tree, kind):
        return change(tree)
    if own is tuple:
        return tuple([map_tensors(item, change, kind) for item in tree])
    if own is list:
        return [map_tensors(item, change, kind) for item in tree]
    if isinstance(tree, (tuple, list)):
        return tuple([map_tensors(item, change, kind) for item in tree])
    if isinstance(tree, dict):
        return {key: map_tensors(item, change, kind) for key, item in tree.items()}
    if own is slice:
        return slice(*(map_tensors(item, change, kind) for item in (tree.start, tree.stop, tree.step)))
    return tree


def tensors_in(tree: Any, kind: type = Tensor) -> list[Any]:
    """Every `kind` in `tree`, in the order in which `map_tensors` comes to them."""
    found: list[Any] = []
    _collect(tree, kind, found)
    return found


def _collect(tree: Any, kind: type, found: list[Any]) -> None:
    own = type(tree)
    if own in _PLAIN:
        return
    if isinstance(tree, kind):
        found.append(tree)
    elif isinstance(tree, (tuple, list)):
        for item in tree:
            _collect(item, kind, found)
    elif isinstance(tree, dict):
        for item in tree.values():
            _collect(item, kind, found)
    elif own is slice:
        for item in (tree.start, tree.stop, tree.step):
            _collect(item, kind, found)
