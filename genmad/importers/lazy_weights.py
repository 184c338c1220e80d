"""Weights that are made or read when the first tensor is asked for."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from torch import Tensor, nn

from genmad.importers.from_torch import ModuleParameters
from genmad.importers.report import Imported, SourceError
from genmad.ir.diagnostics import Diagnostic


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


def with_weights(imported: Imported, make: Callable[[], nn.Module], how: str) -> Imported:
    """`imported` with the weights of the module that `make` builds when the first of them is asked for.

    Raises:
        SourceError: they need more memory than is free.
    """
    structure = imported.parameters
    if not isinstance(structure, ModuleParameters):
        return imported
    _check_memory(structure, imported.report.source)
    return replace(imported, report=replace(imported.report, weights=how), parameters=LazyParameters(structure, make))
