"""Two or three requests in one sentence: which go together, how they are joined, and the script that does all."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from genmad.intents.anatomy import Anatomy
from genmad.intents.answers import answer, word_it
from genmad.intents.draft import Draft, Intent
from genmad.intents.fresh import talk
from genmad.intents.fresh.targets import EVERY_LAYER, SAME_LAYER, SAME_LAYERS, WHOLE_MODEL
from genmad.intents.merging import Clash, merge
from genmad.intents.phrasing import Phrases, Template, parse_templates, type_it
from genmad.intents.types import EditExample, Request
from genmad.intents.writing import ScriptTooLong, edit_layers
from genmad.ir.diagnostics import GraphError
from genmad.ir.script import EditScript

THREE = 0.22
MAX_WORDS = 48
# Joints of two requests, and of three: {a}, {b}, {c}.
_TWO = (
    "{a} and {b}", "{a} and {b}", "{a}, and {b}", "{a}; {b}", "{a}, then {b}", "{a} and then {b}", "{a}. {b}",
    "{a} plus {b}", "{a}, also {b}", "{a}. Also {b}", "first {a}, then {b}", "{a} and also {b}", "{a}; also, {b}",
    "{a}, and at the same time {b}", "{a}. Then {b}", "{a} & {b}", "1. {a} 2. {b}", "both {a} and {b}",
)  # fmt: skip
_TWO_UNSEEN = (
    "{a} and, on top of that, {b}", "{a}; moreover {b}", "{a} as well as {b}", "{a}, afterwards {b}",
    "{a}, followed by this: {b}", "to begin with {a}, and next {b}",
)  # fmt: skip
_THREE = (
    "{a}, {b} and {c}", "{a}, {b}, and {c}", "{a}; {b}; {c}", "{a}, then {b}, then {c}", "{a}. {b}. {c}",
    "first {a}, then {b}, and finally {c}", "{a} and {b}, and also {c}", "1. {a} 2. {b} 3. {c}",
    "{a} and {b}. Then {c}", "{a}, {b}, also {c}",
)  # fmt: skip
_THREE_UNSEEN = (
    "{a}, next {b}, lastly {c}", "{a}; on top of that {b}; moreover {c}", "a) {a} b) {b} c) {c}",
    "{a}, {b}, and as a last step {c}",
)  # fmt: skip
# One place for all requests, said once.
_SHARED = ("in {t}, {x}", "in {t}: {x}", "for {t}: {x}", "{x}, all in {t}", "in {t} please {x}", "{x}, both in {t}")
_SHARED_UNSEEN = ("as for {t}, {x}", "where {t} is concerned, {x}")
_ALL = Phrases(("all layers", "every layer", "each layer", "all the layers"), ("each and every layer",), EVERY_LAYER)
_WHOLE = Phrases(
    ("the whole model", "the entire network", "the whole network", "the entire model"),
    ("the model as a whole",),
    WHOLE_MODEL,
)
_SAME_ONE = Phrases(
    ("the same layer", "that layer", "this layer", "the same layer too", "that same layer"),
    ("the very same layer",),
    SAME_LAYER,
)
_SAME = Phrases(
    ("the same layers", "those layers", "these layers", "the same ones"), ("the very same layers",), SAME_LAYERS
)
_UNDOES = frozenset({"remove_module", "long_conv"})
_HEADS = frozenset({"num_heads", "kv_heads", "gqa_to_mqa"})
# In one layer the order of the two would decide what the second one reads.
_APART = frozenset(frozenset(pair) for pair in (
    ("insert_norm", "local_attention_branch"), ("insert_norm", "conv_branch"), ("insert_norm", "long_conv"),
    ("num_heads", "local_attention_branch"), ("insert_norm", "qk_norm"),
))  # fmt: skip
# A layer that goes while another comes would give its name away.
_NEVER = frozenset(frozenset(pair) for pair in (
    ("remove_layer", "insert_layer"), ("remove_layer", "duplicate_layer"), ("remove_layer", "skip_connection"),
    ("depthwise_separable", "duplicate_layer"), ("depthwise_separable", "insert_layer"),
    ("remove_activation", "insert_conv"), ("swap_pooling", "remove_pooling"), ("swap_pooling", "token_mixer"),
    ("remove_layer",),
))  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Part:
    """One request of a sentence: what it is an example of, and the draft of it."""

    intent: Intent
    draft: Draft


def parts_of(request: Request) -> tuple[Request, ...]:
    """The requests of a sentence: those of `both`, else the one."""
    return tuple(request.value_map["parts"]) if request.intent == "both" else (request,)


def contradicts(request: Request) -> bool:
    """Whether requests of a sentence undo each other, as attention replaced and then given other heads."""
    found = parts_of(request)
    return any(_undoes(a, b) for i, a in enumerate(found) for b in found[i + 1 :])


def _undoes(a: Request, b: Request) -> bool:
    names = frozenset({a.intent, b.intent})
    for gone, kept in ((a, b), (b, a)):
        if gone.intent == "remove_layer" and kept.layers and set(kept.layers) <= set(gone.layers):
            return True
    if names in _NEVER:
        return True
    if names not in _APART and not names & _UNDOES and not names <= _HEADS:
        return False
    return bool(set(a.layers) & set(b.layers)) or not (a.layers and b.layers)


def combined(
    parts: Anatomy, intents: Sequence[Intent], rng: random.Random, unseen: bool, tries: int = 10, fresh: bool = False
) -> EditExample | None:
    """Two or three requests in one sentence; None where nothing fits."""
    for _ in range(tries):
        count = 3 if rng.random() < THREE else 2
        drawn = _draw(parts, intents, rng, count)
        example = _example(parts, drawn, rng, unseen, fresh) if drawn is not None else None
        if example is not None:
            return example
    return None


def _draw(parts: Anatomy, intents: Sequence[Intent], rng: random.Random, count: int) -> list[_Part] | None:
    """That many requests that can be met, each by itself."""
    able = [intent for intent in intents if intent.combines]
    found: list[_Part] = []
    for _ in range(6 * count):
        intent = rng.choices(able, [i.weight for i in able])[0]
        draft = intent.propose(parts, rng)
        if draft is None or draft.request.refusal or draft.build is None:
            continue
        if any(p.intent is intent and _overlap(p.draft, draft) for p in found):
            continue
        found.append(_Part(intent, draft))
        if len(found) == count:
            return found
    return None


def _overlap(a: Draft, b: Draft) -> bool:
    """Whether two requests of one kind speak of one place."""
    return not a.layers or not b.layers or bool(set(a.layers) & set(b.layers))


def _example(parts: Anatomy, drawn: list[_Part], rng: random.Random, unseen: bool, fresh: bool) -> EditExample | None:
    roll = rng.random()
    shared = None
    if roll < 0.5:
        drawn, shared = _together(parts, drawn, once=roll < 0.25)
    request = Request(intent="both", values=(("parts", tuple(p.draft.request for p in drawn)),))
    if contradicts(request):
        return None
    script = _script(parts, request, drawn)
    if script is None:
        return None
    worded = _sentence(drawn, shared, rng, unseen, fresh)
    if worded is None:
        return None
    text, marks = worded
    prompt = type_it(text, rng, imperative=True, unseen=unseen, exact=any(p.draft.exact for p in drawn))
    return EditExample(
        prompt=prompt, request=request, reading=drawn[0].intent.reading, script=script,
        phrasing=f"both.{marks}", seen=not unseen,
    )  # fmt: skip


def _together(parts: Anatomy, drawn: list[_Part], *, once: bool) -> tuple[list[_Part], Phrases | None]:
    """The requests moved to the layers of the first one, where they fit there; and the words for a place said once."""
    first = drawn[0].draft
    if "target" not in first.slots or not first.layers or first.edit is None:
        return drawn, None
    moved = [_moved(parts, p, first, once) for p in drawn[1:]]
    if once and all(m is not None for m in moved):
        bare = {k: v for k, v in first.slots.items() if k != "target"}
        rest = [m for m in moved if m is not None]
        return [_Part(drawn[0].intent, replace(first, slots=bare)), *rest], first.slots["target"]
    again = [_moved(parts, p, first, False) for p in drawn[1:]]
    return [drawn[0], *(m or p for m, p in zip(again, drawn[1:], strict=True))], None


def _moved(parts: Anatomy, part: _Part, first: Draft, once: bool) -> _Part | None:
    """The request in the layers of the first one, said as "the same layers" or, said `once`, not at all."""
    draft = part.draft
    edit = draft.edit
    if edit is None or draft.request.nodes or any(layer not in draft.layers for layer in first.layers):
        return None
    slots = {k: v for k, v in draft.slots.items() if k != "target"}
    if not once:
        slots["target"] = _SAME_ONE if len(first.layers) == 1 else _SAME
    layers = first.layers
    return replace(
        part,
        draft=replace(
            draft,
            request=replace(draft.request, layers=first.request.layers),
            layers=layers,
            slots=slots,
            build=lambda writer: edit_layers(writer, parts, layers, edit),
            exact=False,
        ),
    )


def _script(parts: Anatomy, request: Request, drawn: Sequence[_Part]) -> EditScript | None:
    """The script that does all, None where the requests do not go together."""
    if request not in parts.cache:
        parts.cache[request] = _merged(parts, drawn)
    return parts.cache[request]  # type: ignore[no-any-return]


def _merged(parts: Anatomy, drawn: Sequence[_Part]) -> EditScript | None:
    scripts = []
    for part in drawn:
        script, fits, _ = answer(parts, part.draft)
        if script is None or not fits:
            return None
        scripts.append(script)
    try:
        return merge(parts, scripts)
    except (Clash, GraphError, ScriptTooLong):
        return None


def _sentence(
    drawn: Sequence[_Part], shared: Phrases | None, rng: random.Random, unseen: bool, fresh: bool
) -> tuple[str, str] | None:
    """The sentence, and the names of its templates."""
    said = []
    for part in drawn:
        worded = _clause(part, rng, unseen, spoken=shared is not None, fresh=fresh)
        if worded is None:
            return None
        said.append(worded)
    held_out = unseen and rng.random() < 0.5
    patterns: tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]] = (_TWO, _THREE, _SHARED)
    if held_out:
        patterns = _TWO_UNSEEN, _THREE_UNSEEN, _SHARED_UNSEEN
    two, three, once = patterns
    if fresh:
        two, three, once = talk.TWO, talk.THREE, talk.SHARED
    joint = rng.choice(three if len(said) == 3 else two)
    text = joint
    for letter, (clause, _) in zip("abc", said, strict=False):
        text = text.replace(f"{{{letter}}}", clause)
    if shared is not None:
        pattern = rng.choice(once)
        if "both" in pattern and len(said) != 2:
            return None
        place, _ = shared.pick(rng, unseen and rng.random() < 0.5, fresh)
        text = pattern.replace("{t}", place).replace("{x}", text)
    if len(text.split()) > MAX_WORDS:
        return None
    return text, "+".join(f"{p.intent.name}.{template.id}" for p, (_, template) in zip(drawn, said, strict=True))


def _clause(part: _Part, rng: random.Random, unseen: bool, *, spoken: bool, fresh: bool) -> tuple[str, Template] | None:
    """One request in words. Where every layer is meant, that is said, unless the place is `spoken` of already."""
    draft = part.draft
    if not spoken and "target" not in draft.slots and _can_say_where(part.intent):
        where = _ALL if draft.layers else _WHOLE
        worded = word_it(
            part.intent,
            replace(draft, slots={**draft.slots, "target": where}),
            rng,
            unseen,
            imperative=True,
            fresh=fresh,
        )
        if worded is not None:
            return worded
    return word_it(part.intent, draft, rng, unseen, imperative=True, fresh=fresh)


def _can_say_where(intent: Intent) -> bool:
    seen, _ = parse_templates(intent.seen, intent.unseen)
    return any("target" in template.has for template in seen)
