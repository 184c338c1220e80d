"""How an op is declared. The declarations themselves are in `genmad.ops`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from genmad.ir.diagnostics import ShapeError
from genmad.ir.types import Dim, TensorType

# Attribute values are scalars or flat tuples of dimensions: hashable, printable, and exact in JSON.
AttrValue = bool | int | float | str | Dim | tuple[Any, ...] | None
Attrs = Mapping[str, Any]
Types = Sequence[TensorType | None]


@dataclass(frozen=True, slots=True)
class Attr:
    """One attribute of an op.

    Attributes:
        name: as in ONNX or in the torch layer that the op is named after.
        kind: `int`, `float`, `bool`, `str`, `ints` (flat tuple of ints), `dims` (flat tuple of int or symbolic),
            `dim` (one int or symbolic), `floats`, or `any` (scalar or flat tuple; only for ops that stay primitive).
        default: value when absent; `REQUIRED` when there is none.
        at_least, at_most: inclusive bounds on numbers, also on each member of `ints`.
        choices: the strings allowed.
        optional: whether None is a value.
        doc: one sentence.
    """

    name: str
    kind: str
    default: Any = ...
    at_least: float | None = None
    at_most: float | None = None
    choices: tuple[str, ...] = ()
    optional: bool = False
    doc: str = ""

    @property
    def required(self) -> bool:
        return self.default is ...

    def check(self, value: Any) -> Any:
        """`value` in its canonical form (lists become tuples). Raises `ShapeError` when it is not allowed."""
        if value is None and (self.optional or self.default is None):
            return None
        value = _canonical(self.kind, value)
        bad = _kind_problem(self.kind, value)
        if bad:
            raise ShapeError(f"{self.name}={value!r}", bad)
        if self.choices and value not in self.choices:
            raise ShapeError(f"{self.name}={value!r}", f"one of {', '.join(self.choices)}")
        numbers = value if isinstance(value, tuple) else (value,)
        for number in numbers:
            if isinstance(number, (int, float)) and not isinstance(number, bool):
                if self.at_least is not None and number < self.at_least:
                    raise ShapeError(f"{self.name}={value}", f"at least {self.at_least}")
                if self.at_most is not None and number > self.at_most:
                    raise ShapeError(f"{self.name}={value}", f"at most {self.at_most}")
        return value


def _canonical(kind: str, value: Any) -> Any:
    if isinstance(value, list):
        value = tuple(value)
    if kind == "float" and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind == "floats" and isinstance(value, tuple):
        return tuple(float(v) for v in value)
    return value


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_dim(value: Any) -> bool:
    return not isinstance(value, (bool, float, str, tuple)) and value is not None


_KIND_CHECKS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "int": (_is_int, "an integer"),
    "float": (lambda v: isinstance(v, float), "a number"),
    "bool": (lambda v: isinstance(v, bool), "true or false"),
    "str": (lambda v: isinstance(v, str), "a string"),
    "dim": (_is_dim, "an integer or a symbolic dimension"),
    "ints": (lambda v: isinstance(v, tuple) and all(_is_int(i) for i in v), "a tuple of integers"),
    "dims": (lambda v: isinstance(v, tuple) and all(_is_dim(i) for i in v), "a tuple of dimensions"),
    "floats": (lambda v: isinstance(v, tuple) and all(isinstance(i, float) for i in v), "a tuple of numbers"),
    "any": (lambda _: True, ""),
}


def _kind_problem(kind: str, value: Any) -> str:
    test, expected = _KIND_CHECKS[kind]
    return "" if test(value) else expected


@dataclass(frozen=True, slots=True)
class Param:
    """One parameter tensor of an op.

    Attributes:
        slot: name inside the op, as in the torch layer (`weight`, `bias`, `lora_a`).
        type: dtype and integer shape.
        init: how a new one starts: `zeros`, `ones`, `normal:STD`, `kaiming` (uniform over fan-in, as torch layers do).
        trainable: False for buffers.
    """

    slot: str
    type: TensorType
    init: str = "kaiming"
    trainable: bool = True


@dataclass(frozen=True, slots=True)
class Cost:
    """What one call of an op costs. One MAC is a multiplication and an addition: two FLOPs.

    Attributes:
        macs: multiply-accumulates in matrix products and convolutions, possibly symbolic.
    """

    macs: Dim = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One use of an op for generic tests: input types (None for an absent optional) and attributes.

    `message` is set on refused samples: a part of the error text that must appear.
    """

    inputs: tuple[str | None, ...]
    attrs: dict[str, Any] = field(default_factory=dict)
    message: str = ""


class TorchContext(Protocol):
    """What `OpDef.to_torch` may use to write one expression of the generated `model.py`."""

    inputs: tuple[str | None, ...]
    """Python expressions of the input tensors, None for an absent optional."""
    types: tuple[TensorType | None, ...]
    results: tuple[TensorType, ...]
    attrs: Attrs

    def param(self, slot: str) -> str:
        """Python expression of a parameter tensor, `self.attn.c_attn.weight`."""

    def dim(self, dim: Dim) -> str:
        """Python expression of an integer or symbolic dimension (`batch`, `2*seq`)."""

    def dims(self, dims: Sequence[Dim]) -> str:
        """Comma-separated `dim`s."""

    def kernel(self, function: Callable[..., Any]) -> str:
        """Copies the source of a plain module-level function into `model.py` and gives its name back.

        The function may use `torch`, `F` (torch.nn.functional) and `math`, and other functions passed as kernels.
        """


class OnnxContext(Protocol):
    """What `OpDef.to_onnx` may use to write ONNX nodes (opset 18) inside the op's own function body or graph."""

    inputs: tuple[str, ...]
    """Names of the ONNX input values, "" for an absent optional."""
    types: tuple[TensorType | None, ...]
    results: tuple[TensorType, ...]
    attrs: Attrs

    def param(self, slot: str) -> str:
        """Name of the ONNX value that holds a parameter."""

    def op(self, op_type: str, *inputs: str, outputs: int = 1, domain: str = "", version: int = 0, **attrs: Any) -> Any:
        """Adds one ONNX node; the name of its output, or a tuple of names.

        `version` is the version of the domain that the node needs, 0 for one that every version has as it is.
        """

    def fresh(self, stem: str) -> str:
        """A name that nothing else in the function or graph has, for values inside subgraphs."""

    def const(self, value: Any, dtype: str = "int64") -> str:
        """A constant tensor from a scalar or a nested list; the name of its value."""

    def shape(self, dims: Sequence[Dim]) -> str:
        """A 1-D int64 value holding `dims`; symbolic ones are computed from the graph's inputs' or `inputs` shapes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OpDef:
    """One op: everything the system knows of it.

    Attributes:
        name: ONNX operator or torch layer name, CamelCase.
        family: `linear conv pool norm activation attention elementwise reshape ...`, the file it stands in.
        inputs: operand names; a trailing `?` marks an optional operand, a trailing `*` on the last one a variadic.
        attrs: attributes in canonical order.
        result: shape rule, (input types, attrs) -> output types; raises `ShapeError`.
        params: (input types, attrs) -> parameters, sized from both.
        cost: (input types, output types, attrs) -> Cost.
        to_torch: writes a Python expression (a tuple expression where there are several outputs).
        torch_module: constructor expression of the torch.nn layer that is the same op (`nn.Linear(768, 3072)`), or ""
            when there is none; slots must then be the layer's own parameter names.
        to_onnx: adds ONNX nodes and returns the output names.
        is_function: whether ONNX has no such op, so that the nodes go into a FunctionProto of its own.
        samples, refused: uses that must work and uses that must be refused, with a part of the message.
        doc: what it computes, one or two sentences; paper where there is one.
        follow: attribute changes implied by one change, e.g. kernel_size -> padding: (old attrs, changes) -> changes.
        opaque: whether the op is a leaf whose inside is not modelled (unrolled mixers).
    """

    name: str
    family: str
    inputs: tuple[str, ...]
    attrs: tuple[Attr, ...] = ()
    result: Callable[[Types, Attrs], tuple[TensorType, ...]]
    params: Callable[[Types, Attrs], tuple[Param, ...]] = lambda _types, _attrs: ()
    cost: Callable[[Types, Types, Attrs], Cost] = lambda _types, _results, _attrs: Cost()
    to_torch: Callable[[TorchContext], str]
    torch_module: Callable[[Types, Attrs], str] = lambda _types, _attrs: ""
    to_onnx: Callable[[OnnxContext], tuple[str, ...]]
    is_function: bool = False
    samples: tuple[Sample, ...] = ()
    refused: tuple[Sample, ...] = ()
    doc: str
    follow: Callable[[Attrs, Attrs], Attrs] = lambda _old, _changes: {}
    opaque: bool = False

    @property
    def is_variadic(self) -> bool:
        return bool(self.inputs) and self.inputs[-1].endswith("*")

    @property
    def min_inputs(self) -> int:
        return sum(not name.endswith(("?", "*")) for name in self.inputs)

    @property
    def max_inputs(self) -> int | None:
        return None if self.is_variadic else len(self.inputs)

    def attr(self, name: str) -> Attr:
        """The declaration of one attribute. Raises `ShapeError` with the names there are."""
        for attr in self.attrs:
            if attr.name == name:
                return attr
        raise ShapeError(f"attribute {name!r}", f"one of {', '.join(a.name for a in self.attrs) or 'none'}")

    def complete(self, attrs: Attrs) -> dict[str, Any]:
        """All attributes in canonical order, defaults filled in. Raises `ShapeError`."""
        for name in attrs:
            self.attr(name)
        full = {}
        for attr in self.attrs:
            if attr.name not in attrs and attr.required:
                raise ShapeError(f"no {attr.name}", f"a value for {attr.name} ({attr.kind})")
            full[attr.name] = attr.check(attrs.get(attr.name, attr.default))
        return full

    def infer(self, types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
        """Output types, after checking the number of inputs. Raises `ShapeError`."""
        given = len(types)
        if given < self.min_inputs or (self.max_inputs is not None and given > self.max_inputs):
            raise ShapeError(f"{given} inputs", f"{self.min_inputs} to {self.max_inputs or 'any number'}")
        if any(t is None for t in types[: self.min_inputs]):
            raise ShapeError("an absent input", f"inputs {', '.join(self.inputs[: self.min_inputs])}")
        return self.result(types, attrs)
