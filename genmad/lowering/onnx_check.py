"""Level 4: ONNX's own checks on the weightless model, and their agreement with our types."""

from dataclasses import replace
from typing import TYPE_CHECKING

from genmad.ir.diagnostics import Diagnostic, GenmadError
from genmad.ir.graph import Block, Graph, Node, Value
from genmad.lowering.errors import LoweringError
from genmad.lowering.to_onnx import to_onnx

if TYPE_CHECKING:
    from onnx import ModelProto, ValueInfoProto

_FIX = "check the attributes and the input shapes of this node"


def check_onnx(graph: Graph) -> list[Diagnostic]:
    """Problems that the full checker and strict shape inference with data propagation find; empty when there are none.

    Each block is also checked as a model of its own, because ONNX does not tell the types inside functions. A failure
    is traced to the user's node by checking the nodes of the block at fault alone.
    """
    try:
        model = to_onnx(graph)
    except LoweringError as error:
        return [Diagnostic(where=f'graph "{graph.name}"', got=str(error), expected="a graph that ONNX can hold")]
    for block in graph.blocks:
        if problem := _alone(graph, block):
            return [_locate(graph, block, problem)]
    problem = _problem(model)
    return [_locate(graph, graph.main, problem)] if problem else []


def _problem(model: "ModelProto") -> str:
    """What is wrong with the model, or ""."""
    import onnx

    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    for value in bare.graph.output:
        value.type.tensor_type.ClearField("shape")
    bare.graph.ClearField("value_info")
    try:
        onnx.checker.check_model(model, full_check=True)
        inferred = onnx.shape_inference.infer_shapes(bare, check_type=True, strict_mode=True, data_prop=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        return " ".join(str(error).split())[:600]
    found = {v.name: v for v in (*inferred.graph.value_info, *inferred.graph.output)}
    for value in (*model.graph.value_info, *model.graph.output):
        if value.name in found and (text := _disagreement(value, found[value.name])):
            return f"{value.name}: {text}"
    return ""


def _disagreement(ours: "ValueInfoProto", theirs: "ValueInfoProto") -> str:
    mine, other = ours.type.tensor_type, theirs.type.tensor_type
    if other.elem_type and mine.elem_type != other.elem_type:
        return f"element type {other.elem_type} in ONNX, {mine.elem_type} in our types"
    if not other.HasField("shape"):
        return ""
    if len(mine.shape.dim) != len(other.shape.dim):
        return f"{len(other.shape.dim)} axes in ONNX, {len(mine.shape.dim)} in our types"
    for axis, (a, b) in enumerate(zip(mine.shape.dim, other.shape.dim, strict=True)):
        if a.HasField("dim_value") and b.HasField("dim_value") and a.dim_value != b.dim_value:
            return f"axis {axis} of size {b.dim_value} in ONNX, {a.dim_value} in our types"
    return ""


def _locate(graph: Graph, block: Block, problem: str) -> Diagnostic:
    for node in block.nodes:
        if text := _alone(graph, _single(block, node.name)):
            where = f'{node.op} "{node.name}" in block "{block.name}"'
            return Diagnostic(where=where, got=text, expected="a node that ONNX accepts", fix=_FIX)
    return Diagnostic(where=f'block "{block.name}"', got=problem, expected="a block that ONNX accepts", fix=_FIX)


def _single(block: Block, name: str) -> Block:
    """One node as a block of its own; the values it reads become inputs."""
    node = block.by_name[name]
    values = tuple(Value(_plain(v), block.types[v]) for v in dict.fromkeys(node.inputs) if v)
    renamed = _renamed(node, {v: _plain(v) for v in node.inputs if v})
    return Block(name=f"{block.name}.{name}", inputs=values, nodes=(renamed,), outputs=renamed.outputs)


def _plain(value: str) -> str:
    return "in." + value.replace(":", "-")


def _renamed(node: Node, names: dict[str, str]) -> Node:
    return replace(node, inputs=tuple(names.get(v, "") for v in node.inputs))


def _alone(graph: Graph, block: Block) -> str:
    """What ONNX finds wrong with one block when it is the main one, or ""."""
    needed: set[str] = set()

    def visit(part: Block) -> None:
        for node in part.nodes:
            if node.is_call and node.callee not in needed:
                needed.add(node.callee)
                visit(graph.block_map[node.callee])

    visit(block)
    try:
        return _problem(to_onnx(Graph(main=block, blocks=tuple(b for b in graph.blocks if b.name in needed))))
    except GenmadError:
        return ""  # a part that cannot stand alone (a size only the whole tells) proves nothing
