"""One table over many spaces: HW-GPT-Bench within a width, NAS-Bench-Macro, Accel-NASBench, NAS-Bench-Graph,
NAS-Bench-BERT, with 50 to 200 labels each."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from genmad.autobuild.architecture import LabelledSet
from genmad.autobuild.labelled import load_set
from genmad.evals.predictor_trials import Entry, Trials, draw_count, twins
from genmad.evals.report import CpuClock, EvalReport, commit, use_one_thread

MAX_ASKED = 3000
"""Rows that are asked, drawn where there are more."""
DEFAULT = "blend"
"""Chosen on NAS-Bench-201 (`predictor_tables`), not here."""
ENTRIES = (
    Entry(name="blend", predictor="blend"),
    Entry(name="feature_gp", predictor="feature_gp"),
    Entry(name="boosting", predictor="boosting"),
    Entry(name="ridge", predictor="ridge"),
    Entry(name="wl_gp", predictor="wl_gp"),
    Entry(name="autobuild", predictor="autobuild"),
)
QUICK = ("boosting", "ridge")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """A space of the table.

    Attributes:
        name: of its labelled set.
        columns: short name -> target.
        sizes: numbers of labels.
    """

    name: str
    columns: Mapping[str, str]
    sizes: tuple[int, ...] = (50, 200)


_GPT = {"perplexity": "perplexity", "latency": "gpu_ms_a100", "energy": "gpu_energy_a100"}
GROUNDS = (
    Ground(name="hw_gpt_s_768", columns=_GPT, sizes=(100,)),
    Ground(name="hw_gpt_m_1024", columns=_GPT, sizes=(100,)),
    Ground(name="hw_gpt_l_1280", columns=_GPT, sizes=(100,)),
    Ground(name="nb_macro", columns={"accuracy": "acc_pct_mean"}),
    Ground(name="accel", columns={"accuracy": "val_top1_pct"}),
    Ground(name="nb_graph", columns={"cora": "cora_test", "arxiv": "arxiv_test"}),
    Ground(name="nas_bench_bert", columns={"glue": "glue"}),
)


def run_hwgpt(*, quick: bool = False, seed: int = 0, n: int | None = None, data: str | None = None) -> dict[str, Any]:
    """Every space and target; labels are drawn from all rows, asked are rows of classes without a label."""
    clock, threads = CpuClock(), use_one_thread()
    trials = Trials(entries=tuple(e for e in ENTRIES if e.name in QUICK or not quick))
    rows, ceilings = 0, {}
    for ground in GROUNDS[3:4] if quick else GROUNDS:
        labelled = load_set(ground.name, data)
        for short, column in ground.columns.items():
            known = labelled.rows(np.flatnonzero(np.isfinite(labelled.targets[column])))
            rows += len(known.graphs)
            ceilings[f"{ground.name} {short}"] = twins(known.targets[column], known.groups, seed)
            for number in range(draw_count(n, quick)):
                for size in ground.sizes[:1] if quick else ground.sizes:
                    _trial(trials, known, column, size, f"{ground.name}_{short}_{size}", seed + number)
    figures = trials.figures()
    shipped = DEFAULT if DEFAULT in figures else next(iter(figures))
    return EvalReport(
        name="predictor hwgpt", commit=commit(), seed=seed, n=rows, threads=threads, cpu_seconds=clock.seconds(),
        split=f"labels from all rows of a space, asked at most {MAX_ASKED} rows of other classes",
        metrics=figures[shipped], baselines={name: found for name, found in figures.items() if name != shipped},
        breakdown={"default": shipped, "num_draws": draw_count(n, quick), "ceiling": ceilings}, quick=quick,
    ).to_json()  # fmt: skip


def _trial(trials: Trials, known: LabelledSet, column: str, size: int, label: str, seed: int) -> None:
    order = np.random.default_rng(seed).permutation(len(known.graphs))
    train, rest = order[:size], order[size:]
    asked = rest[~np.isin(known.groups[rest], known.groups[train])][:MAX_ASKED]
    trials.run(known, column, train, asked, label=label, seed=seed)
