"""Objectives that write a script: prompted edits from the library of intents, and completion of an incomplete graph."""

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

from genmad.intents.library import sample_example
from genmad.intents.nonsense import word
from genmad.intents.repair import completion_prompts, incomplete, repair_example
from genmad.ir import Graph, GraphError
from genmad.ir.script import EditScript, Replace, SetAttrs
from genmad.model.collate import Source
from genmad.tokenizer import GrammarError, GraphReader, GraphTokens, Mask, ScriptGrammar, Token, encode_script

__all__ = ["COMPLETION_PROMPTS", "ScriptExample", "blur_words", "completion_example", "edit_example", "incomplete"]

COMPLETION_PROMPTS = completion_prompts()
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
        written, _, masks = encode_script(compiled, script, reading=reading, refusal=refusal, blocked=blocked)
    except (GrammarError, GraphError):
        return None
    if len(written) > 250:
        return None
    return ScriptExample(source=Source.of(tokens, pieces, prompt), tokens=written, masks=masks)


def completion_example(
    graph: Graph, reader: GraphReader, grammar: ScriptGrammar, rng: random.Random
) -> ScriptExample | None:
    """An incomplete graph and the script that completes it."""
    made = repair_example(graph, grammar.opset, rng)
    if made is None:
        return None
    rest, example = made
    return _encode(rest, reader.read(rest), reader, grammar, example.prompt, example.script, example.reading)
