"""Objectives that write a script: prompted edits from the library of intents, and completion of an incomplete graph."""

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from genmad.intents.library import sample_example
from genmad.intents.nonsense import word
from genmad.ir import Graph, GraphError, Node, OpSet, TensorType, places, prune_dead, replace_block
from genmad.ir.script import Add, At, EditScript, Number, Replace, Rewire, SetAttrs, Step, fresh_name
from genmad.model.collate import Source
from genmad.tokenizer import GrammarError, GraphReader, GraphTokens, Mask, ScriptGrammar, Token, encode_script

COMPLETION_PROMPTS = (
    "complete the graph", "fill in what is missing", "finish this architecture", "add the missing op",
    "repair the network", "restore the missing node", "complete this incomplete model", "put back what was removed",
)  # fmt: skip

NOISE = 0.4


@dataclass(frozen=True, kw_only=True)
class ScriptExample:
    """A source, the tokens to write, and the grammar's mask before each."""

    source: Source
    tokens: Sequence[Token]
    masks: Sequence[Mask]


def blur_words(prompt: str, share: float, rng: random.Random) -> str:
    """Leaves words out at random, or puts words in their place that mean nothing; never numbers or names."""
    kept = []
    for text in prompt.split():
        if rng.random() >= share or re.search(r"[\d_.]", text):
            kept.append(text)
        elif rng.random() < NOISE:
            kept.append(word(rng))
    return " ".join(kept) if kept else prompt


def edit_example(
    graph: Graph,
    tokens: GraphTokens,
    reader: GraphReader,
    grammar: ScriptGrammar,
    rng: random.Random,
    word_dropout: float,
) -> ScriptExample | None:
    """One request over `graph` with its script; None where the library has none or the script is too long."""
    example = sample_example(graph, rng, others=True)
    if example is None:
        return None
    script, reading = example.script, example.reading
    prompt = blur_words(example.prompt, word_dropout, rng) if not example.request.refusal else example.prompt
    return _encode(graph, tokens, reader, grammar, prompt, script, reading, example.request.refusal, example.blocked)


def _encode(
    graph: Graph, tokens: GraphTokens, reader: GraphReader, grammar: ScriptGrammar, prompt: str,
    script: EditScript | None, reading: str, refusal: str = "", blocked: SetAttrs | Replace | None = None,
) -> ScriptExample | None:  # fmt: skip
    if refusal and script is not None and blocked is None:
        return None
    pieces = reader.text.encode(prompt, tokens.all_names)
    compiled = grammar.compile(graph, tokens, pieces)
    try:
        written, states = encode_script(compiled, script, reading=reading, refusal=refusal, blocked=blocked)
    except (GrammarError, GraphError):
        return None
    if len(written) > 250:
        return None
    return ScriptExample(source=Source.of(tokens, pieces, prompt), tokens=written, masks=[s.mask() for s in states])


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
    calls = _calls_of(rest, block.name)
    name = fresh_name(rest.block_map[block.name], node.op, node.inputs)
    settings = _settings(node, opset)
    steps: list[Step] = [At(calls), Add(name, node.op, node.inputs, settings)]
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


def _calls_of(graph: Graph, name: str) -> tuple[str, ...]:
    return tuple(p.path for p in places(graph) if p.node.callee == name)


def completion_example(
    graph: Graph, reader: GraphReader, grammar: ScriptGrammar, rng: random.Random
) -> ScriptExample | None:
    """An incomplete graph and the script that completes it."""
    made = incomplete(graph, grammar.opset, rng)
    if made is None:
        return None
    rest, script = made
    if any(not _writable(value) for step in script.steps if isinstance(step, Add) for _, value in step.settings):
        return None
    return _encode(rest, reader.read(rest), reader, grammar, rng.choice(COMPLETION_PROMPTS), script, "complete")


def _writable(value: object) -> bool:
    return value is None or isinstance(value, (bool, str, Number))
