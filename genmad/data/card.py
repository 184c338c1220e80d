"""The data card of a corpus: README.md with counts, licences and gaps, histograms as pictures where matplotlib is."""

import importlib.util
import json
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genmad.data.corpus import open_rows
from genmad.data.describe import number

# File name -> (column, title).
HISTOGRAMS: Mapping[str, tuple[str, str]] = {
    "nodes.png": ("num_nodes", "stored nodes of a graph"),
    "parameters.png": ("num_params", "parameters of a model"),
    "macs.png": ("num_macs", "multiply-accumulates of one pass"),
}
_BAR = 40
_LISTED = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """Counts of a corpus folder; `extra` is its `summary.json`, empty for a folder without one."""

    graphs: int
    families: int
    splits: Mapping[str, Mapping[str, int]]
    sources: Mapping[str, Mapping[str, int]]
    modalities: Mapping[str, int]
    tasks: Mapping[str, int]
    nodes: Mapping[str, float]
    columns: Mapping[str, Sequence[int]]
    without_cost: int
    without_modality: int
    primitive: int
    failures: Sequence[Mapping[str, Any]]
    extra: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        return {
            "graphs": self.graphs, "families": self.families, "splits": dict(self.splits),
            "sources": dict(self.sources), "modalities": dict(self.modalities), "tasks": dict(self.tasks),
            "nodes": dict(self.nodes), "lifted_fraction": self.lifted_fraction, "failures": len(self.failures),
            "build": dict(self.extra),
        }  # fmt: skip

    @property
    def lifted_fraction(self) -> float:
        """Share of the stored nodes that are ops of the op set or calls."""
        total = sum(self.columns["num_nodes"])
        return round(1 - self.primitive / total, 5) if total else 0.0


def summarise(folder: Path) -> Summary:
    """The counts of a corpus; also of one that training built, whose rows say less. Raises `CorpusError`."""
    rows = open_rows(folder)
    have = set(rows.column_names)

    def column(name: str, default: Any) -> list[Any]:
        return list(rows[name]) if name in have else [default] * len(rows)

    family, split, source = column("family", ""), column("split", ""), column("source", "transformers")
    nodes, params = column("num_nodes", 0), column("num_params", None)
    modality = column("modality", "")
    known = [n for n in nodes if n]
    return Summary(
        graphs=len(rows), families=len(set(family)), splits=_grouped(split, family), sources=_grouped(source, family),
        modalities=_counted(modality), tasks=_counted(column("task", "")), nodes=_spread(known),
        columns={
            "num_nodes": known, "num_params": [p for p in params if p],
            "num_macs": [m for m in column("num_macs", None) if m],
        },
        without_cost=sum(p is None for p in params), without_modality=sum(not m for m in modality),
        primitive=sum(column("num_primitive", 0)), failures=_read(folder / "failures.json", []),
        extra=_read(folder / "summary.json", {}),
    )  # fmt: skip


def _grouped(keys: Sequence[str], families: Sequence[str]) -> dict[str, dict[str, int]]:
    """Graphs and families of each key."""
    graphs = Counter(keys)
    names: dict[str, set[str]] = {}
    for key, family in zip(keys, families, strict=True):
        names.setdefault(key, set()).add(family)
    return {key: {"graphs": graphs[key], "families": len(names[key])} for key in sorted(graphs)}


def _counted(values: Sequence[str]) -> dict[str, int]:
    return dict(sorted(Counter(v for v in values if v).items(), key=lambda item: (-item[1], item[0])))


def _spread(values: Sequence[int]) -> dict[str, float]:
    if not values:
        return {}
    ordered = sorted(values)
    return {"median": float(statistics.median(ordered)), "p90": percentile(ordered, 0.9),
            "p99": percentile(ordered, 0.99), "max": float(ordered[-1])}  # fmt: skip


def percentile(ordered: Sequence[int], share: float) -> float:
    """The smallest of ordered values that at least `share` of them do not exceed.

    >>> percentile([1, 2, 3, 4], 0.5), percentile([7], 0.99)
    (2.0, 7.0)
    """
    return float(ordered[max(0, -int(-share * len(ordered) // 1) - 1)])


def _read(path: Path, default: Any) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return default


def write_card(folder: Path) -> Summary:
    """Writes README.md and, where matplotlib is installed, the pictures it shows."""
    summary = summarise(folder)
    pictures = _draw(summary, folder) if can_draw() else ()
    (folder / "README.md").write_text("\n".join(_lines(summary, pictures)) + "\n", encoding="utf-8")
    return summary


def can_draw() -> bool:
    """Whether matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def _draw(summary: Summary, folder: Path) -> tuple[str, ...]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    drawn = []
    for name, (column, title) in HISTOGRAMS.items():
        values = summary.columns[column]
        if not values:
            continue
        figure = Figure(figsize=(6, 3), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        low, high = min(values), max(values)
        edges = [low * (high / low) ** (i / 40) for i in range(41)] if high > low else 10
        axes.hist(values, bins=edges)
        axes.set_xscale("log")
        axes.set_xlabel(title)
        axes.set_ylabel("graphs")
        figure.savefig(folder / name, dpi=100, metadata={"Software": None})
        drawn.append(name)
    return tuple(drawn)


def _lines(summary: Summary, pictures: Sequence[str]) -> list[str]:
    build = summary.extra
    out = ["# A corpus of neural network architectures", ""]
    out.append(
        f"{summary.graphs} distinct graphs of {summary.families} families, as typed graphs of layers with text. "
        "Equal graphs (by canonical hash) stand in it once; all graphs of a family, and of a group of kin families, "
        "stand in one split. There are no weights in it."
    )
    if build:
        packages = ", ".join(f"{name} {told['version']}" for name, told in build.get("packages", {}).items())
        out += ["", f"Built by genmad {build.get('genmad')} with seed {build.get('seed')} from {packages}."]
    out += ["", "## Splits", "", *_table(("split", "graphs", "families"), summary.splits)]
    out += ["", "## Sources", "", *_table(("source", "graphs", "families"), summary.sources)]
    for title, counts in (("Modalities", summary.modalities), ("Tasks of the heads", summary.tasks)):
        out += ["", f"## {title}", "", *_counts(counts)]
    out += ["", "## Sizes", "", *_sizes(summary)]
    out += ["", *(f"![{HISTOGRAMS[name][1]}]({name})" for name in pictures)]
    if not pictures:
        out += _text_histogram(summary.columns["num_nodes"])
    out += ["", "## Columns", "", *_COLUMN_LINES, "", "## Licences", "", *_licences(build)]
    return [*out, "", "## Known gaps", "", *_gaps(summary)]


def _table(head: Sequence[str], rows: Mapping[str, Mapping[str, int]]) -> list[str]:
    body = [f"| {key} | {' | '.join(str(v) for v in row.values())} |" for key, row in rows.items()]
    return [f"| {' | '.join(head)} |", "|---" * len(head) + "|", *body]


def _counts(counts: Mapping[str, int]) -> list[str]:
    items = list(counts.items())
    out = [f"- {name}: {count}" for name, count in items[:_LISTED]]
    rest = sum(count for _, count in items[_LISTED:])
    return [*out, *([f"- {len(items) - _LISTED} others: {rest}"] if rest else [])] or ["None is known."]


def _sizes(summary: Summary) -> list[str]:
    if not summary.nodes:
        return ["The rows do not tell sizes."]
    told = ", ".join(f"{name} {value:g}" for name, value in summary.nodes.items())
    params = sorted(summary.columns["num_params"])
    lines = [f"- stored nodes: {told}"]
    if params:
        lines.append(
            f"- parameters: {number(params[0])} to {number(params[-1])}, median {number(params[len(params) // 2])}"
        )
    return [*lines, f"- {summary.lifted_fraction:.2%} of the stored nodes are ops of the op set or calls of blocks"]


def _text_histogram(values: Sequence[int]) -> list[str]:
    """Bars of characters, for readers without pictures: powers of two."""
    bins = Counter(value.bit_length() for value in values)
    most = max(bins.values(), default=1)
    bars = [f"{2 ** (b - 1):>7} .. {2**b - 1:<7} {'#' * round(_BAR * bins[b] / most)} {bins[b]}" for b in sorted(bins)]
    return ["```", "stored nodes", *bars, "```"]


_COLUMN_LINES = (
    "- `graph`: the architecture as canonical JSON (`genmad.ir.from_json`); `hash`: its canonical hash",
    "- `family`, `group`, `variant`, `name`, `source`, `source_version`, `config`: where it comes from",
    "- `split`: train, validation or heldout",
    "- `text`, `modality`, `task`: a description made from facts of the graph, none of it copied",
    "- `num_params`, `num_macs`: at batch 1 and 128 for every other symbol",
    "- `num_nodes` (stored), `num_nodes_flat` (run), `num_blocks`, `num_primitive` (calls of torch functions)",
    "- `labels`: measured figures, in corpora of a user's own models",
    "",
    "`attempts.jsonl` has one line for each model that was tried, `failures.json` those that failed and why.",
)


def _licences(build: Mapping[str, Any]) -> list[str]:
    packages = build.get("packages", {})
    if build.get("private"):
        return ["The graphs were read from a user's own files and are theirs; nothing here was published."]
    if not packages:
        return ["The packages are not recorded."]
    lines = ["The graphs were made by running code of these packages, whose metadata state these licences:", ""]
    return [
        *lines,
        *(f"- {name} {told['version']}: {told['license'] or 'none stated'}" for name, told in packages.items()),
    ]


def _gaps(summary: Summary) -> list[str]:
    build, lines = summary.extra, []
    for name, why in build.get("skipped_sources", {}).items():
        lines.append(f"- no models of {name}: {why}")
    tried = sum(build.get("attempts", {}).values())
    if tried < build.get("planned", 0):
        lines.append(f"- the build was ended early: {build['planned'] - tried} of {build['planned']} were not tried")
    if summary.failures:
        lines.append(f"- {len(summary.failures)} models could not be imported; the most frequent reasons:")
        kinds = Counter(_kind_of(f) for f in summary.failures)
        lines += [f"  - {count}: {kind}" for kind, count in kinds.most_common(8)]
    if summary.without_cost:
        lines.append(f"- {summary.without_cost} graphs without costs")
    if summary.without_modality:
        lines.append(f"- {summary.without_modality} graphs whose inputs do not tell their modality")
    lines.append("- sizes of images are those of the configs; batch and sequence lengths are symbols")
    return lines


def _kind_of(failure: Mapping[str, Any]) -> str:
    """A reason without what differs from model to model."""
    words = str(failure.get("reason", "")).split()
    return " ".join(words[:9])
