"""Which split a family stands in: decided by its name alone, so that a corpus can grow and no family ever moves."""

import hashlib
from collections.abc import Collection
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitRule:
    """The rule.

    Attributes:
        held_out: families that are never trained on, in whatever library they stand: `regnet` holds out `timm.regnet`.
        heldout_share, validation_share: of the remaining families, by hash of their name.
    """

    held_out: frozenset[str] = frozenset()
    heldout_share: float = 0.0
    validation_share: float = 0.0

    def __post_init__(self) -> None:
        if min(self.heldout_share, self.validation_share) < 0 or self.heldout_share + self.validation_share >= 1:
            got = f"{self.heldout_share} held out and {self.validation_share} for validation"
            raise ValueError(f"shares of splits: got {got}; expected two shares of 0 or more that leave some to train")

    def split(self, family: str, group: str = "") -> str:
        """`train`, `validation` or `heldout`.

        Args:
            family: its name, a library before a dot does not count: `timm.regnet` goes where `regnet` goes.
            group: what it shares its split with; the family itself where empty.

        >>> SplitRule(held_out=frozenset({"regnet"})).split("timm.regnet")
        'heldout'
        """
        names = {stem(family), stem(group or family)}
        if names & self.held_out:
            return "heldout"
        position = _position(stem(group or family))
        if position < self.heldout_share:
            return "heldout"
        return "validation" if position < self.heldout_share + self.validation_share else "train"


def stem(name: str) -> str:
    """A family's name without its library, in one spelling."""
    return name.rpartition(".")[2].replace("-", "_").lower()


def _position(name: str) -> float:
    """A number of [0, 1) that depends on the name alone."""
    return int(hashlib.sha256(name.encode()).hexdigest()[:12], 16) / 16**12


def priority(split: str, order: Collection[str] = ("heldout", "validation", "train")) -> int:
    """Which split keeps a graph that several have: the one that is looked at last in training."""
    return list(order).index(split)
