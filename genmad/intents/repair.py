"""Requests to finish an incomplete graph: one node was taken out and has to be put back."""

import random
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from genmad.intents.mlp import NEW_ACTIVATIONS
from genmad.intents.norm import NORM_NAMES
from genmad.intents.phrasing import Phrases, expand, fill, fitting, parse_templates, say, type_it
from genmad.intents.types import EditExample, Request
from genmad.ir import Graph, GraphError, Node, OpSet, TensorType, call_places, prune_dead, replace_block
from genmad.ir.canonical import canonical_hash
from genmad.ir.script import Add, At, EditScript, Number, Rewire, Step, fresh_name

NAME, READING = "complete", "complete"
SEEN = (
    "complete the graph",
    "fill in what is missing",
    "finish this architecture",
    "add the missing (op|node|operation)",
    "repair the (network|graph|model)",
    "restore the missing (node|op|operation)",
    "complete this incomplete (model|graph)",
    "put back what was removed",
    "~this graph is incomplete, finish it",
    "~(something|a node|an op) is missing, add it",
    "~(something|a node) (is|seems) missing",
    "(finish|complete) it",
    "fix the (broken|incomplete) (graph|model|network)",
    "~there is a (hole|gap) in the (graph|model|network), fill it",
    "close the gap in the (graph|network)",
    "make the (graph|model|network) (complete|whole)( again|)",
    "find the missing (op|node) and add it",
    "~what is missing here? add it",
    "reconstruct the (missing|lost|removed) (node|op)",
    "undo the damage to the (graph|model)",
    "~I (lost|deleted) a node, restore it",
    "~this (model|network) is unfinished, (finish|complete) it",
    "(add|restore|put back) the missing {op}",
    "~(a|the) {op} is missing",
    "~(a|the) {op} is missing, add it",
    "~the {op} got lost, put it back",
    "complete the graph: {op} is missing",
    "insert the {op} that is missing",
)
UNSEEN = (
    "~one piece of this model got lost, bring it back",
    "mend the graph",
    "round this architecture off",
    "~it lacks one node, supply it",
    "heal the network",
    "~the {op} went missing, reinstate it",
    "supply the lacking {op}",
)
_OTHER = {
    "Linear": say("linear layer", "linear", "projection", unseen=("dense layer",)),
    "Add": say("addition", "residual sum", "sum", "residual connection", unseen=("plus",)),
    "Conv": say("convolution", "conv", unseen=("convolution layer",)),
    "Mul": say("product", "multiplication", unseen=("factor",)),
    "Attention": say("attention", "self-attention", unseen=("attention op",)),
    "RotaryEmbedding": say("rotary embedding", "RoPE", unseen=("rotary op",)),
    "SqueezeExcite": say("squeeze-and-excitation", "SE block", unseen=("channel gate",)),
    "Scale": say("scale", "layer scale", unseen=("learned factor",)),
}


def completion_prompts() -> tuple[str, ...]:
    """The sentences of training that name no op, one of each way to choose."""
    rng = random.Random(0)
    return tuple(expand(t.lstrip("~"), rng) for t in SEEN if "{" not in t)


def repair_example(
    graph: Graph, opset: OpSet, rng: random.Random, *, unseen: bool = False, family: str = ""
) -> tuple[Graph, EditExample] | None:
    """An incomplete graph, and the request to complete it; None where no node can be taken out."""
    made = incomplete(graph, opset, rng)
    if made is None:
        return None
    rest, script = made
    added = next(step for step in script.steps if isinstance(step, Add))
    if not all(_writable(value) for _, value in added.settings):
        return None
    words = op_words(added.op)
    slots = {"op": words} if words is not None and rng.random() < 0.3 else {}
    seen, held_out = parse_templates(SEEN, UNSEEN)
    template = rng.choice(fitting(held_out if unseen else seen, slots))
    text = fill(template, slots, rng, unseen)
    request = Request(intent=NAME, values=(("structure", canonical_hash(graph)), ("op", added.op if slots else None)))
    return rest, EditExample(
        prompt=type_it(text, rng, imperative=template.imperative, unseen=unseen, exact=False), request=request,
        reading=READING, script=script, phrasing=f"{NAME}.{template.id}", seen=not unseen, family=family,
    )  # fmt: skip


def op_words(op: str) -> Phrases | None:
    """What people call an op, None where there is no usual word."""
    if op in NORM_NAMES:
        return NORM_NAMES[op]
    table = {name: words for name, attrs, words in NEW_ACTIVATIONS.values() if not attrs}
    return table.get(op) or _OTHER.get(op)


def incomplete(graph: Graph, opset: OpSet, rng: random.Random) -> tuple[Graph, EditScript] | None:
    """A graph with one node bypassed, and the script that puts it back; None where nothing fits."""
    choices = [(b, n) for b in graph.all_blocks for n in b.nodes if _can_go(b.types, n)]
    if not choices:
        return None
    block, node = rng.choice(choices)
    users = [(user, slot) for user, slot in block.users[node.name]]
    nodes = [
        replace(n, inputs=tuple(node.inputs[0] if v == node.name else v for v in n.inputs))
        for n in block.nodes
        if n.name != node.name
    ]
    outputs = tuple(node.inputs[0] if v == node.name else v for v in block.outputs)
    try:
        rest = replace_block(graph, replace(block, nodes=tuple(nodes), outputs=outputs))
    except GraphError:
        return None
    if prune_dead(rest).num_nodes != rest.num_nodes:
        return None
    calls = tuple(p.path for p in call_places(rest) if p.node.callee == block.name)
    name = fresh_name(rest.block_map[block.name], node.op, node.inputs)
    steps: list[Step] = [At(calls), Add(name, node.op, node.inputs, _settings(node, opset))]
    steps += [Rewire(user, slot, name) for user, slot in users]
    steps += [Rewire("", slot, name) for slot, value in enumerate(block.outputs) if value == node.name]
    return rest, EditScript(steps=tuple(steps))


def _settings(node: Node, opset: OpSet) -> tuple[tuple[str, Any], ...]:
    """The attributes that differ from their defaults, as a script sets them."""
    out = []
    for name, value in node.attrs:
        attr = opset[node.op].attr(name)
        sayable = not attr.required or isinstance(value, (int, str, tuple))
        if sayable and _literal(value) != _literal(attr.default):
            out.append((name, _literal(value)))
    return tuple(out)


def _can_go(types: Mapping[str, TensorType], node: Node) -> bool:
    """A node with one output, of the type of its first input, with attributes that a script can write."""
    if node.is_call or len(node.types) != 1 or not node.inputs or not node.inputs[0]:
        return False
    plain = all(v is None or isinstance(v, (bool, int, float, str)) or _uniform(v) for _, v in node.attrs)
    return plain and types[node.inputs[0]] == node.types[0]


def _uniform(value: object) -> bool:
    return isinstance(value, tuple) and len(set(value)) == 1 and isinstance(value[0], int)


def _literal(value: Any) -> Any:
    """An attribute value as a script's setting; what a script cannot say (`_writable`) stays as it is."""
    if isinstance(value, tuple):
        return Number.of(value[0]) if value and isinstance(value[0], int) and value[0] >= 0 else value
    return Number.of(value) if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else value


def _writable(value: object) -> bool:
    return value is None or isinstance(value, (bool, str, Number))
