"""From a template to a sentence: choices, slots, optional parts, and the ways in which people type."""

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from genmad.intents.numerals import in_words

WORDED = 0.12
"""Share of the numbers in slots that are not written by their digits."""

# Template notation: `(add|insert)` is a choice, `{target}` a slot, `[ with window {window}]` a part that is dropped
# when a slot inside it has nothing to say. A leading `~` marks a template that is no imperative, so that no "please"
# goes in front; a leading `?` one that can be read two ways. `<` and `>` stand for round brackets.
_CHOICE = re.compile(r"\(([^()]*)\)")
_PART = re.compile(r"\[([^\[\]]*)\]")
_SLOT = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True, slots=True)
class Phrases:
    """Ways to say one thing; the held-out and the fresh ones are never used in training."""

    seen: tuple[str, ...]
    unseen: tuple[str, ...] = ()
    fresh: tuple[str, ...] = ()

    def pick(self, rng: random.Random, unseen: bool, fresh: bool = False) -> tuple[str, bool]:
        """A phrase, and whether it is one of the held-out ones; a fresh one on demand, where there are any."""
        if fresh and self.fresh:
            return expand(rng.choice(self.fresh), rng), True
        held_out = unseen and bool(self.unseen)
        return expand(rng.choice(self.unseen if held_out else self.seen), rng), held_out


def say(*seen: str, unseen: tuple[str, ...] = ()) -> Phrases:
    return Phrases(seen, unseen)


@dataclass(frozen=True, slots=True)
class Template:
    """A sentence with slots.

    Attributes:
        id: `s3`, held out `u1`, fresh `f2`.
        text: the sentence in template notation.
        needs: slots outside optional parts; `has`: every slot.
        imperative, ambiguous: see the notation.
    """

    id: str
    text: str
    needs: frozenset[str]
    has: frozenset[str]
    imperative: bool
    ambiguous: bool


@cache
def parse_templates(
    seen: tuple[str, ...], unseen: tuple[str, ...]
) -> tuple[tuple[Template, ...], tuple[Template, ...]]:
    """The seen and the held-out templates of an intent."""
    return tuple(tuple(_parse(f"{mark}{i}", t) for i, t in enumerate(ts)) for mark, ts in (("s", seen), ("u", unseen)))  # type: ignore[return-value]


@cache
def parse_fresh(texts: tuple[str, ...]) -> tuple[Template, ...]:
    """The fresh templates of an intent."""
    return tuple(_parse(f"f{i}", text) for i, text in enumerate(texts))


def _parse(name: str, text: str) -> Template:
    bare = text.lstrip("~?")
    marks = text[: len(text) - len(bare)]
    needs = frozenset(_SLOT.findall(_PART.sub("", bare)))
    return Template(name, bare, needs, frozenset(_SLOT.findall(bare)), "~" not in marks, "?" in marks)


def fitting(templates: tuple[Template, ...], slots: Mapping[str, Phrases]) -> list[Template]:
    """The templates that say everything in `slots` and ask for nothing else."""
    filled = frozenset(slots)
    return [t for t in templates if t.needs <= filled <= t.has]


def expand(text: str, rng: random.Random) -> str:
    """The text with each choice made, innermost first."""
    while match := _CHOICE.search(text):
        text = text[: match.start()] + rng.choice(match[1].split("|")) + text[match.end() :]
    return text


def fill(
    template: Template, slots: Mapping[str, Phrases], rng: random.Random, unseen: bool, fresh: bool = False
) -> str:
    """The sentence, before typing habits.

    Args:
        unseen: prefer held-out phrases for about half of the slots.
        fresh: fresh phrases for all slots that have some.
    """
    text = _PART.sub(lambda m: m[1] if all(s in slots for s in _SLOT.findall(m[1])) else "", template.text)
    # Choices come first: a filled-in phrase may hold brackets of its own ("(window=64)").
    text = expand(text, rng)

    def put(match: re.Match[str]) -> str:
        phrase, _ = slots[match[1]].pick(rng, unseen and rng.random() < 0.5, fresh)
        return in_words(phrase, rng, WORDED)

    text = re.sub(r"\s+", " ", _SLOT.sub(put, text)).replace(" ,", ",").strip()
    return re.sub(r"(?<!-)>", ")", text.replace("<", "("))


_BEFORE = (
    "please ", "please, ", "pls ", "can you ", "could you ", "could you please ", "i want to ", "i'd like to ",
    "i would like you to ", "we should ", "let's ", "now ", "ok, ", "hi, ", "hey, can you ", "you should ",
    "i need you to ", "please ", "plz ", "can we ", "could we ", "can you please ", "would you please ",
    "would you mind to ", "i need to ", "we need to ", "we want to ", "we'd like to ", "i have to ", "you need to ",
    "i want you to ", "is it possible to ", "is there a way to ", "how do i ", "how can i ", "how would i ", "try to ",
    "go ahead and ", "just ", "simply ", "first, ", "next, ", "as a next step, ", "for the next experiment, ",
    "for the ablation, ", "task: ", "todo: ", "step 1: ", "request: ", "- ", "1. ", "* ", "the plan is to ",
    "the goal is to ", "my plan: ", "the idea is to ", "what i want is to ", "i was wondering if you could ",
    "i'm trying to ", "i am going to ", "we are going to ", "it is necessary to ", "we have to ", "don't forget to ",
    "remember to ", "make sure to ", "do me a favour and ", "thanks in advance: ", "hello, ", "hello! could you ",
    "dear all, please ", "so, ", "and now ", "yes, ", "alright, ", "great, now ", "as discussed, ",
    "as an experiment, ", "the reviewers want us to ", "reviewer 2 asks us to ", "my supervisor wants me to ",
    "my boss wants me to ", "for the homework i have to ", "for my thesis i need to ", "following the paper, ",
    "per our meeting, ", "as agreed in the meeting, ", "to reproduce the paper, ", "we saw this in a paper: ",
    "for the next release, ", "for the baseline, ", "for the student model, ", "before we train it, ",
    "before fine-tuning, ", "it does not train well, so ", "to get a feeling for it, ", "to see what happens, ",
    "to compare, ", "as a sanity check, ", "if nobody objects, ", "short request: ", "quick one: ", "new task: ",
    "change request: ", "action: ", "edit: ", "modification: ", "[request] ", "issue: ", "feature request: ",
    "hi team, could you ", "good morning, please ", "sorry to bother you, could you ", "it would help us to ",
    "i propose to ", "i suggest to ", "my suggestion: ", "better: ", "instead, ", "actually, ", "finally, ", "then ",
)  # fmt: skip
_ASKING = ("can ", "could ", "hey, can", "would you", "is it", "is there", "how ", "hello! could")
_BEFORE_UNSEEN = ("would you kindly ", "kindly ", "help me to ", "it would be great to ", "your job is to ")
_AFTER = (
    " please", ", please", " thanks", ", thanks!", " (this is an experiment)", " for me",
    " and leave the rest as it is",
    ", thank you", " pls", " thx", " - thanks", " asap", " as soon as possible", " (see the paper)", " for the paper",
    " for a test", " for an experiment", " and that's it", ", that's all", " so that I can compare", " in this model",
    " (urgent)", ", would be great", " for now", ", ok?", ", would that work?", " everything else as before",
    ", the rest stays the same", " without touching the rest", ", I'll train it later",
    " for my thesis", " before the next run", " like in the paper", " (first try)", " right away", " now",
    "; thanks a lot", ", because the reviewers asked for it", " because we saw it in a paper",
    " - it worked for others",
    " since we need it for the ablation", ", otherwise it will not converge", ", as my supervisor suggested",
    ", we agreed on that in the meeting", " because I want to see what happens", " to compare with the original",
    " before we fine-tune it", " for the next release", " for the student model", " as a baseline", " as a first step",
    ", that is the only change", ", don't touch the rest",
    " (see issue 42)", " (as in the paper)", " # ablation", " -- thanks!", " :)", ", sorry for the trouble", " today",
    " when you have time", " - I will check it afterwards", " and show me the result",
    ", please check that it still works",
)  # fmt: skip
_AFTER_UNSEEN = (" and nothing else", ", cheers", " - keep all other parts untouched", " if you can")


def type_it(text: str, rng: random.Random, *, imperative: bool, unseen: bool, exact: bool) -> str:
    """The sentence as someone might type it: politeness, capitals, punctuation, a slip of the finger.

    Args:
        exact: the text holds module names, whose capitals and letters must stay.
    """
    if imperative and rng.random() < 0.3:
        before = rng.choice(_BEFORE_UNSEEN if unseen and rng.random() < 0.5 else _BEFORE)
        text = before + text
        if before.startswith(_ASKING) and rng.random() < 0.6:
            text += "?"
    elif imperative and rng.random() < 0.12:
        text += rng.choice(_AFTER_UNSEEN if unseen and rng.random() < 0.5 else _AFTER)
    if rng.random() < 0.08:
        text = _slip(text, rng)
    case = rng.random()
    if case < 0.4 and not re.match(r"\w*[._\d]", text):
        text = text[:1].upper() + text[1:]
    elif case < 0.55 and not exact:
        text = text.lower()
    elif case < 0.57 and not exact:
        text = text.upper()
    if not text.endswith(("?", "!", ".")) and (end := rng.random()) < 0.3:
        text += "." if end < 0.26 else "!"
    return text


def _slip(text: str, rng: random.Random) -> str:
    """One typing error in a plain word: two letters swapped, one doubled or one left out."""
    words = text.split(" ")
    plain = [i for i, w in enumerate(words) if len(w) > 4 and w.isalpha() and w.islower()]
    if not plain:
        return text
    index = rng.choice(plain)
    word = words[index]
    at = rng.randrange(1, len(word) - 1)
    kinds = (
        word[:at] + word[at + 1] + word[at] + word[at + 2 :],
        word[:at] + word[at] + word[at:],
        word[:at] + word[at + 1 :],
    )
    words[index] = rng.choice(kinds)
    return " ".join(words)
