"""The models of timm, diffusers and torch-geometric, as their catalogues in `genmad.importers` name them."""

import importlib
import inspect
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from typing import Any

from genmad.importers.catalog import Entry, catalogue, import_entry
from genmad.zoo.jobs import Job, Made, NotApplicable, NotBuiltError

PACKAGES: Mapping[str, str] = {"timm": "timm", "diffusers": "diffusers", "pyg": "torch-geometric"}
_MODALITY: Mapping[str, str] = {"timm": "image", "diffusers": "latent", "pyg": "graph"}
_TASK: Mapping[str, str] = {"timm": "image classification", "diffusers": "", "pyg": "node or graph prediction"}
# What the constructor's arguments for depth and width are set to, the full size first. timm's small models differ from
# its full ones in the number of classes only, so there are none here.
SIZES: Mapping[str, tuple[str, ...]] = {
    "timm": ("full", "6 layers", "3 layers", "8 layers, half width"),
    "diffusers": ("full", "small", "2 layers", "4 layers", "half width", "3 layers, half width"),
    "pyg": ("full", "small", "2 layers", "4 layers", "half width", "3 layers, half width"),
}
_DEPTHS = re.compile(r"(num_(single_|hidden_)?layers|n_layers|depth|dit_depth|num_(text|visual)_blocks)\Z")
_WIDTHS = re.compile(r"(hidden_(channels|size|dim)|num_attention_heads|num_heads|embed_dim|dim|inner_dim)\Z")
_STAGE_DEPTHS = ("depths", "layers")
_STAGE_WIDTHS = ("block_out_channels", "dims", "embed_dims")


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogueSource:
    """Every model of one library.

    Attributes:
        name: `timm`, `diffusers` or `pyg`.
        sizes: at how many of its `SIZES` each model is built.
        names: only these, all where None.
    """

    name: str
    sizes: int = 6
    names: tuple[str, ...] | None = None

    @property
    def package(self) -> str:
        return PACKAGES[self.name]

    def jobs(self, seed: int) -> Iterator[Job]:  # noqa: ARG002 - every model at every size: nothing is drawn
        """Names in the library's order, each at its sizes. Raises `SourceError` where it is not installed."""
        found = catalogue(self.name)
        names = found.model_names()
        library = f"{self.package} {version(self.package)}"
        for name in names:
            if self.names is None or name in self.names:
                family = f"{self.name}.{found.model_family(name) if hasattr(found, 'model_family') else name}"
                sizes = SIZES[self.name][: self.sizes]
                for size in sizes if self.name != "timm" or _has_sizes(name) else sizes[:1]:
                    yield Job(
                        source=self.name, library=library, family=family, variant=size, name=name,
                        settings={"size": size},
                    )  # fmt: skip

    def make(self, job: Job) -> Made:
        """The graph of a model. Raises `NotApplicable` where its arguments do not tell its depth or width."""
        found = catalogue(self.name)
        size = job.settings["size"]
        plain = size in ("full", "small")
        overrides = {} if plain else changed_arguments(found.entry(job.name).skeleton(), size)
        entry = found.entry(job.name, size=size if plain else "full", **overrides)
        try:
            graph = import_entry(entry).graph
        except Exception as error:
            _build_alone(entry)
            raise error
        return Made(graph=graph, modality=_modality(self.name), task=_TASK[self.name], config={"arguments": overrides})


def _build_alone(entry: Entry) -> None:
    """Tells a model that cannot be imported from one that its own code cannot build. Raises `NotBuiltError`."""
    try:
        entry.skeleton()
    except Exception as error:
        raise NotBuiltError from error


def _has_sizes(name: str) -> bool:
    """Whether a class in the file of a timm model takes its depth as an argument."""
    import timm

    return _takes_depth(timm.models.model_entrypoint(name).__module__)


@cache
def _takes_depth(module: str) -> bool:
    classes = [c for _, c in inspect.getmembers(importlib.import_module(module), inspect.isclass)]
    own = [c for c in classes if c.__module__ == module]
    arguments = {key for kind in own for key in inspect.signature(kind.__init__).parameters}
    return bool(arguments & {"depth", *_STAGE_DEPTHS})


def _modality(library: str) -> str:
    return "" if library == "diffusers" else _MODALITY[library]


def changed_arguments(module: Any, size: str) -> dict[str, Any]:
    """The constructor's arguments that make a model of another size, as `SIZES` words it.

    Raises `NotApplicable` where there are none.
    """
    known = _arguments(module)
    layers = next((int(word) for word in size.split() if word.isdigit()), 0)
    out: dict[str, Any] = {}
    for key, value in known.items():
        if layers:
            out |= _shallower(key, value, layers)
        if "half width" in size:
            out |= _halved(key, value)
    if not out:
        raise NotApplicable(f"its arguments tell no depth or width for {size}")
    return out


def _arguments(module: Any) -> dict[str, Any]:
    """The constructor's arguments: as the model recorded them, else as far as they can be read off the module."""
    recorded = getattr(module, "config", None)
    if isinstance(recorded, Mapping):
        return {key: value for key, value in recorded.items() if not key.startswith("_")}
    out: dict[str, Any] = {}
    for key, parameter in inspect.signature(type(module).__init__).parameters.items():
        value = getattr(module, key, parameter.default)
        if key == "depth" and hasattr(module, "blocks"):
            value = len(module.blocks)
        if isinstance(value, (int, tuple, list)) and not isinstance(value, bool):
            out[key] = value
        elif key in _STAGE_DEPTHS and value is inspect.Parameter.empty:
            out[key] = (9, 9, 9, 9)  # four stages, as nearly all staged models have
    return out


def _shallower(key: str, value: Any, layers: int) -> dict[str, Any]:
    if _DEPTHS.match(key) and isinstance(value, int) and value > layers:
        return {key: layers}
    if key in _STAGE_DEPTHS and _is_whole(value) and len(value) > 1:
        # `layers` in all, more of them in the last stage but one, as in ResNet.
        extra = [max(0, layers - len(value)) if i == len(value) - 2 else 0 for i in range(len(value))]
        return {key: tuple(min(v, 1 + more) for v, more in zip(value, extra, strict=True))}
    return {}


def _halved(key: str, value: Any) -> dict[str, Any]:
    if _WIDTHS.match(key) and isinstance(value, int) and value % 2 == 0 and value > 2:
        return {key: value // 2}
    if key in _STAGE_WIDTHS and _is_whole(value) and all(v % 2 == 0 for v in value):
        return {key: tuple(v // 2 for v in value)}
    return {}


def _is_whole(value: Any) -> bool:
    return isinstance(value, (tuple, list)) and bool(value) and all(type(v) is int for v in value)
