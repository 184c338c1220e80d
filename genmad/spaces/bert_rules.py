"""The rules of NAS-Bench-BERT (the FlexiBERT space), read from text alone; nothing here is used to make networks.

Serianni and Kalita, ACL 2023, table 1.
"""

import re

_LAYER = re.compile(r"(SDP|WMA|DFT|DCT|DSC5|DSC9) h([24]) f(512|1024) n([13])")


def problems(text: str) -> list[str]:
    """Why a text is no member: a hidden size of 128 or 256, then two or four layers."""
    head, *layers = text.split(" | ")
    found = [] if head in ("hidden128", "hidden256") else [f"{head[:40]!r}, not hidden128 or hidden256"]
    if len(layers) not in (2, 4):
        found.append(f"{len(layers)} layers, not 2 or 4")
    for number, layer in enumerate(layers, 1):
        if not _LAYER.fullmatch(layer):
            found.append(f"layer {number}: {layer[:60]!r}, not OP h2|h4 f512|f1024 n1|n3")
    return found
