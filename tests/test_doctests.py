"""The examples in docstrings run and print what they say."""

import doctest
import importlib
import pkgutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import genmad

# In a clone these stand beside genmad/, where `genmad.__path__` also shows folders that are no part of it.
ROOMS_BESIDE = ("sampling", "tokenizer", "training")


def modules_under(folder: Path, name: str) -> Iterator[tuple[str, Path]]:
    """Full name and file of a package and of all modules in it, without importing any."""
    yield name, folder / "__init__.py"
    for info in pkgutil.iter_modules([str(folder)]):
        if info.ispkg:
            yield from modules_under(folder / info.name, f"{name}.{info.name}")
        else:
            yield f"{name}.{info.name}", folder / f"{info.name}.py"


def modules_with_examples() -> list[str]:
    """Names of the modules whose text holds a prompt; only these are imported."""
    home = Path(genmad.__file__).parent
    found = dict(modules_under(home, "genmad"))
    for room in ROOMS_BESIDE:
        folder = next(Path(path) / room for path in genmad.__path__ if (Path(path) / room).is_dir())
        found |= dict(modules_under(folder, f"genmad.{room}"))
    return sorted(name for name, file in found.items() if ">>> " in file.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", modules_with_examples())
def test_examples_print_what_they_say(name: str) -> None:
    module = importlib.import_module(name)
    tests = doctest.DocTestFinder(exclude_empty=True).find(module, name)
    assert any(test.examples for test in tests), f"{name}: a prompt in the text, but no example that doctest finds"
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    report: list[str] = []
    for test in tests:
        runner.run(test, out=report.append)
    assert not runner.failures, "".join(report)
