"""Transformers models from a config: which class, its skeleton on the meta device, its random weights."""

import contextlib
import importlib
import inspect
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from genmad.importers.meta import parameters_on_meta
from genmad.importers.report import UnsupportedError

# Tried in this order; a config type that has a masked-LM head and is no decoder is an encoder.
_HEADS = (
    "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES", "MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES",
    "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES", "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES",
    "MODEL_FOR_MASKED_LM_MAPPING_NAMES", "MODEL_FOR_CTC_MAPPING_NAMES", "MODEL_MAPPING_NAMES",
    "MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES", "MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES",
    "MODEL_FOR_DEPTH_ESTIMATION_MAPPING_NAMES", "MODEL_FOR_UNIVERSAL_SEGMENTATION_MAPPING_NAMES",
    "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES", "MODEL_FOR_KEYPOINT_DETECTION_MAPPING_NAMES",
    "MODEL_FOR_RETRIEVAL_MAPPING_NAMES",
)  # fmt: skip
# Encoders whose config type also has a causal head for use as a decoder.
_ENCODERS = frozenset({
    "albert", "bert", "big_bird", "camembert", "data2vec-text", "electra", "ernie", "megatron-bert", "mpnet", "rembert",
    "roberta", "roberta-prelayernorm", "roformer", "roc_bert", "xlm-roberta", "xlm-roberta-xl", "xmod", "modernbert",
})  # fmt: skip
# Tensors of more elements than this are made without memory while a skeleton is built: they become parameters.
_LARGE = 1 << 22
_FACTORIES = (torch.empty, torch.zeros, torch.ones, torch.rand, torch.randn, torch.full)


def model_class(config: Any) -> Any:
    """The class with the head that the type is mostly used with. Raises `UnsupportedError`."""
    import transformers
    from transformers.models.auto import modeling_auto

    kind = config.model_type
    names = (getattr(config, "architectures", None) or [])[:1]
    heads = ("MODEL_FOR_MASKED_LM_MAPPING_NAMES", *_HEADS) if kind in _ENCODERS else _HEADS
    for head in heads:
        found = getattr(modeling_auto, head, {}).get(kind)
        names += [found[0] if isinstance(found, (tuple, list)) else found] if found else []
    kinds = [k for name in names if (k := getattr(transformers, name, None)) is not None]
    # A composite config is listed with the model of one of its parts too; that one cannot be built from it.
    fitting = (k for k in kinds if isinstance(config, getattr(k, "config_class", None) or object))
    found = next(fitting, None) or _class_of_config(type(config)) or next(iter(kinds), None)
    if found is None:
        raise UnsupportedError([f"model type {kind}: no model class in this version of transformers"])
    return found


def _class_of_config(config_class: type) -> Any:
    """The model beside a config class that no table of heads names: parts of larger models mostly."""
    from transformers import PreTrainedModel

    package = config_class.__module__.rpartition(".")[0]
    stem = config_class.__module__.rpartition(".")[2].removeprefix("configuration_")
    try:
        module = importlib.import_module(f"{package}.modeling_{stem}")
    except ImportError:
        return None
    found = [
        kind for _, kind in inspect.getmembers(module, inspect.isclass)
        if issubclass(kind, PreTrainedModel) and kind.__module__ == module.__name__
        and getattr(kind, "config_class", None) is config_class and _own_forward(kind)
    ]  # fmt: skip
    name = config_class.__name__.removesuffix("Config")
    order = (f"{name}Model", name, f"{name}ForConditionalGeneration")
    return min(found, key=lambda k: (*(k.__name__ != n for n in order), len(k.__name__)), default=None)


def _own_forward(kind: type[nn.Module]) -> bool:
    return kind.forward is not nn.Module.forward and not kind.__name__.endswith("PreTrainedModel")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
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


class _LargeOnMeta(TorchFunctionMode):
    """Large tensors on the meta device: weights of experts are tens of gigabytes before they become parameters."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in _FACTORIES and "device" not in kwargs and _num_elements(args, kwargs) > _LARGE:
            kwargs["device"] = "meta"
        return func(*args, **kwargs)


def _num_elements(args: Any, kwargs: Any) -> int:
    size = kwargs.get("size", args[0] if args and not isinstance(args[0], int) else args)
    count = 1
    for item in size if isinstance(size, (tuple, list)) else ():
        count *= item if isinstance(item, int) else 1
    return count


def build_skeleton(config: Any) -> nn.Module:
    """The model of a config with parameters on the meta device and real buffers.

    Raises:
        UnsupportedError: the library cannot build it, with the library's own words.
    """
    from transformers.initialization import no_init_weights

    kind = model_class(config)
    try:
        with quiet(), no_init_weights(), _LargeOnMeta(), parameters_on_meta():
            module: Any = kind._from_config(config, dtype=torch.float32)
        module.tie_weights()
    except Exception as error:  # code of a model may raise anything
        raise UnsupportedError([_cannot_build(config, error)]) from error
    return module.eval()  # type: ignore[no-any-return]


def _cannot_build(config: Any, error: Exception) -> str:
    """Why a model cannot be built: a download it asks for, a package it lacks, or a config that does not fit."""
    words = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    name = f"model type {config.model_type}"
    if isinstance(error, OSError):
        return f"{name} needs a download: {words}"[:400]
    if isinstance(error, ImportError):
        return f"{name} needs a package: {words}"[:400]
    return f"{name} cannot be built from this config: {type(error).__name__}: {words}"[:400]


def build_random(config: Any, seed: int) -> nn.Module:
    """The model of a config with random weights that depend on `seed` only."""
    state = torch.get_rng_state()
    try:
        torch.manual_seed(seed)
        with quiet():
            return model_class(config)._from_config(config, dtype=torch.float32).eval()  # type: ignore[no-any-return]
    finally:
        torch.set_rng_state(state)
