"""Change of the spatial size by interpolation."""

from typing import Any

from genmad.ir.diagnostics import ShapeError
from genmad.ir.opdef import Attr, Attrs, OnnxContext, OpDef, Sample, TorchContext, Types
from genmad.ir.types import TensorType
from genmad.ops.shape_rules import literal, need_float, need_rank, operand

_TORCH_LINEAR = {3: "linear", 4: "bilinear", 5: "trilinear"}


def _resize_result(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    x = need_rank(need_float(operand(types)), 3, 5)
    if len(attrs["size"]) != x.rank - 2:
        raise ShapeError(f"size={attrs['size']}", f"{x.rank - 2} numbers, one per spatial axis")
    if attrs["mode"] == "bicubic":
        need_rank(x, 4, 4)
    if attrs["mode"] == "nearest" and attrs["align_corners"]:
        raise ShapeError("align_corners=True with mode=nearest", "mode=bilinear or bicubic")
    return (x.with_shape((*x.shape[:2], *attrs["size"])),)


def _resize_torch(ctx: TorchContext) -> str:
    mode = ctx.attrs["mode"]
    torch_mode = _TORCH_LINEAR[operand(ctx.types).rank] if mode == "bilinear" else mode
    align = "" if mode == "nearest" else f", align_corners={ctx.attrs['align_corners']}"
    return f'F.interpolate({ctx.inputs[0]}, size={literal(ctx.attrs["size"])}, mode="{torch_mode}"{align})'


def _resize_onnx(ctx: OnnxContext) -> tuple[str, ...]:
    mode, size = ctx.attrs["mode"], ctx.attrs["size"]
    corners = "align_corners" if ctx.attrs["align_corners"] else "pytorch_half_pixel"
    by_mode: dict[str, dict[str, Any]] = {
        "nearest": {"mode": "nearest", "nearest_mode": "floor", "coordinate_transformation_mode": "asymmetric"},
        "bilinear": {"mode": "linear", "coordinate_transformation_mode": corners},
        "bicubic": {"mode": "cubic", "coordinate_transformation_mode": corners, "cubic_coeff_a": -0.75},
    }
    sizes = ctx.shape([*operand(ctx.types).shape[:2], *size])
    return (ctx.op("Resize", ctx.inputs[0], "", "", sizes, **by_mode[mode]),)


RESIZE_OP = OpDef(
    name="Resize",
    family="resize",
    inputs=("x",),
    attrs=(
        Attr("size", "ints", at_least=1, doc="Spatial size of the output."),
        Attr("mode", "str", "nearest", choices=("nearest", "bilinear", "bicubic"), doc="Interpolation."),
        Attr("align_corners", "bool", False, doc="Whether the corner elements of input and output coincide."),
    ),
    result=_resize_result,
    to_torch=_resize_torch,
    to_onnx=_resize_onnx,
    samples=(
        Sample(inputs=("float32[batch,3,4,5]",), attrs={"size": (8, 10)}),
        Sample(inputs=("float32[batch,3,4,5]",), attrs={"size": (7, 3), "mode": "bilinear"}),
        Sample(inputs=("float32[2,3,4,5]",), attrs={"size": (6, 9), "mode": "bilinear", "align_corners": True}),
        Sample(inputs=("float32[batch,3,6]",), attrs={"size": (9,), "mode": "bilinear"}),
        Sample(inputs=("float32[batch,3,4,5]",), attrs={"size": (8, 8), "mode": "bicubic"}),
    ),
    refused=(
        Sample(inputs=("float32[2,3,4,4]",), attrs={"size": (8,)}, message="2 numbers"),
        Sample(inputs=("float32[2,3,4,4]",), attrs={"size": (8, 8), "align_corners": True}, message="mode=bilinear"),
    ),
    doc="Interpolates [B,C,*spatial] to another spatial size, as torch.nn.functional.interpolate.",
)

RESIZE = (RESIZE_OP,)
