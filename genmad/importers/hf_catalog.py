"""Every model type of transformers by name, at the size of its default config or small."""

import functools
from typing import Any

from genmad.importers.hf_model import build_random, build_skeleton, model_class
from genmad.importers.hf_shrink import full_config, small_config
from genmad.importers.report import Imported

SIZES = ("full", "small")


@functools.cache
def model_types() -> tuple[str, ...]:
    """Every type of transformers' config table, in its order. Not every one builds or imports."""
    from transformers import CONFIG_MAPPING

    return tuple(CONFIG_MAPPING.keys())


def make_config(model_type: str, *, size: str = "full", depth: int = 2, width: int = 8, **overrides: Any) -> Any:
    """The config of a type.

    Args:
        model_type: as transformers calls it.
        size: `full` is the default config; `small` is shrunk by rules on the names of its fields.
        depth: layers of a small config (of each stage where there are stages).
        width: what the widths of a small config are divided by, a power of two.
        overrides: fields of the config.
    """
    if size not in SIZES:
        raise ValueError(f"size={size!r}; use full or small")
    if size == "full":
        return full_config(model_type, overrides)
    return small_config(model_type, depth=depth, width=width, overrides=overrides)


def import_type(model_type: str, *, size: str = "full", depth: int = 2, width: int = 8, **overrides: Any) -> Imported:
    """The graph of a model type; no weights are made.

    A small one whose widths do not stand to be divided by `width` is divided by less.

    Raises:
        UnsupportedError: the type cannot be built or imported.
    """
    from genmad.importers.from_hf import import_config

    if size == "small":
        return small_that_runs(model_type, depth=depth, width=width, **overrides)[1]
    return import_config(make_config(model_type, size=size, **overrides), source=model_type)


def small_that_runs(model_type: str, *, depth: int = 2, width: int = 8, **overrides: Any) -> tuple[Any, Imported]:
    """A small config of the type and its import, the widths divided by as much as the model stands, at most `width`.

    Raises the error of the widest one where none runs.
    """
    from genmad.importers.from_hf import import_config

    while True:
        try:
            config = make_config(model_type, size="small", depth=depth, width=width, **overrides)
            return config, import_config(config, source=model_type)
        except Exception:  # code of a model raises of every kind when sizes do not fit
            if width == 1:
                raise
            width //= 2


__all__ = [
    "build_random", "build_skeleton", "import_type", "make_config", "model_class", "model_types", "small_that_runs",
]  # fmt: skip
