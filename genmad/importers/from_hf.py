"""Where models come from: transformers types and ids, local folders, `package.module:function`, ONNX files."""

import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from genmad.importers.catalog import is_catalogue_source, load_from_catalogue
from genmad.importers.from_function import from_function
from genmad.importers.from_torch import from_torch
from genmad.importers.hf_model import build_random, build_skeleton, model_class, quiet
from genmad.importers.inputs import recipe_of
from genmad.importers.lazy_weights import with_weights
from genmad.importers.report import Imported, SourceError, UnsupportedError
from genmad.importers.trace import no_padding
from genmad.ir.diagnostics import Diagnostic

_PICKLES = (".pt", ".pth", ".bin", ".pkl", ".pickle", ".ckpt")
_OTHER_FILES = (".safetensors", ".json", ".yaml", ".py", ".gguf", ".h5", ".tflite", ".pb")


def load_source(
    source: str, *, inputs: list[str] | tuple[str, ...] = (), weights: bool = True, seed: int = 0,
    config_overrides: Mapping[str, Any] | None = None,
) -> Imported:  # fmt: skip
    """Imports whatever `source` names.

    Args:
        source: a transformers model type or id (`gpt2`, `openai-community/gpt2`), a folder with config.json, a `.onnx`
            file, `timm:NAME`, `diffusers:CLASS` or `pyg:CLASS`, or `package.module:function` that gives an nn.Module.
        inputs: `name=1x3x224x224:float32` for a module's forward.
        weights: False imports the structure only.
        seed: for random weights.
        config_overrides: fields of a transformers config that are set before the model is built.

    Raises:
        SourceError: the source cannot be read.
        UnsupportedError: it can be read but not expressed.
    """
    try:
        return _load_any(source, inputs, weights, seed, config_overrides or {})
    except UnsupportedError as error:
        error.source = source
        raise


def _load_any(
    source: str, inputs: list[str] | tuple[str, ...], weights: bool, seed: int, overrides: Mapping[str, Any]
) -> Imported:
    path = Path(source)
    if path.suffix.lower() in _PICKLES:
        raise SourceError(Diagnostic(
            where=source, got="a pickle, which runs code when it is loaded", expected="weights as safetensors",
            fix="save them with safetensors.torch.save_model and name the folder with config.json",
        ))  # fmt: skip
    if path.suffix.lower() == ".onnx":
        return _from_onnx_file(source, weights)
    if path.is_dir():
        return _from_folder(path, weights, seed, overrides)
    if path.suffix.lower() in _OTHER_FILES or source.startswith(("/", "./", "../", "~")):
        got = "a file that is not a model of its own" if path.is_file() else "no such file or folder"
        fix = "name the folder that holds config.json and *.safetensors, or an .onnx file"
        raise SourceError(Diagnostic(where=source, got=got, expected="a folder or an .onnx file", fix=fix))
    if is_catalogue_source(source):
        return load_from_catalogue(source, weights=weights, seed=seed, overrides=overrides)
    if re.fullmatch(r"[\w.]+:[\w.]+", source):
        return from_function(source, inputs, weights)
    return _from_library(source, weights, seed, overrides)


def _from_onnx_file(source: str, weights: bool) -> Imported:
    from genmad.importers.from_onnx import from_onnx

    graph, arrays, report = from_onnx(source)
    if not weights:
        return Imported(graph=graph, report=replace(report, weights="none"), parameters={})
    return Imported(graph=graph, report=report, parameters=ArrayParameters(arrays))


class ArrayParameters(Mapping[str, Tensor]):
    """Arrays as tensors, each copied once when asked for: mapped files are read-only, and a tensor may be trained."""

    def __init__(self, arrays: Mapping[str, Any]) -> None:
        self._arrays = arrays
        self._made: dict[str, Tensor] = {}

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._made:
            self._made[name] = torch.from_numpy(self._arrays[name].copy())
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)


# Transformers.


def model_type_of(source: str) -> str:
    """The config type that an id or type names. Raises `SourceError` with the nearest names."""
    from transformers import CONFIG_MAPPING

    known = list(CONFIG_MAPPING.keys())
    name = source.rsplit("/", 1)[-1].lower()
    plain = {re.sub(r"[-_]", "", key): key for key in known}
    if name in known:
        return name
    if re.sub(r"[-_]", "", name) in plain:
        return plain[re.sub(r"[-_]", "", name)]
    prefixes = sorted((key for key in known if len(key) > 2 and re.match(rf"{re.escape(key)}(?![a-z])", name)), key=len)
    if "/" in source and prefixes:
        return prefixes[-1]
    near = difflib.get_close_matches(name, known, n=4, cutoff=0.5) or prefixes[-3:]
    raise SourceError(Diagnostic(
        where=source, got="an unknown model",
        expected="a transformers model type, a folder, an .onnx file or module:function",
        fix=f"try {', '.join(near)}" if near else "try gpt2, bert, llama, vit or resnet",
    ))  # fmt: skip


def _from_library(source: str, weights: bool, seed: int, overrides: Mapping[str, Any]) -> Imported:
    from transformers import AutoConfig

    cached = _cached_config(source)
    config = AutoConfig.for_model(model_type_of(source)) if cached is None else cached
    _override(config, overrides)
    imported = import_config(config, source=source)
    if cached is None and "/" in source:
        kind = config.model_type
        note = f"{source} is not in the local cache: this is the default {kind} config, whose sizes may differ"
        imported = replace(imported, report=replace(imported.report, notes=(note, *imported.report.notes)))
    if not weights:
        return imported
    if cached is not None and not overrides and _has_cached_weights(source):
        return with_weights(imported, lambda: _pretrained(config, source), "loaded")
    return with_weights(imported, lambda: build_random(config, seed), "random")


_LOCAL: dict[str, Any] = {"local_files_only": True, "use_safetensors": True, "dtype": torch.float32}


def _pretrained(config: Any, place: str | Path) -> nn.Module:
    """The model with the weights that lie at `place`. Raises `SourceError` where they cannot be read."""
    from safetensors import SafetensorError

    try:
        with quiet():
            module, details = model_class(config).from_pretrained(place, output_loading_info=True, **_LOCAL)
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        got = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:300]
        fix = "download or save the weights again, or pass --no-weights"
        raise SourceError(
            Diagnostic(where=str(place), got=got, expected="safetensors that fit config.json", fix=fix)
        ) from error
    missing = sorted(details["missing_keys"])
    if missing:
        got = f"no weights for {', '.join(missing[:3])}" + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        expected = f"every weight of {type(module).__name__}"
        raise SourceError(Diagnostic(where=str(place), got=got, expected=expected, fix="pass --no-weights"))
    return module.eval()  # type: ignore[no-any-return]


def _from_folder(path: Path, weights: bool, seed: int, overrides: Mapping[str, Any]) -> Imported:
    if not (path / "config.json").is_file():
        found = ", ".join(sorted(file.name for file in path.glob("*.onnx"))[:5])
        fix = f"name the file in it: {found}" if found else "save the model there with its save_pretrained"
        expected = "config.json beside *.safetensors"
        raise SourceError(Diagnostic(where=str(path), got="a folder without config.json", expected=expected, fix=fix))
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(path, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        text = str(error).splitlines()[0]
        raise SourceError(
            Diagnostic(
                where=str(path / "config.json"),
                got=text,
                expected="the config of a model type that transformers knows",
                fix="save the model there again with its save_pretrained",
            )
        ) from error
    _override(config, overrides)
    imported = import_config(config, source=str(path), kind="folder")
    if not weights:
        return imported
    if any(path.glob("*.safetensors")):
        return with_weights(imported, lambda: _pretrained(config, path), "loaded")
    if any(file.suffix in _PICKLES for file in path.iterdir()):
        raise SourceError(Diagnostic(
            where=str(path), got="weights as a pickle, which runs code when it is loaded", expected="*.safetensors",
            fix="save the model again with save_pretrained, or pass --no-weights",
        ))  # fmt: skip
    return with_weights(imported, lambda: build_random(config, seed), "random")


def _override(config: Any, overrides: Mapping[str, Any]) -> None:
    for key, value in overrides.items():
        if not hasattr(config, key):
            near = difflib.get_close_matches(key, list(vars(config)), n=3)
            raise SourceError(Diagnostic(
                where=f"{config.model_type} config", got=f"no field {key}", expected="a field of the config",
                fix=f"try {', '.join(near)}" if near else "",
            ))  # fmt: skip
        setattr(config, key, value)


def _cached_config(source: str) -> Any:
    from transformers import AutoConfig
    from transformers.utils import cached_file

    try:
        if (
            cached_file(source, "config.json", local_files_only=True, _raise_exceptions_for_missing_entries=False)
            is None
        ):
            return None
        return AutoConfig.from_pretrained(source, local_files_only=True)
    except (OSError, ValueError):
        return None


def _has_cached_weights(source: str) -> bool:
    from transformers.utils import cached_file

    for name in ("model.safetensors", "model.safetensors.index.json"):
        try:
            found = cached_file(source, name, local_files_only=True, _raise_exceptions_for_missing_entries=False)
        except OSError:
            found = None
        if found is not None:
            return True
    return False


def import_config(config: Any, *, source: str = "", kind: str = "transformers") -> Imported:
    """The graph of the model that a transformers config describes; no weights are made."""
    return import_model(build_skeleton(config), source=source, kind=kind)


def import_model(module: Any, *, source: str = "", kind: str = "module") -> Imported:
    """The graph of a transformers model object."""
    recipe = recipe_of(module)
    with no_padding():
        return from_torch(
            module, recipe.inputs, dynamic=recipe.dynamic, name=type(module).__name__,
            source=source or module.config.model_type, kind=kind, call_kwargs=recipe.call_kwargs,
        )  # fmt: skip


def example_inputs(module: Any) -> tuple[dict[str, Tensor], dict[str, dict[int, str]]]:
    """Example inputs of a transformers model by its modality, and their symbolic axes."""
    recipe = recipe_of(module)
    return dict(recipe.inputs), {name: dict(axes) for name, axes in recipe.dynamic.items()}
