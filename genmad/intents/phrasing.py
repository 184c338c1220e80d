"""From a template to a sentence: choices, slots, optional parts, and the ways in which people type."""

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

# Template notation: `(add|insert)` is a choice, `{target}` a slot, `[ with window {window}]` a part that is dropped
# when a slot inside it has nothing to say. A leading `~` marks a template that is no imperative, so that no "please"
# goes in front; a leading `?` one that can be read two ways. `<` and `>` stand for round brackets.
_CHOICE = re.compile(r"\(([^()]*)\)")
_PART = re.compile(r"\[([^\[\]]*)\]")
_SLOT = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True, slots=True)
class Phrases:
    """Ways to say one thing; the held-out ones are never used in training."""

    seen: tuple[str, ...]
    unseen: tuple[str, ...] = ()

    def pick(self, rng: random.Random, unseen: bool) -> tuple[str, bool]:
        """A phrase, and whether it is one of the held-out ones."""
        held_out = unseen and bool(self.unseen)
        return expand(rng.choice(self.unseen if held_out else self.seen), rng), held_out


def say(*seen: str, unseen: tuple[str, ...] = ()) -> Phrases:
    return Phrases(seen, unseen)


@dataclass(frozen=True, slots=True)
class Template:
    """A sentence with slots.

    Attributes:
        id: `s3` or, held out, `u1`.
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


def fill(template: Template, slots: Mapping[str, Phrases], rng: random.Random, unseen: bool) -> str:
    """The sentence, before typing habits. `unseen` prefers held-out phrases for about half of the slots."""
    text = _PART.sub(lambda m: m[1] if all(s in slots for s in _SLOT.findall(m[1])) else "", template.text)
    # Choices come first: a filled-in phrase may hold brackets of its own ("(window=64)").
    text = expand(text, rng)

    def put(match: re.Match[str]) -> str:
        phrase, _ = slots[match[1]].pick(rng, unseen and rng.random() < 0.5)
        return phrase

    text = re.sub(r"\s+", " ", _SLOT.sub(put, text)).replace(" ,", ",").strip()
    return re.sub(r"(?<!-)>", ")", text.replace("<", "("))


_BEFORE = (
    "please ", "please, ", "pls ", "can you ", "could you ", "could you please ", "i want to ", "i'd like to ",
    "i would like you to ", "we should ", "let's ", "now ", "ok, ", "hi, ", "hey, can you ", "you should ",
    "i need you to ",
)  # fmt: skip
_BEFORE_UNSEEN = ("would you kindly ", "kindly ", "help me to ", "it would be great to ", "your job is to ")
_AFTER = (
    " please",
    ", please",
    " thanks",
    ", thanks!",
    " (this is an experiment)",
    " for me",
    " and leave the rest as it is",
)
_AFTER_UNSEEN = (" and nothing else", ", cheers", " - keep all other parts untouched", " if you can")


def type_it(text: str, rng: random.Random, *, imperative: bool, unseen: bool, exact: bool) -> str:
    """The sentence as someone might type it: politeness, capitals, punctuation, a slip of the finger.

    Args:
        exact: the text holds module names, whose capitals and letters must stay.
    """
    if imperative and rng.random() < 0.3:
        before = rng.choice(_BEFORE_UNSEEN if unseen and rng.random() < 0.5 else _BEFORE)
        text = before + text
        if before.startswith(("can you", "could you", "hey, can", "would you k")) and rng.random() < 0.6:
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
