"""What is known of a value while an ONNX graph is read, and the reading of one block."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from genmad.ir.build import BlockBuilder
from genmad.ir.diagnostics import GraphError
from genmad.ir.types import Dim, DType, TensorType
from genmad.ops import OPSET

if TYPE_CHECKING:
    import numpy as np
    import onnx_ir

MAX_CONSTANT = 4096


class Refused(Exception):
    """A node that cannot be imported; the text says why. Collected, so that all of them are reported together."""


@dataclass(frozen=True, slots=True)
class Ref:
    """One value.

    Attributes:
        type: its dtype and shape.
        value: its name in the block that is built, "" as long as no node gives it.
        tensor: contents, when the file holds them (an `onnx_ir` tensor or an array).
        param: name relative to the block when it may be a node's parameter.
        swapped: whether it is the transpose of the parameter (type is after the transpose).
        dims: contents of a scalar or vector of integers (whatever its dtype), possibly symbolic.
        late: gives the value a node, when `dims` are symbolic and must be computed after all, or instead of a weight.
        deferred: for what is no tensor of numbers, the operators that make it (an `onnx_leaf.Deferred`).
        what: words for a deferred value.
    """

    type: TensorType
    value: str = ""
    tensor: Any = None
    param: str = ""
    swapped: bool = False
    dims: tuple[Dim, ...] | None = None
    late: "Callable[[], Ref] | None" = field(default=None, compare=False)
    deferred: Any = field(default=None, compare=False)
    what: str = ""

    @property
    def is_param(self) -> bool:
        return bool(self.param) and not self.value


@dataclass
class Totals:
    """What the reading of all blocks adds up to.

    Attributes:
        weights: full or relative name -> `onnx_ir` tensor, of the main graph's parameters.
        problems: what was refused.
        ours: whether genmad wrote the file, so that node names are the user's.
        imports: version of each domain; "" is the standard one.
        symbols: those that the shape of a model input tells at run time, and those of results that only a run tells.
        measured: the former.
        classes: class name by module path, where the exporter noted it.
    """

    ours: bool
    imports: dict[str, int] = field(default_factory=dict)
    weights: dict[str, Any] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    symbols: set[str] = field(default_factory=set)
    measured: frozenset[str] = frozenset()
    classes: dict[str, str] = field(default_factory=dict)
    count: int = 0

    @property
    def opset(self) -> int:
        return self.imports.get("", 18)

    def next_number(self) -> int:
        self.count += 1
        return self.count


def array_of(ref: Ref) -> "np.ndarray":
    """The contents. Raises `Refused` when they are computed or are a block's parameter."""
    import numpy as np

    if ref.tensor is not None:
        array = np.asarray(ref.tensor.numpy() if hasattr(ref.tensor, "numpy") else ref.tensor)
        return array.T if ref.swapped else array
    if ref.dims is not None and all(isinstance(d, int) for d in ref.dims):
        return np.asarray(ref.dims, dtype=ref.type.dtype.value).reshape([int(str(d)) for d in ref.type.shape])
    raise Refused("a computed input where a constant is needed")


def dims_of(ref: Ref) -> tuple[Dim, ...]:
    """The contents of an integer scalar or vector. Raises `Refused`."""
    if ref.dims is not None:
        return ref.dims
    array = array_of(ref)
    if array.ndim > 1 or array.size > MAX_CONSTANT or array.dtype.kind not in "iu":
        raise Refused(f"{ref.type} where sizes are needed")
    return tuple(int(n) for n in array.reshape(-1))


def ints_of(ref: Ref) -> tuple[int, ...]:
    dims = dims_of(ref)
    if not all(isinstance(d, int) for d in dims):
        raise Refused(f"symbolic sizes {dims} where integers are needed")
    return tuple(d for d in dims if isinstance(d, int))


def scalar_of(ref: Ref | None) -> float | None:
    """The number, when the value is a known float or integer of one element; else None."""
    if ref is None or ref.value or ref.type.numel != 1 or ref.type.rank > 1 or ref.type.dtype is DType.BOOL:
        return None
    try:
        return float(array_of(ref).reshape(-1)[0])
    except Refused:
        return None


def decimal(value: float) -> float:
    """The shortest decimal that is the same float32: 1e-05 and not 9.999999747378752e-06."""
    import numpy as np

    return float(str(np.float32(value)))


def clean(name: str) -> str:
    """A node name from any text: letters, digits, `_ . -`, starting with a letter."""
    text = re.sub(r"[^\w.\-]+", "_", name, flags=re.ASCII).strip("._-")
    return text if re.match(r"[A-Za-z_]", text) else f"n{text}" if text else "node"


class BlockReader:
    """The builder of one block and what is known of each ONNX value in it."""

    def __init__(self, builder: BlockBuilder, totals: Totals, *, is_main: bool) -> None:
        self.builder, self.totals, self.is_main = builder, totals, is_main
        self.env: dict[Any, Ref | None] = {}
        self.prefix = ""
        self.scope = ""  # of the function that is expanded
        self.names: dict[str, Any] = {}  # the ONNX values that nodes gave, by name
        self.absorbed: dict[Any, Any] = {}  # an Add that a Linear took in -> the value it passes on
        self.stored: frozenset[str] = frozenset()  # names of the file's initializers
        self._made: dict[Any, str] = {}
        self._renamed: dict[str, str] = {}

    def emit(
        self,
        op: str,
        *inputs: Ref | None,
        name: str = "",
        scope: str = "",
        params: Mapping[str, Ref] | None = None,
        **attrs: Any,
    ) -> Ref | tuple[Ref, ...]:
        """Adds a node. Raises `Refused` when our shape rule or the parameters' shapes do not fit."""
        values = [self.value(ref) if ref is not None else "" for ref in inputs]
        given = {slot: self.parameter(ref) for slot, ref in (params or {}).items()}
        types = [self.builder.types[v] if v else None for v in values]
        try:
            for declared in OPSET[op].params(types, OPSET[op].complete(attrs)):
                if params is None or declared.slot not in params:
                    raise Refused(f"no parameter for {declared.slot}")
                if _unswapped(params[declared.slot]) != declared.type:
                    got = _unswapped(params[declared.slot])
                    raise Refused(f"{declared.slot} of type {got} where {op} has {declared.type}")
            node = self.builder.add_node(op, values, attrs, name=clean(name or op.lower()), scope=scope, params=given)
        except GraphError as error:
            raise Refused("; ".join(f"{d.got}; expected {d.expected}" for d in error.diagnostics)) from error
        refs = tuple(Ref(t, v) for t, v in zip(node.types, node.outputs, strict=True))
        return refs if len(refs) > 1 else refs[0]

    def parameter(self, ref: Ref) -> str:
        """The parameter's name in this block; remembers its contents. Raises `Refused`."""
        if not ref.is_param:
            raise Refused("a computed value where a stored weight is needed")
        if self.is_main and ref.tensor is not None:
            self.totals.weights[ref.param] = ref.tensor
        return ref.param

    def renamed(self, ref: Ref, scope: str, slot: str) -> Ref:
        """The weight under its module's name, where the exporter left a number (`val_4`) and noted the module."""
        if not ref.param or "." in ref.param or not scope:
            return ref
        name = self._renamed.setdefault(ref.param, f"{scope}.{slot}")
        return ref if name in self.stored else replace(ref, param=name)

    def value(self, ref: Ref) -> str:
        """The name of the value; a constant or weight gets a node first. Raises `Refused`."""
        if ref.value:
            return ref.value
        if ref.deferred is not None:
            raise Refused(f"{ref.what} where a tensor of numbers is needed")
        key = (ref.param, ref.swapped) if ref.param else id(ref)
        if key not in self._made:
            self._made[key] = self._materialise(ref)
        return self._made[key]

    def _materialise(self, ref: Ref) -> str:
        if ref.late is not None and not all(isinstance(d, int) for d in ref.dims or ("",)):
            return self.value(ref.late())
        small = isinstance(ref.type.numel, int) and ref.type.numel <= MAX_CONSTANT
        if (
            small
            and (not ref.param or not ref.type.dtype.is_float)
            and (ref.tensor is not None or ref.dims is not None)
        ):
            array = array_of(ref)
            values = tuple(v.item() for v in array.reshape(-1))
            made = self.emit(
                "Constant", values=values, shape=tuple(array.shape), dtype=str(ref.type.dtype), name=ref.param
            )
        elif ref.param:
            plain = replace(ref, swapped=False, type=_unswapped(ref))
            made = self.emit(
                "Parameter", name=ref.param, params={"value": plain}, shape=plain.type.shape, dtype=str(ref.type.dtype),
                trainable=ref.type.dtype.is_float,
            )  # fmt: skip
            if ref.swapped:
                assert isinstance(made, Ref)
                made = self.emit("Transpose", made, perm=(1, 0))
        else:
            raise Refused("a size that is only known at run time, used as a number")
        assert isinstance(made, Ref)
        return made.value


def _unswapped(ref: Ref) -> TensorType:
    return ref.type.with_shape(reversed(ref.type.shape)) if ref.swapped else ref.type


@dataclass
class NodeReader:
    """One ONNX node: its attributes and inputs, and the way to add ours."""

    block: BlockReader
    node: "onnx_ir.Node"
    inputs: tuple[Ref | None, ...]
    name: str
    scope: str
    bindings: "Mapping[str, onnx_ir.Attr]"

    def attr(self, name: str, default: Any = None) -> Any:
        """An attribute's value as Python has it; tuples for lists, shortest decimals for floats."""
        found = self.node.attributes.get(name)
        if found is not None and found.is_ref():
            found = self.bindings.get(found.ref_attr_name or "")
        if found is None:
            return default
        value = found.value
        if isinstance(value, float):
            return decimal(value)
        return tuple(value) if isinstance(value, (list, tuple)) else value

    def input(self, index: int) -> Ref:
        """A present input. Raises `Refused`."""
        found = self.optional(index)
        if found is None:
            raise Refused(f"no input {index}")
        return found

    def optional(self, index: int) -> Ref | None:
        return self.inputs[index] if index < len(self.inputs) else None

    def require(self, **wanted: Any) -> None:
        """Raises `Refused` for an attribute that is set to anything but the value given here."""
        bad = [f"{k}={self.attr(k)!r}" for k, v in wanted.items() if self.attr(k, v) != v]
        if bad:
            raise Refused(", ".join(bad))

    def only(self, *known: str) -> None:
        """Raises `Refused` for any attribute that is not `known`, so that none is passed over."""
        odd = [name for name in self.node.attributes if name not in known]
        if odd:
            raise Refused(f"attributes {', '.join(odd)}")

    def only_first(self, what: str) -> None:
        """Raises `Refused` when something reads another output than the first."""
        if any(list(out.uses()) or out.is_graph_output() for out in self.node.outputs[1:]):
            raise Refused(what)

    def emit(self, op: str, *inputs: Ref | None, params: Mapping[str, Ref] | None = None, **attrs: Any) -> Ref:
        """Adds a node of one output, named after its weight or after the ONNX node."""
        made = self.emit_all(op, *inputs, params=params, **attrs)
        return made[0]

    def emit_all(
        self, op: str, *inputs: Ref | None, params: Mapping[str, Ref] | None = None, **attrs: Any
    ) -> tuple[Ref, ...]:
        name, scope = self.name, self.scope
        if not self.block.totals.ours and params:
            params = {slot: self.block.renamed(ref, scope, slot) for slot, ref in params.items()}
            first = next(iter(params.values())).param
            module = first.rpartition(".")[0] or first
            # A weight that exporters share between equal modules is named after one of them, which need not be this.
            inside = bool(scope) and scope == self.block.scope  # of a function, several of whose nodes own weights
            if inside:
                pass
            elif not scope or module.startswith(f"{scope}.") or module == scope or "." not in first:
                name = scope = module
        made = self.block.emit(op, *inputs, name=name, scope=clean(scope) if scope else "", params=params, **attrs)
        return made if isinstance(made, tuple) else (made,)
