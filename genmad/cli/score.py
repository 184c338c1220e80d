"""`genmad score`, `reduce` and `build`: which modules matter, the space that they leave, and what they make."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from genmad.cli.options import Force, Json
from genmad.cli.output import Progress, emit_json, quiet_stdout, show, warn

if TYPE_CHECKING:
    from genmad.autobuild.labels import Labels

SpaceName = Annotated[
    str | None, typer.Option("--space", help="Search space, where the file does not name it.", metavar="NAME")
]
Scores = Annotated[Path, typer.Argument(help="A folder that genmad score wrote.", metavar="SCORES", show_default=False)]
TopK = Annotated[int, typer.Option("--top-k", help="Modules kept per stage.", metavar="K", min=1)]
Constrained = Annotated[bool, typer.Option("--constrained", help="Every number of layers has its share of K.")]


def score(
    pool: Annotated[
        Path,
        typer.Argument(help="A pool of genmad generate, or a .csv of encodings with labels.", metavar="POOL",
                       show_default=False),
    ],
    labels: Annotated[
        Path | None, typer.Option("--labels", help="A .csv: hash or encoding, and targets.", metavar="FILE")
    ] = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="The folder to write.", metavar="FOLDER")] = Path(
        "scores"
    ),
    space: SpaceName = None,
    target: Annotated[
        str | None,
        typer.Option("--target", help="A column, or arithmetic of columns such as 'acc/log10(lat)'.", metavar="TEXT"),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="The same seed gives the same scores.", metavar="N", min=0)] = 0,
    epochs: Annotated[int, typer.Option("--epochs", help="Passes over the labels.", metavar="N", min=1)] = 200,
    folds: Annotated[
        int, typer.Option("--folds", help="Predictors: each leaves out another part of the labels.", metavar="N", min=2)
    ] = 5,
    shift: Annotated[
        str | None,
        typer.Option("--shift", help="Scores of modules: labels, normalised or context.",
                     metavar="NAME"),
    ] = None,
    force: Force = False,
    as_json: Json = False,
) -> int:  # fmt: skip
    """Learn from measured architectures which modules, nodes and features matter."""
    begin = time.perf_counter()
    if shift is not None:
        _check_choice("--shift", shift, ("labels", "normalised", "context"))
    with quiet_stdout(as_json), Progress().running("reading") as progress:
        from genmad.autobuild.score_folder import check_output, write_scores
        from genmad.autobuild.scoring import ScoreSettings, score_labels

        check_output(output, force=force)
        found = _read(pool, labels, space, target)
        settings = ScoreSettings(seed=seed, epochs=epochs, folds=folds, shift=shift)
        scored = score_labels(found, settings, progress.phase)
        progress.phase("writing")
        summary = write_scores(scored, output, force=force)
    summary = {"status": "ok", **summary, "path": str(output), "seconds": round(time.perf_counter() - begin, 2)}
    for note in found.notes:
        warn(f"NOTE: {note}")
    if as_json:
        emit_json(summary)
    else:
        show(*_score_lines(summary))
    return 0


def reduce(
    scores: Scores,
    output: Annotated[Path, typer.Option("-o", "--output", help="The reduced space, YAML.", metavar="FILE")] = Path(
        "space.yaml"
    ),
    top_k: TopK = 3,
    constrained: Constrained = False,
    force: Force = False,
    as_json: Json = False,
) -> int:
    """Keep the best modules of every stage: a smaller search space, with its exact size."""
    _check_file(output, (".yaml", ".yml"), force=force)
    with quiet_stdout(as_json), Progress().running("reading"):
        from genmad.autobuild.reduced import reduce_space, write_reduced
        from genmad.autobuild.score_reading import read_scores

        read = read_scores(scores, with_predictors=False)
        reduced = reduce_space(
            read.encoding, read.stages, top_k=top_k, constrained=constrained, target=read.target
        )  # fmt: skip
        write_reduced(reduced, output)
    counts = [len(modules) for _, modules in reduced.stages]
    summary: dict[str, Any] = {
        "status": "ok", "space": reduced.space, "path": str(output), "target": reduced.target, "top_k": top_k,
        "constrained": constrained, "modules": counts, "size": reduced.size, "size_of_box": reduced.size_of_box,
        "size_of_space": reduced.size_of_space,
    }  # fmt: skip
    if as_json:
        emit_json(summary)
        return 0
    lines = [
        f"{' x '.join(map(str, counts))} modules: {reduced.size:,} of {reduced.size_of_space:,} architectures of "
        f"{reduced.space}"
    ]
    for name, modules in reduced.stages:
        lines += [name, *(f"  {value:10.5g}  {text}" for text, value in modules[:5])]
        lines += [f"  and {len(modules) - 5} more"] if len(modules) > 5 else []
    if reduced.size_of_box is not None:
        lines.append(f"their choices step by step allow {reduced.size_of_box:,} architectures")
    show(*lines, f"wrote {output}")
    return 0


def build(
    scores: Scores,
    output: Annotated[Path, typer.Option("-o", "--output", help="The pool, a .parquet file.", metavar="FILE")] = Path(
        "built.parquet"
    ),
    top_k: TopK = 2,
    n: Annotated[int, typer.Option("-n", "--n", help="How many architectures.", metavar="N", min=1)] = 10,
    constrained: Constrained = False,
    by: Annotated[
        str, typer.Option("--by", help="Rank by `predicted`, or by the sum of module `score`s.", metavar="NAME")
    ] = "predicted",
    novel: Annotated[bool, typer.Option("--novel", help="Leave out what was labelled.")] = False,
    force: Force = False,
    as_json: Json = False,
) -> int:
    """Put the best modules of every stage together, without a search."""
    _check_file(output, (".parquet",), force=force)
    _check_choice("--by", by, ("predicted", "score"))
    begin = time.perf_counter()
    with quiet_stdout(as_json), Progress().running("reading") as progress:
        from genmad.autobuild.construction import build as put_together
        from genmad.autobuild.score_reading import read_scores

        read = read_scores(scores)
        progress.phase("building")
        built = put_together(
            read.encoding, read.stages, read.predict, top_k=top_k, n=n, constrained=constrained, by=by,
            exclude=read.labelled if novel else (),
        )  # fmt: skip
        _write_pool(read, built, output, {"scores": str(scores), "top_k": top_k, "constrained": constrained, "by": by})
    known = set(read.encoding.keys(read.labelled))
    rows = [
        {"encoding": each.text, "predicted": each.predicted, "score": each.score, "labelled": key in known}
        for each, key in zip(built, read.encoding.keys([each.text for each in built]), strict=True)
    ]
    if as_json:
        emit_json({
            "status": "ok", "space": read.encoding.name, "target": read.target, "path": str(output), "n": len(built),
            "best_labelled": read.best, "seconds": round(time.perf_counter() - begin, 2), "architectures": rows,
        })  # fmt: skip
        return 0
    show(f"{len(built)} architectures of {read.encoding.name} for {read.target}; best label so far {read.best:.5g}")
    for row in rows[:20]:
        show(f"  {row['predicted']:10.5g}  {row['encoding']}{'  (labelled)' if row['labelled'] else ''}")
    show(f"wrote {output}")
    return 0


def _read(pool: Path, labels: Path | None, space: str | None, target: str | None) -> Labels:
    """The labels of a pool, or of a table alone."""
    from genmad.autobuild.labels import read_labels

    if pool.suffix == ".parquet":
        if labels is None:
            raise _usage(
                "--labels", f"{pool} alone", "what was measured", "--labels acc.csv (hash or encoding, target)"
            )
        from genmad.sampling.pools.pool_file import read_pool

        return read_labels(labels, space=space, pool=read_pool(pool), target=target)
    if labels is not None:
        got = f"{pool}, which is no .parquet pool, and {labels}"
        raise _usage("--labels", got, "one table with encodings and labels", f"genmad score {labels} --space NAME")
    return read_labels(pool, space=space, target=target)


def _write_pool(read: Any, built: Any, output: Path, request: dict[str, Any]) -> None:
    """Architectures as a pool, best first; of a registered space with its costs, so that genmad check accepts it."""
    import json

    import numpy as np
    import pyarrow as pa

    from genmad.sampling.pools.drawing import Drawn
    from genmad.sampling.pools.pool_file import Extras, table_of, write_pool

    provenance = {**request, "space": read.encoding.name, "target": read.target, "model": "autobuild"}
    predicted = np.array([each.predicted for each in built])
    space = read.encoding.space
    if space is not None:
        words = np.array([space.from_text(each.text) for each in built], np.int16)
        nothing = np.full(len(words), np.nan)
        drawn = Drawn(
            words=words, log_likelihood=nothing, fingerprints=space.fingerprints(words), num_draws=len(words)
        )  # fmt: skip
        table = table_of(space, drawn, Extras(score=predicted, provenance=provenance))
    else:
        texts = [each.text for each in built]
        table = pa.table({
            "space": [read.encoding.name] * len(texts), "encoding": texts, "score": predicted,
            "provenance": [json.dumps(provenance, sort_keys=True)] * len(texts),
        })  # fmt: skip
    table = table.append_column("module_score", pa.array([each.score for each in built]))
    write_pool(table, output)


def _score_lines(summary: dict[str, Any]) -> list[str]:
    lines = [
        f"{summary['labels']:,} labelled architectures of {summary['space']}, target {summary['target']}: "
        f"{summary['members']} predictors",
        "rank correlation on held-out labels: "
        + ", ".join(f"{name} {mean:.3f}" for name, (mean, _) in summary["correlations"].items()),
    ]
    for stage in summary["stages"]:
        lines.append(f"{stage['name']}: best of {stage['modules']:,} modules: {stage['best']}")
    return [*lines, f"wrote {summary['path']}/ ({summary['seconds']:.1f} s)"]


def _check_file(output: Path, suffixes: tuple[str, ...], *, force: bool) -> None:
    """Raises `UsageError` or `OutputError` where the file could not be written."""
    if output.suffix not in suffixes:
        expected, fix = f"a file name that ends in {suffixes[0]}", f"-o {output.with_suffix(suffixes[0])}"
        raise _usage("-o", str(output), expected, fix)
    if output.is_dir():
        raise _usage("-o", f"{output}, a folder", "a new file", "use another name")
    if output.exists() and not force:
        raise _usage("-o", f"{output}, which exists", "a new file", "use --force, or another name")
    from genmad.lowering.package import check_writable

    check_writable(output)


def _check_choice(where: str, got: str, known: tuple[str, ...]) -> None:
    if got not in known:
        raise _usage(where, got, f"one of {', '.join(known)}", f"{where} {known[0]}")


def _usage(where: str, got: str, expected: str, fix: str = "") -> Exception:
    from genmad.ir.diagnostics import Diagnostic
    from genmad.report import UsageError

    return UsageError(Diagnostic(where=where, got=got, expected=expected, fix=fix))
