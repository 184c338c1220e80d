"""Sliding windows: attributes, output sizes and padding that convolutions and pools share.

`padding` holds one number per spatial axis (both sides) or, where the sides differ, all begins and then all ends, as
ONNX orders them.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from genmad.ir.diagnostics import ShapeError
from genmad.ir.opdef import Attr, Attrs, OpDef, Types
from genmad.ir.types import Dim, TensorType
from genmad.ops.shape_rules import literal, need_rank, operand

KERNEL_SIZE = Attr("kernel_size", "ints", at_least=1, doc="Window size, one number per spatial axis.")
STRIDE = Attr("stride", "ints", default=(), at_least=1, doc="Step of the window; () is 1s.")
POOL_STRIDE = Attr("stride", "ints", default=(), at_least=1, doc="Step of the window; () is kernel_size.")
PADDING = Attr(
    "padding", "ints", default=(), at_least=0, doc="Zeros around: one number per axis, or begins and ends; () is 0s."
)
DILATION = Attr("dilation", "ints", default=(), at_least=1, doc="Distance between window elements; () is 1s.")


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowOp(OpDef):
    """An op with a window: what is left out is written out, so that one window has one set of attributes."""

    def complete(self, attrs: Attrs) -> dict[str, Any]:
        """All attributes; `()` becomes 1s, 0s or kernel_size, and equal begins and ends become one number."""
        full = OpDef.complete(self, attrs)  # super() does not work in a dataclass with slots
        n = len(full["kernel_size"])
        if not 1 <= n <= 3:
            raise ShapeError(f"kernel_size={full['kernel_size']}", "one to three numbers, one per spatial axis")
        pool = any(attr is POOL_STRIDE for attr in self.attrs)
        plain = {"stride": full["kernel_size"] if pool else (1,) * n, "dilation": (1,) * n}
        plain |= {"padding": (0,) * n, "output_padding": (0,) * n}
        for name in full.keys() & plain.keys():
            full[name] = full[name] or plain[name]
            if len(full[name]) != n and not (name == "padding" and len(full[name]) == 2 * n):
                also = f", or {2 * n} (begins, then ends)" if name == "padding" else ""
                raise ShapeError(f"{name}={full[name]}", f"{n} numbers, as many as kernel_size has{also}")
        if full["padding"][:n] == full["padding"][n:]:
            full["padding"] = full["padding"][:n]
        return full


def is_symmetric(attrs: Attrs) -> bool:
    """Whether both sides of each axis are padded alike."""
    return len(attrs["padding"]) == len(attrs["kernel_size"])


def pad_pairs(attrs: Attrs) -> list[tuple[int, int]]:
    """(begin, end) for each spatial axis."""
    padding, n = attrs["padding"], len(attrs["kernel_size"])
    return list(zip(padding[:n], padding[-n:], strict=True))


def window_types(types: Types, attrs: Attrs) -> TensorType:
    """x, after checking that it is [B, C, *spatial] with as many spatial axes as the kernel."""
    rank = len(attrs["kernel_size"]) + 2
    return need_rank(operand(types), rank, rank)


def window_spans(attrs: Attrs) -> list[int]:
    """How many positions each window covers, dilation included."""
    dilation = attrs.get("dilation", (1,) * len(attrs["kernel_size"]))
    return [d * (k - 1) + 1 for k, d in zip(attrs["kernel_size"], dilation, strict=True)]


def window_out(spatial: Iterable[Dim], attrs: Attrs, ceil_mode: bool = False) -> tuple[Dim, ...]:
    """Output sizes, floor((size + padding - span) / stride) + 1; torch.nn.Conv2d and MaxPool2d.

    With `ceil_mode` the division rounds up, but no window may start in the padding at the end.
    """
    out: list[Dim] = []
    rows = zip(spatial, window_spans(attrs), attrs["stride"], pad_pairs(attrs), strict=True)
    for axis, (size, span, stride, (begin, end)) in enumerate(rows):
        room = size + begin + end - span
        if isinstance(room, int) and room < 0:
            got = f"a window of {span} over {size} + {begin + end} of padding on spatial axis {axis}"
            raise ShapeError(got, "a window that fits", f"use kernel_size up to {size + begin + end} or more padding")
        if not ceil_mode:
            out.append(room // stride + 1)
        elif isinstance(size, int) and isinstance(room, int):
            count = -(-room // stride) + 1
            out.append(count - 1 if (count - 1) * stride >= size + begin else count)
        else:
            raise ShapeError(
                f"ceil_mode=True over {size}", "a size known when the graph is built", "use ceil_mode=False"
            )
    return tuple(out)


def torch_pad(x: str, attrs: Attrs, value: float = 0.0, crop: bool = False) -> str:
    """`x` padded by F.pad where the sides differ (else as it is); `crop` takes away instead of adding."""
    if is_symmetric(attrs):
        return x
    sign = -1 if crop else 1
    flat = tuple(sign * side for pair in reversed(pad_pairs(attrs)) for side in pair)
    return f"F.pad({x}, {literal(flat)}" + (f", value={literal(value)})" if value else ")")


def onnx_window(attrs: Attrs) -> dict[str, Any]:
    """The attributes of an ONNX Conv, ConvTranspose or pool."""
    pairs = pad_pairs(attrs)
    made = {
        "kernel_shape": attrs["kernel_size"],
        "strides": attrs["stride"],
        "pads": tuple(begin for begin, _ in pairs) + tuple(end for _, end in pairs),
    }
    return made | ({"dilations": attrs["dilation"]} if "dilation" in attrs else {})


def keep_size(old: Attrs, changes: Attrs) -> Attrs:
    """`follow` rule: when kernel_size or dilation changes, padding changes so that output sizes stay."""
    if "padding" in changes or "kernel_size" not in old or not changes.keys() & {"kernel_size", "dilation"}:
        return {}
    new = {**old, **changes}
    if len(new["kernel_size"]) != len(old["kernel_size"]):
        return {}
    begins, ends = [], []
    for (begin, end), before, after in zip(pad_pairs(old), window_spans(old), window_spans(new), strict=True):
        total = max(0, begin + end + after - before)
        one_sided = (end == 0 and begin > 1) or (begin == 0 and end > 1)  # causal: all of it stays on that side
        begins.append((total if begin else 0) if one_sided else total // 2)
        ends.append(total - begins[-1])
    return {"padding": tuple(begins) if begins == ends else (*begins, *ends)}
