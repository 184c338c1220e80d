"""Canonical order and canonical hash: what a graph is, whatever its nodes are called and however they are listed.

The inputs of a node are ordered, also those of commutative ops: `Add(a, b)` and `Add(b, a)` are different structures,
and the inputs and outputs of a block are ordered too. With ordered inputs no search for isomorphisms is needed: walking
back from the ordered outputs, slot by slot, reaches every live node along a path that depends on structure alone, so a
depth-first post-order is a canonical topological order in linear time. Dead nodes (none in a valid graph) follow,
sorted by the hash of what they compute; between dead nodes that compute the same, the given order decides.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

from genmad.ir.diagnostics import Diagnostic, GraphError
from genmad.ir.graph import CALL, Block, Graph, Node, producer
from genmad.ir.rewrite import check_size
from genmad.ir.types import TensorType


def canonical_order(block: Block) -> tuple[Node, ...]:
    """The nodes in canonical topological order: isomorphic blocks list corresponding nodes at the same positions."""
    order: dict[str, Node] = {}
    _visit(block, (producer(v) for v in block.outputs), order)
    if len(order) < len(block.nodes):
        used = {producer(v) for node in block.nodes if node.name not in order for v in node.inputs}
        sinks = [node.name for node in block.nodes if node.name not in order and node.name not in used]
        _visit(block, sorted(sinks, key=_Merkle(block).of), order)
    return tuple(order.values())


def _visit(block: Block, roots: Iterable[str], order: dict[str, Node]) -> None:
    """Depth-first post-order over inputs from each root in turn, without recursion: real models are deep."""
    for root in roots:
        stack = [(root, False)]
        while stack:
            name, leaving = stack.pop()
            if name in order or name not in block.by_name:
                continue
            node = block.by_name[name]
            if leaving:
                order[name] = node
            else:
                stack.append((name, True))
                stack += [(producer(v), False) for v in reversed(node.inputs) if v]


class _Merkle:
    """Hash of what each node of a block computes: op, attributes, types and, recursively, inputs."""

    def __init__(self, block: Block) -> None:
        table = {v.name: f"input {i}" for i, v in enumerate(block.inputs)}
        for node in block.nodes:
            inputs = (f"{table[producer(v)]}{v[len(producer(v)) :]}" if v else "-" for v in node.inputs)
            op = CALL if node.is_call else node.op
            text = " ".join([op, _attrs(node), str(node.types), *inputs])
            table[node.name] = hashlib.sha256(text.encode()).hexdigest()
        self._table = table

    def of(self, name: str) -> str:
        return self._table[name]


def canonicalize(graph: Graph) -> Graph:
    """The same graph, same names, with nodes in canonical order and blocks in the order in which they are first called.

    Blocks that are never called come before the others, in their given order.
    """
    blocks = _canonical_blocks(graph)
    *called, main = blocks
    unused = [replace(b, nodes=canonical_order(b)) for b in graph.blocks if b.name not in {c.name for c in blocks}]
    return Graph(main=main, blocks=(*unused, *called))


def _canonical_blocks(graph: Graph) -> list[Block]:
    """Blocks that run, nodes in canonical order, callees first in order of their first call; the main block last."""
    done: dict[str, Block] = {}

    def visit(name: str) -> None:
        block = graph.block_map[name]
        nodes = canonical_order(block)
        for node in nodes:
            if node.is_call and node.callee not in done:
                visit(node.callee)
        done[name] = block if nodes == block.nodes else replace(block, nodes=nodes)

    check_size(graph)
    visit(graph.main.name)
    return list(done.values())


def canonical_hash(graph: Graph) -> str:
    """sha256 over structure: ops, attributes, types, wiring, which call runs which block, which parameters are tied.

    Names of nodes, blocks, parameters and scopes do not count, nor does the order of nodes. Raises `GraphError` on a
    graph that is too large to run.
    """
    digest = hashlib.sha256()
    for line in _structure(graph):
        digest.update(line.encode())
        digest.update(b"\n")
    return digest.hexdigest()


def same_structure(a: Graph, b: Graph) -> bool:
    """Whether two graphs differ at most in names and in the order in which nodes are listed."""
    return canonical_hash(a) == canonical_hash(b)


def _structure(graph: Graph) -> Iterator[str]:
    """The lines that the hash is taken over."""
    blocks = _canonical_blocks(graph)
    number = {block.name: i for i, block in enumerate(blocks)}
    type_text = _memo_types()
    for block in blocks:
        ids = {v.name: f"i{k}" for k, v in enumerate(block.inputs)}
        yield "block " + " ".join(type_text(v.type) for v in block.inputs)
        for k, node in enumerate(block.nodes):
            for j, value in enumerate(node.outputs):
                ids[value] = f"{k}.{j}"
            op = f"@{number[node.callee]}" if node.is_call else node.op
            inputs = ",".join(ids[v] if v else "-" for v in node.inputs)
            types = " ".join(map(type_text, node.types))
            yield f"{op}({inputs}) {_attrs(node)} {' '.join(slot for slot, _ in node.params)} : {types}"
        yield "return " + ",".join(ids[v] for v in block.outputs)
    unused = [b for b in graph.blocks if b.name not in number]
    yield f"unused {len(unused)} {sorted(len(b.nodes) for b in unused)}"
    yield from _ties(blocks)


def _memo_types() -> Callable[[TensorType], str]:
    seen: dict[TensorType, str] = {}

    def text(type: TensorType) -> str:
        if type not in seen:
            seen[type] = str(type)
        return seen[type]

    return text


def _attrs(node: Node) -> str:
    return ";".join(f"{name}={_exact(value)}" for name, value in node.attrs)


def _exact(value: Any) -> str:
    """Text that differs whenever type or value does: 1, 1.0, True and "1" are four attributes."""
    if isinstance(value, tuple):
        return f"({','.join(map(_exact, value))})"
    return f"{type(value).__name__} {value!r}"


def _ties(blocks: list[Block]) -> Iterator[str]:
    """Which parameters of the running model are one tensor: a line for every use after the first."""
    table = {block.name: block for block in blocks}
    first: dict[str, int] = {}
    count = 0
    stack: list[Iterator[tuple[str, Node]]] = [iter([("", node) for node in blocks[-1].nodes])]
    while stack:
        item = next(stack[-1], None)
        if item is None:
            stack.pop()
            continue
        prefix, node = item
        for _, name in node.params:
            seen = first.setdefault(prefix + name, count)
            if seen != count:
                yield f"tie {count} {seen}"
            count += 1
        if node.is_call:
            inner = f"{prefix}{node.scope}." if node.scope else prefix
            stack.append(iter([(inner, n) for n in table[node.callee].nodes if n.params or n.is_call]))


def check_same_structure(a: Graph, b: Graph) -> None:
    """Raises `GraphError` naming the first line of structure in which two graphs differ."""
    for ours, theirs in zip(_structure(a), _structure(b), strict=False):
        if ours != theirs:
            raise GraphError(Diagnostic(where="structure", got=ours, expected=theirs))
    if not same_structure(a, b):
        raise GraphError(Diagnostic(where="structure", got="one graph is longer", expected="the same structure"))
