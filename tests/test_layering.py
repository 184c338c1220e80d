"""The module map as data, and every import of the source tree held against it.

Guards the bug that rots a layered code base: one convenient import upwards, after which nothing can be read, tested or
loaded alone. Names count as imports whether they are written as statements, inside functions, under TYPE_CHECKING, or
as the text given to `import_module`.
"""

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MAPPED_FOLDERS = ("configs", "sampling", "tokenizer", "training")

# An import may point only to a lower row, or inside its own room. Rooms on one row never import each other.
# A room is a tuple of module prefixes; the Python API (session and what it reports) is one room of six files.
SESSION_ROOM = (
    "genmad.session", "genmad.report", "genmad.comparison", "genmad.diff", "genmad.inspection", "genmad.recipe",
)  # fmt: skip
ROWS: tuple[tuple[float, tuple[tuple[str, ...], ...]], ...] = (
    (8, (("genmad",),)),  # the lazy public names; holds __version__
    (7, (("genmad.cli",), ("genmad.web",))),
    (6.5, (SESSION_ROOM,)),
    (6, (("genmad.agent",), ("genmad.evals",))),
    (5, (("genmad.training",), ("genmad.sampling",), ("genmad.autobuild",), ("genmad.search",))),
    (4, (("genmad.model",), ("genmad.conditioning",), ("genmad.spaces",), ("genmad.intents",))),
    (3.5, (("genmad.zoo",),)),
    (3, (("genmad.tokenizer",), ("genmad.validate",), ("genmad.data",))),
    (2, (("genmad.cost",), ("genmad.lowering",), ("genmad.importers",))),
    (1, (("genmad.ops",),)),
    (0, (("genmad.ir",),)),
    (-1, (("genmad.checkpoints", "genmad.configs"),)),  # data: anyone may read it
)
ROOM_OF = {prefix: room for _, rooms in ROWS for room in rooms for prefix in room}
ROW_OF = {prefix: row for row, rooms in ROWS for room in rooms for prefix in room}

# The prompt path may never see the programmatic edits that made the corpus: an edit must come from the model.
PROMPT_PATH = ("genmad.sampling", *SESSION_ROOM, "genmad.cli")
KEPT_APART = "genmad.intents"
# `genmad eval` measures with the intents' post-conditions, so this one edge is not followed; see the test of it.
EVAL_DOOR = ("genmad.cli", "genmad.evals")

DOTTED_NAME = re.compile(r"genmad(\.[A-Za-z_]\w*)+\.?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Import:
    """One import: `importer` (a module) names `target` (a module) at `line`; `at_top` if it runs on import."""

    importer: str
    target: str
    line: int
    at_top: bool

    def __str__(self) -> str:
        return f"{self.importer}:{self.line} imports {self.target}"


def module_names(root: Path) -> dict[str, Path]:
    """Every module of the source tree under its installed name."""
    files = [(path, path.relative_to(root)) for path in (root / "genmad").rglob("*.py")]
    files += [
        (path, Path("genmad") / path.relative_to(root)) for top in MAPPED_FOLDERS for path in (root / top).rglob("*.py")
    ]
    return {".".join(rel.with_suffix("").parts).removesuffix(".__init__"): path for path, rel in files}


def prefixes(module: str) -> Iterator[str]:
    """`a.b.c`, `a.b`, `a`."""
    parts = module.split(".")
    return (".".join(parts[:n]) for n in range(len(parts), 0, -1))


def home(module: str) -> str | None:
    """The row prefix a module belongs to; a module of no listed room (`genmad.stray`) has none."""
    for prefix in prefixes(module):
        if prefix in ROW_OF and (prefix != "genmad" or module == "genmad"):
            return prefix
    return None


def imports_in(source: str, importer: str, *, is_package: bool, modules: frozenset[str]) -> Iterator[Import]:
    """Every import in a source text, absolute or relative, by statement or by dotted name in a string."""
    tree = ast.parse(source)
    lazy = {
        id(child)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.walk(node)
    }
    for node in ast.walk(tree):
        for target in targets_of(node, importer, is_package=is_package, modules=modules):
            yield Import(importer=importer, target=target, line=node.lineno, at_top=id(node) not in lazy)


def targets_of(node: ast.AST, importer: str, *, is_package: bool, modules: frozenset[str]) -> Iterator[str]:
    """The modules one syntax node names."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            package = importer.split(".") if is_package else importer.split(".")[:-1]
            base = ".".join([*package[: len(package) - node.level + 1], *filter(None, [base])])
        for alias in node.names:
            submodule = f"{base}.{alias.name}"
            if submodule in modules:
                yield submodule
            elif (base, alias.name) != ("genmad", "__version__"):
                yield base
    elif isinstance(node, ast.Constant) and isinstance(node.value, str) and DOTTED_NAME.fullmatch(node.value):
        name = node.value.rstrip(".")
        if name in modules:
            yield name


def imports_of_tree(root: Path) -> list[Import]:
    files = module_names(root)
    modules = frozenset(files)
    return [
        found
        for module, path in sorted(files.items())
        for found in imports_in(
            path.read_text(encoding="utf-8"), module, is_package=path.name == "__init__.py", modules=modules
        )
    ]


def complaint(found: Import) -> str | None:
    """Why an import breaks the map, or None."""
    top = found.target.split(".")[0]
    if top in MAPPED_FOLDERS:
        return f"{found}: write genmad.{found.target}"
    if top != "genmad":
        return None
    source, target = home(found.importer), home(found.target)
    if source is None or target is None:
        stray = found.importer if source is None else found.target
        return f"{found}: {stray} is in no room of the module map; add it to ROWS or move it into a room"
    if ROOM_OF[source] == ROOM_OF[target] or ROW_OF[target] < ROW_OF[source]:
        return None
    return f"{found}: row {ROW_OF[source]:g} may not import row {ROW_OF[target]:g}; pass a function instead"


def reach(start: str, edges: dict[str, set[str]]) -> dict[str, str | None]:
    """Every module that importing `start` and calling into it can load, with the importer it is reached from."""
    came_from: dict[str, str | None] = {start: None}
    queue = [start]
    while queue:
        module = queue.pop()
        for target in sorted(edges.get(module, ())):
            cut = (home(module), home(target)) == EVAL_DOOR
            if target not in came_from and not cut:
                came_from[target] = module
                queue.append(target)
    return came_from


def chain(module: str, came_from: dict[str, str | None]) -> str:
    """`a <- b <- c`, for the message."""
    steps = [module]
    while (before := came_from[steps[-1]]) is not None:
        steps.append(before)
    return " <- ".join(steps)


def intents_reached(imports: list[Import], modules: frozenset[str]) -> list[str]:
    """How each module of the prompt path reaches the intents, if it does."""
    edges: dict[str, set[str]] = {}
    for found in imports:
        # Importing a.b.c runs a and a.b too; `genmad` itself is lazy, so what it names is not loaded by that.
        edges.setdefault(found.importer, set()).update(p for p in prefixes(found.target) if p not in ("genmad", ""))
    starts = [m for m in sorted(modules) if any(p in PROMPT_PATH for p in prefixes(m))]
    return [
        chain(target, came_from)
        for start in starts
        for came_from in [reach(start, edges)]
        for target in came_from
        if KEPT_APART in prefixes(target)
    ]


TREE = imports_of_tree(ROOT)


def test_every_import_points_down_or_stays_in_its_room() -> None:
    assert ("genmad", "genmad.ir") in {(found.importer, found.target) for found in TREE}, (
        "the walk found no source tree"
    )
    problems = [text for found in TREE if (text := complaint(found))]
    assert not problems, "\n".join(problems)


def test_every_module_has_a_room() -> None:
    strays = [module for module in module_names(ROOT) if home(module) is None]
    assert not strays, f"in no room of the module map: {strays}"


def test_ir_needs_only_the_standard_library() -> None:
    allowed = sys.stdlib_module_names | {"genmad"}
    problems = [
        str(found)
        for found in TREE
        if home(found.importer) == "genmad.ir" and found.target.split(".")[0] not in allowed
    ]
    assert not problems, "\n".join(problems)


def test_the_model_never_sees_a_graph() -> None:
    problems = [str(f) for f in TREE if home(f.importer) == "genmad.model" and home(f.target) == "genmad.ir"]
    assert not problems, "\n".join(problems)


def test_the_prompt_path_never_reaches_the_intents() -> None:
    """An `edit` that could look up the programmatic edit would be a rule table posing as the trained model."""
    paths = intents_reached(TREE, frozenset(module_names(ROOT)))
    assert not paths, "\n".join(paths)


def test_the_eval_command_loads_evals_only_when_run() -> None:
    """The one cut edge of the test above: at import time it would put the intents into every `genmad edit` process."""
    eager = [str(f) for f in TREE if f.at_top and (home(f.importer), home(f.target)) == EVAL_DOOR]
    assert not eager, "\n".join(eager)


# The checks above pass on a clean tree, so each rule is also shown a line that breaks it.

MODULES = frozenset({"genmad", *ROW_OF, "genmad.tokenizer.vocab", "genmad.cli.edit", "genmad.stray"})


def imports_of(source: str, importer: str, *, is_package: bool = False) -> list[Import]:
    return list(imports_in(source, importer, is_package=is_package, modules=MODULES))


@pytest.mark.parametrize(
    ("importer", "source", "message"),
    [
        ("genmad.ir.graph", "import genmad.ops", "row 0 may not import row 1"),
        ("genmad.ops.conv", "def f():\n    from genmad.cost import report", "row 1 may not import row 2"),
        ("genmad.tokenizer.vocab", "from genmad.validate import Level", "row 3 may not import row 3"),
        ("genmad.training.loop", "from ..sampling import Sampler", "row 5 may not import row 5"),
        ("genmad.evals.edits", "import_module('genmad.session')", "row 6 may not import row 6.5"),
        ("genmad.data.corpus", "import_module(f'genmad.cli.{name}')", "row 3 may not import row 7"),
        ("genmad.model.batch", "from genmad import load", "row 4 may not import row 8"),
        ("genmad.cli.edit", "from tokenizer import Vocab", "write genmad.tokenizer"),
        ("genmad.cli.edit", "from genmad import stray", "in no room of the module map"),
    ],
)
def test_an_import_that_breaks_the_map_is_named(importer: str, source: str, message: str) -> None:
    complaints = [complaint(found) for found in imports_of(source, importer)]
    assert any(message in (text or "") for text in complaints), complaints


@pytest.mark.parametrize(
    ("importer", "source"),
    [
        ("genmad.ops.conv", "from genmad.ir import OpDef"),
        ("genmad.report", "from genmad import __version__"),
        ("genmad.session", "from genmad.report import Report"),
        ("genmad.report", "import genmad.session"),
        ("genmad.cli.edit", "from . import main\nfrom ..session import load"),
        ("genmad.training.loop", "from genmad.training.objectives import masked_op"),
        ("genmad.ir.graph", "MESSAGE = 'see genmad.cli for the command'"),
    ],
)
def test_an_import_that_keeps_the_map_passes(importer: str, source: str) -> None:
    assert [complaint(found) for found in imports_of(source, importer)] == [None] * len(imports_of(source, importer))


@pytest.mark.parametrize("start", ["genmad.sampling.decode", "genmad.session", "genmad.cli.edit"])
def test_the_intents_are_found_through_other_rooms(start: str) -> None:
    imports = [
        *imports_of("from genmad.conditioning import Condition", start),
        *imports_of("def f():\n    import genmad.intents", "genmad.conditioning"),
    ]
    assert intents_reached(imports, frozenset({start})) == [f"genmad.intents <- genmad.conditioning <- {start}"]


def test_only_the_command_line_may_pass_through_evals() -> None:
    through = imports_of("import genmad.intents", "genmad.evals.edits")
    session = imports_of("import genmad.evals.edits", "genmad.session")
    command = imports_of("import genmad.evals.edits", "genmad.cli.eval")
    assert intents_reached(through + session, frozenset({"genmad.session"}))
    assert not intents_reached(through + command, frozenset({"genmad.cli.eval"}))
