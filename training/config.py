"""Settings of a training run, read from one YAML file."""

from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from genmad.ir import Diagnostic, GenmadError


class ConfigError(GenmadError):
    """A config that cannot be used."""

    exit_code = 2


class Strict(BaseModel):
    """Unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class CorpusConfig(Strict):
    """Which graphs to import. `families` None takes all known ones; those `held_out` are never trained on.

    `zoo` is of `genmad zoo build`; training leaves it alone.
    """

    families: tuple[str, ...] | None = None
    held_out: tuple[str, ...]
    variants_per_family: int = Field(6, ge=1)
    narrow_per_family: int = Field(3, ge=0)
    zoo: dict[str, Any] = Field(default_factory=dict, exclude=True)


class ModelSizes(Strict):
    """Sizes of the graph transformer."""

    hidden_size: int = 128
    num_heads: int = 4
    num_text_layers: int = 2
    num_encoder_layers: int = 4
    num_decoder_layers: int = 3
    dropout: float = 0.1
    num_pieces: int = 2000


class TrainConfig(Strict):
    """One run.

    Attributes:
        corpus: in the file, the name of a corpus config that stands beside it.
        steps: optimiser steps; each takes one batch of scripts and one of corrupted graphs.
        tokens_per_batch: graph tokens in a batch of scripts, padding included; the batch size follows from it.
        completion_share: share of scripts that complete an incomplete graph; the rest are prompted edits.
        rename_share: share of graphs whose modules are renamed at random.
        restore_weight: weight of the masked-op and link-completion losses; `restore_every`: in every so manieth step.
        threads, workers: torch threads, and processes that make examples.
    """

    seed: int = 0
    corpus: CorpusConfig
    model: ModelSizes = ModelSizes()
    steps: int = Field(ge=1)
    warmup_steps: int = 100
    optimizer: Literal["muon", "adamw"] = "muon"
    learning_rate: float = 1e-3
    weight_decay: float = 0.02
    tokens_per_batch: int = 3000
    max_batch: int = 48
    max_graph_tokens: int = 420
    completion_share: float = 0.12
    rename_share: float = 0.5
    word_dropout: float = 0.05
    restore_weight: float = 0.5
    restore_every: int = Field(1, ge=1)
    threads: int = 1
    workers: int = 1
    save_every: int = 200
    log_every: int = 20
    mixed_precision: str = "bf16"


def load_config(path: Path) -> TrainConfig:
    """Raises `ConfigError` naming each bad key."""
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
        if isinstance(data, dict) and isinstance(data.get("corpus"), str):
            data["corpus"] = yaml.safe_load((path.parent / data["corpus"]).read_text(encoding="utf-8"))
        return TrainConfig.model_validate(data)
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(str(Diagnostic(where=str(path), got=str(error), expected="a readable YAML file"))) from error
    except ValidationError as error:
        lines = [
            str(
                Diagnostic(
                    where=f"{path}: {'.'.join(map(str, e['loc']))}", got=repr(e.get("input"))[:60], expected=e["msg"]
                )
            )
            for e in error.errors()
        ]
        raise ConfigError("\n".join(lines)) from error
