"""One request put to an editor, and what became of it."""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from genmad.evals.postconditions import judge
from genmad.intents.types import EditExample, Request
from genmad.ir.build import OpSet
from genmad.ir.graph import Graph

MAX_DRAWS = 400
SWAPPED = {
    ("local_attention_branch", "convert"): "local_attention_convert",
    ("local_attention_convert", "branch"): "local_attention_branch",
}


class ProposalLike(Protocol):
    """What `genmad.sampling` proposes: `status` is ok, refused, ambiguous or failed; `state` may be None."""

    @property
    def status(self) -> str: ...
    @property
    def script(self) -> Any: ...
    @property
    def state(self) -> Any: ...
    @property
    def confidence(self) -> float: ...
    @property
    def reason(self) -> str: ...


class EditorLike(Protocol):
    """What is measured: `genmad.sampling.Editor`, or a stand-in in a test."""

    @property
    def edit(self) -> Callable[..., Sequence[ProposalLike]]: ...


Sampler = Callable[..., EditExample | None]
"""`genmad.intents.library.sample_example`: (graph, rng, intent, unseen) to an example, or None."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A request on a graph of a held-out family."""

    family: str
    graph: Graph
    example: EditExample


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a request.

    Attributes:
        emitted: whether a graph was given back.
        executes: whether that graph passed level 5; None where that was not tried.
        success: the post-condition holds; for an impossible request, that it was refused.
        untouched: everything outside the request is as it was; None where nothing was emitted or nothing could be met.
        asked_back: whether the editor called the sentence ambiguous before the reading was given to it.
    """

    family: str
    request: Request
    prompt: str
    phrasing: str
    seen: bool
    status: str
    confidence: float
    emitted: bool
    executes: bool | None
    success: bool
    untouched: bool | None
    asked_back: bool
    reasons: tuple[str, ...]
    steps: tuple[str, ...]

    @property
    def possible(self) -> bool:
        return not self.request.refusal

    @property
    def severity(self) -> tuple[int, float]:
        """Order of the failures: what does not run first, then what touches too much, then the confidently wrong."""
        if self.emitted and self.executes is False:
            rank = 0
        elif self.emitted and self.untouched is False:
            rank = 1
        else:
            rank = 2 if self.emitted else 3
        return rank, -self.confidence


def draw_trials(
    graphs: Mapping[str, Sequence[Graph]], sample: Sampler, *, count: int, rng: random.Random
) -> Iterator[Trial]:
    """`count` requests, families and phrasings (seen, held-out) in turn. Raises `ValueError` when none can be drawn."""
    families = list(graphs)
    for index in range(count):
        unseen = index % 2 == 1
        family = families[(index // 2) % len(families)]
        for _ in range(MAX_DRAWS):
            graph = rng.choice(list(graphs[family]))
            example = sample(graph, rng, intent=None, unseen=unseen)
            if example is not None and example.seen is not unseen:
                yield Trial(family=family, graph=graph, example=replace(example, family=family))
                break
        else:
            word = "held-out" if unseen else "seen"
            raise ValueError(f"no request with a {word} phrasing could be drawn for {family} in {MAX_DRAWS} draws")


def accepted(example: EditExample, ambiguous_from: float) -> tuple[Request, ...]:
    """The request, and what the sentence may as well mean."""
    others = [reading for reading, mass in example.alternatives if mass >= ambiguous_from]
    names = [SWAPPED.get((example.request.intent, reading)) for reading in others]
    return (example.request, *(replace(example.request, intent=name) for name in names if name))


def attempt(
    editor: EditorLike,
    trial: Trial,
    opset: OpSet,
    problems: Callable[[Graph], Sequence[str]] | None,
    *,
    seed: int,
    ambiguous_from: float = 0.4,
    ablate: str = "",
) -> Outcome:
    """Puts the request to the editor and judges what comes back.

    An editor that asks which of two readings is meant is told so, when the sentence can indeed be read in two ways.
    """
    example = trial.example
    options: dict[str, Any] = {"seed": seed} | ({"ablate": ablate} if ablate else {})
    proposal = editor.edit(trial.graph, example.prompt, **options)[0]
    asked_back = proposal.status == "ambiguous"
    if asked_back and example.alternatives and not ablate:
        proposal = editor.edit(trial.graph, example.prompt, reading=example.reading, **options)[0]
    state = proposal.state if proposal.status == "ok" else None
    after: Graph | None = state.graph if state is not None else None
    faults = tuple(problems(after)) if after is not None and problems is not None else None
    success, untouched, reasons = _judge(trial, proposal, after, opset, ambiguous_from)
    script = getattr(proposal.script, "steps", ())
    return Outcome(
        family=trial.family,
        request=example.request,
        prompt=example.prompt,
        phrasing=example.phrasing,
        seen=example.seen,
        status=proposal.status,
        confidence=round(float(proposal.confidence), 4),
        emitted=after is not None,
        executes=None if faults is None else not faults,
        success=success,
        untouched=untouched,
        asked_back=asked_back,
        reasons=(*(faults or ()), *reasons),
        steps=tuple(str(step) for step in script),
    )


def _judge(
    trial: Trial, proposal: ProposalLike, after: Graph | None, opset: OpSet, ambiguous_from: float
) -> tuple[bool, bool | None, tuple[str, ...]]:
    """Success, untouched and the reasons against success."""
    request = trial.example.request
    if request.refusal:
        refused = proposal.status == "refused"
        return refused, None, () if refused else (f"should be refused: {request.refusal}",)
    if after is None:
        return False, None, (f"{proposal.status}: {proposal.reason}",)
    found = [judge(r, trial.graph, after, opset) for r in accepted(trial.example, ambiguous_from)]
    best = next((item for item in found if item.success), found[0])
    return best.success, any(item.untouched for item in found), best.reasons
