"""What an edit changed, node by node as the user knows them, and as a tree for the screen."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from genmad.ir.graph import Block, Graph, Node
from genmad.lowering.preserve import instances

if TYPE_CHECKING:
    from rich.tree import Tree

Kind = Literal["added", "removed", "changed", "rewired"]
_MARK: dict[Kind, str] = {"added": "+", "removed": "-", "changed": "~", "rewired": "~"}
_COLOUR: dict[Kind, str] = {"added": "green", "removed": "red", "changed": "yellow", "rewired": "yellow"}
# Listed in full up to this many calls, else first and last.
_NAMED_CALLS = 3


@dataclass(frozen=True, slots=True)
class NodeChange:
    """One node that is new, gone, or different: its name in the block, and what it is or what changed."""

    kind: Kind
    name: str
    text: str

    def __str__(self) -> str:
        return f"{_MARK[self.kind]} {self.name}  {self.text}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """The same changes in one or more calls.

    Attributes:
        paths: user paths of the calls; `("",)` for the main block.
        block: name of the block that the calls now run.
        calls: how many calls ran the block before, the edited ones included.
        changes: in order of the edited block; removed nodes where they stood.
    """

    paths: tuple[str, ...]
    block: str
    calls: int
    changes: tuple[NodeChange, ...]

    @property
    def title(self) -> str:
        """`transformer.h.11 (1 of 12 calls of layer)`."""
        if self.paths == ("",):
            return "main graph"
        names = ", ".join(self.paths)
        if len(self.paths) > _NAMED_CALLS:
            names = f"{self.paths[0]} ... {self.paths[-1]}"
        of = f" of {self.calls}" if self.calls > len(self.paths) else ""
        what = "call" if (self.calls if of else len(self.paths)) == 1 else "calls"
        return f"{names} ({len(self.paths)}{of} {what} of {self.block})"


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphDiff:
    """Every difference between two graphs, grouped by calls that changed in the same way."""

    name: str
    sections: tuple[Section, ...]

    def ids(self, kind: Kind) -> tuple[str, ...]:
        """Full paths of the nodes of one kind, in order."""
        return tuple(
            f"{path}.{change.name}" if path else change.name
            for section in self.sections
            for path in section.paths
            for change in section.changes
            if change.kind == kind
        )

    @property
    def is_empty(self) -> bool:
        return not self.sections

    def to_json(self) -> dict[str, list[str]]:
        """Node ids by kind, as in `report.json`."""
        kinds: tuple[Kind, ...] = ("removed", "added", "rewired", "changed")
        return {kind: list(self.ids(kind)) for kind in kinds}

    def tree(self) -> Tree:
        """A rich tree: added green, removed red, changed yellow."""
        from rich.text import Text
        from rich.tree import Tree

        root = Tree(Text(self.name, style="bold"))
        if self.is_empty:
            root.add(Text("no difference", style="dim"))
        for section in self.sections:
            branch = root.add(Text(section.title, style="cyan"))
            for change in section.changes:
                branch.add(Text(str(change), style=_COLOUR[change.kind]))
        return root

    def __str__(self) -> str:
        lines = [self.name] if not self.is_empty else [self.name, "  no difference"]
        for section in self.sections:
            lines += [f"  {section.title}", *(f"    {change}" for change in section.changes)]
        return "\n".join(lines)

    @staticmethod
    def between(before: Graph, after: Graph) -> GraphDiff:
        """The differences of two graphs whose nodes are matched by path."""
        olds, news = instances(before), instances(after)
        found: dict[tuple[str, str, tuple[NodeChange, ...]], list[str]] = {}
        calls_of = _count(instance.block.name for instance in olds.values())
        for calls, new in news.items():
            old = olds.get(calls)
            if old is None or old.block is new.block:
                continue
            changes = tuple(_changes(old.block, new.block))
            if changes:
                found.setdefault((old.block.name, new.block.name, changes), []).append(new.prefix.rstrip("."))
        sections = tuple(
            Section(paths=tuple(paths), block=old_name if len(paths) < calls_of[old_name] else new_name,
                    calls=calls_of[old_name], changes=changes)
            for (old_name, new_name, changes), paths in found.items()
        )  # fmt: skip
        return GraphDiff(name=after.name, sections=sections)


def _count(names: Iterable[str]) -> dict[str, int]:
    table: dict[str, int] = {}
    for name in names:
        table[name] = table.get(name, 0) + 1
    return table


def _changes(old: Block, new: Block) -> Iterator[NodeChange]:
    gone = [node for node in old.nodes if node.name not in new.by_name]
    yield from (NodeChange("removed", node.name, describe(node, with_type=False)) for node in gone)
    for node in new.nodes:
        before = old.by_name.get(node.name)
        if before is None:
            yield NodeChange("added", node.name, describe(node))
            continue
        text = _attr_text(before, node)
        if text:
            yield NodeChange("changed", node.name, text)
        if before.inputs != node.inputs:
            yield NodeChange("rewired", node.name, _input_text(before.inputs, node.inputs))
    if old.outputs != new.outputs:
        yield NodeChange("rewired", "output", _input_text(old.outputs, new.outputs))


def _attr_text(old: Node, new: Node) -> str:
    if new.is_call or (old.op, old.attrs) == (new.op, new.attrs):
        return ""
    if old.op != new.op:
        return f"{old.op} -> {describe(new, with_type=False)}"
    pairs = ((k, old.attr_map.get(k), v) for k, v in new.attrs)
    return f"{new.op} " + ", ".join(f"{k}: {text_of(was)} -> {text_of(now)}" for k, was, now in pairs if was != now)


def _input_text(old: tuple[str, ...], new: tuple[str, ...]) -> str:
    lost = [v for v in old if v and v not in new]
    found = [v for v in new if v and v not in old]
    if found and lost:
        return f"reads {', '.join(found)} instead of {', '.join(lost)}"
    if found:
        return f"reads {', '.join(found)} too"
    return f"no longer reads {', '.join(lost)}" if lost else f"reads {', '.join(new)} in this order"


def text_of(value: Any) -> str:
    """An attribute value as people write it: `None` is `none`, a tuple `3x3`."""
    if isinstance(value, tuple):
        return "x".join(str(v) for v in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    return "none" if value is None else str(value)


def describe(node: Node, *, with_type: bool = True) -> str:
    """`Attention(num_heads=12, causal, window=128) -> float32[batch,seq,768]`; absent and false attributes left out."""
    words = []
    for key, value in node.attrs:
        if value is None or value is False or value == ():
            continue
        words.append(key if value is True else f"{key}={text_of(value)}")
    head = (f"call of {node.callee}" if node.is_call else node.op) + (f"({', '.join(words)})" if words else "")
    if not with_type:
        return head
    return f"{head} -> {', '.join(str(kind) for kind in node.types)}"
