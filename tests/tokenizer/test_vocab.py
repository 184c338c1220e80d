"""The vocabulary: ids never move, and every token of a family is found."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genmad.ir import GraphError
from genmad.ops import OPSET
from genmad.tokenizer import Vocab

BASE = Vocab.from_opset(OPSET)
TOKENS = st.sampled_from(BASE.tokens) | st.from_regex(r"(op|attr|str):[A-Za-z_]{1,8}", fullmatch=True)


@given(st.lists(st.lists(TOKENS, max_size=6), max_size=3))
def test_extending_keeps_old_ids_and_adds_each_token_once(batches: list[list[str]]) -> None:
    """A checkpoint's ids must survive ops that come later."""
    vocab = BASE
    for tokens in batches:
        longer = vocab.extended(tokens)
        assert longer.tokens[: len(vocab)] == vocab.tokens
        assert all(longer.id(token) == i for i, token in enumerate(vocab.tokens))
        assert set(longer.tokens) == {*vocab.tokens, *tokens}
        vocab = longer
    assert vocab.extended(vocab.tokens) == vocab


@given(st.lists(TOKENS, min_size=1, max_size=6))
def test_families_of_an_extended_vocabulary_hold_the_new_tokens(tokens: list[str]) -> None:
    vocab = BASE.extended(tokens)
    for token in tokens:
        prefix, colon, _ = token.partition(":")
        assert not colon or vocab.id(token) in vocab.family(prefix)


def test_a_token_that_stands_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="each token once"):
        Vocab(tokens=("a", "a"))


def test_an_unknown_token_is_named() -> None:
    with pytest.raises(GraphError, match="op:Nonsense"):
        BASE.id("op:Nonsense")


def test_a_saved_vocabulary_is_the_same(tmp_path: Path) -> None:
    BASE.extended(["op:Later"]).save(tmp_path / "vocab.json")
    assert Vocab.load(tmp_path / "vocab.json") == BASE.extended(["op:Later"])


def test_a_file_that_is_no_vocabulary_is_refused(tmp_path: Path) -> None:
    (tmp_path / "vocab.json").write_text('{"tokens": [1]}', encoding="utf-8")
    with pytest.raises(GraphError, match="no token list"):
        Vocab.load(tmp_path / "vocab.json")
