"""`genmad eval finetune`: does tuning to a zoo make the generator better at that zoo, and does it forget?

For each zoo of `genmad.evals.finetune_zoos`: the likelihood of its held-out part, the distance of generated pools to
that part, success of edits on its graphs, and success of edits on public families, each before and after tuning on the
rest. The same examples, seeds and requests are put to both generators.
"""

import random
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from genmad.data.corpus import ArchRecord
from genmad.evals.edit_trials import Sampler, Trial, attempt, draw_trials
from genmad.evals.edits import EditEvalConfig, metrics_of
from genmad.evals.finetune_zoos import ZOOS, EvalZoo, eval_zoo
from genmad.evals.graph_distance import mmd
from genmad.evals.held_out import read_config, small_graphs
from genmad.evals.report import CpuClock, EvalReport, commit, fraction, use_one_thread
from genmad.intents.library import sample_example
from genmad.ir import Graph, canonicalize
from genmad.ops import OPSET
from genmad.sampling import Editor
from genmad.sampling.pretrained import Pretrained, shipped_folder
from genmad.sampling.regrow import complete, dig
from genmad.training.finetune import TuneConfig, TuneState, finetune
from genmad.training.finetune_base import Base, load_base
from genmad.training.finetune_data import ZooParts, replay_graphs, split_zoo
from genmad.validate import Level, validate

Figures = dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How much is measured.

    Attributes:
        models: of each zoo, an even sample; None for all.
        steps: of tuning; None chooses by the zoo.
        pool: generated graphs; `holes`: nodes taken out of each seed and written anew.
        requests: edits on the zoo's held-out graphs; `public`: on families that are held out from everything.
        public_families: how many of those.
        replay: public graphs that tuning rehearses.
        level: that generated graphs are checked up to.
    """

    zoos: tuple[str, ...] = ZOOS
    models: int | None = None
    steps: int | None = None
    pool: int = 24
    holes: int = 8
    requests: int = 60
    public: int = 60
    public_families: int = 12
    replay: int = 48
    level: Level = Level.ONNX


QUICK = Size(
    zoos=("nb201",), models=10, steps=12, pool=3, holes=2, requests=4, public=4, public_families=2, replay=4,
    level=Level.WITHIN_BUDGET,
)  # fmt: skip


def run(
    quick: bool = False, seed: int = 0, n: int | None = None, checkpoint: str | None = None, *, data: str | None = None,
    size: Size | None = None, zoos: Sequence[EvalZoo] | None = None,
    public: Mapping[str, Sequence[Graph]] | None = None, replay: Sequence[ArchRecord] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """The report as a JSON object; `n` models of each zoo. Zoos and graphs may be stand-ins."""
    clock, threads = CpuClock(), use_one_thread()
    size = size or (QUICK if quick else Size())
    folder = Path(checkpoint) if checkpoint else shipped_folder()
    before: Figures = {}
    after: Figures = {}
    breakdown: dict[str, Any] = {}
    told = []
    for name in [z.name for z in zoos] if zoos is not None else size.zoos:
        given = next((z for z in zoos or () if z.name == name), None)
        zoo = given or eval_zoo(name, limit=n or size.models, seed=seed, data=data, say=_say)
        kept = public if public is not None else _public_graphs(zoo, size, seed)
        first, last, about = measure_zoo(zoo, folder, size, seed=seed, public=kept, replay=replay)
        before |= {f"{name}_{k}": v for k, v in first.items()}
        after |= {f"{name}_{k}": v for k, v in last.items()}
        breakdown[name] = about
        told.append(f"{name} ({zoo.seen})")
    return EvalReport(
        name="finetune", commit=commit(), seed=seed, n=sum(b["models"] for b in breakdown.values()),
        split=f"held-out part of each zoo, twins kept together: {'; '.join(told)}", threads=threads,
        cpu_seconds=clock.seconds(), metrics=after | _changes(before, after), baselines={"before tuning": before},
        breakdown=breakdown, quick=quick,
    ).to_json()  # fmt: skip


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _changes(before: Figures, after: Figures) -> Figures:
    """Falls of likelihoods as shares, and differences of the rest where both are known."""
    out = {}
    for name, value in after.items():
        if name.endswith("_nll") and before.get(name):
            out[f"{name}_fall"] = round(1 - value / before[name], 4)
        elif name in before and ("success" in name or "distance" in name):
            out[f"{name}_change"] = round(value - before[name], 4)
    return out


def _public_graphs(zoo: EvalZoo, size: Size, seed: int) -> Mapping[str, Sequence[Graph]]:
    """Small graphs of families that are neither in the zoo nor in any training."""
    mine = {r.family for r in zoo.records}
    config = read_config("eval_edits.yaml", EditEvalConfig)
    wanted = [f for f in config.families if f not in mine][: size.public_families]
    return small_graphs(wanted, 1, seed, say=_say, skip_missing=True)


def measure_zoo(
    zoo: EvalZoo, checkpoint: Path, size: Size, *, seed: int, public: Mapping[str, Sequence[Graph]],
    replay: Sequence[ArchRecord] | None = None,
) -> tuple[Figures, Figures, dict[str, Any]]:  # fmt: skip
    """The figures before and after tuning, and how it went."""
    began = time.process_time()
    parts = split_zoo(zoo.records, 0.2, 700)
    avoid = frozenset(r.hash for r in zoo.records)
    chosen = list(replay) if replay is not None else replay_graphs(seed, size.replay, 90.0, time.monotonic, avoid)
    base = load_base(checkpoint, [r.graph for r in zoo.records])
    held_out = {f"zoo-{zoo.name}": [r.graph for r in parts.held_out]}
    trials = {
        "edit": _trials(held_out, size.requests, seed),
        "public": _trials(public, size.public, seed),
    }  # fmt: skip
    first = _outside_figures(_kit(base), parts, trials, size, seed, zoo.name)
    with tempfile.TemporaryDirectory() as folder:
        config = TuneConfig(seed=seed, steps=size.steps)
        result = finetune(base, parts, chosen, config, Path(folder) / "run", report=lambda row: _say(_line(row)))
    last = _outside_figures(_kit(base, result.model), parts, trials, size, seed, zoo.name)
    state = result.state
    about = _about(zoo, parts, state, len(chosen)) | {"cpu_seconds": round(time.process_time() - began, 1)}
    floor = round(mmd([r.graph for r in parts.train[: size.pool]], [r.graph for r in parts.held_out]), 4)
    return _likelihoods(state, 0) | first, _likelihoods(state, -1) | last, about | {"zoo_parts_distance": floor}


def _likelihoods(state: TuneState, which: int) -> Figures:
    """Of the first check, or of the best one."""
    check = state.checks[0] if which == 0 else state.best
    return dict(check.zoo) | {f"rehearsed_{k}": v for k, v in check.public.items() if k.endswith("_nll")}


def _about(zoo: EvalZoo, parts: ZooParts, state: TuneState, replayed: int) -> dict[str, Any]:
    return {
        "models": len(zoo.records), "seen": zoo.seen, "trained_on": len(parts.train), "held_out": len(parts.held_out),
        "too_large": len(parts.too_large), "public_graphs": replayed, "rank": state.rank, "steps": state.step,
        "best_step": state.best.step, "stopped": state.stopped, "tuning_seconds": state.seconds,
        "curve": [{"step": c.step, "score": c.score, "node_nll": c.zoo.get("node_nll")} for c in state.checks],
    }  # fmt: skip


def _line(row: Mapping[str, Any]) -> str:
    shown = ("held_out_node_nll", "held_out_completion_nll", "held_out_edit_nll", "public_edit_nll")
    figures = ", ".join(f"{name} {row[name]:.3f}" for name in shown if name in row)
    return f"step {row['step']} of {row['steps']}: score {row['score']:.3f}, {figures}, {row['seconds']:.0f} s"


def _kit(base: Base, model: Any = None) -> Pretrained:
    own = (model or base.model).eval()
    return Pretrained(model=own, reader=base.reader, grammar=base.grammar)


def _trials(graphs: Mapping[str, Sequence[Graph]], count: int, seed: int) -> tuple[Trial, ...]:
    def sample(graph: Graph, rng: random.Random, *, intent: str | None, unseen: bool) -> Any:
        return sample_example(graph, rng, intent=intent, unseen=unseen)

    drawn: Sampler = sample
    return tuple(draw_trials(graphs, drawn, count=count, rng=random.Random(seed))) if graphs and count else ()


def _outside_figures(
    kit: Pretrained, parts: ZooParts, trials: Mapping[str, Sequence[Trial]], size: Size, seed: int, name: str
) -> Figures:
    """What is measured by using the generator: pools and edits."""
    out = pool_figures(kit, parts, size, seed, lambda n: _say(f"{name}: {n} of {size.pool} graphs generated"))
    for kind, asked in trials.items():
        editor = Editor(kit)
        outcomes = [attempt(editor, t, OPSET, None, seed=seed + i) for i, t in enumerate(asked)]
        if outcomes:
            found = metrics_of(outcomes)
            out |= {f"{kind}_{key}": found[key] for key in ("success", "refused", "false_refused", "num_possible")}
            _say(f"{name}: {kind} success {found['success']:.3f} of {found['num_possible']:.0f}")
    return out


def pool_figures(
    kit: Pretrained, parts: ZooParts, size: Size, seed: int, say: Callable[[int], None] = lambda _: None
) -> Figures:
    """Graphs grown from the trained-on part: how far they are from the held-out part, with holes and filled; how many
    are valid; how many equal a graph of the zoo. Holes are the same for every generator."""
    rng = torch.Generator().manual_seed(seed)
    known = {r.hash for r in (*parts.train, *parts.held_out)}
    dug: list[Graph] = []
    grown: list[Graph] = []
    valid = copies = wrote = 0
    seeds = sorted(parts.train, key=lambda r: r.hash)
    for index in range(size.pool if seeds else 0):
        own = torch.Generator().manual_seed(seed * 7919 + index)
        graph, holes = dig(canonicalize(seeds[index % len(seeds)].graph), size.holes, own)
        dug.append(graph)
        for _ in range(holes):
            made = complete(kit, graph, 1.0, rng)
            if made is not None:
                graph, wrote = made[0], wrote + 1
        grown.append(graph)
        valid += validate(graph, OPSET, size.level).level is size.level
        copies += _hash(graph) in known
        say(index + 1)
    if not grown:
        return {}
    target = [r.graph for r in parts.held_out]
    return {
        "pool_distance": round(mmd(grown, target), 4), "pool_distance_dug": round(mmd(dug, target), 4),
        "pool_valid": fraction(valid, len(grown)), "pool_copies": fraction(copies, len(grown)),
        "pool_scripts": float(wrote),
    }  # fmt: skip


def _hash(graph: Graph) -> str:
    from genmad.ir import canonical_hash

    return canonical_hash(graph)
