"""A trained predictor as two files: model.safetensors and config.json, which says what it was trained for."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from genmad.autobuild.architecture import FeatureSchema
from genmad.autobuild.fitting import FitSettings
from genmad.autobuild.network import HopSettings
from genmad.autobuild.teacher import TeacherSettings
from genmad.ir import Diagnostic, GenmadError

VERSION = 1
WEIGHTS, CONFIG = "model.safetensors", "config.json"
MAX_CONFIG_BYTES, MAX_WEIGHT_BYTES = 1 << 20, 1 << 28
KIND = "genmad-autobuild-predictor"


class PredictorError(GenmadError):
    """A predictor, or what is given to one, that cannot be used. `diagnostics` holds every problem found."""

    exit_code = 3

    def __init__(self, *diagnostics: Diagnostic) -> None:
        self.diagnostics = diagnostics
        super().__init__("\n".join(str(item) for item in diagnostics))


@dataclass(frozen=True, kw_only=True)
class Stored:
    """What a predictor consists of.

    Attributes:
        schema: of the space.
        target: the name of what it predicts.
        moments: shift and scale of targets.
        hops, fitting, teaching: its settings.
        tensors: `network.*` and `teacher.*`.
    """

    schema: FeatureSchema
    target: str
    moments: tuple[float, float]
    hops: HopSettings
    fitting: FitSettings
    teaching: TeacherSettings
    tensors: Mapping[str, Tensor]


def write_stored(folder: Path, stored: Stored) -> None:
    """Writes both files; each is renamed into place when it is whole, the weights first."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "kind": KIND, "version": VERSION, "target": stored.target, "shift": stored.moments[0],
        "scale": stored.moments[1], "schema": asdict(stored.schema), "hops": asdict(stored.hops),
        "fitting": asdict(stored.fitting), "teaching": asdict(stored.teaching),
    }  # fmt: skip
    parts = {name: folder / f".{name}.{os.getpid()}.part" for name in (WEIGHTS, CONFIG)}
    try:
        save_file({k: v.detach().contiguous().clone() for k, v in stored.tensors.items()}, parts[WEIGHTS])
        parts[CONFIG].write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        for name, part in parts.items():
            part.replace(folder / name)
    finally:
        for part in parts.values():
            part.unlink(missing_ok=True)


def read_stored(folder: Path, schema: FeatureSchema | None = None) -> Stored:
    """Reads both files; a predictor of another schema than the given, or of another version, is refused."""
    config = _config(folder / CONFIG)
    try:
        own = config["schema"]
        stored_schema = FeatureSchema(
            names=tuple(map(str, own["names"])), choices=tuple(tuple(map(str, each)) for each in own["choices"])
        )
        settings = (HopSettings(**config["hops"]), FitSettings(**config["fitting"]),
                    TeacherSettings(**config["teaching"]))  # fmt: skip
        moments = (float(config["shift"]), float(config["scale"]))
        target = str(config["target"])
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(folder / CONFIG, f"settings that cannot be read: {error}") from error
    if schema is not None and schema != stored_schema:
        raise _other_space(folder, stored_schema, schema)
    return Stored(
        schema=stored_schema, target=target, moments=moments, hops=settings[0], fitting=settings[1],
        teaching=settings[2], tensors=_tensors(folder / WEIGHTS),
    )  # fmt: skip


def _config(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise _damaged(path, f"more than {MAX_CONFIG_BYTES} bytes")
        config = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise _damaged(path, f"{error.strerror or error}") from error
    except ValueError as error:
        raise _damaged(path, "no JSON") from error
    if not isinstance(config, dict) or config.get("kind") != KIND:
        raise _damaged(path, "the config of something else")
    if config.get("version") != VERSION:
        raise PredictorError(
            Diagnostic(
                where=f"{path}",
                got=f"version {config.get('version')}",
                expected=f"version {VERSION}",
                fix="train the predictor again, or use the release of genmad that wrote it",
            )
        )
    return config


def _tensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.stat().st_size > MAX_WEIGHT_BYTES:
            raise _damaged(path, f"more than {MAX_WEIGHT_BYTES} bytes")
        return load_file(path)
    except OSError as error:
        raise _damaged(path, f"{error.strerror or error}") from error
    except SafetensorError as error:
        raise _damaged(path, f"no safetensors file: {error}") from error


def _damaged(path: Path, got: str) -> PredictorError:
    expected = f"{WEIGHTS} and {CONFIG} of AutoBuildPredictor.save_pretrained"
    return PredictorError(Diagnostic(where=f"{path}", got=got, expected=expected, fix="save the predictor there again"))


def _other_space(folder: Path, stored: FeatureSchema, wanted: FeatureSchema) -> PredictorError:
    return PredictorError(
        Diagnostic(
            where=f"{folder}",
            got=f"a predictor for graphs with {_described(stored)}",
            expected=f"one for graphs with {_described(wanted)}",
            fix="choose the checkpoint of this space, or train one on it",
        )
    )


def _described(schema: FeatureSchema) -> str:
    return ", ".join(
        f"{name} ({'/'.join(choices[:6])}{'/...' if len(choices) > 6 else ''})"
        for name, choices in zip(schema.names, schema.choices, strict=True)
    )
