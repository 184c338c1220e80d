"""ONNX file to graph. What genmad wrote comes back as it was; other files come back as the ops they spell out.

Functions that genmad wrote for blocks become blocks again, those for ops become ops when their body proves the claim;
any other function is expanded. Sizes are followed symbolically, so batch and sequence stay free where the file has them
free.
"""

import json
import os
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from genmad.importers.onnx_constants import fold_constants, read_constant
from genmad.importers.onnx_contrib import ATTENTION_RULES, CONTRIB_RULES
from genmad.importers.onnx_leaf import deferred_constant, leaf
from genmad.importers.onnx_match import dtype_of, matches
from genmad.importers.onnx_names import input_dim, module_path
from genmad.importers.onnx_rules import LAYER_RULES
from genmad.importers.onnx_shape_rules import SHAPE_RULES
from genmad.importers.onnx_sizes import fold_sizes
from genmad.importers.onnx_source import read_model
from genmad.importers.onnx_values import (
    BlockReader,
    NodeReader,
    Ref,
    Refused,
    Totals,
    clean,
    dims_of,
)
from genmad.importers.report import ImportReport, SourceError, UnsupportedError
from genmad.ir.build import GraphBuilder
from genmad.ir.diagnostics import Diagnostic, GenmadError, ShapeError
from genmad.ir.graph import Graph, Value, parameter_names, places
from genmad.ir.rewrite import prune_dead
from genmad.ir.types import Dim, DType, SymDim, TensorType, parse_dim
from genmad.ops import OPSET

if TYPE_CHECKING:
    import numpy as np
    import onnx_ir

    from genmad.importers.flat import Flat

RULES = {**LAYER_RULES, **SHAPE_RULES, **ATTENTION_RULES}
# Keys of the metadata that genmad.lowering.to_onnx writes.
OP_KEY, SCOPE_KEY, INPUTS_KEY = "genmad.op", "genmad.scope", "genmad.inputs"
MAX_SECONDS = 600.0  # of wall clock; the largest models take a few
_LAYERS = frozenset({"linear", "conv", "pool", "norm", "activation", "attention", "mixer", "resize"})


def from_onnx(source: "str | os.PathLike[str] | bytes") -> "tuple[Graph, dict[str, np.ndarray], ImportReport]":
    """The graph, its weights by full parameter name (external ones are mapped from their file), and the report.

    Raises:
        SourceError: the file cannot be read, is not whole, points outside its folder, or expands without bound.
        UnsupportedError: nodes that no op can express, all of them.
    """
    model, where = read_model(source)
    try:
        return _Importer(model, where).run()
    except RecursionError:
        found = Diagnostic(where=where, got="a graph nested too deeply", expected="a model", fix="export it again")
        raise SourceError(found) from None


class _Importer:
    """Reads the main graph and, as they are called, the functions."""

    def __init__(self, model: "onnx_ir.Model", where: str) -> None:
        self.model, self.where = model, where
        self.totals = Totals(ours=model.producer_name == "genmad", imports=_imports(model))
        self.builder = GraphBuilder(OPSET)
        self.functions = {(key[0], key[1]): function for key, function in model.functions.items()}
        self._blocks: dict[Any, str | None] = {}
        self._proven: dict[Any, bool] = {}
        self._scopes: Counter[str] = Counter()
        self._deadline = time.monotonic() + MAX_SECONDS
        self._open = {clean(model.graph.name or "main")}  # names of blocks that are built or being built

    def run(self) -> "tuple[Graph, dict[str, np.ndarray], ImportReport]":
        graph = self.model.graph
        own, weightless = self._inputs()
        values = [Value(clean(str(v.name)), t) for v, t in own]
        reader = BlockReader(self.builder.block(clean(graph.name or "main"), values), self.totals, is_main=True)
        self.totals.symbols.update(s for _, t in own for d in t.shape if isinstance(d, SymDim) for s in d.symbols)
        for (onnx_value, type_), value in zip(own, values, strict=True):
            reader.env[onnx_value] = Ref(type_, value.name)
        for onnx_value, type_ in weightless:
            reader.env[onnx_value] = Ref(type_, param=str(onnx_value.name))
        reader.stored = frozenset(graph.initializers)
        for name, onnx_value in graph.initializers.items():
            reader.env[onnx_value] = self._stored(name, onnx_value.const_value)
        self._nodes(reader, graph, {})
        outputs = [self._output(reader, v) for v in graph.outputs]
        if self.totals.problems:
            raise UnsupportedError(tuple(dict.fromkeys(self.totals.problems)))
        if "" in outputs:
            got = "nodes that read values defined later: a cycle, or nodes out of order"
            raise SourceError(
                Diagnostic(where=self.where, got=got, expected="nodes in topological order", fix="export it again")
            )
        built = self.builder.build(reader.builder.finish(outputs))
        from genmad.importers.onnx_flat import raise_level  # loads torch

        flat = None
        if not self.totals.ours:
            built = prune_dead(built)
            arrays = {n: self._array(n) for n in parameter_names(built) if n in self.totals.weights}
            built, flat = raise_level(built, self.totals.classes, arrays)
        weights = {n: self._array(n) for n in parameter_names(built) if n in self.totals.weights}
        return built, weights, self._report(built, bool(weights), flat)

    def _array(self, name: str) -> "np.ndarray":
        tensor = self.totals.weights[name]
        array: np.ndarray = tensor.numpy() if hasattr(tensor, "numpy") else tensor
        return array

    def _report(self, graph: Graph, has_weights: bool, flat: "Flat | None") -> ImportReport:
        layers = Counter(p.node.op for p in places(graph) if p.node.op in OPSET and OPSET[p.node.op].family in _LAYERS)
        kept = Counter(str(p.node.attr_map["op_type"]) for p in places(graph) if p.node.op == "OnnxCall")
        lifted = [
            f"{count} times {name} from elementary operators" for name, count in (flat.lifted if flat else {}).items()
        ]
        version = self.model.graph.opset_imports.get("", "?")
        return ImportReport(
            source=self.where,
            kind="onnx",
            weights="loaded" if has_weights else "none",
            lifted=dict(sorted(layers.items())),
            primitive=dict(sorted(kept.items())),
            notes=(f"opset {version}, written by {self.model.producer_name or 'an unnamed program'}", *lifted),
        )

    def _inputs(self) -> "tuple[list[tuple[onnx_ir.Value, TensorType]], list[tuple[onnx_ir.Value, TensorType]]]":
        """The model's own inputs and, in a file of ours without weights, the parameters that stand after them."""
        graph = self.model.graph
        values = [v for v in graph.inputs if v.name not in graph.initializers]
        count = self.model.metadata_props.get(INPUTS_KEY, "")
        own = int(count) if self.totals.ours and count.isdigit() else len(values)
        typed = [(v, self._input_type(v, i)) for i, v in enumerate(values)]
        return typed[:own], typed[own:]

    def _input_type(self, value: "onnx_ir.Value", index: int) -> TensorType:
        where = f'input "{value.name}" of {self.where}'
        if value.type is not None and type(value.type).__name__ != "TensorType":
            raise UnsupportedError([f"{where}: {type(value.type).__name__}, not a tensor"])
        if value.shape is None or value.dtype is None:
            raise SourceError(Diagnostic(where=where, got="no type or shape", expected="a typed tensor"))
        try:
            dtype = dtype_of(value.dtype)
        except ValueError:
            raise UnsupportedError([f"{where}: dtype {value.dtype.name.lower()}"]) from None
        return TensorType(dtype, tuple(input_dim(d, index, axis) for axis, d in enumerate(value.shape)))

    def _stored(self, name: str, tensor: Any) -> Ref | None:
        """An initializer. In files of other programs scalars are numbers of the computation, not weights."""
        if tensor is None:
            self.totals.problems.append(f"initializer {name!r} without contents")
            return None
        try:
            type_ = TensorType(dtype_of(tensor.dtype), tuple(int(d) for d in tensor.shape))
        except ValueError:
            return self._exotic(name, tensor)
        return Ref(type_, tensor=tensor, param=name if self.totals.ours or type_.rank else "")

    def _exotic(self, name: str, tensor: Any) -> Ref | None:
        """A stored tensor of a dtype that graphs do not have; it becomes part of the leaf that reads it."""
        try:
            return deferred_constant(tensor, self.totals)
        except Refused as error:
            self.totals.problems.append(f"initializer {name!r}: {error}")
            return None

    def _output(self, reader: BlockReader, value: "onnx_ir.Value") -> str:
        ref = reader.env.get(value)
        try:
            return reader.value(ref) if ref is not None else ""
        except Refused as error:
            self.totals.problems.append(f'output "{value.name}": {error}')
            return ""

    def _nodes(
        self, reader: BlockReader, nodes: "Iterable[onnx_ir.Node]", bindings: "Mapping[str, onnx_ir.Attr]"
    ) -> None:
        for node in nodes:
            if time.monotonic() > self._deadline:
                got = f"more than {MAX_SECONDS} seconds of reading"
                raise SourceError(Diagnostic(where=self.where, got=got, expected="a model that is read faster"))
            broken = any(v is not None and reader.env.get(v) is None for v in node.inputs)
            try:
                made = None if broken else self._node(reader, node, bindings)
            except (Refused, GenmadError) as error:
                made = None
                domain = f"{node.domain}." if node.domain else ""
                self.totals.problems.append(f'{domain}{node.op_type} "{reader.prefix}{node.name}": {error}')
            refs: Sequence[Ref | None] = (made,) if isinstance(made, Ref) else made or ()
            for i, out in enumerate(node.outputs):
                reader.env[out] = refs[i] if i < len(refs) else None
                reader.names[str(out.name)] = out

    def _node(
        self, reader: BlockReader, node: "onnx_ir.Node", bindings: "Mapping[str, onnx_ir.Attr]"
    ) -> "Ref | Sequence[Ref | None] | None":
        if node in reader.absorbed:
            return reader.env[reader.absorbed[node]]
        inputs = tuple(None if v is None else reader.env[v] for v in node.inputs)
        context = self._context(reader, node, inputs, bindings)
        function = self.functions.get((node.domain, node.op_type))
        if function is not None:
            return self._call(context, function)
        key = ("" if node.domain == "ai.onnx" else node.domain, node.op_type)
        if key == ("", "Constant"):
            return read_constant(context)
        absorbed = dict(reader.absorbed)
        try:
            made = None if any(ref is not None and ref.deferred for ref in inputs) else self._lifted(context, key)
        except (Refused, GenmadError, ValueError, TypeError, IndexError, KeyError):
            made = None  # no layer-level op says it, or the node is malformed, which inference then tells
        if made is None or not _agree(node, made):
            reader.absorbed = absorbed
            return leaf(context)
        return made

    def _lifted(self, context: NodeReader, key: tuple[str, str]) -> "Ref | Sequence[Ref | None] | None":
        """The node as sizes, constants or layer-level ops; None where there is no rule."""
        if not key[0]:
            folded = fold_sizes(context) or fold_constants(context)
            if folded is not None:
                return replace(folded, late=lambda: _only(leaf(context))) if folded.dims is not None else folded
        rule = RULES.get(key[1]) if not key[0] else CONTRIB_RULES.get(key)
        made: Ref | Sequence[Ref | None] | None = rule(context) if rule is not None else None
        if isinstance(made, Ref) and made.dims is not None and not made.value:
            return replace(made, late=lambda: _only(leaf(context)))
        return made

    def _context(
        self, reader: BlockReader, node: "onnx_ir.Node", inputs: tuple[Ref | None, ...], bindings: Mapping[str, Any]
    ) -> NodeReader:
        name = str(node.name or node.op_type.lower())
        if self.totals.ours:
            scope = str(node.metadata_props.get(SCOPE_KEY, ""))
            return NodeReader(reader, node, inputs, reader.prefix + name.split("/")[0], scope, bindings)
        scope, classes = module_path(node)
        self.totals.classes.update(classes)
        scope = reader.scope or scope
        name = f"{scope}.{node.op_type.lower()}" if scope else reader.prefix + name
        return NodeReader(reader, node, inputs, name, scope, bindings)

    def _call(self, n: NodeReader, function: "onnx_ir.Function") -> "Sequence[Ref | None]":
        if self.totals.ours and OP_KEY in function.metadata_props:
            made = self._op(n, function)
            if made is not None:
                return made
        if self.totals.ours and function.metadata_props.get(INPUTS_KEY, "").isdigit():
            called = self._block_call(n, function)
            if called is not None:
                return called
        return self._expand(n, function)

    def _op(self, n: NodeReader, function: "onnx_ir.Function") -> tuple[Ref, ...] | None:
        """The op that a function says it is, if its body proves it."""
        try:
            record = json.loads(function.metadata_props[OP_KEY])
            opdef, given = OPSET[record["op"]], iter(n.inputs)
            attrs = opdef.complete({k: _attr_value(v) for k, v in record["attrs"].items()})
            operands = [next(given) if text is not None else None for text in record["types"]]
            types = tuple(None if ref is None else ref.type for ref in operands)
            slots = [p.slot for p in opdef.params(types, attrs)]
            key = (function.identifier(), types)
            if key not in self._proven:
                self._proven[key] = matches(function, opdef, types, attrs, len(slots))
        except (ValueError, KeyError, TypeError, AttributeError, StopIteration, ShapeError):
            return None
        if not self._proven[key]:
            return None
        params = {slot: ref for slot, ref in zip(slots, given, strict=False) if ref is not None}
        return n.emit_all(opdef.name, *operands, params=params, **attrs)

    def _block_call(self, n: NodeReader, function: "onnx_ir.Function") -> "Sequence[Ref | None] | None":
        """The call of a block, or None when its parameters have no common scope and it must be expanded."""
        count = int(function.metadata_props[INPUTS_KEY])
        own, rest = n.inputs[:count], list(zip(function.inputs[count:], n.inputs[count:], strict=True))
        params = {str(v.name): ref for v, ref in rest if ref is not None and ref.is_param}
        scope = _common_scope(params, n.scope)
        if scope is None or any(ref is None for ref in n.inputs):
            return None
        values = [n.block.value(ref) for ref in own if ref is not None]
        types = tuple(n.block.builder.types[v] for v in values)
        sizes = {str(v.name): dims_of(ref) for v, ref in rest if ref is not None and not ref.is_param}
        names = tuple((name, ref.type) for name, ref in params.items())
        key = (function.identifier(), types, names, tuple(sizes.items()))
        if key not in self._blocks:
            self._blocks[key] = self._block(function, types, dict(names), sizes)
        target = self._blocks[key]
        if target is None:
            return ()
        for ref in params.values():
            n.block.parameter(ref)
        node = n.block.builder.add_node(f"@{target}", values, {}, name=clean(n.name), scope=scope)
        return [Ref(t, v) for t, v in zip(node.types, node.outputs, strict=True)]

    def _block(
        self,
        function: "onnx_ir.Function",
        types: tuple[TensorType, ...],
        params: Mapping[str, TensorType],
        sizes: Mapping[str, tuple[Dim, ...]],
    ) -> str | None:
        """Builds the block and gives its name; None when something in it was refused."""
        values = [Value(clean(str(v.name)), t) for v, t in zip(function.inputs, types, strict=False)]
        problems = len(self.totals.problems)
        name, count = clean(function.name), 0
        while name in self._open:
            count += 1
            name = f"{clean(function.name)}_{count}"
        self._open.add(name)
        reader = BlockReader(self.builder.block(name, values), self.totals, is_main=False)
        reader.env.update((v, Ref(x.type, x.name)) for v, x in zip(function.inputs, values, strict=False))
        for value in function.inputs[len(types) :]:
            label = str(value.name)
            dims = sizes.get(label)
            reader.env[value] = (
                Ref(params[label], param=label)
                if dims is None
                else Ref(TensorType(DType.INT64, (len(dims),)), dims=dims)
            )
        self._nodes(reader, function, {})
        outputs = [self._output(reader, v) for v in function.outputs]
        if len(self.totals.problems) > problems:
            return None
        reader.builder.finish(outputs)
        return name

    def _expand(self, n: NodeReader, function: "onnx_ir.Function") -> "list[Ref | None]":
        """The nodes of the function in place of the call."""
        reader = n.block
        outer = reader.env, reader.prefix, reader.scope
        reader.env, reader.prefix = {}, f"{n.name}."
        inputs = n.inputs
        if not self.totals.ours and reader.is_main:
            reader.scope = self._scope(reader.scope, clean(function.name))
            inputs = tuple(
                _owned(ref, v, x, reader.scope)
                for ref, v, x in zip(inputs, n.node.inputs, function.inputs, strict=False)
            )
        reader.env.update(zip(function.inputs, (*inputs, *(None,) * len(function.inputs)), strict=False))
        bindings = {**function.attributes, **{name: _bound(a, n.bindings) for name, a in n.node.attributes.items()}}
        try:
            self._nodes(reader, function, bindings)
            return [reader.env.get(v) for v in function.outputs]
        finally:
            reader.env, reader.prefix, reader.scope = outer

    def _scope(self, outer: str, name: str) -> str:
        """A path for one call of a function, as if functions were modules in a list: `Layer.0`, `Layer.1`."""
        stem = f"{outer}.{name}" if outer else name
        self._scopes[stem] += 1
        path = f"{stem}.{self._scopes[stem] - 1}"
        self.totals.classes[path] = name
        return path


def _owned(ref: Ref | None, value: "onnx_ir.Value | None", formal: "onnx_ir.Value", scope: str) -> Ref | None:
    """A weight that only this call of a function reads takes the function's name for it."""
    if ref is None or value is None or not ref.is_param or not ref.type.rank or len(list(value.uses())) != 1:
        return ref
    return replace(ref, param=f"{scope}.{clean(str(formal.name))}")


def _imports(model: "onnx_ir.Model") -> dict[str, int]:
    """Version of each domain, as the main graph and the functions state it."""
    made: dict[str, int] = {}
    holders: tuple[Any, ...] = (*model.functions.values(), model.graph)
    for holder in holders:
        made.update({"" if d == "ai.onnx" else d: v for d, v in holder.opset_imports.items()})
    return made


def _only(refs: "Sequence[Ref | None]") -> Ref:
    if len(refs) != 1 or refs[0] is None:
        raise Refused("a size that is only known at run time, used as a number")
    return refs[0]


def _agree(node: "onnx_ir.Node", made: "Ref | Sequence[Ref | None]") -> bool:
    """Whether results have the dtypes that the file states, where it states them."""
    refs = (made,) if isinstance(made, Ref) else made
    for ref, value in zip(refs, node.outputs, strict=False):
        if ref is None or value.dtype is None or not value.name or ref.deferred:
            continue
        try:
            if dtype_of(value.dtype) != ref.type.dtype:
                return False
        except ValueError:
            return False
    return True


def _bound(attr: "onnx_ir.Attr", bindings: Mapping[str, Any]) -> Any:
    return bindings.get(attr.ref_attr_name or "", attr) if attr.is_ref() else attr


def _attr_value(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_attr_value(v) for v in value)
    return parse_dim(value["dim"]) if isinstance(value, dict) else value


def _common_scope(params: Mapping[str, Ref], noted: str) -> str | None:
    """What stands before each parameter's relative name; None when that differs."""
    scopes = set()
    for name, ref in params.items():
        if ref.param != name and not ref.param.endswith(f".{name}"):
            return None
        scopes.add(ref.param[: -len(name)].rstrip("."))
    return noted if not scopes else scopes.pop() if len(scopes) == 1 else None
