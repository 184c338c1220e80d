"""Types of the results of ONNX operators that are kept as they are: by ONNX's shape inference, else by ONNX Runtime."""

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from genmad.importers.onnx_match import dtype_of, type_number
from genmad.importers.onnx_values import MAX_CONSTANT, NodeReader, Ref, Refused, array_of
from genmad.ir.diagnostics import ShapeError
from genmad.ir.types import Dim, SymDim, TensorType, parse_dim

if TYPE_CHECKING:
    import onnx_ir
    from onnx import ModelProto, NodeProto, TypeProto

IR_VERSION = 10


def infer(
    nodes: "Sequence[NodeProto]", operands: Mapping[str, Ref], outputs: Sequence[str], imports: Mapping[str, int]
) -> "dict[str, TypeProto]":
    """The types that ONNX finds for `outputs`; those it cannot tell are missing.

    Raises `Refused` when the operators do not take these operands.
    """
    import onnx

    model = one_leaf(nodes, operands, outputs, imports)
    found: dict[str, TypeProto] = {}
    try:
        inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
        found = {v.name: v.type for v in (*inferred.graph.value_info, *inferred.graph.output)}
    except onnx.shape_inference.InferenceError as error:
        problem = " ".join(str(error).split())[:200]
    else:
        problem = ""
    if problem or not all(_is_ranked(found.get(name)) for name in outputs):
        found |= {k: v for k, v in _by_runtime(model, problem).items() if not _is_ranked(found.get(k))}
    return {name: found[name] for name in outputs if name in found and found[name].WhichOneof("value")}


def _is_ranked(found: "TypeProto | None") -> bool:
    if found is None or not found.WhichOneof("value"):
        return False
    return not found.HasField("tensor_type") or found.tensor_type.HasField("shape")


def one_leaf(
    nodes: "Sequence[NodeProto]", operands: Mapping[str, Ref], outputs: Sequence[str], imports: Mapping[str, int]
) -> "ModelProto":
    """A model of these operators alone; what is known of the operands stands in it."""
    import numpy as np
    import onnx
    from onnx import helper, numpy_helper

    inputs, stored = [], []
    for name, ref in operands.items():
        shape = [d if isinstance(d, int) else str(d) for d in ref.type.shape]
        array = known_array(ref)
        if array is not None:
            stored.append(numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name))
        else:
            inputs.append(helper.make_tensor_value_info(name, type_number(ref.type.dtype), shape))
    results = [onnx.ValueInfoProto(name=name) for name in outputs]
    graph = helper.make_graph(list(nodes), "leaf", inputs, results, initializer=stored)
    opsets = [helper.make_opsetid(domain, version) for domain, version in imports.items()]
    return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)


def known_array(ref: Ref) -> Any:
    """The contents of a small known tensor, else None."""
    numel = ref.type.numel
    if ref.value or not isinstance(numel, int) or numel > MAX_CONSTANT:
        return None
    try:
        return array_of(ref)
    except Refused:
        return None


def _by_runtime(model: "ModelProto", problem: str) -> "dict[str, TypeProto]":
    """What ONNX Runtime finds, which knows operators of other domains. Raises `Refused` when it refuses the node."""
    import onnx
    import onnxruntime
    from onnx import helper

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime raises classes of its own
        text = problem or " ".join(str(error).split("\n")[0].split())[:200]
        node = model.graph.node[-1]
        if problem or not onnx.defs.has(node.op_type, node.domain):
            raise Refused(f"no operator of that name takes these inputs ({text})") from None
        return {}
    found = {}
    for out in session.get_outputs():
        match = re.fullmatch(r"tensor\((\w+)\)", out.type)
        name = {"float": "FLOAT", "double": "DOUBLE"}.get(match[1], match[1].upper()) if match else ""
        if name in set(onnx.TensorProto.DataType.keys()) and out.shape is not None:
            number = onnx.TensorProto.DataType.Value(name)
            found[out.name] = helper.make_tensor_type_proto(number, out.shape)
    return found


def tensor_type(n: NodeReader, found: "TypeProto | None", declared: "onnx_ir.Value", label: str) -> TensorType | None:
    """Our type of a result; sizes that only a run tells become symbols of their own. None when it is no tensor."""
    if found is None:
        dtype: Any = declared.dtype
        dims = None
    elif not found.HasField("tensor_type"):
        return None
    else:
        dtype = found.tensor_type.elem_type
        dims = list(found.tensor_type.shape.dim) if found.tensor_type.HasField("shape") else None
    stated = list(declared.shape) if declared.shape is not None else None
    if dims is None and stated is None:
        return None
    try:
        ours = dtype_of(dtype)
    except (ValueError, TypeError):
        return None
    rank = len(dims if dims is not None else stated or [])
    stated = stated if stated is not None and len(stated) == rank else None
    return TensorType(
        ours,
        tuple(
            _dim(n, dims[i] if dims is not None else None, stated[i] if stated else None, f"{label}_{i}")
            for i in range(rank)
        ),
    )


def _dim(n: NodeReader, found: Any, stated: Any, label: str) -> Dim:
    if found is not None and found.HasField("dim_value"):
        return int(found.dim_value)
    for text in (found.dim_param if found is not None else "", str(getattr(stated, "value", stated) or "")):
        try:
            dim = parse_dim(text) if text else None
        except ShapeError:
            dim = None
        if dim is not None and (isinstance(dim, int) or dim.symbols <= n.block.totals.symbols):
            return dim
    symbol = re.sub(r"\W", "_", label)
    n.block.totals.symbols.add(symbol)
    return SymDim.symbol(symbol)
