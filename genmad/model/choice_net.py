"""A small autoregressive network over the choices of a grammar, in numpy: what draws candidate pools.

In the manner of NADE (Larochelle and Murray, 2011): the embeddings of the choices made so far are summed, two residual
layers shared by all steps follow, and each step has its own output weights. Words have a fixed length, so no recurrence
is needed: one more choice is one row added, and a batch step is a few small matrix products.

B words, T steps, H hidden width, W choices of a step, C conditions.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
WEIGHTS, CONFIG = "model.safetensors", "config.json"
NUM_LAYERS = 2


@dataclass(frozen=True, kw_only=True)
class ChoiceNet:
    """Weights and what they were trained on.

    Attributes:
        widths: number of choices of each step.
        embed: float32[sum of widths, H], a row per choice of each step.
        start: float32[C, H], one row per condition; row 0 is "no condition".
        step: float32[T, H].
        hidden: float32[layers, H, H].
        bias: float32[layers, H].
        out: float32[sum of widths, H].
        out_bias: float32[sum of widths].
        about: space, split, seed, steps, version; free JSON.
    """

    widths: tuple[int, ...]
    embed: Floats
    start: Floats
    step: Floats
    hidden: Floats
    bias: Floats
    out: Floats
    out_bias: Floats
    about: Mapping[str, Any]

    def begin(self, batch: int, condition: int = 0) -> Floats:
        """float32[B, H]: the sums before any choice."""
        return np.repeat(self.start[condition : condition + 1], batch, axis=0)

    def logits(self, step: int, sums: Floats) -> Floats:
        """float32[B, W]: scores of the choices of a step."""
        x = np.maximum(sums + self.step[step], 0)
        for weight, bias in zip(self.hidden, self.bias, strict=True):
            x += np.maximum(x @ weight + bias, 0)
        rows = self._rows(step)
        return np.asarray(x @ self.out[rows].T + self.out_bias[rows], np.float32)

    def add(self, step: int, sums: Floats, choices: NDArray[np.integer]) -> Floats:
        """The sums with one more choice each."""
        return np.asarray(sums + self.embed[self._rows(step)][choices], np.float32)

    def _rows(self, step: int) -> slice:
        start = sum(self.widths[:step])
        return slice(start, start + self.widths[step])

    @property
    def num_params(self) -> int:
        return sum(getattr(self, name).size for name in _TENSORS)

    def save(self, folder: Path) -> None:
        """Writes safetensors (half precision) and JSON."""
        from safetensors.numpy import save_file

        folder.mkdir(parents=True, exist_ok=True)
        save_file({name: np.ascontiguousarray(getattr(self, name), np.float16) for name in _TENSORS}, folder / WEIGHTS)
        config = {"widths": list(self.widths), "about": dict(self.about)}
        (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path, widths: Sequence[int]) -> "ChoiceNet":
        """The network in a folder. Raises `LookupError` when there is none, `ValueError` for one of other choices."""
        from safetensors.numpy import load_file

        missing = [name for name in (WEIGHTS, CONFIG) if not (folder / name).is_file()]
        if missing:
            raise LookupError(f"no {', '.join(missing)}")
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        if config["widths"] != list(widths):
            raise ValueError(f"a generator for {config['about'].get('space', 'another space')}, of other choices")
        tensors = {name: t.astype(np.float32) for name, t in load_file(folder / WEIGHTS).items()}
        return cls(widths=tuple(widths), about=config["about"], **{name: tensors[name] for name in _TENSORS})


_TENSORS = ("embed", "start", "step", "hidden", "bias", "out", "out_bias")
