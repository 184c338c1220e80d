"""What the model reads of a graph."""

from genmad.ir import Graph
from genmad.tokenizer import GraphReader, TokenRef
from tests.graphs import gpt2_like, resnet_like


def test_a_hidden_link_leaves_no_trace_in_the_fields(reader: GraphReader) -> None:
    """The bug this guards: the producer of a hidden link still counted it among its users, which gave the link away."""
    graph = gpt2_like()
    hidden = frozenset({("GPT2Block", "attn.c_proj", 0)})
    whole, cut = reader.read(graph), reader.read(graph, hidden=hidden)
    mixer = next(i for i, ref in enumerate(whole.refs) if ref.name == "attn.attention")
    other = next(i for i, ref in enumerate(whole.refs) if ref.name == "mlp.c_fc")
    dead_end = next(i for i, ref in enumerate(whole.refs) if ref.name == "lm_head")
    assert not (whole.values[mixer] == cut.values[mixer]).all()
    assert (whole.values[other] == cut.values[other]).all()
    assert (whole.values[dead_end] == cut.values[dead_end]).all()


def test_a_token_inside_a_stage_knows_the_stage(reader: GraphReader) -> None:
    """The bug this guards: "block 0 of stage 1" was edited in whatever stage came first."""
    graph: Graph = resnet_like()
    tokens = reader.read(graph)
    blocks = [ref for ref in tokens.refs if ref.kind == "node" and ref.name.endswith("layers.0")]
    assert len(blocks) >= 2
    stages = [int(tokens.stage_index[tokens.refs.index(TokenRef("node", ref.block, ref.name))]) for ref in blocks]
    assert sorted(stages) == list(range(len(blocks)))
    for ref, stage in zip(blocks, stages, strict=True):
        assert any(f"stages.{stage}.layers.0" in form for form in tokens.names[tokens.refs.index(ref)])
