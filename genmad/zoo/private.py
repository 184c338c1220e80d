"""A user's folder as a source: `.onnx` files, folders with config.json, and functions that are asked for by name.

Nothing in the folder is trusted. Files that are pickles, links that lead out, files beyond a size and paths beyond the
folder are refused one by one; Python runs only where `--run-code` names it. Weights are not read.
"""

import hashlib
import os
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from genmad import __version__
from genmad.importers.report import SourceError
from genmad.ir import Diagnostic
from genmad.zoo.jobs import Job, Made
from genmad.zoo.manifest import Manifest

MAX_ONNX_BYTES = 2**31 - 1
MAX_CONFIG_BYTES = 4 * 2**20
MAX_MODELS = 20_000
MAX_DEPTH = 12
_PICKLES = (".pt", ".pth", ".bin", ".pkl", ".pickle", ".ckpt", ".joblib", ".npy")
_ENTRY = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What lies in a folder.

    Attributes:
        models: paths relative to it, sorted: `.onnx` files and folders with config.json.
        refused: (path, why), sorted.
    """

    models: tuple[str, ...]
    refused: tuple[tuple[str, str], ...]


def scan(folder: Path) -> Found:
    """Looks through a folder without following links that lead out of it. Raises `SourceError` where it is none."""
    if not folder.is_dir():
        got = "a file" if folder.exists() else "no such folder"
        fix = "name the folder that holds your .onnx files and config folders"
        raise SourceError(Diagnostic(where=str(folder), got=got, expected="a folder with models", fix=fix))
    root = folder.resolve()
    models: list[str] = []
    refused: list[tuple[str, str]] = []
    for here, names, files in os.walk(root):
        place = Path(here)
        depth = len(place.relative_to(root).parts)
        for name in sorted(names):
            if (place / name).is_symlink():
                refused.append((_relative(place / name, root), "a link to a folder, which is not followed"))
        names[:] = sorted(n for n in names if not (place / n).is_symlink() and not n.startswith("."))
        if depth >= MAX_DEPTH and names:
            refused.append((_relative(place, root), f"folders nested more than {MAX_DEPTH} deep"))
            names.clear()
        for name in sorted(files):
            why = _look(place / name, root)
            if why is None:
                continue
            if why:
                refused.append((_relative(place / name, root), why))
            else:
                models.append(_relative(place if name == "config.json" else place / name, root))
    if len(models) > MAX_MODELS:
        refused += [(path, f"more than {MAX_MODELS} models") for path in sorted(models)[MAX_MODELS:]]
    return Found(models=tuple(sorted(models)[:MAX_MODELS]), refused=tuple(sorted(refused)))


def _relative(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()


def _look(path: Path, root: Path) -> str | None:
    """ "" for a model, a reason for what is refused, None for a file that is of no interest."""
    suffix = path.suffix.lower()
    if suffix in _PICKLES:
        return "a pickle, which runs code when it is loaded; save it as safetensors or ONNX"
    if suffix != ".onnx" and path.name != "config.json":
        return None
    target = path.resolve()
    if path.is_symlink() and not target.is_relative_to(root):
        return "a link that leads out of the folder"
    if not target.is_file():
        return "a link to nothing" if path.is_symlink() else "no regular file"
    size, most = target.stat().st_size, MAX_ONNX_BYTES if suffix == ".onnx" else MAX_CONFIG_BYTES
    if size > most:
        return f"{size} bytes; expected at most {most}"
    return "" if size else "an empty file"


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivateSource:
    """The models of a user's folder.

    Attributes:
        folder: absolute.
        models: paths below it.
        functions: `module:function`s that may run; modules are looked for in the folder first.
        labels: path -> measured figures; `words`: path -> family, name, inputs.
    """

    folder: str
    models: tuple[str, ...]
    functions: tuple[str, ...] = ()
    labels: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    words: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    name: str = "private"
    package: str = "genmad"

    def jobs(self, seed: int) -> Iterator[Job]:  # noqa: ARG002 - nothing is drawn
        """One job for each model, in the order of the paths."""
        for path in (*self.models, *self.functions):
            words = self.words.get(path, {})
            settings: dict[str, Any] = {"path": path, "sha256": self._digest(path)}
            if self.labels.get(path):
                settings["labels"] = dict(self.labels[path])
            if "inputs" in words:
                settings["inputs"] = words["inputs"]
            first = Path(path.replace(":", "/")).parts[0]
            yield Job(
                source=self.name, library=f"genmad {__version__}", family=f"private.{words.get('family', first)}",
                variant=path, name=words.get("name", Path(path).stem), settings=settings,
            )  # fmt: skip

    def _digest(self, path: str) -> str:
        """Of the file that the graph is read from; "" for functions, whose code may stand anywhere."""
        if path in self.functions:
            return ""
        place = Path(self.folder) / path
        digest = hashlib.sha256()
        with (place / "config.json" if place.is_dir() else place).open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
        return digest.hexdigest()

    def make(self, job: Job) -> Made:
        """The graph of a file, a folder or a function; weights are left where they are."""
        from genmad.importers.from_hf import load_source

        path = job.settings["path"]
        inputs = tuple(str(job.settings.get("inputs", "")).split())
        if path in self.functions:
            sys.path.insert(0, self.folder)
        place = path if path in self.functions else str(Path(self.folder) / path)
        return Made(graph=load_source(place, inputs=inputs, weights=False).graph, labels=job.settings.get("labels", {}))


def private_source(
    folder: Path, found: Found, manifest: Manifest, run_code: tuple[str, ...]
) -> tuple[PrivateSource, tuple[tuple[str, str], ...]]:
    """The source of a scanned folder, and (what, why) of the manifest's lines that name nothing in it.

    Raises `SourceError` for a `--run-code` that is no `module:function`.
    """
    for name in run_code:
        if not _ENTRY.match(name):
            diagnostic = Diagnostic(where=f"--run-code {name}", got="another form", expected="module:function")
            raise SourceError(diagnostic)
    known = {*found.models, *run_code}
    why = dict(found.refused)
    refused = []
    for path in manifest.entries:
        if path in known:
            continue
        if _ENTRY.match(path):
            refused.append((path, f"its code runs only when asked for: --run-code {path}"))
        elif path not in why:
            refused.append((path, "named in the manifest, but no model lies there"))
    source = PrivateSource(
        folder=str(folder.resolve()), models=found.models, functions=tuple(dict.fromkeys(run_code)),
        labels={path: dict(e.labels) for path, e in manifest.entries.items() if path in known},
        words={path: dict(e.words) for path, e in manifest.entries.items() if path in known and e.words},
    )  # fmt: skip
    return source, tuple(refused)
