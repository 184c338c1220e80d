"""A torch module to a graph: two eager traces on the meta device, the functional table, lifting, folding."""

import gc
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from genmad.importers.blocks import build_graph
from genmad.importers.emit import Emitter, Handler
from genmad.importers.flat import Flat
from genmad.importers.from_export import ATEN, export_trace
from genmad.importers.functional import FUNCTIONAL
from genmad.importers.hf_attention import one_node_attention
from genmad.importers.hf_experts import one_node_experts
from genmad.importers.lifting import lift
from genmad.importers.meta import on_meta
from genmad.importers.report import Imported, ImportReport, UnsupportedError
from genmad.importers.substitution import solve_substitutions
from genmad.importers.symbols import PRIMES, SymbolicTrace, merge_traces
from genmad.importers.trace import ModuleCall, Trace, Tracer, map_tensors, recording, tensors_in
from genmad.ir.diagnostics import GenmadError
from genmad.ir.graph import parameter_names
from genmad.ops import OPSET


@dataclass(frozen=True, slots=True)
class InputSlot:
    """Stands in `call_kwargs` for the input of that name, which forward takes in a list or under another name."""

    name: str


Dynamic = Mapping[str, Mapping[int, str]]
# Errors that torch.export would only repeat, seconds later.
_HOPELESS = ("forward fails on inputs", "control flow that depends on data")
TraceOnce = Callable[[nn.Module, Mapping[str, Tensor], Mapping[str, Any]], Trace]


class ModuleParameters(Mapping[str, Tensor]):
    """Parameters and buffers of a module by the graph's names, looked up when asked for."""

    def __init__(
        self, module: nn.Module, names: tuple[str, ...], made: Mapping[str, Any], folded: Mapping[str, Any]
    ) -> None:
        self._module, self._names, self._made, self._folded = module, names, made, folded

    def __getitem__(self, name: str) -> Tensor:
        if name in self._made:
            return self._made[name]()  # type: ignore[no-any-return]
        if name not in self._names:
            raise KeyError(name)
        if name in self._folded:
            return self._folded[name](self._of_module)  # type: ignore[no-any-return]
        return self._of_module(name)

    def _of_module(self, name: str) -> Tensor:
        owner, _, leaf = name.rpartition(".")
        found = getattr(self._module.get_submodule(owner), leaf)
        return found.detach()  # type: ignore[no-any-return]

    def of(self, module: nn.Module) -> "ModuleParameters":
        """The same names in another module of the same structure."""
        return ModuleParameters(module, self._names, self._made, self._folded)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def from_torch(
    module: nn.Module, example_inputs: Mapping[str, Tensor], *, dynamic: Dynamic | None = None, name: str = "",
    source: str = "", kind: str = "module", call_kwargs: Mapping[str, Any] | None = None,
) -> Imported:  # fmt: skip
    """Imports `module` (in eval mode) as called with `example_inputs` by name.

    Args:
        module: may live on the meta device.
        example_inputs: only dtypes and shapes matter.
        dynamic: input -> axis -> symbol; these sizes stay symbolic. Default: axis 0 of each input is `batch`.
        name: of the main block; the class name by default.
        source, kind: for the report.
        call_kwargs: further arguments of forward that are no tensors (`use_cache=False`), or that hold inputs as
            `InputSlot` (`images=[InputSlot("image")]`).

    Raises:
        UnsupportedError: the module does something that no op expresses.
    """
    dynamic = {key: {0: "batch"} for key in example_inputs} if dynamic is None else dynamic
    with _no_collection():
        flat = trace_flat(module, example_inputs, dynamic, call_kwargs or {})
        lift(flat)
        graph = build_graph(flat, name or type(module).__name__)
    names = parameter_names(graph)
    report = make_report(flat, source or type(module).__name__, kind)
    parameters = ModuleParameters(module, names, dict(flat.buffers), dict(flat.folded))
    return Imported(graph=graph, report=report, parameters=parameters)


@contextmanager
def _no_collection() -> Iterator[None]:
    """No garbage collection meanwhile: an import makes many objects, nearly all of which live."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def trace_flat(
    module: nn.Module, inputs: Mapping[str, Tensor], dynamic: Dynamic, call_kwargs: Mapping[str, Any]
) -> Flat:
    """The flat program before lifting: by the eager tracer, by torch.export where that fails.

    Raises:
        UnsupportedError: neither can read the module; the text is the eager tracer's.
    """
    try:
        return symbolic_flat(module, inputs, dynamic, call_kwargs, trace_once, FUNCTIONAL)
    except UnsupportedError as error:
        if error.problems[0].startswith(_HOPELESS):
            raise
        try:
            flat = export_flat(module, inputs, dynamic, call_kwargs)
        except Exception:  # a second opinion may fail in any way; the first reason is the one that is told
            raise error from None
        flat.notes.append(f"read through torch.export, because: {error}")
        return flat


def export_flat(
    module: nn.Module, inputs: Mapping[str, Tensor], dynamic: Dynamic, call_kwargs: Mapping[str, Any]
) -> Flat:
    """The flat program by way of torch.export. Raises `UnsupportedError`."""
    return symbolic_flat(module, inputs, dynamic, call_kwargs, export_trace, ATEN)


def symbolic_flat(
    module: nn.Module, inputs: Mapping[str, Tensor], dynamic: Dynamic, call_kwargs: Mapping[str, Any],
    trace: TraceOnce, table: Mapping[str, Handler],
) -> Flat:  # fmt: skip
    """Two traces merged and looked up; sizes that change which code runs are made concrete, the last symbol first."""
    symbols = list(dict.fromkeys(symbol for axes in dynamic.values() for symbol in axes.values()))
    fixed: list[str] = []
    was_training = module.training
    module.eval()
    try:
        while True:
            try:
                merged = _trace_twice(module, inputs, dynamic, symbols, call_kwargs, trace)
                merged.trace.notes += fixed
                return Emitter(merged, OPSET, table).run()
            except UnsupportedError as error:
                if not symbols:
                    raise
                gone = symbols.pop()
                fixed.append(f"{gone} is kept at its example size: {error}")
    finally:
        module.train(was_training)


def _trace_twice(
    module: nn.Module, inputs: Mapping[str, Tensor], dynamic: Dynamic, symbols: list[str],
    call_kwargs: Mapping[str, Any], trace: TraceOnce,
) -> SymbolicTrace:  # fmt: skip
    sizes = [{s: PRIMES[i][turn] for i, s in enumerate(symbols)} for turn in (0, 1)]
    runs = [trace(module, _resized(inputs, dynamic, each), call_kwargs) for each in (sizes if symbols else sizes[:1])]
    first, second = runs[0], runs[-1]
    return merge_traces(first, second, *sizes)


def _resized(inputs: Mapping[str, Tensor], dynamic: Dynamic, sizes: Mapping[str, int]) -> dict[str, Tensor]:
    """Meta tensors like the inputs, dynamic axes at `sizes`."""
    made = {}
    for name, tensor in inputs.items():
        axes = dynamic.get(name, {})
        shape = [sizes.get(axes[i], size) if i in axes else size for i, size in enumerate(tensor.shape)]
        made[name] = torch.empty(shape, dtype=tensor.dtype, device="meta")
    return made


def trace_once(module: nn.Module, inputs: Mapping[str, Tensor], call_kwargs: Mapping[str, Any]) -> Trace:
    """One run on the meta device. Raises `UnsupportedError`."""
    with on_meta(module) as known, one_node_attention(module), one_node_experts(module):
        tracer = Tracer(module, known)
        for name, tensor in inputs.items():
            tracer.bind(tensor, "input", name)
        call_kwargs = map_tensors(dict(call_kwargs), lambda real: _held(tracer, real))
        with recording(tracer):
            result = call_forward(module, inputs, call_kwargs)
        if not tracer.trace.calls:  # the module is one layer
            tracer.trace.calls.append(ModuleCall(0, -1, "", type(module).__name__))
        solve_substitutions(tracer.trace)
        tracer.trace.outputs = [(name, tracer.number(tensor)) for name, tensor in main_outputs(result)]
        if not tracer.trace.outputs:
            raise UnsupportedError([f"a model whose result is {type(result).__name__}, not tensors"])
        return tracer.trace


def _held(tracer: Tracer, real: Tensor) -> Tensor:
    """A twin on the meta device of a tensor whose contents are known."""
    twin = real.to("meta")
    tracer.bind(twin, "constant", "", real)
    return twin


def call_forward(module: nn.Module, inputs: Mapping[str, Tensor], call_kwargs: Mapping[str, Any]) -> Any:
    """What forward gives. Raises `UnsupportedError` with its own words where the model's code fails."""
    held = {item.name for item in tensors_in(call_kwargs, InputSlot)}
    kwargs = map_tensors(dict(call_kwargs), lambda item: inputs[item.name], InputSlot)
    try:
        return module(**{name: tensor for name, tensor in inputs.items() if name not in held}, **kwargs)
    except GenmadError:
        raise
    except Exception as error:  # the code is the user's and may raise anything
        words = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
        shapes = ", ".join(f"{name}={'x'.join(map(str, t.shape))}" for name, t in inputs.items())
        text = f"forward fails on inputs {shapes}: {type(error).__name__}: {words}"
        raise UnsupportedError([text[:400]]) from error


def main_outputs(result: Any) -> list[tuple[str, Tensor]]:
    """The tensors a model is used for: `logits` when there are logits, else every tensor at the top level."""
    if isinstance(result, Tensor):
        return [("output", result)]
    if isinstance(result, Mapping):
        if isinstance(result.get("logits"), Tensor):
            return [("logits", result["logits"])]
        side = ("past_key_values", "hidden_states", "attentions", "cache_params", "encoder_last_hidden_state")
        named = [(str(k), v) for k, v in result.items() if isinstance(v, Tensor) and k not in side]
        return named or [(f"{k}_{i}", v) for k, group in result.items() for i, v in enumerate(tensors_in(group))]
    if isinstance(result, (tuple, list)):
        named = [(f"output_{i}", v) for i, v in enumerate(result) if isinstance(v, Tensor)]
        return named or [(f"output_{i}", v) for i, v in enumerate(tensors_in(result))]
    return []


def make_report(flat: Flat, source: str, kind: str) -> ImportReport:
    """What the passes did and what is left, from the lifted program."""
    notes = list(flat.notes)
    primitive: dict[str, int] = {}
    for node in flat.nodes:
        if node.op == "TorchCall":
            target = str(node.attrs["target"])
            primitive[target] = primitive.get(target, 0) + 1
            notes.append(flat.reasons.get(node.outputs[0], target))
    return ImportReport(
        source=source, kind=kind, lifted=dict(flat.lifted), primitive=primitive, notes=tuple(dict.fromkeys(notes))
    )
