"""`genmad eval edits`: does the model do what a sentence asks, on families and in phrasings that it never saw?"""

import random
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from genmad.evals.confidence import calibration_error, platt, success_at_coverage
from genmad.evals.edit_trials import EditorLike, Outcome, Sampler, Trial, attempt, draw_trials
from genmad.evals.held_out import held_out_families, read_config, small_graphs
from genmad.evals.report import CpuClock, EvalReport, commit, fraction, use_one_thread
from genmad.intents.types import EditExample
from genmad.ir.graph import Graph

ABLATIONS = {"no_text": "text", "no_structure": "structure"}


@dataclass(frozen=True, slots=True, kw_only=True)
class EditEvalConfig:
    """configs/eval_edits.yaml; see the comments there."""

    families: tuple[str, ...]
    development: bool
    requests: int
    requests_quick: int
    families_quick: int
    nearest_families: tuple[str, ...]
    variants_per_family: int
    ambiguous_from: float
    execute_ablations: bool
    failures: int


def run(
    quick: bool = False,
    seed: int = 0,
    n: int | None = None,
    checkpoint: str | None = None,
    *,
    editor: EditorLike | None = None,
    graphs: Mapping[str, Sequence[Graph]] | None = None,
    sample: Sampler | None = None,
) -> dict[str, Any]:
    """The report as a JSON object; `editor`, `graphs` and `sample` stand in for the real ones in tests."""
    clock, threads = CpuClock(), use_one_thread()
    config = read_config("eval_edits.yaml", EditEvalConfig)
    count = n or (config.requests_quick if quick else config.requests)
    graphs = graphs or _runnable(small_graphs(_families(config, quick), config.variants_per_family, seed, say=_say))
    sample = sample or _sampler(fresh=not config.development)
    trials = list(draw_trials(graphs, sample, count=count, rng=random.Random(seed)))
    nearest = _nearest(config, seed, quick) if editor is None else None
    editor = editor or _editor(checkpoint)
    outcomes = _attempt_all("full", editor, trials, config, seed, execute=True)
    baselines = _baselines(editor, nearest, trials, config, seed)
    return EvalReport(
        name="edits",
        commit=commit(),
        seed=seed,
        n=len(outcomes),
        split=f"{'development' if config.development else 'held-out'} families ({', '.join(graphs)}), "
        f"half of the requests in {'held-out' if config.development else 'fresh'} phrasings",
        threads=threads,
        cpu_seconds=clock.seconds(),
        metrics=metrics_of(outcomes),
        baselines=baselines,
        breakdown=breakdown_of(outcomes),
        failures=failures_of(outcomes, config.failures),
        quick=quick,
    ).to_json()


def _baselines(
    editor: EditorLike, nearest: EditorLike | None, trials: Sequence[Trial], config: EditEvalConfig, seed: int
) -> dict[str, dict[str, float]]:
    """The ablations, the copying baseline, and what answering clause by clause buys: `at_once` answers the combined
    requests, and no others, each in one go."""
    found = {}
    for name, ablate in ABLATIONS.items():
        outcomes = _attempt_all(name, editor, trials, config, seed, execute=config.execute_ablations, ablate=ablate)
        found[name] = metrics_of(outcomes)
    combined = [trial for trial in trials if trial.example.request.intent == "both"]
    if combined:
        found["at_once"] = metrics_of(
            _attempt_all("at_once", editor, combined, config, seed, execute=False, ablate="parts")
        )
    if nearest is not None:
        outcomes = _attempt_all("nearest_prompt", nearest, trials, config, seed, execute=config.execute_ablations)
        found["nearest_prompt"] = metrics_of(outcomes)
    return found


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _editor(checkpoint: str | None) -> EditorLike:
    from genmad.sampling import Editor

    editor: EditorLike = Editor.from_pretrained(checkpoint)
    return editor


def _nearest(config: EditEvalConfig, seed: int, quick: bool) -> EditorLike:
    """The baseline that copies; it knows small graphs of families that the generator was trained on."""
    from genmad.evals.nearest_prompt import EXAMPLES, NearestPrompt

    families = config.nearest_families[: config.families_quick] if quick else config.nearest_families
    found = small_graphs(families, config.variants_per_family, seed, say=_say)
    known = [graph for graphs in found.values() for graph in graphs]
    return NearestPrompt(known, seed=seed, examples=EXAMPLES // 20 if quick else EXAMPLES)


def _families(config: EditEvalConfig, quick: bool) -> tuple[str, ...]:
    if config.development:
        return held_out_families()
    return config.families[: config.families_quick] if quick else config.families


def _runnable(graphs: Mapping[str, Sequence[Graph]]) -> Mapping[str, Sequence[Graph]]:
    """The graphs that pass level 5 as they are: of what cannot run before an edit, no edit can show that it runs."""
    found: dict[str, list[Graph]] = {}
    for family, members in graphs.items():
        for graph in members:
            faults = problems(graph)
            if faults:
                _say(f"{family}: a graph is left out that does not run before any edit: {faults[0][:200]}")
            else:
                found.setdefault(family, []).append(graph)
    return found


def _sampler(*, fresh: bool) -> Sampler:
    """`sample_example`; with `fresh`, what is not in a seen phrasing is in one that nobody has trained or tuned on."""
    from genmad.intents.library import sample_example

    def sample(graph: Graph, rng: random.Random, *, intent: str | None, unseen: bool) -> EditExample | None:
        return sample_example(graph, rng, intent=intent, unseen=unseen, fresh=fresh and unseen)

    return sample


def problems(graph: Graph) -> tuple[str, ...]:
    """Why a graph does not pass level 5 (torch and ONNX Runtime run it and agree); empty where it does."""
    from genmad.ops import OPSET
    from genmad.validate import Level, validate

    try:
        return tuple(str(item) for item in validate(graph, OPSET, Level.EXECUTABLE).diagnostics)
    except Exception as error:  # a check that crashes is a fault of the result, not the end of the evaluation
        return (f"{type(error).__name__}: {error}"[:500],)


def _attempt_all(
    name: str,
    editor: EditorLike,
    trials: Sequence[Trial],
    config: EditEvalConfig,
    seed: int,
    *,
    execute: bool,
    ablate: str = "",
) -> tuple[Outcome, ...]:
    """Every request put to the editor, with a line of progress now and then."""
    from genmad.ops import OPSET

    out: list[Outcome] = []
    start = time.monotonic()
    for index, trial in enumerate(trials):
        outcome = attempt(
            editor,
            trial,
            OPSET,
            problems if execute else None,
            seed=seed + index,
            ambiguous_from=config.ambiguous_from,
            ablate=ablate,
        )
        out.append(outcome)
        if (index + 1) % 20 == 0 or index + 1 == len(trials):
            good = sum(o.success for o in out)
            _say(f"{name}: {index + 1}/{len(trials)} requests, {good} met, {time.monotonic() - start:.0f} s")
    return tuple(out)


def _rate(outcomes: Iterable[Outcome], hit: Callable[[Outcome], bool]) -> float:
    found = [hit(outcome) for outcome in outcomes]
    return fraction(sum(found), len(found))


def metrics_of(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """The figures of an evaluation, flat.

    `executes` and `untouched` are shares of what was emitted, `success` and `false_refused` of the requests that can be
    met, `refused` of those that cannot; `success_single` is of requests for one thing, `success_combined` of two or
    three in one sentence; `unseen_drop` is success in seen phrasings less success in held-out ones. Calibration is of
    all requests: an impossible one is answered rightly where it is refused.
    """
    possible = [o for o in outcomes if o.possible]
    impossible = [o for o in outcomes if not o.possible]
    seen = _rate([o for o in possible if o.seen], lambda o: o.success)
    unseen = _rate([o for o in possible if not o.seen], lambda o: o.success)
    tried = [o for o in outcomes if o.executes is not None]
    judged = [o for o in possible if o.untouched is not None]
    return {
        "executes": _rate(tried, lambda o: bool(o.executes)),
        "success": _rate(possible, lambda o: o.success),
        "success_single": _rate([o for o in possible if o.request.intent != "both"], lambda o: o.success),
        "success_combined": _rate([o for o in possible if o.request.intent == "both"], lambda o: o.success),
        "untouched": _rate(judged, lambda o: bool(o.untouched)),
        "refused": _rate(impossible, lambda o: o.success),
        "false_refused": _rate(possible, lambda o: o.status == "refused"),
        "unseen_drop": round(seen - unseen, 4),
        "success_seen": seen,
        "success_unseen": unseen,
        "emitted": fraction(sum(o.emitted for o in outcomes), len(outcomes)),
        "asked_back": _rate(outcomes, lambda o: o.asked_back),
        "calibration_error": calibration_error([o.confidence for o in outcomes], [o.success for o in outcomes]),
        "success_at_90_coverage": success_at_coverage(
            [o.confidence for o in outcomes], [o.success for o in outcomes], 0.9
        ),
        "num_possible": len(possible),
        "num_impossible": len(impossible),
    }


def breakdown_of(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Numbers and shares by intent, by family and by the reason for which a request cannot be met."""
    possible = [o for o in outcomes if o.possible]
    impossible = [o for o in outcomes if not o.possible]
    return {
        "intent": _table(possible, lambda o: o.request.intent),
        "family": _table(possible, lambda o: o.family),
        "refusal": _table(impossible, lambda o: o.request.refusal),
        "refusal_intent": _table(impossible, lambda o: o.request.intent),
        "platt": dict(
            zip(("scale", "shift"), platt([o.confidence for o in outcomes], [o.success for o in outcomes]), strict=True)
        ),
    }


def _table(outcomes: Iterable[Outcome], group: Callable[[Outcome], str]) -> dict[str, Any]:
    groups: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        groups.setdefault(group(outcome), []).append(outcome)
    table = {}
    for name, members in sorted(groups.items()):
        row: dict[str, Any] = {"n": len(members), "success": _rate(members, lambda o: o.success)}
        if members[0].possible:
            row["untouched"] = _rate([o for o in members if o.untouched is not None], lambda o: bool(o.untouched))
            row["false_refused"] = _rate(members, lambda o: o.status == "refused")
        table[name] = row
    return table


def failures_of(outcomes: Iterable[Outcome], count: int) -> tuple[dict[str, Any], ...]:
    """The worst failures, worst first."""
    bad = sorted((o for o in outcomes if not o.success or o.executes is False), key=lambda o: o.severity)
    return tuple(
        {
            "prompt": o.prompt,
            "family": o.family,
            "intent": o.request.intent,
            "phrasing": o.phrasing,
            "expected": o.request.refusal or "ok",
            "got": o.status if o.executes is not False else f"{o.status}, does not run",
            "confidence": o.confidence,
            "reasons": list(o.reasons[:3]),
            "steps": list(o.steps[:8]),
        }
        for o in bad[:count]
    )
