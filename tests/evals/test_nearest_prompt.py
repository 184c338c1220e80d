"""The copying baseline: it gives back what it was shown, and fails where nothing it knows fits."""

import pytest

from genmad.evals.nearest_prompt import NearestPrompt
from genmad.intents.library import sample_example
from genmad.ir import Graph, GraphBuilder, canonical_hash
from genmad.ops import OPSET


@pytest.fixture(scope="module")
def graph() -> Graph:
    builder = GraphBuilder(OPSET)
    main = builder.block("Net", image="float32[batch,8,16,16]")
    value = "image"
    for i in range(3):
        value = main.add("Conv", value, name=f"layers.{i}.conv", scope=f"layers.{i}", out_channels=8,
                         kernel_size=(3, 3), padding=(1, 1))  # fmt: skip
        value = main.add("Relu", value, name=f"layers.{i}.act", scope=f"layers.{i}")
    return builder.build(main.finish(value))


def test_a_prompt_that_it_was_shown_is_answered_as_it_was_shown(graph: Graph) -> None:
    import random

    baseline = NearestPrompt([graph], seed=3, examples=40)
    # The same draws as the baseline's own: what it was shown.
    rng = random.Random(3)
    shown = []
    for _ in range(40):
        chosen = rng.choice([graph])
        shown.append(sample_example(chosen, rng))
    known = [e for e in shown if e is not None and e.script is not None]
    assert known
    for example in known[:5]:
        (found,) = baseline.edit(graph, example.prompt)
        assert found.status == "ok"
        assert found.state is not None
        assert example.script is not None
        assert canonical_hash(found.state.graph) == canonical_hash(example.script.run(graph, OPSET).graph)


def test_where_no_known_script_fits_it_fails(graph: Graph) -> None:
    builder = GraphBuilder(OPSET)
    main = builder.block("Other", x="float32[batch,4]")
    other = builder.build(main.finish(main.add("Tanh", "x", name="only")))
    baseline = NearestPrompt([graph], seed=3, examples=40)
    found = [baseline.edit(other, text)[0].status for text in ("replace relu in layer 2", "use a 5x5 kernel")]
    assert set(found) <= {"failed", "refused"}
