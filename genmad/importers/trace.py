"""The eager tracer: runs a module once on the meta device and writes down every tensor function and layer.

Nothing here knows about ops of the graph: the outcome is a list of `Record`s, each with the module call it ran in.
Two traces at different sizes are compared in `symbols.py`.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode, resolve_name

from genmad.importers.leaves import Leaf, leaf_of
from genmad.importers.report import UnsupportedError


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


IN_PLACE = {
    "__iadd__": "add", "__isub__": "sub", "__imul__": "mul", "__itruediv__": "div", "add_": "add", "sub_": "sub",
    "mul_": "mul", "div_": "div", "masked_fill_": "masked_fill", "clamp_": "clamp", "relu_": "relu",
    "fill_": "fill_", "zero_": "zero_", "copy_": "copy_", "__setitem__": "setitem", "squeeze_": "squeeze",
    "unsqueeze_": "unsqueeze", "exp_": "exp", "sigmoid_": "sigmoid", "tanh_": "tanh", "transpose_": "transpose",
    "clamp_min_": "clamp_min", "neg_": "neg", "pow_": "pow", "__ior__": "__or__", "__iand__": "__and__",
    "silu_": "silu", "logical_not_": "logical_not", "index_fill_": "index_fill_", "triu_": "triu", "tril_": "tril",
    "hardtanh_": "hardtanh",
}  # fmt: skip
_READS = {"item", "tolist", "__bool__", "__int__", "__float__", "__index__", "equal", "allclose", "is_nonzero", "numpy",
          "__contains__"}  # fmt: skip
_COPIES = {"contiguous", "clone"}
_SAME = {"detach", "detach_", "requires_grad_", "cpu", "cuda", "alias", "data", "dropout",
         "feature_dropout", "alpha_dropout", "dropout1d", "dropout2d", "dropout3d", "view_as_real_identity",
         "lift_fresh"}  # fmt: skip
_FACTORIES = {"arange", "zeros", "ones", "full", "empty", "tensor", "linspace", "eye", "scalar_tensor", "as_tensor",
              "tril_indices", "triu_indices", "hann_window", "logspace", "from_numpy", "range"}  # fmt: skip
_NAMES: dict[Any, tuple[str, str]] = {}


def function_name(func: Callable[..., Any]) -> tuple[str, str]:
    """(short name, importable path): `("view", "torch.Tensor.view")`; a property getter gives the property's name."""
    if func not in _NAMES:
        path = resolve_name(func) or getattr(func, "__qualname__", repr(func))
        if path.endswith(".__get__"):
            path = path.removesuffix(".__get__")
        _NAMES[func] = (path.rsplit(".", 1)[-1], path)
    return _NAMES[func]


def map_tensors(tree: Any, change: Callable[[Any], Any], kind: type = Tensor) -> Any:
    """`tree` (nested tuples, lists, dicts, slices) with `change` applied to each `kind`."""
    if isinstance(tree, kind):
        return change(tree)
    if isinstance(tree, (tuple, list)):
        items = [map_tensors(item, change, kind) for item in tree]
        if isinstance(tree, torch.Size) or hasattr(tree, "_fields"):
            return tuple(items)
        return type(tree)(items) if type(tree) in (tuple, list) else tuple(items)
    if isinstance(tree, dict):
        return {key: map_tensors(item, change, kind) for key, item in tree.items()}
    if isinstance(tree, slice):
        return slice(*(map_tensors(item, change, kind) for item in (tree.start, tree.stop, tree.step)))
    return tree


def tensors_in(tree: Any, kind: type = Tensor) -> list[Any]:
    found: list[Any] = []
    map_tensors(tree, found.append, kind)
    return found


class Tracer(TorchFunctionMode):
    """Records while it is active; `self.trace` is the outcome."""

    current: "Tracer | None" = None

    def __init__(self, module: nn.Module, known: Mapping[int, tuple[str, str, Tensor | None]]) -> None:
        """`known`: id of each parameter or buffer on the meta device -> (kind, full name, real value)."""
        super().__init__()
        self.trace = Trace()
        self.module = module
        self.paths = {id(sub): name for name, sub in module.named_modules(remove_duplicate=True)}
        self._numbers: dict[int, int] = {}
        self._keep: list[Any] = []
        self._known = known
        self._paused = 0
        self._stack: list[int] = []

    def number(self, tensor: Tensor) -> int:
        """Value number of a tensor; one not seen before is a parameter, a buffer or a constant the code holds."""
        found = self._numbers.get(id(tensor))
        if found is not None:
            return found
        if id(tensor) in self._known:
            kind, name, real = self._known[id(tensor)]
            return self.bind(tensor, kind, name, real)
        real = tensor.detach() if tensor.device.type != "meta" else None
        if real is None:
            raise UnsupportedError([f"a tensor {tuple(tensor.shape)} of unknown origin in {self.where()}"])
        return self.bind(tensor, "constant", "", real)

    def bind(self, tensor: Tensor, kind: str, name: str = "", real: Tensor | None = None) -> int:
        number = len(self.trace.values)
        value = TracedValue(shape=tuple(tensor.shape), dtype=tensor.dtype, kind=kind, name=name, real=real)
        self.trace.values.append(value)
        self._numbers[id(tensor)] = number
        self._keep.append(tensor)
        return number

    def where(self) -> str:
        return self.trace.calls[self._stack[-1]].path if self._stack else ""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name, path = function_name(func)
        if self._paused:
            return func(*args, **_on_meta(name, kwargs))
        if name in _READS:
            return self._read(func, args, kwargs)
        if name in _COPIES:
            return self._copy(func, args, kwargs)
        if name in _SAME:
            return args[0] if args else kwargs["input"]
        if name in ("to", "type", "type_as", "float", "double", "half", "bfloat16", "long", "int", "bool"):
            return self._cast(name, args, kwargs)
        if name in IN_PLACE:
            return self._in_place(name, path, func, args, kwargs)
        if name in _FACTORIES or name.endswith("_like") or name.startswith("new_"):
            kwargs = _on_meta(name, kwargs)
        if kwargs.get("inplace"):
            result = self._call(name, path, func, args, {**kwargs, "inplace": False})
            self._numbers[id(args[0])] = self._numbers[id(result)]
            return result
        return self._call(name, path, func, args, kwargs)

    def _call(self, name: str, path: str, func: Any, args: Any, kwargs: Any) -> Any:
        try:
            result = func(*map_tensors(args, _to_meta), **map_tensors(kwargs, _to_meta))
        except (NotImplementedError, RuntimeError) as error:
            raise UnsupportedError(
                [f"{path} in {self.where() or 'the model'}: {str(error).splitlines()[0]}"]
            ) from error
        outs = tensors_in(result)
        if not outs or (isinstance(result, Tensor) and id(result) in self._numbers):
            return result
        if isinstance(result, Tensor) and result.device.type != "meta":
            result = result.to("meta") if name in _FACTORIES else result
            outs = [result]
        self.record(name, path, func, args, kwargs, outs)
        return result

    def record(self, name: str, path: str, func: Any, args: Any, kwargs: Any, outs: list[Tensor]) -> Record:
        refs = map_tensors(args, lambda t: Ref(self.number(t))), map_tensors(kwargs, lambda t: Ref(self.number(t)))
        is_constant = all(self.trace.values[r.number].kind == "constant" for r in tensors_in(refs, Ref))
        kind = "constant" if is_constant else "computed"
        numbers = tuple(self.bind(t, kind) for t in outs)
        record = Record(
            target=name, path=path, func=func, args=refs[0], kwargs=refs[1], outputs=numbers,
            call=self._stack[-1] if self._stack else 0, is_constant=is_constant,
        )  # fmt: skip
        self.trace.records.append(record)
        return record

    def _in_place(self, name: str, path: str, func: Any, args: Any, kwargs: Any) -> Any:
        """Records the functional form; from here on the tensor stands for the new value."""
        target = args[0]
        before = map_tensors(args, lambda t: Ref(self.number(t)))
        alias = target.detach()
        self._numbers[id(alias)] = before[0].number
        self._keep.append(alias)
        func(*map_tensors(args, _to_meta), **map_tensors(kwargs, _to_meta))
        self._numbers.pop(id(target))
        self.record(IN_PLACE[name], path, func, (alias, *args[1:]), kwargs, [target])
        return target

    def _copy(self, func: Any, args: Any, kwargs: Any) -> Any:
        """The same value under a new tensor, whose strides may differ."""
        source = args[0] if args else kwargs["input"]
        result = func(*args, **kwargs)
        if result is not source:
            self._numbers[id(result)] = self.number(source)
            self._keep.append(result)
        return result

    def _cast(self, name: str, args: Any, kwargs: Any) -> Any:
        source = args[0]
        named = {"float": torch.float32, "double": torch.float64, "half": torch.float16, "bfloat16": torch.bfloat16,
                 "long": torch.int64, "int": torch.int32, "bool": torch.bool}  # fmt: skip
        wanted = named.get(name) or kwargs.get("dtype")
        for item in (*args[1:], kwargs.get("other")):
            if isinstance(item, torch.dtype):
                wanted = item
            elif isinstance(item, Tensor):
                wanted = item.dtype
        if wanted is None or wanted == source.dtype:
            return source
        result = torch.empty(source.shape, dtype=wanted, device="meta")
        self.record("cast", "torch.Tensor.to", torch.Tensor.to, (source, wanted), {}, [result])
        return result

    def _read(self, func: Any, args: Any, kwargs: Any) -> Any:
        """A value read into Python: possible when it is a constant, else the model's control flow depends on data."""
        numbers = [self.number(t) for t in tensors_in((args, kwargs))]
        if any(self.trace.values[n].kind != "constant" for n in numbers):
            raise UnsupportedError([f"control flow that depends on data in {self.where() or 'the model'}"])
        evaluate = ConstantEvaluator(self.trace)
        return func(*map_tensors(args, lambda t: evaluate(self.number(t))), **kwargs)

    def module_call(self, module: nn.Module, original: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Runs one module: a leaf is recorded whole, any other one opens a scope."""
        if self._paused:
            return original(module, *args, **kwargs)
        leaf = leaf_of(module, args, kwargs)
        path = self.paths.get(id(module), "")
        if leaf is not None:
            return self._leaf(module, path, leaf, original, args, kwargs)
        call = ModuleCall(len(self.trace.calls), self._stack[-1] if self._stack else -1, path, type(module).__name__)
        first = tensors_in((args, kwargs))
        if first and id(first[0]) in self._numbers:
            call.first_input = self._numbers[id(first[0])]
        self.trace.calls.append(call)
        self._stack.append(call.number)
        try:
            return original(module, *args, **kwargs)
        finally:
            self._stack.pop()

    def _leaf(self, module: nn.Module, path: str, leaf: Leaf, original: Any, args: Any, kwargs: Any) -> Any:
        if leaf.op == "Identity":
            return leaf.inputs[0]
        self._paused += 1
        try:
            result = leaf.run() if leaf.run else original(module, *args, **kwargs)
        finally:
            self._paused -= 1
        refs = tuple(Ref(self.number(t)) if t is not None else None for t in leaf.inputs)
        params = tuple((slot, self.trace.values[self.number(t)].name) for slot, t in leaf.params.items())
        numbers = tuple(self.bind(t, "computed") for t in tensors_in(result))
        self.trace.records.append(
            Record(target=f"leaf:{leaf.op}", args=refs, kwargs=dict(leaf.attrs), outputs=numbers,
                   call=self._stack[-1] if self._stack else 0, layer=path, params=params)
        )  # fmt: skip
        return result


def _on_meta(name: str, kwargs: dict[str, Any]) -> dict[str, Any]:
    if name in _FACTORIES and name not in ("as_tensor", "from_numpy"):
        return {**kwargs, "device": "meta"}
    if "device" in kwargs:
        return {**kwargs, "device": "meta"}
    return kwargs


def _to_meta(tensor: Tensor) -> Tensor:
    return tensor if tensor.device.type == "meta" or tensor.ndim == 0 else tensor.detach().to("meta")


class ConstantEvaluator:
    """Computes constants on the CPU by running their records again.

    `resolve` turns sizes that are stored otherwise (symbolic dimensions) into integers.
    """

    def __init__(self, trace: Trace, resolve: Callable[[Any], Any] = lambda tree: tree) -> None:
        self.trace = trace
        self.resolve = resolve
        self.makers = {number: record for record in trace.records if record.is_constant for number in record.outputs}
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
        if "device" in kwargs or record.target in _FACTORIES:
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


@contextmanager
def recording(tracer: Tracer) -> Iterator[Tracer]:
    """Makes `tracer` see every module call and tensor function."""
    original = nn.Module.__call__

    def call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return tracer.module_call(module, original, args, kwargs)

    nn.Module.__call__ = call  # type: ignore[method-assign]
    Tracer.current = tracer
    try:
        with torch.no_grad(), tracer:
            yield tracer
    finally:
        Tracer.current = None
        nn.Module.__call__ = original  # type: ignore[method-assign]
