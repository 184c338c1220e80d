"""The training loop: accelerate for devices and precision, one config, resumable to the step."""

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch.utils.data import DataLoader

from genmad.data.corpus import ArchRecord
from genmad.model import GraphTransformer, GraphTransformerConfig
from genmad.tokenizer import GraphReader, ScriptGrammar
from genmad.tokenizer.features import NUM_EDGE_KINDS, NUM_RELATIONS, NUM_VALUES
from genmad.training.checkpoint import load_state, save_pretrained, save_state
from genmad.training.config import TrainConfig
from genmad.training.objectives.restore import restore_loss
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
        num_relations=NUM_RELATIONS, num_edge_kinds=NUM_EDGE_KINDS, hidden_size=sizes.hidden_size, num_heads=sizes.num_heads,
        num_text_layers=sizes.num_text_layers, num_encoder_layers=sizes.num_encoder_layers,
        num_decoder_layers=sizes.num_decoder_layers, dropout=sizes.dropout,
    )  # fmt: skip


def learning_rate_at(step: int, config: TrainConfig) -> float:
    """Linear warm-up, then cosine decay to 2 % of the peak."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    done = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    return config.learning_rate * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(done, 1.0))))


def losses(model: GraphTransformer, batch: TrainBatch, config: TrainConfig, bos: int) -> tuple[torch.Tensor, dict[str, float]]:
    """The step's loss and what is logged of it. Scripts weigh alike whatever their length."""
    token_loss, right = model.script_loss(batch.source, batch.script, bos)
    real = batch.script.kind_BL >= 0
    per_script = token_loss.sum(1) / real.sum(1).float().sqrt() / 3.0
    restored, accuracy = restore_loss(model, batch.restore)
    loss = per_script.mean() + config.restore_weight * restored
    whole = (right | ~real).all(1).float().mean()
    log = {"script_nll": float((token_loss.sum() / real.sum()).detach()), "script_exact": float(whole)}
    return loss, log | {name: float(value) for name, value in accuracy.items()}


def train(
    config: TrainConfig, records: list[ArchRecord], reader: GraphReader, grammar: ScriptGrammar, out: Path, *,
    resume: bool = False, report: Callable[[dict[str, Any]], None] = lambda row: None,
) -> TrainResult:  # fmt: skip
    """Runs `config.steps` steps, saving the state every `save_every` and the model at the end into `out`."""
    torch.set_num_threads(config.threads)
    set_seed(config.seed)
    accelerator = Accelerator(mixed_precision=config.mixed_precision, cpu=not torch.cuda.is_available())
    model = GraphTransformer(model_config(config, reader))
    decayed = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.98))
    start = load_state(out, model, optimizer) if resume else 0
    model, optimizer = accelerator.prepare(model, optimizer)
    stream = TrainStream(records, reader, grammar, config)
    loader = DataLoader(
        stream, batch_size=1, sampler=range(start, config.steps), collate_fn=pick_first, num_workers=config.workers,
        prefetch_factor=6 if config.workers else None,
    )  # fmt: skip
    began, bos, row, sums = time.monotonic(), reader.vocab.id("<bos>"), {}, {}
    for step, batch in enumerate(loader, start):
        torch.manual_seed(config.seed * 1_000_003 + step)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate_at(step, config)
        batch = _to(batch, accelerator.device)
        with accelerator.autocast():
            loss, log = losses(accelerator.unwrap_model(model), batch, config, bos)
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        sums = {k: sums.get(k, 0.0) + v for k, v in log.items()}
        if (step + 1) % config.log_every == 0 or step + 1 == config.steps:
            count = (step % config.log_every) + 1
            spent = time.monotonic() - began
            left = spent / (step + 1 - start) * (config.steps - step - 1)
            row = {"step": step + 1, **{k: round(v / count, 4) for k, v in sums.items()}, "seconds": round(spent), "left": round(left)}
            report(row)
            with (out / "log.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            sums = {}
        if (step + 1) % config.save_every == 0 or step + 1 == config.steps:
            save_state(out, accelerator.unwrap_model(model), optimizer, step + 1)
    save_pretrained(out / "model", accelerator.unwrap_model(model), reader, config)
    return TrainResult(last=row, steps=config.steps - start, seconds=time.monotonic() - began)


def _to(batch: TrainBatch, device: torch.device) -> TrainBatch:
    """Moves every tensor of the batch."""
    if device.type == "cpu":
        return batch
    restore = {k: getattr(batch.restore, k).to(device) for k in batch.restore.__dataclass_fields__}
    return TrainBatch(source=batch.source.to(device), script=batch.script.to(device), restore=type(batch.restore)(**restore))
