"""The eager tracer: runs a module once on the meta device and writes down every tensor function and layer.

Nothing here knows about ops of the graph: the outcome is a list of `Record`s, each with the module call it ran in.
Two traces at different sizes are compared in `symbols.py`.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode, resolve_name

from genmad.importers.evaluate import FACTORIES, ConstantEvaluator
from genmad.importers.leaves import LIKE_INPUT, Leaf, leaf_of
from genmad.importers.meta_results import meta_result
from genmad.importers.meta_run import elementwise, is_in_place, on_meta_device, run_on_meta, to_meta
from genmad.importers.records import ModuleCall, Record, Ref, Trace, TracedValue, map_tensors, tensors_in
from genmad.importers.report import UnsupportedError
from genmad.importers.views import Views

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
# Stands before the number of a value that a layer takes as its parameter and that has no name of its own.
COMPUTED = "#"
# Target of a record whose result has a length that only data tells.
BY_DATA = "by_data"
# Methods that take shape and dtype of a tensor, and what they fill the result with; None where an argument says it.
_LIKE = {"zeros_like": 0, "ones_like": 1, "full_like": None, "new_zeros": 0, "new_ones": 1, "new_full": None,
         "empty_like": 0, "new_empty": 0}  # fmt: skip
_NAMES: dict[Any, tuple[str, str]] = {}


def function_name(func: Callable[..., Any]) -> tuple[str, str]:
    """(short name, importable path): `("view", "torch.Tensor.view")`; a property getter gives the property's name."""
    if func not in _NAMES:
        path = resolve_name(func) or getattr(func, "__qualname__", repr(func))
        if path.endswith(".__get__"):
            path = path.removesuffix(".__get__")
        _NAMES[func] = (path.rsplit(".", 1)[-1], path)
    return _NAMES[func]


# An id and a pixel that mean nothing special.
_SOME_WORD, _SOME_PIXEL = 5, 0.5
# Constants of traces that came before, by id: modules keep tables that they computed once.
_EARLIER: dict[int, tuple[Tensor, "Trace", int]] = {}


def _from_earlier(tensor: Tensor) -> Tensor | None:
    """The contents of a constant that an earlier trace made and the module kept."""
    kept, trace, number = _EARLIER.get(id(tensor), (None, None, 0))
    if kept is not tensor or trace is None or trace.values[number].kind != "constant":
        return None
    return ConstantEvaluator(trace)(number)


class Tracer(TorchFunctionMode):
    """Records while it is active; `self.trace` is the outcome."""

    current: "Tracer | None" = None
    # Whether ids are taken to hold no padding, and selections of inputs to keep everything; see `no_padding`.
    assumes_no_padding = False

    def __init__(self, module: nn.Module, known: Mapping[int, tuple[str, str, Tensor | None]]) -> None:
        """`known`: id of each parameter or buffer on the meta device -> (kind, full name, real value)."""
        super().__init__()
        self.trace = Trace()
        self.module = module
        self.paths = {id(sub): name for name, sub in module.named_modules(remove_duplicate=True)}
        self._numbers: dict[int, int] = {}
        self._keep: list[Any] = []
        self._views = Views()
        self._known = known
        self._paused = 0
        self._stack: list[int] = []
        self.keeps_all = Tracer.assumes_no_padding

    def number(self, tensor: Tensor) -> int:
        """Value number of a tensor; one not seen before is a parameter, a buffer or a constant the code holds."""
        found = self._numbers.get(id(tensor))
        if found is not None:
            return found
        if id(tensor) in self._known:
            kind, name, real = self._known[id(tensor)]
            return self.bind(tensor, kind, name, real)
        real = tensor.detach() if tensor.device.type != "meta" else _from_earlier(tensor)
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

    def keep_constants(self) -> None:
        """Remembers what this trace computed from nothing, until the next trace ends."""
        _EARLIER.clear()
        for tensor in self._keep:
            number = self._numbers.get(id(tensor), -1)
            if number >= 0 and self.trace.values[number].kind == "constant" and tensor.device.type == "meta":
                _EARLIER[id(tensor)] = tensor, self.trace, number

    def where(self) -> str:
        return self.trace.calls[self._stack[-1]].path if self._stack else ""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name, path = function_name(func)
        if self._paused:
            return func(*args, **on_meta_device(name, kwargs))
        if name in _READS:
            return self._read(func, args, kwargs)
        if name == "__iter__":
            return iter(self._call("unbind", "torch.unbind", torch.unbind, args, kwargs))
        if name in _COPIES:
            return self._copy(func, args, kwargs)
        if name in _SAME:
            return args[0] if args else kwargs["input"]
        if name in ("to", "type", "type_as", "float", "double", "half", "bfloat16", "long", "int", "bool"):
            return self._cast(name, args, kwargs)
        if name in IN_PLACE or is_in_place(name):
            return self._in_place(name, path, func, args, kwargs)
        if name in FACTORIES or name.endswith("_like") or name.startswith("new_"):
            kwargs = on_meta_device(name, kwargs)
        if name in _LIKE and args and isinstance(args[0], Tensor):
            return self._filled_like(name, func, args, kwargs)
        if name == "__getitem__" and self._picks_by_data(args[1]):
            return self._unknown_length(args)
        if name == "__getitem__" and isinstance(args[0], Tensor):
            args = self._without_masks(args[0], args[1])
            result = self._call(name, path, func, args, kwargs)
            self._views.note(result, *args)
            return result
        if name == "repeat_interleave" and tensors_in((args[1:], kwargs)):
            path, func = "torch.index_select", torch.index_select
            name, args, kwargs = "index_select", self._repeated(*args, **kwargs), {}
        if kwargs.get("inplace"):
            result = self._call(name, path, func, args, {**kwargs, "inplace": False})
            self._numbers[id(args[0])] = self._numbers[id(result)]
            return result
        return self._call(name, path, func, args, kwargs)

    def _filled_like(self, name: str, func: Any, args: Any, kwargs: Any) -> Any:
        """`zeros_like` and its kin read nothing but a shape: recorded as `zeros` of that shape."""
        result = func(*map_tensors(args, to_meta), **map_tensors(kwargs, to_meta))
        value: list[Any] = [_LIKE[name]]
        if name in ("full_like", "new_full"):
            value = list(args[(1 if name == "full_like" else 2) :]) or [kwargs.get("fill_value")]
        words = {"dtype": result.dtype, "device": "meta"}
        self.record("full", "torch.full", torch.full, (tuple(result.shape), value[0]), words, [result])
        return result

    def _call(self, name: str, path: str, func: Any, args: Any, kwargs: Any) -> Any:
        try:
            result = elementwise(name, args, kwargs)
            if result is None:
                result = meta_result(name, args, kwargs)
            if result is None:
                result = run_on_meta(func, args, kwargs)
        except (NotImplementedError, RuntimeError, TypeError) as error:
            result = self._with_numbers(func, args, kwargs)
            result = self._of_constants(func, args, kwargs) if result is None else result
            if result is None:
                raise UnsupportedError(
                    [f"{path} in {self.where() or 'the model'}: {str(error).splitlines()[0]}"]
                ) from error
        outs = tensors_in(result)
        if not outs or (isinstance(result, Tensor) and id(result) in self._numbers):
            return result
        if isinstance(result, Tensor) and result.device.type != "meta":
            result = result.to("meta") if name in FACTORIES else result
            outs = [result]
        self.record(name, path, func, args, kwargs, outs)
        return result

    def record(self, name: str, path: str, func: Any, args: Any, kwargs: Any, outs: list[Tensor]) -> Record:
        is_constant = True

        def ref(tensor: Tensor) -> Ref:
            nonlocal is_constant
            number = self.number(tensor)
            is_constant = is_constant and self.trace.values[number].kind == "constant"
            return Ref(number)

        refs = map_tensors(args, ref), map_tensors(kwargs, ref) if kwargs else {}
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
        func(*map_tensors(args, to_meta), **map_tensors(kwargs, to_meta))
        self._numbers.pop(id(target))
        if name not in IN_PLACE:
            name, path = name[:-1], path[:-1]
            func = getattr(Tensor, name, None) or getattr(torch.nn.functional, name)
        self.record(IN_PLACE.get(name, name), path, func, (alias, *args[1:]), kwargs, [target])
        for part, whole, index in self._views.above(target):
            self._put_back(part, whole, index)
        return target

    def _put_back(self, part: Tensor, whole: Tensor, index: Any) -> None:
        """Records `whole[index] = part` for a part that has changed."""
        alias = whole.detach()
        self._numbers[id(alias)] = self.number(whole)
        self._keep.append(alias)
        self._numbers.pop(id(whole))
        put = torch.Tensor.__setitem__
        self.record("setitem", "torch.Tensor.__setitem__", put, (alias, index, part), {}, [whole])

    def _with_numbers(self, func: Any, args: Any, kwargs: Any) -> Any:
        """The function with constants of no axes as plain numbers: ends of slices, sizes of paddings."""
        evaluate = ConstantEvaluator(self.trace)
        found = False

        def number(tensor: Tensor) -> Any:
            nonlocal found
            if tensor.dim() or self.trace.values[self.number(tensor)].kind != "constant":
                return to_meta(tensor)
            found = True
            return evaluate(self.number(tensor)).item()

        plain = map_tensors(args, number), map_tensors(kwargs, number)
        try:
            return func(*plain[0], **plain[1]) if found else None
        except (NotImplementedError, RuntimeError, TypeError):
            return None

    def _of_constants(self, func: Any, args: Any, kwargs: Any) -> Any:
        """What a function of constants gives where the meta device cannot tell: by its values."""
        tensors = tensors_in((args, kwargs))
        if not tensors or any(self.trace.values[self.number(t)].kind != "constant" for t in tensors):
            return None
        evaluate = ConstantEvaluator(self.trace)

        def real(tensor: Tensor) -> Tensor:
            return evaluate(self.number(tensor))

        words = {k: torch.device("cpu") if k == "device" else v for k, v in kwargs.items()}
        try:
            result = func(*map_tensors(args, real), **map_tensors(words, real))
        except (NotImplementedError, RuntimeError, TypeError):
            return None
        return map_tensors(result, lambda t: t.to("meta"))

    def _repeated(self, x: Tensor, repeats: Tensor, dim: int | None = None, **_: Any) -> tuple[Tensor, int, Tensor]:
        """What `index_select` takes for a `repeat_interleave` with constant counts. Raises `UnsupportedError`."""
        number = self.number(repeats)
        if self.trace.values[number].kind != "constant" or (dim is None and x.dim() != 1):
            raise UnsupportedError([f"repetitions whose number depends on data in {self.where() or 'the model'}"])
        axis = dim or 0
        counts = ConstantEvaluator(self.trace)(number).expand(x.shape[axis])
        return x, axis, torch.arange(x.shape[axis]).repeat_interleave(counts)

    def _picks_by_data(self, index: Any) -> bool:
        """Whether an index holds a mask whose contents depend on an input."""
        masks = [t for t in tensors_in(index) if t.dtype in (torch.bool, torch.uint8)]
        return any(self.trace.values[self.number(t)].kind != "constant" for t in masks)

    def _without_masks(self, x: Tensor, index: Any) -> tuple[Tensor, Any]:
        """The same selection with places instead of a mask that is constant; a mask of axes 0 to d flattens them."""
        items = index if isinstance(index, tuple) else (index,)
        masks = [i for i in items if isinstance(i, Tensor) and i.dtype in (torch.bool, torch.uint8)]
        if len(masks) != 1 or self.trace.values[self.number(x)].kind == "constant":
            return x, index
        mask = ConstantEvaluator(self.trace)(self.number(masks[0])).bool()
        places = mask.flatten().nonzero().flatten()
        if mask.dim() > 1:
            if items[0] is not masks[0]:
                return x, index
            x = self._call("flatten", "torch.flatten", torch.flatten, (x, 0, mask.dim() - 1), {})
        items = tuple(places if i is masks[0] else i for i in items)
        return x, items if len(items) > 1 else items[0]

    def _unknown_length(self, args: Any) -> Tensor:
        """Stands for what a mask picks. Models count it in checks; whoever computes with it is refused later on."""
        if self.keeps_all and isinstance(args[1], Tensor) and 0 < args[1].dim() < args[0].dim():
            self.trace.notes.append(f"a selection in {self.where() or 'the model'} is taken to keep everything")
            depth = args[1].dim()
            flat = (args[0], 0, depth - 1)
            return args[0] if depth == 1 else self._call("flatten", "torch.flatten", torch.flatten, flat, {})
        result = torch.empty((0, args[0].shape[-1]) if args[0].dim() > 1 else (0,), dtype=args[0].dtype, device="meta")
        self.record(BY_DATA, f"a selection by data in {self.where() or 'the model'}", None, args, {}, [result])
        return result

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
        evaluate = ConstantEvaluator(self.trace)
        if any(self.trace.values[n].kind != "constant" for n in numbers):
            evaluate = self._by_example(numbers)
        return func(*map_tensors(args, lambda t: evaluate(self.number(t))), **kwargs)

    def _by_example(self, numbers: list[int]) -> "ConstantEvaluator":
        """Values computed from the example's ids: whether there is padding, how long a row is."""
        evaluate = ConstantEvaluator(self.trace, everything=True)
        try:
            if not self.keeps_all:
                raise UnsupportedError(["nothing is assumed of the inputs"])
            evaluate.done.update(self._examples())
            for number in numbers:
                evaluate(number)
        except (UnsupportedError, RuntimeError, TypeError) as error:
            where = self.where() or "the model"
            raise UnsupportedError([f"control flow that depends on data in {where}"]) from error
        self.trace.notes.append(f"a branch in {self.where() or 'the model'} is the one that ids without padding take")
        return evaluate

    def _examples(self) -> dict[int, Tensor]:
        """Contents of the inputs that mean nothing special: a word that is no padding, pixels that are not black."""
        given = ((n, v) for n, v in enumerate(self.trace.values) if v.kind == "input")
        return {
            n: torch.full(v.shape, _SOME_PIXEL if v.dtype.is_floating_point else _SOME_WORD, dtype=v.dtype)
            for n, v in given
        }

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
            if leaf.op in LIKE_INPUT and isinstance(leaf.inputs[0], Tensor):
                result = leaf.inputs[0].new_empty(leaf.inputs[0].shape)
            else:
                result = leaf.run() if leaf.run else original(module, *args, **kwargs)
        finally:
            self._paused -= 1
        return self.record_leaf(leaf.op, leaf.inputs, leaf.attrs, leaf.params, result, path)

    def record_leaf(
        self, op: str, inputs: tuple[Tensor | None, ...], attrs: Mapping[str, Any], params: Mapping[str, Tensor],
        result: Any, layer: str = "",
    ) -> Any:  # fmt: skip
        """Records a layer-level op with its parameters by slot; gives `result`, its output, back."""
        refs = tuple(Ref(self.number(t)) if t is not None else None for t in inputs)
        names = tuple((slot, self._name_of(t)) for slot, t in params.items())
        numbers = tuple(self.bind(t, "computed") for t in tensors_in(result))
        self.trace.records.append(
            Record(target=f"leaf:{op}", args=refs, kwargs=dict(attrs), outputs=numbers,
                   call=self._stack[-1] if self._stack else 0, layer=layer, params=names)
        )  # fmt: skip
        return result

    def _name_of(self, tensor: Tensor) -> str:
        """The full name of a layer's parameter; of one that the model has computed anew, its place in the trace."""
        number = self.number(tensor)
        return self.trace.values[number].name or f"{COMPUTED}{number}"


@contextmanager
def no_padding() -> Iterator[None]:
    """While open, branches and selections that look for padding in the inputs go as if there were none.

    For libraries whose models do so; a module of the user that reads its inputs into Python is refused instead.
    """
    before = Tracer.assumes_no_padding
    Tracer.assumes_no_padding = True
    try:
        yield
    finally:
        Tracer.assumes_no_padding = before


@contextmanager
def recording(tracer: Tracer) -> Iterator[Tracer]:
    """Makes `tracer` see every module call and tensor function."""
    original = nn.Module.__call__
    begin = torch.autocast.__init__

    def begin_on_cpu(self: Any, device_type: str, *args: Any, **kwargs: Any) -> None:
        """No autocast is known for the meta device; there, none is needed."""
        begin(self, *(("cpu",) if device_type == "meta" else (device_type, *args)),
              **({"enabled": False} if device_type == "meta" else kwargs))  # fmt: skip

    def call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return tracer.module_call(module, original, args, kwargs)

    nn.Module.__call__ = call  # type: ignore[method-assign]
    torch.autocast.__init__ = begin_on_cpu  # type: ignore[method-assign,assignment]
    Tracer.current = tracer
    try:
        with torch.no_grad(), tracer:
            yield tracer
    finally:
        tracer.keep_constants()
        Tracer.current = None
        nn.Module.__call__ = original  # type: ignore[method-assign]
        torch.autocast.__init__ = begin  # type: ignore[method-assign]


__all__ = [
    "BY_DATA", "COMPUTED", "ConstantEvaluator", "ModuleCall", "Record", "Ref", "Trace", "TracedValue", "Tracer",
    "map_tensors", "no_padding", "recording", "tensors_in",
]  # fmt: skip
