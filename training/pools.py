"""`python -m genmad.training.pools SPACE OUT`: trains the small generator of one space on a named split.

The split is by class (`genmad.spaces.split`): `--share 0.5` trains on half of them. Where a space is too large to list,
classes are drawn; `--data` with `--table` trains on the members of the benchmark's own table instead.

N words, B words of a batch, T steps, H hidden width, W choices.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from genmad import __version__
from genmad.model.choice_net import NUM_LAYERS, ChoiceNet
from genmad.spaces import Grammar, Space, Words, get_space
from genmad.spaces.split import in_training, representatives
from genmad.spaces.tables import data_folder

Ints = NDArray[np.int64]
MAX_LISTED = 2_000_000
DRAWN = 200_000
CHECK_EVERY = 100
VALIDATION = 0.1


@dataclass(frozen=True, kw_only=True)
class PoolTraining:
    """Settings of a run.

    Attributes:
        hidden_size: width of the network.
        steps: optimiser steps of `batch_size` words.
        conditions: how many classes of a condition there are beside "none"; each word's is hidden in `drop` of cases
            (classifier-free guidance, Ho and Salimans, arXiv 2207.12598).
    """

    hidden_size: int = 96
    steps: int = 3000
    batch_size: int = 1024
    learning_rate: float = 3e-3
    weight_decay: float = 0.01
    seed: int = 0
    conditions: int = 0
    drop: float = 0.2


class TorchChoiceNet(nn.Module):
    """The same network as `ChoiceNet`, for all steps of a batch at once."""

    first: Tensor

    def __init__(self, widths: Sequence[int], hidden_size: int, conditions: int) -> None:
        super().__init__()
        total, H = sum(widths), hidden_size
        self.widths = tuple(widths)
        self.embed = nn.Parameter(torch.randn(total, H) * 0.5)
        self.start = nn.Parameter(torch.randn(1 + conditions, H) * 0.1)
        self.step = nn.Parameter(torch.randn(len(widths), H) * 0.1)
        self.hidden = nn.Parameter(torch.randn(NUM_LAYERS, H, H) * (0.5 / H**0.5))
        self.bias = nn.Parameter(torch.zeros(NUM_LAYERS, H))
        self.out = nn.Parameter(torch.randn(total, H) * (0.3 / H**0.5))
        self.out_bias = nn.Parameter(torch.zeros(total))
        first = torch.tensor([sum(self.widths[:t]) for t in range(len(widths))])
        self.register_buffer("first", first, persistent=False)

    def forward(self, words_BT: Tensor, masks: Sequence[Tensor], condition_B: Tensor) -> Tensor:
        """float[B, T]: log-likelihood of each choice, given bool[B, W] of what is allowed at each step."""
        embedded_BTH = self.embed[words_BT + self.first]
        sums_BTH = torch.cumsum(embedded_BTH, 1) - embedded_BTH + self.start[condition_B][:, None]
        x_BTH = torch.relu(sums_BTH + self.step)
        for weight, bias in zip(self.hidden, self.bias, strict=True):
            x_BTH = x_BTH + torch.relu(x_BTH @ weight + bias)
        found = []
        for t, width in enumerate(self.widths):
            rows = slice(int(self.first[t]), int(self.first[t]) + width)
            logits_BW = x_BTH[:, t] @ self.out[rows].T + self.out_bias[rows]
            law_BW = torch.log_softmax(logits_BW.masked_fill(~masks[t], -1e9), -1)
            found.append(law_BW.gather(1, words_BT[:, t : t + 1]))
        return torch.cat(found, 1)

    def frozen(self, **about: object) -> ChoiceNet:
        """The weights as numpy."""
        tensors = {name: p.detach().to(torch.float32).numpy().copy() for name, p in self.named_parameters()}
        return ChoiceNet(widths=self.widths, about=about, **tensors)


class WordBatches:
    """Words with the masks that the grammar sets before each of their choices."""

    def __init__(self, grammar: Grammar, words: Words) -> None:
        self.words = torch.from_numpy(words.astype(np.int64))
        walk = grammar.start(len(words))
        states, tables = [], []
        for t, layer in enumerate(grammar.layers):
            states.append(torch.from_numpy(walk.states.copy()))
            tables.append(torch.from_numpy(layer.next >= 0))
            walk = grammar.advance(walk, words[:, t])
        self.states = torch.stack(states, 1)
        self.tables = tables

    def at(self, rows: Tensor) -> tuple[Tensor, list[Tensor]]:
        return self.words[rows], [table[self.states[rows, t]] for t, table in enumerate(self.tables)]


def fit(
    grammar: Grammar, words: Words, settings: PoolTraining, *, conditions: Ints | None = None,
    weights: NDArray[np.floating] | None = None, validation: Words | None = None,
    report: Callable[[str], None] = lambda _: None,
) -> TorchChoiceNet:  # fmt: skip
    """A network trained on words, each drawn in proportion to its weight; the step best on `validation` where given."""
    rng = torch.Generator().manual_seed(settings.seed)
    torch.manual_seed(settings.seed)
    widths = [len(step.choices) for step in grammar.steps]
    model = TorchChoiceNet(widths, settings.hidden_size, settings.conditions)
    optimiser = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, settings.learning_rate, settings.steps, pct_start=0.1)
    batches = WordBatches(grammar, words)
    chances = torch.ones(len(words)) if weights is None else torch.from_numpy(np.asarray(weights, np.float32))
    given = torch.zeros(len(words), dtype=torch.long) if conditions is None else torch.from_numpy(conditions)
    held, best = _Held(validation), (float("inf"), model.state_dict())
    begin, total = time.perf_counter(), 0.0
    for step in range(settings.steps):
        rows = (
            torch.randint(len(words), (settings.batch_size,), generator=rng)
            if weights is None
            else torch.multinomial(chances, settings.batch_size, replacement=True, generator=rng)
        )
        condition = given[rows].clone()
        condition[torch.rand(len(rows), generator=rng) < settings.drop] = 0
        batch, masks = batches.at(rows)
        loss = -model(batch, masks, condition).sum(1).mean()
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        total += loss.item()
        if (step + 1) % CHECK_EVERY == 0:
            nats = held.nats(grammar, model)
            best = min(best, (nats, {k: v.clone() for k, v in model.state_dict().items()}), key=lambda item: item[0])
            seconds = time.perf_counter() - begin
            report(f"step {step + 1}: {total / CHECK_EVERY:.4f} nats per word, held out {nats:.4f}; {seconds:.0f} s")
            total = 0.0
    if held.words is not None:
        model.load_state_dict(best[1])
    return model.eval()


class _Held:
    """Words that are never trained on, to choose the best step by; none where `words` is None."""

    def __init__(self, words: Words | None) -> None:
        self.words = words[:4096] if words is not None else None

    @torch.no_grad()
    def nats(self, grammar: Grammar, model: TorchChoiceNet) -> float:
        if self.words is None:
            return 0.0
        batch, masks = WordBatches(grammar, self.words).at(torch.arange(len(self.words)))
        return -float(model(batch, masks, torch.zeros(len(batch), dtype=torch.long)).sum(1).mean())


def fit_conditional(space: Space, words: Words, conditions: Ints, seed: int) -> ChoiceNet:
    """A small network on words with a condition each (1 and up; 0 stands for none), for guidance."""
    settings = PoolTraining(
        hidden_size=48, steps=600, batch_size=256, seed=seed, conditions=int(conditions.max()), learning_rate=5e-3
    )
    model = fit(space.grammar(), words, settings, conditions=conditions)
    return model.frozen(space=space.name, split="conditional", seed=seed, steps=settings.steps, version=__version__)


def training_words(space: Space, share: float, seed: int) -> Words:
    """One word per class of the training split: all of them where the space can be listed, else drawn ones."""
    grammar = space.grammar()
    if grammar.num_words <= MAX_LISTED:
        words = grammar.words()
    else:
        words = space.canonical(space.sample(np.random.default_rng(seed), DRAWN))
    words = representatives(space, words)
    chosen: Words = words[in_training(space, words, share)]
    return chosen


def table_words(space: Space, data: Path, share: float) -> Words:
    """The members of the benchmark's table that the split leaves for training, each once."""
    table = space.read_labels(data)
    if table is None:
        raise SystemExit(f"no table of {space.name} below {data}")
    words = representatives(space, table.words)
    chosen: Words = words[in_training(space, words, share)]
    return chosen


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(prog="python -m genmad.training.pools", description=__doc__)
    parser.add_argument("space")
    parser.add_argument("out", type=Path)
    parser.add_argument("--share", type=float, default=0.5, help="share of classes trained on (default 0.5)")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--hidden-size", type=int, default=96)
    parser.add_argument("--batch-size", type=int, default=512)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", help="folder of benchmark tables; default $GENMAD_DATA")
    parser.add_argument("--table", action="store_true", help="train on the members of the benchmark's table")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    space = get_space(arguments.space)
    data = data_folder(arguments.data)
    if arguments.table and data is None:
        parser.error("--table needs --data or $GENMAD_DATA")
    words = (
        table_words(space, data, arguments.share)
        if arguments.table and data is not None
        else training_words(space, arguments.share, arguments.seed)
    )
    settings = PoolTraining(
        steps=arguments.steps, hidden_size=arguments.hidden_size, batch_size=arguments.batch_size, seed=arguments.seed
    )
    say(f"{space.name}: {len(words)} training words")
    order = np.random.default_rng(arguments.seed).permutation(len(words))
    cut = max(1, int(VALIDATION * len(words)))
    model = fit(space.grammar(), words[order[cut:]], settings, validation=words[order[:cut]], report=say)
    kind = "table" if arguments.table else "classes"
    model.frozen(
        space=space.name, split=f"{kind}-{arguments.share:g}", share=arguments.share, table=arguments.table,
        words=len(words), seed=arguments.seed, steps=arguments.steps, version=__version__,
    ).save(arguments.out)  # fmt: skip


def say(text: object) -> None:
    """Progress goes to standard error."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
