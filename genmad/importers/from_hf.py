"""Where models come from: transformers types and ids, local folders, `package.module:function`, ONNX files."""

import contextlib
import difflib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from genmad.importers.from_function import from_function
from genmad.importers.from_torch import ModuleParameters, from_torch
from genmad.importers.report import Imported, SourceError, UnsupportedError
from genmad.ir.diagnostics import Diagnostic

_PICKLES = (".pt", ".pth", ".bin", ".pkl", ".pickle", ".ckpt")
_OTHER_FILES = (".safetensors", ".json", ".yaml", ".py", ".gguf", ".h5", ".tflite", ".pb")
# Tried in this order; a config type that has a masked-LM head and is no decoder is an encoder.
_HEADS = (
    "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES", "MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES",
    "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES", "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES",
    "MODEL_FOR_MASKED_LM_MAPPING_NAMES", "MODEL_MAPPING_NAMES",
)  # fmt: skip
# Encoders whose config type also has a causal head for use as a decoder.
_ENCODERS = frozenset({
    "albert", "bert", "big_bird", "camembert", "data2vec-text", "electra", "ernie", "megatron-bert", "mpnet", "rembert",
    "roberta", "roberta-prelayernorm", "roformer", "roc_bert", "xlm-roberta", "xlm-roberta-xl", "xmod", "modernbert",
})  # fmt: skip


def load_source(
    source: str, *, inputs: list[str] | tuple[str, ...] = (), weights: bool = True, seed: int = 0,
    config_overrides: Mapping[str, Any] | None = None,
) -> Imported:  # fmt: skip
    """Imports whatever `source` names.

    Args:
        source: a transformers model type or id (`gpt2`, `openai-community/gpt2`), a folder with config.json, a `.onnx`
            file, or `package.module:function` that gives an nn.Module.
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


def model_class(config: Any) -> Any:
    """The class with the head that the type is mostly used with. Raises `UnsupportedError`."""
    import transformers
    from transformers.models.auto import modeling_auto

    kind = config.model_type
    names = (getattr(config, "architectures", None) or [])[:1]
    heads = ("MODEL_FOR_MASKED_LM_MAPPING_NAMES", *_HEADS) if kind in _ENCODERS else _HEADS
    for head in heads:
        found = getattr(modeling_auto, head).get(kind)
        names += [found[0] if isinstance(found, (tuple, list)) else found] if found else []
    for name in names:
        found = getattr(transformers, name, None)
        if found is not None:
            return found  # type: ignore[no-any-return]
    raise UnsupportedError([f"model type {kind}: no model class in this version of transformers"])


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
        return _with_weights(imported, lambda: _pretrained(config, source), "loaded")
    return _with_weights(imported, lambda: build_random(config, seed), "random")


_LOCAL: dict[str, Any] = {"local_files_only": True, "use_safetensors": True, "dtype": torch.float32}


def _pretrained(config: Any, place: str | Path) -> nn.Module:
    """The model with the weights that lie at `place`. Raises `SourceError` where they cannot be read."""
    from safetensors import SafetensorError

    try:
        with _quiet():
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
        return _with_weights(imported, lambda: _pretrained(config, path), "loaded")
    if any(file.suffix in _PICKLES for file in path.iterdir()):
        raise SourceError(Diagnostic(
            where=str(path), got="weights as a pickle, which runs code when it is loaded", expected="*.safetensors",
            fix="save the model again with save_pretrained, or pass --no-weights",
        ))  # fmt: skip
    return _with_weights(imported, lambda: build_random(config, seed), "random")


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
    inputs, dynamic = example_inputs(module)
    call_kwargs = {"use_cache": False} if _takes(module, "use_cache") else {}
    if _takes(module, "return_dict"):
        call_kwargs["return_dict"] = True
    return from_torch(
        module, inputs, dynamic=dynamic, name=type(module).__name__, source=source or module.config.model_type,
        kind=kind, call_kwargs=call_kwargs,
    )  # fmt: skip


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Transformers' advice about odd configs and its progress bars are not for our users."""
    from transformers.utils import logging

    before, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if bars:
            logging.enable_progress_bar()


@contextlib.contextmanager
def _parameters_on_meta() -> Iterator[None]:
    """Modules keep the shapes of their parameters only; buffers are computed as usual."""
    register = nn.Module.register_parameter

    def register_on_meta(module: nn.Module, name: str, param: nn.Parameter | None) -> None:
        if param is not None and param.device.type != "meta":
            param = nn.Parameter(param.detach().to("meta"), requires_grad=param.requires_grad)
        register(module, name, param)

    nn.Module.register_parameter = register_on_meta  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]


def build_skeleton(config: Any) -> nn.Module:
    """The model of a config with parameters on the meta device and real buffers."""
    from transformers.initialization import no_init_weights

    with _quiet(), no_init_weights(), _parameters_on_meta():
        module: Any = model_class(config)._from_config(config, dtype=torch.float32)
    module.tie_weights()
    return module.eval()  # type: ignore[no-any-return]


def build_random(config: Any, seed: int) -> nn.Module:
    """The model of a config with random weights that depend on `seed` only."""
    state = torch.get_rng_state()
    try:
        torch.manual_seed(seed)
        with _quiet():
            return model_class(config)._from_config(config, dtype=torch.float32).eval()
    finally:
        torch.set_rng_state(state)


def _takes(module: nn.Module, name: str) -> bool:
    import inspect

    return name in inspect.signature(type(module).forward).parameters


def example_inputs(module: Any) -> tuple[dict[str, Tensor], dict[str, dict[int, str]]]:
    """Example inputs of a transformers model by its modality, and their symbolic axes."""
    config, main = module.config, module.main_input_name
    if main == "pixel_values":
        side = getattr(config, "image_size", None) or 224
        height, width = side if isinstance(side, (tuple, list)) else (side, side)
        return {main: torch.empty(1, getattr(config, "num_channels", 3), height, width, device="meta")}, {
            main: {0: "batch"}
        }
    ids = torch.zeros(1, 8, dtype=torch.int64, device="meta")
    if main == "input_features":
        frames = 2 * config.max_source_positions
        inputs = {main: torch.empty(1, config.num_mel_bins, frames, device="meta"), "decoder_input_ids": ids}
        return inputs, {main: {0: "batch"}, "decoder_input_ids": {0: "batch", 1: "target"}}
    if main == "input_values":
        raise UnsupportedError([f"model type {config.model_type}: raw audio input"])
    if getattr(config, "is_encoder_decoder", False):
        axes = {"input_ids": {0: "batch", 1: "seq"}, "decoder_input_ids": {0: "batch", 1: "target"}}
        return {"input_ids": ids, "decoder_input_ids": ids}, axes
    return {"input_ids": ids}, {"input_ids": {0: "batch", 1: "seq"}}


class LazyParameters(Mapping[str, Tensor]):
    """Parameters of a module that is built when the first tensor is asked for."""

    def __init__(self, structure: ModuleParameters, make: Callable[[], nn.Module]) -> None:
        self._structure, self._make = structure, make
        self._made: ModuleParameters | None = None

    def __getitem__(self, name: str) -> Tensor:
        if self._made is None:
            self._made = self._structure.of(self._make())
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._structure)

    def __len__(self) -> int:
        return len(self._structure)


def _check_memory(parameters: Mapping[str, Tensor], source: str) -> None:
    """Raises `SourceError` when the weights are more than the memory that is free: the system would kill us."""
    needed, free = sum(tensor.nbytes for tensor in parameters.values()), free_memory()
    if free is not None and needed > free:
        raise SourceError(Diagnostic(
            where=source, got=f"{needed / 1e9:.1f} GB of weights",
            expected=f"at most the {free / 1e9:.1f} GB of memory that are free",
            fix="pass --no-weights for the architecture only",
        ))  # fmt: skip


def free_memory() -> int | None:
    """Bytes of memory that a process may still take, as Linux tells; None elsewhere."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)


def _with_weights(imported: Imported, make: Callable[[], nn.Module], how: str) -> Imported:
    structure = imported.parameters
    if not isinstance(structure, ModuleParameters):
        return imported
    _check_memory(structure, imported.report.source)
    return replace(imported, report=replace(imported.report, weights=how), parameters=LazyParameters(structure, make))
