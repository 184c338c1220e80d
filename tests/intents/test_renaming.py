"""Renamed graphs are the same models under other names."""

import random

import pytest

from genmad.intents.anatomy import anatomy
from genmad.intents.library import sample_example
from genmad.intents.renaming import rename_modules
from genmad.ir.build import retype
from genmad.ir.canonical import canonical_hash
from genmad.ir.graph import Graph, parameter_names
from genmad.ops import OPSET
from tests.graphs import gpt2_like, resnet_like, t5_like


@pytest.mark.parametrize("graph", [gpt2_like(3), t5_like(2), resnet_like((1, 2))], ids=lambda g: g.name)
def test_renaming_keeps_the_structure_and_ties(graph: Graph) -> None:
    for seed in range(5):
        other = rename_modules(graph, random.Random(seed))
        assert other != graph
        assert canonical_hash(other) == canonical_hash(graph)
        assert len(parameter_names(other)) == len(parameter_names(graph))
        assert retype(other, OPSET).main.output_types == graph.main.output_types
        assert [x.side for x in anatomy(other).layers] == [x.side for x in anatomy(graph).layers]


def test_a_renamed_graph_is_talked_about_by_its_new_names() -> None:
    graph = rename_modules(gpt2_like(4), random.Random(3), share=1.0)
    rng = random.Random(0)
    examples = [e for _ in range(150) if (e := sample_example(graph, rng, intent="lora")) is not None]
    known = {piece for name in parameter_names(graph) for piece in name.split(".")}
    assert "c_attn" not in known
    assert not any("c_attn" in e.prompt for e in examples if not e.request.refusal)
