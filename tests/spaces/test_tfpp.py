"""Transformer++: exact size, heads that add up to the full width, causality, long sequences, loss, rules."""

import numpy as np
import pytest
import torch

from genmad.lowering.to_torch import to_torch
from genmad.ops import OPSET
from genmad.spaces import SpaceError, get_space
from genmad.spaces.causal_lm import CausalLM
from genmad.spaces.tfpp import BACKBONES, OPS, Choices, Tfpp, TfppHomogeneous, TfppSingle
from genmad.spaces.tfpp_graph import Decoder, Layer
from genmad.validate import Level, validate

TINY = Choices(
    embeds=(24,), layers=(1, 2), ratios=(2,), windows=(3,), global_kernels=(4,), separable_kernels=(3,), hashes=(2,),
    buckets=(2, 4), heads=6, vocabulary=11, positions=32,
)  # fmt: skip
SETTINGS = {"mha": (), "local": (3,), "sgconv": (4,), "sgconv3": (4,), "sepconv": (3,), "lsh": (2, 4)}
ALL_SIX = Layer(ops=tuple(SETTINGS.items()), ratio=2)


def decoder(backbone: str, positions: int = 32) -> Decoder:
    return Decoder(backbone=backbone, embed=24, heads=6, vocabulary=11, positions=positions)


@pytest.mark.parametrize("kind", [Tfpp, TfppHomogeneous, TfppSingle])
def test_every_member_of_a_small_space_is_counted_and_read_back(kind: type[Tfpp]) -> None:
    """Every word there is, when layers have at most two primitives; texts differ, all are members by the rules."""
    space = kind(Choices(embeds=(4, 8), layers=(1, 2), ratios=(2,), windows=(3,), global_kernels=(4,), heads=2,
                         separable_kernels=(3,), hashes=(2,), buckets=(2, 4)))  # fmt: skip
    words = [tuple(row) for row in space.grammar().words().tolist()]
    layers = 7 if kind is TfppSingle else 7 + 15 + 5
    assert len(words) == space.size == 2 * 2 * (2 * layers if kind is TfppHomogeneous else layers + layers**2)
    texts = [space.to_text(word) for word in words]
    assert len(set(texts)) == len(texts)
    for word, text in list(zip(words, texts, strict=True))[:: max(1, len(words) // 150)]:
        assert space.from_text(text) == word


def test_sizes_of_the_registered_spaces() -> None:
    """57 ways to share twelve heads; the generating product says how many settings they have."""
    shared = 1 + 3 + 3 + 3 + 3 + 6
    mixed, single = get_space("tfpp"), get_space("tfpp_single")
    assert isinstance(mixed, Tfpp)
    assert len(mixed.allocations) == 57
    assert single.size == 4 * sum((3 * shared) ** n for n in (4, 6, 8, 10, 12))
    settings, counts = [1, 3, 3, 3, 3, 6], [1, 0, 0, 0, 0, 0, 0]
    for ways in settings:
        counts = [counts[0], *(counts[n] + ways * counts[n - 1] for n in range(1, 7))]
    kinds = 3 * sum(counts[n] for n in (1, 2, 3, 4, 6))
    assert mixed.size == mixed.grammar().num_words == 4 * sum(kinds**n for n in (4, 6, 8, 10, 12))


@pytest.mark.parametrize("backbone", BACKBONES)
def test_mixed_heads_concatenate_to_the_full_width(backbone: str) -> None:
    """A layer of six primitives with one head each is what the six give alone, one after the other."""
    made = decoder(backbone)
    layer = to_torch(made.layer_graph(ALL_SIX))
    weights = layer.state_dict()
    x = torch.randn(2, 7, 24, generator=torch.Generator().manual_seed(0))
    angle = torch.arange(7.0)[None, :, None] * torch.tensor([1.0, 0.01, 1.0, 0.01])
    tables = (angle.cos(), angle.sin()) if backbone == "codegen" else ()
    norm = torch.nn.functional.layer_norm(x, (24,), weights["ln_1.weight"], weights["ln_1.bias"])
    parts = []
    for op, setting in ALL_SIX.ops:
        graph = made.op_graph(op, setting, 1)
        names = to_torch(graph).state_dict()
        parts.append(to_torch(graph, {name: weights[name] for name in names})(norm, *tables))
        assert parts[-1].shape == (2, 7, 4)
    linear = torch.nn.functional.linear
    x1 = x + linear(torch.cat(parts, -1), weights["attn.out_proj.weight"], weights["attn.out_proj.bias"])
    inner = torch.nn.functional.layer_norm(x1, (24,), weights["ln_2.weight"], weights["ln_2.bias"]) \
        if backbone == "gpt2" else norm  # fmt: skip
    inner = torch.nn.functional.gelu(
        linear(inner, weights["mlp.fc1.weight"], weights["mlp.fc1.bias"]), approximate="tanh"
    )
    expected = x1 + linear(inner, weights["mlp.fc2.weight"], weights["mlp.fc2.bias"])
    torch.testing.assert_close(layer(x, *tables), expected)


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("op", OPS)
def test_a_future_token_does_not_change_the_past(backbone: str, op: str) -> None:
    model = to_torch(decoder(backbone).graph([Layer(ops=((op, SETTINGS[op]),), ratio=2)] * 2))
    ids = torch.tensor([[1, 2, 3, 4, 5, 6, 7, 8], [1, 2, 3, 4, 5, 9, 10, 0]])
    logits = model(ids)
    torch.testing.assert_close(logits[0, :5], logits[1, :5], rtol=1e-4, atol=1e-5)
    assert (logits[0, 5:] - logits[1, 5:]).abs().max() > 1e-3
    # The past does reach the present.
    other = model(torch.tensor([[1, 2, 3, 0, 5, 6, 7, 8]]))
    assert (other[0, 4] - logits[0, 4]).abs().max() > 1e-6


def test_a_window_as_long_as_the_sequence_is_full_attention() -> None:
    full, near = (
        decoder("codegen").graph([Layer(ops=((op, s),), ratio=2)]) for op, s in (("mha", ()), ("local", (8,)))
    )
    weights = to_torch(full).state_dict()
    renamed = {name.replace("attn.mha", "attn.local"): value for name, value in weights.items()}
    ids = torch.arange(10).reshape(1, 10)
    a, b = to_torch(full, weights)(ids), to_torch(near, renamed)(ids)
    torch.testing.assert_close(a[:, :8], b[:, :8])
    assert (a[:, 8:] - b[:, 8:]).abs().max() > 1e-6


@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_member_with_all_primitives_trains_and_runs_in_onnx(backbone: str) -> None:
    space = Tfpp(TINY)
    word = space.word_of(backbone, 24, [ALL_SIX])
    graph = space.to_graph(word)
    assert space.from_graph(graph) == word
    assert space.graph_costs(word) == tuple(space.costs(np.array([word]))[0, :2])
    report = validate(graph, OPSET, Level.EXECUTABLE)
    assert report.passed, report
    model = CausalLM(graph)
    ids = torch.arange(10).reshape(2, 5)
    losses = []
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):
        loss = model(ids, labels=ids).loss
        assert loss is not None
        optimiser.zero_grad()
        loss.backward()
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters() if p.requires_grad)
        optimiser.step()
        losses.append(loss.item())
    assert losses[1] < losses[0]


@pytest.mark.parametrize("ops", [("sgconv",), ("sgconv", "sepconv")])
def test_a_sequence_of_8192_works(ops: tuple[str, ...]) -> None:
    model = to_torch(
        decoder("gpt2", positions=8192).graph([Layer(ops=tuple((op, SETTINGS[op]) for op in ops), ratio=2)])
    )
    with torch.no_grad():
        assert torch.isfinite(model(torch.arange(8192).reshape(1, -1) % 11)).all()


def test_labels_are_shifted_and_ignored_as_in_transformers() -> None:
    model = CausalLM(decoder("gpt2").graph([Layer(ops=(("mha", ()),), ratio=2)]))
    ids = torch.tensor([[1, 2, 3, 4]])
    logits = model(ids).logits
    assert model(ids).loss is None
    loss = model(ids, labels=torch.tensor([[7, 2, -100, 5]])).loss
    expected = -(logits.log_softmax(-1)[0, 0, 2] + logits.log_softmax(-1)[0, 2, 5]) / 2
    torch.testing.assert_close(loss, expected)


def test_neighbours_may_change_primitives_and_number_of_layers() -> None:
    space = Tfpp(TINY)
    word = space.from_text("gpt2 embed24 | mha r2")
    texts = {space.to_text(other) for other in space.neighbours(word)}
    assert "codegen embed24 | mha r2" in texts
    assert "gpt2 embed24 | mha+lsh:2x2 r2" in texts
    assert "gpt2 embed24 | mha r2 | sepconv:3 r2" in texts
    assert space.to_text(word) not in texts
    assert "gpt2 embed24 | mha r2" in {
        space.to_text(w) for w in space.neighbours(space.from_text("gpt2 embed24 | mha r2 | mha r2"))
    }


def test_graphs_of_other_kinds_are_refused() -> None:
    """A homogeneous space has no place for layers that differ, the single one none for mixed heads."""
    two = decoder("gpt2").graph([Layer(ops=(("mha", ()),), ratio=2), Layer(ops=(("local", (3,)),), ratio=2)])
    assert Tfpp(TINY).to_text(Tfpp(TINY).from_graph(two)) == "gpt2 embed24 | mha r2 | local:3 r2"
    with pytest.raises(SpaceError, match="expected a graph of the space tfpp_homogeneous"):
        TfppHomogeneous(TINY).from_graph(two)
    with pytest.raises(SpaceError, match="expected a graph of the space tfpp_single"):
        TfppSingle(TINY).from_graph(decoder("gpt2").graph([ALL_SIX]))


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        (Tfpp, "bert embed24 | mha r2", "backbone 'bert'"),
        (Tfpp, "gpt2 embed24 | mha r2 | mha r2 | mha r2", "3 layers, not one of 1, 2"),
        (Tfpp, "gpt2 embed24 | local:3+mha r2", "each once in the order"),
        (Tfpp, "gpt2 embed24 | mha+local:3+sgconv:4+sgconv3:4 r2", "6 heads cannot be shared by 4 primitives"),
        (Tfpp, "gpt2 embed24 | local:5 r2", "local with setting '5', not one of 3"),
        (TfppSingle, "gpt2 embed24 | mha+local:3 r2", "more than one primitive"),
        (TfppHomogeneous, "gpt2 embed24 | mha r2 | local:3 r2", "layers that differ"),
    ],
)
def test_rules_name_what_is_wrong(kind: type[Tfpp], text: str, message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        kind(TINY).from_text(text)
