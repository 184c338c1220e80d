"""Requests to save: half the multiply-adds of a stage, a model of so many parameters. Layers go until it fits."""

import random
from collections.abc import Sequence

from genmad.cost import cost_of, symbols_of
from genmad.intents.anatomy import Anatomy, Layer
from genmad.intents.draft import Draft, Intent, out_of_range, refusal_draft
from genmad.intents.layers import keeps_type, per_container
from genmad.intents.numerals import spelled
from genmad.intents.phrasing import Phrases, say
from genmad.intents.scaling import one_stack
from genmad.intents.targets import pick_target
from genmad.intents.types import Request
from genmad.intents.writing import ScriptWriter
from genmad.ops import OPSET

METRICS = {
    "macs": say(
        "MACs", "FLOPs", "the compute", "multiply-adds", "the MACs", "the FLOPs", "multiply-accumulates", "the cost",
        unseen=("the arithmetic", "the operations"),
    ),
    "params": say(
        "parameters", "the parameters", "the number of parameters", "weights", "params", "the parameter count",
        "the size", unseen=("the trainable numbers", "the weight count"),
    ),
}  # fmt: skip
_FRACTIONS = {
    2: say("halve", "cut in half", "halve", "cut by half", "reduce by 50 %", unseen=("bring down by one half",)),
    3: say("cut to a third", "reduce to one third", "divide by three", unseen=("bring down to a third",)),
    4: say("quarter", "cut to a quarter", "reduce by 75 %", "reduce to a quarter", unseen=("bring down to 25 %",)),
}  # fmt: skip


def layer_costs(anatomy: Anatomy, metric: str) -> dict[str, int]:
    """Multiply-adds or parameters of each layer, and under "" of the whole model."""
    key = ("cost", metric)
    if key not in anatomy.cache:
        report = cost_of(anatomy.graph, OPSET, dict.fromkeys(symbols_of(anatomy.graph), 128) | {"batch": 1})
        number = {"macs": lambda row: row.num_macs, "params": lambda row: row.num_params}[metric]
        table = {x.path: sum(map(number, report.under(x.path))) for x in anatomy.layers}
        anatomy.cache[key] = {**table, "": sum(map(number, report.rows))}
    return anatomy.cache[key]  # type: ignore[no-any-return]


def layers_to_go(anatomy: Anatomy, layers: Sequence[Layer], metric: str, excess: float) -> tuple[Layer, ...]:
    """The fewest of the last layers that together cost at least `excess`; () where none, or all, have to go."""
    costs, gone, saved = layer_costs(anatomy, metric), 0, 0
    while saved < excess and gone < len(layers) - 1 and keeps_type(anatomy, layers[-1 - gone]):
        saved += costs[layers[-1 - gone].path]
        gone += 1
    found = tuple(layers[len(layers) - gone :])
    spare = min((costs[x.path] for x in found), default=0)
    return found if excess <= saved < excess + spare else ()


def _remove(writer: ScriptWriter, gone: Sequence[Layer]) -> None:
    per_container(writer, gone, lambda layer: writer.remove(layer.call))


def _propose_fraction(possible: bool, anatomy: Anatomy, rng: random.Random) -> Draft | None:
    target = pick_target(anatomy, rng)
    metric, over = rng.choice(list(METRICS)), rng.choice((2, 2, 2, 3, 4))
    if target is None or (len(target.layers) < 2) is possible or len({x.stem for x in target.layers}) > 1:
        return None
    slots = {"metric": METRICS[metric], "less": _FRACTIONS[over], "target": target.phrases}
    costs = layer_costs(anatomy, metric)
    total = sum(costs[x.path] for x in target.layers)
    gone = layers_to_go(anatomy, target.layers, metric, total - total / over)
    if not possible:
        return refusal_draft("budget", "not_applicable", slots, exact=target.exact)
    if not gone:
        return None
    request = Request(intent="budget", layers=target.paths, values=(("metric", metric), ("over", over)))
    return Draft(
        request=request, slots=slots, build=lambda writer: _remove(writer, gone), layers=target.layers,
        exact=target.exact,
    )  # fmt: skip


def _rounded(number: float) -> int:
    """Two digits that count."""
    step = 10 ** max(0, len(str(int(number))) - 2)
    return int(number) // step * step


def _propose_limit(anatomy: Anatomy, rng: random.Random) -> Draft | None:
    layers = one_stack(anatomy)
    if not layers:
        return None
    metric = "params" if rng.random() < 0.7 else "macs"
    costs = layer_costs(anatomy, metric)
    keep = rng.randrange(1, len(layers))
    least = costs[""] - sum(costs[x.path] for x in layers[keep:])
    limit = _rounded(least + costs[layers[keep].path] * rng.uniform(0.2, 0.95))
    slots = {"limit": _limit_words(limit, metric)}
    if rng.random() < 0.1:
        limit = _rounded(costs[""] * rng.uniform(1.3, 5))
        return refusal_draft("budget", "already_so", {"limit": _limit_words(limit, metric)}, values={"limit": limit})
    gone = layers_to_go(anatomy, layers, metric, costs[""] - limit)
    if not gone or limit < least:
        return None
    request = Request(intent="budget", values=(("metric", metric), ("limit", limit)))
    return Draft(request=request, slots=slots, build=lambda writer: _remove(writer, gone))


def _limit_words(limit: int, metric: str) -> Phrases:
    noun = "parameters" if metric == "params" else "MACs"
    units = ((10**9, "billion", "B"), (10**6, "million", "M"), (10**3, "thousand", "k"))
    seen = [f"{limit} {noun}", f"{limit:,} {noun}"]
    for size, word, letter in units:
        if limit >= size:
            short = f"{limit / size:.10g}"
            seen += [f"{short}{letter} {noun}", f"{short} {word} {noun}", f"{short}{letter} {noun}"]
            if limit % size == 0 and limit // size < 100:
                seen.append(f"{spelled(limit // size)} {word} {noun}")
            break
    return Phrases(tuple(seen), (f"a total of {limit} {noun}",))


def _propose(anatomy: Anatomy, rng: random.Random) -> Draft | None:
    return _propose_limit(anatomy, rng) if rng.random() < 0.3 else _propose_fraction(True, anatomy, rng)


BUDGET = Intent(
    name="budget",
    reading="remove",
    seen=(
        "{less} {metric} of {target}",
        "{less} {metric} (in|used by|spent in) {target}",
        "~{target}: {less} {metric}",
        "make {target} cheaper: {less} {metric}",
        "~I want to {less} {metric} of {target}",
        "~(could|can) you {less} {metric} of {target}?",
        "save compute: {less} {metric} of {target}",
        "drop layers to {less} {metric} of {target}",
        "{less} {metric} of {target} by removing layers",
        "shrink {target}: {less} {metric}",
        "slim down {target}: {less} {metric}",
        "fit (it|the model|the network) (in|into|within) {limit}",
        "make (it|the model|the network) fit (in|into) {limit}",
        "~(at most|no more than|up to|max) {limit}",
        "(shrink|reduce|prune|cut) (it|the model|the network) to (at most |)(fit |){limit}",
        "get (it|the model) (under|below) {limit}",
        "stay (under|below|within) {limit}",
        "~the model (must|should) (have|use) (at most|no more than) {limit}",
        "~(my|the) budget is {limit}",
        "remove layers until (it has|there are) (at most|no more than) {limit}",
        "bring (it|the model|the network) (down |)to (at most |){limit}",
        "keep (it|the model) (within|under) {limit}",
        "limit (it|the model|the network) to {limit}",
    ),
    unseen=(
        "economise in {target}: {less} {metric}",
        "~{target} is too expensive, {less} {metric}",
        "put {target} on a diet: {less} {metric}",
        "~we can only afford {limit}",
        "squeeze (it|the network) into {limit}",
        "~{limit} is all we have",
    ),
    propose=_propose,
    refuse=(
        lambda anatomy, rng: _propose_fraction(False, anatomy, rng),
        out_of_range("budget", lambda _: {"metric": METRICS["macs"], "less": _FRACTIONS[2]}),
    ),
    weight=0.8,
    combines=False,
)
