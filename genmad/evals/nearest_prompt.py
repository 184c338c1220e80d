"""The baseline that learns nothing: it copies the edit of the most similar training prompt that fits the graph."""

import math
import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from genmad.intents.library import sample_example
from genmad.ir import Graph, GraphError
from genmad.ir.script import EditScript, EditState
from genmad.ops import OPSET

EXAMPLES = 4000
TRIED = 100
_WORD = re.compile(r"[a-z]+|\d+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Copied:
    """What the baseline proposes; as `genmad.sampling.Proposal`."""

    status: str
    script: EditScript
    state: EditState | None
    confidence: float
    reason: str = ""


@dataclass(frozen=True, slots=True)
class _Known:
    words: Mapping[str, float]
    script: EditScript | None
    refusal: str


class NearestPrompt:
    """Remembers prompts and scripts drawn over graphs of training families, in phrasings of the training set.

    Similarity is the cosine of word counts weighted by inverse document frequency. Where the most similar prompt was to
    be refused, that is copied; else of the `TRIED` most similar ones the first whose script runs on the graph.
    """

    def __init__(self, graphs: Sequence[Graph], *, seed: int, examples: int = EXAMPLES) -> None:
        rng = random.Random(seed)
        drawn = [sample_example(rng.choice(graphs), rng) for _ in range(examples)]
        found = [example for example in drawn if example is not None]
        counts = Counter(word for example in found for word in set(_words(example.prompt)))
        self._rarity = {word: math.log(len(found) / count) for word, count in counts.items()}
        self._known = [_Known(self._weights(e.prompt), e.script, e.request.refusal) for e in found]

    def edit(self, graph: Graph, prompt: str, **_: object) -> tuple[Copied, ...]:
        asked = self._weights(prompt)
        scored = ((sum(w * known.words.get(word, 0.0) for word, w in asked.items()), -i)
                  for i, known in enumerate(self._known))  # fmt: skip
        for rank, (score, i) in enumerate(sorted(scored, reverse=True)[:TRIED]):
            known = self._known[-i]
            if known.script is None and rank == 0:
                return (_nothing("refused", score, known.refusal),)
            if known.script is None:
                continue
            try:
                state = known.script.run(graph, OPSET)
            except GraphError:
                continue
            return (Copied(status="ok", script=known.script, state=state, confidence=score),)
        return (_nothing("failed", 0.0, "nothing fits"),)

    def _weights(self, prompt: str) -> dict[str, float]:
        counts = Counter(_words(prompt))
        weights = {word: count * self._rarity.get(word, 0.0) for word, count in counts.items()}
        norm = math.sqrt(sum(w * w for w in weights.values())) or 1.0
        return {word: w / norm for word, w in weights.items() if w}


def _nothing(status: str, confidence: float, reason: str) -> Copied:
    return Copied(status=status, script=EditScript(), state=None, confidence=confidence, reason=reason)


def _words(prompt: str) -> list[str]:
    return _WORD.findall(prompt.lower())
