"""The op of last resort: one functional torch call that no layer-level op stands for."""

import json
import re
from typing import Any

from genmad.ir.diagnostics import ShapeError
from genmad.ir.opdef import Attr, Attrs, OnnxContext, OpDef, Sample, TorchContext, Types
from genmad.ir.types import DType, TensorType, parse_dim
from genmad.ops.shape_rules import LoweringError, literal

_TARGET = re.compile(r"(torch|torch\.nn\.functional|torch\.fft|torch\.linalg|torch\.special|Tensor)\.([A-Za-z_]\w*)")
# Generated code runs with the user's rights: nothing that reads files, compiles, or changes global state.
_DENIED = re.compile(
    r"(load|save|compile|from_file|hub|jit|seed|manual_seed|apply_|map_|map2_|register_hook|backward|share_memory_"
    r"|storage|untyped_storage|numpy|tolist|data_ptr|set_.*|use_.*|.*_dlpack|import_ir_module.*|parse_.*|_.*)"
)
_DUNDERS = frozenset({"__getitem__", "__invert__", "__xor__", "__and__", "__or__", "__floordiv__", "__mod__"})
_MAX_TEXT = 20_000


def check_target(target: str) -> None:
    """Raises `ShapeError` unless `target` names a function that generated code may call."""
    match = _TARGET.fullmatch(target)
    name = match[2] if match else ""
    if not match or (_DENIED.fullmatch(name) and not (match[1] == "Tensor" and name in _DUNDERS)):
        raise ShapeError(
            f"target={target!r}", "torch.NAME, torch.nn.functional.NAME or Tensor.NAME without side effects"
        )


def _template(attrs: Attrs, num_inputs: int) -> tuple[list[Any], dict[str, Any]]:
    text = attrs["arguments"]
    try:
        parsed = json.loads(text) if len(text) <= _MAX_TEXT else None
    except ValueError:
        parsed = None
    if not isinstance(parsed, dict) or set(parsed) - {"args", "kwargs"}:
        raise ShapeError(
            f"arguments={text[:80]!r}", 'a JSON object such as {"args": [{"$": 0}, 1], "kwargs": {"dim": 1}}'
        )
    args, kwargs = parsed.get("args", []), parsed.get("kwargs", {})
    if not isinstance(args, list) or not isinstance(kwargs, dict) or not all(k.isidentifier() for k in kwargs):
        raise ShapeError(f"arguments={text[:80]!r}", "a list under args and an object of names under kwargs")
    used: set[int] = set()
    for item in (*args, *kwargs.values()):
        argument_source(item, [""] * num_inputs, str, used)
    if used != set(range(num_inputs)):
        raise ShapeError(f"arguments that use inputs {sorted(used)}", f"each of inputs 0 to {num_inputs - 1}")
    return args, kwargs


def argument_source(item: Any, inputs: list[str], dim: Any, used: set[int] | None = None) -> str:
    """Python source of one template item.

    Plain JSON stands for itself; `{"$": i}` is input i, `{"dim": "2*seq"}` a size, `{"dtype": "float32"}` a dtype,
    `{"slice": [a, b, c]}`, `{"tuple": [...]}`, `{"ellipsis": true}` and `{"float": "-inf"}` what they say.
    """

    def inner(value: Any) -> str:
        return argument_source(value, inputs, dim, used)

    if isinstance(item, list):
        return f"[{', '.join(map(inner, item))}]"
    if not isinstance(item, dict):
        return literal(item)
    if len(item) == 1:
        ((key, value),) = item.items()
        if key == "$" and isinstance(value, int) and 0 <= value < len(inputs):
            if used is not None:
                used.add(value)
            return inputs[value]
        if key == "dim" and isinstance(value, str):
            return f"({dim(parse_dim(value))})"
        if key == "dtype" and value in set(DType):
            return f"torch.{value}"
        if key == "slice" and isinstance(value, list) and len(value) == 3:
            return f"slice({', '.join(map(inner, value))})"
        if key == "tuple" and isinstance(value, list):
            return f"({', '.join(map(inner, value))}{',' if len(value) == 1 else ''})"
        if key == "ellipsis":
            return "..."
        if key == "float" and value in ("inf", "-inf", "nan"):
            return literal(float(value))
    raise ShapeError(
        f"argument {str(item)[:80]}", 'a JSON value, {"$": i}, or a dim, dtype, slice, tuple, ellipsis, float'
    )


def _call_result(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    check_target(attrs["target"])
    _template(attrs, len(types))
    return tuple(TensorType.parse(text) for text in attrs["types"].split(";"))


def _call_torch(ctx: TorchContext) -> str:
    args, kwargs = _template(ctx.attrs, len(ctx.inputs))
    inputs = [str(x) for x in ctx.inputs]
    words = [argument_source(item, inputs, ctx.dim) for item in args]
    module, name = ctx.attrs["target"].rsplit(".", 1)
    named = [f"{key}={argument_source(item, inputs, ctx.dim)}" for key, item in kwargs.items()]
    if module == "Tensor":
        if name == "__getitem__":
            return f"{words[0]}[{words[1]}]"
        return f"{words[0]}.{name}({', '.join(words[1:] + named)})"
    prefix = "F" if module == "torch.nn.functional" else module
    return f"{prefix}.{name}({', '.join(words + named)})"


def _call_onnx(ctx: OnnxContext) -> tuple[str, ...]:
    raise LoweringError(
        f"TorchCall of {ctx.attrs['target']}: ONNX has no lowering for it; hand over PyTorch code instead"
    )


TORCH_CALL_OP = OpDef(
    name="TorchCall",
    family="torch_call",
    inputs=("xs*",),
    attrs=(
        Attr("target", "str", doc="torch.NAME, torch.nn.functional.NAME, torch.fft.NAME ... or Tensor.NAME."),
        Attr("arguments", "str", doc='JSON with args and kwargs; {"$": i} stands for input i (see argument_source).'),
        Attr("types", "str", doc="Types of the outputs, joined by ;."),
    ),
    result=_call_result,
    to_torch=_call_torch,
    to_onnx=_call_onnx,
    samples=(
        Sample(
            inputs=("float32[batch,8]",),
            attrs={
                "target": "torch.nn.functional.normalize",
                "arguments": '{"args": [{"$": 0}], "kwargs": {"dim": -1}}',
                "types": "float32[batch,8]",
            },
        ),
        Sample(
            inputs=("float32[batch,6]",),
            attrs={
                "target": "Tensor.__getitem__",
                "arguments": '{"args": [{"$": 0}, {"tuple": [{"ellipsis": true}, {"slice": [null, 3, null]}]}]}',
                "types": "float32[batch,3]",
            },
        ),
    ),
    refused=(
        Sample(
            inputs=("float32[2]",),
            attrs={"target": "torch.load", "arguments": '{"args": [{"$": 0}]}', "types": "float32[2]"},
            message="without side effects",
        ),
        Sample(
            inputs=("float32[2]",),
            attrs={"target": "os.system", "arguments": '{"args": [{"$": 0}]}', "types": "float32[2]"},
            message="without side effects",
        ),
        Sample(
            inputs=("float32[2]",),
            attrs={"target": "torch.abs", "arguments": '{"args": []}', "types": "float32[2]"},
            message="each of inputs 0 to 0",
        ),
    ),
    doc="One call of a torch function or tensor method, kept as it is; output types are fixed at import.",
    opaque=True,
)

TORCH_CALL = (TORCH_CALL_OP,)
