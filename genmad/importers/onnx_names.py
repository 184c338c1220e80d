"""Names in ONNX files: sizes of inputs, and the module paths that exporters note or put into node names."""

import ast
from typing import TYPE_CHECKING, Any

from genmad.importers.onnx_values import clean
from genmad.ir.diagnostics import ShapeError
from genmad.ir.types import Dim, SymDim, parse_dim

if TYPE_CHECKING:
    import onnx_ir

_SCOPES, _CLASSES = "pkg.torch.onnx.name_scopes", "pkg.torch.onnx.class_hierarchy"
_MAX_NOTE = 10_000


def input_dim(dim: Any, index: int, axis: int) -> Dim:
    """A size of an input; nameless ones become `batch` on the first axis and `seq` or `input0_2` on others."""
    if isinstance(dim, int):
        return dim
    text = str(dim.value or "")
    try:
        parsed = parse_dim(text)
        if isinstance(parsed, int) or len(parsed.symbols) == 1:
            return parsed
    except ShapeError:
        pass  # any text may stand there
    name = clean(text).replace(".", "_").replace("-", "_") if text else ""
    if not name:
        name = "batch" if axis == 0 else "seq" if axis == 1 and index == 0 else f"input{index}_{axis}"
    return SymDim.symbol(name)


def module_path(node: "onnx_ir.Node") -> tuple[str, dict[str, str]]:
    """The path of the module that a node came from, and the classes of the modules on the way; "" when unknown.

    torch's exporter notes both; its older one puts the path into the name (`/encoder/layer.0/MatMul`).
    """
    name = str(node.name or "")
    if name.startswith("/") and not node.metadata_props:
        parts = [part for part in name.split("/") if part]
        return ".".join(map(_word, parts[:-1])), {}
    scopes, classes = (_noted(node, key) for key in (_SCOPES, _CLASSES))
    if len(scopes) < 2 or not scopes[-2]:
        return "", {}
    paths = [".".join(map(_word, scope.split("."))) if scope else "" for scope in scopes[:-1]]
    named = {path: clean(c.rpartition(".")[2]) for path, c in zip(paths, classes, strict=False)}
    return paths[-1], named


def _word(part: str) -> str:
    return ".".join(piece if piece.isdigit() else clean(piece) for piece in part.split(".") if piece)


def _noted(node: "onnx_ir.Node", key: str) -> list[str]:
    text = node.metadata_props.get(key, "")
    try:
        found = ast.literal_eval(text) if 0 < len(text) < _MAX_NOTE else []
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return []
    return found if isinstance(found, list) and all(isinstance(item, str) for item in found) else []
