"""HW-GPT-Bench: exact size, published parameter counts, rules; members are causal, train and run in ONNX."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from genmad.lowering.to_torch import to_torch
from genmad.ops import OPSET
from genmad.spaces import SpaceError, get_space
from genmad.spaces.hw_gpt import HwGpt, HwGptS
from genmad.validate import Level, validate

SCALES = ("s", "m", "l")


class Tiny(HwGpt):
    """The same rules at a size that runs at once."""

    name = "hw_gpt_tiny"
    title = "tiny"
    embeds = (16, 24)
    heads = (1, 2)
    layers = (1, 2, 3)


@pytest.mark.parametrize(("scale", "layers"), [("s", 12), ("m", 24), ("l", 36)])
def test_the_size_is_that_of_the_grammar(scale: str, layers: int) -> None:
    space = get_space(f"hw_gpt_{scale}")
    assert space.size == space.grammar().num_words == 6 * (9**layers + 9 ** (layers - 1) + 9 ** (layers - 2))


@pytest.mark.parametrize("scale", SCALES)
def test_parameters_are_the_published_ones(scale: str) -> None:
    """All 10,000 rows of each scale, to the last parameter; the table's MACs are those of linear layers only."""
    folder = os.environ.get("GENMAD_DATA")
    if not folder or not (Path(folder) / "hw-gpt-bench").is_dir():
        pytest.skip("no benchmark tables: set GENMAD_DATA to a folder that holds them")
    space = get_space(f"hw_gpt_{scale}")
    table = space.read_labels(Path(folder))
    assert table is not None
    assert len(set(table.keys)) == 10_000
    assert (space.grammar(("params",)).costs(table.words)[:, 0] == table.column("params")).all()


def test_labels_are_read_and_foreign_rows_named(tmp_path: Path) -> None:
    header = "embed_dim,n_layer,n_head,mlp_ratio,bias,perplexity\n"
    row = "384,10," + "-".join(["8"] * 10) + "," + "-".join(["2"] * 10) + ",1,{}\n"
    path = tmp_path / "gpt_s.csv"
    path.write_text(header + row.format("30.5") + row.format(""))
    table = HwGptS().read_labels(path)
    assert table is not None
    assert HwGptS().to_text(tuple(table.words[0].tolist())) == "embed384 bias1 | " + " ".join(["h8_r2"] * 10)
    assert table.column("perplexity")[0] == 30.5
    assert np.isnan(table.column("perplexity")[1])
    path.write_text(header + row.replace("384,10", "384,11").format("1"))
    with pytest.raises(SpaceError, match="line 2: got 11 layers with 10 heads and 10 ratios; expected a member"):
        HwGptS().read_labels(path)


def test_a_member_trains_is_causal_and_runs_in_onnx() -> None:
    space = Tiny(vocabulary=11)
    word = (1, 1, 0, 5, 3)
    graph = space.to_graph(word)
    assert space.from_graph(graph) == word
    assert validate(graph, OPSET, Level.EXECUTABLE).passed
    model = to_torch(graph)
    ids = torch.tensor([[1, 2, 3, 4, 5], [1, 2, 3, 9, 9]])
    logits = model(ids)
    assert logits.shape == (2, 5, 11)
    # Both rows agree up to the third token: so must what is said there.
    torch.testing.assert_close(logits[0, :3], logits[1, :3])
    assert (logits[0, 3:] - logits[1, 3:]).abs().max() > 1e-4
    torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())


def test_order_of_tokens_matters_by_position() -> None:
    """Without rotary positions the last token of a single layer would see its past as a set."""
    model = to_torch(Tiny(vocabulary=11).to_graph((0, 0, 0, 6, 6)))
    swapped = model(torch.tensor([[1, 2, 3, 4], [2, 1, 3, 4]]))[:, -1]
    assert (swapped[0] - swapped[1]).abs().max() > 1e-5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("embed384 | h4_r2", "not of the form"),
        ("embed100 bias1 | " + " ".join(["h4_r2"] * 10), "embedding of 100, not 192, 384 or 768"),
        ("embed384 bias0 | " + " ".join(["h4_r2"] * 9), "9 layers, not 10, 11 or 12"),
        ("embed384 bias0 | " + " ".join(["h5_r7"] * 10), "layer 1: 5 heads, not 4, 8 or 12"),
    ],
)
def test_rules_name_what_is_wrong(text: str, message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        HwGptS().from_text(text)
