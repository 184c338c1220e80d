"""From a draft to its answer: the script that it writes, and the words that it is asked in."""

import random
from functools import cache

from genmad.intents.anatomy import Anatomy
from genmad.intents.draft import Draft, Intent
from genmad.intents.fresh import FRESH
from genmad.intents.phrasing import Template, fill, fitting, parse_fresh, parse_templates
from genmad.intents.wordings import TEMPLATES
from genmad.intents.writing import GraphError, ScriptTooLong, ScriptWriter
from genmad.ir.graph import Graph
from genmad.ir.script import EditScript, Replace, SetAttrs

Answer = tuple[EditScript | None, bool, SetAttrs | Replace | None]
"""The script of a draft, whether it does what the draft says, and the step that cannot be met."""


def answer(parts: Anatomy, draft: Draft) -> Answer:
    """The answer to a draft. The same request gives the same script."""
    if draft.build is None:
        return None, True, None
    if draft.request not in parts.cache:
        parts.cache[draft.request] = write(parts.graph, draft)
    return parts.cache[draft.request]  # type: ignore[no-any-return]


def write(graph: Graph, draft: Draft) -> Answer:
    """Writes the script of a draft that has one."""
    writer = ScriptWriter(graph)
    impossible = draft.request.refusal == "not_divisible"
    assert draft.build is not None
    try:
        draft.build(writer)
        result = writer.state.close().graph
    except ScriptTooLong:
        return None, False, None
    except GraphError:
        blocked = writer.failed if isinstance(writer.failed, SetAttrs | Replace) else None
        return writer.script, impossible and bool(writer.steps), blocked
    return writer.script, not impossible and result != graph, None


def word_it(
    intent: Intent, draft: Draft, rng: random.Random, unseen: bool, *, imperative: bool = False, fresh: bool = False
) -> tuple[str, Template] | None:
    """The draft in words, by a template that says all of it and nothing else; None where there is none.

    Args:
        unseen: use the held-out templates.
        imperative: only templates that can stand in a longer sentence: imperative ones with one reading.
        fresh: use the second held-out set (see `fresh`) for the sentence and for the words of its targets.
    """
    seen, held_out = parse_templates((*intent.seen, *_more_templates(intent)), intent.unseen)
    if fresh:
        held_out = parse_fresh(FRESH.get(intent.name, ()))
    choices = fitting(held_out if unseen or fresh else seen, draft.slots)
    if imperative:
        choices = [t for t in choices if t.imperative and not t.ambiguous and not t.text.endswith((".", "?"))]
    if not choices:
        return None
    template = rng.choice(choices)
    return fill(template, draft.slots, rng, unseen, fresh), template


@cache
def _more_templates(intent: Intent) -> tuple[str, ...]:
    """The further templates of `wordings` that are not held out."""
    return tuple(text for text in TEMPLATES.get(intent.name, ()) if text not in intent.unseen)
