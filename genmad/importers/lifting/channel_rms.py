"""RMSNorm over the channels of an image, written out, to RMSNorm between two transposes that put the channels last.

MobileNetV5 (the vision part of Gemma 3n) norms its feature maps so; RMSNorm is arXiv 1910.07467, eq. 4.
"""

from collections.abc import Mapping

from genmad.importers.flat import Flat, FlatNode
from genmad.importers.lifting.match import parameter_of

_LAST, _FIRST = (0, 2, 3, 1), (0, 3, 1, 2)


def lift_channel_rms(flat: Flat) -> int:
    uses = flat.use_counts()
    return flat.rewrite("RMSNorm of channels", lambda flat, node: _channel_rms(flat, node, uses))


def _channel_rms(flat: Flat, node: FlatNode, uses: Mapping[str, int]) -> list[FlatNode] | None:
    """Mul(weight as [C, 1, 1], Mul(x, Rsqrt(mean of squares over axis 1 + eps))) of a feature map x [B, C, H, W]."""
    if node.op != "Mul" or node.types[0].rank != 4:
        return None
    for value, other in (node.inputs, node.inputs[::-1]):
        normed, weight = _normed(flat, value), _weight(flat, other)
        if normed is None or weight is None or uses.get(value) != 1:
            continue
        x, eps = normed
        swapped = flat.make("Transpose", (x,), {"perm": _LAST}, call=node.call)
        params = [("weight", weight)]
        norm = flat.make("RMSNorm", swapped.outputs, {"eps": eps}, call=node.call, params=params)
        back = flat.make("Transpose", norm.outputs, {"perm": _FIRST}, call=node.call, outputs=node.outputs)
        return [swapped, norm, back]
    return None


def _normed(flat: Flat, value: str) -> tuple[str, float] | None:
    """(x, eps) when the value is x / sqrt(mean(x^2) + eps) over axis 1."""
    product = flat.source(value, "Mul")
    for x, other in (product.inputs, product.inputs[::-1]) if product is not None else ():
        root = flat.source(other, "Rsqrt")
        shifted = flat.source(root.inputs[0], "AddScalar") if root is not None else None
        mean = flat.source(shifted.inputs[0], "ReduceMean") if shifted is not None else None
        if shifted is None or mean is None or mean.attrs["axes"] not in ((1,), (-3,)) or not mean.attrs["keepdims"]:
            continue
        square = flat.producer.get(mean.inputs[0])
        if square is not None and square.op == "Square" and square.inputs == (x,) and shifted.attrs["value"] > 0:
            return x, shifted.attrs["value"]
    return None


def _weight(flat: Flat, value: str) -> str | None:
    """The parameter [C] that is held as [1, C, 1, 1] or [C, 1, 1]."""
    node = flat.producer.get(value)
    if node is None or node.op not in ("Reshape", "Unsqueeze") or flat.types[node.inputs[0]].rank != 1:
        return None
    channels = flat.types[node.inputs[0]].shape[0]
    return parameter_of(flat, node.inputs[0]) if node.types[0].shape[-3:] == (channels, 1, 1) else None
