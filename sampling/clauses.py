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
    listed = _LIST_MARK.sub(" ; ", f" {_MARKER.sub('', prompt)}")
    found = (_MARKER.sub("", part).strip(" .;,") for part in _JOINT.split(listed))
    return tuple(part for part in found if part)


def partings(prompt: str) -> tuple[Parting, ...]:
    """The ways to take a sentence apart into two or three clauses; none where it has no joint, or too many.

    Short stretches between clauses may be filler ("on top of that"); the first or last stretch may name the place of
    all clauses ("in layer 3, ...").
    """
    parts = segments(prompt)
    if not 2 <= len(parts) <= MAX_SEGMENTS:
        return ()
    found = [*_grouped(parts, "", "")]
    if len(parts) > 2 and _PLACE.search(parts[0]):
        found += _grouped(parts[1:], parts[0], "")
    if len(parts) > 2 and _PLACE.search(parts[-1]):
        found += _grouped(parts[:-1], "", parts[-1])
    return tuple(dict.fromkeys(found))


def _grouped(parts: Sequence[str], head: str, tail: str) -> Iterator[Parting]:
    """Every way to join neighbours into clauses, short stretches at the beginning of a clause left out or not."""
    shared = tuple(text for text in (head, tail) if text)
    for cuts in _cuts(len(parts)):
        bounds = list(zip((0, *cuts), (*cuts, len(parts)), strict=True))
        short = [a for a, b in bounds if b - a > 1 and len(parts[a].split()) <= MAX_FILLER_WORDS]
        for count in range(len(short) + 1):
            for left_out in combinations(short, count):
                starts = [a + (a in left_out) for a, _ in bounds]
                clauses = tuple(_said(parts[a:b], head, tail) for a, (_, b) in zip(starts, bounds, strict=True))
                yield Parting(clauses, shared + tuple(parts[a] for a in left_out))


def _cuts(count: int) -> Iterator[tuple[int, ...]]:
    for first in range(1, count):
        yield (first,)
        if MAX_CLAUSES > 2:
            yield from ((first, second) for second in range(first + 1, count))


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
