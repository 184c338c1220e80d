"""The Python API: `genmad.load("gpt2").edit("add local attention to the last layer").save_pretrained("edited/")`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from genmad.comparison import Comparison, compare_outputs, output_line
from genmad.diff import GraphDiff
from genmad.inspection import Inspection, graph_cost, outline, sizes_of
from genmad.ir import Diagnostic, Graph, GraphDelta, GraphError
from genmad.ir.script import EditScript, EditState
from genmad.lowering.package import save_safetensors, write_files
from genmad.lowering.weights import PlannedWeights, WeightPlan, plan_weights
from genmad.ops import OPSET
from genmad.recipe import Recipe, RecipeEdit, misfit
from genmad.report import (
    Clock,
    EditReport,
    UsageError,
    card,
    check_place,
    check_prompt,
    cost_lines,
    no_result,
    plan_head,
    plan_lines,
    reading_lines,
    reading_pairs,
    readings_json,
    require_valid,
)

if TYPE_CHECKING:
    import torch

    from genmad.importers.report import ImportReport
    from genmad.validate import ValidationReport

ALL_LEVELS = 5
GRAPH_LEVELS = 4


class Reading(Protocol):
    """One way to read a prompt, and how likely it is."""

    name: str
    probability: float


class Proposal(Protocol):
    """One answer of an editor; `status` is `ok`, `refused`, `ambiguous` or `failed`."""

    status: str
    script: EditScript
    state: EditState | None
    confidence: float
    reading: str
    readings: tuple[Any, ...]
    reason: str
    blocked: str


class EditorLike(Protocol):
    """What writes edits: `genmad.sampling.Editor`, or a stand-in."""

    def edit(
        self, graph: Graph, prompt: str, *, at: str | None, reading: str | None, samples: int, seed: int
    ) -> Sequence[Any]: ...


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A model: its graph, what the import did, and its weights.

    Attributes:
        graph: the architecture.
        report: what the import lifted, left primitive and refused; of an edited model what the edit did.
        parameters: full parameter name -> tensor, loaded when asked for; empty without weights.
        clock: seconds by phase.
    """

    graph: Graph
    imported: ImportReport
    parameters: Mapping[str, torch.Tensor]
    clock: Clock = field(default_factory=Clock, repr=False, compare=False)

    @property
    def report(self) -> Any:
        return self.imported

    @property
    def source(self) -> dict[str, str]:
        """`id`, `kind` and `weights` (`loaded`, `random` or `none`)."""
        weights = self.imported.weights if self.parameters else "none"
        return {"id": self.imported.source, "kind": self.imported.kind, "weights": weights}

    @property
    def origin(self) -> Architecture:
        """The imported model; of an edited one that from which the edits started."""
        return self

    @property
    def recipe(self) -> Recipe:
        return Recipe(source=self.imported.source, edits=())

    def edit(
        self, prompt: str, *, at: str | None = None, reading: str | None = None, samples: int = 1, seed: int = 0,
        init: str = "preserve", editor: EditorLike | None = None,
    ) -> Edited:  # fmt: skip
        """The model changed as the sentence says. Nothing is written, and this model stays as it is.

        Raises `UsageError` (empty or very long prompt), `RefusedError`, `AmbiguousError` or `NoValidResultError`.
        """
        check_prompt(prompt)
        check_place(self.graph, at)
        if editor is None:
            with self.clock.phase("load generator"):
                editor = load_editor(None)
        with self.clock.phase("decode"):
            found = editor.edit(self.graph, prompt, at=at, reading=reading, samples=samples, seed=seed)
        good = [p for p in found if p.status == "ok" and p.state is not None]
        if not good:
            raise no_result(prompt, found, self.graph)
        best = good[0]
        # On this very graph and not on the editor's canonical copy, so that a replay of the recipe gives the same.
        state = best.script.run(self.graph, OPSET)
        step = RecipeEdit(
            prompt=prompt, reading=best.reading, seed=seed, confidence=best.confidence, script=best.script
        )
        return Edited(
            graph=state.graph, imported=self.imported, parameters=self.parameters, clock=self.clock, before=self,
            step=step, copies=state.copies, init=init, readings=reading_pairs(best), others=tuple(good[1:]),
        )  # fmt: skip

    def replay(self, recipe: Recipe, *, init: str = "preserve") -> Edited:
        """The edits of a recipe, in order. Raises `RefusedError` where a step does not fit this model."""
        if not recipe.edits:
            raise UsageError(Diagnostic(where="recipe", got="no edits", expected="at least one"))
        model: Architecture = self
        for index, step in enumerate(recipe.edits):
            try:
                state = step.script.run(model.graph, OPSET)
            except GraphError as error:
                raise misfit(index, error, self.imported.source) from error
            model = Edited(
                graph=state.graph, imported=self.imported, parameters=model.parameters, clock=self.clock, before=model,
                step=step, copies=state.copies, init=init,
            )  # fmt: skip
        assert isinstance(model, Edited)
        return model

    def inspect(self, *, depth: int | None = None) -> Inspection:
        """The model as a tree with shapes, parameters and MACs."""
        cost, graph = graph_cost(self.graph), self.graph
        return Inspection(
            source=self.imported.source, kind=self.imported.kind, weights=self.source["weights"],
            inputs=tuple(f"{v.name}: {v.type}" for v in graph.main.inputs),
            outputs=tuple(f"{v}: {graph.main.types[v]}" for v in graph.main.outputs),
            params=cost["params"], macs=cost["macs"], sizes=sizes_of(graph), num_nodes=graph.num_nodes,
            num_blocks=len(graph.all_blocks), primitive=dict(self.imported.primitive), notes=self.imported.notes,
            rows=outline(graph, depth=depth),
        )  # fmt: skip

    def check(self, level: int = ALL_LEVELS) -> ValidationReport:
        """The validity levels 1 to `level`; the report says which passed and names what did not."""
        from genmad.validate import Level, validate

        with self.clock.phase("check"):
            return validate(self.graph, OPSET, up_to=Level(level))

    def to_torch(self) -> torch.nn.Module:
        """A torch module in evaluation mode: with these weights, or with fresh ones where there are none."""
        from genmad.lowering.to_torch import initialise, to_torch

        if not self.parameters:
            module = to_torch(self.graph)
            initialise(module, self.graph, 0)
            return module.eval()
        module = to_torch(self.graph, device="meta")
        module.load_state_dict(dict(self.parameters), assign=True)
        return module.eval()

    def to_onnx(self, path: str | Path, *, force: bool = False) -> None:
        """Writes one `.onnx` file (and its data beside it when large). Raises `OutputError`."""
        target = Path(path)
        write_files(target, {target.name: self._write_onnx}, force=force)

    def save_pretrained(self, folder: str | Path, *, force: bool = False) -> None:
        """Writes the hand-over folder. Raises `OutputError`; after an error nothing is left."""
        with self.clock.phase("write"):
            write_files(Path(folder), self._writers(), force=force)

    def _writers(self) -> dict[str, Any]:
        writers: dict[str, Any] = {"model.py": self._write_source, "model.onnx": self._write_onnx}
        if self.parameters:
            writers["model.safetensors"] = partial(save_safetensors, self.parameters)
        return writers

    def _write_onnx(self, path: Path) -> None:
        from genmad.lowering.to_onnx import save_onnx

        save_onnx(self.graph, path, self.parameters or None)

    @cached_property
    def source_text(self) -> str:
        """The contents of `model.py`: the architecture as plain PyTorch."""
        from genmad.lowering.to_torch import module_source

        return module_source(self.graph)

    def _write_source(self, path: Path) -> None:
        path.write_text(self.source_text, encoding="utf-8")


@dataclass(frozen=True, kw_only=True)
class Edited(Architecture):
    """A model after an edit. `parameters` holds the weights of the edited graph once constructed.

    Attributes:
        before: the model that was edited.
        step: what was asked and the steps that were taken.
        copies: (new scope, old scope) of calls that took over another call's weights.
        init: `preserve` or `random`.
        readings: (name, share) of the ways to read the prompt.
        others: further answers, where more samples were asked for.
    """

    before: Architecture
    step: RecipeEdit
    copies: tuple[tuple[str, str], ...] = ()
    init: str = "preserve"
    readings: tuple[tuple[str, float], ...] = ()
    others: tuple[Any, ...] = ()

    def __post_init__(self) -> None:
        if self.before.parameters:
            mapped = PlannedWeights(self.weight_plan, self.before.parameters, seed=self.step.seed)
            object.__setattr__(self, "parameters", mapped)

    @cached_property
    def weight_plan(self) -> WeightPlan:
        """Where each parameter comes from, and whether outputs are expected to stay."""
        return plan_weights(self.before.graph, self.graph, OPSET, copies=self.copies, init=self.init)

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why outputs are expected to differ from the imported model's, over all edits; empty when they should not."""
        earlier = self.before.reasons if isinstance(self.before, Edited) else ()
        return (*earlier, *self.weight_plan.reasons)

    @property
    def origin(self) -> Architecture:
        return self.before.origin

    @property
    def recipe(self) -> Recipe:
        earlier = self.before.recipe
        return Recipe(source=earlier.source, edits=(*earlier.edits, self.step))

    @cached_property
    def diff(self) -> GraphDiff:
        """Every node that is new, gone or different, compared with the imported model."""
        return GraphDiff.between(self.origin.graph, self.graph)

    @cached_property
    def delta(self) -> GraphDelta:
        """The exact difference to the imported model, with an inverse."""
        return GraphDelta.between(self.origin.graph, self.graph)

    @cached_property
    def costs(self) -> dict[str, Any]:
        """Parameters and MACs before and after, and the sizes at which they are told."""
        before, after = self.origin.graph, self.graph
        return {"before": graph_cost(before), "after": graph_cost(after), "at": sizes_of(before)}

    @cached_property
    def comparison(self) -> Comparison | None:
        """The outputs on one random input before and after; None without weights or when their shapes differ."""
        if not self.parameters:
            return None
        with self.clock.phase("compare outputs"):
            return compare_outputs(self.origin, self)

    @cached_property
    def validity(self) -> ValidationReport:
        return self.check(ALL_LEVELS if self.parameters else GRAPH_LEVELS)

    @property
    def plan(self) -> tuple[str, ...]:
        """What was done, in words."""
        lines = [plan_head(self.step.reading, self.step.confidence), *plan_lines(self.diff, self.graph)]
        if self.diff.is_empty:
            lines.append("nothing changes")
        # The plan alone does not run the models: it tells a difference that was measured already.
        measured, reasons = self.__dict__.get("comparison"), self.reasons
        return (*lines, *cost_lines(self.costs), output_line(self.origin.graph, self.graph, measured, reasons))

    @property
    def report(self) -> EditReport:
        """What `report.json` holds. Runs the checks and the comparison of outputs where they have not run yet."""
        validity, measured = self.validity, self.comparison
        plan = self.weight_plan
        return EditReport(
            prompt=self.step.prompt, source=self.source, plan=self.plan, reading=self.step.reading,
            readings=tuple(readings_json(self.readings)), confidence=round(self.step.confidence, 4),
            delta=self.diff.to_json(), validity=validity.to_json(), cost=self.costs,
            weights={kind: list(plan.names(kind)) for kind in ("inherited", "fitted", "copied", "new")},
            max_abs_output_diff=measured.difference if measured else None, seed=self.step.seed,
            time_s=self.clock.to_json(), notes=self.imported.notes,
            alternatives=tuple(_alternative(self.origin.graph, other) for other in self.others),
        )  # fmt: skip

    def reading_lines(self) -> list[str]:
        """The other readings, each with the flag that picks it."""
        return reading_lines(self.readings, self.step.reading)

    def _writers(self) -> dict[str, Any]:
        from genmad.lowering.torch_source import top_class

        require_valid(self.validity)
        texts = {
            "recipe.yaml": self.recipe.to_yaml(),
            "README.md": card(self.report, has_weights=bool(self.parameters), class_name=top_class(self.source_text)),
        }
        writers = {name: partial(_write_text, text) for name, text in texts.items()}
        return super()._writers() | writers | {"report.json": self._write_report}

    def _write_report(self, path: Path) -> None:
        """Last of all files, so that its times are those of the whole."""
        _write_text(json.dumps(self.report.to_json(), indent=2) + "\n", path)

    def to_onnx(self, path: str | Path, *, force: bool = False) -> None:
        """Writes one `.onnx` file and `x.report.json` beside it. Raises `OutputError` or `NoValidResultError`."""
        target = Path(path)
        require_valid(self.validity)
        _ = self.comparison
        writers = {target.name: self._write_onnx, f"{target.stem}.report.json": self._write_report}
        with self.clock.phase("write"):
            write_files(target, writers, force=force)


def _write_text(text: str, path: Path) -> None:
    path.write_text(text, encoding="utf-8")


def _alternative(before: Graph, other: Any) -> dict[str, Any]:
    delta = GraphDiff.between(before, other.state.graph).to_json()
    return {"confidence": other.confidence, "reading": other.reading, "delta": delta, "steps": other.script.to_json()}


def load_editor(checkpoint: str | None) -> EditorLike:
    """The generator of a checkpoint folder; None for the one that ships with the package."""
    from genmad.sampling import Editor

    return Editor.from_pretrained(checkpoint)  # type: ignore[no-any-return]


def load(source: str, *, inputs: Sequence[str] = (), weights: bool = True) -> Architecture:
    """A model from a transformers id or type, a folder, an `.onnx` file or `package.module:function`.

    Args:
        source: what to load.
        inputs: example inputs, `name=1x3x224x224:float32`, for a function that returns a module without its own.
        weights: whether to load weights too.

    Raises `SourceError` or `UnsupportedError`.
    """
    from genmad.importers.from_hf import load_source

    clock = Clock()
    with clock.phase("import"):
        found = load_source(source, inputs=tuple(inputs), weights=weights)
    parameters = found.parameters if weights and found.report.weights != "none" else {}
    return Architecture(graph=found.graph, imported=found.report, parameters=parameters, clock=clock)
