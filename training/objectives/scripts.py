"""Objectives that write a script: prompted edits from the library of intents, and completion of an incomplete graph."""

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from genmad.intents.library import sample_example
from genmad.ir import Graph, GraphError, Node, OpSet, prune_dead, replace_block
from genmad.ir.script import Add, At, EditScript, Number, Rewire, Step, fresh_name
from genmad.model.collate import Source
from genmad.tokenizer import GraphReader, GraphTokens, GrammarError, Mask, ScriptGrammar, Token, encode_script

COMPLETION_PROMPTS = (
    "complete the graph", "fill in what is missing", "finish this architecture", "add the missing op", "repair the network",
    "restore the missing node", "complete this incomplete model", "put back what was removed",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ScriptExample:
    """A source, the tokens to write, and the grammar's mask before each."""

    source: Source
    tokens: Sequence[Token]
    masks: Sequence[Mask]


def drop_words(prompt: str, share: float, rng: random.Random) -> str:
    """Leaves words out at random, never numbers or names."""
    kept = [w for w in prompt.split() if rng.random() >= share or re.search(r"[\d_.]", w)]
    return " ".join(kept) if kept else prompt


def edit_example(
    graph: Graph, tokens: GraphTokens, reader: GraphReader, grammar: ScriptGrammar, rng: random.Random, word_dropout: float
) -> ScriptExample | None:
    """One request over `graph` with its script; None where the library has none or the script is too long."""
    example = sample_example(graph, rng, others=True)
    if example is None:
        return None
    script, reading = example.script, example.reading
    prompt = drop_words(example.prompt, word_dropout, rng) if not example.request.refusal else example.prompt
    return _encode(graph, tokens, reader, grammar, prompt, script, reading, example.request.refusal, example.blocked)


def _encode(
    graph: Graph, tokens: GraphTokens, reader: GraphReader, grammar: ScriptGrammar, prompt: str, script: EditScript | None,
    reading: str, refusal: str = "", blocked: object = None,
) -> ScriptExample | None:  # fmt: skip
    pieces = reader.text.encode(prompt, tokens.all_names)
    compiled = grammar.compile(graph, tokens, pieces)
    try:
        written, states = encode_script(compiled, script, reading=reading, refusal=refusal, blocked=blocked)  # type: ignore[arg-type]
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
        replace(n, inputs=tuple(node.inputs[0] if v == node.name else v for v in n.inputs)) for n in block.nodes if n.name != node.name
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
    settings = tuple((k, _literal(v)) for k, v in node.attrs if not opset[node.op].attr(k).required or isinstance(v, (int, str, tuple)))
    settings = tuple((k, v) for k, v in settings if v != _literal(opset[node.op].attr(k).default))
    steps: list[Step] = [At(calls), Add(name, node.op, node.inputs, settings)]
    steps += [Rewire(user, slot, name) for user, slot in users]
    steps += [Rewire("", slot, name) for slot, value in enumerate(block.outputs) if value == node.name]
    return rest, EditScript(steps=tuple(steps))


def _can_go(types: object, node: Node) -> bool:
    """A node with one output, of the type of its first input, with attributes that a script can write."""
    if node.is_call or len(node.types) != 1 or not node.inputs or not node.inputs[0]:
        return False
    plain = all(v is None or isinstance(v, (bool, int, float, str)) or _uniform(v) for _, v in node.attrs)
    return plain and types[node.inputs[0]] == node.types[0]  # type: ignore[index]


def _uniform(value: object) -> bool:
    return isinstance(value, tuple) and len(set(value)) == 1 and isinstance(value[0], int)


def _literal(value: object) -> object:
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return value
    if isinstance(value, tuple):
        return Number.of(value[0]) if value and isinstance(value[0], int) and value[0] >= 0 else value
    if isinstance(value, int) and value >= 0:
        return Number.of(value)
    return value


def _calls_of(graph: Graph, name: str) -> tuple[str, ...]:
    from genmad.ir import places

    return tuple(p.path for p in places(graph) if p.node.callee == name)


def completion_example(graph: Graph, reader: GraphReader, grammar: ScriptGrammar, rng: random.Random) -> ScriptExample | None:
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
