"""Sentences taken apart: only at joints, never inside numbers or paths; what is left out must ask for nothing."""

import pytest

from genmad.sampling.clauses import MAX_CLAUSES, MAX_SEGMENTS, Parting, partings, segments, speaks_of_before, with_place


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("add LoRA to the last layer", ("add LoRA to the last layer",)),
        ("set eps to 1e-5 in transformer.h.11.ln_1", ("set eps to 1e-5 in transformer.h.11.ln_1",)),
        ("drop layer 2, then use relu", ("drop layer 2", "use relu")),
        ("drop layer 2; use relu. Also add a norm", ("drop layer 2", "use relu", "add a norm")),
        ("1. drop layer 2 2. use relu", ("drop layer 2", "use relu")),
        ("use a 3 by 3 kernel - and widen the MLP", ("use a 3 by 3 kernel", "widen the MLP")),
        ("widen by 1.5 and use h.0.attn", ("widen by 1.5", "use h.0.attn")),
    ],
)
def test_a_sentence_is_taken_apart_at_its_joints_alone(prompt: str, expected: tuple[str, ...]) -> None:
    assert segments(prompt) == expected


def test_a_sentence_without_a_joint_or_with_too_many_is_left_whole() -> None:
    assert partings("add local attention to the last layer") == ()
    assert partings(" and ".join(["drop layer 1"] * (MAX_SEGMENTS + 1))) == ()


def test_a_parting_has_two_or_three_clauses_and_loses_no_words_but_its_asides() -> None:
    prompt = "in layer 3, widen the MLP, on top of that use relu"
    words = sorted(prompt.replace(",", " ").split())
    for way in partings(prompt):
        assert 2 <= len(way.clauses) <= MAX_CLAUSES
        said = {w for text in (*way.clauses, *way.asides) for w in text.replace(",", " ").split()}
        assert said == set(words)


def test_a_place_said_once_is_said_in_every_clause() -> None:
    assert Parting(("in layer 3, widen the MLP", "in layer 3, use relu"), ("in layer 3",)) in partings(
        "in layer 3, widen the MLP and use relu"
    )
    assert Parting(("widen the MLP all in layer 3", "use relu all in layer 3"), ("all in layer 3",)) in partings(
        "widen the MLP and use relu, all in layer 3"
    )


def test_filler_between_clauses_may_be_left_out() -> None:
    assert Parting(("drop layer 2", "use relu"), ("on top of that",)) in partings(
        "drop layer 2; on top of that, use relu"
    )


def test_filler_at_the_end_may_be_left_out() -> None:
    assert Parting(("drop layer 2", "use relu"), ("thanks a lot",)) in partings(
        "drop layer 2 and use relu - thanks a lot"
    )


def test_what_and_joins_is_never_left_out() -> None:
    assert partings("drop layer 2 and make it rain") == (Parting(("drop layer 2", "make it rain")),)


def test_the_same_layer_becomes_a_place_of_the_graph() -> None:
    clause = "widen the MLP of the very same layer"
    assert speaks_of_before(clause)
    assert with_place(clause, r"layer h\1") == r"widen the MLP of layer h\1"
    assert not speaks_of_before("widen the MLP of layer 3")
