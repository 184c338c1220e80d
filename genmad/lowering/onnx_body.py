"""Writes the nodes of one ONNX function or main graph; the contexts that `OpDef.to_onnx` receives."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from genmad.ir.opdef import Attrs
from genmad.ir.types import Dim, DType, SymDim, TensorType, parse_dim
from genmad.lowering.errors import LoweringError

if TYPE_CHECKING:
    from onnx import NodeProto, TensorProto

_FLOOR = re.compile(r"floor\((.*)/([^/]*)\)\Z")
ONNX_NAMES = {
    DType.FLOAT32: "FLOAT",
    DType.FLOAT64: "DOUBLE",
    DType.FLOAT16: "FLOAT16",
    DType.BFLOAT16: "BFLOAT16",
    DType.INT64: "INT64",
    DType.INT32: "INT32",
    DType.INT16: "INT16",
    DType.INT8: "INT8",
    DType.UINT8: "UINT8",
    DType.UINT16: "UINT16",
    DType.UINT32: "UINT32",
    DType.UINT64: "UINT64",
    DType.BOOL: "BOOL",
    DType.COMPLEX64: "COMPLEX64",
}


def element_type(dtype: DType) -> int:
    """The number of `TensorProto.DataType` for a dtype."""
    from onnx import TensorProto

    return int(TensorProto.DataType.Value(ONNX_NAMES[DType(dtype)]))


def tensor_of(value: Any, dtype: DType, name: str = "") -> "TensorProto":
    """A tensor from a scalar or a nested list."""
    import numpy as np
    from onnx import helper, numpy_helper

    array = np.asarray(value, dtype=helper.tensor_dtype_to_np_dtype(element_type(dtype)))
    return numpy_helper.from_array(array, name)


@dataclass(frozen=True, slots=True)
class Signature:
    """How a written function is called: its domain and name, then what follows its own inputs.

    Attributes:
        params: parameter names relative to the function's block, with types.
        sizes: symbols whose values (int64 [1]) come last.
    """

    domain: str
    name: str
    params: tuple[tuple[str, TensorType], ...] = ()
    sizes: tuple[str, ...] = ()


class Body:
    """The nodes of one function (or of the main graph, `is_main`) while they are written."""

    def __init__(self, where: str, inputs: Iterable[tuple[str, TensorType]], *, is_main: bool = False) -> None:
        self.where = where
        self.inputs = tuple(inputs)
        self.is_main = is_main
        self.nodes: list[NodeProto] = []
        self.params: dict[str, TensorType] = {}
        self.sizes: dict[str, str] = {}
        self.names: dict[str, str] = {name: name for name, _ in self.inputs}
        self.domains: set[str] = set()
        self.versions: dict[str, set[int]] = {}
        self._taken = {name for name, _ in self.inputs}
        self._dims: dict[Dim, str] = {}
        self._made: list[tuple[str, TensorType]] = []

    def note(self, made: Iterable[tuple[str, TensorType]]) -> None:
        """Tells the types of values that were written, off which symbols of their own can be read."""
        self._made.extend(made)

    def reserve(self, names: Iterable[str]) -> None:
        """Keeps names free for parameters."""
        self._taken.update(names)

    def fresh(self, stem: str) -> str:
        name, count = stem, 0
        while name in self._taken:
            count += 1
            name = f"{stem}_{count}"
        self._taken.add(name)
        return name

    def add(
        self, op_type: str, inputs: Sequence[str], outputs: Sequence[str], name: str, attrs: Attrs, domain: str = ""
    ) -> "NodeProto":
        from onnx import AttributeProto, helper

        ready = [v for v in attrs.values() if isinstance(v, AttributeProto)]
        plain = {k: _attribute(k, v) for k, v in attrs.items() if v is not None and not isinstance(v, AttributeProto)}
        node = helper.make_node(op_type, list(inputs), list(outputs), name=name, domain=domain, **plain)
        node.attribute.extend(ready)
        self.nodes.append(node)
        self.domains.add(domain)
        return node

    def param(self, name: str, type_: TensorType) -> str:
        """The value of a parameter by its name in this block. Raises `LoweringError` on two types under one name."""
        known = self.params.setdefault(name, type_)
        if known != type_:
            raise LoweringError(f"{self.where}: parameter {name!r} is {known} in one place and {type_} in another")
        return name

    def dim(self, dim: Dim) -> str:
        """An int64 [1] value that holds `dim`, computed from the inputs or from sizes that the caller passes."""
        if dim not in self._dims:
            self._dims[dim] = self._constant(dim) if isinstance(dim, int) else self._polynomial(dim)
        return self._dims[dim]

    def _emit(self, op_type: str, *inputs: str, stem: str, **attrs: Any) -> str:
        name = self.fresh(f"size.{stem}")
        self.add(op_type, inputs, (name,), name, attrs)
        return name

    def _constant(self, value: int) -> str:
        return self._emit("Constant", stem=str(value), value=tensor_of([value], DType.INT64))

    def _polynomial(self, dim: SymDim) -> str:
        total = ""
        for symbols, factor in dim.terms:
            term = ""
            for symbol in symbols:
                value = self._symbol(symbol)
                term = self._emit("Mul", term, value, stem="product") if term else value
            if factor != 1 or not term:
                scale = self.dim(factor)
                term = self._emit("Mul", term, scale, stem="product") if term else scale
            total = self._emit("Add", total, term, stem="sum") if total else term
        return total

    def _symbol(self, symbol: str) -> str:
        if symbol in self.sizes:
            return self.sizes[symbol]
        quotient = _FLOOR.match(symbol)
        if quotient:
            top, bottom = (self.dim(parse_dim(part)) for part in quotient.groups())
            self.sizes[symbol] = self._emit("Div", top, bottom, stem="quotient")
            return self.sizes[symbol]
        self.sizes[symbol] = self._measured(symbol) or self._passed(symbol)
        return self.sizes[symbol]

    def _measured(self, symbol: str) -> str:
        """The symbol read off an input or earlier value that has an axis of size `a*symbol + b`; "" when there is none.

        Symbols of results that only a run tells (how many elements are not zero) are read off those results.
        """
        known = [*self.inputs, *self._made]
        plain = [(v, t, i) for v, t in known for i, d in enumerate(t.shape) if d == SymDim.symbol(symbol)]
        for value, _, axis in plain[:1]:
            return self._emit("Shape", value, stem=symbol, start=axis, end=axis + 1)
        for value, type_ in known:
            for axis, dim in enumerate(type_.shape):
                terms = dict(dim.terms) if isinstance(dim, SymDim) else {}
                offset = terms.pop((), 0)
                if set(terms) == {(symbol,)}:
                    length = self._emit("Shape", value, stem=f"{symbol}.axis", start=axis, end=axis + 1)
                    rest = self._emit("Sub", length, self.dim(offset), stem=symbol)
                    return self._emit("Div", rest, self.dim(terms[(symbol,)]), stem=symbol)
        return ""

    def _passed(self, symbol: str) -> str:
        if self.is_main:
            raise LoweringError(
                f"{self.where}: no input has an axis of size {symbol!r}, so its value is unknown at run time"
            )
        return self.fresh(f"size.{symbol}")

    @property
    def passed_sizes(self) -> tuple[str, ...]:
        """Symbols that the caller must pass, in the order in which they were asked for."""
        made = {out for node in self.nodes for out in node.output}
        return tuple(s for s, name in self.sizes.items() if name not in made)


def _attribute(name: str, value: Any) -> Any:
    if name == "to" and isinstance(value, str):
        return element_type(DType(value))
    if isinstance(value, bool):
        return int(value)
    return list(value) if isinstance(value, tuple) else value


class NodeContext:
    """The `OnnxContext` of one node: writes into a body, with names that start with the node's."""

    def __init__(
        self,
        body: Body,
        stem: str,
        inputs: tuple[str, ...],
        types: tuple[TensorType | None, ...],
        results: tuple[TensorType, ...],
        attrs: Attrs,
        params: Mapping[str, str],
    ) -> None:
        self.inputs, self.types, self.results, self.attrs = inputs, types, results, attrs
        self._body, self._stem, self._params = body, stem, params
        self._constants: dict[tuple[str, str], str] = {}

    def param(self, slot: str) -> str:
        return self._params[slot]

    def op(self, op_type: str, *inputs: str, outputs: int = 1, domain: str = "", version: int = 0, **attrs: Any) -> Any:
        name = self._body.fresh(f"{self._stem}/{op_type}")
        values = (name,) if outputs == 1 else tuple(self._body.fresh(f"{name}:{i}") for i in range(outputs))
        while inputs and not inputs[-1]:
            inputs = inputs[:-1]
        self._body.add(op_type, inputs, values, name, attrs, domain)
        if version:
            versions = self._body.versions.setdefault(domain, set())
            versions.add(version)
        return values[0] if outputs == 1 else values

    def fresh(self, stem: str) -> str:
        return self._body.fresh(f"{self._stem}/{stem}")

    def const(self, value: Any, dtype: str = "int64") -> str:
        key = (repr(value), str(dtype))
        if key not in self._constants:
            self._constants[key] = self.op("Constant", value=tensor_of(value, DType(dtype)))
        return self._constants[key]

    def shape(self, dims: Sequence[Dim]) -> str:
        if all(isinstance(d, int) for d in dims):
            return self.const(list(dims))
        parts: list[str] = []
        fixed: list[Dim] = []
        for dim in dims:
            if isinstance(dim, int):
                fixed.append(dim)
                continue
            if fixed:
                parts.append(self.const(fixed))
                fixed = []
            parts.append(self._body.dim(dim))
        if fixed:
            parts.append(self.const(fixed))
        return parts[0] if len(parts) == 1 else str(self.op("Concat", *parts, axis=0))
