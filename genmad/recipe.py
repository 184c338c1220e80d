"""`recipe.yaml`: edits that can be replayed on the same model or on a similar one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genmad import __version__
from genmad.ir.diagnostics import Diagnostic, GenmadError
from genmad.ir.script import EditScript
from genmad.report import RefusedError, UsageError

_SIZE_LIMIT = 4_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class RecipeEdit:
    """One edit: what was asked, how it was read, and the steps that carry it out."""

    prompt: str
    reading: str
    seed: int
    confidence: float
    script: EditScript

    def to_json(self) -> dict[str, Any]:
        return {
            "prompt": self.prompt, "reading": self.reading, "seed": self.seed,
            "confidence": round(self.confidence, 4), "steps": self.script.to_json(),
        }  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """The model it was made on, and the edits in order."""

    source: str
    edits: tuple[RecipeEdit, ...]
    version: str = __version__

    def to_yaml(self) -> str:
        import yaml

        data = {"version": self.version, "source": self.source, "edits": [edit.to_json() for edit in self.edits]}
        return yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=120)

    @staticmethod
    def read(path: Path) -> Recipe:
        """Reads a recipe file, or the `recipe.yaml` of a hand-over folder. Raises `UsageError`."""
        path = path / "recipe.yaml" if path.is_dir() else path
        try:
            if path.stat().st_size > _SIZE_LIMIT:
                raise _bad(path, f"{path.stat().st_size:,} bytes", f"at most {_SIZE_LIMIT:,} bytes")
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            raise _bad(path, error.strerror or str(error), "a recipe.yaml that genmad wrote") from error
        except UnicodeDecodeError as error:
            raise _bad(path, "a file that is not UTF-8 text", "a recipe.yaml that genmad wrote") from error
        return Recipe.from_yaml(text, where=path)

    @staticmethod
    def from_yaml(text: str, *, where: Path = Path("recipe.yaml")) -> Recipe:
        """The inverse of `to_yaml`. Raises `UsageError`."""
        import yaml

        try:
            data = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise _bad(where, f"text that is not YAML ({str(error).splitlines()[0]})", "a recipe.yaml") from error
        edits = data.get("edits") if isinstance(data, dict) else None
        if not isinstance(edits, list) or not all(isinstance(item, dict) for item in edits):
            raise _bad(where, "no list of edits", "keys version, source and edits")
        try:
            done = tuple(_edit_from(item) for item in edits)
        except (GenmadError, TypeError, ValueError) as error:
            raise _bad(where, str(error), "edits with prompt, reading, seed and steps") from error
        return Recipe(source=str(data.get("source", "")), edits=done, version=str(data.get("version", "")))


def _edit_from(item: dict[str, Any]) -> RecipeEdit:
    return RecipeEdit(
        prompt=str(item.get("prompt", "")), reading=str(item.get("reading", "")), seed=int(item.get("seed", 0)),
        confidence=float(item.get("confidence", 1.0)), script=EditScript.from_json(item.get("steps")),
    )  # fmt: skip


def _bad(path: Path, got: str, expected: str) -> UsageError:
    fix = "name the recipe.yaml of a hand-over folder"
    return UsageError(Diagnostic(where=f"recipe {path}", got=got, expected=expected, fix=fix))


def misfit(index: int, error: GenmadError, source: str) -> RefusedError:
    """The error for a recipe whose steps do not fit the model they are replayed on."""
    found = next(iter(getattr(error, "diagnostics", ())), None)
    got = f"{found.got} at {found.where}" if isinstance(found, Diagnostic) else str(error)
    got = got.removesuffix(" at edit script")
    expected = found.expected if isinstance(found, Diagnostic) else "a model with the same places"
    fix = f"see what the model has with: genmad inspect {source}"
    return RefusedError(Diagnostic(where=f"recipe, edit {index + 1}, on {source}", got=got, expected=expected, fix=fix))
