"""Whether an ONNX function body is exactly what an op of ours is written as.

A function in a file may claim to be an op; the claim counts only when the op's own lowering gives the same nodes.
"""

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from genmad.ir.opdef import Attrs, OpDef
from genmad.ir.types import Dim, DType, SymDim, TensorType

if TYPE_CHECKING:
    import onnx_ir

Token = tuple[Any, ...]


class _Expected:
    """An `OnnxContext` that writes down what it is told instead of making nodes.

    Value names are `#0`, `#1` ...; `table` says what each of them must be.
    """

    def __init__(
        self,
        inputs: tuple[str, ...],
        types: tuple[TensorType | None, ...],
        results: tuple[TensorType, ...],
        attrs: Attrs,
        params: Mapping[str, str],
    ) -> None:
        self.types, self.results, self.attrs = types, results, attrs
        self.table: dict[str, Token] = {}
        self.inputs = tuple(self._token("input", name) if name else "" for name in inputs)
        self._params = {slot: self._token("input", name) for slot, name in params.items()}

    def _token(self, *token: Any) -> str:
        name = f"#{len(self.table)}"
        self.table[name] = token
        return name

    def param(self, slot: str) -> str:
        return self._params[slot]

    def op(
        self,
        op_type: str,
        *inputs: Any,
        outputs: int = 1,
        domain: str = "",  # noqa: ARG002 - no op that is a function uses another domain
        version: int = 0,  # noqa: ARG002
        **attrs: Any,
    ) -> Any:
        while inputs and not inputs[-1]:
            inputs = inputs[:-1]
        number = len(self.table)
        made = tuple(self._token("node", number, op_type, inputs, outputs, i, attrs) for i in range(outputs))
        return made[0] if outputs == 1 else made

    def fresh(self, stem: str) -> str:
        return stem

    def const(self, value: Any, dtype: str = "int64") -> str:
        return self._token("const", value, str(dtype))

    def shape(self, dims: Sequence[Dim]) -> str:
        if all(isinstance(d, int) for d in dims):
            return self.const(list(dims))
        return self._token("dims", tuple(dims))


def matches(
    function: "onnx_ir.Function", opdef: OpDef, types: Sequence[TensorType | None], attrs: Attrs, num_params: int
) -> bool:
    """Whether the body computes `opdef` with these attributes on inputs of these types."""
    names = [value.name for value in function.inputs]
    present = [t for t in types if t is not None]
    slots = [p.slot for p in opdef.params(types, attrs)]
    if len(slots) != num_params or len(names) < len(present) + num_params:
        return False
    own = iter(names)
    inputs = tuple(str(next(own)) if t is not None else "" for t in types)
    params = {slot: str(next(own)) for slot in slots}
    expected = _Expected(inputs, tuple(types), opdef.infer(types, attrs), attrs, params)
    made = opdef.to_onnx(expected)
    known = {value.name: t for value, t in zip(function.inputs, present, strict=False)}
    return len(made) == len(function.outputs) and all(
        _same(expected.table, token, value, known, {}) for token, value in zip(made, function.outputs, strict=True)
    )


def _same(
    table: Mapping[str, Token],
    name: str,
    value: "onnx_ir.Value | None",
    types: Mapping[Any, TensorType],
    seen: dict[tuple[int, str], bool],
) -> bool:
    """Whether `value` is computed as the table says that `name` must be."""
    if not name or value is None:
        return not name and value is None
    token = table[name]
    kind, node = token[0], value.producer()
    if kind == "input":
        if node is not None and node.op_type == "Identity" and not node.domain:
            value = node.inputs[0]  # an output that is an input needs a node of its own
        return value is not None and value.name == token[1]
    if kind == "const":
        return _constant(value) is not None and _equal_array(token[1], token[2], _constant(value))
    if kind == "dims":
        return known_dims(value, types) == token[1]
    _, number, op_type, inputs, outputs, index, attrs = token
    if node is None or (node.domain, node.op_type) != ("", op_type) or len(node.outputs) != outputs:
        return False
    if node.outputs[index] is not value:
        return False
    key = (number, str(node.outputs[0].name))
    if key not in seen:
        given = list(node.inputs)
        while given and given[-1] is None:
            given.pop()
        seen[key] = (
            len(given) == len(inputs)
            and all(_same(table, t, v, types, seen) for t, v in zip(inputs, given, strict=True))
            and _equal_attrs(attrs, node.attributes)
        )
    return seen[key]


def _constant(value: "onnx_ir.Value") -> Any:
    node = value.producer()
    if node is None or node.op_type != "Constant" or "value" not in node.attributes:
        return None
    return node.attributes["value"].as_tensor().numpy()


def _equal_array(wanted: Any, dtype: str, have: Any) -> bool:
    import numpy as np

    want = np.asarray(wanted, dtype=have.dtype)
    return str(have.dtype) == dtype and want.shape == have.shape and want.tobytes() == have.tobytes()


def _equal_attrs(wanted: Attrs, have: "Mapping[str, onnx_ir.Attr]") -> bool:
    given = {k: v for k, v in wanted.items() if v is not None}
    return set(given) == set(have) and all(_equal_attr(k, v, have[k]) for k, v in given.items())


def _equal_attr(name: str, want: Any, have: "onnx_ir.Attr") -> bool:
    import numpy as np
    import onnx_ir

    value = have.value
    if name == "to" and isinstance(want, str):
        return str(dtype_of(value)) == want
    if isinstance(value, onnx_ir.Graph):
        expected = onnx_ir.to_proto(onnx_ir.from_proto(want))
        return bool(
            expected.SerializeToString(deterministic=True)
            == onnx_ir.to_proto(value).SerializeToString(deterministic=True)
        )
    if isinstance(want, float):
        return isinstance(value, float) and bool(np.float32(want) == np.float32(value))
    if isinstance(want, (tuple, list)):
        return tuple(want) == tuple(value)
    return bool(int(want) == value) if isinstance(want, bool) else bool(want == value)


def dtype_of(number: int) -> DType:
    """Our dtype for a number of `TensorProto.DataType`. Raises `ValueError` when there is none."""
    import onnx_ir

    return DType({"float": "float32", "double": "float64"}.get(name := onnx_ir.DataType(number).name.lower(), name))


def type_number(dtype: DType) -> int:
    """The inverse of `dtype_of`."""
    import onnx_ir

    name = {"float32": "float", "float64": "double"}.get(dtype.value, dtype.value).upper()
    return int(onnx_ir.DataType[name])


def known_dims(value: "onnx_ir.Value", types: Mapping[Any, TensorType]) -> tuple[Dim, ...] | None:
    """The contents of an int64 vector computed from shapes of inputs, or None."""
    node = value.producer()
    if node is None:
        passed = re.fullmatch(r"size\.([A-Za-z_]\w*)", str(value.name))
        return (SymDim.symbol(passed[1]),) if passed and value.name not in types else None
    if node.op_type == "Constant":
        array = _constant(value)
        return (
            tuple(int(n) for n in array) if array is not None and array.ndim == 1 and array.dtype.kind == "i" else None
        )
    if node.op_type == "Shape" and node.inputs[0] is not None and node.inputs[0].name in types:
        shape = types[node.inputs[0].name].shape
        return shape[slice(*(node.attributes[k].as_int() if k in node.attributes else None for k in ("start", "end")))]
    parts = [known_dims(v, types) if v is not None else None for v in node.inputs]
    if any(p is None for p in parts):
        return None
    known = [p for p in parts if p is not None]
    if node.op_type == "Concat":
        return tuple(d for part in known for d in part)
    return combine_dims(node.op_type, *known) if len(known) == 2 else None


def combine_dims(op_type: str, a: tuple[Dim, ...], b: tuple[Dim, ...]) -> tuple[Dim, ...] | None:
    """Elementwise arithmetic on sizes; vectors of one element stretch."""
    actions = {
        "Add": lambda x, y: x + y, "Sub": lambda x, y: x - y, "Mul": lambda x, y: x * y, "Div": lambda x, y: x // y,
    }  # fmt: skip
    if op_type not in actions or (op_type == "Div" and 0 in b):
        return None
    size = max(len(a), len(b))
    if len(a) not in (1, size) or len(b) not in (1, size):
        return None
    wide_a, wide_b = a * (size if len(a) == 1 else 1), b * (size if len(b) == 1 else 1)
    return tuple(actions[op_type](x, y) for x, y in zip(wide_a, wide_b, strict=True))
