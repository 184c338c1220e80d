"""Reads an ONNX file that nobody vouches for: sizes, external data and nested functions are checked before use."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from genmad.importers.report import SourceError
from genmad.ir.diagnostics import Diagnostic

if TYPE_CHECKING:
    import onnx_ir
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto

MAX_FILE_BYTES = 2**31 - 1  # what a protobuf can hold
MAX_EXPANDED_NODES = 2_000_000
MAX_FUNCTION_DEPTH = 64
OPSETS = range(6, 29)
DEFAULT_OPSET = 18  # of files with operators of other domains only

FunctionKey = tuple[str, str]


def read_model(source: "str | os.PathLike[str] | bytes") -> "tuple[onnx_ir.Model, str]":
    """The model and the name to call it by. Raises `SourceError` with what is wrong with the file."""
    import onnx
    import onnx_ir
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # protobuf ships no types

    data, where, folder = _read(source)
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except DecodeError:
        raise _refused(where, f"{len(data)} bytes that are not a whole ONNX model", "a complete .onnx file",
                       "export or download it again") from None  # fmt: skip
    if not model.graph.node and not model.graph.output:
        raise _refused(where, "no graph", "an ONNX model with nodes", "export or download it again")
    _check_opset(model, where)
    _check_functions(model, where)
    for tensor in _tensors(model):
        _check_tensor(tensor, where, folder)
    try:
        read = onnx_ir.from_proto(model)
    except Exception as error:
        text = " ".join(str(error).split())[:200]
        raise _refused(where, text, "a well-formed ONNX model", "run onnx.checker on it") from error
    if folder is not None:
        onnx_ir.external_data.set_base_dir(read.graph, folder)
    return read, where


def _refused(where: str, got: str, expected: str, fix: str) -> SourceError:
    return SourceError(Diagnostic(where=where, got=got, expected=expected, fix=fix))


def _read(source: "str | os.PathLike[str] | bytes") -> tuple[bytes, str, Path | None]:
    if isinstance(source, bytes):
        return source, "ONNX bytes", None
    path = Path(source)
    if not path.is_file():
        nearby = sorted(p.name for p in path.parent.glob("*.onnx"))[:5] if path.parent.is_dir() else []
        fix = f"there is {', '.join(nearby)}" if nearby else "check the path"
        raise _refused(str(source), "no such file", "an .onnx file", fix)
    size = path.stat().st_size
    if size > MAX_FILE_BYTES:
        raise _refused(str(source), f"{size} bytes", f"at most {MAX_FILE_BYTES} bytes", "keep weights as external data")
    return path.read_bytes(), str(source), path.parent


def _check_opset(model: "ModelProto", where: str) -> None:
    versions = {item.domain: item.version for item in model.opset_import}
    version = versions.get("", versions.get("ai.onnx", DEFAULT_OPSET if versions else 0))
    if version not in OPSETS:
        wanted = f"opset {OPSETS.start} to {OPSETS.stop - 1}"
        raise _refused(where, f"opset {version}", wanted, "convert it with onnx.version_converter")


def _check_functions(model: "ModelProto", where: str) -> None:
    """Bounds what expanding every call would give, before anything is expanded."""
    functions = {(f.domain, f.name): f.node for f in model.functions}
    known: dict[FunctionKey, tuple[int, int]] = {}

    def measure(key: FunctionKey, path: tuple[FunctionKey, ...]) -> tuple[int, int]:
        if key in path:
            raise _refused(where, f"function {key[1]!r} that calls itself", "functions that end", "export it again")
        if len(path) >= MAX_FUNCTION_DEPTH:
            got = f"functions nested more than {MAX_FUNCTION_DEPTH} deep"
            raise _refused(where, got, f"at most {MAX_FUNCTION_DEPTH}", "export it with fewer nested modules")
        if key not in known:
            known[key] = total(functions[key], (*path, key))
        return known[key]

    def total(nodes: "list[NodeProto]", path: tuple[FunctionKey, ...]) -> tuple[int, int]:
        count, depth = 0, 0
        for node in _all_nodes(nodes):
            count += 1
            if (node.domain, node.op_type) in functions:
                inner, below = measure((node.domain, node.op_type), path)
                count, depth = count + inner, max(depth, below + 1)
            if count > MAX_EXPANDED_NODES or depth > MAX_FUNCTION_DEPTH:
                limit = f"{MAX_EXPANDED_NODES} nodes or {MAX_FUNCTION_DEPTH} levels"
                got = f"nested functions that expand to more than {limit}"
                raise _refused(where, got, "a model that fits", "this is no model that anybody trained")
        return count, depth

    total(list(model.graph.node), ())


def _all_nodes(nodes: "list[NodeProto]") -> "Iterator[NodeProto]":
    """The nodes and those of their subgraphs, without recursion."""
    stack = list(nodes)
    while stack:
        node = stack.pop()
        yield node
        for attr in node.attribute:
            for graph in (attr.g, *attr.graphs):
                stack.extend(graph.node)


def _tensors(model: "ModelProto") -> "Iterator[TensorProto]":
    graphs: list[GraphProto] = [model.graph]
    nodes = list(_all_nodes(list(model.graph.node)))
    for function in model.functions:
        nodes += _all_nodes(list(function.node))
    for node in nodes:
        for attr in node.attribute:
            graphs += [attr.g, *attr.graphs]
            if attr.HasField("t"):
                yield attr.t
            yield from attr.tensors
    for graph in graphs:
        yield from graph.initializer


def _check_tensor(tensor: "TensorProto", where: str, folder: Path | None) -> None:
    from math import prod

    from onnx import TensorProto, helper

    if tensor.data_type in (TensorProto.STRING, TensorProto.UNDEFINED):
        raise _refused(where, f"tensor {tensor.name!r} of strings or no type", "tensors of numbers", "remove it")
    count = prod(tensor.dims)
    size = count * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    if tensor.data_location == TensorProto.EXTERNAL:
        _check_external(tensor, size, where, folder)
    elif tensor.HasField("raw_data") and len(tensor.raw_data) != size and tensor.data_type < TensorProto.UINT4:
        got = f"tensor {tensor.name!r} with {len(tensor.raw_data)} bytes"
        raise _refused(where, got, f"{size} bytes for shape {list(tensor.dims)}", "export or download it again")
    elif min(tensor.dims, default=0) < 0:
        raise _refused(where, f"tensor {tensor.name!r} of shape {list(tensor.dims)}", "sizes of at least 0", "")


def _check_external(tensor: "TensorProto", size: int, where: str, folder: Path | None) -> None:
    fields = {entry.key: entry.value for entry in tensor.external_data}
    location, name = fields.get("location", ""), tensor.name
    if folder is None:
        raise _refused(
            where, f"external data for {name!r}", "a model that holds its weights", "give the path of the file"
        )
    root, path = folder.resolve(), (folder / location).resolve()
    if not location or not path.is_relative_to(root):
        got = f"external data of {name!r} at {location!r}"
        raise _refused(where, got, "a file inside the model's folder", "do not trust this file")
    if not path.is_file():
        raise _refused(
            where, f"no file {location!r} (weights of {name!r})", "the data file beside the model", "copy it there"
        )
    offset, length = (fields.get(key, "0") for key in ("offset", "length"))
    if not (offset.isdigit() and length.isdigit()):
        raise _refused(where, f"offset {offset!r}, length {length!r} for {name!r}", "numbers", "export it again")
    if int(length) not in (0, size) or int(offset) + size > path.stat().st_size:
        got = f"{path.stat().st_size} bytes in {location!r}, {length} at {offset} for {name!r}"
        raise _refused(where, got, f"{size} bytes there", "export or download it again")
