"""`genmad generate`: a pool of candidate architectures from a search space."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from genmad.cli.generate_like import is_graph_generator
from genmad.cli.options import Force, Json
from genmad.cli.output import Progress, emit_json, quiet_stdout, show

if TYPE_CHECKING:
    from genmad.sampling.pools import Conditions, Drawn, PoolSampler
    from genmad.spaces import Space

MAX_POOL = 10_000_000
# Seconds between two looks at what is to be taken up if the run is killed.
SAVE_EVERY = 1.0
SpaceName = Annotated[str, typer.Option("--space", help="Search space; --list names them.", metavar="NAME")]
Data = Annotated[
    str | None, typer.Option("--data", help="Folder of benchmark tables; default $GENMAD_DATA.", metavar="FOLDER")
]
Seed = Annotated[int, typer.Option("--seed", help="The same seed gives the same file.", metavar="N", min=0)]
Params = Annotated[str | None, typer.Option("--max-params", help="Most parameters: 1M, 500k or a number.", metavar="N")]
Macs = Annotated[str | None, typer.Option("--max-macs", help="Most multiply-accumulates: 60M.", metavar="N")]
Depth = Annotated[str | None, typer.Option("--max-depth", help="Greatest depth, as the space counts it.", metavar="N")]
Ops = Annotated[str | None, typer.Option("--ops", help="Only these operations, with commas.", metavar="A,B,...")]
Generator = Annotated[
    str | None,
    typer.Option("--model", help="Folder of another generator; `uniform` for no network.", metavar="FOLDER"),
]


def generate(
    n: Annotated[int, typer.Option("-n", "--n", help="How many members.", metavar="N", min=1)] = 1000,
    space: SpaceName = "nb201",
    output: Annotated[Path, typer.Option("-o", "--output", help="The pool, a .parquet file.", metavar="FILE")] = Path(
        "pool.parquet"
    ),
    max_params: Params = None,
    max_macs: Macs = None,
    max_depth: Depth = None,
    ops: Ops = None,
    seed: Seed = 0,
    temperature: Annotated[
        float, typer.Option("--temperature", help="Below 1 likelier members, above 1 more variety.", metavar="T")
    ] = 1.0,
    novel: Annotated[bool, typer.Option("--novel", help="Leave out what the generator was trained on.")] = False,
    model: Generator = None,
    target: Annotated[
        str | None, typer.Option("--target", help="Column of the label table to be high.", metavar="COLUMN")
    ] = None,
    data: Data = None,
    labels: Annotated[
        int, typer.Option("--labels", help="Use the labels of so many members.", metavar="N", min=10)
    ] = 100,
    invert: Annotated[bool, typer.Option("--invert", help="The target is to be low.")] = False,
    workers: Annotated[int, typer.Option("--workers", help="Processes.", metavar="N", min=1, max=64)] = 1,
    save_graphs: Annotated[bool, typer.Option("--save-graphs", help="Also every member's graph as JSON.")] = False,
    export: Annotated[
        str | None, typer.Option("--export", help="Also every member as `onnx` or `torch`.", metavar="KIND")
    ] = None,
    seeds: Annotated[
        list[str] | None,
        typer.Option(
            "--from",
            help="Grow graphs from this model, or from all of a folder, instead of drawing from a space; "
            "--model is then a tuned generator. Repeat for several.",
            metavar="MODEL",
        ),
    ] = None,
    holes: Annotated[
        int, typer.Option("--holes", help="With --from: nodes taken out and written anew, at most.", metavar="N", min=1)
    ] = 4,
    exclude: Annotated[
        Path | None, typer.Option("--exclude", help="With --from: leave out the graphs of this zoo.", metavar="ZOO")
    ] = None,
    within: Annotated[
        Path | None, typer.Option("--within", help="Keep to a reduced space of genmad reduce.", metavar="FILE")
    ] = None,
    list_spaces: Annotated[bool, typer.Option("--list", help="Name the spaces and stop.")] = False,
    force: Force = False,
    as_json: Json = False,
) -> int:
    """Write a pool of distinct, valid members of a search space."""
    if list_spaces:
        return _list(as_json)
    if invert and target is None:
        raise usage_error("--invert", "it without --target", "both", "add --target COLUMN, or leave --invert out")
    _check_request(output, export, n, force=force)
    if seeds or is_graph_generator(model):
        return _grow(
            model, seeds, n, output, temperature=temperature, seed=seed, holes=holes, exclude=exclude,
            save_graphs=save_graphs, export=export, as_json=as_json,
        )  # fmt: skip
    if exclude is not None:
        raise usage_error("--exclude", "it without --from", "both", "add --from MODEL, or leave --exclude out")
    with quiet_stdout(as_json), Progress().running("loading") as progress:
        from genmad.sampling.pools import PoolSampler, conditions_for
        from genmad.spaces import get_space

        where = get_space(space)
        limits = limits_of(params=max_params, macs=max_macs, depth=max_depth)
        allowed = None if ops is None else frozenset(filter(None, (op.strip() for op in ops.split(","))))
        steps = _within(where, within)
        conditions = conditions_for(
            where, limits=limits, ops=allowed, temperature=temperature, novel=novel, within=steps
        )  # fmt: skip
        law, predictor = _law(where, model, target, data, labels, invert=invert, seed=seed, progress=progress)
        if novel and share_of(law) is None:
            got, expected = (
                f"{law.name}, which names no split of the space",
                "a generator trained on a share of classes",
            )
            raise usage_error("--novel", got, expected, "leave --novel out")
        sampler = PoolSampler(
            space=where, law=law, conditions=conditions, seed=seed, train_share=share_of(law), workers=workers
        )
        summary = _run(sampler, n, output, predictor, target, invert=invert, progress=progress)
        if save_graphs or export:
            summary["files"] = _extras(where, output, save_graphs=save_graphs, export=export, progress=progress)
    if as_json:
        emit_json(summary)
    else:
        show(*_lines(summary))
    return 0


def _grow(model: str | None, seeds: list[str] | None, n: int, output: Path, *, as_json: bool, **settings: Any) -> int:
    """Graphs grown from seeds by a generator that edits. Raises `UsageError` without seeds."""
    from genmad.cli.generate_like import generate_like, lines
    from genmad.cli.options import check_checkpoint

    if not seeds:
        expected = "models to start from: this generator completes and edits graphs, it writes none from nothing"
        raise usage_error(f"--model {model}", "no --from", expected, "add --from MODEL, or --from ./my_zoo")
    check_checkpoint(model)
    with quiet_stdout(as_json), Progress().running("loading") as progress:
        told = generate_like(model, seeds, n, output, progress=progress, **settings)
    if as_json:
        emit_json(told)
    else:
        show(*lines(told))
    return 0


def _run(
    sampler: PoolSampler, n: int, output: Path, predictor: Any, target: str | None, *, invert: bool, progress: Progress
) -> dict[str, Any]:
    """Draws, writes, and says what was done."""
    from genmad import __version__
    from genmad.sampling.pools.drawing import join
    from genmad.sampling.pools.pool_file import Extras, Parts, table_of, write_pool

    space = sampler.space
    request = _request(sampler, target, invert=invert) | {"version": __version__}
    # Another generator under the same name, or other labels, must not take up these parts.
    asked = request | {"n": n, "law": sampler.law.digest}
    parts = Parts(folder=output.with_name(output.name + ".parts"), request=asked)
    begin = time.perf_counter()
    rounds = parts.load()
    resumed = sum(len(r.words) for r in rounds)
    total = resumed
    saved = begin
    try:
        for drawn in sampler.rounds(n, rounds):
            # Parts cost a file each: they begin once a run is long enough to be worth taking up.
            rounds.append(drawn)
            total += len(drawn.words)
            progress.phase(f"{total:,} of {n:,}")
            if total < n and not drawn.exhausted and time.perf_counter() - saved > SAVE_EVERY:
                _save_new(parts, rounds)
                saved = time.perf_counter()
    except KeyboardInterrupt:
        _save_new(parts, rounds)
        raise
    drawing = time.perf_counter() - begin
    joined = join(rounds, space)
    progress.phase("writing")
    score, deviation = predictor(joined.words) if predictor is not None else (None, None)
    extras = Extras(score=score, uncertainty=deviation, train_share=sampler.train_share, provenance=request)
    table = table_of(space, joined, extras)
    write_pool(table, output)
    parts.drop()
    return _summary(sampler, n, joined, table, output) | {
        "resumed": resumed, "seconds": round(time.perf_counter() - begin, 3), "drawing_seconds": round(drawing, 3),
    }  # fmt: skip


def _save_new(parts: Any, rounds: list[Drawn]) -> None:
    for number, drawn in enumerate(rounds):
        if not (parts.folder / f"round-{number:06d}.npz").exists():
            parts.save(number, drawn)


def _summary(sampler: PoolSampler, n: int, drawn: Drawn, table: Any, output: Path) -> dict[str, Any]:
    space = sampler.space
    found: dict[str, Any] = {
        "status": "ok", "space": space.name, "path": str(output), "asked": n, "n": len(drawn.words),
        "generator": sampler.law.name, "seed": sampler.seed, "draws": drawn.num_draws,
        "exhausted": bool(drawn.exhausted and len(drawn.words) < n),
    }  # fmt: skip
    for name in ("params", "macs", "depth"):
        if len(drawn.words):
            column = table.column(name).to_numpy()
            found[name] = {"min": int(column.min()), "max": int(column.max())}
    if len(drawn.words) and table.column("novel").null_count == 0:
        found["novel"] = round(float(table.column("novel").to_numpy(zero_copy_only=False).mean()), 4)
    return found


def _request(sampler: PoolSampler, target: str | None, *, invert: bool) -> dict[str, Any]:
    """What the pool follows from, and its provenance."""
    asked: Conditions = sampler.conditions
    return {
        "space": sampler.space.name, "model": sampler.law.name, "seed": sampler.seed, "limits": dict(asked.limits),
        "ops": None if asked.ops is None else sorted(asked.ops), "temperature": asked.temperature,
        "novel": asked.novel, "target": target, "invert": invert, "prompt": None,
        **({"within": {str(t): sorted(c) for t, c in sorted(asked.within.items())}} if asked.within else {}),
    }  # fmt: skip


def _within(space: Space, path: Path | None) -> dict[int, frozenset[int]]:
    """What a reduced space leaves of every step; nothing left out without one."""
    if path is None:
        return {}
    from genmad.autobuild.reduced import read_steps

    return read_steps(path, space)


def _law(
    space: Space, model: str | None, target: str | None, data: str | None, labels: int, *, invert: bool, seed: int,
    progress: Progress,
) -> tuple[Any, Any]:  # fmt: skip
    """The law that is drawn from, and what scores members; the latter None without a target."""
    from genmad.sampling.pools import UniformLaw, load_law

    law = UniformLaw() if model == "uniform" else load_law(space, model)
    if target is None:
        return law, None
    from genmad.sampling.pools import NetLaw, PoolSampler
    from genmad.search.guidance import GUIDANCE, labelled, learn
    from genmad.spaces.tables import data_folder
    from genmad.training.pools import fit_conditional

    folder = data_folder(data)
    table = None if folder is None else space.read_labels(folder)
    if table is None:
        raise usage_error("--target", f"no label table of {space.name}", "a folder that holds it", "--data FOLDER")
    progress.phase(f"learning {target} from {labels} labels")
    words, values = labelled(space, table, target, labels, share=share_of(law), seed=seed)
    plain = PoolSampler(space=space, law=law, seed=seed)
    guided = learn(space, words, values, lambda n: plain.independent(n)[0], fit_conditional, invert=invert, seed=seed)
    return NetLaw(net=guided.net, condition=guided.condition, guidance=GUIDANCE, parent=law), guided.score


def share_of(law: Any) -> float | None:
    """The share of classes that a generator was trained on."""
    about = getattr(getattr(getattr(law, "parent", None) or law, "net", None), "about", {})
    return about.get("share") if not about.get("table") else None


def limits_of(**texts: str | None) -> dict[str, int]:
    """Numbers such as 1M, 2.5k or 60000000. Raises `UsageError`."""
    units = {"k": 10**3, "m": 10**6, "g": 10**9, "b": 10**9}
    found: dict[str, int] = {}
    for metric, text in texts.items():
        if text is None:
            continue
        scale = units.get(text[-1:].lower(), 1)
        try:
            value = float(text[:-1] if scale > 1 else text) * scale
            if not 0 <= value < float("inf"):
                raise ValueError
        except ValueError:
            expected, fix = "a number, such as 500k or 1.5M", f"for example --max-{metric} 1M"
            raise usage_error(f"--max-{metric}", text, expected, fix) from None
        found[metric] = int(value)
    return found


def _check_request(output: Path, export: str | None, n: int, *, force: bool) -> None:
    if n > MAX_POOL:
        raise usage_error("-n", f"{n:,}", f"at most {MAX_POOL:,} in one file", "use several pools with other seeds")
    if export not in (None, "onnx", "torch"):
        raise usage_error("--export", str(export), "onnx or torch", "--export onnx, or leave it out")
    if output.suffix != ".parquet":
        fix = f"-o {output.with_suffix('.parquet') if output.name else 'pool.parquet'}"
        raise usage_error("-o", str(output), "a file name that ends in .parquet", fix)
    if output.is_dir():
        raise usage_error("-o", f"{output}, a folder", "a new file", "use another name")
    if output.exists() and not force:
        raise usage_error("-o", f"{output}, which exists", "a new file", "use --force, or another name")
    from genmad.lowering.package import check_writable

    check_writable(output)


def usage_error(where: str, got: str, expected: str, fix: str = "") -> Exception:
    """A `UsageError`, made without loading what it needs before."""
    from genmad.ir.diagnostics import Diagnostic
    from genmad.report import UsageError

    return UsageError(Diagnostic(where=where, got=got, expected=expected, fix=fix))


def _extras(space: Space, output: Path, *, save_graphs: bool, export: str | None, progress: Progress) -> dict[str, str]:
    """Graphs and exported models in folders beside the pool, named by canonical hash."""
    import json

    from genmad.ir import to_json
    from genmad.sampling.pools.pool_file import read_pool

    folders = {
        kind: output.with_suffix(f".{kind}")
        for kind in (("graphs",) if save_graphs else ()) + ((export,) if export else ())
    }
    rows = read_pool(output)
    for folder in folders.values():
        folder.mkdir(parents=True, exist_ok=True)
    for number, row in enumerate(rows):
        progress.phase(f"member {number + 1} of {len(rows)}")
        graph, name = space.to_graph(space.from_text(row["encoding"])), row["canonical_hash"]
        if save_graphs:
            (folders["graphs"] / f"{name}.json").write_text(json.dumps(to_json(graph)), encoding="utf-8")
        if export == "onnx":
            from genmad.lowering.to_onnx import save_onnx

            save_onnx(graph, folders["onnx"] / f"{name}.onnx")
        elif export == "torch":
            from genmad.lowering.torch_source import module_source

            (folders["torch"] / f"model_{name}.py").write_text(module_source(graph), encoding="utf-8")
    return {kind: str(folder) for kind, folder in folders.items()}


def _list(as_json: bool) -> int:
    from genmad.spaces import SPACES, get_space

    rows = [(name, get_space(name)) for name in SPACES]
    if as_json:
        emit_json({"spaces": {name: {"title": s.title, "size": s.size, "classes": s.num_classes} for name, s in rows}})
    else:
        show(*(f"{name:8} {s.size:>30,} members  {s.title}" for name, s in rows))
    return 0


def _lines(summary: dict[str, Any]) -> list[str]:
    n, seconds = summary["n"], summary["seconds"]
    lines = [f"{n:,} distinct members of {summary['space']} from {summary['generator']} in {seconds:.1f} s"]
    if summary["exhausted"]:
        lines.append(f"asked for {summary['asked']:,}: no more members meet the conditions; there are {n:,}")
    for name in ("params", "macs", "depth"):
        if name in summary:
            lines.append(f"{name}: {summary[name]['min']:,} to {summary[name]['max']:,}")
    if "novel" in summary:
        lines.append(f"not in the training split: {summary['novel']:.1%}")
    if summary["resumed"]:
        lines.append(f"taken up from an interrupted run: {summary['resumed']:,} members")
    return [*lines, f"wrote {summary['path']}", *(f"wrote {path}/" for path in summary.get("files", {}).values())]
