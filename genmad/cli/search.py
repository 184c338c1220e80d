"""`genmad search`: look for a good member of a space with few queries of a label table."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from genmad.cli.generate import Data, Generator, Seed, SpaceName
from genmad.cli.options import Json
from genmad.cli.output import Progress, emit_json, quiet_stdout, show

if TYPE_CHECKING:
    from genmad.spaces import LabelTable, Space

# The column of a space's own table that is meant without --target.
TARGETS = {"nb201": "c10_test", "nb101": "val_ep108"}


def search(
    space: SpaceName = "nb201",
    target: Annotated[
        str | None,
        typer.Option("--target", help="Column of the label table: c10_test, val_ep108 (nb101).", metavar="COLUMN"),
    ] = None,
    data: Data = None,
    queries: Annotated[int, typer.Option("--queries", help="Most labels to ask for.", metavar="N", min=1)] = 100,
    reach: Annotated[float | None, typer.Option("--reach", help="Stop at this label.", metavar="X")] = None,
    minimize: Annotated[bool, typer.Option("--minimize", help="The label is to be low.")] = False,
    method: Annotated[
        str, typer.Option("--method", help="generator, random, evolution, local or bananas.", metavar="NAME")
    ] = "generator",
    model: Generator = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> int:
    """Look for a good member: the generator proposes, a predictor learned from what was asked picks."""
    begin = time.perf_counter()
    with quiet_stdout(as_json), Progress().running("loading") as progress:
        from genmad.search.methods import METHODS
        from genmad.spaces import get_space

        if method not in METHODS:
            raise _usage("--method", method, f"one of {', '.join(METHODS)}", "leave it out for generator")
        where = get_space(space)
        target = target or TARGETS.get(where.name, "")
        progress.phase("searching")
        history = _run(where, read_table(where, data), target, queries, reach, method, model, seed, minimize=minimize)
    sign = -1 if minimize else 1
    labels = [sign * label for label in history.labels]
    best = max(range(len(labels)), key=lambda i: sign * labels[i])
    found: dict[str, Any] = {
        "status": "ok", "space": where.name, "method": method, "target": target, "seed": seed, "queries": len(labels),
        "best": labels[best], "best_at": best + 1, "encoding": where.to_text(history.words[best]),
        "reached": reach is not None and sign * labels[best] >= sign * reach,
        "restricted_to": None if history.listed is None else len(history.listed.words),
        "seconds": round(time.perf_counter() - begin, 2),
    }  # fmt: skip
    if as_json:
        rows = zip(history.words, labels, strict=True)
        emit_json(found | {"history": [{"encoding": where.to_text(w), "label": label} for w, label in rows]})
    else:
        if history.listed is not None:
            show(
                f"only the {len(history.listed.words):,} members of the table can be queried: all proposals are of them"
            )
        show(f"best {target} {labels[best]:g} at query {best + 1} of {len(labels)}: {found['encoding']}")
    return 0


def read_table(space: Space, data: str | None) -> LabelTable:
    """The label table of a space. Raises `UsageError` where there is none."""
    from genmad.spaces.tables import data_folder

    folder = data_folder(data)
    table = None if folder is None else space.read_labels(folder)
    if table is None:
        raise _usage("--data", f"no label table of {space.name}", "a folder that holds it", "--data FOLDER")
    return table


def _run(
    space: Space, table: LabelTable, target: str, queries: int, reach: float | None, method: str, model: str | None,
    seed: int, *, minimize: bool,
) -> Any:  # fmt: skip
    import numpy as np

    from genmad.sampling.pools import UniformLaw, load_law
    from genmad.sampling.pools.law_draws import law_draw
    from genmad.search.methods import METHODS, History, Listed, table_query

    law = UniformLaw() if model == "uniform" else load_law(space, model)
    sign = -1.0 if minimize else 1.0

    listed = Listed.of(space, table, target)
    history = History(
        space=space, query=table_query(table, target, sign, space), budget=queries, listed=listed,
        stop=np.inf if reach is None else sign * reach,
    )  # fmt: skip
    draw = law_draw(space, law, None if listed is None else listed.words)
    METHODS[method](history, np.random.default_rng((seed, 7)), draw)
    return history


def _usage(where: str, got: str, expected: str, fix: str = "") -> Exception:
    from genmad.ir.diagnostics import Diagnostic
    from genmad.report import UsageError

    return UsageError(Diagnostic(where=where, got=got, expected=expected, fix=fix))
