"""Numbers as people write them: in words, in thousands, with units, as powers."""

import random
import re

_ONES = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
_TENS = ("", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
# A number that stands alone: no part of a name, of 7x7, of r=4, of 3-6, of 1.5 or of a power.
_ALONE = re.compile(r"(?<![\w.=#\[/<^*+-])(?<!x )\d{1,9}(?![\w.,/^*%+-]|\s*[x:%])")


def spelled(number: int, *, joined: str = " and ") -> str:
    """A whole number up to 999,999 in words: `one hundred and twenty-eight`."""
    if number < 20:
        return _ONES[number]
    if number < 100:
        tens, ones = divmod(number, 10)
        return _TENS[tens] + (f"-{_ONES[ones]}" if ones else "")
    if number < 1000:
        hundreds, rest = divmod(number, 100)
        return f"{_ONES[hundreds]} hundred" + (joined + spelled(rest) if rest else "")
    thousands, rest = divmod(number, 1000)
    return f"{spelled(thousands, joined=joined)} thousand" + (f" {spelled(rest, joined=joined)}" if rest else "")


def forms(number: int) -> tuple[str, ...]:
    """Ways to write a number other than by its digits; a `k` alone counts 1024, as sizes of models do."""
    out = []
    if number <= 20 or (number <= 100 and number % 10 == 0) or number in (12, 24, 32, 48, 64, 96, 128, 192, 256, 512):
        out += [spelled(number), spelled(number)]
    elif number < 400:
        out.append(spelled(number, joined=" "))
    if number >= 100 and number < 400 and number % 100:
        out.append(spelled(number, joined=" "))
    if number >= 64 and number & (number - 1) == 0:
        out += [f"2^{number.bit_length() - 1}", f"2**{number.bit_length() - 1}"]
    if number >= 1024 and number % 1024 == 0:
        out += [f"{number // 1024}k", f"{number // 1024}K", f"{number // 1024}k"]
    if number >= 1000 and number % 1000 == 0 and number < 1_000_000:
        out += [f"{number // 1000} thousand", f"{spelled(number // 1000)} thousand", f"{number // 1000},000"]
    elif number >= 1000:
        out.append(f"{number // 1000},{number % 1000:03d}")
    if number >= 1_000_000 and number % 100_000 == 0:
        out += [f"{number / 1_000_000:g} million", f"{number / 1_000_000:g}M"]
    if number == 500_000:
        out.append("half a million")
    return tuple(out)


def in_words(text: str, rng: random.Random, share: float) -> str:
    """The text with some of its free-standing numbers written in other ways."""

    def change(match: re.Match[str]) -> str:
        found = forms(int(match[0])) if rng.random() < share else ()
        return rng.choice(found) if found else match[0]

    return _ALONE.sub(change, text)
