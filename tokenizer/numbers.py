"""Numbers in a prompt: digits, words (`twenty-four`), ordinals (`third`, `3rd`) and places from the end (`-2`)."""

from collections.abc import Sequence
from dataclasses import dataclass

_ONES = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_ORDINALS = {"first": 1, "second": 2, "third": 3, "fifth": 5, "eighth": 8, "ninth": 9, "twelfth": 12}
_SMALL = {
    **{word: value for value, word in enumerate(_ONES)},
    **{word: 10 * (i + 2) for i, word in enumerate(_TENS)},
}
_SCALES = {"hundred": 100, "thousand": 1000}
_NTH = {
    **{f"{word}th": value for word, value in _SMALL.items() if word[-1] not in "ye"},
    **{f"{word[:-1]}ieth": value for word, value in _SMALL.items() if word in _TENS},
    **_ORDINALS,
}
_SUFFIXES = frozenset({"st", "nd", "rd", "th"})
MAX_VALUE = 10**9


@dataclass(frozen=True, slots=True)
class SpokenNumber:
    """One number of a prompt.

    Attributes:
        start, end: the words that say it, end exclusive.
        value: at least 0, below `MAX_VALUE`.
        is_ordinal: whether it says a place (`third`).
        is_negative: whether a minus stands right before it (`layer -2`), as for places from the end.
    """

    start: int
    end: int
    value: int
    is_ordinal: bool = False
    is_negative: bool = False


def spoken_numbers(words: Sequence[str]) -> tuple[SpokenNumber, ...]:
    """The numbers among the words of a prompt, in order.

    >>> [n.value for n in spoken_numbers(["twenty", "-", "four", "heads", "in", "the", "3", "rd", "layer"])]
    [24, 3]
    """
    found = []
    at = 0
    lower = [word.lower() for word in words]
    while at < len(lower):
        number = _digits(lower, at) if lower[at].isdecimal() else _in_words(lower, at)
        if number is None:
            at += 1
        else:
            found.append(number)
            at = number.end
    return tuple(found)


def _digits(words: Sequence[str], at: int) -> SpokenNumber | None:
    if len(words[at]) > 9:
        return None
    ordinal = at + 1 < len(words) and words[at + 1] in _SUFFIXES
    minus = at > 0 and words[at - 1] == "-" and (at < 2 or not words[at - 2].isdecimal())
    return SpokenNumber(at, at + 1 + ordinal, int(words[at]), ordinal, minus and not ordinal)


def _in_words(words: Sequence[str], at: int) -> SpokenNumber | None:
    """`one hundred and twenty-eight`, `twenty fourth`: a total so far and what may still join it."""
    total, part, end, ordinal = 0, None, at, False
    place = at
    while place < len(words) and not ordinal:
        word = words[place]
        if part is not None and word in ("-", "and") and place + 1 < len(words) and place == end:
            joined = words[place + 1]
            fits = _joins(part, joined) if word == "-" else part >= 100 and (joined in _SMALL or joined in _NTH)
            if not fits:
                break
            place += 1
            continue
        value = _SMALL.get(word, _NTH.get(word))
        if value is not None and (part is None or _joins(part, word)):
            part, ordinal = (part or 0) + value, word in _NTH
        elif word in _SCALES and part is not None and 0 < part < 1000:
            if _SCALES[word] == 1000:
                total, part = total + part * 1000, 0
            elif part < 10:
                part *= 100
            else:
                break
        else:
            break
        place += 1
        end = place
    return SpokenNumber(at, end, total + part, ordinal) if part is not None else None


def _joins(part: int, word: str) -> bool:
    """Whether `word` may follow on a part: a unit on tens, anything below a hundred on hundreds."""
    value = _SMALL.get(word, _NTH.get(word))
    if value is None:
        return False
    return (part % 100 >= 20 and part % 10 == 0 and 0 < value < 10) or (part % 100 == 0 and 0 < value < 100)
