"""A torch module to a graph: two eager traces on the meta device, the functional table, lifting, folding."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from genmad.importers.blocks import build_graph
from genmad.importers.emit import Emitter
from genmad.importers.flat import Flat
from genmad.importers.from_export import ATEN, export_trace
from genmad.importers.functional import FUNCTIONAL
from genmad.importers.hf_attention import one_node_attention
from genmad.importers.lifting import lift
from genmad.importers.meta import on_meta
from genmad.importers.report import Imported, ImportReport, UnsupportedError
from genmad.importers.symbols import PRIMES, SymbolicTrace, merge_traces
from genmad.importers.trace import Trace, Tracer, recording
from genmad.ir.diagnostics import GenmadError
from genmad.ir.graph import parameter_names
from genmad.ops import OPSET

Dynamic = Mapping[str, Mapping[int, str]]
TraceOnce = Callable[[nn.Module, Mapping[str, Tensor], Mapping[str, Any]], Trace]


class ModuleParameters(Mapping[str, Tensor]):
    """Parameters and buffers of a module by the graph's names, looked up when asked for."""

    def __init__(self, module: nn.Module, names: tuple[str, ...], made: Mapping[str, Any]) -> None:
        self._module, self._names, self._made = module, names, made

    def __getitem__(self, name: str) -> Tensor:
        if name in self._made:
            return self._made[name]()  # type: ignore[no-any-return]
        if name not in self._names:
            raise KeyError(name)
        owner, _, leaf = name.rpartition(".")
        found = getattr(self._module.get_submodule(owner), leaf)
        return found.detach()  # type: ignore[no-any-return]

    def of(self, module: nn.Module) -> "ModuleParameters":
        """The same names in another module of the same structure."""
        return ModuleParameters(module, self._names, self._made)

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
        call_kwargs: further arguments of forward that are no tensors (`use_cache=False`).

    Raises:
        UnsupportedError: the module does something that no op expresses.
    """
    dynamic = {key: {0: "batch"} for key in example_inputs} if dynamic is None else dynamic
    flat = trace_flat(module, example_inputs, dynamic, call_kwargs or {})
    lift(flat)
    graph = build_graph(flat, name or type(module).__name__)
    names = parameter_names(graph)
    report = make_report(flat, source or type(module).__name__, kind)
    return Imported(graph=graph, report=report, parameters=ModuleParameters(module, names, dict(flat.buffers)))


def trace_flat(
    module: nn.Module, inputs: Mapping[str, Tensor], dynamic: Dynamic, call_kwargs: Mapping[str, Any]
) -> Flat:
    """The flat program before lifting: by the eager tracer, by torch.export where that fails.

    Raises:
        UnsupportedError: neither can read the module; the text is the eager tracer's.
    """
    try:
        return Emitter(symbolic_trace(module, inputs, dynamic, call_kwargs), OPSET, FUNCTIONAL).run()
    except UnsupportedError as error:
        try:
            flat = export_flat(module, inputs, dynamic, call_kwargs)
        except (UnsupportedError, ValueError):
            raise error from None
        flat.notes.append(f"read through torch.export, because: {error}")
        return flat


def export_flat(
    module: nn.Module, inputs: Mapping[str, Tensor], dynamic: Dynamic, call_kwargs: Mapping[str, Any]
) -> Flat:
    """The flat program by way of torch.export. Raises `UnsupportedError`."""
    symbolic = symbolic_trace(module, inputs, dynamic, call_kwargs, export_trace)
    return Emitter(symbolic, OPSET, ATEN).run()


def symbolic_trace(
    module: nn.Module, inputs: Mapping[str, Tensor], dynamic: Dynamic, call_kwargs: Mapping[str, Any],
    trace: TraceOnce | None = None,
) -> SymbolicTrace:  # fmt: skip
    """Two traces merged; sizes that change which code runs are made concrete, the last symbol first."""
    symbols = list(dict.fromkeys(symbol for axes in dynamic.values() for symbol in axes.values()))
    fixed: list[str] = []
    was_training = module.training
    module.eval()
    try:
        while True:
            try:
                merged = _trace_twice(module, inputs, dynamic, symbols, call_kwargs, trace or trace_once)
                merged.trace.notes += fixed
                return merged
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
    first, second = (trace(module, _resized(inputs, dynamic, each), call_kwargs) for each in sizes)
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
    with on_meta(module) as known, one_node_attention(module):
        tracer = Tracer(module, known)
        for name, tensor in inputs.items():
            tracer.bind(tensor, "input", name)
        with recording(tracer):
            result = call_forward(module, inputs, call_kwargs)
        tracer.trace.outputs = [(name, tracer.number(tensor)) for name, tensor in main_outputs(result)]
        if not tracer.trace.outputs:
            raise UnsupportedError([f"a model whose result is {type(result).__name__}, not tensors"])
        return tracer.trace


def call_forward(module: nn.Module, inputs: Mapping[str, Tensor], call_kwargs: Mapping[str, Any]) -> Any:
    """What forward gives. Raises `UnsupportedError` with its own words where the model's code fails."""
    try:
        return module(**inputs, **call_kwargs)
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
        return [(str(k), v) for k, v in result.items() if isinstance(v, Tensor) and k not in side]
    if isinstance(result, (tuple, list)):
        return [(f"output_{i}", v) for i, v in enumerate(result) if isinstance(v, Tensor)]
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
