"""What the eager tracer has to know of a module's code: views, weights made anew, long loops, frozen statistics."""

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from genmad.importers.from_torch import from_torch
from genmad.importers.hf_attention import genmad_attention
from genmad.importers.report import Imported, UnsupportedError
from genmad.lowering.to_torch import to_torch


def same(module: nn.Module, *shape: int, dynamic: Any = None) -> Imported:
    """Imports, runs both on the same numbers and compares."""
    imported = from_torch(module.eval(), {"x": torch.zeros(shape)}, dynamic=dynamic)
    lowered = to_torch(imported.graph, {name: imported.parameters[name] for name in imported.parameters})
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(lowered(x=x), module(x), atol=1e-5, rtol=1e-5)
    return imported


def ops(imported: Imported) -> Counter[str]:
    return Counter(node.op for block in imported.graph.all_blocks for node in block.nodes)


class IntoParts(nn.Module):
    """Multi-head latent attention of transformers puts keys together so."""

    def forward(self, x: Tensor) -> Tensor:
        whole = x.new_empty(*x.shape[:-1], 8)
        whole[..., :4].copy_(x)
        whole[..., 4:].copy_(2 * x)
        whole[:, 0][..., :2].mul_(3)
        return whole + 1


def test_what_is_written_into_a_part_is_in_the_whole() -> None:
    """Guards a silent error: the parts were written, the whole stayed empty. Nor is what is copied a foreign call."""
    assert "TorchCall" not in ops(same(IntoParts(), 2, 5, 4))


class Substitution(nn.Module):
    """The loop of the chunked delta rule, over 12 rows; `strict` as the models write it."""

    def __init__(self, strict: bool) -> None:
        super().__init__()
        self.strict = strict

    def forward(self, x: Tensor) -> Tensor:
        mask = torch.triu(torch.ones(12, 12, dtype=torch.bool), diagonal=0 if self.strict else 1)
        a = -(x @ x.transpose(-1, -2) * 0.05).masked_fill(mask, 0)
        for i in range(1, 12):
            row, sub = a[..., i, :i].clone(), a[..., :i, :i].clone()
            a[..., i, :i] = row + (row.unsqueeze(-1) * sub).sum(-2)
        return a


@pytest.mark.parametrize("strict", [True, False])
def test_an_unrolled_forward_substitution_is_one_solve(strict: bool) -> None:
    """Where the start is not strictly lower triangular, the loop is no such solve and stays."""
    imported = same(Substitution(strict), 2, 12, 4)
    assert ("torch.linalg.solve_triangular" in imported.report.primitive) is strict
    assert (imported.graph.num_nodes < 40) is strict


class Rescaled(nn.Module):
    """A weight that is changed in place before the layer takes it (RWKV)."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.layer.weight.clone()
        self.layer.weight.div_(2)
        out = self.layer(x)
        self.layer.weight.copy_(weight)
        return out  # type: ignore[no-any-return]


def test_a_layer_takes_a_weight_that_was_made_anew() -> None:
    with torch.no_grad():
        imported = same(Rescaled(), 2, 4)
    assert ops(imported) == {"Linear": 1}


class FrozenBatchNorm(nn.Module):
    def __init__(self, eps: float) -> None:
        super().__init__()
        self.eps = eps
        for name, low in (("weight", 0.5), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 0.1)):
            self.register_buffer(name, torch.rand(3, generator=torch.Generator().manual_seed(1)) + low)

    def forward(self, x: Tensor) -> Tensor:
        weight, bias, mean, var = (
            getattr(self, n).reshape(1, -1, 1, 1) for n in ("weight", "bias", "running_mean", "running_var")
        )
        scale = weight * (var + self.eps).rsqrt()
        return x * scale + (bias - mean * scale)  # type: ignore[no-any-return]


class LeakyBatchNorm(FrozenBatchNorm):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * 1.01


def test_a_frozen_batch_norm_is_one_op_with_its_own_eps() -> None:
    imported = same(FrozenBatchNorm(1e-3), 2, 3, 4, 4)
    (node,) = (n for n in imported.graph.main.nodes if n.op == "BatchNorm")
    assert dict(node.attrs)["eps"] == 1e-3
    assert "BatchNorm" not in ops(same(LeakyBatchNorm(1e-3), 2, 3, 4, 4))


class ChannelRms(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(0.5, 1.5, 6))

    def forward(self, x: Tensor) -> Tensor:
        y = x * torch.rsqrt(x.square().mean(dim=1, keepdim=True) + 1e-6)
        return y * self.weight.reshape(1, -1, 1, 1)


def test_a_norm_over_channels_is_an_rms_norm_between_transposes() -> None:
    assert ops(same(ChannelRms(), 2, 6, 3, 4)) == {"Transpose": 2, "RMSNorm": 1}


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.layer(x)) + torch.tanh(self.layer(x) * 2) + torch.tanh(self.layer(x) * 2)


def test_a_value_that_is_computed_twice_stands_once() -> None:
    assert ops(same(Twice(), 2, 4)) == {"Linear": 1, "Relu": 1, "MulScalar": 1, "Tanh": 1, "Add": 2}


class Repeated(nn.Module):
    """A table that is the same for every example, a row walked over, constant counts of repetition."""

    def forward(self, x: Tensor) -> Tensor:
        table = torch.arange(20.0).sin().reshape(1, 4, 5).expand(x.shape[0], -1, -1)
        first, second = torch.tensor([3, 1])
        wide = x.repeat_interleave(torch.tensor([2, 0, 1, 3]), dim=1)
        return (x + table)[:, :first].sum(1) + wide[:, second]


def test_a_table_for_all_examples_is_kept_once() -> None:
    imported = same(Repeated(), 3, 4, 5, dynamic={"x": {0: "batch"}})
    assert ops(imported)["Sin"] == 0
    assert not imported.report.primitive


def test_an_attention_argument_that_we_do_not_know_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards a silent error: sinks of Inkling 2 were swallowed."""
    import transformers.models.inkling2.modeling_inkling2 as inkling

    from genmad.importers import hf_attention

    monkeypatch.setattr(hf_attention, "_KNOWN", hf_attention._KNOWN - {"sinks"})
    monkeypatch.setattr(hf_attention.Tracer, "current", object())
    layer = inkling.Inkling2SlidingAttention.__new__(inkling.Inkling2SlidingAttention)
    x = torch.zeros(1, 2, 3, 4)
    with pytest.raises(UnsupportedError, match="the argument sinks"):
        genmad_attention(layer, x, x, x, None, sinks=x)
