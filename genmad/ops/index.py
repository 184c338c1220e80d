"""Ops that join, cut or pick along an axis."""

from genmad.ir.diagnostics import ShapeError
from genmad.ir.opdef import Attr, Attrs, OnnxContext, OpDef, Sample, TorchContext, Types
from genmad.ir.types import Dim, DType, TensorType
from genmad.ops.elementwise import promote
from genmad.ops.shape_rules import AXIS, axis_index, literal, operand

_LARGE = 2**62  # "to the end" for Slice


def _joined(types: Types) -> tuple[TensorType, ...]:
    operands = tuple(operand(types, i) for i in range(len(types)))
    if not operands:
        raise ShapeError("no input", "at least one")
    if any(t.dtype != operands[0].dtype for t in operands):
        kinds = ", ".join(str(t.dtype) for t in operands)
        raise ShapeError(f"inputs of {kinds}", f"one dtype, such as {promote(*operands)}", "put a Cast in front")
    return operands


def _listed(ctx: TorchContext) -> str:
    return f"({', '.join(str(x) for x in ctx.inputs)}{',' if len(ctx.inputs) == 1 else ''})"


def _concat_result(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    operands = _joined(types)
    head = operands[0]
    axis = axis_index(attrs["axis"], head.rank)
    total: Dim = 0
    for part in operands:
        pairs = enumerate(zip(part.shape, head.shape, strict=False))
        if part.rank != head.rank or any(a != b for i, (a, b) in pairs if i != axis):
            got = f"shapes {list(head.shape)} and {list(part.shape)}"
            raise ShapeError(got, f"equal sizes except on axis {axis}")
        total = total + part.shape[axis]
    return (head.with_shape((*head.shape[:axis], total, *head.shape[axis + 1 :])),)


CONCAT = OpDef(
    name="Concat",
    family="index",
    inputs=("xs*",),
    attrs=(AXIS,),
    result=_concat_result,
    to_torch=lambda ctx: f"torch.cat({_listed(ctx)}, dim={ctx.attrs['axis']})",
    to_onnx=lambda ctx: (ctx.op("Concat", *ctx.inputs, axis=ctx.attrs["axis"]),),
    samples=(
        Sample(inputs=("float32[batch,3,4,4]", "float32[batch,5,4,4]"), attrs={"axis": 1}),
        Sample(inputs=("float32[batch,1,8]", "float32[batch,seq,8]", "float32[batch,2,8]"), attrs={"axis": -2}),
    ),
    refused=(
        Sample(inputs=("float32[2,3]", "float32[3,3]"), attrs={"axis": 1}, message="equal sizes except on axis 1"),
        Sample(inputs=("float32[2,3]", "int64[2,3]"), attrs={"axis": 1}, message="one dtype, such as float32"),
    ),
    doc="Joins tensors end to end along an axis.",
)


def _stack_result(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    operands = _joined(types)
    head = operands[0]
    axis = axis_index(attrs["axis"], head.rank + 1)
    for part in operands:
        if part.shape != head.shape:
            raise ShapeError(f"shapes {list(head.shape)} and {list(part.shape)}", "equal shapes")
    return (head.with_shape((*head.shape[:axis], len(operands), *head.shape[axis:])),)


def _stack_onnx(ctx: OnnxContext) -> tuple[str, ...]:
    axis = ctx.const([ctx.attrs["axis"]])
    return (ctx.op("Concat", *(ctx.op("Unsqueeze", x, axis) for x in ctx.inputs), axis=ctx.attrs["axis"]),)


STACK = OpDef(
    name="Stack",
    family="index",
    inputs=("xs*",),
    attrs=(AXIS,),
    result=_stack_result,
    to_torch=lambda ctx: f"torch.stack({_listed(ctx)}, dim={ctx.attrs['axis']})",
    to_onnx=_stack_onnx,
    is_function=True,
    samples=(
        Sample(inputs=("float32[batch,seq,4]", "float32[batch,seq,4]"), attrs={"axis": 1}),
        Sample(inputs=("float32[batch,4]", "float32[batch,4]", "float32[batch,4]"), attrs={"axis": -1}),
    ),
    refused=(Sample(inputs=("float32[2,3]", "float32[2,4]"), attrs={"axis": 0}, message="equal shapes"),),
    doc="Joins tensors along a new axis.",
)


def _split_result(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    x, sizes = operand(types), attrs["sizes"]
    axis = axis_index(attrs["axis"], x.rank)
    if sum(sizes) != x.shape[axis] or not sizes:
        raise ShapeError(f"sizes={sizes}", f"sizes that sum to {x.shape[axis]}, the length of axis {attrs['axis']}")
    return tuple(x.with_shape((*x.shape[:axis], size, *x.shape[axis + 1 :])) for size in sizes)


def _split_torch(ctx: TorchContext) -> str:
    sizes = ctx.attrs["sizes"]
    parts = sizes[0] if len(set(sizes)) == 1 else literal(sizes)
    text = f"{ctx.inputs[0]}.split({parts}, dim={ctx.attrs['axis']})"
    return text if len(sizes) > 1 else f"{text}[0]"


def _split_onnx(ctx: OnnxContext) -> tuple[str, ...]:
    sizes = list(ctx.attrs["sizes"])
    made = ctx.op("Split", ctx.inputs[0], ctx.const(sizes), outputs=len(sizes), axis=ctx.attrs["axis"])
    return (made,) if isinstance(made, str) else tuple(made)


SPLIT = OpDef(
    name="Split",
    family="index",
    inputs=("x",),
    attrs=(AXIS, Attr("sizes", "ints", at_least=1, doc="Length of each part.")),
    result=_split_result,
    to_torch=_split_torch,
    to_onnx=_split_onnx,
    samples=(
        Sample(inputs=("float32[batch,seq,24]",), attrs={"axis": -1, "sizes": (8, 8, 8)}),
        Sample(inputs=("float32[batch,6,4]",), attrs={"axis": 1, "sizes": (1, 5)}),
    ),
    refused=(Sample(inputs=("float32[2,6]",), attrs={"axis": 1, "sizes": (2, 3)}, message="sum to 6"),),
    doc="Cuts a tensor along an axis into parts.",
)


def _bound(value: Dim, size: Dim) -> Dim:
    """A slice bound counted from the front, clipped where both are integers."""
    if not isinstance(value, int):
        return value
    if value < 0:
        value_from_front = size + value
        return max(value_from_front, 0) if isinstance(value_from_front, int) else value_from_front
    return min(value, size) if isinstance(size, int) else value


def _slice_result(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    x = operand(types)
    axis = axis_index(attrs["axis"], x.rank)
    size, end = x.shape[axis], attrs["end"]
    stop = size if end is None or (isinstance(end, int) and end >= 2**31) else _bound(end, size)
    length = stop - _bound(attrs["start"], size)
    if isinstance(length, int) and length <= 0:
        got = f"start={attrs['start']}, end={end} on an axis of size {size}"
        raise ShapeError(got, "start before end")
    step = attrs["step"]
    count = length if step == 1 else (length + (step - 1)) // step
    return (x.with_shape((*x.shape[:axis], count, *x.shape[axis + 1 :])),)


def _slice_torch(ctx: TorchContext) -> str:
    axis = axis_index(ctx.attrs["axis"], operand(ctx.types).rank)
    start, end, step = ctx.attrs["start"], ctx.attrs["end"], ctx.attrs["step"]
    text = ("" if start == 0 else ctx.dim(start)) + ":" + ("" if end is None else ctx.dim(end))
    return f"{ctx.inputs[0]}[{':, ' * axis}{text}{f':{step}' if step != 1 else ''}]"


def _slice_onnx(ctx: OnnxContext) -> tuple[str, ...]:
    end = ctx.const([_LARGE]) if ctx.attrs["end"] is None else ctx.shape([ctx.attrs["end"]])
    start, axis, step = ctx.shape([ctx.attrs["start"]]), ctx.const([ctx.attrs["axis"]]), ctx.const([ctx.attrs["step"]])
    return (ctx.op("Slice", ctx.inputs[0], start, end, axis, step),)


SLICE = OpDef(
    name="Slice",
    family="index",
    inputs=("x",),
    attrs=(
        AXIS,
        Attr("start", "dim", 0, doc="First index; negative ones count from the end."),
        Attr("end", "dim", None, optional=True, doc="Index after the last; None is the end of the axis."),
        Attr("step", "int", 1, at_least=1, doc="Distance between the indices taken."),
    ),
    result=_slice_result,
    to_torch=_slice_torch,
    to_onnx=_slice_onnx,
    samples=(
        Sample(inputs=("float32[batch,seq,8]",), attrs={"axis": 1, "start": 1}),
        Sample(inputs=("float32[batch,seq,8]",), attrs={"axis": -1, "start": 2, "end": -1, "step": 2}),
        Sample(inputs=("float32[batch,9,8]",), attrs={"axis": 1, "start": -4, "end": None}),
    ),
    refused=(Sample(inputs=("float32[2,6]",), attrs={"axis": 1, "start": 4, "end": 3}, message="start before end"),),
    doc="Takes a range of indices along an axis; bounds inside a symbolic size are taken to exist.",
)


def _select_result(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    x, index = operand(types), attrs["index"]
    axis = axis_index(attrs["axis"], x.rank)
    size = x.shape[axis]
    if isinstance(size, int) and not -size <= index < size:
        raise ShapeError(f"index={index} on an axis of size {size}", f"{-size} to {size - 1}")
    return (x.with_shape((*x.shape[:axis], *x.shape[axis + 1 :])),)


def _select_torch(ctx: TorchContext) -> str:
    axis = axis_index(ctx.attrs["axis"], operand(ctx.types).rank)
    return f"{ctx.inputs[0]}[{':, ' * axis}{ctx.attrs['index']}]"


SELECT = OpDef(
    name="Select",
    family="index",
    inputs=("x",),
    attrs=(AXIS, Attr("index", "int", doc="The index; negative ones count from the end.")),
    result=_select_result,
    to_torch=_select_torch,
    to_onnx=lambda ctx: (ctx.op("Gather", ctx.inputs[0], ctx.const(ctx.attrs["index"]), axis=ctx.attrs["axis"]),),
    samples=(
        Sample(inputs=("float32[batch,seq,8]",), attrs={"axis": 1, "index": 0}),
        Sample(inputs=("float32[3,batch,8]",), attrs={"axis": 0, "index": -1}),
    ),
    refused=(Sample(inputs=("float32[2,6]",), attrs={"axis": 1, "index": 6}, message="-6 to 5"),),
    doc="Takes one index of an axis and drops the axis.",
)


def _indices(types: Types) -> TensorType:
    indices = operand(types, 1)
    if indices.dtype not in (DType.INT64, DType.INT32):
        raise ShapeError(f"{indices.dtype} indices", "int64 or int32 indices", "put a Cast in front")
    return indices


def _gather_result(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    x, indices = operand(types), _indices(types)
    axis = axis_index(attrs["axis"], x.rank)
    return (x.with_shape((*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])),)


def _gather_torch(ctx: TorchContext) -> str:
    axis = axis_index(ctx.attrs["axis"], operand(ctx.types).rank)
    return f"{ctx.inputs[0]}[{':, ' * axis}{ctx.inputs[1]}]"


GATHER = OpDef(
    name="Gather",
    family="index",
    inputs=("x", "indices"),
    attrs=(AXIS,),
    result=_gather_result,
    to_torch=_gather_torch,
    to_onnx=lambda ctx: (ctx.op("Gather", ctx.inputs[0], ctx.inputs[1], axis=ctx.attrs["axis"]),),
    samples=(
        Sample(inputs=("float32[16,8]", "int64[batch,seq]"), attrs={"axis": 0}),
        Sample(inputs=("float32[batch,16,8]", "int64[3]"), attrs={"axis": 1}),
    ),
    refused=(Sample(inputs=("float32[4,8]", "float32[2]"), attrs={"axis": 0}, message="int64 or int32 indices"),),
    doc="Takes the entries of an axis that the indices name; the axis is replaced by the axes of the indices.",
)


def _gather_elements_result(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    x, indices = operand(types), _indices(types)
    axis = axis_index(attrs["axis"], x.rank)
    for i, (a, b) in enumerate(zip(x.shape, indices.shape, strict=False)):
        if i != axis and isinstance(a, int) and isinstance(b, int) and b > a:
            raise ShapeError(f"indices of shape {list(indices.shape)}", f"at most {a} on axis {i}")
    if indices.rank != x.rank:
        raise ShapeError(f"indices with {indices.rank} axes", f"{x.rank} axes, as x")
    return (x.with_shape(indices.shape),)


GATHER_ELEMENTS = OpDef(
    name="GatherElements",
    family="index",
    inputs=("x", "indices"),
    attrs=(AXIS,),
    result=_gather_elements_result,
    to_torch=lambda ctx: f"torch.gather({ctx.inputs[0]}, {ctx.attrs['axis']}, {ctx.inputs[1]}.long())",
    to_onnx=lambda ctx: (ctx.op("GatherElements", ctx.inputs[0], ctx.inputs[1], axis=ctx.attrs["axis"]),),
    samples=(
        Sample(inputs=("float32[batch,seq,8]", "int64[batch,seq,3]"), attrs={"axis": 2}),
        Sample(inputs=("float32[4,8]", "int64[2,8]"), attrs={"axis": 0}),
    ),
    refused=(Sample(inputs=("float32[4,8]", "int64[4]"), attrs={"axis": 1}, message="2 axes, as x"),),
    doc="For each place of the indices, the element of x at that place with the axis' coordinate replaced.",
)


def _triangle_result(types: Types, _attrs: Attrs) -> tuple[TensorType, ...]:
    x = operand(types)
    if x.rank < 2:
        raise ShapeError(f"an input with {x.rank} axes", "at least 2 axes")
    return (x,)


def _triangle(name: str, upper: int, doc: str) -> OpDef:
    def to_torch(ctx: TorchContext) -> str:
        return f"{ctx.inputs[0]}.{name.lower()}({ctx.attrs['k'] or ''})"

    def to_onnx(ctx: OnnxContext) -> tuple[str, ...]:
        return (ctx.op("Trilu", ctx.inputs[0], ctx.const(ctx.attrs["k"]), upper=upper),)

    return OpDef(
        name=name,
        family="index",
        inputs=("x",),
        attrs=(Attr("k", "int", 0, doc="The diagonal: 0 the main one, positive above it."),),
        result=_triangle_result,
        to_torch=to_torch,
        to_onnx=to_onnx,
        samples=(
            Sample(inputs=("float32[batch,seq,seq]",), attrs={"k": 1}),
            Sample(inputs=("float32[3,5]",), attrs={"k": -1}),
        ),
        refused=(Sample(inputs=("float32[3]",), message="at least 2 axes"),),
        doc=doc,
    )


TRIU = _triangle("Triu", 1, "The matrix with everything below diagonal k set to zero.")
TRIL = _triangle("Tril", 0, "The matrix with everything above diagonal k set to zero.")

INDEX = (CONCAT, SPLIT, SLICE, SELECT, GATHER, GATHER_ELEMENTS, STACK, TRIU, TRIL)
