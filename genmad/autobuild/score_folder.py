"""The folder that `genmad score` writes: scores, predictors, report. `genmad.autobuild.score_reading` reads it.

Everything is made in a temporary folder beside the target and moved in whole.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from genmad import __version__
from genmad.autobuild.architecture import Floats
from genmad.autobuild.construction import build
from genmad.autobuild.explorer import graph_collection, node_data
from genmad.autobuild.report import Findings, pareto_cloud, render_report, shown_modules
from genmad.autobuild.scores import StageScores, node_scores
from genmad.autobuild.scoring import Member, Scored
from genmad.ir import Diagnostic

if TYPE_CHECKING:
    import pyarrow

FILES = ("modules.parquet", "features.json", "labels.csv", "graphs.json", "model_explorer.json", "report.html",
         "summary.json")  # fmt: skip
PREDICTORS = "predictor"
NUM_EXPLORED = 3


def check_output(folder: Path, *, force: bool) -> None:
    """Raises `OutputError` where the folder could not be written; called before the slow work."""
    from genmad.lowering.package import OutputError, check_target

    if folder.suffix == ".onnx":
        got, fix = f"{folder}, which would be a file", "another name"
        raise OutputError(Diagnostic(where="-o", got=got, expected="a folder", fix=fix))
    check_target(folder, force=force)


def write_scores(scored: Scored, folder: Path, *, force: bool = False) -> dict[str, Any]:
    """Writes the folder, all of it or nothing; the summary, which is also `summary.json`. Raises `OutputError`."""
    from genmad.lowering.package import OutputError

    check_output(folder, force=force)
    parent = folder.absolute().parent
    try:
        parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".tmp", dir=parent))
    except OSError as error:
        raise OutputError(_unwritable(folder, error)) from error
    try:
        summary = _fill(scored, scratch)
        scratch.chmod(0o755)
        _move_in(scratch, folder)
    except OSError as error:
        raise OutputError(_unwritable(folder, error)) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return summary


def _unwritable(folder: Path, error: OSError) -> Diagnostic:
    got, fix = error.strerror or str(error), "nothing was written; choose another place"
    return Diagnostic(where=str(folder), got=got, expected="a place to write to", fix=fix)


def _move_in(scratch: Path, folder: Path) -> None:
    """The finished folder takes the place of nothing, or of an older one's files; foreign files there stay."""
    if not folder.exists():
        scratch.rename(folder)
        return
    shutil.rmtree(folder / PREDICTORS, ignore_errors=True)
    for path in sorted(scratch.iterdir()):
        os.replace(path, folder / path.name)


def _fill(scored: Scored, folder: Path) -> dict[str, Any]:
    import pyarrow.parquet as pq

    summary = _summary(scored)
    pq.write_table(_modules_table(scored), folder / "modules.parquet", compression="zstd")
    writers: dict[str, Callable[[], str]] = {
        "features.json": lambda: _json(
            {k: {c: {"mean": m, "std": s} for c, (m, s) in own.items()} for k, own in scored.features().items()}
        ),
        "labels.csv": lambda: _labels_csv(scored),
        "report.html": lambda: render_report(findings(scored)),
        "summary.json": lambda: _json(summary),
    }
    for name, text in writers.items():
        (folder / name).write_text(text(), encoding="utf-8")
    graphs, data = _explored(scored)
    (folder / "graphs.json").write_text(_json(graphs), encoding="utf-8")
    (folder / "model_explorer.json").write_text(_json(data), encoding="utf-8")
    for number, member in enumerate(scored.members):
        member.predictor.save_pretrained(folder / PREDICTORS / str(number))
    return summary


def _json(data: Mapping[str, Any]) -> str:
    return json.dumps(data, indent=1) + "\n"


def _summary(scored: Scored) -> dict[str, Any]:
    labels, settings = scored.labels, scored.settings
    return {
        "space": labels.encoding.name, "target": labels.target, "labels": len(labels.values),
        "unlabelled": labels.num_unlabelled, "best_label": float(labels.values.max()), "members": len(scored.members),
        "seed": settings.seed, "epochs": settings.epochs, "folds": settings.folds, "shift": scored.shift,
        "correlations": {name: [round(m, 4), round(s, 4)] for name, (m, s) in scored.correlations.items()},
        "stages": [_stage_summary(stage) for stage in scored.stages],
        "modules": sum(len(stage.score) for stage in scored.stages) or len(scored.subgraphs),
        "notes": list(labels.notes), "version": __version__,
    }  # fmt: skip


def _stage_summary(stage: StageScores) -> dict[str, Any]:
    best = int(np.argmax(stage.score))
    text = stage.stage.text(stage.codes[best].tolist())
    return {"name": stage.stage.name, "modules": len(stage.score), "best": text, "score": float(stage.score[best])}


def _modules_table(scored: Scored) -> "pyarrow.Table":
    """A row per module, in the order of enumeration; of spaces without stages a row per rooted subgraph, best first."""
    import pyarrow as pa

    if not scored.stages:
        return pa.table({
            "module": [each.text for each, _ in scored.subgraphs], "hop": [each.hop for each, _ in scored.subgraphs],
            "count": [each.count for each, _ in scored.subgraphs], "score": [score for _, score in scored.subgraphs],
        })  # fmt: skip
    parts = []
    for stage in scored.stages:
        size = len(stage.codes)
        parts.append(
            pa.table({
                "stage": pa.array([stage.stage.name] * size).dictionary_encode(),
                "module": [stage.stage.text(codes) for codes in stage.codes.tolist()],
                "layers": stage.sizes, "score": stage.score, "deviation": stage.deviation,
            })
        )  # fmt: skip
    return pa.concat_tables(parts, promote_options="default").unify_dictionaries()


def _labels_csv(scored: Scored) -> str:
    """What was learned from: encoding and target, as CSV."""
    import csv
    import io

    out = io.StringIO()
    rows = csv.writer(out, lineterminator="\n")
    rows.writerow(["encoding", "target"])
    rows.writerows(zip(scored.labels.data.texts, map(repr, scored.labels.values.tolist()), strict=True))
    return out.getvalue()


def _explored(scored: Scored) -> tuple[dict[str, Any], dict[str, Any]]:
    """The best and the worst labelled architectures as Model Explorer graphs, and their node scores.

    A node's value is the mean over hops of its standardised norms, each weighted by its hop's rank correlation.
    """
    labels = scored.labels
    order = np.argsort(-labels.values, kind="stable")
    places = [*order[:NUM_EXPLORED], *order[len(order) - NUM_EXPLORED :]]
    names = [f"best {i + 1}" for i in range(NUM_EXPLORED)] + [f"worst {NUM_EXPLORED - i}" for i in range(NUM_EXPLORED)]
    graphs = {name: labels.data.graphs[i] for name, i in zip(names, places, strict=True)}
    values = {
        name: np.mean([node_scores(m.predictor, m.moments, graph) @ _hop_weights(m) for m in scored.members], axis=0)
        for name, graph in graphs.items()
    }
    return graph_collection(labels.encoding.name, labels.data.schema, graphs), node_data(values)


def _hop_weights(member: Member) -> Floats:
    """float64[H]: the rank correlation of every hop, those below 0 as 0, over the number of hops."""
    found: Floats = np.maximum(member.correlations[:-1], 0.0) / (len(member.correlations) - 1)
    return found


def findings(scored: Scored) -> Findings:
    """What the report tells."""
    labels = scored.labels
    built = build(labels.encoding, scored.stages, scored.predict, top_k=2, n=5) if scored.stages else []
    scales = {
        "labels": f"scores are in the unit of {labels.target} (equation 5 of the paper)",
        "normalised": "scores are in deviations of their hop's norms, weighted by how well that hop ranks",
        "context": f"scores are the mean predicted {labels.target} of all members that hold the module",
    }
    space = labels.encoding.space
    return Findings(
        title=labels.encoding.name if space is None else space.title, target=labels.target,
        num_labels=len(labels.values), seed=scored.settings.seed, version=__version__,
        correlations=scored.correlations, features=scored.features(), stages=scored.stages, heat=_heat(scored),
        num_members=len(scored.members), scale=scales[scored.shift], cloud=_cloud(scored), built=built,
        notes=labels.notes,
    )  # fmt: skip


def _heat(scored: Scored) -> list[dict[int, list[float]]]:
    """Of the modules that the report shows: how far each layer's own norm, with the layers before it, stands out."""
    out = []
    for stage in scored.stages:
        numbers = shown_modules(stage)
        warmth: dict[int, list[float]] = {}
        for number in numbers:
            graph = stage.stage.graph(stage.codes[number].tolist())
            rows = [node_scores(m.predictor, m.moments, graph) for m in scored.members]
            hops = [min(stage.stage.hop(i + 1), rows[0].shape[1] - 1) for i in range(graph.num_nodes)]
            values = np.mean([[row[i, hop] for i, hop in enumerate(hops)] for row in rows], axis=0)
            # Half of the scale at the mean, all of it two deviations above.
            warmth[number] = np.clip((values + 2) / 4, 0.0, 1.0).round(3).tolist()
        out.append(warmth)
    return out


def _cloud(scored: Scored) -> Any:
    """Target over the first cost column, else over the parameters of a registered space; None without a cost."""
    labels, space = scored.labels, scored.labels.encoding.space
    costs = [name for name in labels.data.targets if name in labels.data.lower_is_better and name != labels.target]
    if costs:
        x, name = labels.data.targets[costs[0]], costs[0]
    elif space is not None:
        words = np.array([space.from_text(text) for text in labels.data.texts], np.int16)
        x, name = space.costs(words)[:, 0].astype(np.float64), "parameters"
    else:
        return None
    known = np.isfinite(x)
    if known.sum() < 2:
        return None
    texts = [text for text, kept in zip(labels.data.texts, known, strict=True) if kept]
    return pareto_cloud(x[known], labels.values[known], texts, name, labels.target)
