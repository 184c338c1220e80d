"""Graph to ONNX (opset 18): each block becomes a nested function, each op that ONNX lacks a function of its own.

Functions of blocks live in the domain `genmad`, those of ops in `genmad.ops`. A function's inputs are the block's
inputs, then its parameters under their relative names, then the symbolic sizes it cannot measure itself.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from genmad import __version__
from genmad.ir.diagnostics import GenmadError
from genmad.ir.graph import Block, Graph, Node
from genmad.ir.opdef import OpDef, Param
from genmad.ir.types import TensorType
from genmad.lowering.errors import LoweringError
from genmad.lowering.onnx_body import Body, NodeContext, Signature, element_type
from genmad.ops import OPSET
from genmad.ops.onnx_call import REGION_DOMAIN

if TYPE_CHECKING:
    from onnx import FunctionProto, ModelProto, ValueInfoProto

BLOCK_DOMAIN = "genmad"
OP_DOMAIN = "genmad.ops"
OPSET_VERSION = 18
IR_VERSION = 10  # functions with metadata; the newest onnx writes versions that onnxruntime refuses
OP_KEY, SCOPE_KEY, INPUTS_KEY = "genmad.op", "genmad.scope", "genmad.inputs"  # genmad.importers.from_onnx reads them


def to_onnx(graph: Graph, *, weights: Mapping[str, Any] | None = None, opset: int = OPSET_VERSION) -> "ModelProto":
    """The model with `weights` as initializers, or without them: parameters are then inputs after the model's own.

    Args:
        weights: array or tensor by full parameter name; all of `parameter_names(graph)`.

    Raises:
        LoweringError: an op without ONNX form, a size no input tells, or weights that are missing or do not fit.
    """
    model, params = write_model(graph, opset)
    if weights is None:
        model.graph.input.extend(value_info(name, type_) for name, type_ in params.items())
        return model
    from genmad.lowering.onnx_files import check_weights, initializer

    check_weights(params, weights)
    model.graph.initializer.extend(initializer(name, type_, weights[name]) for name, type_ in params.items())
    return model


def write_model(graph: Graph, opset: int = OPSET_VERSION) -> "tuple[ModelProto, dict[str, TensorType]]":
    """The model whose parameters are neither inputs nor initializers yet, and the parameters' types by full name."""
    from onnx import helper

    if opset != OPSET_VERSION:
        raise LoweringError(f"opset {opset}: only opset {OPSET_VERSION} can be written; leave the argument out")
    versions = domain_versions(graph)
    writer = _Writer(graph, versions)
    body, outputs = writer.body(graph.main, is_main=True)
    proto = helper.make_graph(
        body.nodes,
        graph.main.name,
        [value_info(v.name, v.type) for v in graph.main.inputs],
        [value_info(name, type_) for name, type_ in zip(outputs, graph.main.output_types, strict=True)],
        value_info=_inner_types(graph.main, body, outputs),
    )
    own = {d: 1 for d in (BLOCK_DOMAIN, OP_DOMAIN) if any(f.domain == d for f in writer.functions)}
    imports = [helper.make_opsetid(domain, version) for domain, version in (versions | own).items()]
    model = helper.make_model(
        proto,
        opset_imports=imports,
        functions=writer.functions,
        ir_version=IR_VERSION,
        producer_name="genmad",
        producer_version=__version__,
    )
    model.metadata_props.add(key=INPUTS_KEY, value=str(len(graph.main.inputs)))
    return model, body.params


def domain_versions(graph: Graph) -> dict[str, int]:
    """The version of each domain that the model needs: opset 18, or a newer one for an operator that was kept as it is.

    Raises `LoweringError` when kept operators need versions that exclude each other.
    """
    from onnx import defs

    versions = {"": OPSET_VERSION}
    kept = [node for block in graph.all_blocks for node in block.nodes if node.op == "OnnxCall"]
    for node in kept:
        attrs = node.attr_map
        if attrs["domain"] != REGION_DOMAIN:
            versions[attrs["domain"]] = max(versions.get(attrs["domain"], 1), attrs["version"])
        else:
            versions[""] = max(versions[""], attrs["version"])
    for node in kept:
        op_type, domain, version = (node.attr_map[k] for k in ("op_type", "domain", "version"))
        if not defs.has(op_type, domain):
            continue
        try:
            changed = defs.get_schema(op_type, versions[domain], domain).since_version
        except defs.SchemaError:
            raise LoweringError(f'node "{node.name}": ONNX has no {op_type} in opset {versions[domain]}') from None
        if changed > version:
            text = f"{op_type} as of opset {version}; opset {versions[domain]}, which another node needs, changed it"
            raise LoweringError(f'node "{node.name}": {text}')
    return versions


def value_info(name: str, type_: TensorType) -> "ValueInfoProto":
    """The typed name; symbolic sizes become `dim_param`s."""
    from onnx import helper

    shape = [d if isinstance(d, int) else str(d) for d in type_.shape]
    return helper.make_tensor_value_info(name, element_type(type_.dtype), shape)


def _inner_types(block: Block, body: Body, outputs: Sequence[str]) -> "list[ValueInfoProto]":
    done = {*outputs, *(v.name for v in block.inputs), *body.params}
    made: dict[str, ValueInfoProto] = {}
    for value, type_ in block.types.items():
        name = body.names.get(value, "")
        if name and name not in done:
            made[name] = value_info(name, type_)
    return list(made.values())


class _Writer:
    """Writes blocks, callees first, and each distinct op function once."""

    def __init__(self, graph: Graph, versions: Mapping[str, int]) -> None:
        self.versions = versions
        self.functions: list[FunctionProto] = []
        self.blocks: dict[str, Signature] = {}
        self._ops: dict[tuple[Any, ...], Signature] = {}
        self._op_names: set[str] = set()
        for block in graph.blocks:
            self._block(block)

    def _block(self, block: Block) -> None:
        body, outputs = self.body(block)
        signature = Signature(BLOCK_DOMAIN, block.name, tuple(body.params.items()), body.passed_sizes)
        self.blocks[block.name] = signature
        function = _function(signature, body, [v.name for v in block.inputs], outputs, self.versions)
        function.metadata_props.add(key=INPUTS_KEY, value=str(len(block.inputs)))
        self.functions.append(function)

    def body(self, block: Block, is_main: bool = False) -> tuple[Body, list[str]]:
        """The written nodes and the names of the outputs."""
        body = Body(f'block "{block.name}"', ((v.name, v.type) for v in block.inputs), is_main=is_main)
        body.reserve(self._param_names(block))
        for node in block.nodes:
            try:
                self._node(block, body, node)
                body.note((body.names[v], t) for v, t in zip(node.outputs, node.types, strict=True))
            except GenmadError as error:
                raise _located(error, node, block) from error
        return body, _outputs(body, block.outputs)

    def _param_names(self, block: Block) -> Iterable[str]:
        for node in block.nodes:
            if node.is_call:
                yield from (_join(node.scope, name) for name, _ in self.blocks[node.callee].params)
            else:
                yield from (name for _, name in node.params)

    def _node(self, block: Block, body: Body, node: Node) -> None:
        inputs = tuple(body.names[v] if v else "" for v in node.inputs)
        if node.is_call:
            signature = self.blocks[node.callee]
            params = [body.param(_join(node.scope, name), type_) for name, type_ in signature.params]
            _call(body, node, signature, (*inputs, *params))
            return
        opdef = OPSET[node.op]
        types = tuple(block.types[v] if v else None for v in node.inputs)
        declared = opdef.params(types, node.attr_map)
        names = {p.slot: body.param(node.param_map[p.slot], p.type) for p in declared}
        if not opdef.is_function:
            context = NodeContext(body, node.name, inputs, types, node.types, node.attr_map, names)
            _inline(body, node, opdef, context)
            return
        signature = self._op(opdef, node, types, declared)
        _call(body, node, signature, (*(i for i in inputs if i), *names.values()))

    def _op(self, opdef: OpDef, node: Node, types: tuple[TensorType | None, ...], params: Sequence[Param]) -> Signature:
        key = (opdef.name, node.attrs, types)
        if key not in self._ops:
            name, count = opdef.name, 0
            while name in self._op_names:
                count += 1
                name = f"{opdef.name}_{count}"
            self._op_names.add(name)
            function, self._ops[key] = op_function(name, opdef, types, node.attr_map, params, node.types, self.versions)
            self.functions.append(function)
        return self._ops[key]


def op_function(
    name: str,
    opdef: OpDef,
    types: Sequence[TensorType | None],
    attrs: Mapping[str, Any],
    params: Sequence[Param],
    results: tuple[TensorType, ...],
    versions: Mapping[str, int] = MappingProxyType({"": OPSET_VERSION}),
) -> "tuple[FunctionProto, Signature]":
    """The function of one op with fixed attributes and input types; what it stands for is in its metadata."""
    stems = [n.rstrip("?*") for n in opdef.inputs]
    labels = [f"{stems[-1]}{i}" if opdef.is_variadic and i >= len(stems) - 1 else stems[i] for i in range(len(types))]
    present = [(label, t) for label, t in zip(labels, types, strict=True) if t is not None]
    body = Body(f"function {name}", present)
    slots = {p.slot: body.param(body.fresh(p.slot), p.type) for p in params}
    inputs = tuple(label if t is not None else "" for label, t in zip(labels, types, strict=True))
    context = NodeContext(body, opdef.name, inputs, tuple(types), results, attrs, slots)
    made = opdef.to_onnx(context)
    for i, value in enumerate(made):
        body.names[f"y:{i}"] = value
    outputs = _outputs(body, [f"y:{i}" for i in range(len(made))])
    signature = Signature(OP_DOMAIN, name, (), body.passed_sizes)
    labels = [label for label, _ in present]
    function = _function(signature, body, labels, outputs, versions, params=list(slots.values()))
    record = {"op": opdef.name, "attrs": _plain(attrs), "types": [None if t is None else str(t) for t in types]}
    function.metadata_props.add(key=OP_KEY, value=json.dumps(record))
    return function, signature


def _plain(attrs: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes in JSON; symbolic sizes as text."""

    def item(value: Any) -> Any:
        if isinstance(value, tuple):
            return [item(v) for v in value]
        return value if isinstance(value, (bool, int, float, str, type(None))) else {"dim": str(value)}

    return {name: item(value) for name, value in attrs.items()}


def _join(scope: str, name: str) -> str:
    return f"{scope}.{name}" if scope else name


def _located(error: GenmadError, node: Node, block: Block) -> GenmadError:
    if not isinstance(error, LoweringError) or 'node "' in str(error):
        return error
    return LoweringError(f'node "{node.name}" in block "{block.name}": {error}')


def _call(body: Body, node: Node, signature: Signature, inputs: Sequence[str]) -> None:
    sizes = [body.dim(_symbol(s)) for s in signature.sizes]
    outputs = [body.fresh(out) for out in node.outputs]
    proto = body.add(signature.name, (*inputs, *sizes), outputs, node.name, {}, signature.domain)
    if node.scope:
        proto.metadata_props.add(key=SCOPE_KEY, value=node.scope)
    body.names.update(zip(node.outputs, outputs, strict=True))


def _symbol(text: str) -> Any:
    from genmad.ir.types import parse_dim

    return parse_dim(text)


def _inline(body: Body, node: Node, opdef: OpDef, context: NodeContext) -> None:
    """Writes the nodes of an op in place; values and a lone node take the names of the user's node."""
    start = len(body.nodes)
    made = opdef.to_onnx(context)
    written = body.nodes[start:]
    produced = {out for proto in written for out in proto.output}
    rename: dict[str, str] = {}
    for ours, value in zip(node.outputs, made, strict=True):
        if value in produced and value not in rename:
            rename[value] = body.fresh(ours)
        body.names[ours] = rename.get(value, value)
    for proto in written:
        proto.input[:] = [rename.get(v, v) for v in proto.input]
        proto.output[:] = [rename.get(v, v) for v in proto.output]
    steps = [proto for proto in written if proto.op_type != "Constant"] or written
    if len(steps) == 1:
        steps[0].name = node.name
    for proto in steps if node.scope else ():
        proto.metadata_props.add(key=SCOPE_KEY, value=node.scope)


def _outputs(body: Body, values: Sequence[str]) -> list[str]:
    """Names of distinct values that nodes of the body produce, with an Identity where a value is not such a one."""
    produced = {out for proto in body.nodes for out in proto.output}
    names: list[str] = []
    for value in values:
        name = body.names[value]
        if name not in produced or name in names:
            source, name = (
                name,
                body.fresh(value if not body.is_main or value not in body.params else f"{value}/output"),
            )
            body.add("Identity", (source,), (name,), f"{name}/output", {})
        names.append(name)
    return names


def _function(
    signature: Signature, body: Body, inputs: Sequence[str], outputs: Sequence[str], versions: Mapping[str, int],
    params: Sequence[str] | None = None,
) -> "FunctionProto":  # fmt: skip
    from onnx import helper

    names = [name for name, _ in signature.params] if params is None else list(params)
    every = [*inputs, *names, *(body.sizes[s] for s in signature.sizes)]
    domains = ("", *sorted(body.domains - {""}))
    imports = [helper.make_opsetid(domain, versions.get(domain, 1)) for domain in domains]
    return helper.make_function(signature.domain, signature.name, every, list(outputs), body.nodes, imports)


def save_onnx(
    source: "Graph | ModelProto", path: Any, weights: Mapping[str, Any] | None = None, **options: Any
) -> None:
    """See `genmad.lowering.onnx_files.save_onnx`."""
    from genmad.lowering import onnx_files

    onnx_files.save_onnx(source, path, weights, **options)


def check_onnx(graph: Graph) -> list[Any]:
    """See `genmad.lowering.onnx_check.check_onnx`."""
    from genmad.lowering import onnx_check

    return onnx_check.check_onnx(graph)
