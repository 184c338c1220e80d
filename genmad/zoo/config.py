"""The settings of a build, as `configs/corpus.yaml` holds them."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from genmad.data.splits import SplitRule
from genmad.ir import Diagnostic, GenmadError

# Read by training, which builds its own small corpus from the same file.
_TRAINING_KEYS = ("held_out", "variants_per_family", "narrow_per_family", "families")
SOURCES = ("transformers", "timm", "diffusers", "pyg", "spaces")


class ZooConfigError(GenmadError):
    """A config or an option that cannot be used."""

    exit_code = 2

    def __init__(self, *diagnostics: Diagnostic) -> None:
        self.diagnostics = diagnostics
        super().__init__("\n".join(map(str, diagnostics)))


@dataclass(frozen=True, slots=True, kw_only=True)
class ZooConfig:
    """What goes into a corpus.

    Attributes:
        held_out: families that no split but `heldout` may hold.
        variants_per_family, narrow_per_family: sizes of the families known in detail.
        sources: names of the sources, in the order in which they keep a graph that several have.
        scales: how many depths and widths each transformers type is built at.
        variants: the same for a model of the other libraries.
        samples_per_space: architectures drawn from each search space.
        heldout_share, validation_share: of the families that `held_out` does not name.
        seconds_per_model, memory_gib: limits on one model.
    """

    held_out: tuple[str, ...] = ()
    variants_per_family: int = 6
    narrow_per_family: int = 3
    sources: tuple[str, ...] = SOURCES
    scales: int = 9
    variants: int = 3
    samples_per_space: int = 100
    heldout_share: float = 0.05
    validation_share: float = 0.05
    seconds_per_model: float = 60.0
    memory_gib: float = 4.0

    def __post_init__(self) -> None:
        problems = [*self._counts(), *self._names()]
        if problems:
            raise ZooConfigError(*problems)

    def _counts(self) -> list[Diagnostic]:
        positive = {"scales": 1, "variants": 1, "seconds_per_model": 0, "memory_gib": 0}
        out = []
        for item in fields(self):
            value, least = getattr(self, item.name), positive.get(item.name, 0)
            if isinstance(item.default, (int, float)):
                whole = isinstance(item.default, int)
                good = isinstance(value, (int, float)) and not isinstance(value, bool) and value >= least
                if not good or (whole and not isinstance(value, int)):
                    expected = f"a {'whole ' if whole else ''}number, at least {least}"
                    out.append(Diagnostic(where=f"corpus config: {item.name}", got=repr(value), expected=expected))
        shares = (self.heldout_share, self.validation_share)
        if not out and sum(shares) >= 1:
            expected = "two shares that leave families to train on"
            out.append(Diagnostic(where="corpus config: shares", got=f"{shares[0]} and {shares[1]}", expected=expected))
        return out

    def _names(self) -> list[Diagnostic]:
        return [_unknown_source(name) for name in self.sources if name not in SOURCES]

    @property
    def splits(self) -> SplitRule:
        names = frozenset(name.replace("-", "_").lower() for name in self.held_out)
        return SplitRule(
            held_out=names, heldout_share=self.heldout_share, validation_share=self.validation_share,
        )  # fmt: skip


def _unknown_source(name: str) -> Diagnostic:
    near = difflib.get_close_matches(name, SOURCES, 1)
    fix = f"did you mean {near[0]}?" if near else f"--sources {SOURCES[0]}"
    return Diagnostic(where="--sources", got=name, expected=f"some of {', '.join(SOURCES)}", fix=fix)


def read_config(path: Path | None) -> ZooConfig:
    """The config of a file; None for the one that ships with genmad. Raises `ZooConfigError` naming each bad key."""
    text, where = _text(path)
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        got = str(error).splitlines()[0]
        raise ZooConfigError(Diagnostic(where=where, got=got, expected="a YAML file")) from error
    if not isinstance(data, Mapping):
        raise ZooConfigError(Diagnostic(where=where, got=type(data).__name__, expected="a mapping of settings"))
    zoo = data.get("zoo") or {}
    if not isinstance(zoo, Mapping):
        raise ZooConfigError(Diagnostic(where=f"{where}: zoo", got=repr(zoo), expected="a mapping of settings"))
    known = {item.name for item in fields(ZooConfig)}
    problems = [
        _unknown_key(where, key, (*_TRAINING_KEYS, "zoo")) for key in data if key not in (*_TRAINING_KEYS, "zoo")
    ]
    problems += [
        _unknown_key(f"{where}: zoo", key, sorted(known - set(_TRAINING_KEYS))) for key in zoo if key not in known
    ]
    if problems:
        raise ZooConfigError(*problems)
    top = {key: value for key, value in data.items() if key in known}
    values: dict[str, Any] = {**top, **zoo}
    given: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    return ZooConfig(**given)


def _text(path: Path | None) -> tuple[str, str]:
    from importlib.resources import files

    if path is None:
        return (files("genmad.configs") / "corpus.yaml").read_text(encoding="utf-8"), "corpus.yaml"
    try:
        return path.read_text(encoding="utf-8"), str(path)
    except (OSError, UnicodeDecodeError) as error:
        fix = "leave --config out for the one that ships with genmad"
        diagnostic = Diagnostic(where=f"--config {path}", got=str(error)[:200], expected="a YAML file", fix=fix)
        raise ZooConfigError(diagnostic) from error


def _unknown_key(where: str, key: Any, known: Any) -> Diagnostic:
    near = difflib.get_close_matches(str(key), list(known), 1)
    fix = f"did you mean {near[0]}?" if near else f"--sources {SOURCES[0]}"
    return Diagnostic(where=where, got=f"key {key!r}", expected=", ".join(known), fix=fix)
