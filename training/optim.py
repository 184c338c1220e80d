"""Optimisers and the learning-rate schedule."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from genmad.training.config import TrainConfig

MIN_MUON_SIDE = 5


def learning_rate_at(step: int, config: TrainConfig) -> float:
    """Linear warm-up, then cosine decay to 2 % of the peak."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    done = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    return config.learning_rate * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(done, 1.0))))


class Optimizers:
    """One or two torch optimisers that step together."""

    def __init__(self, *parts: torch.optim.Optimizer) -> None:
        self.parts = parts

    def set_learning_rate(self, value: float) -> None:
        for part in self.parts:
            for group in part.param_groups:
                group["lr"] = value

    def step(self) -> None:
        for part in self.parts:
            part.step()

    def zero_grad(self) -> None:
        for part in self.parts:
            part.zero_grad()

    def states(self) -> Iterator[tuple[int, Tensor, torch.optim.Optimizer]]:
        """(position, parameter, the optimiser that holds its state) over all parts and groups in order."""
        position = 0
        for part in self.parts:
            for group in part.param_groups:
                for parameter in group["params"]:
                    yield position, parameter, part
                    position += 1


def make_optimizers(model: nn.Module, config: TrainConfig) -> Optimizers:
    """Muon (Jordan et al. 2024) on hidden matrices, AdamW on tables, heads, norms and biases; or AdamW on everything.

    Muon's step is scaled to AdamW's root mean square (Liu et al. 2025, section 2.2), so one learning rate serves both.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    plain = [p for p in trained if p.ndim <= 1]
    hidden = _hidden_matrices(model) if config.optimizer == "muon" else []
    chosen = {id(p) for p in hidden}
    tables = [p for p in trained if p.ndim > 1 and id(p) not in chosen]
    groups = [{"params": tables, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    adamw = torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.98))
    if not hidden:
        return Optimizers(adamw)
    muon = torch.optim.Muon(
        hidden,
        lr=config.learning_rate,
        weight_decay=config.weight_decay,
        momentum=0.95,
        adjust_lr_fn="match_rms_adamw",
    )
    return Optimizers(muon, adamw)


def _hidden_matrices(model: nn.Module) -> list[nn.Parameter]:
    """Matrices that map features to features: no embedding tables, no head onto the vocabulary."""
    tables = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    heads = {id(m.weight) for name, m in model.named_modules() if name == "op_head" and isinstance(m, nn.Linear)}
    matrices = [p for p in model.parameters() if p.ndim == 2 and id(p) not in tables | heads]
    return [p for p in matrices if min(p.shape) >= MIN_MUON_SIDE]
