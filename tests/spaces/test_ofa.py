"""Once-for-All spaces: published size, costs of the published supernet, resolutions, labels; members train and run."""

import gzip
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from genmad.lowering.to_torch import to_torch
from genmad.ops import OPSET
from genmad.spaces import SpaceError, Word, get_space
from genmad.spaces.ofa import NONE, OfaMbv3, OfaPN, OfaSpace
from genmad.validate import Level, validate

SPACES = (OfaMbv3, OfaPN)


def draw(space: OfaSpace, n: int, seed: int = 0) -> list[Word]:
    return [tuple(row) for row in space.sample(np.random.default_rng(seed), n).tolist()]


def test_sizes_are_the_published_ones() -> None:
    mbv3, pn = get_space("ofa_mbv3"), get_space("ofa_pn")
    assert mbv3.grammar().num_words == mbv3.size == 7_371**5
    assert pn.grammar().num_words == pn.size == 7_371**5 * 9
    one = mbv3.grammar().restrict({t: frozenset({0 if t % 4 < 2 else NONE}) for t in range(4, 20)})
    assert one.num_words == 7_371


@pytest.mark.parametrize("kind", SPACES)
def test_graphs_of_every_resolution_are_read_back(kind: type[OfaSpace]) -> None:
    space = kind()  # type: ignore[call-arg]
    for word, side in zip(draw(space, 3), (96, 160, 208), strict=True):
        assert space.from_graph(space.to_graph(word, resolution=side)) == word
    assert kind(resolution=160).costs(np.array([word]))[0, 1] < space.costs(np.array([word]))[0, 1]  # type: ignore[call-arg]
    with pytest.raises(SpaceError, match="resolution 8"):
        space.to_graph(word, resolution=8)


def test_a_graph_of_another_width_or_with_another_activation_is_refused() -> None:
    space = OfaMbv3()
    word = draw(space, 1)[0]
    with pytest.raises(SpaceError, match="expected a graph of the space ofa_mbv3"):
        space.from_graph(OfaMbv3(width=1.2).to_graph(word))


def test_se_h_swish_and_widths_are_those_of_mobilenet_v3() -> None:
    graph = OfaMbv3().to_graph(draw(OfaMbv3(), 1)[0])
    calls = [graph.block_map[node.callee] for node in graph.main.nodes if node.is_call]
    kinds = {
        block.output_types[0].shape[1]: {node.op for node in block.nodes} & {"SqueezeExcite", "HardSwish", "Relu"}
        for block in calls
    }
    assert kinds == {
        24: {"Relu"}, 40: {"Relu", "SqueezeExcite"}, 80: {"HardSwish"}, 112: {"HardSwish", "SqueezeExcite"},
        160: {"HardSwish", "SqueezeExcite"},
    }  # fmt: skip
    wide = OfaMbv3(width=1.2).to_graph(draw(OfaMbv3(), 1)[0])
    widths = [wide.block_map[n.callee].output_types[0].shape[1] for n in wide.main.nodes if n.is_call]
    assert list(dict.fromkeys(widths)) == [32, 48, 96, 136, 192]


def test_neighbours_change_one_layer_or_add_or_drop_the_last_of_a_stage() -> None:
    """Two layers in every stage: each of ten has eight others; in each of five stages nine may be added."""
    word = tuple(0 if t % 4 < 2 else NONE for t in range(20))
    assert len(list(OfaMbv3().neighbours(word))) == 10 * 8 + 5 * 9


@pytest.mark.parametrize("kind", SPACES)
def test_members_train_and_run_in_onnx(kind: type[OfaSpace]) -> None:
    space = kind(resolution=32)  # type: ignore[call-arg]
    graph = space.to_graph(tuple(0 if j < 2 else NONE for _, j in space.places))
    assert validate(graph, OPSET, Level.EXECUTABLE).passed
    model = to_torch(graph).train()
    torch.manual_seed(0)
    loss = torch.nn.functional.cross_entropy(model(torch.randn(2, 3, 32, 32)), torch.tensor([1, 2]))
    loss.backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("k3_e3 k3_e3", "1 stages, not 5"),
        ("k3_e3 | " * 4 + "k3_e3 k3_e3", "stage 1: 1 layers, not 2 to 4"),
        ("k3_e3 k9_e3 | " * 4 + "k3_e3 k3_e5", "stage 1: kernel 9, not 3, 5 or 7"),
        ("k3_e3 k3_e3 | " * 4 + "k3_e3 k3_e5", "stage 5: expansion 5, not 3, 4 or 6"),
    ],
)
def test_rules_name_what_is_wrong(text: str, message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        OfaMbv3().from_text(text)


def test_labels_are_read_by_stage_and_foreign_rows_named(tmp_path: Path) -> None:
    space = OfaPN()
    word = draw(space, 1)[0]
    stages = [[{"kernel": k, "expand": e} for k, e in stage] for stage in space.stages(word)]
    path = tmp_path / "labels.jsonl"
    path.write_text(json.dumps({"id": "a", "stages": stages, "acc": 0.75}) + "\n")
    table = space.read_labels(path)
    assert table is not None
    assert table.column("acc").tolist() == [0.75]
    assert tuple(table.words[0].tolist()) == word
    path.write_text(json.dumps({"id": "a", "stages": [*stages[:5], stages[0]], "acc": 0.75}) + "\n")
    with pytest.raises(SpaceError, match="line 1"):
        space.read_labels(path)


def test_costs_are_those_measured_on_the_published_supernet() -> None:
    """2,162 members of width 1.0 at 224 pixels: parameters and MACs of another group's profiler, to the last one."""
    folder = os.environ.get("GENMAD_DATA")
    if not folder or not (Path(folder) / "ofa_mbv3_dynast").is_dir():
        pytest.skip("no benchmark tables: set GENMAD_DATA to a folder that holds them")
    table = OfaMbv3().read_labels(Path(folder))
    assert table is not None
    costs = OfaMbv3().costs(table.words)
    assert len(table.keys) == len(set(table.keys)) == 2_162
    assert (costs[:, 0] == table.column("params")).all()
    assert (costs[:, 1] == table.column("macs")).all()


def test_predicted_labels_of_proxyless_are_read() -> None:
    folder = os.environ.get("GENMAD_DATA")
    path = Path(folder or ".") / "autobuild_surrogates" / "pn_3k_surrogate_labelled.jsonl.gz"
    if not path.is_file():
        pytest.skip("no benchmark tables: set GENMAD_DATA to a folder that holds them")
    table = OfaPN().read_labels(Path(folder or "."))
    assert table is not None
    with gzip.open(path, "rt") as file:
        first = json.loads(file.readline())
    assert len(table.keys) == 3_000
    assert table.column("acc_top1_frac")[0] == first["acc_top1_frac"]
