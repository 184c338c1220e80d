"""Small total functions from graph to graph that other rooms share."""

import heapq
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

from genmad.ir.build import DraftGraph, OpSet, retype
from genmad.ir.diagnostics import Diagnostic, GraphError
from genmad.ir.graph import CALL, Block, Graph, Node, Value, producer

MAX_RUNNING_NODES = 1_000_000
MAX_CALL_DEPTH = 64


def topological_sort(nodes: Iterable[Node], *, where: str = "the nodes") -> tuple[Node, ...]:
    """The same nodes with every producer before its consumers; otherwise the given order is kept.

    Inputs that none of the nodes produces are taken as block inputs. Raises `GraphError` naming the nodes of a cycle.
    """
    nodes = tuple(nodes)
    index = {node.name: i for i, node in enumerate(nodes)}
    before = [{index[p] for v in node.inputs if v and (p := producer(v)) in index} for node in nodes]
    after: list[list[int]] = [[] for _ in nodes]
    for i, needed in enumerate(before):
        for j in needed:
            after[j].append(i)
    missing = [len(needed) for needed in before]
    ready = [i for i, count in enumerate(missing) if not count]
    heapq.heapify(ready)
    order: list[int] = []
    while ready:
        i = heapq.heappop(ready)
        order.append(i)
        for j in after[i]:
            missing[j] -= 1
            if not missing[j]:
                heapq.heappush(ready, j)
    if len(order) < len(nodes):
        cycle = " -> ".join(nodes[i].name for i in _cycle(before, set(range(len(nodes))) - set(order)))
        raise GraphError(Diagnostic(where=where, got=f"a cycle: {cycle}", expected="a graph without cycles"))
    return tuple(nodes[i] for i in order)


def _cycle(before: list[set[int]], stuck: set[int]) -> list[int]:
    """One cycle among the nodes that could not be sorted, in data-flow order, its first node repeated at the end."""
    seen: dict[int, int] = {}
    trail: list[int] = []
    node = min(stuck)
    while node not in seen:
        seen[node] = len(trail)
        trail.append(node)
        node = min(before[node] & stuck)
    return [node, *reversed(trail[seen[node] :])]


def assemble(main: Block, blocks: Mapping[str, Block], opset: OpSet, inputs: Iterable[Value] | None = None) -> Graph:
    """A graph from blocks whose stored types may be out of date: every type is inferred anew from the main inputs.

    Blocks that nothing calls are left out. Raises `GraphError` naming the node at fault, a missing block, or blocks
    that call each other in a circle.
    """
    table = {**blocks, main.name: main}
    _check_calls(table)
    ordered = {name: _sorted_block(block) for name, block in table.items()}
    return retype(DraftGraph(ordered[main.name], ordered), opset, inputs)


def _sorted_block(block: Block) -> Block:
    nodes = topological_sort(block.nodes, where=f'block "{block.name}"')
    return block if nodes == block.nodes else replace(block, nodes=nodes)


def _check_calls(table: Mapping[str, Block]) -> None:
    """Raises `GraphError` unless every callee exists, with the right number of inputs, and calls form no circle."""
    problems = []
    for block in table.values():
        for node in block.nodes:
            if not node.is_call:
                continue
            where = f'call "{node.name}" in block "{block.name}"'
            callee = table.get(node.callee)
            if callee is None:
                problems.append(Diagnostic(where=where, got=f"block {node.callee!r}", expected="a block of the graph"))
            elif len(callee.inputs) != len(node.inputs):
                expected = f"{len(callee.inputs)} ({', '.join(v.name for v in callee.inputs)})"
                problems.append(Diagnostic(where=where, got=f"{len(node.inputs)} inputs", expected=expected))
    if problems:
        raise GraphError(*problems)
    ordered_blocks(table)


def ordered_blocks(table: Mapping[str, Block]) -> tuple[Block, ...]:
    """Blocks with callees before callers. Raises `GraphError` when blocks call each other in a circle."""
    done: dict[str, Block] = {}
    for root in table:
        stack: list[tuple[str, bool]] = [(root, False)]
        trail: list[str] = []
        while stack:
            name, leaving = stack.pop()
            if leaving:
                trail.pop()
                done.setdefault(name, table[name])
                continue
            if name in trail:
                circle = " -> ".join([*trail[trail.index(name) :], name])
                where = f'block "{name}"'
                raise GraphError(Diagnostic(where=where, got=f"a circle of calls: {circle}", expected="no recursion"))
            if name in done:
                continue
            trail.append(name)
            stack.append((name, True))
            callees = dict.fromkeys(node.callee for node in table[name].nodes if node.is_call)
            stack += [(callee, False) for callee in reversed(callees) if callee in table]
    return tuple(done.values())


def replace_block(graph: Graph, block: Block, opset: OpSet | None = None) -> Graph:
    """The graph with the block of that name replaced. With an op set, types downstream are inferred anew.

    Raises `GraphError` when there is no such block, or when callers do not fit the new one.
    """
    if block.name not in graph.block_map:
        names = ", ".join(graph.block_map)
        raise GraphError(Diagnostic(where=f'block "{block.name}"', got="an unknown block", expected=f"one of {names}"))
    if opset is not None:
        table = {**graph.block_map, block.name: block}
        return assemble(table[graph.main.name], table, opset)
    blocks = tuple(block if b.name == block.name else b for b in graph.blocks)
    return Graph(main=block if block.name == graph.main.name else graph.main, blocks=blocks)


def live_nodes(block: Block) -> frozenset[str]:
    """Names of the nodes from which an output of the block can be reached."""
    live: set[str] = set()
    stack = [producer(v) for v in block.outputs]
    while stack:
        name = stack.pop()
        if name in live or name not in block.by_name:
            continue
        live.add(name)
        stack += [producer(v) for v in block.by_name[name].inputs if v]
    return frozenset(live)


def called_blocks(graph: Graph) -> frozenset[str]:
    """Names of the blocks that run: the main block and whatever is called from it."""
    called = {graph.main.name}
    stack = [graph.main]
    while stack:
        for node in stack.pop().nodes:
            if node.is_call and node.callee not in called:
                called.add(node.callee)
                stack.append(graph.block_map[node.callee])
    return frozenset(called)


def prune_dead(graph: Graph) -> Graph:
    """Without nodes that no block output depends on, and without blocks that are never called."""
    table = {}
    for block in graph.all_blocks:
        live = live_nodes(block)
        kept = tuple(node for node in block.nodes if node.name in live)
        table[block.name] = block if len(kept) == len(block.nodes) else replace(block, nodes=kept)
    pruned = Graph(main=table[graph.main.name], blocks=tuple(table[b.name] for b in graph.blocks))
    called = called_blocks(pruned)
    return replace(pruned, blocks=tuple(b for b in pruned.blocks if b.name in called))


def rename_nodes(block: Block, names: Mapping[str, str]) -> Block:
    """The block with nodes and inputs renamed (old name -> new name). Raises `GraphError` when a new name is taken.

    Parameter names and scopes stay: they are the weights' names, not the nodes'.
    """
    unknown = [n for n in names if n not in block.by_name and n not in {v.name for v in block.inputs}]
    if unknown:
        where = f'block "{block.name}"'
        raise GraphError(Diagnostic(where=where, got=f"names {unknown}", expected="nodes or inputs of the block"))

    def value(name: str) -> str:
        stem, colon, rest = name.partition(":")
        return names.get(stem, stem) + colon + rest

    nodes = tuple(
        replace(n, name=names.get(n.name, n.name), inputs=tuple(value(v) for v in n.inputs)) for n in block.nodes
    )
    inputs = tuple(replace(v, name=names.get(v.name, v.name)) for v in block.inputs)
    return replace(block, inputs=inputs, nodes=nodes, outputs=tuple(value(v) for v in block.outputs))


def rename_blocks(graph: Graph, names: Mapping[str, str]) -> Graph:
    """The graph with blocks renamed (old name -> new name), their calls too. Raises `GraphError` on a clash."""

    def renamed(block: Block) -> Block:
        nodes = tuple(
            replace(n, op=CALL + names[n.callee]) if n.is_call and n.callee in names else n for n in block.nodes
        )
        return replace(block, name=names.get(block.name, block.name), nodes=nodes)

    return Graph(main=renamed(graph.main), blocks=tuple(renamed(b) for b in graph.blocks))


def fresh_name(stem: str, taken: Collection[str]) -> str:
    """`stem`, or `stem_1`, `stem_2` ... when it is taken."""
    name, count = stem, 0
    while name in taken:
        count += 1
        name = f"{stem}_{count}"
    return name


def num_running_nodes(graph: Graph) -> int:
    """Ops of the running model, a block counted once per call. Cheap even where calls nest to astronomic sizes."""
    size: dict[str, int] = {}
    for block in graph.all_blocks:
        size[block.name] = sum(size[node.callee] if node.is_call else 1 for node in block.nodes)
    return size[graph.main.name]


def call_depth(graph: Graph) -> int:
    """How many calls are nested at most."""
    depth: dict[str, int] = {}
    for block in graph.all_blocks:
        depth[block.name] = max((1 + depth[node.callee] for node in block.nodes if node.is_call), default=0)
    return max(depth.values())


def check_size(graph: Graph) -> None:
    """Raises `GraphError` on graphs that would blow up when run: nested too deep, or too many nodes once expanded."""
    if (depth := call_depth(graph)) > MAX_CALL_DEPTH:
        got = f"calls nested {depth} deep"
        raise GraphError(Diagnostic(where=f'graph "{graph.name}"', got=got, expected=f"at most {MAX_CALL_DEPTH}"))
    if (count := num_running_nodes(graph)) > MAX_RUNNING_NODES:
        got = f"{count} nodes once every call is expanded" if count < 10**30 else "more than 1e30 nodes once expanded"
        raise GraphError(Diagnostic(where=f'graph "{graph.name}"', got=got, expected=f"at most {MAX_RUNNING_NODES}"))
