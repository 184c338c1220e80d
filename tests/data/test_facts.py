"""What is told of a graph: facts that can be counted by hand, a text made of them, splits that no family straddles."""

from dataclasses import replace

import pytest

from genmad.data.describe import describe
from genmad.data.facts import depth_of, facts_of, modality_of
from genmad.data.splits import SplitRule
from genmad.ir import Graph, GraphBuilder, num_running_nodes
from genmad.ops import OPSET
from tests.graphs import gpt2_like


def inputs(**types: str) -> Graph:
    """A graph with these inputs that uses the first."""
    builder = GraphBuilder(OPSET)
    main = builder.block("main", **types)
    return builder.build(main.finish(main.add("Identity", next(iter(types)))))


def test_the_facts_of_a_small_gpt2() -> None:
    graph = gpt2_like(layers=5, width=32, heads=4)
    facts = facts_of(graph)
    assert (facts.depth, facts.width, facts.num_heads) == (5, 32, 4)
    assert (facts.modality, facts.norm, facts.num_primitive) == ("text", "layer norm", 0)
    assert (facts.num_nodes, facts.num_nodes_flat) == (graph.num_nodes, num_running_nodes(graph))
    assert facts.num_nodes_flat > facts.num_nodes
    assert {"attention", "linear layers", "embeddings"} <= set(facts.kinds)
    assert "convolutions" not in facts.kinds


def test_params_and_depth_grow_with_the_layers() -> None:
    few, many = facts_of(gpt2_like(layers=2)), facts_of(gpt2_like(layers=6))
    assert few.num_params is not None
    assert many.num_params is not None
    assert many.num_params > few.num_params
    assert depth_of(gpt2_like(layers=6)) == 6


@pytest.mark.parametrize(
    ("types", "expected"),
    [
        ({"input_ids": "int64[batch,seq]", "attention_mask": "int64[batch,seq]"}, "text"),
        ({"pixel_values": "float32[batch,3,32,32]"}, "image"),
        ({"x": "float32[batch,3,32,32]"}, "image"),
        ({"input_features": "float32[batch,80,3000]", "decoder_input_ids": "int64[batch,target]"}, "text+audio"),
        ({"pixel_values": "float32[batch,3,32,32]", "input_ids": "int64[batch,seq]"}, "text+image"),
        ({"pixel_values_videos": "float32[batch,8,3,32,32]"}, "video"),
        ({"x": "float32[nodes,16]", "edge_index": "int64[2,edges]"}, "graph"),
        ({"sample": "float32[batch,4,64,64]", "timestep": "int64[1]"}, "latent"),
        ({"thing": "float32[batch,7]"}, ""),
    ],
)
def test_the_modality_is_read_off_the_inputs(types: dict[str, str], expected: str) -> None:
    assert modality_of(inputs(**types)) == expected


def test_the_description_says_what_was_counted() -> None:
    facts = facts_of(gpt2_like(layers=5, width=32, heads=4))
    text = describe(facts, name="tiny", library="transformers", task="language modelling")
    assert text.startswith("tiny of transformers reads text and is made for language modelling. ")
    assert "5 layers, width 32, 4 attention heads" in text
    assert "layer norm" in text
    assert "32 attention" not in describe(replace(facts, num_heads=8), name="t", library="")


def test_a_family_goes_where_its_group_goes_whatever_the_library() -> None:
    rule = SplitRule(held_out=frozenset({"regnet", "clip"}), heldout_share=0.1, validation_share=0.2)
    assert rule.split("timm.regnet") == rule.split("regnet") == "heldout"
    assert rule.split("clip_text_model", "clip") == rule.split("clip_vision_model", "clip") == "heldout"
    assert rule.split("gpt-x") == rule.split("timm.gpt_x")


def test_the_shares_are_met_and_do_not_depend_on_what_else_there_is() -> None:
    """5,000 names at a share of 0.1: 7 standard deviations are 150."""
    rule = SplitRule(heldout_share=0.1, validation_share=0.2)
    splits = [rule.split(f"family{i}") for i in range(5000)]
    assert abs(splits.count("heldout") - 500) < 150
    assert abs(splits.count("validation") - 1000) < 200
    assert SplitRule(heldout_share=0.1, validation_share=0.2).split("family7") == splits[7]
    with pytest.raises(ValueError, match="leave some to train"):
        SplitRule(heldout_share=0.5, validation_share=0.5)
