"""What a stranger gets: the wheel's contents, what importing costs, the public names, the fixed top level."""

import ast
import importlib.util
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import genmad

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")

ROOT = Path(__file__).resolve().parent.parent
MAPPED_FOLDERS = ("configs", "sampling", "tokenizer", "training")
TOP_LEVEL = {"pyproject.toml", "genmad", "tokenizer", "training", "sampling", "tests", "configs", "README.md"}
DATA_SUFFIXES = {".safetensors", ".json", ".model", ".yaml", ".txt", ".md"}
HEAVY = {
    "torch",
    "numpy",
    "onnx",
    "onnx_ir",
    "onnxruntime",
    "transformers",
    "datasets",
    "accelerate",
    "torch_geometric",
}
PUBLIC_NAMES = {"__version__", "load", "Architecture", "Graph", "GraphBuilder", "GraphDelta"}


def run_python(code: str, *, cwd: Path, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh, isolated interpreter that finds genmad under `path` first (else under `cwd`)."""
    prelude = f"import sys; sys.path.insert(0, {str(path or cwd)!r})\n"
    command = [sys.executable, "-I", "-c", prelude + code]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120, check=False)


def installed_path(path: Path) -> str:
    """Where a file of the clone lies in the wheel."""
    relative = path.relative_to(ROOT)
    return str(Path("genmad", relative) if relative.parts[0] in MAPPED_FOLDERS else relative)


def source_files() -> list[Path]:
    """Every code and data file that belongs in the wheel."""
    folders = ("genmad", *MAPPED_FOLDERS)
    files = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file()]
    return [path for path in files if path.suffix in DATA_SUFFIXES | {".py"} and "__pycache__" not in path.parts]


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy so that no build/ or egg-info appears in the clone and no stale one is packed."""
    source = tmp_path_factory.mktemp("source")
    for name in ("genmad", *MAPPED_FOLDERS):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, source / name)
    code = "from setuptools import build_meta; build_meta.build_wheel('dist')"
    built = subprocess.run([sys.executable, "-c", code], cwd=source, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr[-2000:]
    return next((source / "dist").glob("genmad-*.whl"))


@pytest.fixture(scope="session")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel unpacked, as a site-packages folder would hold it."""
    folder = tmp_path_factory.mktemp("site")
    zipfile.ZipFile(wheel).extractall(folder)
    return folder


def test_the_package_list_names_every_folder_with_code() -> None:
    """`packages` is explicit, so a new room missing from it would work in a clone and be absent once installed."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    folders = {Path(installed_path(path)).parent for path in source_files() if path.suffix == ".py"}
    assert sorted(project["tool"]["setuptools"]["packages"]) == sorted(".".join(folder.parts) for folder in folders)


def test_every_package_has_an_init() -> None:
    bare = {
        path.parent for path in source_files() if path.suffix == ".py" and not (path.parent / "__init__.py").exists()
    }
    assert not bare, f"folders with code and no __init__.py: {sorted(map(str, bare))}"


def test_the_wheel_holds_every_source_and_data_file(wheel: Path) -> None:
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert packed == {installed_path(path) for path in source_files()}


def test_the_wheel_installs_one_top_level_name(wheel: Path) -> None:
    """A bare `tokenizer` would overwrite the unrelated PyPI package of that name."""
    tops = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"genmad"}


@pytest.mark.parametrize("start_in_clone", [True, False])
def test_the_installed_rooms_import_from_anywhere(site: Path, tmp_path: Path, start_in_clone: bool) -> None:
    code = (
        "import genmad, genmad.tokenizer, genmad.training, genmad.training.objectives, genmad.sampling\n"
        "from importlib.resources import files\n"
        "assert (files('genmad.configs') / 'constraints.txt').is_file()\n"
        "print(genmad.tokenizer.__file__)"
    )
    done = run_python(code, cwd=ROOT if start_in_clone else tmp_path, path=site)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).is_relative_to(site)


def test_a_bare_clone_finds_the_mapped_rooms() -> None:
    code = "import genmad.tokenizer, genmad.training, genmad.sampling, genmad.configs; print(genmad.tokenizer.__file__)"
    done = run_python(code, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(ROOT / "tokenizer" / "__init__.py")


@pytest.mark.parametrize("folder", ["tokenizer", "training", "sampling"])
def test_a_room_refuses_its_bare_name(folder: str) -> None:
    """A second copy under another name would hold classes that fail isinstance."""
    done = run_python(f"import {folder}", cwd=ROOT)
    assert done.returncode == 1
    assert f"ImportError: this folder is the package genmad.{folder}" in done.stderr


@pytest.mark.parametrize("module", ["genmad", "genmad.ir", "genmad.ops", "genmad.cli"])
def test_importing_loads_nothing_heavy_and_prints_nothing(module: str) -> None:
    code = f"import {module}, sys; print(sorted({HEAVY!r} & set(sys.modules)))"
    done = run_python(code, cwd=ROOT)
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")


def test_the_public_names_are_these() -> None:
    assert set(genmad.__all__) == PUBLIC_NAMES
    assert set(dir(genmad)) >= PUBLIC_NAMES
    with pytest.raises(AttributeError, match="has no attribute 'lod'; its public names are Architecture, "):
        genmad.lod  # noqa: B018 (the lookup is the test)


@pytest.mark.parametrize("name", sorted(PUBLIC_NAMES))
def test_each_public_name_resolves(name: str) -> None:
    if name in ("load", "Architecture") and importlib.util.find_spec("genmad.session") is None:
        pytest.skip("genmad.session is not written yet")
    assert getattr(genmad, name) is not None


def test_the_version_is_a_literal_that_the_wheel_carries(wheel: Path) -> None:
    """setuptools reads it without importing the package only while it is a plain literal."""
    tree = ast.parse((ROOT / "genmad" / "__init__.py").read_text(encoding="utf-8"))
    literals = [
        ast.literal_eval(n.value) for n in tree.body if isinstance(n, ast.Assign) and n.targets[0].id == "__version__"
    ]
    assert literals == [genmad.__version__]
    assert wheel.name.startswith(f"genmad-{genmad.__version__}-")


def test_the_top_level_is_fixed() -> None:
    """Visible entries that git tracks or would track; what .gitignore names (build/, edited/) is not counted."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    visible = {line.split("/")[0] for line in listed if not line.startswith(".") and (ROOT / line).exists()}
    assert visible == TOP_LEVEL
