"""Several requests in one sentence, answered one after the other where that is likelier than at once.

The network was trained on sentences of one request more than on those of two or three, so the whole sentence may be
less certain to it than its clauses. Both are scored by the same law: the log-likelihood of the script that answers the
sentence, against the sum over the scripts that answer the clauses, each on the graph that the clauses before it left,
and over the stretches left out, each of which must ask for nothing by itself.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from genmad.ir import Graph, GraphError, call_places, canonical_hash
from genmad.ir.build import OpSet
from genmad.ir.script import At, EditScript, Step
from genmad.sampling.clauses import Parting, partings, speaks_of_before, with_place
from genmad.sampling.proposal import Proposal

SURE = math.log(0.9)
"""From this log-likelihood on, the answer to the whole sentence stands."""
MARGIN = 0.2
"""By how much the answer in parts must be likelier. Set on development families: single requests then never lose."""
MAX_TEXTS = 16
TRIED = 2
IMPOSSIBLE = -1e9


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the generator makes of a text: its proposal, and the probability that the text asks for nothing it knows."""

    proposal: Proposal
    nonsense: float


Ask = Callable[[Graph, str], Answer]


def answer_in_parts(graph: Graph, prompt: str, whole: Proposal, ask: Ask, opset: OpSet) -> Proposal | None:
    """The likeliest answer in parts; None where the whole sentence's own is likelier or the sentence has no parts."""
    ways = partings(prompt)
    if not ways or (whole.status == "ok" and whole.log_prob >= SURE):
        return None
    texts = dict.fromkeys(text for way in ways for text in (*way.clauses, *way.asides))
    if len(texts) > MAX_TEXTS:
        ways = tuple(way for way in ways if not way.asides)
        texts = dict.fromkeys(text for way in ways for text in way.clauses)
    alone = {text: ask(graph, text) for text in list(texts)[:MAX_TEXTS]}
    scored = sorted(((_promise(way, alone), i) for i, way in enumerate(ways)), reverse=True)
    best: Proposal | None = None
    for promise, i in scored[:TRIED]:
        least = whole.log_prob + MARGIN if best is None else best.log_prob
        if promise <= least:
            break
        found = _one_by_one(graph, ways[i], alone, ask, opset)
        if found is not None and found.log_prob > least:
            best = found
    return best


def _promise(way: Parting, alone: dict[str, Answer]) -> float:
    """An upper estimate of the way's log-likelihood, from its texts on the graph as it is."""
    total = 0.0
    for text in way.asides:
        total += math.log(max(alone[text].nonsense, 1e-9)) if text in alone else IMPOSSIBLE
    for i, text in enumerate(way.clauses):
        if i and speaks_of_before(text):
            continue
        found = alone.get(text)
        if found is None or found.proposal.status not in ("ok", "ambiguous") or found.proposal.state is None:
            return IMPOSSIBLE
        total += found.proposal.log_prob
    return total


def _one_by_one(graph: Graph, way: Parting, alone: dict[str, Answer], ask: Ask, opset: OpSet) -> Proposal | None:
    """The clauses answered in order, each on what the ones before left."""
    done: list[Proposal] = []
    now = graph
    total = sum(math.log(max(alone[text].nonsense, 1e-9)) for text in way.asides)
    for clause in way.clauses:
        if speaks_of_before(clause):
            place = _place_of(graph, done)
            if not place:
                return None
            clause = with_place(clause, place)
        found = (alone[clause] if not done and clause in alone else ask(now, clause)).proposal
        if found.status not in ("ok", "ambiguous") or found.state is None:
            return None
        done.append(found)
        now = found.state.graph
        total += found.log_prob
    # A section of the clause before must not swallow the first steps of the next one.
    steps = tuple(step for found in done for step in _sectioned(found.script))
    script = EditScript(steps=steps)
    try:
        state = script.run(graph, opset)
    except GraphError:
        return None
    if canonical_hash(state.graph) != canonical_hash(now):
        return None
    return replace(
        done[0], status="ok", script=script, state=state, log_prob=total, confidence=math.exp(total),
        num_tokens=sum(found.num_tokens for found in done),
    )  # fmt: skip


def _sectioned(script: EditScript) -> tuple[Step, ...]:
    return script.steps if script.steps and isinstance(script.steps[0], At) else (At(), *script.steps)


def _place_of(graph: Graph, done: list[Proposal]) -> str:
    """The layers that were edited so far, in words; empty where there are none that a few words could name."""
    calls = list(dict.fromkeys(c for found in done for s in found.script.steps if isinstance(s, At) for c in s.calls))
    if not calls:
        return ""
    if len(calls) <= 3:
        return f"layer{'s' if len(calls) > 1 else ''} {' and '.join(calls)}"
    stem = calls[0].rpartition(".")[0]
    siblings = {place.path for place in call_places(graph) if place.path.rpartition(".")[0] == stem}
    return "all layers" if siblings <= set(calls) else ""
