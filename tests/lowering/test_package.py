"""A hand-over is written whole or not at all, and --force never touches files that are not its own."""

from pathlib import Path

import pytest
import torch

from genmad.lowering.package import OutputError, Writer, check_target, save_safetensors, write_files


def text(content: str) -> Writer:
    def write(path: Path) -> None:
        path.write_text(content)

    return write


def full_disk(path: Path) -> None:
    path.write_text("half")
    raise OSError(28, "No space left on device")


def entries(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_a_folder_appears_with_all_its_files(tmp_path: Path) -> None:
    write_files(tmp_path / "a" / "out", {"model.py": text("x"), "report.json": text("{}")})
    assert entries(tmp_path) == {"a", "a/out", "a/out/model.py", "a/out/report.json"}


@pytest.mark.parametrize("target", ["out", "new/out", "out.onnx", "new/out.onnx"])
def test_a_full_disk_leaves_nothing(tmp_path: Path, target: str) -> None:
    with pytest.raises(OutputError, match=r"No space left on device.*nothing was written; free some space"):
        write_files(tmp_path / target, {"model.py": text("x"), "model.onnx": full_disk})
    assert entries(tmp_path) == set()


def test_any_error_of_a_writer_leaves_nothing(tmp_path: Path) -> None:
    def broken(path: Path) -> None:
        path.write_text("half")
        raise KeyError("bug")

    with pytest.raises(KeyError, match="bug"):
        write_files(tmp_path / "new" / "out", {"model.py": text("x"), "model.onnx": broken})
    assert entries(tmp_path) == set()


def test_a_folder_in_use_needs_force_and_keeps_what_is_not_ours(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    (tmp_path / "model.onnx.data").write_text("of an older hand-over")
    (tmp_path / "model.py").write_text("old")
    writers = {"model.py": text("new"), "report.json": text("{}")}
    with pytest.raises(OutputError, match="a folder that is not empty; expected an empty or new folder; use --force"):
        write_files(tmp_path, writers)
    write_files(tmp_path, writers, force=True)
    assert entries(tmp_path) == {"mine.txt", "model.py", "report.json"}
    assert (tmp_path / "model.py").read_text() == "new"


def test_a_failure_under_force_leaves_the_old_files(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text("old")
    with pytest.raises(OutputError):
        write_files(tmp_path, {"model.py": text("new"), "model.onnx": full_disk}, force=True)
    assert entries(tmp_path) == {"model.py"}
    assert (tmp_path / "model.py").read_text() == "old"


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    write_files(tmp_path / "out", {"model.py": text("x")})
    assert entries(tmp_path) == {"out", "out/model.py"}


def test_a_single_file_stands_beside_its_neighbours(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    write_files(tmp_path / "x.onnx", {"x.onnx": text("x"), "x.report.json": text("{}")})
    assert entries(tmp_path) == {"mine.txt", "x.onnx", "x.report.json"}
    with pytest.raises(OutputError, match="a file that exists; expected a new file; use --force"):
        check_target(tmp_path / "x.onnx", force=False)


@pytest.mark.parametrize("name", ["file/out", "file/out.onnx", "file"])
def test_a_target_below_or_on_a_file_is_refused_early(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError):
        check_target(tmp_path / name, force=True)


def test_weights_are_read_back_equal_also_tied_ones_and_views(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    base = torch.randn(4, 6)
    weights = {"a": base, "tied": base, "view": base[1:3], "turned": base.T}
    save_safetensors(weights, tmp_path / "w.safetensors")
    found = load_file(tmp_path / "w.safetensors")
    assert all(torch.equal(found[name], tensor) for name, tensor in weights.items())
