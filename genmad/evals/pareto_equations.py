"""Where building pays: what an equation gives for what is built, for two trivial networks, and for the best labelled.

With accuracy alone the largest network is hard to beat and needs no learning; so what is built has to be compared with
the largest and the smallest network as well as with the labels.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from genmad.autobuild.additive import built_by_addition
from genmad.autobuild.architecture import Floats
from genmad.autobuild.equations import parse_equation
from genmad.autobuild.nas import ModuleProposer
from genmad.autobuild.proposals import Front, propose_equations
from genmad.evals.pareto_arena import NAMES, Field
from genmad.spaces.grammar import Words

Tops = Mapping[str, tuple[Words, ...]]
"""Equation -> the best modules of each factor, best first."""
AIMS = (0.1, 0.3, 0.5, 0.7, 0.9)
"""Places on the labelled front that are aimed at."""
WIDE = 3
"""Modules per factor whose products are all measured: 3^5 = 243 networks."""


def where_building_pays(each: Field, scored: Mapping[str, Tops]) -> dict[str, Any]:
    """Equation -> what is gained over the best of the labelled, in deviations of the labels.

    `largest`, `smallest`: the trivial networks. By each way of scoring modules: `built`, the one network of the best
    modules, which nothing was measured for; `built_best`, the best of 243; `pays`, whether the one network beats the
    best of all labelled and both trivial ones; and its accuracy and latency.
    """
    equations = dict.fromkeys(text for tops in scored.values() for text in tops)
    return {text: _judged(each, text, {name: tops[text] for name, tops in scored.items()}) for text in equations}


def _judged(each: Field, text: str, tops: Mapping[str, tuple[Words, ...]]) -> dict[str, Any]:
    equation = parse_equation(text, NAMES)
    labels = equation.evaluate(each.columns)
    scale, top = float(labels.std()) or 1.0, float(labels.max())

    def gains(words: Words) -> Floats:
        return (equation.evaluate(each.measure(words)) - top) / scale

    found: dict[str, Any] = {
        "largest": round(float(gains(each.ground.largest)[0]), 3),
        "smallest": round(float(gains(each.ground.smallest)[0]), 3),
    }
    for name, modules in tops.items():
        # Products list the combination of all first modules first.
        words = ModuleProposer(modules=tuple(factor[:WIDE] for factor in modules)).members()
        gained, first = gains(words), each.measure(words[:1])
        found[name] = {
            "built": round(float(gained[0]), 3), "built_best": round(float(gained.max()), 3),
            "pays": bool(gained[0] > max(0.0, found["largest"], found["smallest"])),
            "acc_pct": round(100 * float(first["acc"][0]), 2), "lat_ms": round(float(first["lat"][0]), 3),
        }  # fmt: skip
    return found


def aims_met(each: Field) -> dict[str, list[dict[str, float]]]:
    """How near the one network built by additive scores comes to a wished latency, by the oracle.

    `built`: equations whose number was set for what is built; `labelled`: for the best hundredth of the labels. `miss`
    is the distance as a share of the labelled front's latencies, `above_labels` how much better its accuracy is than
    that of the best labelled network which is not slower, in points.
    """
    acc, lat = each.columns["acc"], each.columns["lat"]
    labelled = Front.of(acc, lat)
    by_addition = built_by_addition(each.ground.solver, each.ground.factors, acc, lat)
    found: dict[str, list[dict[str, float]]] = {}
    for name, achieve in (("built", by_addition), ("labelled", None)):
        for place in AIMS:
            wish = propose_equations(acc, lat, quantile=place, achieve=achieve, families=("log",))[0]
            word = np.concatenate(each.additive_tops(wish.text, 1), axis=1)
            made = {column: float(values[0]) for column, values in each.measure(word).items()}
            found.setdefault(name, []).append({
                "aim_ms": round(wish.aim, 3), "built_ms": round(made["lat"], 3),
                "miss": round(abs(made["lat"] - wish.aim) / labelled.spans[1], 4),
                "above_labels": round(100 * (made["acc"] - float(labelled.at(np.array([made["lat"]]))[0])), 3),
            })  # fmt: skip
    return found


def shares_that_pay(equations: Mapping[str, Mapping[str, Any]], scorer: str) -> dict[str, float]:
    """Over all fields: the share of equations with latency in them for which building pays, and the same for
    accuracy alone."""
    rows = [(text, found[scorer]["pays"]) for field in equations.values() for text, found in field.items()]
    groups = {
        "mixed": [paid for text, paid in rows if "lat" in text],
        "accuracy": [p for t, p in rows if "lat" not in t],
    }
    return {name: round(float(np.mean(paid)), 4) for name, paid in groups.items() if paid}
