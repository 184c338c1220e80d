"""The training loop: accelerate for devices and precision, one config, resumable to the step."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch.utils.data import DataLoader

from genmad.data.corpus import ArchRecord
from genmad.model import GraphTransformer, GraphTransformerConfig
from genmad.model.collate import MATCHES
from genmad.tokenizer import GraphReader, ScriptGrammar
from genmad.tokenizer.features import NUM_EDGE_KINDS, NUM_RELATIONS, NUM_VALUES
from genmad.training.checkpoint import load_state, load_word_vectors, save_pretrained, save_state, warm_start
from genmad.training.config import TrainConfig
from genmad.training.objectives.restore import restore_loss
from genmad.training.optim import learning_rate_at, make_optimizers
from genmad.training.stream import TrainBatch, TrainStream, pick_first


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """What a run ended with: the last logged row, steps done and seconds spent in this process."""

    last: dict[str, float]
    steps: int
    seconds: float


def model_config(config: TrainConfig, reader: GraphReader) -> GraphTransformerConfig:
    """Sizes from the config, tables from the tokenizers."""
    sizes = config.model
    return GraphTransformerConfig(
        num_words=len(reader.vocab), num_fields=reader.num_fields, num_values=NUM_VALUES, num_pieces=len(reader.text),
        num_relations=NUM_RELATIONS, num_edge_kinds=NUM_EDGE_KINDS, hidden_size=sizes.hidden_size,
        num_heads=sizes.num_heads, num_text_layers=sizes.num_text_layers, num_encoder_layers=sizes.num_encoder_layers,
        num_decoder_layers=sizes.num_decoder_layers, dropout=sizes.dropout, num_word_vectors=len(reader.text.words) + 1,
        num_matches=len(MATCHES),
    )  # fmt: skip


def losses(
    model: GraphTransformer, batch: TrainBatch, config: TrainConfig, bos: int
) -> tuple[torch.Tensor, dict[str, float]]:
    """The step's loss and what is logged of it. Scripts weigh alike whatever their length."""
    token_loss, right = model.script_loss(batch.source, batch.script, bos)
    real = batch.script.kind_BL >= 0
    per_script = token_loss.sum(1) / real.sum(1).float().sqrt() / 3.0
    loss = per_script.mean()
    accuracy: dict[str, torch.Tensor] = {}
    if batch.restore is not None:
        restored, accuracy = restore_loss(model, batch.restore)
        loss = loss + config.restore_weight * restored
    whole = (right | ~real).all(1).float().mean()
    log = {"script_nll": float((token_loss.sum() / real.sum()).detach()), "script_exact": float(whole)}
    return loss, log | {name: float(value) for name, value in accuracy.items()}


class ProgressLog:
    """Means over `log_every` steps, as rows of `log.jsonl`."""

    def __init__(self, config: TrainConfig, start: int, path: Path, report: Callable[[dict[str, Any]], None]) -> None:
        self._config, self._start, self._path, self._report = config, start, path, report
        self._began = time.monotonic()
        self._sums: dict[str, list[float]] = {}
        self.last: dict[str, float] = {}

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began

    def add(self, step: int, values: dict[str, float]) -> None:
        """Counts one step in, and writes a row where one is due."""
        config = self._config
        for name, value in values.items():
            self._sums.setdefault(name, []).append(value)
        if (step + 1) % config.log_every and step + 1 != config.steps:
            return
        left = self.seconds / (step + 1 - self._start) * (config.steps - step - 1)
        means = {name: round(sum(found) / len(found), 4) for name, found in self._sums.items()}
        self.last = {"step": step + 1, **means, "seconds": round(self.seconds), "left": round(left)}
        self._report(self.last)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(self.last) + "\n")
        self._sums = {}


def train(
    config: TrainConfig, records: list[ArchRecord], reader: GraphReader, grammar: ScriptGrammar, out: Path, *,
    resume: bool = False, init: Path | None = None, words: Path | None = None,
    report: Callable[[dict[str, Any]], None] = lambda _: None,
) -> TrainResult:  # fmt: skip
    """Runs `config.steps` steps, saving the state every `save_every` and the model at the end into `out`.

    Args:
        resume: go on from the state in `out`.
        init: take the weights of the run in this folder to start from.
        words: folder with the table of word vectors.
    """
    torch.set_num_threads(config.threads)
    set_seed(config.seed)
    accelerator = Accelerator(mixed_precision=config.mixed_precision, cpu=not torch.cuda.is_available())
    model = GraphTransformer(model_config(config, reader)).to(accelerator.device)
    if words is not None:
        load_word_vectors(words, model)
    if init is not None:
        warm_start(init, model, reader.text)
    optimizers = make_optimizers(model, config)
    start = load_state(out, model, optimizers) if resume else 0
    stream = TrainStream(records, reader, grammar, config)
    count, rank = accelerator.num_processes, accelerator.process_index
    loader = DataLoader(
        stream, batch_size=1, sampler=range(start * count + rank, config.steps * count, count), collate_fn=pick_first,
        num_workers=config.workers, prefetch_factor=6 if config.workers else None,
    )  # fmt: skip
    progress = ProgressLog(config, start, out / "log.jsonl", report)
    bos = reader.vocab.id("<bos>")
    for step, batch in enumerate(loader, start):
        torch.manual_seed(config.seed * 1_000_003 + step)
        optimizers.set_learning_rate(learning_rate_at(step, config))
        with accelerator.autocast():
            loss, log = losses(model, on_device(batch, accelerator.device), config, bos)
        accelerator.backward(loss)
        _share_gradients(model, accelerator)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizers.step()
        optimizers.zero_grad()
        if accelerator.is_main_process:
            progress.add(step, log)
            if (step + 1) % config.save_every == 0 or step + 1 == config.steps:
                save_state(out, model, optimizers, step + 1)
    if accelerator.is_main_process:
        save_pretrained(out / "model", model, reader, config)
    return TrainResult(last=progress.last, steps=config.steps - start, seconds=progress.seconds)


def _share_gradients(model: GraphTransformer, accelerator: Accelerator) -> None:
    """Means of the gradients over all processes; nothing to do with one."""
    if accelerator.num_processes == 1:
        return
    for parameter in model.parameters():
        gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        parameter.grad = accelerator.reduce(gradient, "mean")


def on_device(batch: TrainBatch, device: torch.device) -> TrainBatch:
    """Moves every tensor of the batch."""
    if device.type == "cpu":
        return batch
    restore = batch.restore
    if restore is not None:
        restore = replace(restore, **{k: getattr(restore, k).to(device) for k in restore.__dataclass_fields__})
    return TrainBatch(source=batch.source.to(device), script=batch.script.to(device), restore=restore)
