"""The rules of the six-layer ENAS space, read from its text alone; nothing here is used to make networks.

Pham et al., ICML 2018, arXiv 1802.03268, section 2.3; Zhang et al. (D-VAE), arXiv 1904.11088, for six layers.
"""

_OPERATIONS = frozenset({"conv3x3", "sep_conv3x3", "conv5x5", "sep_conv5x5", "avg_pool3x3", "max_pool3x3"})


def problems(text: str) -> list[str]:
    """Why a text is no network: it must be six layers `op`, `op:01..` with one digit per earlier node but the last."""
    layers = text.split(" ")
    if len(layers) != 6:
        return [f"{len(layers)} layers, not 6"]
    found: list[str] = []
    for number, layer in enumerate(layers, 1):
        name, colon, skips = layer.partition(":")
        if name not in _OPERATIONS:
            found.append(f"layer {number}: unknown operation {name!r}")
        if bool(colon) != (number > 1) or len(skips) != number - 1 or set(skips) - {"0", "1"}:
            found.append(f"layer {number}: skips {skips!r}, not {number - 1} digits 0 or 1")
    return found
