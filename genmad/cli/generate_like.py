"""`genmad generate --model FOLDER --from MODEL`: graphs in the manner of a tuned generator, grown from seeds."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from genmad.cli.output import Progress
    from genmad.ir import Graph
    from genmad.sampling.regrow import Regrown

MAX_SEEDS = 2000
COLUMNS = (
    "canonical_hash", "seed_model", "params", "macs", "num_nodes", "log_likelihood", "holes", "provenance", "graph",
)  # fmt: skip


def is_graph_generator(model: str | None) -> bool:
    """Whether `--model` names a checkpoint that edits graphs, not one that draws members of a space."""
    return model is not None and (Path(model) / "vocab.json").is_file()


def generate_like(
    model: str | None, sources: list[str], n: int, output: Path, *, temperature: float, seed: int, holes: int,
    exclude: Path | None, save_graphs: bool, export: str | None, progress: Progress,
) -> dict[str, Any]:  # fmt: skip
    """Writes a pool of distinct graphs that pass level 3, without those of the zoo `exclude`; what is told of it."""
    from genmad.sampling.pretrained import load_pretrained
    from genmad.sampling.regrow import RegrowSettings, regrow_many

    begin = time.perf_counter()
    names, seeds = _seeds(sources, progress)
    kit = load_pretrained(model)
    avoid = _hashes(exclude, progress) if exclude is not None else frozenset()
    settings = RegrowSettings(holes=holes, temperature=temperature)
    rows: list[dict[str, Any]] = []
    invalid = 0
    about = {"model": model or "shipped", "seed": seed, "temperature": temperature, "holes": holes}
    for found in regrow_many(kit, seeds, settings, seed=seed, avoid=avoid):
        row = _row(found, names, about)
        if row is None:
            invalid += 1
        else:
            rows.append(row)
        progress.phase(f"{len(rows):,} of {n:,}")
        if len(rows) >= n:
            break
    if not rows:
        raise _nothing(sources)
    _write(rows, output)
    files = _files(rows, output, save_graphs=save_graphs, export=export)
    return {
        "status": "ok", "path": str(output), "asked": n, "n": len(rows), "invalid": invalid, "seeds": len(seeds),
        "excluded": len(avoid), "forbidden": len(kit.forbidden), "seconds": round(time.perf_counter() - begin, 1),
        "generator": model or "shipped", "files": files,
    }  # fmt: skip


def lines(told: dict[str, Any]) -> list[str]:
    """What is printed of a pool."""
    found = [f"{told['n']:,} distinct graphs grown from {told['seeds']} seeds in {told['seconds']:.1f} s"]
    if told["n"] < told["asked"]:
        found.append(f"asked for {told['asked']:,}: more seeds, --holes or a higher --temperature may give more")
    return [*found, f"wrote {told['path']}", *(f"wrote {path}/" for path in told["files"].values())]


def _seeds(sources: list[str], progress: Progress) -> tuple[list[str], list[Graph]]:
    """Names and graphs: of each source the model, or every model of a zoo folder."""
    from genmad.importers.from_hf import load_source

    names: list[str] = []
    graphs: list[Graph] = []
    for source in sources:
        progress.phase(f"loading {source}")
        folder = Path(source)
        if folder.is_dir() and not (folder / "config.json").is_file():
            from genmad.zoo.reading import read_zoo

            for record in read_zoo(folder).records[:MAX_SEEDS]:
                names.append(f"{source}/{record.variant}")
                graphs.append(record.graph)
        else:
            names.append(source)
            graphs.append(load_source(source, weights=False).graph)
    return names, graphs


def _hashes(folder: Path, progress: Progress) -> frozenset[str]:
    from genmad.zoo.reading import read_zoo

    progress.phase(f"reading {folder}")
    return frozenset(record.hash for record in read_zoo(folder).records)


def _row(found: Regrown, names: list[str], about: dict[str, Any]) -> dict[str, Any] | None:
    """A row of the pool; None for a graph that fails a check, which is a bug and is counted."""
    from genmad.cost import cost_of
    from genmad.ir import GenmadError, to_json
    from genmad.ops import OPSET
    from genmad.validate import Level, validate

    report = validate(found.graph, OPSET, Level.WITHIN_BUDGET)
    if report.level is not Level.WITHIN_BUDGET:
        return None
    try:
        cost = cost_of(found.graph, OPSET)
        params, macs = int(cost.num_params), int(cost.num_macs)
    except (GenmadError, ValueError, TypeError):  # sizes that cannot be counted are no fault of the graph
        params = macs = None  # type: ignore[assignment]
    return {
        "canonical_hash": found.hash, "seed_model": names[found.seed], "params": params, "macs": macs,
        "num_nodes": found.graph.num_nodes, "log_likelihood": round(found.log_prob, 4), "holes": found.holes,
        "provenance": json.dumps(about, sort_keys=True),
        "graph": json.dumps(to_json(found.graph), separators=(",", ":"), allow_nan=False),
    }  # fmt: skip


def _write(rows: list[dict[str, Any]], output: Path) -> None:
    import pyarrow as pa

    from genmad.sampling.pools.pool_file import write_pool

    write_pool(pa.table({name: [row[name] for row in rows] for name in COLUMNS}), output)


def _files(rows: list[dict[str, Any]], output: Path, *, save_graphs: bool, export: str | None) -> dict[str, str]:
    kinds = (*(("graphs",) if save_graphs else ()), *((export,) if export else ()))
    folders = {kind: output.with_suffix(f".{kind}") for kind in kinds}
    for kind, folder in folders.items():
        folder.mkdir(parents=True, exist_ok=True)
        for row in rows:
            _export(kind, folder, row)
    return {kind: str(folder) for kind, folder in folders.items()}


def _export(kind: str, folder: Path, row: dict[str, Any]) -> None:
    from genmad.ir import from_json

    name = row["canonical_hash"]
    if kind == "graphs":
        (folder / f"{name}.json").write_text(row["graph"], encoding="utf-8")
    elif kind == "onnx":
        from genmad.lowering.to_onnx import save_onnx

        save_onnx(from_json(json.loads(row["graph"])), folder / f"{name}.onnx")
    else:
        from genmad.lowering.torch_source import module_source

        source = module_source(from_json(json.loads(row["graph"])))
        (folder / f"model_{name}.py").write_text(source, encoding="utf-8")


def check_rows(rows: list[dict[str, Any]]) -> Iterator[str]:
    """What is wrong with the rows of such a pool: graphs that fail a level, other hashes than stated, repeats."""
    from genmad.ir import GenmadError, canonical_hash, from_json
    from genmad.ops import OPSET
    from genmad.validate import Level, validate

    seen: dict[str, int] = {}
    for number, row in enumerate(rows):
        try:
            graph = from_json(json.loads(row["graph"]))
            report = validate(graph, OPSET, Level.WITHIN_BUDGET)
        except (GenmadError, ValueError, TypeError) as error:
            yield f"row {number}: no graph: {str(error)[:200]}"
            continue
        if report.level is not Level.WITHIN_BUDGET:
            yield f"row {number}: {report.diagnostics[0]}"
        key = canonical_hash(graph)
        if key != row.get("canonical_hash"):
            yield f"row {number}: its hash is {key[:12]}, not {str(row.get('canonical_hash'))[:12]}"
        if key in seen:
            yield f"row {number}: the same graph as row {seen[key]}"
        seen.setdefault(key, number)


def _nothing(sources: list[str]) -> Exception:
    from genmad.ir.diagnostics import Diagnostic
    from genmad.report import NoValidResultError

    got, expected = f"no new graph from {', '.join(sources)}", "at least one"
    fix = "name more or larger models with --from, or raise --holes or --temperature"
    return NoValidResultError(Diagnostic(where="genmad generate", got=got, expected=expected, fix=fix))
