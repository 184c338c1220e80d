"""`genmad check`: the validity levels of a model or a file."""

from __future__ import annotations

from typing import Annotated

import typer

from genmad.cli.options import Inputs, Json, Model, load_model
from genmad.cli.output import Progress, emit_json, quiet_stdout, show


def check(
    model: Model,
    level: Annotated[
        int, typer.Option("--level", help="Highest level to check (1 to 5).", metavar="N", min=1, max=5)
    ] = 5,
    inputs: Inputs = None,
    as_json: Json = False,
) -> int:
    """Check that a model is well-formed, typed, within budget, valid ONNX and executable; or every row of a pool."""
    if model.endswith(".parquet"):
        if inputs or level != 5:
            raise _no_pool_option("--input" if inputs else "--level", model)
        return _check_pool(model, as_json=as_json)
    from genmad.report import require_valid

    with quiet_stdout(as_json), Progress().running("loading") as progress:
        loaded = load_model(model, inputs, weights=False, progress=progress)
        report = loaded.check(level)
    require_valid(report)
    found = report.to_json()
    if as_json:
        emit_json({"status": "ok", "source": loaded.source, "validity": found})
        return 0
    show(*(f"level {item['level']} {item['name']}: passed" for item in found["checks"]))
    show(f"level {found['level']} of 5 passed")
    return 0


def _no_pool_option(name: str, path: str) -> Exception:
    from genmad.ir.diagnostics import Diagnostic
    from genmad.report import UsageError

    got, fix = f"it for {path}, a pool", f"leave {name} out"
    return UsageError(Diagnostic(where=name, got=got, expected="it for a model only", fix=fix))


def _check_pool(path: str, *, as_json: bool) -> int:
    """Every row by the rules of its space, its hash and costs recounted, repeats named. Exit code 5 on a problem."""
    from pathlib import Path

    with quiet_stdout(as_json), Progress().running(f"checking {path}"):
        from genmad.cli.generate_like import check_rows
        from genmad.sampling.pools.pool_file import pool_problems, read_pool

        rows = read_pool(Path(path), graphs=True)
        problems = list(check_rows(rows) if rows and "graph" in rows[0] else pool_problems(rows))
    if as_json:
        status = "invalid" if problems else "ok"
        emit_json({"status": status, "source": path, "n": len(rows), "num_problems": len(problems),
                   "problems": problems[:100]})  # fmt: skip
    else:
        show(*problems[:20], *([f"... and {len(problems) - 20} more"] if len(problems) > 20 else []))
        show(f"{len(rows):,} rows: {'all members, no repeats' if not problems else f'{len(problems):,} problems'}")
    return 5 if problems else 0
