"""Writing the hand-over, all of it or nothing: files are made in a temporary folder beside the target and moved in."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from genmad.ir.diagnostics import Diagnostic, GenmadError

if TYPE_CHECKING:
    import torch

Writer = Callable[[Path], None]
# Every file that a hand-over folder may hold; `--force` replaces these and leaves all others alone.
HAND_OVER_FILES = (
    "model.onnx", "model.onnx.data", "model.py", "model.safetensors", "report.json", "recipe.yaml", "README.md",
)  # fmt: skip


class OutputError(GenmadError):
    """An output that cannot be written: in use, not writable, or the disk is full. Nothing was written."""

    exit_code = 2

    def __init__(self, diagnostic: Diagnostic) -> None:
        self.diagnostic = diagnostic
        super().__init__(str(diagnostic))


def check_target(target: Path, *, force: bool) -> None:
    """Raises `OutputError` when `target` could not be written; called before the slow work."""
    is_file = target.suffix == ".onnx"
    if is_file and target.is_dir():
        raise _output_error(target, "a folder", "a new file", "choose another name")
    if is_file and target.exists() and not force:
        raise _output_error(
            target, "a file that exists", "a new file", "use --force (in Python force=True) to replace it"
        )
    if not is_file and target.exists() and not target.is_dir():
        raise _output_error(target, "a file", "a folder, or a name that ends in .onnx", "choose another name")
    if not is_file and target.is_dir() and any(target.iterdir()) and not force:
        fix = "use --force (in Python force=True) to replace the files that genmad writes there"
        raise _output_error(target, "a folder that is not empty", "an empty or new folder", fix)
    check_writable(target)


def check_writable(target: Path) -> None:
    """Raises `OutputError` when nothing can be made in `target`, a folder, or in the nearest folder above it."""
    parent = target.absolute().parent
    while not parent.exists() and parent != parent.parent:
        parent = parent.parent
    spot = target if target.is_dir() else parent
    try:
        # Asking for permission is not enough: the file system itself may be read-only.
        os.rmdir(tempfile.mkdtemp(prefix=".genmad.", dir=spot))
    except OSError as error:
        got = f"{spot}, which cannot be written to ({error.strerror})"
        raise _output_error(target, got, "a place that can be written to", "choose another") from error


def _output_error(target: Path, got: str, expected: str, fix: str) -> OutputError:
    return OutputError(Diagnostic(where=f"output {target}", got=got, expected=expected, fix=fix))


def write_files(target: Path, writers: Mapping[str, Writer], *, force: bool = False) -> None:
    """Fills the folder `target`, or for a target `x.onnx` the files beside it; after an error nothing is left.

    `writers` maps a file name to the function that writes it. Raises `OutputError`.
    """
    check_target(target, force=force)
    into_folder = target.suffix != ".onnx"
    folder = target if into_folder else target.parent
    with _made_parents(folder.absolute().parent if into_folder else folder.absolute()), _scratch(target) as scratch:
        for name, write in writers.items():
            write(scratch / name)
            # safetensors makes its files for the owner alone.
            (scratch / name).chmod(0o644)
        if into_folder and not target.exists():
            scratch.rename(target)
        else:
            _move_in(scratch, folder)


@contextmanager
def _scratch(target: Path) -> Iterator[Path]:
    """A temporary folder on the same file system; gone afterwards, or become the target."""
    where = target.absolute().parent
    try:
        folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".tmp", dir=where))
    except OSError as error:
        raise _os_error(target, error) from error
    try:
        folder.chmod(0o755)
        yield folder
    except OSError as error:
        raise _os_error(target, error) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _os_error(target: Path, error: OSError) -> OutputError:
    fix = "free some space or choose another place" if error.errno == 28 else "choose another place"
    got = error.strerror or str(error)
    return _output_error(target, got, "a place that can be written to", f"nothing was written; {fix}")


@contextmanager
def _made_parents(parent: Path) -> Iterator[None]:
    """Makes the missing parents; takes them away again when the body fails."""
    missing = []
    spot = parent
    while not spot.exists():
        missing.append(spot)
        spot = spot.parent
    try:
        parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _os_error(parent, error) from error
    try:
        yield
    except BaseException:
        for folder in missing:
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()
        raise


def _move_in(scratch: Path, folder: Path) -> None:
    """Moves finished files over; in a hand-over folder, files of an older hand-over that were not written again go."""
    fresh = {path.name for path in scratch.iterdir()}
    if "report.json" in fresh:
        for name in HAND_OVER_FILES:
            if name not in fresh:
                (folder / name).unlink(missing_ok=True)
    for name in sorted(fresh):
        os.replace(scratch / name, folder / name)


def save_safetensors(weights: Mapping[str, torch.Tensor], path: Path) -> None:
    """Writes the tensors; views and tied tensors are written out in full under each name."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    seen: set[int] = set()
    state = {}
    for name, tensor in weights.items():
        address = tensor.untyped_storage().data_ptr()
        own = tensor.contiguous()
        whole = own.untyped_storage().nbytes() == own.numel() * own.element_size()
        state[name] = own if whole and address not in seen else own.clone()
        seen.add(address)
    try:
        save_file(state, path, metadata={"format": "pt"})
    except SafetensorError as error:
        # Its own type also for a full disk, with the system's number in the text only.
        raise OSError(28 if "code: 28" in str(error) else 5, str(error)) from error
