"""Sentences that ask for several things, taken apart into clauses.

Where a sentence may be taken apart is said by its punctuation and its joining words alone; whether it should be, and
how, is left to the generator: every way is a list of clauses, and the one whose clauses it understands best is taken.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

MAX_SEGMENTS = 5
MAX_CLAUSES = 3
MAX_FILLER_WORDS = 6
# Punctuation with blanks after it (1e-5, 3.5 and dotted paths stay whole), and words that join requests.
_JOINT = re.compile(
    r"\s*(?:[,;.!:]|//|&|\s-+(?=\s))\s+(?:and\s+then|and\s+also|and|then|also|plus)?\s*"
    r"|\s+(?:and\s+then|and\s+also|and|then|plus|as\s+well\s+as|followed\s+by)\s+",
    re.IGNORECASE,
)
_MARKER = re.compile(r"^\s*(?:\(?(?:\d|[a-c])[.)]\s+|first(?:ly)?,?\s+|both\s+|finally,?\s+|also,?\s+)", re.IGNORECASE)
_LIST_MARK = re.compile(r"\s+\(?(?:[1-3]|[a-c])[.)]\s+", re.IGNORECASE)
_PLACE = re.compile(r"\b(?:in|for|at|on|within|inside|to|of|into|where|with)\b", re.IGNORECASE)
_ANAPHOR = re.compile(
    r"\b(?:(?:the|that|those)\s+(?:very\s+|exact\s+)?same\s+(?:layers?|ones?|blocks?|places?)(?:\s+too)?"
    r"|(?:that|this|those|these)\s+(?:layers?|blocks?|ones?))\b",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Parting:
    """One way to take a sentence apart.

    Attributes:
        clauses: the requests, in order.
        asides: stretches that ask for nothing by themselves: a place that all clauses share, or filler.
    """

    clauses: tuple[str, ...]
    asides: tuple[str, ...] = ()


def segments(prompt: str) -> tuple[str, ...]:
    """The stretches between all places where the sentence may be taken apart.

    >>> segments("add LoRA to layer 3 and drop the last norm")
    ('add LoRA to layer 3', 'drop the last norm')
    """
    return _stretches(prompt)[0]


def _stretches(prompt: str) -> tuple[tuple[str, ...], tuple[bool, ...]]:
    """The stretches, and for each place between two whether a word joins them ("and") or punctuation alone."""
    listed = _LIST_MARK.sub(" ; ", f" {_MARKER.sub('', prompt)}")
    texts, words, at, joined = [], [], 0, False
    for match in (*_JOINT.finditer(listed), None):
        text = _MARKER.sub("", listed[at : match.start() if match else None]).strip(" .;,")
        if text:
            texts.append(text)
            words.append(joined)
            joined = False
        if match is not None:
            joined = joined or any(letter.isalpha() for letter in match.group())
            at = match.end()
    return tuple(texts), tuple(words[1:])


def partings(prompt: str) -> tuple[Parting, ...]:
    """The ways to take a sentence apart into two or three clauses; none where it has no joint, or too many.

    Short stretches before clauses and at the end may be filler ("on top of that"); the first or last
    stretch may name the place of all clauses ("in layer 3, ...").
    """
    parts, joined = _stretches(prompt)
    if not 2 <= len(parts) <= MAX_SEGMENTS:
        return ()
    found = [*_grouped(parts, joined, "", "")]
    if len(parts) > 2 and _PLACE.search(parts[0]):
        found += _grouped(parts[1:], joined[1:], parts[0], "")
    if len(parts) > 2 and _PLACE.search(parts[-1]):
        found += _grouped(parts[:-1], joined[:-1], "", parts[-1])
    return tuple(dict.fromkeys(found))


def _grouped(parts: Sequence[str], joined: Sequence[bool], head: str, tail: str) -> Iterator[Parting]:
    """Every way to join neighbours into clauses, short stretches left out or not.

    What "and" joins to the rest is never left out: a request that is not understood must not be dropped in silence.
    """
    shared = tuple(text for text in (head, tail) if text)
    last = len(parts) - 1
    for cuts in _cuts(len(parts)):
        bounds = list(zip((0, *cuts), (*cuts, len(parts)), strict=True))
        fillers = [a for a, b in bounds if b - a > 1 and _is_short(parts[a]) and not joined[a]]
        if last - bounds[-1][0] > 0 and _is_short(parts[last]) and not joined[last - 1]:
            fillers.append(last)
        for count in range(len(fillers) + 1):
            for left_out in combinations(fillers, count):
                kept = [[parts[i] for i in range(a, b) if i not in left_out] for a, b in bounds]
                if all(kept):
                    clauses = tuple(_said(words, head, tail) for words in kept)
                    yield Parting(clauses, shared + tuple(parts[i] for i in left_out))


def _is_short(text: str) -> bool:
    return len(text.split()) <= MAX_FILLER_WORDS


def _cuts(count: int) -> Iterator[tuple[int, ...]]:
    """Where to cut: one to `MAX_CLAUSES - 1` places between neighbours."""
    for size in range(1, MAX_CLAUSES):
        yield from combinations(range(1, count), size)


def _said(parts: Sequence[str], head: str, tail: str) -> str:
    text = ", ".join(parts)
    return f"{head}, {text}" if head else f"{text} {tail}".strip()


def speaks_of_before(clause: str) -> bool:
    """Whether a clause names a place by what was said before: "the same layers"."""
    return _ANAPHOR.search(clause) is not None


def with_place(clause: str, place: str) -> str:
    """The clause with that place in its words.

    >>> with_place("widen the MLP of the same layer", "layer h.3")
    'widen the MLP of layer h.3'
    """
    return _ANAPHOR.sub(lambda _: place, clause)
