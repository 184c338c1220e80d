"""NAS-Bench-BERT: published size and parameters, transforms against torch's FFT; members train and run in ONNX."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from genmad.ir import Graph, GraphBuilder
from genmad.lowering.to_torch import to_torch
from genmad.ops import OPSET
from genmad.spaces import SpaceError, get_space
from genmad.spaces.bert import OPS, NasBenchBert
from genmad.spaces.bert_graph import Layer, layer_block, make_graph, transform
from genmad.validate import Level, validate


def test_the_size_is_the_published_one() -> None:
    space = get_space("nas_bench_bert")
    assert space.size == space.grammar().num_words == 10_621_440


def test_parameters_are_the_published_ones_where_the_benchmark_counts_the_member_itself() -> None:
    """The benchmark counted every row at hidden size 256 and width 1,024: those rows agree, smaller ones are below."""
    folder = os.environ.get("GENMAD_DATA")
    if not folder or not (Path(folder) / "nas-bench-bert").is_dir():
        pytest.skip("no benchmark tables: set GENMAD_DATA to a folder that holds them")
    space = NasBenchBert()
    table = space.read_labels(Path(folder))
    assert table is not None
    assert (len(table.keys), len(set(table.keys))) == (500, 491)
    assert 53 < table.column("glue").min() < table.column("glue").max() < 76
    found, said = space.costs(table.words)[:, 0], table.column("params")
    largest = np.array(
        [all(x.ffn == 1024 for x in space.unpack(w)[1]) and w[0] == 1 for w in map(tuple, table.words.tolist())]
    )
    assert largest.sum() > 10
    assert (found[largest] == said[largest]).all()
    assert (found[~largest] < said[~largest]).all()


@pytest.mark.parametrize("op", ["DFT", "DCT"])
@pytest.mark.parametrize("length", [1, 7, 128])
def test_transform_tables_are_those_of_torch(op: str, length: int) -> None:
    block = GraphBuilder(OPSET).block("Transform", x=f"float32[{length},5]")
    tables = transform(block, op, length)
    model = to_torch(Graph(main=block.finish([block.add("MatMul", table, "x") for table in tables])))
    x = torch.randn(length, 5, generator=torch.Generator().manual_seed(0))
    if op == "DFT":
        spectrum = torch.fft.fft(x, dim=0)
        real, imaginary = model(x)
        torch.testing.assert_close(real, spectrum.real, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(-imaginary, spectrum.imag, rtol=1e-4, atol=1e-4)
    else:
        # DCT-II is the spectrum of the sequence followed by its mirror image, turned by half a step.
        spectrum = torch.fft.fft(torch.cat([x, x.flip(0)]), dim=0)[:length]
        turn = torch.exp(-0.5j * torch.pi * torch.arange(length) / length)
        torch.testing.assert_close(model(x), (spectrum * turn[:, None]).real, rtol=1e-4, atol=1e-4)


def test_a_fourier_layer_is_the_real_part_of_a_transform_in_two_directions() -> None:
    builder = GraphBuilder(OPSET)
    name = layer_block(builder, 128, Layer(op="DFT", heads=2, ffn=512, num_ffn=1))
    layer = to_torch(Graph(main=builder.blocks[name]))
    weights = layer.state_dict()
    x = torch.randn(1, 6, 128, generator=torch.Generator().manual_seed(0))
    angle = 2 * torch.pi * torch.outer(torch.arange(6.0), torch.arange(6.0)) / 6
    inner = torch.nn.functional.linear(x, weights["operation.input.weight"], weights["operation.input.bias"])
    heads = torch.fft.fft2(inner.reshape(1, 6, 2, 64).transpose(1, 2)).real.transpose(1, 2).reshape(1, 6, 128)
    hidden = torch.nn.functional.gelu(
        torch.nn.functional.linear(
            heads, weights["intermediate.dense_in.weight"], weights["intermediate.dense_in.bias"]
        )
    )
    out = torch.nn.functional.linear(hidden, weights["output.dense.weight"], weights["output.dense.bias"]) + heads
    expected = torch.nn.functional.layer_norm(
        out, (128,), weights["output.LayerNorm.weight"], weights["output.LayerNorm.bias"]
    )
    torch.testing.assert_close(layer(x, angle.cos(), angle.sin()), expected, rtol=1e-3, atol=1e-3)


def test_dynamic_convolution_sees_its_kernel_and_no_further() -> None:
    """With the attention half switched off, position 10 of 21 depends on two neighbours on each side, kernel 5."""
    builder = GraphBuilder(OPSET)
    name = layer_block(builder, 128, Layer(op="DSC5", heads=4, ffn=512, num_ffn=1))
    layer = to_torch(Graph(main=builder.blocks[name]))
    layer.state_dict()["operation.output.dense.weight"][:, :64] = 0.0
    x = torch.randn(1, 21, 128, generator=torch.Generator().manual_seed(0), requires_grad=True)
    layer(x)[0, 10].square().sum().backward()
    assert x.grad is not None
    assert torch.nonzero(x.grad[0].abs().sum(-1)).flatten().tolist() == [8, 9, 10, 11, 12]


@pytest.mark.parametrize("ops", [OPS[:2], OPS[2:4], OPS[4:]])
def test_members_train_and_run_in_onnx(ops: tuple[str, str]) -> None:
    layers = [Layer(op=op, heads=h, ffn=512, num_ffn=n) for op, h, n in zip(ops, (2, 4), (1, 3), strict=True)]
    graph = make_graph(128, layers, vocabulary=13)
    assert validate(graph, OPSET, Level.EXECUTABLE).passed
    model = to_torch(graph)
    ids = torch.arange(12).reshape(2, 6)
    out = model(ids, ids % 2)
    assert out.shape == (2, 6, 128)
    (out * torch.randn(out.shape, generator=torch.Generator().manual_seed(0))).sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())


def test_neighbours_may_have_two_more_layers() -> None:
    space = NasBenchBert()
    two = space.from_text("hidden128 | SDP h2 f512 n1 | DSC5 h4 f1024 n3")
    texts = {space.to_text(word) for word in space.neighbours(two)}
    assert "hidden128 | SDP h2 f512 n1 | DSC5 h4 f1024 n3 | DCT h2 f512 n1 | SDP h2 f512 n1" in texts
    assert "hidden256 | SDP h2 f512 n1 | DSC5 h4 f1024 n3" in texts
    assert len(texts) == 1 + 2 * (5 + 3) + 6


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hidden64 | SDP h2 f512 n1 | SDP h2 f512 n1", "'hidden64', not hidden128"),
        ("hidden128 | SDP h2 f512 n1 | SDP h2 f512 n1 | SDP h2 f512 n1", "3 layers, not 2 or 4"),
        ("hidden128 | SDP h2 f512 n1 | SDP h3 f512 n1", "layer 2: 'SDP h3 f512 n1'"),
    ],
)
def test_rules_name_what_is_wrong(text: str, message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        NasBenchBert().from_text(text)
