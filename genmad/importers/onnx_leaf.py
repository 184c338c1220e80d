"""ONNX operators that no op of ours stands for become `OnnxCall` leaves, control flow with its subgraphs included.

Where something flows that is no tensor of numbers (a sequence, an optional, an 8-bit float), the operators around it
become one leaf, a region, whose inputs and outputs are tensors.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from genmad.importers.onnx_infer import infer, tensor_type
from genmad.importers.onnx_modern import modern
from genmad.importers.onnx_values import NodeReader, Ref, Refused, Totals, clean
from genmad.ir.types import TensorType
from genmad.ops.onnx_call import MAX_TEXT, OPSET_VERSION, OUTER, REGION, REGION_DOMAIN, encode_attribute, rename_values

if TYPE_CHECKING:
    from onnx import AttributeProto, GraphProto, NodeProto, TypeProto

_MAX_REGION_NODES = 512


@dataclass(frozen=True, slots=True, eq=False)
class Deferred:
    """A value that is no tensor: the operators that make it, to be written into the leaf that uses it.

    Attributes:
        nodes: in order; their values have names that are unique in the model.
        operands: name -> what the operators read from outside.
        output: name of the value.
    """

    nodes: "tuple[NodeProto, ...]"
    operands: Mapping[str, Ref]
    output: str


@dataclass(slots=True)
class _Plan:
    """A leaf while it is put together."""

    nodes: "list[NodeProto]" = field(default_factory=list)
    operands: dict[str, Ref] = field(default_factory=dict)
    own: list[str] = field(default_factory=list)

    def take(self, ref: Ref, name: str) -> str:
        """The name under which the leaf reads a value; the operators that make a deferred one come in."""
        if ref.deferred is None:
            self.operands[name] = ref
            return name
        known = {id(node) for node in self.nodes}
        self.nodes += [node for node in ref.deferred.nodes if id(node) not in known]
        self.operands.update(ref.deferred.operands)
        return str(ref.deferred.output)


def leaf(n: NodeReader) -> "list[Ref | None]":
    """The node as a leaf; results that are no tensors of numbers are deferred. Raises `Refused`."""
    import onnx_ir

    imports = n.block.totals.imports
    proto = onnx_ir.to_proto(n.node)
    _plain(proto, n.bindings)
    plan = _Plan()
    label = f"t{n.block.totals.next_number()}"
    for i, ref in enumerate(n.inputs):
        plan.own.append(plan.take(ref, f"{label}.{i}") if ref is not None else "")
    proto.input[:] = plan.own
    _capture(n, proto, plan, label)
    names = [f"{label}.out{i}" if name else "" for i, name in enumerate(proto.output)]
    outputs = n.node.outputs
    proto.output[:] = names
    imports = {**imports, "": max(imports.get("", OPSET_VERSION), OPSET_VERSION)}
    plan.nodes += modern(proto, plan.operands, n.block.totals.imports)
    if len(plan.nodes) > _MAX_REGION_NODES:
        raise Refused(f"more than {_MAX_REGION_NODES} operators around values that are no tensors")
    found = infer(plan.nodes, plan.operands, [name for name in names if name], imports)
    types: dict[str, TensorType] = {}
    for name, value in zip(names, outputs, strict=True):
        used = bool(list(value.uses())) or value.is_graph_output()
        if name and (used or name in found):
            typed = tensor_type(n, found.get(name), value, f"{clean(n.name)}_{n.block.totals.next_number()}")
            types.update({name: typed} if typed is not None else {})
    refs = _emit(n, plan, types, names, imports) if types else {}
    kept = Deferred(tuple(plan.nodes), dict(plan.operands), "")
    return [refs.get(name) or _deferred(kept, name, found) if name else None for name in names]


def _deferred(kept: Deferred, name: str, found: "Mapping[str, TypeProto]") -> Ref | None:
    made = Deferred(kept.nodes, kept.operands, name)
    return Ref(TensorType.parse("bool[]"), deferred=made, what=_what(found.get(name)))


def _what(found: "TypeProto | None") -> str:
    import onnx

    if found is None:
        return "a value of unknown type"
    kind = str(found.WhichOneof("value"))
    if kind != "tensor_type":
        return f"a {kind.removesuffix('_type')}"
    if not found.tensor_type.HasField("shape"):
        return "a tensor of unknown rank"
    return f"a tensor of {onnx.TensorProto.DataType.Name(found.tensor_type.elem_type).lower()}"


def _emit(
    n: NodeReader, plan: _Plan, types: Mapping[str, TensorType], names: Sequence[str], imports: Mapping[str, int]
) -> dict[str, Ref]:
    """Adds the OnnxCall; its results by name."""
    alone = len(plan.nodes) == 1
    order = [name for name in plan.own if alone or name in plan.operands]
    order = order if alone else []
    captured = [name for name in plan.operands if name not in order]
    inner = {name: f"{OUTER}{i}" for i, name in enumerate(captured)}
    node = plan.nodes[-1]
    if alone:
        places = tuple(names.index(name) for name in types)
        given = {a.name: _value(a, inner) for a in node.attribute}
        attrs: dict[str, Any] = {"op_type": node.op_type, "domain": _domain(node), "outputs": places}
        attrs["outputs"] = () if places == tuple(range(len(types))) else places
    else:
        given = {"body": encode_attribute(_region(plan.nodes, inner, list(types)))}
        attrs = {"op_type": REGION, "domain": REGION_DOMAIN}
    text = json.dumps(given, sort_keys=True)
    if len(text) > MAX_TEXT:
        raise Refused(f"attributes and subgraphs of {len(text)} bytes; at most {MAX_TEXT} are kept")
    version = max((_since(item, imports) for item in plan.nodes), default=1)
    operands = [plan.operands[name] if name else None for name in (*order, *captured)]
    while operands and operands[-1] is None:
        operands.pop()
    made = n.emit_all(
        "OnnxCall", *operands, **attrs, version=version, attributes=text,
        captured=len(captured), types=";".join(map(str, types.values())),
    )  # fmt: skip
    return dict(zip(types, made, strict=True))


def _domain(node: "NodeProto") -> str:
    return "" if node.domain == "ai.onnx" else str(node.domain)


def _since(node: "NodeProto", imports: Mapping[str, int]) -> int:
    """The version in which the operator got its present form; that of the file for unknown ones."""
    from onnx import defs

    version = imports.get(_domain(node), 1)
    if not defs.has(node.op_type, _domain(node)):
        return version
    own = int(defs.get_schema(node.op_type, version, _domain(node)).since_version)
    return max([own, *(_since(item, imports) for graph in subgraphs(node) for item in graph.node)])


def subgraphs(node: "NodeProto") -> "Iterator[GraphProto]":
    for attr in node.attribute:
        if attr.HasField("g"):
            yield attr.g
        yield from attr.graphs


def _value(attr: "AttributeProto", inner: Mapping[str, str]) -> Any:
    """The attribute as JSON keeps it."""
    from onnx import AttributeProto, GraphProto, helper

    empty = {AttributeProto.INTS: "ints", AttributeProto.FLOATS: "floats", AttributeProto.STRINGS: "strings"}
    value = helper.get_attribute_value(attr)
    if attr.type in empty and not value:
        return {empty[attr.type]: []}
    if isinstance(value, GraphProto):
        copy = GraphProto()
        copy.CopyFrom(value)
        value = copy
        rename_values(value, dict(inner), _Numbered())
    try:
        if attr.type == AttributeProto.STRING:
            return value.decode()
        if attr.type == AttributeProto.STRINGS:
            return [item.decode() for item in value]
    except UnicodeDecodeError:
        raise Refused(f"attribute {attr.name} of bytes that are no text") from None
    if attr.type in (AttributeProto.GRAPHS, AttributeProto.TENSORS, AttributeProto.TYPE_PROTOS):
        raise Refused(f"attribute {attr.name}: a list of graphs, tensors or types")
    return encode_attribute(value if not isinstance(value, (list, tuple)) else list(value))


class _Numbered:
    """New names `v0`, `v1` ... for the values of a subgraph."""

    def __init__(self) -> None:
        self._count = 0

    def __call__(self, _name: str) -> str:
        self._count += 1
        return f"v{self._count - 1}"


def _region(nodes: "Sequence[NodeProto]", inner: Mapping[str, str], outputs: Sequence[str]) -> "GraphProto":
    from onnx import ValueInfoProto, helper

    copies = []
    for node in nodes:
        copy = type(node)()
        copy.CopyFrom(node)
        copies.append(copy)
    graph = helper.make_graph(copies, "region", [], [ValueInfoProto(name=name) for name in outputs])
    rename_values(graph, dict(inner), _Numbered())
    return graph


def _plain(node: "NodeProto", bindings: Mapping[str, Any]) -> None:
    """Takes names, comments and exporters' notes (which hold paths) out, and puts function attributes in; in place."""
    import onnx_ir

    node.name, node.doc_string = "", ""
    node.domain = _domain(node)
    del node.metadata_props[:]
    kept = []
    for attr in node.attribute:
        if attr.ref_attr_name:
            bound = bindings.get(attr.ref_attr_name)
            if bound is None or bound.value is None:
                continue
            name, found = attr.name, onnx_ir.to_proto(bound)
            attr.CopyFrom(found)
            attr.name = name
        attr.doc_string = ""
        kept.append(attr)
    if len(kept) < len(node.attribute):
        copies = [type(a).FromString(a.SerializeToString()) for a in kept]
        del node.attribute[:]
        node.attribute.extend(copies)
    for graph in subgraphs(node):
        graph.doc_string = ""
        graph.name = "body"
        del graph.metadata_props[:], graph.value_info[:], graph.quantization_annotation[:]
        for item in graph.node:
            _plain(item, bindings)


def _capture(n: NodeReader, node: "NodeProto", plan: _Plan, label: str) -> None:
    """Lets subgraphs read outer values and their own stored weights as operands of the leaf."""
    wanted = list(dict.fromkeys(name for graph in subgraphs(node) for name in outer_names(graph)))
    scope: dict[str, Ref | None] = {}
    for name in wanted:
        value = n.block.names.get(name)
        if value not in n.block.env:  # an input, an initializer, or a value of the same name in another function
            scope = {str(value.name): ref for value, ref in n.block.env.items()}
            break
        scope[name] = n.block.env[value]
    names: dict[str, str] = {}
    for i, name in enumerate(wanted):
        ref = scope.get(name)
        if ref is None:
            raise Refused(f"a subgraph that reads {name!r}, which is not known")
        names[name] = plan.take(ref, f"{label}.c{i}")
    for graph in subgraphs(node):
        rename_values(graph, dict(names), _Numbered())


def outer_names(graph: "GraphProto") -> list[str]:
    """Names that the graph reads and does not define, in order of use."""
    defined = {v.name for v in (*graph.input, *graph.initializer)}
    found: list[str] = []
    for node in graph.node:
        reads = [*node.input, *(name for inner in subgraphs(node) for name in outer_names(inner))]
        found += [name for name in reads if name and name not in defined]
        defined.update(node.output)
    return found + [v.name for v in graph.output if v.name not in defined]


_MAX_EXOTIC_BYTES = 2**16


def deferred_constant(tensor: Any, totals: Totals) -> Ref:
    """A stored tensor of a dtype that graphs do not have. Raises `Refused` when it is large."""
    import onnx_ir
    from onnx import helper

    if tensor.nbytes > _MAX_EXOTIC_BYTES:
        raise Refused(f"dtype {tensor.dtype} with {tensor.nbytes} bytes; at most {_MAX_EXOTIC_BYTES} are kept")
    name = f"t{totals.next_number()}"
    node = helper.make_node("Constant", [], [name], value=onnx_ir.to_proto(tensor))
    what = f"a tensor of {str(tensor.dtype).lower()}"
    return Ref(TensorType.parse("bool[]"), deferred=Deferred((node,), {}, name), what=what)
