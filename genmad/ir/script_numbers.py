"""Numbers in edit scripts: literal, or read from the graph that the script runs on."""

import re
from dataclasses import dataclass, replace
from typing import Any

from genmad.ir.build import OpSet
from genmad.ir.diagnostics import Diagnostic, GraphError, ShapeError
from genmad.ir.graph import Block, Node, producer
from genmad.ir.types import Dim

CHANNELS_FIRST = frozenset({"conv", "pool"})
_NUMBER = re.compile(
    r"(?:(old)|(channels|head_dim|like)\(([^()]+)\)|(\d{1,18}))(?:\*(\d{1,18}))?(?:/(0*[1-9]\d{0,17}))?\Z"
)


@dataclass(frozen=True, slots=True)
class Number:
    """An attribute value: `base * times / over`, where the base is an integer or is read from the graph.

    Attributes:
        base: `int` (then `literal` counts), `old` (the attribute's present value), `channels` (of value `ref`),
            `head_dim` (of attention node `ref`) or `like` (the same attribute of node `ref`, of any kind).
    """

    base: str
    ref: str = ""
    literal: int = 0
    times: int = 1
    over: int = 1

    @staticmethod
    def of(value: int) -> "Number":
        return Number("int", literal=value)

    def __str__(self) -> str:
        head = {"int": str(self.literal), "old": "old"}.get(self.base, f"{self.base}({self.ref})")
        return head + (f"*{self.times}" if self.times != 1 else "") + (f"/{self.over}" if self.over != 1 else "")

    @staticmethod
    def parse(text: str) -> "Number":
        """The inverse of `str`: `Number.parse("channels(ln_1)*4")`. Raises `ShapeError`."""
        match = _NUMBER.match(text)
        if not match:
            raise ShapeError(repr(text), "a number such as 8, old*2, channels(ln_1)*4, head_dim(attn)*2 or like(attn)")
        old, base, ref, literal, times, over = match.groups()
        name = "old" if old else base or "int"
        return Number(name, ref or "", int(literal or 0), int(times or 1), int(over or 1))


Setting = Number | bool | float | str | None
Settings = tuple[tuple[str, Setting], ...]


def channels(block: Block, value: str, opset: OpSet) -> int:
    """Width of a value: axis 1 after convolutions and pools and for rank 4 or 5, else the last axis."""
    kind = block.types[value]
    node = block.by_name.get(producer(value))
    family = opset[node.op].family if node is not None and node.op in opset else ""
    first = kind.rank >= 4 or (kind.rank == 3 and family in CHANNELS_FIRST)
    if kind.rank == 4 and node is not None and family not in CHANNELS_FIRST and node.op in ("Linear", "LayerNorm"):
        first = False
    dim: Dim = kind.shape[1 if first else -1] if kind.rank else 1
    if not isinstance(dim, int):
        raise refuse(block, value, f"symbolic width {dim}", "a value with a fixed width")
    return dim


def head_dim(block: Block, name: str) -> int:
    """Channels per query head of an attention node."""
    node = node_of(block, name)
    heads = node.attr_map.get("num_heads")
    query = block.types[node.inputs[0]]
    width = query.shape[-1]
    if not isinstance(heads, int) or not isinstance(width, int):
        raise refuse(block, name, f"op {node.op}", "a node with num_heads")
    return width if query.rank == 4 else width // heads


def refuse(block: Block, name: str, got: str, expected: str) -> GraphError:
    return GraphError(Diagnostic(where=f'node "{name}" in block "{block.name}"', got=got, expected=expected))


def node_of(block: Block, name: str) -> Node:
    if name not in block.by_name:
        raise refuse(block, name, "no such node", f"one of {', '.join(list(block.by_name)[:40])}")
    return block.by_name[name]


def resolve(block: Block, name: str, setting: Setting, kind: str, old: Any, opset: OpSet, rank: int = 1) -> Any:
    """The value of attribute `name`. For `ints` one number is repeated as often as `old` (or `rank`) asks."""
    if not isinstance(setting, Number):
        return setting
    if setting.base == "like":
        attrs = node_of(block, setting.ref).attr_map
        if name not in attrs:
            raise refuse(block, setting.ref, f"no attribute {name}", f"one of {', '.join(attrs) or 'none'}")
        old = attrs[name]
        if (setting.times, setting.over) == (1, 1):
            return old
        setting = replace(setting, base="old")
    if setting.base == "old":
        if isinstance(old, tuple):
            return tuple(v * setting.times // setting.over for v in old)
        base = old
    else:
        base = _base(block, setting, opset)
    if not isinstance(base, (int, float)) or isinstance(base, bool):
        raise refuse(block, str(setting), f"base {base!r}", "a number")
    if kind == "float":
        return base * setting.times / setting.over
    total = base * setting.times
    if total % setting.over:
        raise refuse(block, str(setting), f"{total}/{setting.over}", "a whole number")
    value = int(total // setting.over)
    return (value,) * (len(old) if isinstance(old, tuple) else rank) if kind == "ints" else value


def _base(block: Block, number: Number, opset: OpSet) -> int:
    if number.base == "int":
        return number.literal
    if number.base == "head_dim":
        return head_dim(block, number.ref)
    if number.ref not in block.types:
        raise refuse(block, number.ref, "no such value", "a value of the block")
    return channels(block, number.ref, opset)
