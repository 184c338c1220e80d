"""Fine-tuning on a zoo: one loop, resumable to the step, that stops by a held-out part of the zoo or by the clock.

Every batch follows from the seed and its number, every check from the weights, so the log of a run does not depend on
whether it was interrupted. What the clock decides (how many steps fit) is decided once and kept with the run.
"""

import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file

from genmad.data.corpus import ArchRecord
from genmad.ir import Diagnostic
from genmad.model import GraphTransformer
from genmad.training.checkpoint import CheckpointError, load_state, save_state
from genmad.training.config import CorpusConfig, TrainConfig
from genmad.training.finetune_base import Base
from genmad.training.finetune_data import BatchSettings, TuneStream, ZooParts
from genmad.training.finetune_measure import Figures, HeldOutLoss, MeasureSettings, relative
from genmad.training.loop import losses, on_device
from genmad.training.low_rank import add_low_rank, merge_low_rank, plain_weight, train_new_rows
from genmad.training.optim import Optimizers

PLAN, LOG, BEST = "plan.json", "log.jsonl", "best.safetensors"
# From so many training graphs on all weights are adapted, below a low-rank part of them. Provisional: the two were
# never compared on the same zoo with the same rate and steps (training/LOG.md).
FULL_FROM = 400
PROBED_STEPS = 6
# So many nats a token more on public sentences count as much as likelihoods of the zoo that double.
FORGETTING = 0.1
JUDGED = ("node_nll", "completion_nll", "edit_nll")


@dataclass(frozen=True, slots=True, kw_only=True)
class TuneConfig:
    """Settings of a run.

    Attributes:
        rank: of the low-rank part; 0 adapts all weights, None chooses by the size of the zoo.
        steps: None chooses by the size of the zoo and the time.
        check_every: steps between two looks at the held-out part; the state is saved there, too.
        patience: so many checks without a better one end the run.
        seconds: wall-clock time for the tuning; None for none.
        held_out_share: of the zoo's graphs.
        workers: processes that make batches.
    """

    seed: int = 0
    rank: int | None = None
    steps: int | None = None
    check_every: int = 50
    patience: int = 6
    seconds: float | None = None
    learning_rate: float | None = None
    warmup_steps: int = 20
    held_out_share: float = 0.2
    max_graph_tokens: int = 700
    tokens_per_batch: int = 1200
    replay_share: float = 0.3
    restore_weight: float = 1.0
    workers: int = 0
    threads: int = 1
    mixed_precision: str = "no"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One look: the figures on the zoo's held-out part and on public graphs; `score` is 1 before tuning, less is
    better."""

    step: int
    zoo: Figures
    public: Figures
    score: float


@dataclass(kw_only=True)
class TuneState:
    """Where a run stands.

    Attributes:
        rank, steps: what was chosen for the whole run.
        checks: in order, the first before any step.
        seconds: spent on steps and checks so far, over all processes.
        stopped: `end`, `early`, `time`; "" while it runs.
    """

    rank: int
    steps: int
    step: int = 0
    checks: list[Check] = field(default_factory=list)
    seconds: float = 0.0
    stopped: str = ""

    @property
    def best(self) -> Check:
        return min(self.checks, key=lambda check: (check.score, check.step))


@dataclass(frozen=True, kw_only=True)
class TuneResult:
    """A tuned model, low-rank parts merged, and how it came about."""

    model: GraphTransformer
    state: TuneState


Report = Callable[[Mapping[str, Any]], None]
Tick = Callable[[int, int, float], None]


def chosen_rank(config: TuneConfig, num_graphs: int) -> int:
    """The rank asked for, else low for few graphs and 0, which is full adaptation, from `FULL_FROM` on."""
    if config.rank is not None:
        return config.rank
    return 0 if num_graphs >= FULL_FROM else 16 if num_graphs >= 8 else 4


def chosen_steps(config: TuneConfig, num_graphs: int) -> int:
    """The number of steps asked for, else more for more graphs."""
    return config.steps or min(2400, 120 + 12 * num_graphs)


def finetune(
    base: Base, parts: ZooParts, replay: list[ArchRecord], config: TuneConfig, run: Path, *, resume: bool = False,
    report: Report = lambda _: None, tick: Tick = lambda *_: None, clock: Callable[[], float] = time.monotonic,
) -> TuneResult:  # fmt: skip
    """Tunes `base` in place, saving what a later process needs into the folder `run` at every check.

    Args:
        replay: public graphs; every sixth, at least one, is only measured.
        resume: go on with the run in the folder.
        report: told of every row of the log.
        tick: told after every step: steps done, steps in all, seconds left.

    The model of the best check is given back; the base itself where no check was better. A run that is interrupted goes
    on from its last check. Raises `CheckpointError` for a folder that holds no run.
    """
    torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    kept = replay[: max(1, len(replay) // 6)] if len(replay) > 1 else []
    accelerator = Accelerator(mixed_precision=config.mixed_precision, cpu=not torch.cuda.is_available())
    state = _read_plan(run) if resume else None
    rank = state.rank if state is not None else chosen_rank(config, len(parts.train))
    model = base.model
    prepare(model, rank, first_new=len(base.reader.vocab) - len(base.added))
    model.to(accelerator.device)
    rate = config.learning_rate or (2e-3 if rank else 3e-4)
    optimizers = Optimizers(
        torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=rate, weight_decay=0.0)
    )
    settings = MeasureSettings(seed=config.seed)
    tuner = _Tuner(
        base=base, config=config, run=run, rate=rate, model=model, optimizers=optimizers, accelerator=accelerator,
        zoo=HeldOutLoss(parts.held_out, base.reader, base.grammar, settings),
        public=HeldOutLoss(kept, base.reader, base.grammar, replace(settings, completions=1, edits=6, corruptions=1)),
        report=report, tick=tick, clock=clock,
        state=state or TuneState(rank=rank, steps=chosen_steps(config, len(parts.train))),
    )  # fmt: skip
    batches = BatchSettings(
        seed=config.seed, steps=tuner.state.steps, tokens=config.tokens_per_batch,
        replay_share=config.replay_share if len(replay) > 1 else 0.0,
    )  # fmt: skip
    stream = TuneStream(parts.train, [r for r in replay if r not in kept], base.reader, base.grammar, batches)
    tuner.go(stream, fresh=state is None)
    merge_low_rank(model)
    return TuneResult(model=model.cpu().eval(), state=tuner.state)


def prepare(model: GraphTransformer, rank: int, first_new: int) -> None:
    """Makes trainable what is to be trained; in the tables of words, at low rank, the new rows alone."""
    model.train()
    if not rank:
        return
    add_low_rank(model, rank)
    if first_new < model.config.num_words:
        train_new_rows(plain_weight(model.words), first_new)
        train_new_rows(plain_weight(model.op_head), first_new)


@dataclass(kw_only=True)
class _Tuner:
    """A run under way; `began` and `before` are the clock's start and the seconds of earlier processes, `look_seconds`
    is what a check took at most."""

    base: Base
    config: TuneConfig
    run: Path
    rate: float
    model: GraphTransformer
    optimizers: Optimizers
    accelerator: Accelerator
    zoo: HeldOutLoss
    public: HeldOutLoss
    report: Report
    tick: Tick
    clock: Callable[[], float]
    state: TuneState
    began: float = 0.0
    before: float = 0.0
    look_seconds: float = 0.0

    def go(self, stream: TuneStream, *, fresh: bool) -> None:
        """From the state in the folder, or from the start, to the end of the run; the best weights are left in."""
        self.began, self.before = self.clock(), self.state.seconds
        if fresh:
            self.run.mkdir(parents=True, exist_ok=True)
            (self.run / LOG).write_text("", encoding="utf-8")
            self._check()
        else:
            self._restore()
        if not self.state.stopped:
            self._steps(stream)
        self._load_best()

    def _restore(self) -> None:
        state = self.state
        state.step = load_state(self.run, self.model, self.optimizers)
        state.checks = [check for check in state.checks if check.step <= state.step]
        if state.stopped == "time":
            state.stopped = ""
        lines = (self.run / LOG).read_text(encoding="utf-8").splitlines()
        kept = [line for line in lines if json.loads(line)["step"] <= state.step]
        (self.run / LOG).write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")

    def _steps(self, stream: TuneStream) -> None:
        config, state = self.config, self.state
        sums: dict[str, list[float]] = {}
        bos = self.base.reader.vocab.id("<bos>")
        loader = _loader(stream, state.step, config.workers)
        train_config = _loss_config(config)
        first, first_clock = state.step, self.clock()
        for batch in loader:
            if self._is_out_of_time(first, first_clock):
                state.stopped = "time"
                break
            torch.manual_seed(config.seed * 1_000_003 + state.step)
            self.optimizers.set_learning_rate(self._learning_rate(state.step))
            with self.accelerator.autocast():
                loss, log = losses(self.model, on_device(batch, self.accelerator.device), train_config, bos)
            self.accelerator.backward(loss)
            torch.nn.utils.clip_grad_norm_([p for p in self.model.parameters() if p.requires_grad], 1.0)
            self.optimizers.step()
            self.optimizers.zero_grad()
            kind = "replay" if stream.is_replay(state.step) else "zoo"
            for name, value in {f"{kind}_{k}": v for k, v in log.items()}.items():
                sums.setdefault(name, []).append(value)
            state.step += 1
            pace = (self.clock() - first_clock) / (state.step - first)
            self.tick(state.step, state.steps, pace * (state.steps - state.step))
            if state.step == PROBED_STEPS and self.config.steps is None:
                self._plan(first_clock)
            if state.step % config.check_every == 0 or state.step >= state.steps:
                self._check({name: sum(found) / len(found) for name, found in sums.items()})
                sums = {}
                if state.stopped:
                    break
        if state.step and state.checks[-1].step != state.step:
            self._check({name: sum(found) / len(found) for name, found in sums.items()})
        self._save()

    def _plan(self, first_clock: float) -> None:
        """Fits the number of steps to the time, from the pace of the first ones."""
        if self.config.seconds is None:
            return
        pace = (self.clock() - first_clock) / PROBED_STEPS
        look = self.look_seconds / self.config.check_every
        room = self.config.seconds - (self.clock() - self.began) - self.look_seconds
        self.state.steps = max(PROBED_STEPS + 1, min(self.state.steps, PROBED_STEPS + int(room / (pace + look))))

    def _is_out_of_time(self, first: int, first_clock: float) -> bool:
        """Whether one more step and the last look would go beyond the time."""
        if self.config.seconds is None:
            return False
        done = self.state.step - first
        pace = (self.clock() - first_clock) / done if done else 0.0
        return self.clock() - self.began + pace + self.look_seconds > self.config.seconds

    def _learning_rate(self, step: int) -> float:
        """Linear warm-up, then linear decay to a tenth."""
        if step < self.config.warmup_steps:
            return self.rate * (step + 1) / self.config.warmup_steps
        done = (step - self.config.warmup_steps) / max(1, self.state.steps - self.config.warmup_steps)
        return self.rate * (1 - 0.9 * min(done, 1.0))

    def _check(self, means: Mapping[str, float] | None = None) -> None:
        """Measures, notes, keeps the weights where they are the best so far, saves, and says whether to stop."""
        state, began = self.state, self.clock()
        zoo, public = self.zoo(self.model), self.public(self.model)
        first = state.checks[0] if state.checks else None
        score = 1.0
        if first is not None:
            lost = public.get("edit_nll", 0.0) - first.public.get("edit_nll", 0.0)
            score = relative(zoo, first.zoo, JUDGED) + max(0.0, lost) / FORGETTING
        state.checks.append(Check(step=state.step, zoo=zoo, public=public, score=round(score, 6)))
        if state.best is state.checks[-1]:
            _write_tensors(self.run / BEST, self._trained())
        since = sum(check.step > state.best.step for check in state.checks)
        if state.step >= state.steps:
            state.stopped = state.stopped or "end"
        elif since >= self.config.patience:
            state.stopped = state.stopped or "early"
        self.look_seconds = max(self.look_seconds, self.clock() - began)
        row = {"step": state.step, "score": state.checks[-1].score} | {k: round(v, 5) for k, v in (means or {}).items()}
        row |= {f"held_out_{k}": v for k, v in zoo.items()} | {f"public_{k}": v for k, v in public.items()}
        with (self.run / LOG).open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        self._save()
        spent = self.clock() - self.began
        left = spent / max(state.step, 1) * (state.steps - state.step)
        self.report(row | {"steps": state.steps, "seconds": round(spent, 1), "left": round(left, 1)})

    def _trained(self) -> dict[str, torch.Tensor]:
        return {k: p.detach().cpu().contiguous() for k, p in self.model.named_parameters() if p.requires_grad}

    def _load_best(self) -> None:
        found = load_file(self.run / BEST)
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                if name in found:
                    parameter.copy_(found[name])

    def _save(self) -> None:
        state = self.state
        state.seconds = round(self.before + self.clock() - self.began, 2)
        save_state(self.run, self.model, self.optimizers, state.step)
        text = json.dumps(asdict(state))
        (self.run / f"{PLAN}.new").write_text(text, encoding="utf-8")
        os.replace(self.run / f"{PLAN}.new", self.run / PLAN)


def _write_tensors(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    aside = path.with_name(f"{path.name}.new")
    save_file(tensors, aside)
    os.replace(aside, path)


def _read_plan(run: Path) -> TuneState:
    try:
        data = json.loads((run / PLAN).read_text(encoding="utf-8"))
        checks = [Check(**check) for check in data.pop("checks")]
        return TuneState(**data, checks=checks)
    except (OSError, ValueError, TypeError, KeyError) as error:
        got, fix = f"no run that can be gone on with ({type(error).__name__})", "leave --resume out to start anew"
        expected = "the state of an interrupted run"
        raise CheckpointError(Diagnostic(where=str(run), got=got, expected=expected, fix=fix)) from error


def _loader(stream: TuneStream, first: int, workers: int) -> Any:
    from torch.utils.data import DataLoader

    from genmad.training.stream import pick_first

    return DataLoader(
        stream, batch_size=1, sampler=range(first, len(stream)), collate_fn=pick_first, num_workers=workers,
        prefetch_factor=4 if workers else None,
    )  # fmt: skip


def _loss_config(config: TuneConfig) -> TrainConfig:
    """What `losses` reads of a training config."""
    nothing = CorpusConfig.model_validate({"held_out": ()})
    return TrainConfig(corpus=nothing, steps=1, restore_every=1, restore_weight=config.restore_weight)


def described(config: TuneConfig, state: TuneState) -> dict[str, Any]:
    """The settings as they came out."""
    chosen = replace(config, rank=state.rank, steps=state.steps)
    return {k: v for k, v in asdict(chosen).items() if v is not None}
