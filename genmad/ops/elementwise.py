"""Elementwise ops with one tensor and a number, or two tensors that broadcast. dtypes mix as they do in torch."""

from collections.abc import Callable

from genmad.ir.diagnostics import ShapeError
from genmad.ir.opdef import Attr, Attrs, OnnxContext, OpDef, Sample, TorchContext, Types
from genmad.ir.types import DType, TensorType
from genmad.ops.shape_rules import broadcast, literal, need_any, need_bool, need_number, operand

_INTEGER_ORDER = (
    DType.BOOL, DType.UINT8, DType.INT8, DType.UINT16, DType.INT16, DType.UINT32, DType.INT32, DType.UINT64,
    DType.INT64,
)  # fmt: skip
_FLOAT_ORDER = (DType.FLOAT16, DType.BFLOAT16, DType.FLOAT32, DType.FLOAT64)

_FLOATS = Sample(inputs=("float32[batch,seq,8]", "float32[8]"))
_COLUMNS = Sample(inputs=("float32[batch,1,4]", "float32[3,1]"))
_LONGS = Sample(inputs=("int64[batch,5]", "int64[1,5]"))
_MIXED = Sample(inputs=("float32[batch,5]", "int64[5]"))
_BOOLS = Sample(inputs=("bool[batch,5]", "bool[5]"))
_UNEQUAL = Sample(inputs=("float32[batch,3]", "float32[4]"), message="3 against 4")
_UNEQUAL_BOOLS = Sample(inputs=("bool[2,3]", "bool[4]"), message="3 against 4")
_NOT_BOOL = Sample(inputs=("float32[2]", "bool[2]"), message="a bool tensor")


def promote(*types: TensorType) -> DType:
    """The dtype torch gives to a mixed operation: floats over integers over bool, and tensors over 0-d tensors."""
    category = max(_category(t.dtype) for t in types)
    strong = [t for t in types if t.rank and _category(t.dtype) == category]
    dtypes = {t.dtype for t in strong or types if _category(t.dtype) == category}
    if {DType.FLOAT16, DType.BFLOAT16} <= dtypes:
        dtypes = (dtypes - {DType.FLOAT16, DType.BFLOAT16}) | {DType.FLOAT32}
    if {DType.UINT8, DType.INT8} <= dtypes:
        dtypes |= {DType.INT16}
    if category == 3:
        return DType.COMPLEX64
    order = _FLOAT_ORDER if category == 2 else _INTEGER_ORDER
    return max(dtypes, key=order.index)


def _category(dtype: DType) -> int:
    if dtype is DType.COMPLEX64:
        return 3
    if dtype.is_float:
        return 2
    return 0 if dtype is DType.BOOL else 1


def number(value: float, dtype: DType) -> str:
    """Python source of a number; an integer where `dtype` holds integers."""
    return literal(value) if dtype.is_float else literal(int(value))


def _pair(types: Types, need: Callable[[TensorType, str], TensorType]) -> tuple[TensorType, TensorType]:
    return need(operand(types, 0), "a"), need(operand(types, 1), "b")


def _numbers(types: Types, _attrs: Attrs) -> tuple[TensorType, ...]:
    a, b = _pair(types, need_any)
    dtype = promote(a, b)
    need_number(TensorType(dtype, ()), "a and b")
    return (TensorType(dtype, broadcast(a.shape, b.shape)),)


def _quotient(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    (out,) = _numbers(types, attrs)
    return (out if out.dtype.is_float else out.with_dtype(DType.FLOAT32),)


def _comparison(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    (out,) = _numbers(types, attrs)
    return (out.with_dtype(DType.BOOL),)


def _equality(types: Types, _attrs: Attrs) -> tuple[TensorType, ...]:
    a, b = _pair(types, need_any)
    return (TensorType(DType.BOOL, broadcast(a.shape, b.shape)),)


def _logic(types: Types, _attrs: Attrs) -> tuple[TensorType, ...]:
    a, b = _pair(types, need_bool)
    return (TensorType(DType.BOOL, broadcast(a.shape, b.shape)),)


def cast(ctx: OnnxContext, value: str, have: DType, want: DType) -> str:
    """`value` as `want`, with a Cast only where it is needed."""
    return value if have == want else str(ctx.op("Cast", value, to=want.value))


def _operands(ctx: OnnxContext, dtype: DType) -> tuple[str, str]:
    a, b = _pair(ctx.types, need_any)
    return cast(ctx, ctx.inputs[0], a.dtype, dtype), cast(ctx, ctx.inputs[1], b.dtype, dtype)


def _onnx(op_type: str) -> Callable[[OnnxContext], tuple[str, ...]]:
    def lower(ctx: OnnxContext) -> tuple[str, ...]:
        common = promote(*_pair(ctx.types, need_any))
        dtype = common if ctx.results[0].dtype is DType.BOOL else ctx.results[0].dtype
        return (ctx.op(op_type, *_operands(ctx, dtype)),)

    return lower


def _onnx_mod(ctx: OnnxContext) -> tuple[str, ...]:
    dtype = ctx.results[0].dtype
    a, b = _operands(ctx, dtype)
    if dtype.is_integer:
        return (ctx.op("Mod", a, b),)
    # ONNX offers only C's fmod for floats, whose sign follows a; torch.remainder follows b.
    return (ctx.op("Sub", a, ctx.op("Mul", ctx.op("Floor", ctx.op("Div", a, b)), b)),)


def _infix(symbol: str) -> Callable[[TorchContext], str]:
    return lambda ctx: f"{ctx.inputs[0]} {symbol} {ctx.inputs[1]}"


def _extremum(name: str) -> Callable[[TorchContext], str]:
    def write(ctx: TorchContext) -> str:
        dtype = ctx.results[0].dtype
        args = (
            str(x) if operand(ctx.types, i).dtype == dtype else f"{x}.to(torch.{dtype})"
            for i, x in enumerate(ctx.inputs)
        )
        return f"torch.{name}({', '.join(args)})"

    return write


def _binary(
    name: str,
    doc: str,
    to_torch: Callable[[TorchContext], str],
    *,
    rule: Callable[[Types, Attrs], tuple[TensorType, ...]] = _numbers,
    samples: tuple[Sample, ...] = (_FLOATS, _COLUMNS, _LONGS, _MIXED),
    refused: Sample = _UNEQUAL,
    to_onnx: Callable[[OnnxContext], tuple[str, ...]] | None = None,
    is_function: bool = False,
) -> OpDef:
    return OpDef(
        name=name,
        family="elementwise",
        inputs=("a", "b"),
        result=rule,
        to_torch=to_torch,
        to_onnx=to_onnx or _onnx(name),
        is_function=is_function,
        samples=samples,
        refused=(refused,),
        doc=doc,
    )


_LOGIC_SAMPLES = (_BOOLS, Sample(inputs=("bool[batch,1,seq]", "bool[seq,1]")))

ADD = _binary("Add", "Elementwise a + b with broadcasting.", _infix("+"))
SUB = _binary("Sub", "Elementwise a - b with broadcasting.", _infix("-"))
MUL = _binary("Mul", "Elementwise a * b with broadcasting.", _infix("*"))
DIV = _binary("Div", "Elementwise true division a / b; integers give float32.", _infix("/"), rule=_quotient)
POW = _binary("Pow", "Elementwise a ** b.", _infix("**"), samples=(_LONGS, Sample(inputs=("float32[2,3]", "int64[3]"))))
MAX = _binary("Max", "The larger of a and b, elementwise.", _extremum("maximum"))
MIN = _binary("Min", "The smaller of a and b, elementwise.", _extremum("minimum"))
MOD = _binary(
    "Mod",
    "Remainder of a / b with the sign of b, as torch.remainder.",
    lambda ctx: f"torch.remainder({ctx.inputs[0]}, {ctx.inputs[1]})",
    to_onnx=_onnx_mod,
    is_function=True,
    samples=(_FLOATS, _LONGS),
)
EQUAL = _binary(
    "Equal", "Whether a == b, elementwise.", _infix("=="), rule=_equality, samples=(_FLOATS, _LONGS, _BOOLS)
)
LESS = _binary("Less", "Whether a < b, elementwise.", _infix("<"), rule=_comparison)
LESS_OR_EQUAL = _binary("LessOrEqual", "Whether a <= b, elementwise.", _infix("<="), rule=_comparison)
GREATER = _binary("Greater", "Whether a > b, elementwise.", _infix(">"), rule=_comparison)
GREATER_OR_EQUAL = _binary("GreaterOrEqual", "Whether a >= b, elementwise.", _infix(">="), rule=_comparison)
AND = _binary("And", "Logical and.", _infix("&"), rule=_logic, samples=_LOGIC_SAMPLES, refused=_NOT_BOOL)
OR = _binary("Or", "Logical or.", _infix("|"), rule=_logic, samples=_LOGIC_SAMPLES, refused=_UNEQUAL_BOOLS)


def _where_result(types: Types, _attrs: Attrs) -> tuple[TensorType, ...]:
    condition, a, b = need_bool(operand(types), "condition"), operand(types, 1), operand(types, 2)
    return (TensorType(promote(a, b), broadcast(condition.shape, broadcast(a.shape, b.shape))),)


def _where_onnx(ctx: OnnxContext) -> tuple[str, ...]:
    a, b = operand(ctx.types, 1), operand(ctx.types, 2)
    dtype = ctx.results[0].dtype
    yes, no = cast(ctx, ctx.inputs[1], a.dtype, dtype), cast(ctx, ctx.inputs[2], b.dtype, dtype)
    return (ctx.op("Where", ctx.inputs[0], yes, no),)


WHERE = OpDef(
    name="Where",
    family="elementwise",
    inputs=("condition", "a", "b"),
    result=_where_result,
    to_torch=lambda ctx: f"torch.where({', '.join(str(x) for x in ctx.inputs)})",
    to_onnx=_where_onnx,
    samples=(
        Sample(inputs=("bool[batch,1,seq,seq]", "float32[batch,2,seq,seq]", "float32[]")),
        Sample(inputs=("bool[batch,3]", "int64[batch,3]", "int64[3]")),
    ),
    refused=(Sample(inputs=("int64[2]", "float32[2]", "float32[2]"), message="a bool tensor"),),
    doc="a where the condition holds, b elsewhere.",
)

CAST = OpDef(
    name="Cast",
    family="elementwise",
    inputs=("x",),
    attrs=(Attr("dtype", "str", choices=tuple(t.value for t in DType), doc="The dtype of the output."),),
    result=lambda types, attrs: (operand(types).with_dtype(DType(attrs["dtype"])),),
    to_torch=lambda ctx: f"{ctx.inputs[0]}.to(torch.{ctx.attrs['dtype']})",
    to_onnx=lambda ctx: (ctx.op("Cast", ctx.inputs[0], to=ctx.attrs["dtype"]),),
    samples=(
        Sample(inputs=("int64[batch,4]",), attrs={"dtype": "float32"}),
        Sample(inputs=("float32[batch,4]",), attrs={"dtype": "int64"}),
        Sample(inputs=("float32[batch,4]",), attrs={"dtype": "bool"}),
    ),
    refused=(Sample(inputs=("float32[2]",), attrs={"dtype": "int128"}, message="one of float32"),),
    doc="The same values in another dtype.",
)


def _scalar_result(value_name: str) -> Callable[[Types, Attrs], tuple[TensorType, ...]]:
    def rule(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
        x, value = need_number(operand(types)), attrs[value_name]
        if value_name == "exponent" and x.dtype.is_integer and not (value.is_integer() and value >= 0):
            raise ShapeError(f"exponent={value} on {x.dtype}", "a whole exponent of at least 0", "put a Cast in front")
        stays = x.dtype.is_float or value.is_integer()
        return (x if stays else x.with_dtype(DType.FLOAT32),)

    return rule


def _scalar(name: str, value_name: str, symbol: str, onnx_name: str, doc: str, refused: Sample) -> OpDef:
    def to_torch(ctx: TorchContext) -> str:
        return f"{ctx.inputs[0]} {symbol} {number(ctx.attrs[value_name], ctx.results[0].dtype)}"

    def to_onnx(ctx: OnnxContext) -> tuple[str, ...]:
        dtype = ctx.results[0].dtype
        value = ctx.attrs[value_name] if dtype.is_float else int(ctx.attrs[value_name])
        x = cast(ctx, ctx.inputs[0], operand(ctx.types).dtype, dtype)
        return (ctx.op(onnx_name, x, ctx.const(value, dtype.value)),)

    return OpDef(
        name=name,
        family="elementwise",
        inputs=("x",),
        attrs=(Attr(value_name, "float", doc="The number."),),
        result=_scalar_result(value_name),
        to_torch=to_torch,
        to_onnx=to_onnx,
        samples=(
            Sample(inputs=("float32[batch,seq,8]",), attrs={value_name: 2.5}),
            Sample(inputs=("int64[batch,4]",), attrs={value_name: 2.0}),
        ),
        refused=(refused,),
        doc=doc,
    )


ADD_SCALAR = _scalar(
    "AddScalar", "value", "+", "Add", "x + value; an integer tensor stays one when the value is whole.",
    Sample(inputs=("bool[2]",), attrs={"value": 1.0}, message="a tensor of numbers"),
)  # fmt: skip
MUL_SCALAR = _scalar(
    "MulScalar", "value", "*", "Mul", "x * value; an integer tensor stays one when the value is whole.",
    Sample(inputs=("bool[2]",), attrs={"value": 1.0}, message="a tensor of numbers"),
)  # fmt: skip
POW_SCALAR = _scalar(
    "PowScalar", "exponent", "**", "Pow", "x ** exponent.",
    Sample(inputs=("int64[2]",), attrs={"exponent": -1.0}, message="a whole exponent"),
)  # fmt: skip

ELEMENTWISE = (
    ADD, SUB, MUL, DIV, POW, MAX, MIN, MOD, EQUAL, LESS, LESS_OR_EQUAL, GREATER, GREATER_OR_EQUAL, AND, OR,
    WHERE, CAST, ADD_SCALAR, MUL_SCALAR, POW_SCALAR,
)  # fmt: skip
