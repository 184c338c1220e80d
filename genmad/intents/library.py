"""The library of edits: draws (graph, sentence, script) examples of every intent."""

import random
from collections.abc import Iterator
from dataclasses import replace

from genmad.intents.anatomy import Anatomy, anatomy
from genmad.intents.answers import answer, word_it, write
from genmad.intents.attention import ATTENTION
from genmad.intents.budgets import BUDGET
from genmad.intents.classifier import CLASSIFIER
from genmad.intents.combining import combined, contradicts
from genmad.intents.conv import CONV
from genmad.intents.conv_attributes import CONV_ATTRIBUTES
from genmad.intents.conv_layers import CONV_LAYERS
from genmad.intents.conv_width import CONV_WIDTH
from genmad.intents.draft import Draft, Intent
from genmad.intents.dropout import TRAINING_ONLY
from genmad.intents.heads import HEADS
from genmad.intents.hierarchy import HIERARCHY
from genmad.intents.layers import LAYERS
from genmad.intents.lora import ADAPTING
from genmad.intents.mlp import MLP
from genmad.intents.nonsense import sentence
from genmad.intents.norm import NORM
from genmad.intents.norm_removal import NORM_REMOVAL
from genmad.intents.phrasing import Template, expand, type_it
from genmad.intents.pooling import POOLING
from genmad.intents.primitives import PRIMITIVES
from genmad.intents.scaling import SCALING
from genmad.intents.settings import SETTINGS
from genmad.intents.style import STYLE
from genmad.intents.sublayers import SUBLAYERS
from genmad.intents.types import EditExample, Request
from genmad.ir.graph import Graph

__all__ = ["BY_NAME", "INTENTS", "contradicts", "sample_example", "sample_examples"]

INTENTS: tuple[Intent, ...] = (
    *ATTENTION,
    *HEADS,
    *MLP,
    *NORM,
    *LAYERS,
    *ADAPTING,
    *CONV,
    *CONV_ATTRIBUTES,
    CONV_WIDTH,
    *POOLING,
    *CONV_LAYERS,
    *NORM_REMOVAL,
    *CLASSIFIER,
    BUDGET,
    TRAINING_ONLY,
    *PRIMITIVES,
    *HIERARCHY,
    *STYLE,
    *SUBLAYERS,
    *SCALING,
    *SETTINGS,
)
BY_NAME = {intent.name: intent for intent in INTENTS}
REFUSED, NONSENSE, COMBINED = 0.07, 0.03, 0.14


def sample_example(
    graph: Graph,
    rng: random.Random,
    *,
    intent: str | None = None,
    unseen: bool = False,
    family: str = "",
    tries: int = 40,
    others: bool = False,
    fresh: bool = False,
) -> EditExample | None:
    """One example over the graph; None where nothing fits in `tries` attempts.

    Args:
        intent: name of the only intent to draw from, `both` and `nonsense` included.
        unseen: use the held-out phrasings, which training never sees.
        others: answer a prompt that can be read two ways by the other reading as often as its probability says, so
            that a model learns the probabilities.
        fresh: draw sentences, words for targets, off-topic sentences and joints from the second held-out set (see
            `genmad.intents.fresh`) alone; for evaluation only. The other slots are as with `unseen`, which it implies.
    """
    unseen = unseen or fresh
    parts = anatomy(graph)
    # Drawn once: kinds of requests that fit less often would else be drawn again and again for others.
    refuses, roll = rng.random() < REFUSED, rng.random()
    if intent is None and not refuses and roll < NONSENSE + COMBINED:
        intent = "nonsense" if roll < NONSENSE else "both"
    for attempt in range(tries):
        example = _attempt(parts, rng, intent, unseen, fresh, refuses or (intent is not None and attempt % 8 == 7))
        if example is not None:
            example = replace(example, family=family)
            return _other_reading(parts, example, rng) if others and example.alternatives else example
    return None


def sample_examples(
    graph: Graph, rng: random.Random, n: int, *, unseen: bool = False, family: str = ""
) -> Iterator[EditExample]:
    """Up to `n` examples over the graph."""
    for _ in range(n):
        example = sample_example(graph, rng, unseen=unseen, family=family)
        if example is not None:
            yield example


def _attempt(
    parts: Anatomy, rng: random.Random, name: str | None, unseen: bool, fresh: bool, refuses: bool
) -> EditExample | None:
    if name == "nonsense":
        return _nonsense(rng, unseen, fresh)
    if name == "both":
        return combined(parts, INTENTS, rng, unseen, fresh=fresh)
    intent = BY_NAME[name] if name else rng.choices(INTENTS, [i.weight for i in INTENTS])[0]
    propose = rng.choice(intent.refuse) if refuses and intent.refuse else intent.propose
    draft = propose(parts, rng)
    if draft is None:
        return None
    script, fits, blocked = answer(parts, draft)
    if not fits:
        return None
    if draft.other is not None:
        parts.others[draft.request] = draft.other
    worded = word_it(intent, draft, rng, unseen, fresh=fresh)
    if worded is None:
        return None
    text, template = worded
    prompt = type_it(text, rng, imperative=template.imperative, unseen=unseen, exact=draft.exact)
    return EditExample(
        prompt=prompt, request=draft.request, reading=intent.reading, script=script, blocked=blocked,
        alternatives=_others(intent, template),
        phrasing=f"{intent.name}.{template.id}", seen=not unseen,
    )  # fmt: skip


def _others(intent: Intent, template: Template) -> tuple[tuple[str, float], ...]:
    if intent.other is None:
        return ()
    reading, plain, ambiguous = intent.other
    return ((reading, ambiguous if template.ambiguous else plain),)


def _other_reading(parts: Anatomy, example: EditExample, rng: random.Random) -> EditExample:
    """The example, or the same prompt answered by its other reading."""
    (reading, probability), build = example.alternatives[0], parts.others.get(example.request)
    if build is None or rng.random() >= probability:
        return example
    script, fits, _ = write(parts.graph, Draft(request=example.request, slots={}, build=build))
    return replace(example, reading=reading, script=script) if fits else example


def _nonsense(rng: random.Random, unseen: bool, fresh: bool) -> EditExample:
    text, kind = sentence(rng, unseen, fresh)
    prompt = type_it(
        expand(text, rng).strip(), rng, imperative=kind == "topic" and rng.random() < 0.3, unseen=unseen, exact=False
    )
    request = Request(intent="nonsense", refusal="not_understood")
    mark = "f" if fresh else "u" if unseen else "s"
    return EditExample(
        prompt=prompt, request=request, reading="", script=None, phrasing=f"nonsense.{mark}_{kind}", seen=not unseen
    )
