"""Predictors side by side: fitted on the same labelled rows, asked for the same others, over several draws.

N rows of a labelled set.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from genmad.autobuild.architecture import ArchGraph, Floats, Ints, LabelledSet
from genmad.autobuild.graph_features import GraphColumns, key_of
from genmad.autobuild.predictor import PREDICTORS, Predictor, make_predictor
from genmad.evals.rank_correlation import kendall, spearman
from genmad.evals.report import CpuClock

MAX_FAILURES = 10
NUM_DRAWS = 5


def draw_count(n: int | None, quick: bool) -> int:
    """How many draws of labels: what was asked for, else five, one in a quick run."""
    return n or (1 if quick else NUM_DRAWS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A predictor as it takes part.

    Attributes:
        name: in the report.
        predictor: in `PREDICTORS`; an entry whose predictor is not there is left out.
        columns: of the set, given to the predictor as further columns.
        needs: columns without which it is left out, beside those.
        most: it takes part only up to so many labels; None for any number.
        setting: further settings, from the set and the seed.
    """

    name: str
    predictor: str
    columns: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    most: int | None = None
    setting: Callable[[LabelledSet, int], Mapping[str, object]] | None = None

    def make(self, labelled: LabelledSet, seed: int) -> Predictor:
        settings: dict[str, object] = {}
        if self.columns:
            settings["columns"] = column_reader(labelled, self.columns)
        if self.setting is not None:
            settings |= self.setting(labelled, seed)
        return make_predictor(self.predictor, labelled.schema, **settings)


def present(entries: Sequence[Entry], labelled: LabelledSet) -> tuple[Entry, ...]:
    """The entries whose predictors there are and whose columns the set has."""
    return tuple(
        entry for entry in entries
        if entry.predictor in PREDICTORS and labelled.targets.keys() >= {*entry.columns, *entry.needs}
    )  # fmt: skip


def column_reader(labelled: LabelledSet, columns: Sequence[str]) -> GraphColumns:
    """What gives these columns for graphs of the set: the mean of the finite values over rows of equal graphs."""
    found = np.stack([labelled.targets[name] for name in columns], axis=1)
    sums: dict[bytes, Floats] = defaultdict(lambda: np.zeros((2, len(columns))))
    for graph, row in zip(labelled.graphs, found, strict=True):
        known = np.isfinite(row)
        sums[key_of(graph)] += np.stack([np.where(known, row, 0.0), known])
    with np.errstate(invalid="ignore", divide="ignore"):
        table = {key: total / count for key, (total, count) in sums.items()}

    def read(graphs: Sequence[ArchGraph]) -> Floats:
        return np.stack([table[key_of(graph)] for graph in graphs])

    return read


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """One draw of labels.

    Attributes:
        pool: rows in the order in which they are labelled.
        asked: rows that are predicted; no class is on both sides.
        seed: of the predictors.
    """

    pool: Ints
    asked: Ints
    seed: int


def halves(groups: Ints, size: int, seed: int) -> Draw:
    """`size` rows of whole classes to draw labels from, in a random order; all others are asked.

    Classes are taken in a random order as long as they fit; where none is left that fits, the pool is smaller.
    """
    rng = np.random.default_rng(seed)
    sizes = np.bincount(groups)
    taken = np.zeros(len(sizes), bool)
    left = size
    for group in rng.permutation(len(sizes)):
        if sizes[group] <= left:
            taken[group] = True
            left -= sizes[group]
    inside = taken[groups]
    return Draw(pool=rng.permutation(np.flatnonzero(inside)), asked=np.flatnonzero(~inside), seed=seed)


def goodness(labelled: LabelledSet, column: str) -> Floats:
    """The column, negated where small values are good: higher is better."""
    values = labelled.targets[column]
    return -values if column in labelled.lower_is_better else values


@dataclass(slots=True)
class Tally:
    """What was found for one entry: figure -> values over draws, in the order of the draws."""

    values: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def add(self, label: str, said: Floats, true: Floats) -> None:
        self.values[f"kendall_{label}"].append(kendall(said, true))
        self.values[f"spearman_{label}"].append(spearman(said, true))

    def figures(self) -> dict[str, float]:
        """Mean of each figure and the standard deviation of the Kendall ones over draws."""
        out: dict[str, float] = {}
        for name, found in self.values.items():
            out[name] = round(float(np.mean(found)), 4)
            if name.startswith("kendall") and len(found) > 1:
                out[f"{name}_std"] = round(float(np.std(found, ddof=1)), 4)
        return out


@dataclass(slots=True)
class Trials:
    """Fits entries and keeps figures, seconds and failures.

    Attributes:
        tallies: entry -> figures.
        seconds: entry -> processor seconds of fits and predictions, all draws together.
    """

    entries: tuple[Entry, ...]
    tallies: dict[str, Tally] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def run(self, labelled: LabelledSet, column: str, train: Ints, asked: Ints, *, label: str, seed: int) -> None:
        """Every entry learns `column` on the rows `train` and is held against it on `asked`."""
        for entry, _, said in self.predictions(labelled, column, train, asked, seed):
            self.tallies.setdefault(entry.name, Tally()).add(label, said, goodness(labelled, column)[asked])

    def predictions(
        self, labelled: LabelledSet, column: str, train: Ints, asked: Ints, seed: int
    ) -> Iterator[tuple[Entry, Predictor, Floats]]:
        """What each entry says of the rows `asked`."""
        targets = goodness(labelled, column)
        known = [labelled.graphs[i] for i in train]
        others = [labelled.graphs[i] for i in asked]
        for entry in self.entries:
            if entry.most is not None and len(train) > entry.most:
                continue
            clock = CpuClock()
            predictor = entry.make(labelled, seed)
            predictor.fit(known, targets[train], seed=seed)
            said = predictor.predict(others)
            self.seconds[entry.name] = self.seconds.get(entry.name, 0.0) + clock.seconds()
            yield entry, predictor, said

    def figures(self) -> dict[str, dict[str, float]]:
        """Entry -> its flat figures, its seconds among them."""
        return {
            name: tally.figures() | {"cpu_seconds": round(self.seconds[name], 2)}
            for name, tally in self.tallies.items()
        }


def twins(values: Floats, groups: Ints, seed: int) -> dict[str, float]:
    """How well labels of equal architectures agree.

    `kendall_twins` is between two random members of every class that has some; `kendall_class_mean` between a label and
    the mean of the other members of its class, over all rows that have some: what a predictor reaches that knows every
    other label of the class.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(groups))
    first: dict[int, int] = {}
    second: dict[int, int] = {}
    for row in order.tolist():
        group = int(groups[row])
        if group in first:
            second.setdefault(group, row)
        first.setdefault(group, row)
    pairs = np.array([(first[group], row) for group, row in second.items()], np.int64).reshape(-1, 2)
    if len(pairs) < 2:
        return {"classes_with_twins": float(len(pairs))}
    sums, counts = np.bincount(groups, values), np.bincount(groups)
    many = counts[groups] > 1
    others = (sums[groups] - values)[many] / (counts[groups][many] - 1)
    return {
        "kendall_twins": round(kendall(values[pairs[:, 0]], values[pairs[:, 1]]), 4),
        "classes_with_twins": float(len(pairs)),
        "kendall_class_mean": round(kendall(others, values[many]), 4),
        "rows_with_twins": float(many.sum()),
    }


def worst(labelled: LabelledSet, column: str, asked: Ints, said: Floats) -> list[dict[str, Any]]:
    """The rows whose rank among those asked is farthest from the true one."""
    true = goodness(labelled, column)[asked]
    places = [np.argsort(np.argsort(x, kind="stable"), kind="stable") / max(len(asked) - 1, 1) for x in (said, true)]
    far = np.argsort(-np.abs(places[0] - places[1]), kind="stable")[:MAX_FAILURES]
    return [
        {"architecture": labelled.texts[asked[i]], "true_rank": round(float(places[1][i]), 3),
         "predicted_rank": round(float(places[0][i]), 3)}
        for i in far
    ]  # fmt: skip
