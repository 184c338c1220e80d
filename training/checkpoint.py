"""What a run writes: the state to resume from and the model to use, as safetensors and JSON; no pickles."""

import json
import os
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from genmad.ir import Diagnostic, GenmadError
from genmad.model import GraphTransformer
from genmad.tokenizer import GraphReader, PromptTokenizer
from genmad.training.config import TrainConfig
from genmad.training.optim import Optimizers


class CheckpointError(GenmadError):
    """A run folder that cannot be resumed from."""

    exit_code = 3

    def __init__(self, diagnostic: Diagnostic) -> None:
        self.diagnostic = diagnostic
        super().__init__(str(diagnostic))


def save_state(out: Path, model: GraphTransformer, optimizers: Optimizers, step: int) -> None:
    """Weights, optimiser moments and the step, replaced in one rename."""
    tensors = {f"model.{k}": v.detach().contiguous().cpu() for k, v in model.state_dict().items()}
    for position, parameter, part in optimizers.states():
        found = part.state.get(parameter, {})
        tensors |= {
            f"optimizer.{position}.{k}": torch.as_tensor(v).detach().cpu().contiguous() for k, v in found.items()
        }
    save_file(tensors, out / "state.safetensors.new", metadata={"step": str(step)})
    os.replace(out / "state.safetensors.new", out / "state.safetensors")
    (out / "state.json").write_text(json.dumps({"step": step}), encoding="utf-8")


def load_state(out: Path, model: GraphTransformer, optimizers: Optimizers) -> int:
    """Restores what `save_state` wrote and gives the step to go on from. Raises `CheckpointError`."""
    path = out / "state.safetensors"
    if not path.exists():
        where, got = str(out), "no state.safetensors"
        raise CheckpointError(Diagnostic(where=where, got=got, expected="a run that has saved its state"))
    tensors = load_file(path)
    model.load_state_dict({k[6:]: v for k, v in tensors.items() if k.startswith("model.")})
    for position, parameter, part in optimizers.states():
        prefix = f"optimizer.{position}."
        found = {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}
        if found:
            part.state[parameter] = found
    return int(json.loads((out / "state.json").read_text(encoding="utf-8"))["step"])


def warm_start(folder: Path, model: GraphTransformer, text: PromptTokenizer) -> None:
    """Takes the weights of another run, as far as names and shapes agree; optimiser and step start anew.

    A table that has grown keeps its old rows; the rows of prompt pieces follow the pieces into another tokenizer.
    """
    state, weights = folder / "state.safetensors", folder / "model.safetensors"
    path = state if state.exists() else weights
    if not path.exists():
        got, expected = "no state.safetensors or model.safetensors", "a run's folder or a saved model"
        raise CheckpointError(Diagnostic(where=str(folder), got=got, expected=expected))
    own = model.state_dict()
    found = {k.removeprefix("model."): v.float() for k, v in load_file(path).items() if not k.startswith("optimizer.")}
    if "pieces.weight" in found and (folder / "prompt.model").exists():
        before = {piece: row for row, piece in enumerate(PromptTokenizer.load(folder / "prompt.model").all_pieces)}
        rows = [before.get(piece) for piece in text.all_pieces]
        new = own["pieces.weight"].clone()
        for at, row in enumerate(rows):
            if row is not None:
                new[at] = found["pieces.weight"][row]
        found["pieces.weight"] = new
    fitting = {k: _grown(v, own[k]) for k, v in found.items() if k in own and own[k].shape[1:] == v.shape[1:]}
    if not fitting:
        expected = "weights of a model of these sizes"
        raise CheckpointError(Diagnostic(where=str(path), got="no tensor that fits", expected=expected))
    model.load_state_dict(own | fitting)


def _grown(old: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
    """`new` with its first rows taken from `old`."""
    rows = min(len(old), len(new)) if old.ndim else 0
    return torch.cat([old[:rows], new[rows:]]) if old.ndim else old


def load_word_vectors(folder: Path, model: GraphTransformer) -> None:
    """Fills the table of word vectors from what `genmad.training.word_vectors` wrote."""
    vectors = load_file(folder / "words.safetensors")["vectors"].float()
    with torch.no_grad():
        model.word_vectors.weight.copy_(vectors)


def save_pretrained(folder: Path, model: GraphTransformer, reader: GraphReader, config: TrainConfig) -> None:
    """The folder that `genmad.sampling.Editor.from_pretrained` loads; weights in half precision."""
    folder.mkdir(parents=True, exist_ok=True)
    model.config.save_pretrained(folder)
    tensors = {k: v.detach().half().contiguous().cpu() for k, v in model.state_dict().items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    reader.vocab.save(folder / "vocab.json")
    reader.text.save(folder / "prompt.model")
    (folder / "train_config.json").write_text(config.model_dump_json(indent=1), encoding="utf-8")
