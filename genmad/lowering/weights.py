"""Where each parameter of an edited graph comes from: inherited, fitted, copied or new; and the tensors, one by one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from genmad.ir.build import OpSet
from genmad.ir.diagnostics import Diagnostic, GenmadError
from genmad.ir.graph import Graph, Place, places
from genmad.ir.opdef import Param
from genmad.lowering.preserve import preserve

if TYPE_CHECKING:
    import torch

Origin = Literal["inherited", "fitted", "copied", "new"]
# Axis of a weight that runs over the op's input channels. What grows along it starts at zero, so that a wider input
# changes nothing until it is trained; convolution kernels are also centred and padded with zeros.
_INPUT_AXIS = {"Linear": 1, "LoRALinear": 1, "Conv": 1, "GatedMLP": 1}
_KERNEL_FROM = {"Conv": 2, "ConvTranspose": 2}


class WeightError(GenmadError):
    """Weights that do not fit the graph they are meant for."""

    exit_code = 3

    def __init__(self, *diagnostics: Diagnostic) -> None:
        self.diagnostics = diagnostics
        super().__init__("\n".join(str(item) for item in diagnostics))


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightEntry:
    """One parameter of the edited graph.

    Attributes:
        name: full name, a key of the state dict.
        origin: `inherited` (same name, same shape), `fitted` (same name, other shape: the overlap is kept), `copied`
            (from another scope) or `new`.
        param: its type, and how what is not taken over starts.
        source: name in the source weights; "" for new ones.
        zero_axes: for fitted ones, axes along which what was added starts at zero.
        centre_from: for fitted ones, first axis of the kernel, which is centred; None when there is none.
    """

    name: str
    origin: Origin
    param: Param
    source: str = ""
    zero_axes: tuple[int, ...] = ()
    centre_from: int | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return shape_of(self.param)


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightPlan:
    """Every parameter of the edited graph, in execution order.

    Attributes:
        entries: one per full parameter name.
        reasons: why the outputs are expected to change; empty when they should stay as they are.
    """

    entries: tuple[WeightEntry, ...]
    reasons: tuple[str, ...]

    @property
    def preserves_outputs(self) -> bool:
        return not self.reasons

    def names(self, origin: Origin) -> tuple[str, ...]:
        return tuple(entry.name for entry in self.entries if entry.origin == origin)


@dataclass(frozen=True, slots=True)
class _Use:
    """The first place where a parameter is used, and its declaration there."""

    param: Param
    place: Place


def shape_of(param: Param) -> tuple[int, ...]:
    return tuple(d for d in param.type.shape if isinstance(d, int))


def plan_weights(
    before: Graph, after: Graph, opset: OpSet, *, copies: tuple[tuple[str, str], ...] = (), init: str = "preserve"
) -> WeightPlan:
    """The plan for an edit. `copies` are (new scope, old scope) pairs of calls that take over another call's weights.

    `init="preserve"` starts additions so that outputs stay as they are; `init="random"` starts them as layers start.
    """
    if init not in ("preserve", "random"):
        raise ValueError(f"init: got {init!r}, expected 'preserve' or 'random'")
    old, new = _uses(before, opset), _uses(after, opset)
    copied = {name for name in new if name not in old and _copied_from(name, copies) in old}
    keep = preserve(before, after, opset, frozenset(old) | copied)
    zeroed = frozenset(keep.zeroed) if init == "preserve" else frozenset()
    reasons = list(keep.reasons)
    if init == "random" and keep.zeroed:
        reasons.append(f"--init random: {len(keep.zeroed)} new parameters that could start at zero do not")
    entries = tuple(_entry(name, use, old, copies, name in zeroed, init) for name, use in new.items())
    return WeightPlan(entries=entries, reasons=tuple(reasons))


def _uses(graph: Graph, opset: OpSet) -> dict[str, _Use]:
    """Every parameter by full name; of tied ones the first place."""
    table: dict[str, _Use] = {}
    for place in places(graph):
        if place.node.is_call or not place.node.params:
            continue
        types = tuple(place.block.types[v] if v else None for v in place.node.inputs)
        names = place.node.param_map
        for param in opset[place.node.op].params(types, place.node.attr_map):
            table.setdefault(place.prefix + names[param.slot], _Use(param, place))
    return table


def _copied_from(name: str, copies: tuple[tuple[str, str], ...]) -> str:
    """The name whose tensor `name` takes over by `copies`, or ""."""
    pairs = ((target + ".", source + ".") for target, source in copies)
    return next((there + name[len(here) :] for here, there in pairs if name.startswith(here)), "")


def _entry(
    name: str, use: _Use, old: Mapping[str, _Use], copies: tuple[tuple[str, str], ...], zero: bool, init: str
) -> WeightEntry:
    source: str = name
    origin: Origin = "inherited"
    if name not in old:
        source, origin = _copied_from(name, copies), "copied"
    if source not in old:
        source, origin = "", "new"
    elif shape_of(old[source].param) != shape_of(use.param):
        origin = "fitted"
    op, rank = use.place.node.op, use.param.type.rank
    axes: tuple[int, ...] = ()
    centre = None
    if origin == "fitted" and init == "preserve" and op in _INPUT_AXIS and rank > 1:
        axes = (0 if use.place.node.attr_map.get("transposed") else _INPUT_AXIS[op],)
    if origin == "fitted" and op in _KERNEL_FROM and rank > _KERNEL_FROM[op]:
        centre = _KERNEL_FROM[op]
        axes = (*axes, *range(centre, rank))
    param = replace(use.param, init="zeros") if zero else use.param
    return WeightEntry(name=name, origin=origin, param=param, source=source, zero_axes=axes, centre_from=centre)


def make_tensor(entry: WeightEntry, parameters: Mapping[str, torch.Tensor], seed: int) -> torch.Tensor:
    """The tensor of one entry. Raises `WeightError` when the source weights lack it or hold another shape."""
    import torch

    dtype: torch.dtype = getattr(torch, str(entry.param.type.dtype))
    if entry.origin == "new":
        return initial_tensor(entry, seed)
    if entry.source not in parameters:
        got, fix = "no such tensor in the source weights", "use --no-weights, or a source with all its weights"
        raise WeightError(Diagnostic(where=entry.source, got=got, expected=f"a tensor of shape {entry.shape}", fix=fix))
    source = parameters[entry.source].detach()
    if entry.origin == "fitted":
        return fit(entry, source, seed).to(dtype)
    if tuple(source.shape) != entry.shape:
        raise WeightError(Diagnostic(where=entry.source, got=f"shape {tuple(source.shape)}", expected=f"{entry.shape}"))
    return source.to(dtype).clone() if entry.origin == "copied" else source.to(dtype)


def fit(entry: WeightEntry, source: torch.Tensor, seed: int) -> torch.Tensor:
    """The overlap of `source` with the new shape; the rest starts as `init` says, or at zero along `zero_axes`."""
    if source.ndim != len(entry.shape):
        return initial_tensor(entry, seed)
    out = initial_tensor(entry, seed).to(source.dtype)
    into, taken = [], []
    for axis, (have, want) in enumerate(zip(source.shape, entry.shape, strict=True)):
        centred = entry.centre_from is not None and axis >= entry.centre_from
        keep = min(have, want)
        start_out, start_in = ((want - keep) // 2, (have - keep) // 2) if centred else (0, 0)
        into.append(slice(start_out, start_out + keep))
        taken.append(slice(start_in, start_in + keep))
        if axis in entry.zero_axes:
            out.narrow(axis, 0, start_out).zero_()
            out.narrow(axis, start_out + keep, want - start_out - keep).zero_()
    out[tuple(into)] = source[tuple(taken)]
    return out


def initial_tensor(entry: WeightEntry, seed: int) -> torch.Tensor:
    """A fresh tensor; it depends on the seed and on the name only, not on what was drawn before."""
    from genmad.lowering.to_torch import initial_values

    return next(iter(initial_values({entry.name: entry.param}, seed)))[1]


class PlannedWeights(Mapping[str, "torch.Tensor"]):
    """The weights of an edited graph: inherited tensors are the source's own, others are made once, when asked for."""

    def __init__(self, plan: WeightPlan, parameters: Mapping[str, torch.Tensor], *, seed: int) -> None:
        self._entries = {entry.name: entry for entry in plan.entries}
        self._source, self._seed = parameters, seed
        self._made: dict[str, torch.Tensor] = {}

    def __getitem__(self, name: str) -> torch.Tensor:
        if name in self._made:
            return self._made[name]
        entry = self._entries[name]
        tensor = make_tensor(entry, self._source, self._seed)
        if entry.origin != "inherited":
            self._made[name] = tensor
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)
