"""What a search space is: members as words of a grammar, as text, as a graph; rules, keys, costs and labels.

A space is written by giving `name`, `title`, `steps`, `size`, `grammar_for`, `to_text`, `from_text`, `problems`,
`to_graph` and `read_graph`; everything else follows. Spaces whose words are not one to one with members (isomorphic
cells) override `keys` too, cells override `neighbours` where the field has its own notion.
"""

import difflib
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from genmad.cost import cost_of
from genmad.ir import Diagnostic, Graph, GraphError, same_structure
from genmad.ops import OPSET
from genmad.spaces.grammar import Grammar, Ints, SpaceError, Step, Words

Word = tuple[int, ...]
METRICS = ("params", "macs", "depth")
"""What a budget may bound. `params` and `macs` are those of `genmad.cost` for the whole network of the benchmark at its
own input size (batch 1); `depth` is said by each space (`depth_is`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Adjacency:
    """The adjacency encoding of one cell or network.

    Attributes:
        ops: a label per vertex, inputs and outputs included.
        edges: (source, target) pairs, source < target.
    """

    ops: tuple[str, ...]
    edges: tuple[tuple[int, int], ...]

    def matrix(self) -> Ints:
        """int64[V, V], 1 where an edge goes from row to column."""
        out = np.zeros((len(self.ops), len(self.ops)), np.int64)
        for a, b in self.edges:
            out[a, b] = 1
        return out


@dataclass(frozen=True, kw_only=True)
class LabelTable:
    """What was measured, read from a file that the user gives.

    Attributes:
        path: the file.
        keys: the key (see `Space.keys`) of each row.
        words: the word of each row, as one is chosen by `Space.from_text`.
        columns: column -> float64 per row, NaN where empty.
    """

    path: Path
    keys: tuple[str, ...]
    words: Words
    columns: Mapping[str, np.ndarray]

    def column(self, name: str) -> np.ndarray:
        """One column. Raises `SpaceError` naming those there are."""
        if name not in self.columns:
            known, near = ", ".join(self.columns), difflib.get_close_matches(name, self.columns, 1)
            found = Diagnostic(
                where=str(self.path), got=f"column {name!r}", expected=f"one of {known}",
                fix=f"--target {(near or list(self.columns) or [''])[0]}",
            )  # fmt: skip
            raise SpaceError(found, exit_code=2)
        return self.columns[name]


class Space(ABC):
    """A search space. Words are `int16` rows; one word is a tuple of ints."""

    name: str
    """As on the command line: `nb201`."""
    title: str
    """For people: `NAS-Bench-201`."""
    depth_is: str
    """What the metric `depth` counts here."""
    source: str
    """The paper whose rules these are."""

    # What every space gives.

    @property
    @abstractmethod
    def size(self) -> int:
        """Exact number of members, as the benchmark counts them."""

    @property
    def num_classes(self) -> int | None:
        """Exact number of distinct keys; None where nobody has counted them."""
        return self.size

    @abstractmethod
    def grammar_for(self, metrics: tuple[str, ...]) -> Grammar:
        """A grammar whose choices carry the costs named (a subset of `METRICS`, in that order). Called once for each.

        States need to hold only what these metrics ask for: keep the grammar of `()` smallest.
        """

    @abstractmethod
    def to_text(self, word: Word) -> str:
        """The sequential encoding that the benchmark itself uses, or the nearest to it: one line."""

    @abstractmethod
    def from_text(self, text: str) -> Word:
        """The word of a text. Raises `SpaceError` naming what is wrong."""

    @abstractmethod
    def problems(self, text: str) -> list[str]:
        """Why a text is no member, by the benchmark's own rules; empty when it is one.

        It judges what the sampler makes, so it must not use the grammar nor anything that the sampler uses.
        """

    @abstractmethod
    def to_graph(self, word: Word) -> Graph:
        """The whole network of the benchmark: a graph that trains in torch and runs in ONNX."""

    @abstractmethod
    def read_graph(self, graph: Graph) -> Word:
        """The word that a graph of `to_graph` was made from, read from its structure. May raise anything on others:
        `from_graph` verifies."""

    @abstractmethod
    def adjacency(self, word: Word) -> tuple[Adjacency, ...]:
        """The adjacency encoding: one per cell, or one for the whole network."""

    # What follows from it.

    def read_labels(self, data: Path) -> LabelTable | None:
        """The benchmark's table below the folder `data`; None where the space has none or the file is missing."""
        del data
        return None

    def word_of_row(self, path: Path, line: int, text: str) -> Word:
        """The word of a label table's row. Raises `SpaceError` naming file and line."""
        try:
            return self.from_text(text)
        except SpaceError as error:
            found = error.diagnostic
            raise SpaceError(
                Diagnostic(
                    where=f"{path} line {line}", got=found.got, expected=f"a member of {self.name}: {found.expected}"
                )
            ) from error

    def grammar(self, metrics: Sequence[str] = ()) -> Grammar:
        """The grammar with these metrics, made once."""
        wanted = tuple(m for m in METRICS if m in metrics)
        if wanted not in self._grammars:
            self._grammars[wanted] = self.grammar_for(wanted)
        return self._grammars[wanted]

    @cached_property
    def _grammars(self) -> dict[tuple[str, ...], Grammar]:
        return {}

    @property
    def steps(self) -> tuple[Step, ...]:
        return self.grammar().steps

    @property
    def ops(self) -> tuple[str, ...]:
        """The names that `--ops` may list: the choices of all steps whose kind begins with `op`."""
        names = (c for step in self.steps if step.kind.startswith("op") for c in step.choices if c != "-")
        return tuple(dict.fromkeys(names))

    def contains(self, text: str) -> bool:
        """Whether a text is a member by the benchmark's own rules."""
        return not self.problems(text)

    def keys(self, words: Words) -> list[str]:
        """One key per word: equal exactly when two words are the same member (isomorphism class)."""
        return [row.tobytes().hex() for row in np.ascontiguousarray(words, np.int16).astype(np.uint8)]

    def fingerprints(self, words: Words) -> NDArray[np.uint64]:
        """uint64[B]: equal where `keys` are; much faster where a space says how, for counting and dropping repeats."""
        digests = (hashlib.blake2b(key.encode(), digest_size=8).digest() for key in self.keys(words))
        return np.frombuffer(b"".join(digests), np.uint64)

    def canonical(self, words: Words) -> Words:
        """One chosen word of the class of each; the words themselves where nothing better is known."""
        return words

    def features(self, words: Words) -> NDArray[np.float64]:
        """float64[B, F] for predictors: one column per choice of each step; spaces may add what is known to matter."""
        parts = [np.eye(len(step.choices))[words[:, t]] for t, step in enumerate(self.steps)]
        return np.concatenate(parts, axis=1)

    def hashes(self, words: Words) -> list[str]:
        """The keys as at most 40 hexadecimal digits: the benchmark's own hash where it has one."""
        return [hashlib.blake2b(key.encode(), digest_size=16).hexdigest() for key in self.keys(words)]

    def key(self, word: Word) -> str:
        return self.keys(np.array([word], np.int16))[0]

    def sample(self, rng: np.random.Generator, n: int) -> Words:
        """int16[n, T]: independent uniform draws over words."""
        return self.grammar().sample(rng, n)

    def neighbours(self, word: Word) -> Iterator[Word]:
        """Every word that differs in one choice."""
        grammar = self.grammar()
        rows = [
            (*word[:t], c, *word[t + 1 :])
            for t, step in enumerate(grammar.steps) for c in range(len(step.choices)) if c != word[t]
        ]  # fmt: skip
        table = np.array(rows, np.int16).reshape(-1, grammar.length)
        return (row for row, good in zip(rows, grammar.accepts(table).tolist(), strict=True) if good)

    def costs(self, words: Words) -> Ints:
        """int64[B, 3]: params, macs and depth of each word."""
        return self.grammar(METRICS).costs(words)

    def graph_costs(self, word: Word) -> tuple[int, int]:
        """Params and MACs counted on the graph, the slow way; tests hold `costs` against it."""
        report = cost_of(self.to_graph(word), OPSET, {"batch": 1})
        return report.num_params, report.num_macs

    def from_graph(self, graph: Graph) -> Word:
        """The word of a graph. Raises `SpaceError` on one that `to_graph` does not make."""
        expected = f"a graph of the space {self.name}"
        try:
            word = self.read_graph(graph)
            same = same_structure(self.to_graph(word), graph)
        except (GraphError, SpaceError, LookupError, ValueError, StopIteration, AttributeError, TypeError) as error:
            got = f"another structure ({type(error).__name__}: {error})"
            raise SpaceError(Diagnostic(where=f'graph "{graph.name}"', got=got, expected=expected)) from error
        if not same:
            got = "a structure that differs from the member it resembles"
            raise SpaceError(Diagnostic(where=f'graph "{graph.name}"', got=got, expected=expected))
        return word
