"""Numbers are read as people say them: digits, words, places, and places from the end."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genmad.tokenizer.numbers import spoken_numbers
from genmad.tokenizer.text import split_words


def said(text: str) -> list[tuple[int, bool, bool]]:
    return [(n.value, n.is_ordinal, n.is_negative) for n in spoken_numbers(split_words(text))]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("twenty-four heads in layer 3", [(24, False, False), (3, False, False)]),
        ("the 3rd layer", [(3, True, False)]),
        ("the twelfth and the thirtieth", [(12, True, False), (30, True, False)]),
        ("one hundred and twenty-eight wide", [(128, False, False)]),
        ("two thousand forty eight", [(2048, False, False)]),
        ("the ninety ninth", [(99, True, False)]),
        ("layer -2", [(2, False, True)]),
        ("layers 3-6", [(3, False, False), (6, False, False)]),
        ("stage two block three", [(2, False, False), (3, False, False)]),
        ("twenty one two", [(21, False, False), (2, False, False)]),
        ("hundreds of words and no number", []),
    ],
)
def test_numbers_are_read_as_people_say_them(text: str, expected: list[tuple[int, bool, bool]]) -> None:
    assert said(text) == expected


@given(st.lists(st.integers(0, 10**8), max_size=5))
def test_digits_are_always_read(numbers: list[int]) -> None:
    assert [value for value, _, _ in said(" then ".join(map(str, numbers)))] == numbers


@given(st.text(max_size=60))
def test_any_text_can_be_read(text: str) -> None:
    words = split_words(text)
    found = spoken_numbers(words)
    assert all(0 <= n.start < n.end <= len(words) and n.value >= 0 for n in found)
    assert all(a.end <= b.start for a, b in pairwise(found))
