"""What the catalogues of other libraries have in common: a named model, its example inputs, the import.

A catalogue module has `LIBRARY`, `model_names()`, `entry(name, *, size, **overrides)` and `import_name(...)`.
"""

import difflib
import importlib
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from genmad.importers.from_torch import from_torch
from genmad.importers.lazy_weights import with_weights
from genmad.importers.meta import parameters_on_meta
from genmad.importers.report import Imported, SourceError, UnsupportedError
from genmad.ir.diagnostics import Diagnostic, GenmadError

# What stands before the colon of a source -> the module with its catalogue.
CATALOGUES = {
    "timm": "genmad.importers.from_timm",
    "diffusers": "genmad.importers.from_diffusers",
    "pyg": "genmad.importers.from_pyg",
}
SIZES = ("full", "small")


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One model of a library, ready to be built.

    Attributes:
        name: as the library calls it.
        library: `timm`, `diffusers` or `pyg`.
        build: makes the module with random weights.
        inputs: example inputs on the meta device, given the module.
        dynamic: input -> axis -> symbol.
        call_kwargs: further arguments of forward that are no tensors.
    """

    name: str
    library: str
    build: Callable[[], nn.Module]
    inputs: Callable[[Any], Mapping[str, Tensor]]
    dynamic: Mapping[str, Mapping[int, str]]
    call_kwargs: Mapping[str, Any] = field(default_factory=dict)

    def skeleton(self) -> nn.Module:
        """The module with parameters on the meta device and real buffers. Raises `UnsupportedError`."""
        attempts = (parameters_on_meta(), parameters_on_meta(as_if_real=True), _all_on_meta())
        for last, where in enumerate(attempts, start=1 - len(attempts)):
            try:
                with where:
                    return self._built()
            except UnsupportedError as error:
                if last == 0 or not isinstance(error.__cause__, (NotImplementedError, RuntimeError)):
                    raise
        raise AssertionError("unreachable: the last attempt raises")

    def random(self, seed: int) -> nn.Module:
        """The module with random weights that depend on `seed` only. Raises `UnsupportedError`."""
        state = torch.get_rng_state()
        try:
            torch.manual_seed(seed)
            return self._built()
        finally:
            torch.set_rng_state(state)

    def _built(self) -> nn.Module:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return self.build().eval()
        except GenmadError:
            raise
        except Exception as error:  # the code of the library may raise anything
            words = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
            text = f"{self.library} cannot build {self.name}: {type(error).__name__}: {words}"
            raise UnsupportedError([text[:400]], source=f"{self.library}:{self.name}") from error


@contextmanager
def _all_on_meta() -> Iterator[None]:
    """Buffers on the meta device, too: for code that runs a part of the model while it is built."""
    with torch.device("meta"), parameters_on_meta():
        yield


def import_entry(entry: Entry) -> Imported:
    """The graph of a model; no weights are made. Raises `UnsupportedError`."""
    module = entry.skeleton()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return from_torch(
            module, entry.inputs(module), dynamic=entry.dynamic, name=type(module).__name__,
            source=f"{entry.library}:{entry.name}", kind=entry.library, call_kwargs=entry.call_kwargs,
        )  # fmt: skip


def is_catalogue_source(source: str) -> bool:
    """Whether `source` names a model of a catalogue, `timm:resnet50`."""
    return source.partition(":")[0] in CATALOGUES and ":" in source


def load_from_catalogue(source: str, *, weights: bool, seed: int, overrides: Mapping[str, Any]) -> Imported:
    """The model that `library:name` names. Raises `SourceError` or `UnsupportedError`."""
    library, _, name = source.partition(":")
    entry = catalogue(library).entry(name, size="full", **overrides)
    imported = import_entry(entry)
    imported = replace(imported, report=replace(imported.report, source=source))
    return with_weights(imported, lambda: entry.random(seed), "random") if weights else imported


def catalogue(library: str) -> Any:
    """The module with `model_names`, `entry` and `import_name` of a library."""
    found: ModuleType = importlib.import_module(CATALOGUES[library])
    return found


def unknown_name(library: str, name: str, known: tuple[str, ...]) -> SourceError:
    """The error for a name that the library does not have, with the nearest that it has."""
    lower = {key.lower(): key for key in known}
    near = [lower[key] for key in difflib.get_close_matches(name.lower(), list(lower), n=4, cutoff=0.5)]
    near = near or [key for key in known if name.lower() in key.lower()][:4]
    fix = f"try {', '.join(f'{library}:{key}' for key in near)}" if near else f"try {library}:{known[0]}"
    return SourceError(Diagnostic(
        where=f"{library}:{name}", got="an unknown model", expected=f"one of the {len(known)} models of {library}",
        fix=fix,
    ))  # fmt: skip


def missing_package(library: str, package: str, install: str) -> SourceError:
    """The error for an optional library that is not installed."""
    expected = f"the package {package}, which is optional"
    return SourceError(Diagnostic(where=f"{library}:", got="no such package", expected=expected, fix=install))


def check_size(size: str) -> None:
    if size not in SIZES:
        raise ValueError(f"size={size!r}; use full or small")
