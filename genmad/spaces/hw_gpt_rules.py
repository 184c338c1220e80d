"""The rules of HW-GPT-Bench, read from text alone; nothing here is used to make networks.

Sukthanker et al., arXiv 2405.10299, section 3.1.
"""

import re
from collections.abc import Sequence

_HEAD = re.compile(r"embed(\d+) bias([01])")
_LAYER = re.compile(r"h(\d+)_r(\d+)")


def problems(text: str, *, embeds: Sequence[int], heads: Sequence[int], layers: Sequence[int]) -> list[str]:
    """Why a text is no member of the scale with these choices; MLP ratios are 2, 3 and 4 in all of them."""
    head, *body = text.split(" | ")
    match = _HEAD.fullmatch(head)
    if match is None or len(body) != 1:
        return ["not of the form embedE biasB | hH_rR hH_rR ..."]
    found = [] if int(match[1]) in embeds else [f"embedding of {match[1]}, not {_either(embeds)}"]
    rows = body[0].split(" ")
    if len(rows) not in layers:
        found.append(f"{len(rows)} layers, not {_either(layers)}")
    for number, row in enumerate(rows, 1):
        layer = _LAYER.fullmatch(row)
        if layer is None:
            found.append(f"layer {number}: unknown layer {row[:40]!r}")
            continue
        if int(layer[1]) not in heads:
            found.append(f"layer {number}: {layer[1]} heads, not {_either(heads)}")
        if layer[2] not in ("2", "3", "4"):
            found.append(f"layer {number}: ratio {layer[2]}, not 2, 3 or 4")
    return found


def _either(values: Sequence[int]) -> str:
    return f"{', '.join(map(str, values[:-1]))} or {values[-1]}"
