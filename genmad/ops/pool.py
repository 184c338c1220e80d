"""Pooling over the spatial axes of [B, C, *spatial]."""

from typing import TYPE_CHECKING

from genmad.ir.diagnostics import ShapeError
from genmad.ir.opdef import Attr, Attrs, OnnxContext, OpDef, Sample, TorchContext, Types
from genmad.ir.types import Dim, TensorType
from genmad.ops.shape_rules import known, literal, need_float, need_rank, operand
from genmad.ops.window import (
    DILATION,
    KERNEL_SIZE,
    PADDING,
    POOL_STRIDE,
    WindowOp,
    is_symmetric,
    keep_size,
    onnx_window,
    pad_pairs,
    torch_pad,
    window_out,
    window_spans,
    window_types,
)

if TYPE_CHECKING:
    import torch
    import torch.nn.functional as F

CEIL_MODE = Attr("ceil_mode", "bool", default=False, doc="Whether a last window that is not full counts.")


def _pool_result(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    x = need_float(window_types(types, attrs))
    for (begin, end), span in zip(pad_pairs(attrs), attrs["kernel_size"], strict=True):
        if max(begin, end) > span // 2:
            got = f"padding={attrs['padding']}, kernel_size={attrs['kernel_size']}"
            raise ShapeError(got, "padding up to half the kernel", f"use at most {span // 2}, or Pad before it")
    return (x.with_shape((*x.shape[:2], *window_out(x.shape[2:], attrs, attrs["ceil_mode"]))),)


def _torch_padding(attrs: Attrs) -> str:
    return literal(attrs["padding"] if is_symmetric(attrs) else (0,) * len(attrs["kernel_size"]))


def _max_torch(ctx: TorchContext) -> str:
    attrs = ctx.attrs
    x = torch_pad(str(ctx.inputs[0]), attrs, float("-inf"))
    parts = (literal(attrs["kernel_size"]), literal(attrs["stride"]), _torch_padding(attrs), literal(attrs["dilation"]))
    ceil = ", ceil_mode=True" if attrs["ceil_mode"] else ""
    return f"F.max_pool{len(attrs['kernel_size'])}d({x}, {', '.join(parts)}{ceil})"


def _missing_ends(ctx: OnnxContext) -> tuple[int, ...]:
    """Padding at the ends that gives, without ceil_mode, the output sizes of ceil_mode.

    ONNX runtimes disagree about the last window of ceil_mode, so it is never written.
    """
    attrs = ctx.attrs
    if not attrs["ceil_mode"]:
        return (0,) * len(attrs["kernel_size"])
    spatial = zip(operand(ctx.types).shape[2:], operand(ctx.results).shape[2:], strict=True)
    rows = zip(spatial, window_spans(attrs), attrs["stride"], pad_pairs(attrs), strict=True)
    return tuple(
        max(0, (known(out, "size") - 1) * stride + span - known(size, "size") - begin - end)
        for (size, out), span, stride, (begin, end) in rows
    )


def _max_onnx(ctx: OnnxContext) -> tuple[str, ...]:
    window, n = onnx_window(ctx.attrs), len(ctx.attrs["kernel_size"])
    ends = tuple(end + more for end, more in zip(window["pads"][n:], _missing_ends(ctx), strict=True))
    return (ctx.op("MaxPool", ctx.inputs[0], **{**window, "pads": window["pads"][:n] + ends}),)


MAX_POOL = WindowOp(
    name="MaxPool",
    family="pool",
    inputs=("x",),
    attrs=(KERNEL_SIZE, POOL_STRIDE, PADDING, DILATION, CEIL_MODE),
    result=_pool_result,
    to_torch=_max_torch,
    to_onnx=_max_onnx,
    follow=keep_size,
    samples=(
        Sample(inputs=("float32[batch,4,9,9]",), attrs={"kernel_size": (3, 3), "stride": (2, 2), "padding": (1, 1)}),
        Sample(inputs=("float32[batch,4,8,9]",), attrs={"kernel_size": (2, 2), "ceil_mode": True}),
        Sample(inputs=("float32[batch,4,9]",), attrs={"kernel_size": (3,), "dilation": (2,), "stride": (1,)}),
        Sample(inputs=("float32[batch,4,8,8]",), attrs={"kernel_size": (3, 3), "padding": (0, 1, 1, 0)}),
    ),
    refused=(
        Sample(inputs=("float32[batch,4,1,1]",), attrs={"kernel_size": (3, 3)}, message="kernel_size up to 1"),
        Sample(inputs=("float32[batch,4,9,9]",), attrs={"kernel_size": (3, 3), "padding": (2, 2)}, message="at most 1"),
        Sample(
            inputs=("float32[batch,4,seq]",), attrs={"kernel_size": (2,), "ceil_mode": True}, message="ceil_mode=False"
        ),
        Sample(inputs=("float32[batch,4,9,9]",), attrs={"kernel_size": ()}, message="one to three numbers"),
    ),
    doc="The maximum of each window; padding never wins.",
)


def average_pool(x: "torch.Tensor", kernel_size: list[int], stride: list[int], pad: list[int]) -> "torch.Tensor":
    """Mean of each window without its padding, which may differ by side; `pad` as in F.pad."""
    pool = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[len(kernel_size) - 1]
    share = pool(F.pad(torch.ones_like(x), pad), kernel_size, stride)
    return pool(F.pad(x, pad), kernel_size, stride) / share


def _average_torch(ctx: TorchContext) -> str:
    attrs, n = ctx.attrs, len(ctx.attrs["kernel_size"])
    kernel, stride = literal(attrs["kernel_size"]), literal(attrs["stride"])
    if not is_symmetric(attrs) and not attrs["count_include_pad"]:
        flat = literal(tuple(side for pair in reversed(pad_pairs(attrs)) for side in pair))
        return f"{ctx.kernel(average_pool)}({ctx.inputs[0]}, {kernel}, {stride}, {flat})"
    more = ", ceil_mode=True" if attrs["ceil_mode"] else ""
    more += "" if attrs["count_include_pad"] else ", count_include_pad=False"
    return f"F.avg_pool{n}d({torch_pad(str(ctx.inputs[0]), attrs)}, {kernel}, {stride}, {_torch_padding(attrs)}{more})"


def _average_result(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    if attrs["ceil_mode"] and not is_symmetric(attrs) and not attrs["count_include_pad"]:
        got = "ceil_mode=True, count_include_pad=False and uneven padding"
        raise ShapeError(got, "at most two of these", "use ceil_mode=False")
    return _pool_result(types, attrs)


def _average_onnx(ctx: OnnxContext) -> tuple[str, ...]:
    attrs, n = ctx.attrs, len(ctx.attrs["kernel_size"])
    x, window, missing = ctx.inputs[0], onnx_window(attrs), _missing_ends(ctx)
    pads, include = window["pads"], int(attrs["count_include_pad"])
    if include and any(missing) and any(pads):
        # The declared padding counts, what ceil_mode adds does not: make the first part of the input.
        x = ctx.op("Pad", x, ctx.const([0, 0, *pads[:n], 0, 0, *pads[n:]]))
        pads = (0,) * (2 * n)
    ends = tuple(end + more for end, more in zip(pads[n:], missing, strict=True))
    include = 0 if any(missing) else include
    return (ctx.op("AveragePool", x, **{**window, "pads": pads[:n] + ends}, count_include_pad=include),)


AVERAGE_POOL = WindowOp(
    name="AveragePool",
    family="pool",
    inputs=("x",),
    attrs=(
        KERNEL_SIZE,
        POOL_STRIDE,
        PADDING,
        CEIL_MODE,
        Attr("count_include_pad", "bool", default=True, doc="Whether padding counts as zeros in the mean."),
    ),
    result=_average_result,
    to_torch=_average_torch,
    to_onnx=_average_onnx,
    follow=keep_size,
    samples=(
        Sample(inputs=("float32[batch,4,9,9]",), attrs={"kernel_size": (2, 2)}),
        Sample(
            inputs=("float32[batch,4,8,8]",),
            attrs={"kernel_size": (3, 3), "stride": (2, 2), "padding": (1, 1), "ceil_mode": True},
        ),
        Sample(
            inputs=("float32[batch,4,seq]",),
            attrs={"kernel_size": (3,), "stride": (1,), "padding": (1,), "count_include_pad": False},
        ),
        Sample(
            inputs=("float32[batch,4,8,8]",),
            attrs={"kernel_size": (3, 3), "padding": (0, 1, 1, 0), "count_include_pad": False},
        ),
    ),
    refused=(
        Sample(inputs=("float32[batch,4,9]",), attrs={"kernel_size": (3, 3)}, message="4 axes"),
        Sample(inputs=("float32[batch,4,9,9]",), attrs={"kernel_size": (2, 2), "padding": (2, 0)}, message="at most 1"),
    ),
    doc="The mean of each window.",
)


def _spatial(types: Types) -> TensorType:
    return need_rank(need_float(operand(types)), 3, 5)


def _global_result(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    x = _spatial(types)
    return (x.with_shape((*x.shape[:2], *([1] * (x.rank - 2) if attrs["keepdims"] else []))),)


def _global_torch(ctx: TorchContext) -> str:
    axes = literal(tuple(range(2, operand(ctx.types).rank)))
    return f"{ctx.inputs[0]}.mean({axes}{', keepdim=True' if ctx.attrs['keepdims'] else ''})"


def _global_onnx(ctx: OnnxContext) -> tuple[str, ...]:
    if ctx.attrs["keepdims"]:
        return (ctx.op("GlobalAveragePool", ctx.inputs[0]),)
    axes = ctx.const(list(range(2, operand(ctx.types).rank)))
    return (ctx.op("ReduceMean", ctx.inputs[0], axes, keepdims=0),)


GLOBAL_AVERAGE_POOL = OpDef(
    name="GlobalAveragePool",
    family="pool",
    inputs=("x",),
    attrs=(Attr("keepdims", "bool", default=True, doc="Whether the spatial axes stay, with size 1."),),
    result=_global_result,
    to_torch=_global_torch,
    to_onnx=_global_onnx,
    samples=(
        Sample(inputs=("float32[batch,4,7,7]",)),
        Sample(inputs=("float32[batch,4,seq]",), attrs={"keepdims": False}),
    ),
    refused=(Sample(inputs=("float32[batch,4]",), message="3 to 5 axes"),),
    doc="The mean over all spatial axes.",
)


def _adaptive_result(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    x, sizes = _spatial(types), attrs["output_size"]
    if len(sizes) != x.rank - 2:
        raise ShapeError(f"output_size={sizes} for {x}", f"{x.rank - 2} numbers, one per spatial axis")
    for size, out in zip(x.shape[2:], sizes, strict=True):
        if out != 1:
            known(size, "the size of a pooled axis")
    return (x.with_shape((*x.shape[:2], *sizes)),)


def _mean_matrix(size: int, out: int) -> list[list[float]]:
    """[size, out]: column i averages the positions from floor(i size / out) to ceil((i + 1) size / out)."""
    spans = [range(i * size // out, -(-(i + 1) * size // out)) for i in range(out)]
    return [[1 / len(span) if row in span else 0.0 for span in spans] for row in range(size)]


def _adaptive_axis(ctx: OnnxContext, x: str, axis: int, size: Dim, out: int) -> str:
    if size == out:
        return x
    if out == 1:
        return str(ctx.op("ReduceMean", x, ctx.const([axis]), keepdims=1))
    rank = operand(ctx.types).rank
    perm = list(range(rank))
    perm[axis], perm[-1] = perm[-1], perm[axis]
    matrix = ctx.const(_mean_matrix(known(size, "size"), out), str(operand(ctx.types).dtype))
    if axis == rank - 1:
        return str(ctx.op("MatMul", x, matrix))
    return str(ctx.op("Transpose", ctx.op("MatMul", ctx.op("Transpose", x, perm=perm), matrix), perm=perm))


def _adaptive_onnx(ctx: OnnxContext) -> tuple[str, ...]:
    y = ctx.inputs[0]
    for axis, out in enumerate(ctx.attrs["output_size"], start=2):
        y = _adaptive_axis(ctx, y, axis, operand(ctx.types).shape[axis], out)
    return (y if y != ctx.inputs[0] else ctx.op("Identity", y),)


def _adaptive_torch(ctx: TorchContext) -> str:
    sizes = ctx.attrs["output_size"]
    return f"F.adaptive_avg_pool{len(sizes)}d({ctx.inputs[0]}, {literal(sizes)})"


ADAPTIVE_AVERAGE_POOL = OpDef(
    name="AdaptiveAveragePool",
    family="pool",
    inputs=("x",),
    attrs=(Attr("output_size", "ints", at_least=1, doc="Size of each spatial axis of the output."),),
    result=_adaptive_result,
    to_torch=_adaptive_torch,
    to_onnx=_adaptive_onnx,
    is_function=True,
    samples=(
        Sample(inputs=("float32[batch,4,7,7]",), attrs={"output_size": (1, 1)}),
        Sample(inputs=("float32[batch,4,7,6]",), attrs={"output_size": (3, 2)}),
        Sample(inputs=("float32[batch,4,seq]",), attrs={"output_size": (1,)}),
    ),
    refused=(
        Sample(inputs=("float32[batch,4,7,7]",), attrs={"output_size": (2,)}, message="2 numbers"),
        Sample(inputs=("float32[batch,4,seq]",), attrs={"output_size": (2,)}, message="the size of a pooled axis=seq"),
    ),
    doc="The mean of as many nearly equal windows as the output has positions.",
)

POOL = (MAX_POOL, AVERAGE_POOL, GLOBAL_AVERAGE_POOL, ADAPTIVE_AVERAGE_POOL)
