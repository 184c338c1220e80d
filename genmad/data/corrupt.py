"""Graphs with parts hidden, as probes ask for them; names, which would give the answers away, are made neutral."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from genmad.ir import CALL, Block, Diagnostic, Graph, GraphError, Node, TensorType, prune_dead, replace_block
from genmad.ir.rewrite import rename_nodes

HIDDEN_OP = "Hidden"


def anonymous(graph: Graph) -> Graph:
    """The same structure with nodes `n0`, inputs `i0`, parameters `p0`, scopes `s0` and blocks `b0`, numbered."""
    blocks = {block.name: f"b{index}" for index, block in enumerate(graph.all_blocks)}
    made = [_anonymous_block(block, blocks) for block in graph.all_blocks]
    return Graph(main=made[-1], blocks=tuple(made[:-1]))


def _anonymous_block(block: Block, blocks: Mapping[str, str]) -> Block:
    names = {value.name: f"i{k}" for k, value in enumerate(block.inputs)}
    names |= {node.name: f"n{k}" for k, node in enumerate(block.nodes)}
    # In two steps, because `n0` may be the old name of another node.
    aside = rename_nodes(block, {old: f"aside_{new}" for old, new in names.items()})
    neutral = rename_nodes(aside, {f"aside_{new}": new for new in names.values()})
    params: dict[str, str] = {}
    scopes: dict[str, str] = {"": ""}
    nodes = tuple(
        replace(
            node, op=CALL + blocks[node.callee] if node.is_call else node.op,
            scope=scopes.setdefault(node.scope, f"s{len(scopes)}"),
            params=tuple((slot, params.setdefault(name, f"p{len(params)}")) for slot, name in node.params),
        )
        for node in neutral.nodes
    )  # fmt: skip
    return replace(neutral, name=blocks[block.name], nodes=nodes)


@dataclass(frozen=True, slots=True, kw_only=True)
class HiddenNode:
    """A node whose op is hidden: its block, its name and the op."""

    block: str
    node: str
    op: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HiddenLink:
    """A hidden input: block, node, slot, and the value that was read."""

    block: str
    node: str
    slot: int
    value: str


def hide_ops(graph: Graph, rng: random.Random, share: float) -> tuple[Graph, tuple[HiddenNode, ...]]:
    """A share of the ops, at least one, replaced by `Hidden` without attributes and parameters; inputs and types stay.

    Raises `GraphError` on a graph without ops.
    """
    plain = [(b.name, n.name) for b in graph.all_blocks for n in b.nodes if not n.is_call]
    chosen = set(_draw(graph, plain, rng, share))
    hidden = []
    blocks = []
    for block in graph.all_blocks:
        nodes = list(block.nodes)
        for k, node in enumerate(nodes):
            if (block.name, node.name) in chosen:
                hidden.append(HiddenNode(block=block.name, node=node.name, op=node.op))
                nodes[k] = replace(node, op=HIDDEN_OP, attrs=(), params=())
        blocks.append(replace(block, nodes=tuple(nodes)))
    return Graph(main=blocks[-1], blocks=tuple(blocks[:-1])), tuple(hidden)


def hide_links(graph: Graph, rng: random.Random, share: float) -> tuple[Graph, tuple[HiddenLink, ...]]:
    """A share of what ops read, at least one link, left empty; what calls read is told by their blocks' inputs.

    Raises `GraphError` on a graph without links.
    """
    plain = [(b, n) for b in graph.all_blocks for n in b.nodes if not n.is_call]
    wires = [(b.name, n.name, slot) for b, n in plain for slot, value in enumerate(n.inputs) if value]
    chosen = set(_draw(graph, wires, rng, share))
    hidden, blocks = [], []
    for block in graph.all_blocks:
        nodes = []
        for node in block.nodes:
            cut = [slot for slot in range(len(node.inputs)) if (block.name, node.name, slot) in chosen]
            hidden += [HiddenLink(block=block.name, node=node.name, slot=s, value=node.inputs[s]) for s in cut]
            inputs = tuple("" if slot in cut else value for slot, value in enumerate(node.inputs))
            nodes.append(replace(node, inputs=inputs))
        blocks.append(replace(block, nodes=tuple(nodes)))
    return Graph(main=blocks[-1], blocks=tuple(blocks[:-1])), tuple(hidden)


Item = TypeVar("Item")


def _draw(graph: Graph, items: Sequence[Item], rng: random.Random, share: float) -> list[Item]:
    if not items:
        raise GraphError(Diagnostic(where=f'graph "{graph.name}"', got="nothing to hide", expected="an op or a link"))
    return rng.sample(items, max(1, int(share * len(items))))


def without_node(graph: Graph, rng: random.Random, tries: int = 10) -> tuple[Graph, str, str] | None:
    """The graph with one node taken out, its users reading its first input; None where no node can go.

    The rest is typed as before and has no dead nodes, so that nothing but the missing op tells.

    Returns the graph, the block and the op that is missing.
    """
    choices = [(b, n) for b in graph.all_blocks for n in b.nodes if _can_go(b.types, n)]
    for block, node in rng.sample(choices, min(tries, len(choices))):
        nodes = [
            replace(n, inputs=tuple(node.inputs[0] if v == node.name else v for v in n.inputs))
            for n in block.nodes
            if n.name != node.name
        ]
        outputs = tuple(node.inputs[0] if v == node.name else v for v in block.outputs)
        try:
            rest = replace_block(graph, replace(block, nodes=tuple(nodes), outputs=outputs))
        except GraphError:
            continue
        if prune_dead(rest).num_nodes == rest.num_nodes and not _reads_input_only(rest, block.name):
            return rest, block.name, node.op
    return None


def _can_go(types: Mapping[str, TensorType], node: Node) -> bool:
    """A node with one output of the type of its first input."""
    if node.is_call or len(node.types) != 1 or not node.inputs or not node.inputs[0]:
        return False
    return node.op != "Identity" and types[node.inputs[0]] == node.types[0]


def _reads_input_only(graph: Graph, name: str) -> bool:
    """Whether a block computes nothing any more."""
    return not graph.block_map[name].nodes
