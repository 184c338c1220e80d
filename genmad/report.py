"""What an edit is reported as: `report.json`, the plan in words, the card, and the errors with their exit codes."""

from __future__ import annotations

import difflib
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from genmad import __version__
from genmad.diff import GraphDiff, Section, describe
from genmad.inspection import target_names
from genmad.ir.diagnostics import Diagnostic, GenmadError
from genmad.ir.graph import Graph, places

if TYPE_CHECKING:
    from genmad.validate import ValidationReport

PROMPT_LIMIT = 2000
READINGS: Mapping[str, str] = {
    "branch": "add a branch beside what is there, starting at zero",
    "convert": "change what is there, in place",
    "insert": "put something new into the path",
    "remove": "take something out",
    "duplicate": "repeat a layer with its weights",
    "replace": "exchange one op for another",
    "resize": "change widths, heads, ranks or kernels",
    "adapt": "add low-rank or bottleneck adapters",
    "connect": "add a skip connection",
}
# A reading below this share is not worth a line.
WORTH_NAMING = 0.05


class EditError(GenmadError):
    """An edit that ends without a result. `status` and `context` are what `report.json` would say of it."""

    exit_code = 5
    status = "error"

    def __init__(self, diagnostic: Diagnostic, readings: Sequence[tuple[str, float]] = ()) -> None:
        self.diagnostic = diagnostic
        self.readings = tuple(readings)
        self.context: dict[str, Any] = {}
        super().__init__(str(diagnostic))


class UsageError(EditError):
    """A wrong option or argument: an empty prompt, an output folder that is in use."""

    exit_code = 2


class RefusedError(EditError):
    """A request that was read but cannot be met on this model."""

    exit_code = 4
    status = "refused"


class NoValidResultError(EditError):
    """No result passed every check."""

    exit_code = 5


class AmbiguousError(EditError):
    """A request with two readings that are about as likely."""

    exit_code = 6
    status = "ambiguous"


# Reason code -> (got, expected, what to type next).
_REFUSALS: Mapping[str, tuple[str, str, str]] = {
    "no_such_target": ("a target that this model does not have", "one of {targets}", "name one of these"),
    "not_divisible": (
        "a number that does not divide evenly", "a number that divides the width or the heads", "use another number",
    ),
    "not_applicable": (
        "a change that does not fit this model", "a change that its ops allow", "genmad inspect shows what it has",
    ),
    "already_so": (
        "a change that is already there", "something to change", "genmad inspect shows what it has",
    ),
    "not_understood": (
        "a request that could not be read as a change of this model", "what to add, remove or change, and where",
        'for example "add local attention to the last layer", or name the place with --at NODE',
    ),
}  # fmt: skip


def refusal(prompt: str, reason: str, blocked: str, targets: str) -> Diagnostic:
    """The message for a refused request; `targets` lists the places that the model has."""
    got, expected, fix = _REFUSALS.get(reason, _REFUSALS["not_understood"])
    # The generator lists names inside its reason; they stand under "expected".
    blocked, _, names = blocked.partition("; there are ")
    got = f"{got} ({blocked})" if blocked else got
    expected += f", or a part of one: {', '.join(_parts(names, targets))}" if names else ""
    return Diagnostic(where=f'prompt "{_short(prompt)}"', got=got, expected=expected.format(targets=targets), fix=fix)


def _parts(names: str, targets: str) -> list[str]:
    """Of a list of names those that `targets` does not name already, at most 16."""
    told = re.sub(r"\d+", "#", targets)
    return [name for name in names.split(", ") if re.sub(r"\d+", "#", name) not in told][:16]


def _short(text: str, limit: int = 80) -> str:
    return text if len(text) <= limit else text[: limit - 3] + "..."


def reading_lines(readings: Sequence[tuple[str, float]], chosen: str = "") -> list[str]:
    """One line per reading worth naming, other than the chosen one, with the flag that picks it."""
    rest = [(name, share) for name, share in readings if name != chosen and share >= WORTH_NAMING]
    return [f"{READINGS.get(name, name)} ({share:.0%}): --reading {name}" for name, share in rest]


def readings_json(readings: Sequence[tuple[str, float]]) -> list[dict[str, Any]]:
    return [
        {"name": name, "probability": round(share, 4), "meaning": READINGS.get(name, name), "flag": f"--reading {name}"}
        for name, share in readings
    ]


@dataclass(slots=True)
class Clock:
    """Seconds by phase.

    Attributes:
        seconds: of the phases that have ended.
        began: when the command began, as `time.perf_counter` tells it; None where there is no command.
        on_phase: told the name of each phase as it begins, for a progress line.
    """

    seconds: dict[str, float] = field(default_factory=dict)
    began: float | None = None
    on_phase: Callable[[str], None] = lambda _: None
    _running: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        self.on_phase(name)
        self._running[name] = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - self._running.pop(name)

    def to_json(self) -> dict[str, float]:
        """Seconds by phase, those still running included, and the total of a command."""
        now = time.perf_counter()
        found = dict(self.seconds)
        for name, start in self._running.items():
            found[name] = found.get(name, 0.0) + now - start
        if self.began is not None:
            found["total"] = now - self.began
        return {name: round(value, 3) for name, value in found.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class EditReport:
    """The contents of `report.json`; field names are the file's keys.

    Attributes:
        status: `ok`, `refused` or `ambiguous`.
        prompt: as given; "" for a replayed recipe without one.
        source: `id`, `kind`, `weights` (`loaded`, `random` or `none`).
        plan: what was done, in words, a line each.
        reading: the reading that was carried out.
        readings: every reading worth naming, with its share and the flag that picks it.
        confidence: probability that the generator gives its own script.
        delta: ids of removed, added, rewired and changed nodes.
        validity: `level` reached (1 to 5) and `checks`, name to verdict.
        cost: `before` and `after`, each `params` and `macs`; `at` says for which sizes.
        weights: names of parameters by origin.
        max_abs_output_diff: of the outputs on one random input, before and after; None when not measured.
        notes: what the import chose that is worth knowing.
        seed: of decoding and of new weights.
        time_s: seconds by phase.
        alternatives: other results, when more samples were asked for.
        version: of genmad.
    """

    status: str = "ok"
    prompt: str
    source: Mapping[str, str]
    plan: tuple[str, ...]
    reading: str = ""
    readings: tuple[Mapping[str, Any], ...] = ()
    confidence: float
    delta: Mapping[str, list[str]]
    validity: Mapping[str, Any]
    cost: Mapping[str, Any]
    weights: Mapping[str, list[str]]
    max_abs_output_diff: float | None
    seed: int
    time_s: Mapping[str, float]
    notes: tuple[str, ...] = ()
    alternatives: tuple[Mapping[str, Any], ...] = ()
    version: str = __version__

    def to_json(self) -> dict[str, Any]:
        data = {name: getattr(self, name) for name in self.__slots__}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in data.items()}


def error_json(error: GenmadError) -> dict[str, Any]:
    """The object that `--json` prints for an error."""
    found = getattr(error, "diagnostic", None) or next(iter(getattr(error, "diagnostics", ())), None)
    where = "source" if error.exit_code == 3 else "genmad"
    got, expected, fix = str(error), getattr(error, "expected", ""), getattr(error, "fix", "")
    if isinstance(found, Diagnostic):
        where, got, expected, fix = found.where, found.got, found.expected, found.fix
    detail = {"where": where, "got": got, "expected": expected, "fix": fix, "exit_code": error.exit_code}
    status = error.status if isinstance(error, EditError) else "error"
    out: dict[str, Any] = {"status": status, "error": detail, "version": __version__}
    if isinstance(error, EditError):
        out |= error.context
    if isinstance(error, EditError) and error.readings:
        out["readings"] = readings_json(error.readings)
    return out


def plan_head(reading: str, confidence: float) -> str:
    """The first line of a plan: how the request was read."""
    how = READINGS.get(reading, reading or "a recipe")
    return f"read as {reading or 'recipe'}: {how} (confidence {confidence:.0%})"


def plan_lines(diff: GraphDiff, after: Graph) -> list[str]:
    """What was done and where, a line per group of calls."""
    return [f"{section.title}: {'; '.join(_section_words(section, after))}" for section in diff.sections]


def _section_words(section: Section, after: Graph) -> Iterator[str]:
    block = after.block_map.get(section.block)
    path = section.paths[0]
    if block is None or any(c.kind == "added" and c.name not in block.by_name for c in section.changes):
        block = next((b for b in after.all_blocks if _holds(b, section)), after.main)
    by_kind: dict[str, list[str]] = {}
    for change in section.changes:
        by_kind.setdefault(change.kind, []).append(change.name)
    added = [block.by_name[name] for name in by_kind.get("added", ()) if name in block.by_name]
    if added:
        heads = Counter(describe(node, with_type=False) for node in added)
        yield "adds " + ", ".join(f"{count} {head}" if count > 1 else head for head, count in heads.items())
    if "removed" in by_kind:
        yield "removes " + _listed(by_kind["removed"])
    for change in section.changes:
        if change.kind == "changed":
            yield f"changes {change.name} ({change.text})"
        if change.kind == "rewired":
            subject = f"the output of {path or 'the model'}" if change.name == "output" else change.name
            yield f"{subject} {change.text}"


def _holds(block: Any, section: Section) -> bool:
    return all(c.name in block.by_name for c in section.changes if c.kind == "added")


def _listed(names: Sequence[str], limit: int = 8) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def cost_lines(cost: Mapping[str, Any]) -> list[str]:
    """Parameters and MACs before and after."""
    sizes = ", ".join(f"{name} {size}" for name, size in cost["at"].items())
    lines = []
    for key, word in (("params", "parameters"), ("macs", "MACs" + (f" at {sizes}" if sizes else ""))):
        old, new = cost["before"][key], cost["after"][key]
        share = f", {(new - old) / old:+.2%}" if old and new != old else ""
        lines.append(f"{word}: {old:,} -> {new:,} ({new - old:+,}{share})")
    return lines


_CARD = """\
# {{ title }}

{{ source.id }}, edited with GenMAD {{ version }}{% if prompt %} by the request:

> {{ prompt }}{% else %}.{% endif %}


{% for line in plan %}
- {{ line }}
{% endfor %}

{% for note in notes %}
Note: {{ note }}.

{% endfor %}
{% if source.weights == "random" %}
**The weights are random**: no trained weights of {{ source.id }} were found, so only the architecture is meaningful.
{% elif source.weights == "none" %}
No weights are included.
{% else %}
Weights: {{ weights.inherited | length }} tensors inherited, {{ weights.fitted | length }} fitted, \
{{ weights.copied | length }} copied, {{ weights.new | length }} new. New ones are untrained.
{% endif %}

Checked up to level {{ validity.level }} of 5.

| file | what it is |
|---|---|
{% for name, text in files %}
| `{{ name }}` | {{ text }} |
{% endfor %}

```python
import model  # from this folder

module = model.{{ "load('.')" if has_weights else class_name + "()  # with fresh weights" }}
```

`genmad edit {{ source.id }} --recipe recipe.yaml -o again/` repeats the edit.
"""
_FILES = (
    ("model.onnx", "ONNX, opset 18"),
    ("model.py", "PyTorch code"),
    ("model.safetensors", "weights"),
    ("report.json", "what was done and checked"),
    ("recipe.yaml", "the edit, to be replayed"),
)


def card(report: EditReport, *, has_weights: bool, class_name: str) -> str:
    """The README.md of a hand-over folder; `class_name` is that of the model in model.py."""
    import jinja2

    environment = jinja2.Environment(autoescape=False, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
    data = report.to_json()
    prompt = " ".join(report.prompt.split())
    files = list(_FILES)
    if not has_weights:
        files = [("model.onnx", "ONNX, opset 18; the parameters are inputs"), *files[1:2], *files[3:]]
    title = f"{report.source['id']}, edited"
    data |= {"prompt": prompt, "title": title, "files": files, "has_weights": has_weights, "class_name": class_name}
    return environment.from_string(_CARD).render(data)


def reading_pairs(proposal: Any) -> tuple[tuple[str, float], ...]:
    return tuple((reading.name, float(reading.probability)) for reading in proposal.readings)


def check_prompt(prompt: str) -> None:
    """Raises `UsageError` for an empty prompt or one that is no sentence but a text."""
    if not prompt.strip():
        fix = 'for example "add local attention to the last layer"'
        raise UsageError(Diagnostic(where="prompt", got="an empty text", expected="a sentence", fix=fix))
    if len(prompt) > PROMPT_LIMIT:
        expected = f"at most {PROMPT_LIMIT:,} characters"
        fix = "say the change in a sentence or two"
        raise UsageError(Diagnostic(where="prompt", got=f"{len(prompt):,} characters", expected=expected, fix=fix))


def check_place(graph: Graph, at: str | None) -> None:
    """Raises `RefusedError` with the nearest names when the model has no node, call or module of that path."""
    if at is None:
        return
    known = [place.path for place in places(graph)]
    if any(path == at or path.startswith(f"{at}.") for path in known):
        return
    near = difflib.get_close_matches(at, known, n=3, cutoff=0.6)
    fix = f"did you mean {', '.join(near)}?" if near else "genmad inspect shows every node"
    expected = f"a node of the model: {target_names(graph)}"
    raise RefusedError(Diagnostic(where=f"--at {at}", got="no such node", expected=expected, fix=fix))


def no_result(prompt: str, found: Sequence[Any], graph: Graph) -> RefusedError | AmbiguousError | NoValidResultError:
    """The error for answers of which none is a result; the first one speaks."""
    first = found[0] if found else None
    where = f'prompt "{prompt[:80]}"'
    if first is not None and first.status == "refused":
        return RefusedError(refusal(prompt, first.reason, first.blocked, target_names(graph)), reading_pairs(first))
    if first is not None and first.status == "ambiguous":
        readings = reading_pairs(first)
        got = "; ".join(reading_lines(readings)) or "two readings"
        got = f"more than one meaning: {got}"
        return AmbiguousError(Diagnostic(where=where, got=got, expected="one", fix="add one of the flags"), readings)
    got = f"no valid change{f' ({first.blocked})' if first is not None and first.blocked else ''}"
    fix = "say it in other words, name the place with --at NODE, or try --samples 4"
    return NoValidResultError(Diagnostic(where=where, got=got, expected="a change that passes every check", fix=fix))


def require_valid(report: ValidationReport) -> None:
    """Raises `NoValidResultError` naming what failed first."""
    if report.passed:
        return
    unknown = Diagnostic(where="graph", got="a failed check", expected="every check passed")
    raise NoValidResultError(next(iter(report.diagnostics), unknown))


def validity_json(report: ValidationReport) -> dict[str, Any]:
    return report.to_json()
