"""Each lifting pass on a module made here: the op it gives, and the same outputs with the same weights."""

from collections import Counter
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genmad.importers.from_torch import from_torch
from genmad.importers.lifting import lift
from genmad.importers.masks import mask_rule
from genmad.importers.report import Imported
from genmad.lowering.to_torch import to_torch

TOKENS = {"x": {0: "batch", 1: "seq"}}


def lifted(module: nn.Module, *shape: int, dynamic: Any = None) -> Imported:
    """Imports, runs both at batch 3 and longer rows, and compares."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in module.parameters():
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.3)
    imported = from_torch(module.eval(), {"x": torch.zeros(1, *shape[1:])}, dynamic=dynamic)
    x = torch.randn(3, *shape[1:], generator=generator)
    lowered = to_torch(imported.graph, {name: imported.parameters[name] for name in imported.parameters})
    with torch.no_grad():
        torch.testing.assert_close(lowered(x=x), module(x), atol=1e-5, rtol=1e-5)
    return imported


def ops(imported: Imported) -> Counter[str]:
    return Counter(node.op for block in imported.graph.all_blocks for node in block.nodes)


class WrittenOut(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "tanh":
            return 0.5 * x * (1.0 + torch.tanh(0.7978845608028654 * (x + 0.044715 * x**3)))
        if self.kind == "none":
            return x * 0.5 * (1.0 + torch.erf(x / 1.4142135623730951))
        return x * torch.sigmoid(1.702 * x)


@pytest.mark.parametrize("kind", ["tanh", "none", "sigmoid"])
def test_gelu_written_out_becomes_gelu(kind: str) -> None:
    found = lifted(WrittenOut(kind), 1, 6)
    assert ops(found) == {"Gelu": 1}
    assert found.graph.main.nodes[0].attr_map["approximate"] == kind


class Almost(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.5 * x)


def test_a_module_that_is_one_layer_is_a_graph_of_one_node() -> None:
    assert ops(lifted(nn.Linear(4, 3), 1, 4)) == {"Linear": 1}


def test_another_formula_stays_as_it_is() -> None:
    """Guards a comparison that is too loose: 1.5 is not GELU's 1.702."""
    assert ops(lifted(Almost(), 1, 6)) == {"Mul": 1, "Sigmoid": 1, "MulScalar": 1}


class Norm(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.weight, self.bias = nn.Parameter(torch.ones(8)), nn.Parameter(torch.zeros(8))

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "rms":
            return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5))
        if self.kind == "one plus":
            return (1.0 + self.weight) * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5))
        centred = x - x.mean(-1, keepdim=True)
        return self.weight * (centred * torch.rsqrt(centred.pow(2).mean(-1, keepdim=True) + 1e-5)) + self.bias


@pytest.mark.parametrize(
    ("kind", "op", "attr", "value"),
    [("rms", "RMSNorm", "offset", 0.0), ("one plus", "RMSNorm", "offset", 1.0), ("layer", "LayerNorm", "bias", True)],
)
def test_norms_written_out_become_one_op(kind: str, op: str, attr: str, value: Any) -> None:
    found = lifted(Norm(kind), 1, 5, 8)
    assert ops(found) == {op: 1}
    assert found.graph.main.nodes[0].attr_map[attr] == value


class MergedHeads(nn.Module):
    """Attention on [batch * heads, rows, columns] with a bias of distances, as Bloom has it, and a window."""

    def __init__(self, window: int | None) -> None:
        super().__init__()
        self.qkv = nn.Linear(16, 48)
        self.window = window

    def forward(self, x: Tensor) -> Tensor:
        batch, seq, _ = x.shape
        q, k, v = (t.reshape(batch, seq, 4, 4).transpose(1, 2) for t in self.qkv(x).split(16, dim=-1))
        q, k, v = (t.reshape(batch * 4, seq, 4) for t in (q, k, v))
        scores = torch.bmm(q, k.transpose(1, 2)) * 0.5
        keep = torch.ones(seq, seq, dtype=torch.bool).tril()
        if self.window is not None:
            keep = keep & torch.ones(seq, seq, dtype=torch.bool).triu(1 - self.window)
        scores = torch.where(keep, scores.view(batch, 4, seq, seq), torch.finfo(torch.float32).min)
        weights = F.softmax(scores, dim=-1).view(batch * 4, seq, seq)
        mixed = torch.bmm(weights, v).view(batch, 4, seq, 4)
        return mixed.transpose(1, 2).reshape(batch, seq, 16)


@pytest.mark.parametrize("window", [None, 40])
def test_attention_on_merged_heads_becomes_one_node(window: int | None) -> None:
    """A window wider than both traced lengths shows only on a longer mask."""
    found = lifted(MergedHeads(window), 1, 50, 16, dynamic=TOKENS)
    assert ops(found) == {"Linear": 1, "Split": 1, "Attention": 1}
    attention = next(n for n in found.graph.main.nodes if n.op == "Attention")
    assert attention.attr_map["causal"]
    assert attention.attr_map["window"] == window


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate, self.up, self.down = nn.Linear(8, 12), nn.Linear(8, 12), nn.Linear(12, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.up(x) * F.silu(self.gate(x)))


def test_gated_mlp_is_one_op_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ops(lifted(Gated(), 1, 8)) == {"Linear": 3, "Silu": 1, "Mul": 1}
    monkeypatch.setattr("genmad.importers.from_torch.lift", lambda flat: lift(flat, coarse=True))
    assert ops(lifted(Gated(), 1, 8)) == {"GatedMLP": 1}


class InterleavedRope(nn.Module):
    """Cohere's rotary embedding: each frequency stands twice side by side in the table."""

    def __init__(self) -> None:
        super().__init__()
        self.inv_freq: Tensor
        self.register_buffer("inv_freq", 1.0 / 100 ** (torch.arange(0, 8, 2) / 8), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        h = x.view(*x.shape[:2], 2, 8).transpose(1, 2)
        angles = torch.arange(x.shape[1])[None, :, None].float() * self.inv_freq
        angles = torch.repeat_interleave(angles, 2, dim=-1)
        turned = torch.stack((-h[..., 1::2], h[..., ::2]), dim=-1).flatten(-2)
        return h * angles.cos().unsqueeze(1) + turned * angles.sin().unsqueeze(1)


def test_interleaved_rope_becomes_rotary_embedding() -> None:
    found = lifted(InterleavedRope(), 1, 7, 16, dynamic=TOKENS)
    rotary = [n for n in found.graph.main.nodes if n.op == "RotaryEmbedding"]
    assert len(rotary) == 1
    assert rotary[0].attr_map["interleaved"]


class Assignments(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        shifted = torch.zeros_like(x)
        shifted[:, 1:] = x[:, :-1]
        shifted[:, 0] = 3.0
        shifted[..., ::2] = -x[..., 1::2]
        shifted[x > 1] = 0.0
        return shifted.scatter_add(-1, torch.topk(x, 2, dim=-1).indices, x[..., :2])


def test_assignments_to_parts_have_ops() -> None:
    found = lifted(Assignments(), 1, 5, 8)
    assert not found.report.primitive
    assert ops(found)["TopK"] == 1


class Picks(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x[x.sum(-1) > 0].mean(0)


def test_a_selection_by_data_is_refused_by_name() -> None:
    from genmad.importers.report import UnsupportedError

    with pytest.raises(UnsupportedError, match="depends on data"):
        from_torch(Picks(), {"x": torch.zeros(2, 3)})


@pytest.mark.parametrize(("causal", "window"), [(True, None), (True, 3), (False, 4), (False, None)])
def test_mask_rule_reads_causal_and_window(causal: bool, window: int | None) -> None:
    distance = torch.arange(9)[:, None] - torch.arange(9)[None, :]
    keep = torch.ones(9, 9, dtype=torch.bool) if not causal else distance >= 0
    keep = keep if window is None else keep & (distance.abs() < window)
    assert mask_rule(keep) == (causal, window)
    keep[5, 0] = not keep[5, 0]
    assert mask_rule(keep) is None
