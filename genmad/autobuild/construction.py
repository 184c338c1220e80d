"""Building architectures without a search: the best modules of every stage, combined (section 4.4).

K modules per stage, S stages: K^S architectures, ranked by the sum of their modules' scores or by what a predictor says
of the whole.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice, product
from math import prod

import numpy as np

from genmad.autobuild.architecture import Floats, Ints
from genmad.autobuild.encodings import Encoding
from genmad.autobuild.scores import StageScores
from genmad.ir import Diagnostic, GenmadError

MAX_COMBINED = 250_000
"""Most architectures that are listed at once; beyond it they are taken in the order of their modules' ranks."""
Predict = Callable[[Sequence[str]], Floats]


class BuildError(GenmadError):
    """A construction that cannot be made."""

    exit_code = 4

    def __init__(self, diagnostic: Diagnostic) -> None:
        self.diagnostic = diagnostic
        super().__init__(str(diagnostic))


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """An architecture that was put together.

    Attributes:
        text: in the space's own encoding.
        modules: the text of each stage's module.
        score: sum of the scores of its modules.
        predicted: what the predictor says of it, in the unit of the target.
    """

    text: str
    modules: tuple[str, ...]
    score: float
    predicted: float


def top_modules(scores: StageScores, k: int, *, constrained: bool = False) -> Ints:
    """Numbers of the K best modules of a stage, best first; ties in the order of enumeration.

    `constrained` gives every number of layers its share of K (at least one each while K lasts, larger sizes first,
    because size decides most of a label), so that a reduced space keeps small modules too.
    """
    order = np.lexsort((np.arange(len(scores.score)), -scores.score))
    if not constrained:
        return order[:k].astype(np.int64)
    sizes = scores.stage.sizes[::-1]
    shares = [k // len(sizes) + (i < k % len(sizes)) for i in range(len(sizes))]
    kept = [order[scores.sizes[order] == size][:share] for size, share in zip(sizes, shares, strict=True)]
    found = np.concatenate(kept)
    # What a size cannot fill goes to the best of the rest.
    rest = order[~np.isin(order, found)][: max(0, min(k, len(order)) - len(found))]
    found = np.concatenate([found, rest])
    return found[np.lexsort((found, -scores.score[found]))].astype(np.int64)


def build(
    encoding: Encoding, scores: Sequence[StageScores], predict: Predict, *, top_k: int, n: int | None = None,
    constrained: bool = False, exclude: Sequence[str] = (), by: str = "predicted",
) -> list[Built]:  # fmt: skip
    """The `n` best architectures out of top-K modules per stage, each class of equal networks once.

    `by` is `predicted` (the whole network's prediction) or `score` (the sum of module scores, as in the paper);
    `exclude` are members that are not wanted, such as those already measured. Raises `BuildError` where the space has
    no stages or nothing is left.
    """
    modules = encoding.modules
    if modules is None:
        raise no_stages(encoding)
    chosen = [top_modules(stage, top_k, constrained=constrained) for stage in scores]
    combined = _combined([len(rows) for rows in chosen])
    # Ranked by the sum of scores, the order of the paper, before anything is predicted.
    parts = np.stack(
        [stage.score[rows][combined[:, s]] for s, (stage, rows) in enumerate(zip(scores, chosen, strict=True))]
    )
    total = parts.sum(0)
    order = np.argsort(-total, kind="stable")
    texts, sums, names = [], [], []
    for row in order:
        picks = [int(rows[c]) for rows, c in zip(chosen, combined[row], strict=True)]
        codes = [stage.codes[p].tolist() for stage, p in zip(scores, picks, strict=True)]
        texts.append(modules.text(codes))
        sums.append(float(total[row]))
        names.append(tuple(stage.stage.text(c) for stage, c in zip(scores, codes, strict=True)))
    kept = _distinct(encoding, texts, exclude)
    if not kept:
        got = f"{len(texts)} architectures, all of them excluded"
        raise BuildError(Diagnostic(where="--top-k", got=got, expected="one that is not", fix="a larger --top-k"))
    predicted = predict([texts[i] for i in kept])
    found = [
        Built(text=texts[i], modules=names[i], score=sums[i], predicted=float(p))
        for i, p in zip(kept, predicted, strict=True)
    ]
    if by == "predicted":
        found.sort(key=lambda built: -built.predicted)
    return found[:n]


def no_stages(encoding: Encoding) -> BuildError:
    """The error of a space that is no product of stages."""
    got = f"{encoding.name}, in which choices depend on each other"
    expected = "a space of stages: ofa_mbv3, ofa_pn, nb201 or nb_macro"
    fix = f"genmad search --space {encoding.name} looks for good members with few labels"
    return BuildError(Diagnostic(where="space", got=got, expected=expected, fix=fix))


def num_combined(counts: Sequence[int]) -> int:
    """Exact number of architectures of so many modules per stage."""
    return prod(counts)


def _combined(counts: Sequence[int]) -> Ints:
    """int64[N, S]: every combination, or the first of them by ranks where they are too many."""
    if num_combined(counts) <= MAX_COMBINED:
        return np.array(list(product(*map(range, counts))), np.int64)
    most = list(counts)
    while num_combined(most) > MAX_COMBINED:
        most[int(np.argmax(most))] -= 1
    return np.array(list(product(*map(range, most))), np.int64)


def _distinct(encoding: Encoding, texts: Sequence[str], exclude: Sequence[str]) -> list[int]:
    """Numbers of the first text of every class that is not excluded."""
    gone = set(encoding.keys(list(exclude)))
    first: dict[str, int] = {}
    for i, key in enumerate(encoding.keys(list(texts))):
        if key not in gone:
            first.setdefault(key, i)
    return sorted(first.values())


def every_text(encoding: Encoding, at_most: int = MAX_COMBINED) -> list[str]:
    """Every architecture of a small space. Raises `BuildError` where there are more than `at_most`."""
    if encoding.modules is None:
        raise no_stages(encoding)
    if encoding.modules.size > at_most:
        got = f"{encoding.modules.size:,} architectures of {encoding.name}"
        raise BuildError(Diagnostic(where="space", got=got, expected=f"at most {at_most:,} to rank all of them"))
    return list(islice(encoding.modules.every_text(), at_most))
