"""What an import did, and the errors it raises."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from genmad.ir.diagnostics import Diagnostic, GenmadError
from genmad.ir.graph import Graph

if TYPE_CHECKING:
    from torch import Tensor


MAX_PROBLEMS_TOLD = 5
_FIX = "take the part of the model that can be read, or check that the inputs have the shapes it is called with"
# Words of a problem -> what to do about it.
_FIXES = (
    ("needs a download", "download it where there is a network, and name the folder with config.json"),
    ("needs a package", "install that package, or take another model type"),
    ("cannot be built from this config", "name a folder whose config.json has the fields that are missing"),
    ("no input recipe", "name package.module:function that gives the module, with --input for each of its inputs"),
    (
        "control flow that depends on data",
        "write the branch with torch.where, or name package.module:function that gives the part without it",
    ),
    ("how many there are depends on data", "keep all places and hide some with torch.where, so that sizes are known"),
)


class UnsupportedError(GenmadError):
    """A source that was read but holds things that no op can express. `problems` names each of them."""

    exit_code = 3

    def __init__(self, problems: list[str] | tuple[str, ...], *, source: str = "model") -> None:
        self.problems = tuple(problems)
        self.source = source
        super().__init__("cannot import: " + "; ".join(self.problems))

    @property
    def diagnostic(self) -> Diagnostic:
        """The problems as one message; `source` is what the user named."""
        got = "; ".join(self.problems[:MAX_PROBLEMS_TOLD])
        more = len(self.problems) - MAX_PROBLEMS_TOLD
        got += f"; and {more} more" if more > 0 else ""
        fix = next((fix for words, fix in _FIXES if words in self.problems[0]), _FIX) if self.problems else _FIX
        return Diagnostic(where=self.source, got=got, expected="a model that the op set can express", fix=fix)


class SourceError(GenmadError):
    """A source that cannot be read: unknown id, missing or truncated file, refused format."""

    exit_code = 3

    def __init__(self, diagnostic: Diagnostic) -> None:
        self.diagnostic = diagnostic
        super().__init__(str(diagnostic))


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportReport:
    """What was lifted to layer-level ops, what stayed primitive and what was refused.

    Attributes:
        source: what the user named: an id, a path, `package.module:function`.
        kind: `transformers`, `folder`, `onnx`, `module`.
        weights: `loaded` (from files), `random` (built from a config) or `none`.
        lifted: lifting pass or layer-level op -> how many places.
        primitive: functional op that stayed a `TorchCall` -> how many places.
        refused: what could not be imported, and why.
        notes: choices worth knowing (a size kept concrete, a default used).
    """

    source: str
    kind: str
    weights: str = "none"
    lifted: Mapping[str, int] = field(default_factory=dict)
    primitive: Mapping[str, int] = field(default_factory=dict)
    refused: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.weights not in ("loaded", "random", "none"):
            raise ValueError(f"weights={self.weights!r}; use loaded, random or none")


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """An imported model.

    Attributes:
        graph: the architecture.
        report: what the import did.
        parameters: full parameter name -> tensor, buffers included; tensors may be loaded when first asked for.
    """

    graph: Graph
    report: ImportReport
    parameters: Mapping[str, "Tensor"]
