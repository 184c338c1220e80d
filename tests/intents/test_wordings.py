"""The further training templates: each is well formed, can be used, and says nothing that is held out."""

import random
import re
import string
from collections.abc import Iterator
from functools import cache
from itertools import product

import pytest

from genmad.intents import targets
from genmad.intents.anatomy import Anatomy, anatomy
from genmad.intents.draft import Draft, Intent
from genmad.intents.library import BY_NAME
from genmad.intents.phrasing import expand, fill, fitting, parse_templates
from genmad.intents.wordings import TARGETS, TEMPLATES
from tests.intents.test_library import graphs

_CHOICE = re.compile(r"\(([^()]*)\)")
_PART = re.compile(r"\[([^\[\]]*)\]")


def test_every_wording_belongs_to_an_intent_and_occurs_once() -> None:
    assert set(TEMPLATES) <= set(BY_NAME)
    for name, texts in TEMPLATES.items():
        said = [bare(t) for t in (*BY_NAME[name].seen, *texts)]
        twice = sorted({t for t in texts if said.count(bare(t)) > 1})
        assert not twice, (name, twice[:5])


@pytest.mark.parametrize("name", sorted(TEMPLATES))
def test_every_wording_is_well_formed(name: str) -> None:
    """Brackets that do not pair would come out as characters of the sentence."""
    rng = random.Random(0)
    for text in TEMPLATES[name]:
        assert text.isascii(), text
        left = expand(_PART.sub(r"\1", text.lstrip("~?")), rng)
        assert not set("()[]") & set(left), text
        assert text.count("<") == len(re.findall(r"(?<!-)>", text)), text
        assert all(field is None or field.isidentifier() for _, field, _, _ in string.Formatter().parse(text)), text
        if text.lstrip("?")[0] != "~":
            assert text.lstrip("?")[0] in string.ascii_lowercase + "({L", text  # LoRAfy


def drafts(intent: Intent) -> Iterator[Draft]:
    """Drafts of an intent over small graphs, the ones that are refused included."""
    rng = random.Random(1)
    for turn in range(200):
        for parts in anatomies():
            for propose in (intent.propose, *intent.refuse) if turn < 20 or turn % 4 == 0 else (intent.propose,):
                draft = propose(parts, rng)
                if draft is not None:
                    yield draft


@cache
def anatomies() -> tuple[Anatomy, ...]:
    return tuple(anatomy(graph) for graph in graphs().values())


@pytest.mark.parametrize("name", sorted(TEMPLATES))
def test_every_wording_fits_an_example(name: str) -> None:
    """A template whose slots no request fills would never be seen in training."""
    free, _ = parse_templates(TEMPLATES[name], ())
    rng, known = random.Random(2), set()
    for draft in drafts(BY_NAME[name]):
        if frozenset(draft.slots) in known:
            continue
        known.add(frozenset(draft.slots))
        for template in fitting(free, draft.slots):
            text = fill(template, draft.slots, rng, unseen=False)
            assert text
            plain = re.sub(r"\[\d+\]", "", text)  # h[3]
            assert not re.search(r"[\[\]{}|<~]|\s\s| ,", plain), (template.text, text)
        free = tuple(t for t in free if not fitting((t,), draft.slots))
        if not free:
            break
    assert not free, [t.text for t in free][:5]


@pytest.mark.parametrize("name", list(BY_NAME))
def test_no_phrase_of_a_slot_is_held_out_too(name: str) -> None:
    for turn, draft in enumerate(drafts(BY_NAME[name])):
        for slot, phrases in draft.slots.items():
            both = {bare(text) for text in phrases.seen} & {bare(text) for text in phrases.unseen}
            assert not both, (slot, both)
        if turn > 60:
            break


@cache
def pattern(text: str) -> re.Pattern[str]:
    """Every reading of a template, without spaces and capitals, slots as `{name}`."""
    rest = re.sub(r"\s", "", bare(text))
    out, at = [], 0
    for match in re.finditer(r"[()|\[\]]", rest):
        out += [re.escape(rest[at : match.start()]), {"(": "(?:", "[": "(?:", "]": ")?"}.get(match[0], match[0])]
        at = match.end()
    return re.compile("".join(out) + re.escape(rest[at:]))


def readings(text: str) -> set[str]:
    """Every reading of a template as `pattern` writes it."""
    rest = re.sub(r"\s", "", bare(text))
    pieces = re.split(r"(\[[^\[\]]*\])", rest)
    options = [("", p[1:-1]) if p.startswith("[") else (p,) for p in pieces]
    return {filled for chosen in product(*options) for filled in choices("".join(chosen))}


def choices(text: str) -> list[str]:
    match = _CHOICE.search(text)
    if match is None:
        return [text]
    return [
        piece for word in match[1].split("|") for piece in choices(text[: match.start()] + word + text[match.end() :])
    ]


def bare(text: str) -> str:
    return text.lstrip("~?").lower().rstrip(" .!?")


@pytest.mark.parametrize("name", sorted(TEMPLATES))
def test_no_wording_says_what_is_held_out(name: str) -> None:
    """Guards the measured drop on unseen phrasings: no reading of a held-out template is a reading of these."""
    held_out = {reading for text in BY_NAME[name].unseen for reading in readings(text)}
    clash = [t for t in TEMPLATES[name] if any(pattern(t).fullmatch(r) for r in held_out)]
    assert not clash, clash


def test_target_wordings_occur_once_and_keep_their_numbers() -> None:
    numbers = {
        "index": ("i",), "range": ("i", "j"), "list": ("head", "last"), "ordinal": ("word",), "from_end": (),
        "last_n": ("word",), "first_n": ("word",), "name": ("path",), "side": ("side",), "stage": ("name",),
    }  # fmt: skip
    for kind, texts in TARGETS.items():
        assert len(set(texts)) == len(texts), kind
        for text in texts:
            fields = [f for _, f, _, _ in string.Formatter().parse(text) if f]
            assert fields.count("of") == (kind not in ("name", "side", "stage")), text
            assert all(fields.count(f) == 1 for f in numbers.get(kind, ())), text
            assert set(fields) <= {"one", "many", "of", "word", "back", *numbers.get(kind, ())}, text


def test_no_target_wording_says_what_is_held_out(monkeypatch: pytest.MonkeyPatch) -> None:
    held_out: list[tuple[str, dict[str, object], set[str]]] = []
    real = targets._worded

    def spy(kind: str, nouns: targets._Nouns, seen: tuple[str, ...], unseen: tuple[str, ...], **fields: object):  # type: ignore[no-untyped-def]
        words = {"one": nouns.one, "many": nouns.many, "of": nouns.of, **fields}
        held_out.append((kind, words, {r for text in unseen for r in readings(literal(text))}))
        return real(kind, nouns, seen, unseen, **fields)

    monkeypatch.setattr(targets, "_worded", spy)
    rng = random.Random(0)
    for name in ("gpt2", "t5", "resnet"):
        for _ in range(50):
            targets.pick_target(anatomy(graphs()[name]), rng)
    assert len({kind for kind, _, _ in held_out}) >= 15
    for kind, words, said in {kind: (kind, words, said) for kind, words, said in held_out}.values():
        for text in TARGETS[kind]:
            assert not any(pattern(literal(text.format(**words))).fullmatch(r) for r in said), (kind, text)


def literal(text: str) -> str:
    """Square brackets of a phrase are characters, not the notation for a part."""
    return text.replace("[", "{").replace("]", "}")
