"""ONNX operators of files before opset 18, in the form that opset 18 has for them."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from genmad.importers.onnx_infer import one_leaf
from genmad.importers.onnx_values import Ref, Refused
from genmad.ops.onnx_call import OPSET_VERSION

if TYPE_CHECKING:
    from onnx import NodeProto


def modern(node: "NodeProto", operands: Mapping[str, Ref], imports: Mapping[str, int]) -> "list[NodeProto]":
    """The operator as opset 18 or later has it. Raises `Refused` when ONNX cannot convert it."""
    import onnx
    from onnx import helper

    version = imports.get("", OPSET_VERSION)
    if version >= OPSET_VERSION or not is_old(node, version):
        return [node]
    model = one_leaf([node], operands, list(filter(None, node.output)), imports)
    names = {t.name for t in model.graph.initializer}
    try:
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
        made = onnx.version_converter.convert_version(inferred, OPSET_VERSION)
    except Exception as error:  # the converter raises RuntimeError and classes of its own
        text = " ".join(str(error).split())[-120:]
        raise Refused(f"the form of {node.op_type} before opset {OPSET_VERSION} ({text})") from None
    new = [t for t in made.graph.initializer if t.name not in names]
    prefix = next(name for name in node.output if name)
    nodes = [helper.make_node("Constant", [], [t.name], value=t) for t in new] + list(made.graph.node)
    return _renamed(nodes, set(operands) | set(node.output), prefix)


def _renamed(nodes: "Sequence[NodeProto]", kept: set[str], prefix: str) -> "list[NodeProto]":
    """With names for the values between the operators that nothing else in the model has."""
    names = {out: out if out in kept else f"{prefix}.{out}" for node in nodes for out in node.output}
    for node in nodes:
        node.name = ""
        node.input[:] = [names.get(v, v) for v in node.input]
        node.output[:] = [names[v] for v in node.output]
    return list(nodes)


def is_old(node: "NodeProto", version: int) -> bool:
    """Whether an operator, or one in its subgraphs, has another form in opset 18."""
    from onnx import defs

    graphs = [graph for attr in node.attribute for graph in (attr.g, *attr.graphs)]
    inner = any(is_old(item, version) for graph in graphs for item in graph.node)
    if inner or node.domain or not defs.has(node.op_type):
        return inner
    try:
        then, now = (defs.get_schema(node.op_type, v).since_version for v in (version, OPSET_VERSION))
    except defs.SchemaError:
        return True
    return bool(then != now)
