"""Low-rank adaptation of our own network (Hu et al. 2021, section 4.1): each linear layer learns W + B A / r.

The two factors are a parametrisation of the weight, so the network's code does not change, and merging leaves plain
weights: what is saved is a checkpoint like any other.
"""

# D out features, E in features, r rank.

import math

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize


class LowRankDelta(nn.Module):
    """The weight with a product of two thin factors added; zero at the start because `b_Dr` is."""

    def __init__(self, rows: int, columns: int, rank: int) -> None:
        super().__init__()
        self.a_rE = nn.Parameter(torch.empty(rank, columns))
        self.b_Dr = nn.Parameter(torch.zeros(rows, rank))
        self.scale = 1.0 / math.sqrt(rank)  # rsLoRA (Kalajdzievski 2023): steps do not shrink as the rank grows
        nn.init.kaiming_uniform_(self.a_rE, a=math.sqrt(5))

    def forward(self, weight_DE: Tensor) -> Tensor:
        return weight_DE + self.scale * (self.b_Dr @ self.a_rE)


def add_low_rank(model: nn.Module, rank: int) -> int:
    """Freezes `model` but for biases and norms, and gives its linear layers a trained part of this rank; the number of
    trained elements."""
    for parameter in model.parameters():
        parameter.requires_grad_(parameter.requires_grad and parameter.ndim <= 1)
    for layer in [m for m in model.modules() if isinstance(m, nn.Linear)]:
        rows, columns = layer.weight.shape
        if min(rows, columns) > rank:
            delta = LowRankDelta(rows, columns, rank).to(layer.weight.device)
            parametrize.register_parametrization(layer, "weight", delta)
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def plain_weight(layer: nn.Linear | nn.Embedding) -> nn.Parameter:
    """The weight itself, without its low-rank part."""
    if parametrize.is_parametrized(layer, "weight"):
        found = layer.parametrizations["weight"].original  # type: ignore[index,union-attr]  # a ModuleDict of torch's
        assert isinstance(found, nn.Parameter)
        return found
    weight = layer.weight
    assert isinstance(weight, nn.Parameter)
    return weight


def train_new_rows(table: nn.Parameter, first: int) -> None:
    """Trains the rows of a table from `first` on; the rows before get no gradient."""
    table.requires_grad_(True)

    def keep_new(gradient: Tensor) -> Tensor:
        kept = gradient.clone()
        kept[:first] = 0
        return kept

    table.register_hook(keep_new)


def merge_low_rank(model: nn.Module) -> None:
    """Puts every product of factors into its weight; the model then has the parameters that it had before."""
    for module in list(model.modules()):
        if isinstance(module, nn.Linear) and parametrize.is_parametrized(module, "weight"):
            parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)
