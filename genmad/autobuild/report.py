"""The report of `genmad score` as HTML: best and worst modules, feature scores, rank correlations, Pareto front."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from genmad.autobuild.architecture import Floats
from genmad.autobuild.construction import Built
from genmad.autobuild.drawings import Bar, Cloud, bars_svg, cloud_svg, module_svg
from genmad.autobuild.report_page import PAGE, STYLE
from genmad.autobuild.scores import StageScores

NUM_SHOWN = 3
LONGEST_PICTURE = 8


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What a report tells.

    Attributes:
        title: of the space.
        target: what was to be high.
        num_labels: architectures learned from.
        seed: of everything random.
        version: of genmad.
        correlations: name (`hop 0` ..., `prediction`) -> mean and deviation over held-out folds.
        features: category -> choice -> mean and deviation over members.
        stages: scores of modules; empty where a space has no stages.
        heat: stage -> number of a module -> warmth in [0, 1] of each of its layers.
        num_members: predictors in the ensemble.
        scale: what unit module scores are in, in words.
        cloud: labelled architectures by target and cost; None without a cost.
        built: what the modules make.
        notes: in words.
    """

    title: str
    target: str
    num_labels: int
    seed: int
    version: str
    correlations: Mapping[str, tuple[float, float]]
    features: Mapping[str, Mapping[str, tuple[float, float]]]
    stages: Sequence[StageScores] = ()
    heat: Sequence[Mapping[int, Sequence[float]]] = ()
    num_members: int = 1
    scale: str = ""
    cloud: Cloud | None = None
    built: Sequence[Built] = ()
    notes: Sequence[str] = ()


def shown_modules(scores: StageScores) -> list[int]:
    """Numbers of the best and the worst modules, best first."""
    order = np.argsort(-scores.score, kind="stable").tolist()
    return order if len(order) <= 2 * NUM_SHOWN else [*order[:NUM_SHOWN], *order[-NUM_SHOWN:]]


def render_report(findings: Findings) -> str:
    """The page. Everything that came from a user's file is escaped."""
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    correlations = [Bar(name=name, value=mean, error=dev) for name, (mean, dev) in findings.correlations.items()]
    features = [
        (name, Markup(bars_svg(_centred(choices), f"scores of {name}"))) for name, choices in findings.features.items()
    ]
    cloud = findings.cloud
    return environment.from_string(PAGE).render(
        title=findings.title, target=findings.target, num_labels=f"{findings.num_labels:,}", style=Markup(STYLE),
        num_members=findings.num_members, seed=findings.seed, version=findings.version, notes=findings.notes,
        correlations=Markup(bars_svg(correlations, "rank correlation on held-out architectures", low=-0.2, high=1.0)),
        stages=[_stage(stage, heat) for stage, heat in zip(findings.stages, findings.heat, strict=True)],
        num_modules=f"{sum(len(stage.score) for stage in findings.stages):,}", scale=findings.scale, features=features,
        pareto="" if cloud is None else Markup(cloud_svg(cloud)),
        pareto_x="" if cloud is None else cloud.x_name, pareto_y="" if cloud is None else cloud.y_name,
        built=[
            {"predicted": f"{each.predicted:.5g}", "score": f"{each.score:.5g}", "text": each.text}
            for each in findings.built
        ],
    )  # fmt: skip


def _centred(choices: Mapping[str, tuple[float, float]]) -> list[Bar]:
    """A bar per choice, around the mean of its category."""
    middle = float(np.mean([mean for mean, _ in choices.values()])) if choices else 0.0
    return [Bar(name=name, value=mean - middle, error=dev) for name, (mean, dev) in choices.items()]


def _stage(scores: StageScores, heat: Mapping[int, Sequence[float]]) -> dict[str, Any]:
    from markupsafe import Markup

    rows: list[dict[str, Any]] = []
    rank = {number: place for place, number in enumerate(np.argsort(-scores.score, kind="stable").tolist(), 1)}
    for number in shown_modules(scores):
        layers = [name for run in scores.stage.layers(scores.codes[number].tolist()) for name in run]
        warmth = list(heat.get(number, [0.0] * len(layers)))
        spread = f" ± {scores.deviation[number]:.2g}" if len(scores.members) > 1 else ""
        rows.append({
            "rank": f"{rank[number]:,}", "score": f"{scores.score[number]:.5g}{spread}",
            "picture": Markup(module_svg(layers, warmth, in_chain=scores.stage.in_chain)),
        })  # fmt: skip
    return {"name": scores.stage.name, "total": f"{len(scores.score):,}", "rows": rows}


def pareto_cloud(x: Floats, y: Floats, names: Sequence[str], x_name: str, y_name: str) -> Cloud:
    """A cloud whose front is high in y and low in x."""
    order = np.lexsort((-y, x))
    best = np.maximum.accumulate(y[order])
    marked = np.zeros(len(x), np.bool_)
    marked[order] = np.concatenate([[True], y[order][1:] > best[:-1]])
    return Cloud(x=x, y=y, marked=marked, names=names, x_name=x_name, y_name=y_name)
