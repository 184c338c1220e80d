"""LayerNorm between two transposes that put the channels last and back to ChannelLayerNorm.

ConvNeXt, arXiv 2201.03545.
"""

from genmad.importers.flat import Flat, FlatNode


def lift_channel_norm(flat: Flat) -> int:
    return flat.rewrite("ChannelLayerNorm", _channel_norm)


def _channel_norm(flat: Flat, node: FlatNode) -> list[FlatNode] | None:
    if node.op != "Transpose" or node.attrs["perm"] != (0, 3, 1, 2):
        return None
    norm = flat.source(node.inputs[0], "LayerNorm")
    if norm is None or norm.attrs["num_axes"] != 1 or not (norm.attrs["affine"] and norm.attrs["bias"]):
        return None
    before = flat.source(norm.inputs[0], "Transpose")
    if before is None or before.attrs["perm"] != (0, 2, 3, 1):
        return None
    made = flat.make(
        "ChannelLayerNorm", before.inputs, {"eps": norm.attrs["eps"]}, call=norm.call, layer=norm.layer,
        params=norm.params, outputs=node.outputs,
    )  # fmt: skip
    return [made]
