"""The rules of Transformer++, read from text alone; nothing here is used to make networks.

A line is `gpt2 embed768 | mha+local:256 r4 | ...`: backbone and width, then one part per layer with its primitives in
the order of `ORDER`, each with its own setting, and the ratio of its MLP.
"""

import re
from collections.abc import Mapping, Sequence

ORDER = ("mha", "local", "sgconv", "sgconv3", "sepconv", "lsh")
_HEAD = re.compile(r"(\w+) embed(\d+)")


def problems(
    text: str, *, embeds: Sequence[int], layers: Sequence[int], ratios: Sequence[int], heads: int,
    settings: Mapping[str, Sequence[str]], mixed: bool, homogeneous: bool,
) -> list[str]:  # fmt: skip
    """Why a text is no member of the space with these choices."""
    head, *parts = text.split(" | ")
    match = _HEAD.fullmatch(head)
    if match is None:
        return ["not of the form gpt2 embedE | OPS rR | ..."]
    found = [] if match[1] in ("gpt2", "codegen") else [f"backbone {match[1]!r}, not gpt2 or codegen"]
    if int(match[2]) not in embeds:
        found.append(f"embedding of {match[2]}, not one of {', '.join(map(str, embeds))}")
    if len(parts) not in layers:
        found.append(f"{len(parts)} layers, not one of {', '.join(map(str, layers))}")
    if homogeneous and len(set(parts)) > 1:
        found.append("layers that differ in a homogeneous space")
    for number, part in enumerate(parts, 1):
        ops, _, ratio = part.partition(" r")
        if ratio not in map(str, ratios):
            found.append(f"layer {number}: ratio {ratio!r}, not one of {', '.join(map(str, ratios))}")
        found += [f"layer {number}: {why}" for why in _op_problems(ops.split("+"), heads, settings, mixed=mixed)]
    return found


def _op_problems(ops: Sequence[str], heads: int, settings: Mapping[str, Sequence[str]], *, mixed: bool) -> list[str]:
    found = []
    names = [op.partition(":")[0] for op in ops]
    unknown = [name for name in names if name not in ORDER]
    if unknown:
        return [f"unknown primitive {unknown[0]!r}"]
    if names != [name for name in ORDER if name in names]:
        found.append(f"primitives {'+'.join(names)}, not each once in the order {'+'.join(ORDER)}")
    if heads % len(names):
        found.append(f"{heads} heads cannot be shared by {len(names)} primitives")
    if len(names) > 1 and not mixed:
        found.append("more than one primitive")
    for op in ops:
        name, _, setting = op.partition(":")
        if setting not in settings.get(name, ("",)):
            found.append(f"{name} with setting {setting!r}, not one of {', '.join(settings.get(name, ('none',)))}")
    return found
