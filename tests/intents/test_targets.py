"""Which layers a phrase means."""

import random
import re

import pytest

from genmad.intents.anatomy import anatomy
from genmad.intents.library import sample_example
from genmad.intents.targets import Target, pick_target
from genmad.ir.graph import Graph
from tests.graphs import gpt2_like, resnet_like, t5_like


def targets(graph: Graph, kind: str, count: int = 1500) -> list[Target]:
    rng = random.Random(0)
    drawn = (pick_target(anatomy(graph), rng) for _ in range(count))
    found = [t for t in drawn if t is not None and t.kind == kind]
    assert found, kind
    return found


def test_last_first_and_every_other() -> None:
    graph = gpt2_like(6)
    assert {t.paths for t in targets(graph, "last")} == {("transformer.h.5",)}
    assert {t.paths for t in targets(graph, "first")} == {("transformer.h.0",)}
    assert {t.paths for t in targets(graph, "every_other")} == {
        ("transformer.h.0", "transformer.h.2", "transformer.h.4")
    }
    assert {t.paths for t in targets(graph, "odd")} == {("transformer.h.1", "transformer.h.3", "transformer.h.5")}
    assert all(t.whole for t in targets(graph, "all"))


def test_layers_3_to_6_includes_both_ends() -> None:
    for target in targets(gpt2_like(9), "range"):
        a, b = map(int, re.findall(r"\d+", target.phrases.seen[0]))
        assert target.paths == tuple(f"transformer.h.{i}" for i in range(a, b + 1))


def test_layer_3_is_an_index_and_the_third_layer_an_ordinal() -> None:
    for target in targets(gpt2_like(9), "index"):
        assert target.paths == (f"transformer.h.{int(re.findall(r'[0-9]+', target.phrases.seen[0])[0])}",)
    thirds = [t for t in targets(gpt2_like(9), "ordinal") if "third" in t.phrases.seen[0]]
    assert {t.paths for t in thirds} == {("transformer.h.2",)}


def test_the_last_layer_without_a_side_is_the_decoders() -> None:
    plain = [t for t in targets(t5_like(3), "last") if "coder" not in t.phrases.seen[0]]
    assert plain
    assert {t.paths for t in plain} == {("decoder.block.2",)}
    for side in ("encoder", "decoder"):
        said = [t for t in targets(t5_like(3), "last") if side in t.phrases.seen[0]]
        assert {t.paths for t in said} == {(f"{side}.block.2",)}


def test_stages_are_named_by_number_and_position() -> None:
    found = targets(resnet_like((2, 3)), "stage")
    for target in found:
        stage = "1" if re.search(r"stage 1|second|last", target.phrases.seen[0]) else "0"
        assert all(f".stages.{stage}." in path for path in target.paths), target


@pytest.mark.parametrize("words", [("the last layer", "transformer.h.5"), ("the first layer", "transformer.h.0")])
def test_the_prompt_names_the_layers_of_the_request(words: tuple[str, str]) -> None:
    rng = random.Random(4)
    hits = 0
    for _ in range(1500):
        example = sample_example(gpt2_like_six(), rng, intent="local_attention_branch")
        if example is not None and words[0] in example.prompt:
            assert example.request.layers == (words[1],)
            hits += 1
    assert hits > 3


_SIX = gpt2_like(6)


def gpt2_like_six() -> Graph:
    return _SIX
