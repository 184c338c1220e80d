"""Pieces that the op declarations share: checks on types, broadcasting, literals, and one-input elementwise ops."""

from collections.abc import Callable, Iterable
from typing import Any

from genmad.ir.diagnostics import GenmadError, ShapeError
from genmad.ir.opdef import Attr, Attrs, OnnxContext, OpDef, Sample, TorchContext, Types
from genmad.ir.types import Dim, DType, Shape, TensorType

AXES = Attr("axes", "ints", doc="Axes, negative ones count from the end.")
AXIS = Attr("axis", "int", doc="Axis, a negative one counts from the end.")
KEEPDIMS = Attr("keepdims", "bool", default=False, doc="Whether the reduced axes stay, with size 1.")


class LoweringError(GenmadError):
    """A valid graph that a target format cannot hold. Raised by lowerings, never by shape rules."""

    exit_code = 5


def operand(types: Types, index: int = 0) -> TensorType:
    """The type of a present input. Raises `ShapeError` when it is absent."""
    found = types[index] if index < len(types) else None
    if found is None:
        raise ShapeError(f"no input {index}", "a tensor there")
    return found


def need_float(x: TensorType, what: str = "x") -> TensorType:
    """`x`, if its elements are floating-point numbers."""
    if not x.dtype.is_float:
        raise ShapeError(f"{what}: {x}", "a floating-point tensor", "put Cast(dtype=float32) before it")
    return x


def need_integer(x: TensorType, what: str = "x") -> TensorType:
    """`x`, if its elements are integers."""
    if not x.dtype.is_integer:
        raise ShapeError(f"{what}: {x}", "an integer tensor", "put Cast(dtype=int64) before it")
    return x


def need_number(x: TensorType, what: str = "x") -> TensorType:
    """`x`, if its elements are not booleans."""
    if x.dtype is DType.BOOL:
        raise ShapeError(f"{what}: {x}", "a tensor of numbers", "put Cast before it")
    return x


def need_bool(x: TensorType, what: str = "x") -> TensorType:
    """`x`, if its elements are booleans."""
    if x.dtype is not DType.BOOL:
        raise ShapeError(f"{what}: {x}", "a bool tensor", "put Cast(dtype=bool) or a comparison before it")
    return x


def need_rank(x: TensorType, at_least: int, at_most: int | None = None, what: str = "x") -> TensorType:
    """`x`, if it has `at_least` to `at_most` axes (no upper limit when that is None)."""
    if x.rank < at_least or (at_most is not None and x.rank > at_most):
        if at_most == at_least:
            expected = f"{at_least} axes"
        else:
            expected = f"at least {at_least} axes" if at_most is None else f"{at_least} to {at_most} axes"
        raise ShapeError(f"{what}: {x}, {x.rank} axes", expected, "use Reshape, Unsqueeze or Flatten before it")
    return x


def need_same_dtype(a: TensorType, b: TensorType) -> DType:
    """The dtype that `a` and `b` share."""
    if a.dtype is not b.dtype:
        raise ShapeError(f"{a} and {b}", "one dtype", f"put Cast(dtype={a.dtype}) before the second input")
    return a.dtype


def known(dim: Dim, what: str) -> int:
    """`dim`, if it is an integer."""
    if not isinstance(dim, int):
        raise ShapeError(f"{what}={dim}", "a size known when the graph is built", "use a fixed size for this axis")
    return dim


def axis_index(axis: int, rank: int) -> int:
    """`axis` counted from the front."""
    if not -rank <= axis < rank:
        raise ShapeError(f"axis={axis} for {rank} axes", f"an axis from {-rank} to {rank - 1}")
    return axis % rank


def axis_indices(axes: Iterable[int], rank: int) -> tuple[int, ...]:
    """`axes` counted from the front, each once."""
    found = tuple(axis_index(axis, rank) for axis in axes)
    if len(set(found)) != len(found):
        raise ShapeError(f"axes={tuple(axes)}", f"each axis once (of {rank})")
    return found


def divisors(number: int) -> str:
    """The divisors of `number` in words, for error messages: `1, 2, 3 or 6`."""
    found = [i for i in range(1, min(number, 4096) + 1) if number % i == 0]
    if len(found) > 16:
        found = [*found[:12], *found[-4:]]
    words = [str(i) for i in found]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


def need_divides(by: int, number: int, by_name: str, name: str) -> int:
    """`number // by`. Raises `ShapeError` listing the divisors when there is a remainder."""
    if by < 1 or number % by:
        got = f"{by_name}={by}, {name}={number}"
        raise ShapeError(got, f"{by_name} that divides {name}", f"use {by_name} {divisors(number)}")
    return number // by


def broadcast(a: Shape, b: Shape) -> Shape:
    """The shape of an elementwise result (numpy rules): axes aligned at the end, size 1 stretches."""
    rank = max(len(a), len(b))
    pairs = zip((1,) * (rank - len(a)) + a, (1,) * (rank - len(b)) + b, strict=True)
    out: list[Dim] = []
    for place, (x, y) in enumerate(pairs):
        if x != y and x != 1 and y != 1:
            got = f"[{','.join(map(str, a))}] and [{','.join(map(str, b))}], {x} against {y} on axis {place - rank}"
            raise ShapeError(got, "equal sizes, or 1, on each axis counted from the end")
        out.append(y if x == 1 else x)
    return tuple(out)


def same_type(types: Types, _attrs: Attrs) -> tuple[TensorType, ...]:
    """Shape rule: one output, of the type of the first input."""
    return (operand(types),)


def literal(value: Any) -> str:
    """Python source of an attribute value; also for infinities and tuples."""
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return f'float("{value}")'
    if isinstance(value, tuple):
        return f"({', '.join(map(literal, value))}{',' if len(value) == 1 else ''})"
    if not isinstance(value, (bool, int, float, str, type(None))):
        raise TypeError(f"attribute {value!r}: a {type(value).__name__} has no literal")
    return repr(value)


def need_any(x: TensorType, _what: str = "x") -> TensorType:
    """`x`, whatever its elements are."""
    return x


ToOnnx = Callable[[OnnxContext], tuple[str, ...]]


def onnx_node(op_type: str, **names: str) -> ToOnnx:
    """An ONNX lowering that is one node over all inputs; `names` maps ONNX attributes to ours (`alpha="slope"`)."""

    def lower(ctx: OnnxContext) -> tuple[str, ...]:
        return (ctx.op(op_type, *ctx.inputs, **{onnx: ctx.attrs[ours] for onnx, ours in names.items()}),)

    return lower


def torch_format(template: str) -> Callable[[TorchContext], str]:
    """A torch lowering from a template: `{x}` is the first input, `{slope}` the literal of an attribute."""

    def lower(ctx: TorchContext) -> str:
        return template.format(x=ctx.inputs[0], **{name: literal(value) for name, value in ctx.attrs.items()})

    return lower


def unary(
    name: str,
    torch: str,
    onnx: str | ToOnnx,
    doc: str,
    *,
    attrs: tuple[Attr, ...] = (),
    accepts: Callable[[TensorType], TensorType] = need_float,
    is_function: bool = False,
    samples: tuple[Sample, ...] = (),
    refused: tuple[Sample, ...] = (),
    family: str = "activation",
) -> OpDef:
    """An elementwise op with one input `x` and one output of the same type.

    Args:
        torch: template as in `torch_format`.
        onnx: name of the ONNX op without attributes, or a lowering.
        accepts: check on the type of `x`, e.g. `need_float`.
        samples, refused: added to the ones made here for the dtype.
    """

    def result(types: Types, _attrs: Attrs) -> tuple[TensorType, ...]:
        return (accepts(operand(types)),)

    right, wrong = ("bool", "float32") if accepts is need_bool else ("float32", "bool")
    made = (Sample(inputs=(f"{right}[batch,seq,8]",)), Sample(inputs=(f"{right}[batch,4,3,3]",)))
    bad = Sample(inputs=(f"{wrong}[batch,8]",), message=f"x: {wrong}[batch,8]")
    needs_attrs = any(attr.required for attr in attrs)
    return OpDef(
        name=name,
        family=family,
        inputs=("x",),
        attrs=attrs,
        result=result,
        to_torch=torch_format(torch),
        to_onnx=onnx_node(onnx) if isinstance(onnx, str) else onnx,
        is_function=is_function,
        samples=(() if needs_attrs else made) + samples,
        refused=(() if accepts is need_any or needs_attrs else (bad,)) + refused,
        doc=doc,
    )
