"""Edit scripts: the symbolic steps of an edit, which run on a graph and can be replayed on a similar one.

The generator writes a script, not a `GraphDelta`: a step may say "as many channels as ln_1" or "twice what it was", so
that the same script fits a wider model. Running it gives the new graph, `GraphDelta.between` the exact difference.
"""

from dataclasses import dataclass
from typing import Any

from genmad.ir.build import OpSet
from genmad.ir.diagnostics import Diagnostic, GraphError, ShapeError
from genmad.ir.graph import Graph
from genmad.ir.script_numbers import CHANNELS_FIRST, Number, Setting, Settings, channels, head_dim, resolve
from genmad.ir.script_run import EditState, ancestors, fresh_name
from genmad.ir.script_steps import Add, At, Remove, Replace, ReplaceUses, Rewire, SetAttrs, Step

__all__ = [
    "CHANNELS_FIRST", "Add", "At", "EditScript", "EditState", "Number", "Remove", "Replace", "ReplaceUses", "Rewire",
    "SetAttrs", "Setting", "Settings", "Step", "ancestors", "channels", "fresh_name", "head_dim", "resolve",
]  # fmt: skip

_KINDS: dict[str, type[Step]] = {
    "at": At, "set": SetAttrs, "replace": Replace, "add": Add, "rewire": Rewire, "replace_uses": ReplaceUses,
    "remove": Remove,
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class EditScript:
    """Steps in order. An empty script leaves the graph as it is."""

    steps: tuple[Step, ...] = ()

    def run(self, graph: Graph, opset: OpSet) -> EditState:
        """The state after all steps, dead nodes dropped. Raises `GraphError` naming the step's node."""
        state = EditState.start(graph, opset)
        for step in self.steps:
            state = state.step(step)
        return state.close()

    def to_json(self) -> list[dict[str, Any]]:
        """One object per step, as in `recipe.yaml`."""
        return [_step_json(step) for step in self.steps]

    @staticmethod
    def from_json(data: Any) -> "EditScript":
        """The inverse of `to_json`. Raises `GraphError` on anything else."""
        if not isinstance(data, list) or len(data) > 10_000:
            got = type(data).__name__ if not isinstance(data, list) else f"{len(data)} steps"
            raise GraphError(Diagnostic(where="edit script", got=got, expected="a list of at most 10,000 steps"))
        return EditScript(steps=tuple(_step_from_json(item, i) for i, item in enumerate(data)))


def _step_json(step: Step) -> dict[str, Any]:
    kind = next(k for k, t in _KINDS.items() if t is type(step))
    out: dict[str, Any] = {"step": kind}
    for name in step.__slots__:
        value = getattr(step, name)
        if name == "settings":
            value = {k: {"number": str(v)} if isinstance(v, Number) else v for k, v in value}
        out[name] = list(value) if isinstance(value, tuple) else value
    if isinstance(step, Add) and not step.like and step.weights == "new":
        del out["weights"]
    return {k: v for k, v in out.items() if v not in ("", {}) or k in ("value", "node", "old", "new")}


def _step_from_json(item: Any, index: int) -> Step:
    where = f"edit script, step {index}"
    name = item.get("step") if isinstance(item, dict) else None
    kind = _KINDS.get(name) if isinstance(name, str) else None
    if kind is None:
        raise GraphError(Diagnostic(where=where, got=repr(item)[:80], expected=f"a step among {', '.join(_KINDS)}"))
    fields = {k: v for k, v in item.items() if k != "step"}
    try:
        if "settings" in fields:
            pairs = fields["settings"].items()
            fields["settings"] = tuple((k, Number.parse(v["number"]) if isinstance(v, dict) else v) for k, v in pairs)
        for name, value in fields.items():
            if isinstance(value, list):
                fields[name] = tuple(str(v) for v in value)
        return kind(**fields)
    except (TypeError, KeyError, AttributeError, ShapeError) as error:
        expected = f"fields {', '.join(kind.__slots__)}"
        raise GraphError(Diagnostic(where=where, got=repr(item)[:120], expected=expected)) from error
