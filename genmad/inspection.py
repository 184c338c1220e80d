"""What a model is made of: a tree of blocks with shapes, parameters and MACs, and what stayed primitive."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from genmad.diff import describe
from genmad.ir.graph import Block, Graph, Node
from genmad.ir.types import Dim, SymDim, evaluate_dim
from genmad.ops import OPSET

if TYPE_CHECKING:
    from rich.tree import Tree

# Symbolic sizes at which costs are told, where the user names none.
DEFAULT_SIZES = {"batch": 1}
DEFAULT_SIZE = 128


def sizes_of(graph: Graph) -> dict[str, int]:
    """A size for every symbol of the model's inputs: batch 1, all others 128."""
    dims = [d for value in graph.main.inputs for d in value.type.shape if isinstance(d, SymDim)]
    return {name: DEFAULT_SIZES.get(name, DEFAULT_SIZE) for d in dims for name in sorted(d.symbols)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One node, or one or more consecutive calls of one block.

    Attributes:
        name: path of the node; of several calls `h.0 ... h.11`.
        text: what it is.
        params, macs: of all its calls; `macs` at the sizes of the inspection.
        children: nodes of the called block.
    """

    name: str
    text: str
    params: int
    macs: int
    children: tuple[Row, ...] = ()

    def to_json(self) -> dict[str, Any]:
        out: dict[str, Any] = {"name": self.name, "op": self.text, "params": self.params, "macs": self.macs}
        return out | ({"nodes": [row.to_json() for row in self.children]} if self.children else {})


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """A model as a tree. `params` counts tied parameters once."""

    source: str
    kind: str
    weights: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    params: int
    macs: int
    sizes: Mapping[str, int]
    num_nodes: int
    num_blocks: int
    primitive: Mapping[str, int]
    notes: tuple[str, ...]
    rows: tuple[Row, ...]

    def to_json(self) -> dict[str, Any]:
        data = {name: getattr(self, name) for name in self.__slots__ if name != "rows"}
        return {"status": "ok", **data, "nodes": [row.to_json() for row in self.rows]}

    def lines(self) -> list[str]:
        """The head: inputs, outputs, size, what stayed primitive."""
        sizes = ", ".join(f"{name} {size}" for name, size in self.sizes.items())
        out = [
            f"inputs: {', '.join(self.inputs)}",
            f"outputs: {', '.join(self.outputs)}",
            f"{self.params:,} parameters, {self.macs:,} MACs" + (f" at {sizes}" if sizes else ""),
            f"{self.num_nodes} nodes in {self.num_blocks} blocks",
        ]
        stayed = ", ".join(f"{name} ({count})" for name, count in self.primitive.items())
        return [*out, f"stayed primitive: {stayed or 'nothing'}", *self.notes]

    def tree(self) -> Tree:
        from rich.text import Text
        from rich.tree import Tree

        root = Tree(Text(self.source, style="bold"))

        def grow(branch: Tree, rows: tuple[Row, ...]) -> None:
            for row in rows:
                text = Text.assemble((row.name, "cyan"), "  ", row.text)
                if row.params or row.macs:
                    text.append(f"  {row.params:,} params, {row.macs:,} MACs", style="dim")
                grow(branch.add(text), row.children)

        grow(root, self.rows)
        return root

    def __str__(self) -> str:
        def show(rows: tuple[Row, ...], indent: str) -> Iterator[str]:
            for row in rows:
                yield f"{indent}{row.name}  {row.text}"
                yield from show(row.children, indent + "  ")

        return "\n".join([self.source, *self.lines(), *show(self.rows, "  ")])


def outline(graph: Graph, *, depth: int | None = None) -> tuple[Row, ...]:
    """Rows of the main block; called blocks open up to `depth` levels (None: all)."""
    return tuple(_rows(graph, graph.main, sizes_of(graph), depth))


def _rows(graph: Graph, block: Block, sizes: Mapping[str, int], depth: int | None) -> Iterator[Row]:
    index = 0
    while index < len(block.nodes):
        node = block.nodes[index]
        run = 1
        while node.is_call and index + run < len(block.nodes) and block.nodes[index + run].op == node.op:
            run += 1
        last = block.nodes[index + run - 1]
        index += run
        if not node.is_call:
            params, macs = node_cost(block, node, sizes)
            yield Row(name=node.name, text=describe(node), params=params, macs=macs)
            continue
        callee = graph.block_map[node.callee]
        inside = tuple(_rows(graph, callee, sizes, None))
        name = node.name if run == 1 else f"{node.name} ... {last.name}"
        text = f"{run} calls of {node.callee}" if run > 1 else f"call of {node.callee}"
        yield Row(
            name=name, text=f"{text} -> {', '.join(str(t) for t in node.types)}",
            params=run * sum(row.params for row in inside), macs=run * sum(row.macs for row in inside),
            children=() if depth == 0 else _cut(inside, None if depth is None else depth - 1),
        )  # fmt: skip


def _cut(rows: tuple[Row, ...], depth: int | None) -> tuple[Row, ...]:
    """The rows with their children taken off below `depth`."""
    if depth is None:
        return rows
    kept = [() if depth == 0 else _cut(row.children, depth - 1) for row in rows]
    return tuple(
        Row(name=row.name, text=row.text, params=row.params, macs=row.macs, children=children)
        for row, children in zip(rows, kept, strict=True)
    )


def node_cost(block: Block, node: Node, sizes: Mapping[str, int]) -> tuple[int, int]:
    """Parameters and MACs of one op node at the given symbol sizes."""
    opdef = OPSET[node.op]
    types = tuple(block.types[v] if v else None for v in node.inputs)
    params = sum(_size(p.type.numel, sizes) for p in opdef.params(types, node.attr_map) if p.trainable)
    return params, _size(opdef.cost(types, node.types, node.attr_map).macs, sizes)


def _size(dim: Dim, sizes: Mapping[str, int]) -> int:
    return dim if isinstance(dim, int) else evaluate_dim(dim, sizes)


def target_names(graph: Graph, limit: int = 24) -> str:
    """The places that a request can name, numbered runs drawn together: `h.0 ... h.11, wte, ln_f`."""
    groups: dict[str, list[str]] = {}
    for name in [node.name for node in graph.main.nodes if node.is_call or node.params]:
        groups.setdefault(re.sub(r"\d+", "#", name), []).append(name)
    words = [names[0] if len(names) == 1 else f"{names[0]} ... {names[-1]}" for names in groups.values()]
    return ", ".join(words[:limit]) + (f" and {len(words) - limit} more" if len(words) > limit else "")


def graph_cost(graph: Graph) -> dict[str, int]:
    """Parameters and MACs at the sizes of `sizes_of`."""
    from genmad.cost import cost_of

    cost = cost_of(graph, OPSET, sizes_of(graph))
    return {"params": cost.num_params, "macs": cost.num_macs}
