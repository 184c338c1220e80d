"""The rules of the Once-for-All spaces, read from their text alone; nothing here is used to make networks.

Cai et al., ICLR 2020, arXiv 1908.09791, section 4.1: depth, width and kernel of each unit.
"""

import re

_LAYER = re.compile(r"k(\d+)_e(\d+)")


def problems(text: str, *, single: bool) -> list[str]:
    """Why a text is no member: five stages of two to four layers, `single` adds a sixth stage of one layer."""
    stages = text.split(" | ")
    wanted = 6 if single else 5
    if len(stages) != wanted:
        return [f"{len(stages)} stages, not {wanted}"]
    found: list[str] = []
    for number, stage in enumerate(stages, 1):
        layers = stage.split(" ")
        least, most = (1, 1) if number == 6 else (2, 4)
        if not least <= len(layers) <= most:
            span = "1" if most == 1 else f"{least} to {most}"
            found.append(f"stage {number}: {len(layers)} layers, not {span}")
        found += [f"stage {number}: {why}" for layer in layers for why in _layer_problems(layer)]
    return found


def _layer_problems(layer: str) -> list[str]:
    match = _LAYER.fullmatch(layer)
    if match is None:
        return [f"unknown layer {layer[:40]!r}"]
    found = []
    if match[1] not in ("3", "5", "7"):
        found.append(f"kernel {match[1]}, not 3, 5 or 7")
    if match[2] not in ("3", "4", "6"):
        found.append(f"expansion {match[2]}, not 3, 4 or 6")
    return found
