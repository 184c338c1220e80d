"""The editor: a graph and a sentence in, checked proposals out."""

import difflib
import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import torch

from genmad.ir import Graph, GraphError, call_places, canonical_hash, canonicalize
from genmad.ir.script import EditScript, Number, Replace, SetAttrs
from genmad.model.collate import Source, collate_sources
from genmad.sampling.chain import Answer, answer_in_parts
from genmad.sampling.decode import MAX_TOKENS, Written, write_script
from genmad.sampling.pretrained import Pretrained, load_pretrained
from genmad.sampling.proposal import Proposal, Reading
from genmad.tokenizer import GrammarState, PromptTokens
from genmad.tokenizer.text import split_words

AMBIGUOUS_FROM = 0.36
NAMED_FROM = 0.03


class Editor:
    """A loaded generator. `Editor.from_pretrained()` is the shipped one."""

    def __init__(self, pretrained: Pretrained) -> None:
        self.pretrained = pretrained

    @staticmethod
    def from_pretrained(folder: str | Path | None = None) -> "Editor":
        """Raises `CheckpointError` where the folder holds none."""
        return Editor(load_pretrained(folder))

    def edit(
        self, graph: Graph, prompt: str, *, at: str | None = None, reading: str | None = None, samples: int = 1,
        seed: int = 0, temperature: float = 0.7, ablate: str | None = None,
    ) -> tuple[Proposal, ...]:  # fmt: skip
        """The likeliest edit first, then up to `samples - 1` other distinct ones.

        Args:
            at: keep to the node or call of this path and what is inside it.
            reading: take the prompt this way.
            ablate: for evaluation: `text` or `structure` hide the prompt or the wiring from the model, `parts` answers
                every sentence at once.
        """
        began = time.monotonic()
        rng = torch.Generator().manual_seed(seed)

        def ask(graph: Graph, clause: str) -> Answer:
            found = next(self._answers(graph, clause, at, None, ablate, rng, (0.0,)))
            if reading is None or reading not in {r.name for r in found.proposal.readings}:
                return found
            return next(self._answers(graph, clause, at, reading, ablate, rng, (0.0,)))

        answers = self._answers(graph, prompt, at, reading, ablate, rng, (0.0, *[temperature] * (4 * (samples - 1))))
        first = next(answers).proposal
        if ablate != "parts":
            first = answer_in_parts(graph, prompt, first, ask, self.pretrained.grammar.opset) or first
        first = replace(first, time_s=time.monotonic() - began)
        others: dict[str, Proposal] = {}
        while len(others) < samples - 1 and (answer := next(answers, None)) is not None:
            other = answer.proposal
            if other.status == "ok" and _key(other) != _key(first):
                others.setdefault(_key(other), other)
        found = (first, *sorted(others.values(), key=lambda p: -p.log_prob))
        return tuple(replace(p, confidence=self._confidence(p.log_prob)) for p in found)

    def _confidence(self, log_prob: float) -> float:
        """How often an answer of that likelihood is right, as the checkpoint's calibration has it."""
        config = self.pretrained.model.config
        return confidence_of(log_prob, config.confidence_scale, config.confidence_shift)

    def _answers(
        self, graph: Graph, prompt: str, at: str | None, reading: str | None, ablate: str | None,
        rng: torch.Generator, temperatures: Iterable[float],
    ) -> Iterator[Answer]:  # fmt: skip
        """One answer for each temperature, the sentence read once."""
        kit = self.pretrained
        canonical = canonicalize(graph)
        source, pieces = self._read(canonical, _with_place(canonical, prompt, at), ablate)
        seen_pieces = source.prompt if ablate == "text" else pieces
        start = kit.grammar.compile(canonical, source.graph, seen_pieces, at=at or "", reading=reading or "").start()
        with torch.no_grad():
            encoded = kit.model.encode(collate_sources([source]))
        for temperature in temperatures:
            began = time.monotonic()
            written = write_script(kit.model, encoded, start, temperature=temperature, rng=rng)
            forced = temperature > 0 or bool(reading)
            proposal = _proposal(graph, prompt, written, pieces, time.monotonic() - began, forced)
            proposal = _not_forbidden(proposal, kit.forbidden)
            yield Answer(proposal=proposal, nonsense=written.first.get("refuse:not_understood", 0.0))

    def _read(self, graph: Graph, prompt: str, ablate: str | None) -> tuple[Source, PromptTokens]:
        """What the model reads, and the prompt as it was before `ablate`."""
        reader = self.pretrained.reader
        tokens = reader.read(graph)
        pieces = reader.text.encode(prompt, tokens.all_names)
        source = Source.of(tokens, pieces, prompt)
        if ablate == "text":
            return source.without_text(), pieces
        return (source.without_structure() if ablate == "structure" else source), pieces


def confidence_of(log_prob: float, scale: float, shift: float) -> float:
    """The logistic function of the scaled and shifted log-odds (Platt, 1999).

    >>> round(confidence_of(math.log(0.8), 1.0, 0.0), 6)
    0.8
    """
    log_prob = min(log_prob, -1e-6)
    odds = scale * (log_prob - math.log(-math.expm1(log_prob))) + shift
    return 1.0 / (1.0 + math.exp(-odds)) if odds > -700 else 0.0


def _with_place(graph: Graph, prompt: str, at: str | None) -> str:
    """The prompt with the place of `--at` in words, unless it stands there already: the model then looks there, too."""
    if not at or at in prompt:
        return prompt
    calls = [place.path for place in call_places(graph)]
    inside = max((path for path in calls if at == path or at.startswith(f"{path}.")), key=len, default="")
    rest = at[len(inside) :].strip(".")
    if not inside:
        return f"{prompt} in {rest}"
    return f"{prompt} to {rest} in {inside}" if rest else f"{prompt} in {inside}"


def _key(proposal: Proposal) -> str:
    return canonical_hash(proposal.state.graph) if proposal.state is not None else proposal.status


def _not_forbidden(proposal: Proposal, forbidden: frozenset[str]) -> Proposal:
    """The proposal, or a failure where it is a graph that the checkpoint must not give back."""
    if proposal.state is None or not forbidden or _key(proposal) not in forbidden:
        return proposal
    blocked = "the result is a model of the private zoo, and copies are forbidden; ask for several with --samples"
    return replace(proposal, status="failed", script=EditScript(), state=None, blocked=blocked)


def _proposal(
    graph: Graph, prompt: str, written: Written, pieces: PromptTokens, spent: float, forced: bool
) -> Proposal:
    """What a written script comes to on the user's own graph, whose order of nodes stays."""
    state = written.state
    readings = _readings(written.first)
    script = EditScript(steps=state.steps)
    done = Proposal(
        status="ok", script=script, state=None, confidence=math.exp(written.log_prob), log_prob=written.log_prob,
        reading=state.reading, readings=readings, num_tokens=written.num_tokens, time_s=spent,
    )  # fmt: skip
    nothing = replace(done, status="refused", script=EditScript(), state=None)
    if state.refusal:
        blocked = _blocked(graph, prompt, state.refusal, written.blocked, pieces)
        return replace(nothing, reason=state.refusal, blocked=blocked)
    if not state.is_terminated:
        return replace(nothing, status="failed", blocked=f"the edit did not end within {MAX_TOKENS} tokens")
    if state.aborted:
        return replace(nothing, status="failed", blocked="a step of the edit could not be finished on this graph")
    edited = script.run(graph, state.edit.opset)
    if canonical_hash(edited.graph) == canonical_hash(graph):
        return replace(nothing, reason="already_so", blocked="the edit would change nothing")
    close = [r for r in readings if r.probability >= AMBIGUOUS_FROM]
    return replace(done, state=edited, status="ambiguous" if len(close) > 1 and not forced else "ok")


def _readings(first: dict[str, float]) -> tuple[Reading, ...]:
    found = [
        Reading(name=k[8:], probability=p) for k, p in first.items() if k.startswith("reading:") and p >= NAMED_FROM
    ]
    return tuple(sorted(found, key=lambda r: -r.probability))


def _blocked(graph: Graph, prompt: str, reason: str, state: GrammarState | None, pieces: PromptTokens) -> str:
    """What stood in the way, as far as the graph itself can tell."""
    if state is not None and state.pending.node:
        for number in dict.fromkeys(pieces.number_values.values()):
            step = _attempted(state, number)
            try:
                state.edit.step(step)
            except GraphError as error:
                return str(error)
    if reason == "no_such_target":
        names = sorted({part for block in graph.all_blocks for node in block.nodes for part in _names(node.name)})
        unknown = [
            w for w in split_words(prompt) if ("_" in w or "." in w) and w.lower() not in {n.lower() for n in names}
        ]
        near = [n for w in unknown for n in difflib.get_close_matches(w, names, 4, 0.4)]
        head = f"{', '.join(unknown)} stands nowhere in the model" if unknown else "no such place in the model"
        return f"{head}; there are {', '.join(dict.fromkeys([*near, *names]))[:400]}"
    return ""


def _attempted(state: GrammarState, number: int) -> SetAttrs | Replace:
    """The unfinished step, finished with a number of the prompt."""
    pending = state.pending
    settings = (*pending.settings, (pending.attr, Number.of(number)))
    return Replace(pending.node, pending.op, settings) if pending.op else SetAttrs(pending.node, settings)


def _names(path: str) -> list[str]:
    last = path.rsplit(".", 1)[-1]
    return [last] if not last.isdigit() else [path]
