"""What chooses under the grammar's mask: the trained network, or the uniform law over words.

B words, W choices of a step, H hidden width.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from genmad.ir import Diagnostic, GenmadError
from genmad.model.choice_net import ChoiceNet
from genmad.spaces import Grammar, Space, Walk

Floats = NDArray[np.float32]


class GeneratorError(GenmadError):
    """A folder that holds no generator for the space."""

    exit_code = 3

    def __init__(self, diagnostic: Diagnostic) -> None:
        self.diagnostic = diagnostic
        super().__init__(str(diagnostic))


class Law(Protocol):
    """Scores for the next choice of a batch of prefixes; masking, temperature and drawing are not its business."""

    @property
    def name(self) -> str: ...

    @property
    def digest(self) -> str:
        """Equal only for laws that draw the same."""

    def begin(self, batch: int) -> Any:
        """What it remembers of empty prefixes."""

    def scores(self, grammar: Grammar, walk: Walk, memory: Any) -> NDArray[np.floating]:
        """[B, W] unnormalised log-probabilities; `grammar` is the one that walks, restricted or not."""

    def add(self, step: int, memory: Any, choices: NDArray[np.integer]) -> Any:
        """What it remembers of the prefixes with one more choice each."""


@dataclass(frozen=True, kw_only=True)
class UniformLaw:
    """Every word of the grammar that walks equally likely (where no budget masks choices)."""

    name: str = "uniform"
    digest: str = "uniform"

    def begin(self, batch: int) -> None:
        del batch

    def scores(self, grammar: Grammar, walk: Walk, memory: None) -> NDArray[np.floating]:
        del memory
        with np.errstate(divide="ignore"):
            return np.log(grammar.uniform[walk.step][walk.states])

    def add(self, step: int, memory: None, choices: NDArray[np.integer]) -> None:
        del step, memory, choices


@dataclass(frozen=True, kw_only=True)
class NetLaw:
    """A trained network; with a condition, guided without a classifier.

    Attributes:
        net: the weights.
        condition: row of the condition, 0 for none.
        guidance: how far beyond the conditional law to go: scores = free + guidance (conditional - free). Ho and
            Salimans, arXiv 2207.12598, with guidance = 1 + their w.
        parent: the law whose draws it learned from, which says what it was trained on; None when it has none.
    """

    net: ChoiceNet
    condition: int = 0
    guidance: float = 1.0
    parent: "Law | None" = None

    @property
    def name(self) -> str:
        return f"pools-{self.net.about.get('space', '?')}" + ("-guided" if self.condition else "")

    @property
    def digest(self) -> str:
        found = hashlib.blake2b(f"{self.condition} {self.guidance!r}".encode(), digest_size=16)
        net = self.net
        for array in (net.embed, net.start, net.step, net.hidden, net.bias, net.out, net.out_bias):
            found.update(np.ascontiguousarray(array).tobytes())
        return found.hexdigest()

    def begin(self, batch: int) -> tuple[Floats, Floats | None]:
        plain = self._blends
        return self.net.begin(batch, self.condition), self.net.begin(batch) if plain else None

    def scores(self, grammar: Grammar, walk: Walk, memory: tuple[Floats, Floats | None]) -> NDArray[np.floating]:
        del grammar
        own, free = memory
        found = self.net.logits(walk.step, own)
        if free is None:
            return found
        base = self.net.logits(walk.step, free)
        return np.asarray(base + np.float32(self.guidance) * (found - base))

    def add(
        self, step: int, memory: tuple[Floats, Floats | None], choices: NDArray[np.integer]
    ) -> tuple[Floats, Floats | None]:
        own, free = memory
        return self.net.add(step, own, choices), None if free is None else self.net.add(step, free, choices)

    @property
    def _blends(self) -> bool:
        return bool(self.condition) and self.guidance != 1.0


def shipped_folder(space: Space) -> Path:
    """Where the generator of a space lies that comes with the package."""
    import genmad.checkpoints

    return Path(genmad.checkpoints.__path__[0]) / f"pools-{space.name}"


def load_law(space: Space, folder: str | Path | None = None) -> Law:
    """The generator in a folder, else the shipped one, else the uniform law where none is shipped.

    Raises `GeneratorError` on a given folder without a generator for the space.
    """
    path = Path(folder) if folder is not None else shipped_folder(space)
    if folder is None and not path.is_dir():
        return UniformLaw()
    try:
        return NetLaw(net=ChoiceNet.load(path, [len(step.choices) for step in space.steps]))
    except (LookupError, ValueError) as error:
        expected = f"a folder with a pool generator for {space.name}"
        fix = f"python -m genmad.training.pools {space.name} FOLDER trains one"
        raise GeneratorError(Diagnostic(where=str(path), got=str(error), expected=expected, fix=fix)) from error
