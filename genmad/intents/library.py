"""The library of edits: draws (graph, sentence, script) examples of every intent."""

import random
from collections.abc import Iterator
from dataclasses import replace
from functools import cache

from genmad.intents.anatomy import Anatomy, Layer, anatomy
from genmad.intents.attention import ATTENTION
from genmad.intents.conv import CONV
from genmad.intents.draft import Draft, Intent
from genmad.intents.heads import HEADS
from genmad.intents.layers import LAYERS
from genmad.intents.lora import ADAPTING
from genmad.intents.mlp import MLP
from genmad.intents.nonsense import sentence
from genmad.intents.norm import NORM
from genmad.intents.phrasing import Phrases, Template, expand, fill, fitting, parse_templates, type_it
from genmad.intents.types import EditExample, Request
from genmad.intents.wordings import TEMPLATES
from genmad.intents.writing import GraphError, ScriptTooLong, ScriptWriter
from genmad.ir.graph import Graph
from genmad.ir.script import EditScript, Replace, SetAttrs

INTENTS: tuple[Intent, ...] = (*ATTENTION, *HEADS, *MLP, *NORM, *LAYERS, *ADAPTING, *CONV)
BY_NAME = {intent.name: intent for intent in INTENTS}
REFUSED, NONSENSE, COMBINED = 0.07, 0.03, 0.13
_JOINTS = (" and ", ", and ", "; ", ", then ", " and then ", ". ", " plus ", ", also ")
_JOINTS_UNSEEN = (" and, on top of that, ", "; moreover ", " as well as ", ", afterwards ")


def sample_example(
    graph: Graph,
    rng: random.Random,
    *,
    intent: str | None = None,
    unseen: bool = False,
    family: str = "",
    tries: int = 40,
    others: bool = False,
) -> EditExample | None:
    """One example over the graph; None where nothing fits in `tries` attempts.

    Args:
        intent: name of the only intent to draw from, `both` and `nonsense` included.
        unseen: use the held-out phrasings, which training never sees.
        others: answer a prompt that can be read two ways by the other reading as often as its probability says, so
            that a model learns the probabilities.
    """
    parts = anatomy(graph)
    refuses = rng.random() < REFUSED
    for attempt in range(tries):
        # Whether to refuse is drawn once, else graphs on which few intents fit would be refused too often.
        example = _attempt(parts, rng, intent, unseen, refuses or (intent is not None and attempt % 8 == 7))
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


def _attempt(parts: Anatomy, rng: random.Random, name: str | None, unseen: bool, refuses: bool) -> EditExample | None:
    roll = 1.0 if refuses else rng.random()
    if name == "nonsense" or (name is None and roll < NONSENSE):
        return _nonsense(rng, unseen)
    if name == "both" or (name is None and roll < NONSENSE + COMBINED):
        return next((e for _ in range(10) if (e := _both(parts, rng, unseen)) is not None), None)
    intent = BY_NAME[name] if name else rng.choices(INTENTS, [i.weight for i in INTENTS])[0]
    propose = rng.choice(intent.refuse) if refuses and intent.refuse else intent.propose
    draft = propose(parts, rng)
    if draft is None:
        return None
    script, fits, blocked = _script(parts, draft)
    if not fits:
        return None
    if draft.other is not None:
        parts.others[draft.request] = draft.other
    worded = _word(intent, draft, rng, unseen)
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


def _word(intent: Intent, draft: Draft, rng: random.Random, unseen: bool) -> tuple[str, Template] | None:
    seen, held_out = parse_templates((*intent.seen, *_more_templates(intent)), intent.unseen)
    choices = fitting(held_out if unseen else seen, draft.slots)
    if not choices:
        return None
    template = rng.choice(choices)
    return fill(template, draft.slots, rng, unseen), template


def _other_reading(parts: Anatomy, example: EditExample, rng: random.Random) -> EditExample:
    """The example, or the same prompt answered by its other reading."""
    (reading, probability), build = example.alternatives[0], parts.others.get(example.request)
    if build is None or rng.random() >= probability:
        return example
    script, fits, _ = _write(parts.graph, Draft(request=example.request, slots={}, build=build))
    return replace(example, reading=reading, script=script) if fits else example


@cache
def _more_templates(intent: Intent) -> tuple[str, ...]:
    """The further templates of `wordings` that are not held out."""
    return tuple(text for text in TEMPLATES.get(intent.name, ()) if text not in intent.unseen)


def _script(parts: Anatomy, draft: Draft) -> tuple[EditScript | None, bool, SetAttrs | Replace | None]:
    """The script of a draft, whether it does what the draft says, and the step that cannot be met.

    The same request gives the same script.
    """
    if draft.build is None:
        return None, True, None
    key = draft.request
    if key not in parts.cache:
        parts.cache[key] = _write(parts.graph, draft)
    return parts.cache[key]  # type: ignore[no-any-return]


def _write(graph: Graph, draft: Draft) -> tuple[EditScript | None, bool, SetAttrs | Replace | None]:
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


def _nonsense(rng: random.Random, unseen: bool) -> EditExample:
    text, kind = sentence(rng, unseen)
    prompt = type_it(
        expand(text, rng).strip(), rng, imperative=kind == "topic" and rng.random() < 0.3, unseen=unseen, exact=False
    )
    request = Request(intent="nonsense", refusal="not_understood")
    mark = "u" if unseen else "s"
    return EditExample(
        prompt=prompt, request=request, reading="", script=None, phrasing=f"nonsense.{mark}_{kind}", seen=not unseen
    )


def _both(parts: Anatomy, rng: random.Random, unseen: bool) -> EditExample | None:
    """Two edits inside layers in one sentence: in the same layers, or in different ones."""
    first, second = rng.choices([i for i in INTENTS], [i.weight for i in INTENTS], k=2)
    a = first.propose(parts, rng)
    if a is None or a.edit is None or a.request.refusal or "target" not in a.slots:
        return None
    b = second.propose(parts, rng)
    if b is None or b.edit is None or b.request.refusal or "target" not in b.slots:
        return None
    if first is second and set(a.layers) & set(b.layers):
        return None
    if first is not second and rng.random() < 0.5:
        b = _moved(parts, b, a)
        if b is None:
            return None
    request = Request(intent="both", values=(("parts", (a.request, b.request)),))
    if contradicts(request):
        return None
    script, fits, _ = _script(
        parts, Draft(request=request, slots={}, build=lambda writer: _write_both(writer, parts, a, b))
    )
    worded = (
        (_word(first, a, rng, unseen), _word(second, b, rng, unseen)) if fits and script is not None else (None, None)
    )
    if worded[0] is None or worded[1] is None:
        return None
    (x, template), (y, other) = worded[0], worded[1]
    if not (template.imperative and other.imperative) or template.ambiguous or other.ambiguous:
        return None
    joint = rng.choice(_JOINTS_UNSEEN if unseen and rng.random() < 0.5 else _JOINTS)
    prompt = type_it(x + joint + y, rng, imperative=True, unseen=unseen, exact=a.exact or b.exact)
    return EditExample(
        prompt=prompt, request=request, reading=first.reading, script=script,
        phrasing=f"both.{first.name}.{template.id}+{second.name}.{other.id}", seen=not unseen,
    )  # fmt: skip


def contradicts(request: Request) -> bool:
    """Whether the two requests of a sentence undo each other, as attention replaced and then given other heads."""
    if request.intent != "both":
        return False
    first, second = request.value_map["parts"]
    names = {first.intent, second.intent}
    undoes = names & {"remove_module", "long_conv"} or names <= {"num_heads", "kv_heads", "gqa_to_mqa"}
    return bool(undoes and set(first.layers) & set(second.layers))


def _moved(parts: Anatomy, b: Draft, a: Draft) -> Draft | None:
    """Draft `b` in the layers of `a`, said as "the same layers"."""
    del parts
    if any(layer not in b.layers for layer in a.layers) or b.request.nodes:
        return None
    one = len(a.layers) == 1
    words = (
        Phrases(("the same layer", "that layer", "this layer"), ("the very same layer",))
        if one
        else Phrases(("the same layers", "those layers"), ("the very same layers",))
    )
    return replace(
        b, request=replace(b.request, layers=a.request.layers), layers=a.layers, slots={**b.slots, "target": words}
    )


def _write_both(writer: ScriptWriter, parts: Anatomy, a: Draft, b: Draft) -> None:
    """Sections in execution order; in each block what concerns it, the first edit before the second."""
    groups: dict[tuple[str, bool, bool], list[Layer]] = {}
    chosen = {*a.layers, *b.layers}
    for layer in parts.layers:
        if layer in chosen:
            groups.setdefault((layer.block, layer in a.layers, layer in b.layers), []).append(layer)
    for (block, in_a, in_b), layers in groups.items():
        writer.at(*(layer.path for layer in layers))
        for draft, wanted in ((a, in_a), (b, in_b)):
            if wanted and draft.edit is not None:
                draft.edit(writer, parts.roles(block))
