"""The op of last resort of ONNX files: one operator that no layer-level op stands for, kept as it is.

Attributes are kept as JSON. Tensors and subgraphs (of If, Loop, Scan, SequenceMap) stand in it as the protobuf bytes
in base64; what a subgraph reads from outside is an input of the op and is called `outer.0`, `outer.1` ... inside.
"""

import base64
import binascii
import json
import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from genmad.ir.diagnostics import ShapeError
from genmad.ir.opdef import Attr, Attrs, OnnxContext, OpDef, Sample, TorchContext, Types
from genmad.ir.types import TensorType
from genmad.ops.onnx_torch import ONNX_TORCH
from genmad.ops.shape_rules import LoweringError

if TYPE_CHECKING:
    from onnx import AttributeProto, GraphProto

OPSET_VERSION = 18  # of the standard domain, that graphs are written for where nothing newer is needed
MAX_TEXT = 2**20
REGION, REGION_DOMAIN = "Region", "genmad.region"  # several operators in one leaf, because of what flows between them
OUTER = "outer."
_PROTOS = ("tensor", "graph", "type", "sparse_tensor")
_EMPTY = {"ints": "INTS", "floats": "FLOATS", "strings": "STRINGS"}
_WORD = re.compile(r"[A-Za-z_]\w*\Z")


@lru_cache(maxsize=1024)
def check_attributes(text: str) -> Mapping[str, Any]:
    """The JSON object of an OnnxCall's attributes. Raises `ShapeError` when it is none."""
    try:
        parsed = json.loads(text) if len(text) <= MAX_TEXT else None
    except ValueError:
        parsed = None
    if not isinstance(parsed, dict) or not all(_WORD.match(key) for key in parsed):
        raise ShapeError(f"attributes={text[:60]!r} of {len(text)} characters",
                         f'a JSON object of at most {MAX_TEXT} characters such as {{"axis": 1}}')  # fmt: skip
    for key, value in parsed.items():
        if not _is_value(value):
            raise ShapeError(
                f"attribute {key}={str(value)[:60]}", 'numbers, strings, lists of them, or {"graph": BASE64}'
            )
    return parsed


def _is_value(value: Any) -> bool:
    if isinstance(value, dict) and len(value) == 1:
        ((kind, inner),) = value.items()
        return (kind in _PROTOS and isinstance(inner, str)) or (kind in _EMPTY and inner == [])
    items = value if isinstance(value, list) else [value]
    kinds = {type(item) for item in items}
    return len(kinds) == 1 and kinds <= {int, float, str}


def encode_attribute(value: Any) -> Any:
    """One attribute as JSON holds it: protobuf messages in base64, lists without members with their kind."""
    from onnx import GraphProto, SparseTensorProto, TensorProto, TypeProto

    kinds = {TensorProto: "tensor", GraphProto: "graph", TypeProto: "type", SparseTensorProto: "sparse_tensor"}
    kind = kinds.get(type(value))
    if kind is None:
        return value
    return {kind: base64.b64encode(value.SerializeToString(deterministic=True)).decode()}


def decode_attribute(name: str, value: Any) -> Any:
    """What `encode_attribute` was given. Raises `LoweringError` on bytes that are no such message."""
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # protobuf ships no types

    if not isinstance(value, dict):
        return value
    ((kind, inner),) = value.items()
    if kind in _EMPTY:
        number = onnx.AttributeProto.AttributeType.Value(_EMPTY[kind])
        return onnx.AttributeProto(name=name, type=number)
    made = {"tensor": onnx.TensorProto, "graph": onnx.GraphProto, "type": onnx.TypeProto}.get(
        kind, onnx.SparseTensorProto
    )()
    try:
        made.ParseFromString(base64.b64decode(inner, validate=True))
    except (DecodeError, binascii.Error, ValueError):
        raise LoweringError(f"attribute {name}: {kind} that cannot be decoded") from None
    if any(t.data_location == onnx.TensorProto.EXTERNAL for t in _stored(made)):
        raise LoweringError(f"attribute {name}: a tensor that is kept in another file; only inline data is allowed")
    return made


def _stored(message: Any) -> list[Any]:
    """Every tensor inside a tensor or graph."""
    from onnx import GraphProto, TensorProto

    if isinstance(message, TensorProto):
        return [message]
    if not isinstance(message, GraphProto):
        return []
    found = list(message.initializer)
    for node in message.node:
        for attr in node.attribute:
            for inner in (attr.t, attr.g, *attr.tensors, *attr.graphs):
                found += _stored(inner)
    return found


def _call_result(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    check_attributes(attrs["attributes"])
    if not _WORD.match(attrs["op_type"]):
        raise ShapeError(f"op_type={attrs['op_type']!r}", "the name of an ONNX operator such as TopK")
    if not 0 <= attrs["captured"] <= len(types):
        raise ShapeError(f"captured={attrs['captured']}", f"at most the {len(types)} inputs")
    results = tuple(TensorType.parse(text) for text in attrs["types"].split(";"))
    if attrs["outputs"] and (len(attrs["outputs"]) != len(results) or len(set(attrs["outputs"])) != len(results)):
        raise ShapeError(f"outputs={attrs['outputs']} with {len(results)} types", "one place for each type")
    return results


def _call_torch(ctx: TorchContext) -> str:
    op_type, domain = ctx.attrs["op_type"], ctx.attrs["domain"]
    write = ONNX_TORCH.get(op_type) if not domain and not ctx.attrs["outputs"] else None
    source = write(ctx, check_attributes(ctx.attrs["attributes"])) if write is not None else ""
    if not source:
        raise LoweringError(f"OnnxCall of {op_type}: PyTorch has no form of it; hand over ONNX instead")
    return source


def _call_onnx(ctx: OnnxContext) -> tuple[str, ...]:
    own = len(ctx.inputs) - ctx.attrs["captured"]
    names = {f"{OUTER}{i}": name for i, name in enumerate(ctx.inputs[own:])}
    given = {k: decode_attribute(k, v) for k, v in check_attributes(ctx.attrs["attributes"]).items()}
    if (ctx.attrs["op_type"], ctx.attrs["domain"]) == (REGION, REGION_DOMAIN):
        return _write_region(ctx, given["body"], names)
    attrs = {k: _rebound(ctx, v, names) for k, v in given.items()}
    places = ctx.attrs["outputs"] or tuple(range(len(ctx.results)))
    made = ctx.op(
        ctx.attrs["op_type"], *ctx.inputs[:own], outputs=max(places) + 1, domain=ctx.attrs["domain"],
        version=ctx.attrs["version"], **attrs,
    )  # fmt: skip
    made = (made,) if isinstance(made, str) else made
    return tuple(made[i] for i in places)


def _write_region(ctx: OnnxContext, graph: "GraphProto", names: dict[str, str]) -> tuple[str, ...]:
    """Writes the operators of a region in place; versions are those of the op."""
    for tensor in graph.initializer:
        names[tensor.name] = ctx.op("Constant", value=tensor)
    for node in graph.node:
        attrs = {a.name: _rebound_attribute(ctx, a, names) for a in node.attribute}
        made = ctx.op(
            node.op_type, *(names[v] if v else "" for v in node.input), outputs=len(node.output), domain=node.domain,
            version=ctx.attrs["version"], **attrs,
        )  # fmt: skip
        names.update(zip(node.output, (made,) if isinstance(made, str) else made, strict=True))
    return tuple(names[v.name] for v in graph.output)


def _rebound_attribute(ctx: OnnxContext, attr: "AttributeProto", names: Mapping[str, str]) -> "AttributeProto":
    copy = type(attr)()
    copy.CopyFrom(attr)
    if attr.HasField("g"):
        copy.g.CopyFrom(_rebound(ctx, attr.g, names))
    return copy


def _rebound(ctx: OnnxContext, value: Any, names: Mapping[str, str]) -> Any:
    """A subgraph that reads `names` under their new names and whose own values clash with nobody's."""
    from onnx import GraphProto

    if not isinstance(value, GraphProto):
        return value
    inner = GraphProto()
    inner.CopyFrom(value)
    prefix = ctx.fresh("inner")
    rename_values(inner, dict(names), lambda name: f"{prefix}/{name}")
    return inner


def rename_values(graph: "GraphProto", names: dict[str, str], new: Callable[[str], str]) -> None:
    """Renames in place: outer values as `names` says, values that the graph or a graph inside defines by `new`."""
    del graph.value_info[:], graph.quantization_annotation[:]
    own = dict.fromkeys(item.name for item in (*graph.input, *graph.initializer))
    names.update({name: new(name) for name in own})
    for item in (*graph.input, *graph.initializer):
        item.name = names[item.name]
    for node in graph.node:
        node.input[:] = [names.get(v, v) for v in node.input]
        for attr in node.attribute:
            for inner in ([attr.g] if attr.HasField("g") else []) + list(attr.graphs):
                rename_values(inner, dict(names), new)
        for name in node.output:
            names[name] = new(name) if name else ""
        node.output[:] = [names[v] for v in node.output]
    for item in graph.output:
        item.name = names.get(item.name, item.name)


ONNX_CALL_OP = OpDef(
    name="OnnxCall",
    family="onnx_call",
    inputs=("xs*",),
    attrs=(
        Attr("op_type", "str", doc="Name of the ONNX operator."),
        Attr("domain", "str", "", doc="Domain of the operator; empty for the standard one."),
        Attr("version", "int", 1, at_least=1, doc="Version of the domain that the operator is written for."),
        Attr("attributes", "str", "{}", doc="JSON of the operator's attributes; tensors and subgraphs in base64."),
        Attr("captured", "int", 0, at_least=0, doc="How many of the last inputs are read by subgraphs only."),
        Attr("outputs", "ints", (), at_least=0, doc="Places of the outputs that are there; () is the first ones."),
        Attr("types", "str", doc="Types of the outputs, joined by ;."),
    ),
    result=_call_result,
    to_torch=_call_torch,
    to_onnx=_call_onnx,
    samples=(
        Sample(inputs=("float32[batch,8]",), attrs={"op_type": "Ceil", "version": 13, "types": "float32[batch,8]"}),
        Sample(
            inputs=("float32[batch,6]",),
            attrs={
                "op_type": "ReduceL2",
                "version": 18,
                "attributes": '{"keepdims": 0, "noop_with_empty_axes": 0}',
                "types": "float32[]",
            },
        ),
    ),
    refused=(
        Sample(
            inputs=("float32[2]",),
            attrs={"op_type": "Ceil", "attributes": '{"body": {"pickle": ""}}', "types": "float32[2]"},
            message="attribute body",
        ),
        Sample(
            inputs=("float32[2]",),
            attrs={"op_type": "Ceil", "attributes": "[]", "types": "float32[2]"},
            message="a JSON object",
        ),
        Sample(inputs=("float32[2]",), attrs={"op_type": "../x", "types": "float32[2]"}, message="name of an ONNX"),
        Sample(
            inputs=("float32[2]",),
            attrs={"op_type": "If", "captured": 2, "types": "float32[2]"},
            message="at most the 1 inputs",
        ),
    ),
    doc="One ONNX operator, kept as it is with its subgraphs; output types are fixed at import.",
    opaque=True,
)

ONNX_CALL = (ONNX_CALL_OP,)
