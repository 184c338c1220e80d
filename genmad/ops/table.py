"""The op table in README.md, written from the declarations: `python -m genmad.ops.table --write`."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from genmad.ir.opdef import Attr, OpDef, Param
from genmad.ir.types import TensorType
from genmad.ops import OPSET

PAGE = Path(__file__).with_name("README.md")
_HEAD = """\
# Ops

{count} ops in {families} families, one declaration each. Written from them by `python -m genmad.ops.table --write`; a
test fails where this page and the declarations differ.

An input that ends in `?` may be absent, one in `*` stands for any number. `=` gives the default of an attribute. A
parameter that ends in `?` depends on the attributes. ONNX (opset 18): `native` ops become ONNX nodes where they stand,
`function` ops a FunctionProto of their own; `-` has no ONNX form.
"""


def table() -> str:
    """The page as Markdown."""
    families: dict[str, list[OpDef]] = {}
    for op in OPSET.values():
        families.setdefault(op.family, []).append(op)
    parts = [_HEAD.format(count=len(OPSET), families=len(families))]
    for family, ops in families.items():
        rows = "\n".join(_row(op) for op in ops)
        parts.append(
            f"## {family}\n\n| op | inputs | attributes | parameters | ONNX | what it computes |\n"
            f"|---|---|---|---|---|---|\n{rows}\n"
        )
    return "\n".join(parts)


def _row(op: OpDef) -> str:
    cells = (
        f"`{op.name}`",
        ", ".join(op.inputs),
        "<br>".join(_attr(attr) for attr in op.attrs),
        ", ".join(_slots(op)),
        "-" if op.name == "TorchCall" else "function" if op.is_function else "native",
        " ".join(op.doc.split()) + (" Opaque: its inside is not modelled." if op.opaque else ""),
    )
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _attr(attr: Attr) -> str:
    """`window: int or none = none, at least 1. How far a query looks.`"""
    kind = " or ".join(f"`{choice}`" for choice in attr.choices) or attr.kind
    kind += " or none" if attr.optional or attr.default is None else ""
    value = "" if attr.required else f" = {_value(attr.default)}"
    bounds = [f"{word} {_value(bound)}" for word, bound in (("at least", attr.at_least), ("at most", attr.at_most))
              if bound is not None]  # fmt: skip
    head = ", ".join([f"**{attr.name}**: {kind}{value}", *bounds])
    return f"{head}. {attr.doc}" if attr.doc else head


def _value(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    return str(value) if value != "" else '""'


def _slots(op: OpDef) -> Iterator[str]:
    """Parameters over all samples of the op, in order; those that some uses lack end in `?`."""
    found: dict[str, Param] = {}
    uses = list(_uses(op))
    for params in uses:
        found |= {param.slot: param for param in params if param.slot not in found}
    for slot, param in found.items():
        always = all(any(p.slot == slot for p in params) for params in uses)
        yield f"{slot}{'' if always else '?'}{'' if param.trainable else ' (buffer)'}"


def _uses(op: OpDef) -> Iterator[tuple[Param, ...]]:
    for sample in op.samples:
        types = tuple(TensorType.parse(text) if text else None for text in sample.inputs)
        yield op.params(types, op.complete(sample.attrs))


def main(words: list[str]) -> int:
    """Prints the page; with `--write` puts it in its place."""
    if "--write" in words:
        PAGE.write_text(table(), encoding="utf-8")
    else:
        sys.stdout.write(table())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
