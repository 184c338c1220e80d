"""From a symbolic trace to a `Flat` program: looks each recorded function up in the functional table.

A handler is a plain function `(e, *args, **kwargs)` with the argument names of the torch function it stands for;
tensors arrive as `T`, and it gives back value names. When it cannot express a use it raises `NoOp` and the record
becomes a `TorchCall`.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from genmad.importers.constants import recognise
from genmad.importers.flat import Flat, FlatNode
from genmad.importers.folded import WeightFolder
from genmad.importers.report import UnsupportedError
from genmad.importers.symbols import Sizes, Solver, SymbolicTrace, at_sizes
from genmad.importers.trace import BY_DATA, COMPUTED, ConstantEvaluator, Record, Ref, Trace, map_tensors, tensors_in
from genmad.ir.build import OpSet
from genmad.ir.diagnostics import ShapeError
from genmad.ir.types import Dim, SymDim, TensorType


class NoOp(Exception):
    """A use of a function that no layer-level op expresses; the text says what."""


@dataclass(frozen=True, slots=True)
class T:
    """A tensor argument of a handler."""

    number: int
    type: TensorType
    kind: str
    name: str = ""

    @property
    def shape(self) -> tuple[Dim, ...]:
        return self.type.shape

    @property
    def rank(self) -> int:
        return self.type.rank

    @property
    def has_name(self) -> bool:
        """Whether the module holds it under a name, as a parameter or as a buffer."""
        return self.kind in ("parameter", "constant") and self.name != ""

    @property
    def is_parameter(self) -> bool:
        return self.kind == "parameter"


Handler = Callable[..., Any]
_SMALL = 16


class Emitter:
    """State of one conversion: the program so far and the record at hand."""

    def __init__(self, trace: SymbolicTrace, opset: OpSet, table: Mapping[str, Handler]) -> None:
        self.symbolic = trace
        self.trace = trace.trace
        self.flat = Flat(opset, trace.trace.calls)
        self.flat.sizes = (trace.sizes, trace.other_sizes)
        self.flat.notes += trace.trace.notes
        self.table = table
        self.solve = Solver(trace.sizes, trace.other_sizes)
        self.want: tuple[TensorType, ...] = ()
        self.call = 0
        self._names: dict[int, str] = {}
        self._parameters: dict[tuple[int, int], str] = {}
        self._alias: dict[int, int] = {}
        self._makers = {number: record for record in self.trace.records for number in record.outputs}
        self._evaluators: dict[tuple[tuple[str, int], ...], ConstantEvaluator] = {}
        self._folder = WeightFolder(self.trace, trace.sizes)
        self._refused: dict[int, UnsupportedError] = {}

    def run(self) -> Flat:
        """Converts every record that an input or a parameter reaches, then the outputs."""
        for number, value in enumerate(self.trace.values):
            if value.kind == "input":
                self._names[number] = self.flat.add_input(value.name, self._type(number))
        live = live_records(self.trace)
        for record, is_live in zip(self.trace.records, live, strict=True):
            if is_live and not record.is_constant:
                self._convert_or_wait(record)
        self.call = 0
        self.flat.outputs = [self.use(self.tensor(Ref(number))) for _, number in self.trace.outputs]
        self.flat.drop_dead()
        self.flat.folded = self._folder.folded
        return self.flat

    # What handlers use.

    def add(self, op: str, *inputs: Any, params: Mapping[str, T] | None = None, **attrs: Any) -> Any:
        """Adds a node; its output name, or a tuple of names."""
        names = [self.use(x) if x is not None else "" for x in inputs]
        return self._add(op, names, attrs, [(slot, t.name) for slot, t in (params or {}).items()])

    def _add(self, op: str, names: list[str], attrs: Mapping[str, Any], params: Any = (), layer: str = "") -> Any:
        if op not in self.flat.opset:
            raise NoOp(f"no op {op}")
        try:
            node = self.flat.make(op, names, attrs, call=self.call, layer=layer, params=params)
        except ShapeError as error:
            raise NoOp(f"{op}: {error}") from error
        self.flat.append(node)
        return node.outputs if len(node.outputs) > 1 else node.outputs[0]

    def use(self, x: Any) -> str:
        """The value name of a tensor argument; constants and parameters get their node here."""
        if isinstance(x, str):
            return x
        number = self._final(x.number)
        if number in self._names:
            return self._names[number]
        if x.kind == "parameter":
            return self._parameter(number)
        if x.kind == "constant":
            return self._constant(number)
        if number in self._refused:
            raise self._refused[number]
        raise UnsupportedError([f"value {number} is read before it is computed"])

    def folded(self, x: Any, slot: str) -> T | None:
        """`x` as the weight of a layer: itself when it has a name, named here when no input reaches it, else None."""
        if not isinstance(x, T):
            return None
        number = self._final(x.number)
        if x.has_name:
            return x
        if not self._folder.is_fixed(number) or any(isinstance(d, SymDim) for d in x.shape):
            return None
        name = self._folder.name(number, self.trace.calls[self.call].path if self.trace.calls else "", slot)
        return T(number, x.type, "parameter", name)

    def type_of(self, x: Any) -> TensorType:
        return self.flat.types[x] if isinstance(x, str) else x.type

    def scalar(self, x: Any) -> Any:
        """The Python number of a number or of a constant 0-d tensor, else None."""
        if isinstance(x, (int, float, bool)):
            return x
        if isinstance(x, T) and x.kind == "constant" and x.rank == 0:
            first, second = (
                self.constant_at(x.number, self.symbolic.sizes),
                self.constant_at(x.number, self.symbolic.other_sizes),
            )
            return first.item() if bool(first == second) else None
        return None

    def constant_at(self, number: int, sizes: Sizes) -> torch.Tensor:
        """A constant's contents at given sizes."""
        key = tuple(sizes.items())
        if key not in self._evaluators:
            self._evaluators[key] = ConstantEvaluator(self.trace, lambda tree: at_sizes(tree, sizes))
        try:
            return self._evaluators[key](self._final(number))
        except (RuntimeError, IndexError, TypeError, ValueError) as error:
            words = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise UnsupportedError([f"a constant that cannot be computed at {dict(sizes)}: {words}"[:300]]) from error

    def maker(self, x: T) -> Record | None:
        return self._makers.get(self._final(x.number))

    def tensor(self, ref: Ref) -> T:
        value = self.trace.values[ref.number]
        number = self._final(ref.number)
        return T(number, self._type(number), self.trace.values[number].kind, value.name)

    # Records.

    def _final(self, number: int) -> int:
        while number in self._alias:
            number = self._alias[number]
        return number

    def _type(self, number: int) -> TensorType:
        found = self.symbolic.types[number]
        if found is None:
            raise UnsupportedError([f"tensors of dtype {self.trace.values[number].dtype}"])
        return found

    def _convert_or_wait(self, record: Record) -> None:
        """Converts; what cannot be but depends on no input may be part of a weight, and is refused when it is not."""
        try:
            self._convert(record)
        except UnsupportedError as error:
            if not all(self._folder.is_fixed(number) for number in record.outputs):
                raise
            self._refused.update(dict.fromkeys(record.outputs, error))

    def _convert(self, record: Record) -> None:
        self.call = record.call
        self.want = tuple(self._type(number) for number in record.outputs)
        args, kwargs = (map_tensors(tree, self.tensor, Ref) for tree in (record.args, dict(record.kwargs)))
        if record.target.startswith("leaf:"):
            result = self._leaf(record, args, kwargs)
        else:
            result = self._function(record, args, kwargs)
        self._bind(record, result)

    def _leaf(self, record: Record, args: Any, kwargs: Any) -> Any:
        names = [self.use(x) if x is not None else "" for x in args]
        op = record.target.removeprefix("leaf:")
        params = [(slot, self._weight(record.layer, slot, name)) for slot, name in record.params]
        try:
            result = self._add(op, names, kwargs, params, record.layer)
            self._check_types(result)
        except NoOp as error:
            raise UnsupportedError([f"{record.layer}: {error}"]) from error
        return result

    def _weight(self, layer: str, slot: str, name: str) -> str:
        """The name of a layer's parameter; the model may have computed it (RWKV rescales its weights at each run)."""
        if not name.startswith(COMPUTED):
            return name
        number = int(name.removeprefix(COMPUTED))
        if not self._folder.is_fixed(number):
            raise UnsupportedError([f"{layer}: its {slot} depends on an input"])
        return self._folder.name(number, layer, slot)

    def _function(self, record: Record, args: Any, kwargs: Any) -> Any:
        handler = self.table.get(record.target)
        reason = f"no handler for {record.target}"
        if handler is not None:
            try:
                result = handler(self, *args, **kwargs)
                self._check_types(result)
                return result
            except (NoOp, TypeError) as error:
                reason = f"{record.target}: {error}"
        return self._torch_call(record, args, kwargs, reason)

    def _check_types(self, result: Any) -> None:
        results = result if isinstance(result, (tuple, list)) else (result,)
        if len(results) != len(self.want):
            raise NoOp(f"{len(results)} results instead of {len(self.want)}")
        for item, want in zip(results, self.want, strict=True):
            if item is not None and self.type_of(item) != want:
                raise NoOp(f"a result {self.type_of(item)} instead of {want}")

    def _bind(self, record: Record, result: Any) -> None:
        results = result if isinstance(result, (tuple, list)) else (result,)
        for number, item in zip(record.outputs, results, strict=True):
            if isinstance(item, T):
                self._alias[number] = item.number
            elif item is not None:
                self._names[number] = item

    def _torch_call(self, record: Record, args: Any, kwargs: Any, reason: str) -> Any:
        """The function itself as a node. Raises `UnsupportedError` when it is not a plain torch function."""
        if record.target == BY_DATA:
            raise UnsupportedError([f"{record.path}: how many there are depends on data"])
        if not record.path.startswith("torch.") or record.target == "setitem":
            raise UnsupportedError([f"{record.path or record.target} in {self._where(record)} ({reason})"])
        tensors: list[T] = []

        def slot(t: T) -> dict[str, int]:
            tensors.append(t)
            return {"$": len(tensors) - 1}

        template = {"args": map_tensors(args, slot, T), "kwargs": map_tensors(kwargs, slot, T)}
        try:
            text = json.dumps(template, default=_json)
        except TypeError as error:
            raise UnsupportedError([f"{record.path} in {self._where(record)}: {error}"]) from error
        types = ";".join(str(t) for t in self.want)
        path = record.path.replace("torch.functional.", "torch.")
        target = path.replace("torch.Tensor.", "Tensor.").replace("torch._C._nn.", "torch.nn.functional.")
        try:
            result = self._add(
                "TorchCall", [self.use(t) for t in tensors], {"target": target, "arguments": text, "types": types}
            )
        except NoOp as error:
            raise UnsupportedError([f"{record.path} in {self._where(record)} ({reason}; {error})"]) from error
        self.flat.reasons[result if isinstance(result, str) else result[0]] = f"{reason} in {self._where(record)}"
        return result

    def _where(self, record: Record) -> str:
        return self.trace.calls[record.call].path or "the model"

    # Parameters and constants.

    def _owner(self, name: str) -> int:
        """The innermost running module call whose path is a prefix of a parameter's name."""
        call = self.call
        while call > 0 and not name.startswith(self.trace.calls[call].path + "."):
            call = self.trace.calls[call].parent
        return max(call, 0)

    def _parameter(self, number: int, trainable: bool = True) -> str:
        name = self.trace.values[number].name
        owner = self._owner(name)
        if (number, owner) not in self._parameters:
            found = self._named(name, self._type(number), owner, trainable)
            self._parameters[number, owner] = found
        return self._parameters[number, owner]

    def _named(self, name: str, type_: TensorType, owner: int, trainable: bool) -> str:
        attrs = {"shape": type_.shape, "dtype": str(type_.dtype), "trainable": trainable}
        node = self.flat.make("Parameter", (), attrs, call=owner, params=[("value", name)], layer=name)
        return self.flat.append(node).outputs[0]

    def _constant(self, number: int) -> str:
        """Arange, Full, a small Constant, a buffer, or, when its contents follow the sizes otherwise, its own nodes."""
        value, type_ = self.trace.values[number], self._type(number)
        before = self.call, self.want
        record = self._makers.get(number)
        self.call = record.call if record is not None else self._owner(value.name)
        try:
            name = (
                self._special(number, record, type_) or self._recognised(number, type_) or self._stored(number, type_)
            )
            if name is None:
                if record is None:
                    raise UnsupportedError([f"a constant {type_} that cannot be written down"])
                self._convert(record)
                name = self._names.get(number) or self.use(self.tensor(Ref(number)))
        finally:
            self.call, self.want = before
        self._names[number] = name
        self.flat.constants[name] = lambda sizes: self.constant_at(number, sizes)
        return name

    def _special(self, _number: int, record: Record | None, type_: TensorType) -> str | None:
        if record is None or record.target != "genmad_mask":
            return None
        self.want = (type_,)
        args, kwargs = (map_tensors(tree, self.tensor, Ref) for tree in (record.args, dict(record.kwargs)))
        name = str(self.table["genmad_mask"](self, *args, **kwargs))
        self.flat.masks[name] = bool(record.kwargs["causal"]), record.kwargs["window"]
        return name

    def _recognised(self, number: int, type_: TensorType) -> str | None:
        first, second = (self.constant_at(number, s) for s in (self.symbolic.sizes, self.symbolic.other_sizes))
        recipe = recognise(first, second, type_, self.solve)
        if recipe is None:
            return None
        name = ""
        for op, attrs in recipe:
            name = self._add(op, [name] if name else [], attrs)
        return name

    def _stored(self, number: int, type_: TensorType) -> str | None:
        """A constant that is the same at all sizes; along an open axis it may repeat itself."""
        open_axes = [axis for axis, size in enumerate(type_.shape) if isinstance(size, SymDim)]
        value = self.trace.values[number]
        if value.name and value.real is not None and not open_axes:
            return self._parameter(number, trainable=False)
        first, second = (
            _without_repeats(self.constant_at(number, s), open_axes)
            for s in (self.symbolic.sizes, self.symbolic.other_sizes)
        )
        if first is None or second is None or not torch.equal(first, second):
            return None
        once = self._kept(first, TensorType(type_.dtype, tuple(first.shape)))
        if not open_axes:
            return once
        shape = tuple(size if axis in open_axes else -1 for axis, size in enumerate(type_.shape))
        return str(self._add("Expand", [once], {"shape": shape}))

    def _kept(self, first: torch.Tensor, type_: TensorType) -> str:
        """A constant's contents as attributes of a node where there are few, else as a buffer."""
        if first.numel() <= _SMALL and type_.dtype.value != "complex64":
            values = tuple(first.flatten().tolist())
            return str(
                self._add("Constant", [], {"values": values, "shape": tuple(first.shape), "dtype": str(type_.dtype)})
            )
        path = self.trace.calls[self.call].path if self.trace.calls else ""
        name, count = (f"{path}." if path else "") + "constant", 0
        while name in self.flat.buffers:
            count += 1
            name = f"{path}.constant_{count}".lstrip(".")
        self.flat.buffers[name] = first.contiguous
        return self._named(name, type_, self.call, trainable=False)


def _without_repeats(tensor: torch.Tensor, axes: list[int]) -> torch.Tensor | None:
    """The tensor with size 1 along axes where it repeats itself, None where it does not along one of them."""
    for axis in axes:
        once = tensor.narrow(axis, 0, 1) if tensor.shape[axis] else tensor
        if not torch.equal(once.expand_as(tensor), tensor):
            return None
        tensor = once
    return tensor


def live_records(trace: Trace) -> list[bool]:
    """For each record, whether an output of the model depends on it: checks that only raise are none of the graph."""
    wanted = {number for _, number in trace.outputs}
    live = [False] * len(trace.records)
    for place in range(len(trace.records) - 1, -1, -1):
        record = trace.records[place]
        if any(number in wanted for number in record.outputs):
            live[place] = True
            wanted.update(ref.number for ref in tensors_in((record.args, dict(record.kwargs)), Ref))
    return live


def _json(item: Any) -> Any:
    if isinstance(item, torch.dtype):
        return {"dtype": str(item).removeprefix("torch.")}
    if isinstance(item, SymDim):
        return {"dim": str(item)}
    if isinstance(item, slice):
        return {"slice": [item.start, item.stop, item.step]}
    if item is Ellipsis:
        return {"ellipsis": True}
    raise TypeError(f"an argument {type(item).__name__}")


__all__ = ["Emitter", "FlatNode", "NoOp", "T", "tensors_in"]
