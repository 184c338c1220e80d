"""How likely members are that a generator was not trained on, against the uniform grammar and an n-gram.

All three laws are masked by the same grammar and judged on the same words: one canonical word per held-out class.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genmad.sampling.pools import Law, NetLaw, PoolSampler, UniformLaw
from genmad.spaces import Grammar, Space, Walk, Words
from genmad.spaces.split import in_training, representatives
from genmad.spaces.tables import data_folder

MAX_WORDS = 5000


@dataclass(frozen=True, kw_only=True)
class NgramLaw:
    """Counts of a choice after the two before it, by step, with half a count added to each.

    Attributes:
        counts: (step, the two choices before) -> how often each choice followed.
    """

    counts: Mapping[tuple[int, int, int], NDArray[np.float64]]
    name: str = "n-gram"
    digest: str = "n-gram"

    @classmethod
    def fit(cls, grammar: Grammar, words: Words) -> "NgramLaw":
        found: dict[tuple[int, int, int], Counter[int]] = defaultdict(Counter)
        padded = np.concatenate([np.full((len(words), 2), -1, np.int64), words.astype(np.int64)], axis=1)
        for t in range(grammar.length):
            rows, times = np.unique(padded[:, t : t + 3], axis=0, return_counts=True)
            for (a, b, choice), count in zip(rows.tolist(), times.tolist(), strict=True):
                found[t, a, b][choice] += count
        tables = {}
        for key, counter in found.items():
            tables[key] = np.full(len(grammar.steps[key[0]].choices), 0.5)
            for choice, count in counter.items():
                tables[key][choice] += count
        return cls(counts=tables)

    def begin(self, batch: int) -> NDArray[np.int64]:
        return np.full((batch, 2), -1, np.int64)

    def scores(self, grammar: Grammar, walk: Walk, memory: NDArray[np.int64]) -> NDArray[np.floating]:
        flat = np.ones(len(grammar.steps[walk.step].choices))
        return np.log(np.stack([self.counts.get((walk.step, a, b), flat) for a, b in memory.tolist()]))

    def add(self, step: int, memory: NDArray[np.int64], choices: NDArray[np.integer]) -> NDArray[np.int64]:
        del step
        return np.stack([memory[:, 1], choices.astype(np.int64)], axis=1)


def likelihoods(space: Space, law: Law, data: str | None, seed: int) -> dict[str, float]:
    """Nats per node of held-out members: of the generator, the uniform grammar and an n-gram; lower is better.

    Empty for the uniform law, or where the table that the generator was trained on is not at hand.
    """
    if not isinstance(law, NetLaw):
        return {}
    words = _words(space, law.net.about, data)
    if words is None:
        return {}
    training = in_training(space, words, float(law.net.about["share"]))
    order = np.random.default_rng(seed).permutation(int((~training).sum()))[:MAX_WORDS]
    held, seen = words[~training][order], words[training]
    nodes = float(np.mean([_num_nodes(space, word) for word in held.tolist()]))
    laws: dict[str, Law] = {
        "held_out_nats_per_node": law,
        "held_out_nats_per_node_uniform": UniformLaw(),
        "held_out_nats_per_node_ngram": NgramLaw.fit(space.grammar(), seen),
    }
    return {
        name: round(-float(PoolSampler(space=space, law=each).log_likelihood(held).mean()) / nodes, 4)
        for name, each in laws.items()
    }


def _words(space: Space, about: Mapping[str, Any], data: str | None) -> Words | None:
    """The words that the split was made of, as in training."""
    from genmad.training.pools import training_words

    if not about.get("table"):
        return training_words(space, 1.0, int(about["seed"]))
    folder = data_folder(data)
    table = None if folder is None else space.read_labels(folder)
    return None if table is None else representatives(space, table.words)


def _num_nodes(space: Space, word: list[int]) -> int:
    """Operations that are chosen."""
    chosen = zip(space.steps, word, strict=True)
    return max(1, sum(step.kind.startswith("op") and step.choices[c] != "-" for step, c in chosen))
