"""One fine-tuning, from a folder of models to a folder with a generator: reads, tunes, looks at the result, writes.

It stands here because it joins rooms that do not know each other: the zoo, training, and sampling.
"""

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from genmad.data.corpus import ArchRecord, load, save
from genmad.ir import Diagnostic, GenmadError
from genmad.lowering.package import check_writable
from genmad.sampling.pretrained import Pretrained, shipped_folder
from genmad.training.finetune import TuneConfig, TuneResult, described, finetune
from genmad.training.finetune_base import Base, load_base
from genmad.training.finetune_data import ZooParts, replay_graphs, split_zoo
from genmad.training.finetune_folder import About, save_tuned, write_error
from genmad.zoo.jobs import Attempt
from genmad.zoo.reading import Zoo, read_zoo

REPLAY_GRAPHS, REPLAY_SECONDS = 48, 90.0
# Shares of a time limit: reading the zoo at most, public graphs at most, and what is left for looking at results.
READING, REPLAYING, LOOKING = 0.5, 0.1, 0.08
FINGERPRINT = "run.json"


class TuneError(GenmadError):
    """A tuning without a result."""

    exit_code = 5

    def __init__(self, diagnostic: Diagnostic, exit_code: int = 5) -> None:
        self.diagnostic = diagnostic
        self.exit_code = exit_code
        super().__init__(str(diagnostic))


@dataclass(frozen=True, slots=True, kw_only=True)
class TuneRequest:
    """What is asked for.

    Attributes:
        zoo: a folder of models, or a zoo that `genmad zoo add` made.
        base: checkpoint to start from; the shipped one where None.
        replay: folder of a corpus whose training graphs keep public knowledge; small ones are built where None.
        resume: go on with an interrupted run of the same zoo.
        forbid_copies: write hashes of the zoo's graphs, so that the generator never gives one back.
        generated: how many graphs are generated to count copies among; 0 for none.
    """

    zoo: Path
    out: Path
    config: TuneConfig
    base: Path | None = None
    manifest: Path | None = None
    run_code: tuple[str, ...] = ()
    replay: Path | None = None
    resume: bool = False
    forbid_copies: bool = False
    license: str = "unknown"
    workers: int = 1
    generated: int = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Watcher:
    """Who is told how a tuning goes on: the phase in words, the zoo's models, the rows of the log, and each step (done,
    in all, seconds left)."""

    on_phase: Callable[[str], None] = lambda _: None
    on_plan: Callable[[int], None] = lambda _: None
    on_model: Callable[[Attempt], None] = lambda _: None
    on_row: Callable[[Mapping[str, Any]], None] = lambda _: None
    on_step: Callable[[int, int, float], None] = lambda *_: None


@dataclass(kw_only=True)
class _Clock:
    """Wall-clock time of this process, against a limit that may be none."""

    limit: float | None
    began: float = field(default_factory=time.monotonic)

    @property
    def spent(self) -> float:
        return time.monotonic() - self.began

    def left(self, share: float = 1.0) -> float:
        """Seconds until `share` of the limit is over."""
        return float("inf") if self.limit is None else share * self.limit - self.spent


def partial_folder(out: Path) -> Path:
    """Where a run keeps its state; nothing of the zoo is in it."""
    return out.with_name(f"{out.name}.partial")


def tune(request: TuneRequest, watcher: Watcher | None = None) -> dict[str, Any]:
    """Tunes and writes `request.out`; what is told of it.

    Raises `ZooError`, `CheckpointError`, `TunedFolderError`, or `TuneError` where the time was up before a step.
    """
    watcher, clock = watcher or Watcher(), _Clock(limit=request.config.seconds)
    run = partial_folder(request.out)
    _check_target(request, run)
    watcher.on_phase("reading the zoo")
    zoo = read_zoo(
        request.zoo, manifest=request.manifest, run_code=request.run_code, workers=request.workers,
        on_plan=watcher.on_plan, on_done=watcher.on_model, out_of_time=lambda: clock.left(READING) < 0,
    )  # fmt: skip
    parts = split_zoo(zoo.records, request.config.held_out_share, request.config.max_graph_tokens)
    if not parts.train:
        raise _all_too_large(request, parts)
    base = load_base(request.base or shipped_folder(), [r.graph for r in zoo.records])
    try:
        _take_up(request, run, _fingerprint(zoo, base, request.config))
        watcher.on_phase("building public graphs")
        replay = _replay(request, run, clock, frozenset(r.hash for r in zoo.records))
        room = clock.left() - (LOOKING * clock.limit if clock.limit is not None else 0.0)
        config = replace(request.config, seconds=None if clock.limit is None else max(room, 0.0))
        watcher.on_phase("tuning")
        resume = request.resume and (run / "plan.json").is_file()
        result = finetune(base, parts, replay, config, run, resume=resume, report=watcher.on_row, tick=watcher.on_step)
    except (OSError, SafetensorError) as error:
        raise write_error(request.out, error) from error
    if result.state.step == 0:
        raise _too_short(request, zoo, clock)
    watcher.on_phase("looking at what it generates")
    copies = count_copies(base, result, zoo, request, clock)
    about = _about(request, zoo, parts, base, result, replay, copies)
    hashes = frozenset(r.hash for r in zoo.records) if request.forbid_copies else frozenset()
    save_tuned(request.out, result.model, base.reader, about, forbidden=hashes)
    if result.state.stopped != "time":
        shutil.rmtree(run, ignore_errors=True)
    return _told(request, zoo, parts, about, clock)


def _check_target(request: TuneRequest, run: Path) -> None:
    """Raises `TuneError` where the output is in use, or `--resume` has nothing to go on with; `OutputError` where
    nothing can be written."""
    out = request.out
    check_writable(out)
    if out.exists() and not request.resume and (not out.is_dir() or any(out.iterdir())):
        fix = "name another folder, or add --resume to go on with the run that wrote it"
        got = "a file or a folder that is not empty"
        raise TuneError(Diagnostic(where=f"-o {out}", got=got, expected="a new folder", fix=fix), 2)
    if request.resume and not run.is_dir():
        got, fix = "no interrupted run beside it", "leave --resume out to start one"
        raise TuneError(Diagnostic(where=f"--resume, -o {out}", got=got, expected=f"the folder {run}", fix=fix), 2)


def _take_up(request: TuneRequest, run: Path, fingerprint: str) -> None:
    """Opens the run's folder: the one to go on with, or a new one in place of another's. Raises `TuneError`."""
    note = run / FINGERPRINT
    if request.resume:
        try:
            same = json.loads(note.read_text(encoding="utf-8"))["fingerprint"] == fingerprint
        except (OSError, ValueError, KeyError):
            same = False
        if not same:
            got = "a zoo, checkpoint or settings other than those of the interrupted run"
            fix = "give the same ones, or leave --resume out to start anew"
            raise TuneError(Diagnostic(where="--resume", got=got, expected="the same", fix=fix), 2)
        return
    shutil.rmtree(run, ignore_errors=True)
    run.mkdir(parents=True)
    note.write_text(json.dumps({"fingerprint": fingerprint}), encoding="utf-8")


def _fingerprint(zoo: Zoo, base: Base, config: TuneConfig) -> str:
    """Of what a run's losses follow from; time and processes are not among it."""
    settings = asdict(replace(config, seconds=None, workers=0, threads=1))
    parts = [sorted(r.hash for r in zoo.records), base.digest, list(base.added), settings]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _replay(request: TuneRequest, run: Path, clock: _Clock, avoid: frozenset[str]) -> list[ArchRecord]:
    """Public graphs; those of an interrupted run where it has some, so that its batches stay the same."""
    kept = run / "replay"
    if (kept / "dataset_info.json").is_file():
        return load(kept)
    if request.config.replay_share <= 0:
        return []
    if request.replay is not None:
        found = [r for r in load(request.replay, "train", max_nodes=400) if r.hash not in avoid][:REPLAY_GRAPHS]
    else:
        seconds = min(REPLAY_SECONDS, max(1.0, REPLAYING * clock.limit) if clock.limit is not None else REPLAY_SECONDS)
        found = replay_graphs(request.config.seed, REPLAY_GRAPHS, seconds, time.monotonic, avoid)
    if found:
        save(found, [], kept)
    return found


def count_copies(base: Base, result: TuneResult, zoo: Zoo, request: TuneRequest, clock: _Clock) -> dict[str, Any]:
    """How many graphs that are grown from the zoo's own are graphs of the zoo: nodes of one are taken out, and the
    generator writes them anew. An exact memory gives copies only."""
    import torch

    from genmad.sampling.regrow import RegrowSettings, regrow

    kit = Pretrained(model=result.model, reader=base.reader, grammar=base.grammar)
    members = {r.hash for r in zoo.records}
    seeds = [r.graph for r in zoo.records]
    rng = torch.Generator().manual_seed(request.config.seed)
    made = copies = 0
    for index in range(request.generated):
        if clock.left() < 0 and made:
            break
        found = regrow(kit, seeds[index % len(seeds)], RegrowSettings(), rng)
        made += found is not None
        copies += found is not None and found.hash in members
    return {"generated": made, "copies_of_the_zoo": copies}


def _about(
    request: TuneRequest, zoo: Zoo, parts: ZooParts, base: Base, result: TuneResult, replay: list[ArchRecord],
    copies: Mapping[str, Any],
) -> About:  # fmt: skip
    state = result.state
    first, best = state.checks[0], state.best
    counts = {
        "models": zoo.num_models, "distinct": len(zoo.records), "refused": len(zoo.refused),
        "duplicates": len(zoo.duplicates), "labelled": zoo.num_labelled, "trained_on": len(parts.train),
        "held_out": len(parts.held_out) if parts.own else 0, "too_large": len(parts.too_large),
        "public_graphs": len(replay), "new_words": len(base.added),
    }  # fmt: skip
    tuning = described(request.config, state) | {
        "way": f"low rank {state.rank}" if state.rank else "all weights", "done_steps": state.step,
        "best_step": best.step, "stopped": state.stopped, "tuned_seconds": state.seconds,
    }  # fmt: skip
    source = "the checkpoint that ships with genmad" if request.base is None else "another checkpoint"
    return About(
        license=request.license, base=f"{source} ({base.digest[:12]})", zoo=counts, tuning=tuning,
        before={"zoo": first.zoo, "public": first.public}, after={"zoo": best.zoo, "public": best.public},
        measures=copies, notes=_notes(request, zoo, parts, base, result),
    )  # fmt: skip


def _notes(request: TuneRequest, zoo: Zoo, parts: ZooParts, base: Base, result: TuneResult) -> tuple[str, ...]:
    """What a reader must know."""
    state = result.state
    notes = [
        "It edits models by a sentence, and writes anew what is taken out of a model; it does not write whole networks "
        "from nothing.",
        "Private models shape the weights: treat this folder as you treat the zoo.",
    ]
    if len(zoo.records) == 1:
        same = f"all {zoo.num_models} models are one graph" if zoo.num_models > 1 else "there is one model"
        notes.append(f"The zoo holds little: {same}; the figures are on what was trained on.")
    elif not parts.own:
        notes.append("Too few different graphs to hold a part out: the figures are on what was trained on.")
    if state.best.step == 0:
        notes.append("No step was better than the start on the measured part: the weights are those of the base.")
    if state.stopped == "time":
        notes.append(
            f"The time was up after {state.step} of {state.steps} steps; the same command with --resume goes on."
        )
    if base.added:
        notes.append(f"The vocabulary holds {len(base.added)} words beyond the base's, names of opaque operators.")
    if request.forbid_copies:
        notes.append(
            "forbidden.json holds hashes of the zoo's graphs: who has a model can tell by them whether it was there."
        )
    return tuple(notes)


def _told(request: TuneRequest, zoo: Zoo, parts: ZooParts, about: About, clock: _Clock) -> dict[str, Any]:
    """What the command prints; it names files, as the card does not."""
    told = about.to_json()
    told["zoo"] = dict(told["zoo"]) | {
        "refused": [{"name": name, "reason": why} for name, why in zoo.refused],
        "duplicates": [{"name": name, "of": first} for name, first in zoo.duplicates],
        "too_large": [{"name": name, "tokens": size} for name, size in parts.too_large],
    }
    return {"status": "ok", "folder": str(request.out), "seconds": round(clock.spent, 1), **told}


def _all_too_large(request: TuneRequest, parts: ZooParts) -> TuneError:
    name, size = parts.too_large[0]
    got = f"{len(parts.too_large)} models, all too large, such as {name} with {size} tokens"
    expected = f"models of at most {request.config.max_graph_tokens} tokens"
    return TuneError(Diagnostic(where=str(request.zoo), got=got, expected=expected, fix="--max-tokens raises it"), 3)


def _too_short(request: TuneRequest, zoo: Zoo, clock: _Clock) -> TuneError:
    unread = sum(why.startswith("not read") for _, why in zoo.refused)
    got = f"{request.config.seconds:.0f} s: {zoo.num_models} models were read, {unread} were not, and no step fitted"
    expected = f"more than {clock.spent:.0f} s"
    fix = "a longer --time-limit, with --resume; or fewer models"
    return TuneError(Diagnostic(where="--time-limit", got=got, expected=expected, fix=fix))
