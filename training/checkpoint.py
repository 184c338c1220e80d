"""What a run writes: the state to resume from and the model to use, as safetensors and JSON; no pickles."""

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from genmad.ir import Diagnostic, GenmadError
from genmad.model import GraphTransformer
from genmad.tokenizer import GraphReader
from genmad.training.config import TrainConfig


class CheckpointError(GenmadError):
    """A run folder that cannot be resumed from."""

    exit_code = 3


def save_state(out: Path, model: GraphTransformer, optimizer: Any, step: int) -> None:
    """Weights, Adam moments and the step, replaced in one rename."""
    tensors = {f"model.{k}": v.detach().contiguous().cpu() for k, v in model.state_dict().items()}
    plain = getattr(optimizer, "optimizer", optimizer)
    for group in plain.param_groups:
        for parameter in group["params"]:
            state = plain.state.get(parameter, {})
            name = f"{_position(plain, parameter)}"
            tensors |= {f"optimizer.{name}.{k}": torch.as_tensor(v).detach().cpu().contiguous() for k, v in state.items()}
    save_file(tensors, out / "state.safetensors.new", metadata={"step": str(step)})
    os.replace(out / "state.safetensors.new", out / "state.safetensors")
    (out / "state.json").write_text(json.dumps({"step": step}), encoding="utf-8")


def _position(optimizer: torch.optim.Optimizer, parameter: torch.Tensor) -> int:
    everything = [p for group in optimizer.param_groups for p in group["params"]]
    return next(i for i, p in enumerate(everything) if p is parameter)


def load_state(out: Path, model: GraphTransformer, optimizer: torch.optim.Optimizer) -> int:
    """Restores what `save_state` wrote and gives the step to go on from. Raises `CheckpointError`."""
    path = out / "state.safetensors"
    if not path.exists():
        raise CheckpointError(str(Diagnostic(where=str(out), got="no state.safetensors", expected="a run that has saved its state")))
    tensors = load_file(path)
    model.load_state_dict({k[6:]: v for k, v in tensors.items() if k.startswith("model.")})
    everything = [p for group in optimizer.param_groups for p in group["params"]]
    for i, parameter in enumerate(everything):
        prefix = f"optimizer.{i}."
        state = {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}
        if state:
            optimizer.state[parameter] = state
    return int(json.loads((out / "state.json").read_text(encoding="utf-8"))["step"])


def save_pretrained(folder: Path, model: GraphTransformer, reader: GraphReader, config: TrainConfig) -> None:
    """The folder that `genmad.sampling.Editor.from_pretrained` loads; weights in half precision."""
    folder.mkdir(parents=True, exist_ok=True)
    model.config.save_pretrained(folder)
    tensors = {k: v.detach().half().contiguous().cpu() for k, v in model.state_dict().items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    reader.vocab.save(folder / "vocab.json")
    reader.text.save(folder / "prompt.model")
    (folder / "train_config.json").write_text(config.model_dump_json(indent=1), encoding="utf-8")
