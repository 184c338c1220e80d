"""The second held-out set: well formed, usable everywhere, said nowhere in training, and never drawn by training."""

import random
import re
import string
from functools import cache

import pytest

from genmad.intents import combining, nonsense, targets
from genmad.intents.anatomy import anatomy
from genmad.intents.answers import word_it
from genmad.intents.fresh import FRESH, FRESH_TARGETS, talk
from genmad.intents.library import BY_NAME, sample_example
from genmad.intents.phrasing import expand, fill, fitting, parse_fresh
from genmad.intents.wordings import TARGETS, TEMPLATES
from genmad.intents.wordings.off_topic import OFF_TOPIC as MORE_OFF_TOPIC
from tests.intents.test_library import graphs
from tests.intents.test_wordings import bare, drafts, literal, pattern, readings

_PART = re.compile(r"\[([^\[\]]*)\]")


def test_every_intent_has_fresh_sentences() -> None:
    assert set(FRESH) == set(BY_NAME)
    for name, texts in FRESH.items():
        assert len(texts) >= 6, name
        assert len({bare(t) for t in texts}) == len(texts), name


@pytest.mark.parametrize("name", sorted(FRESH))
def test_every_fresh_sentence_is_well_formed(name: str) -> None:
    rng = random.Random(0)
    for text in FRESH[name]:
        assert text.isascii(), text
        left = expand(_PART.sub(r"\1", text.lstrip("~?")), rng)
        assert not set("()[]~") & set(left), text
        assert text.count("<") == len(re.findall(r"(?<!-)>", text)), text
        assert text.endswith("?") <= ("~" in text[:2]), f"a question is no imperative: {text}"


@pytest.mark.parametrize("name", sorted(FRESH))
def test_every_fresh_sentence_is_used_and_every_request_has_some(name: str) -> None:
    rng, free, known = random.Random(2), set(parse_fresh(FRESH[name])), set[frozenset[str]]()
    for turn, draft in enumerate(drafts(BY_NAME[name])):
        if not free and turn > 40:
            break
        if frozenset(draft.slots) in known:
            continue
        known.add(frozenset(draft.slots))
        fits = fitting(parse_fresh(FRESH[name]), draft.slots)
        assert len(fits) >= 2, sorted(draft.slots)
        for template in fits:
            text = fill(template, draft.slots, rng, unseen=True, fresh=True)
            assert not re.search(r"[\[\]{}|<~]|\s\s| ,", re.sub(r"\[\d+\]", "", text)), (template.text, text)
        free -= set(fits)
        said = word_it(BY_NAME[name], draft, rng, unseen=True, fresh=True)
        assert said is not None
        assert said[1].id.startswith("f")
    assert not free, sorted(t.text for t in free)


@cache
def _known(name: str) -> tuple[re.Pattern[str], ...]:
    """Every sentence of training, and of the first held-out set."""
    return tuple(pattern(t) for t in (*BY_NAME[name].seen, *TEMPLATES.get(name, ()), *BY_NAME[name].unseen))


@pytest.mark.parametrize("name", sorted(FRESH))
def test_no_fresh_sentence_was_said_before(name: str) -> None:
    """Guards the honesty of the evaluation: no reading of a fresh template is one that training has."""
    clash = [t for t in FRESH[name] if any(p.fullmatch(r) for r in readings(t) for p in _known(name))]
    assert not clash, clash


def test_fresh_targets_keep_their_numbers_and_were_not_said_before(monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(FRESH_TARGETS) == set(TARGETS)
    drawn: dict[str, tuple[dict[str, object], tuple[str, ...]]] = {}
    real = targets._worded

    def spy(kind: str, nouns: targets._Nouns, seen: tuple[str, ...], unseen: tuple[str, ...], **fields: object):  # type: ignore[no-untyped-def]
        drawn[kind] = {"one": nouns.one, "many": nouns.many, "of": nouns.of, **fields}, (*seen, *unseen)
        return real(kind, nouns, seen, unseen, **fields)

    monkeypatch.setattr(targets, "_worded", spy)
    rng = random.Random(0)
    for name in ("gpt2", "llama", "t5", "resnet"):
        for _ in range(250):
            targets.pick_target(anatomy(graphs()[name]), rng)
    assert set(drawn) == set(FRESH_TARGETS)
    for kind, (words, said) in drawn.items():
        patterns = [pattern(literal(t)) for t in (*said, *(t.format(**words) for t in TARGETS[kind]))]
        assert len(set(FRESH_TARGETS[kind])) >= 4, kind
        for text in FRESH_TARGETS[kind]:
            fields = [f for _, f, _, _ in string.Formatter().parse(text) if f]
            assert fields.count("of") == ("of" in words and kind not in ("name", "side", "stage")), text
            assert all(f in fields for f in words if f not in ("one", "many", "of", "back")), text
            clash = [r for r in readings(literal(text.format(**words))) if any(p.fullmatch(r) for p in patterns)]
            assert not clash, (kind, clash)


def test_fresh_talk_was_not_said_before() -> None:
    off_topic = [pattern(t) for t in (*nonsense.OFF_TOPIC, *nonsense.OFF_TOPIC_UNSEEN, *MORE_OFF_TOPIC)]
    assert len(set(talk.OFF_TOPIC)) == len(talk.OFF_TOPIC) >= 40
    assert not [t for t in talk.OFF_TOPIC if any(p.fullmatch(r) for r in readings(t) for p in off_topic)]
    known = (*combining._TWO, *combining._TWO_UNSEEN, *combining._THREE, *combining._THREE_UNSEEN)
    joints = (*talk.TWO, *talk.THREE)
    for fresh, old in ((joints, known), (talk.SHARED, (*combining._SHARED, *combining._SHARED_UNSEEN))):
        assert not {re.sub(r"\s", "", t) for t in fresh} & {re.sub(r"\s", "", t) for t in old}
    assert len(set(joints)) >= 6
    for some in (combining._ALL, combining._WHOLE, combining._SAME, combining._SAME_ONE):
        assert some.fresh
        assert not set(some.fresh) & {*some.seen, *some.unseen}


def _templates(phrasing: str) -> list[str]:
    """The marks of the templates of a phrasing: `f` of `lora.f3`."""
    return [part.rsplit(".", 1)[1][0] for part in phrasing.removeprefix("both.").split("+")]


@pytest.mark.parametrize("name", ["gpt2", "t5", "resnet", "mobile"])
def test_examples_are_all_fresh_or_not_at_all(name: str) -> None:
    """Training, and the first held-out set, never say what is kept for the evaluation."""
    rng, graph = random.Random(3), graphs()[name]
    words = [t for texts in FRESH_TARGETS.values() for t in texts]
    marks = {"one": "layer", "many": "layers", "of": ""}
    plain = [t.format(**marks) for t in words if set(re.findall(r"{(\w+)}", t)) <= set(marks)]
    for turn in range(120):
        unseen = turn % 2 == 1
        example = sample_example(graph, rng, unseen=unseen)
        if example is not None:
            assert set(_templates(example.phrasing)) == {"u" if unseen else "s"}
            assert not any(t in example.prompt.lower() for t in plain), example.prompt
    kinds = set()
    for intent in (*[None] * 40, *["both"] * 10, *["nonsense"] * 10):
        example = sample_example(graph, rng, intent=intent, fresh=True)
        if example is not None:
            assert set(_templates(example.phrasing)) == {"f"}
            assert not example.seen
            kinds.add(example.request.intent)
    assert {"both", "nonsense"} < kinds


def test_a_fresh_request_speaks_of_its_layers_in_fresh_words() -> None:
    rng, graph = random.Random(4), graphs()["gpt2"]
    for _ in range(40):
        target = targets.pick_target(anatomy(graph), rng)
        assert target is not None
        text, held_out = target.phrases.pick(rng, unseen=False, fresh=True)
        assert held_out
        assert text not in target.phrases.seen


def test_training_draws_the_same_whether_or_not_there_is_a_fresh_set(monkeypatch: pytest.MonkeyPatch) -> None:
    def prompts() -> list[str]:
        rng = random.Random(5)
        drawn = (sample_example(graphs()["llama"], rng, unseen=i % 2 == 1) for i in range(30))
        return [example.prompt for example in drawn if example is not None]

    before = prompts()
    monkeypatch.setattr(targets, "fresh_phrases", lambda *_, **__: ())
    assert prompts() == before
