"""`genmad eval pools`: pools judged by the benchmark's own rules, in code that the sampler does not use.

`metrics` are of the trained generator, drawn without replacement and without the classes that it was trained on, as
`genmad generate --novel` does; `novel_unforced` is the novelty of the draw that leaves them in. `baselines` hold the
same figures for that draw, for the uniform law over the grammar, and for both laws drawn independently, with
replacement. Times are processor seconds of one thread: drawing and dropping repeats; judging, costs and writing are not
in them.
"""

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from genmad.evals.pictures import PictureError, check_picture, save_distributions
from genmad.evals.pool_guidance import guided_distributions, guided_table
from genmad.evals.pool_likelihood import likelihoods
from genmad.evals.report import CpuClock, EvalReport, commit, use_one_thread
from genmad.ir import Diagnostic
from genmad.sampling.pools import Conditions, Law, PoolSampler, UniformLaw, load_law
from genmad.spaces import Space, Words, get_space
from genmad.spaces.split import in_training
from genmad.spaces.tables import data_folder

QUICK_N = 500
ROUND_TRIPS = 100
# Goals of the published comparisons, to be read beside the figures.
PUBLISHED: Mapping[str, Mapping[str, float]] = {
    "nb101": {"AG-Net, valid and unique": 0.459, "AG-Net, valid and unique per second": 630.0},
    "nb201": {"novelty to beat": 0.593},
}


def run(
    *, quick: bool = False, seed: int = 0, n: int | None = None, checkpoint: str | None = None, space: str = "nb201",
    data: str | None = None, picture: str | None = None,
) -> dict[str, Any]:  # fmt: skip
    """The report as JSON; `picture` is a file for the distributions of guided pools.

    Raises `PictureError` where a picture is asked for and none can be drawn.
    """
    clock, threads = CpuClock(), use_one_thread()
    where = get_space(space)
    target = None if picture is None else _picture(picture, where, data, quick=quick)
    count = n or (QUICK_N if quick else 10_000)
    law = load_law(where, checkpoint)
    uniform = UniformLaw()
    known = _Known(where, law, data)
    novel = _pool(where, law, count, seed, known, novel=True)
    plain = _pool(where, law, count, seed, known)
    found = novel | {"novel_unforced": plain["novel"], "round_trip": _round_trip(where, law, seed, quick=quick)}
    found |= {"asked": count, "unique_ceiling": ceiling(where, count)}
    baselines = {
        "generator, known classes allowed": plain,
        "uniform grammar": _pool(where, uniform, count, seed, known),
        "generator, independent": _independent(where, law, count, seed, known),
        "uniform grammar, independent": _independent(where, uniform, count, seed, known),
    }
    spread: dict[str, Any] = {}
    if not quick:
        found |= likelihoods(where, law, data, seed)
        means, spread = guided_distributions(where, law, data, seed)
        found |= means
        if target is not None:
            save_distributions(target, where.title, spread, means)
    about = dict(getattr(getattr(law, "net", None), "about", {}))
    report = EvalReport(
        name="pools", commit=commit(), seed=seed, n=int(found.pop("n")), threads=threads, quick=quick,
        split=f"{where.name}, generator trained on {about.get('split', 'nothing (uniform law)')}",
        cpu_seconds=clock.seconds(), metrics=_clean(found), baselines={k: _clean(v) for k, v in baselines.items()},
        breakdown={"space": where.title, "generator": about, "published": PUBLISHED.get(where.name, {}),
                   "true_accuracy_of_pools": spread},
    )  # fmt: skip
    return report.to_json()


def _picture(text: str, space: Space, data: str | None, *, quick: bool) -> Path:
    """The file of the picture. Raises `PictureError` where there would be nothing to draw."""
    path, fix = check_picture(text), "leave --picture out"
    if quick:
        got, expected, fix = "--quick, which guides no pool", "one of them", "leave --quick out"
    elif guided_table(space, data) is None:
        got, expected = f"no table with every member of {space.name}", "--space nb201 and --data FOLDER with its table"
    else:
        return path
    raise PictureError(Diagnostic(where="--picture", got=got, expected=expected, fix=fix))


def ceiling(space: Space, n: int) -> float:
    """Share of distinct classes among `n` independent uniform draws of classes, in expectation."""
    classes = space.num_classes or space.size
    return round(-classes * math.expm1(n * math.log1p(-1 / classes)) / n, 6) if classes > 1 else 1 / n


class _Known:
    """Which words are in what the generator was trained on."""

    def __init__(self, space: Space, law: Law, data: str | None) -> None:
        self.space = space
        self.about: Mapping[str, Any] = getattr(getattr(law, "net", None), "about", {})
        self.share = self.about.get("share")
        self.table: frozenset[int] | None = None
        if self.about.get("table"):
            folder = data_folder(data)
            table = None if folder is None else space.read_labels(folder)
            self.table = frozenset() if table is None else frozenset(space.fingerprints(table.words).tolist())

    def novelty(self, words: Words) -> float:
        """Share of words whose class was not trained on; NaN where the table that was trained on is not at hand."""
        if self.share is None or not len(words) or self.table == frozenset():
            return math.nan
        known = in_training(self.space, words, self.share)
        if self.table is not None:
            known &= np.array([f in self.table for f in self.space.fingerprints(words).tolist()], np.bool_)
        return round(1 - float(known.mean()), 4)


def _pool(space: Space, law: Law, n: int, seed: int, known: _Known, *, novel: bool = False) -> dict[str, float]:
    forced = novel and known.share is not None and known.table is None
    sampler = PoolSampler(
        space=space,
        law=law,
        seed=seed,
        conditions=Conditions(novel=forced),
        train_share=known.share if forced else None,
    )
    sampler.independent(16)  # tables that are made once
    begin = time.process_time()
    drawn = sampler.draw(n)
    seconds = time.process_time() - begin
    return _judged(space, drawn.words, seconds, known)


def _independent(space: Space, law: Law, n: int, seed: int, known: _Known) -> dict[str, float]:
    begin = time.process_time()
    words, _ = PoolSampler(space=space, law=law, seed=seed).independent(n)
    return _judged(space, words, time.process_time() - begin, known)


def _judged(space: Space, words: Words, seconds: float, known: _Known) -> dict[str, float]:
    """Validity by the rules, uniqueness by the benchmark's keys of what is valid; all as shares of what was drawn."""
    n = len(words)
    good = np.array([not space.problems(space.to_text(tuple(word))) for word in words.tolist()], np.bool_)
    distinct = len(set(space.keys(words[good])))
    seconds = max(seconds, 1e-9)
    return {
        "n": n, "validity": round(float(good.mean()), 6), "unique": round(distinct / max(int(good.sum()), 1), 6),
        "valid_unique": round(distinct / n, 6), "novel": known.novelty(words),
        "per_second": round(n / seconds, 1), "valid_unique_per_second": round(distinct / seconds, 1),
    }  # fmt: skip


def _round_trip(space: Space, law: Law, seed: int, *, quick: bool) -> float:
    """Share of members that come back from text and from graph."""
    words, _ = PoolSampler(space=space, law=law, seed=seed + 1).independent(10 if quick else ROUND_TRIPS)
    hits = 0
    for word in map(tuple, words.tolist()):
        hits += space.from_text(space.to_text(word)) == word == space.from_graph(space.to_graph(word))
    return round(hits / len(words), 4)


def _clean(found: Mapping[str, float]) -> dict[str, float]:
    """Without what could not be measured."""
    return {name: value for name, value in found.items() if not math.isnan(value)}
