"""Constants in ONNX files: Constant nodes, and nodes over small known tensors, which are computed while reading."""

from math import prod
from typing import Any

from genmad.importers.onnx_leaf import deferred_constant, leaf
from genmad.importers.onnx_match import dtype_of
from genmad.importers.onnx_values import MAX_CONSTANT, NodeReader, Ref, Refused, array_of, clean, dims_of
from genmad.ir.types import DType, TensorType

# Ops whose output is not larger than their inputs' product and that numpy computes as every runtime does.
_FOLDED = frozenset(
    (
        "Add", "Sub", "Mul", "Div", "Mod", "Pow", "Min", "Max", "Neg", "Abs", "Sign", "Floor", "Ceil", "Sqrt",
        "Reciprocal", "Exp", "Log", "Cast", "Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual", "And", "Or",
        "Not", "Where", "Concat", "Gather", "Slice", "Squeeze", "Unsqueeze", "Reshape", "Transpose", "Flatten",
        "Shape", "Size", "ReduceProd", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceMean",
    )
)  # fmt: skip
_MAX_FOLDED = 2**20


def read_constant(n: NodeReader) -> Ref:
    """A Constant node; in files of other programs a float tensor may be a weight."""
    import numpy as np

    tensor = n.attr("value")
    if tensor is None:
        for key, dtype in (
            ("value_float", "float32"),
            ("value_int", "int64"),
            ("value_floats", "float32"),
            ("value_ints", "int64"),
        ):
            if n.attr(key) is not None:
                tensor = np.asarray(n.attr(key), dtype=dtype)
    if tensor is None:
        return _only(leaf(n))
    try:
        dtype = DType(str(tensor.dtype)) if isinstance(tensor, np.ndarray) else dtype_of(tensor.dtype)
    except ValueError:
        return deferred_constant(tensor, n.block.totals)
    type_ = TensorType(dtype, tuple(int(d) for d in tensor.shape))
    large = isinstance(type_.numel, int) and type_.numel > MAX_CONSTANT
    own = n.block.totals.ours or not n.block.is_main
    weight = not own and type_.rank and type_.numel != 1 and (type_.dtype.is_float or large)
    return Ref(type_, tensor=tensor, param=clean(str(n.node.outputs[0].name)) if weight else "")


def _only(refs: list[Ref | None]) -> Ref:
    if len(refs) != 1 or refs[0] is None:
        raise Refused("a constant that is no tensor of numbers")
    return refs[0]


def fold_constants(n: NodeReader) -> Ref | None:
    """The result of a node over small known tensors that are not weights, by the reference implementation."""
    refs = [ref for ref in n.inputs if ref is not None]
    if not refs or len(n.node.outputs) != 1 or n.node.op_type == "Identity":
        return None
    if any(
        ref.value or (ref.param and ref.type.dtype.is_float) or (ref.tensor is None and ref.dims is None)
        for ref in refs
    ):
        return None
    if any(ref.tensor is None and not all(isinstance(d, int) for d in ref.dims or ()) for ref in refs):
        return None
    if any(not isinstance(ref.type.numel, int) or ref.type.numel > MAX_CONSTANT for ref in refs):
        return None
    if n.node.op_type == "Expand":
        return _fold_expand(n)
    if n.node.op_type == "ConstantOfShape":
        return _fold_filled(n)
    # The product of the inputs' sizes bounds what broadcasting or gathering can give.
    if n.node.op_type not in _FOLDED or (n.node.op_type != "Concat" and prod(map(_size, refs)) > _MAX_FOLDED):
        return None
    import onnx
    import onnx_ir
    from onnx import helper
    from onnx.reference import ReferenceEvaluator

    proto = onnx_ir.to_proto(n.node)
    feeds = {name: array_of(ref) for name, ref in zip(proto.input, n.inputs, strict=True) if ref is not None}
    inputs = [onnx.ValueInfoProto(name=name) for name in feeds]
    graph = helper.make_graph([proto], "fold", inputs, [onnx.ValueInfoProto(name=proto.output[0])])
    version = n.block.totals.opset
    try:
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", version)])
        results: Any = ReferenceEvaluator(model).run(None, feeds)
        made = results[0]
        return Ref(TensorType(DType(str(made.dtype)), tuple(int(d) for d in made.shape)), tensor=made)
    except Exception as error:
        raise Refused(f"constants that it cannot take ({' '.join(str(error).split())[:80]})") from error


def _size(ref: Ref) -> int:
    return ref.type.numel if isinstance(ref.type.numel, int) else 0


def _fold_filled(n: NodeReader) -> Ref | None:
    """A small vector of one integer, from which exporters compute shapes and pads."""
    import numpy as np

    value, shape = n.attr("value"), dims_of(n.input(0))
    array = value.numpy() if value is not None else np.zeros(1, np.float32)
    sizes = tuple(d for d in shape if isinstance(d, int))
    if array.dtype.kind not in "iub" or len(sizes) < len(shape) or prod(sizes) > MAX_CONSTANT:
        return None
    made = np.full(sizes, array.reshape(-1)[0])
    return Ref(TensorType(DType(str(made.dtype)), made.shape), tensor=made)


def _fold_expand(n: NodeReader) -> Ref | None:
    """Expand of a known tensor to a small known shape; larger ones stay nodes, so that no file can fill the memory."""
    import numpy as np

    dims = dims_of(n.input(1))
    shape = tuple(d for d in dims if isinstance(d, int))
    if len(shape) < len(dims) or prod(shape) > MAX_CONSTANT:
        return None
    array = array_of(n.input(0))
    made = np.broadcast_to(array, np.broadcast_shapes(array.shape, shape))
    return Ref(TensorType(DType(str(made.dtype)), made.shape), tensor=made)
