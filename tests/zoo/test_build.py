"""Builds: nothing that one model does stops the others, and an ended build loses nothing."""

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import genmad.data.card
import genmad.zoo.build
from genmad.data.corpus import load, open_rows
from genmad.zoo.build import BuildError, Watcher, build, by_rank, partial_folder, plan
from genmad.zoo.config import ZooConfig
from genmad.zoo.jobs import Attempt, Job, attempt
from genmad.zoo.journal import Journal
from genmad.zoo.workers import Limits, WorkerError, run_jobs
from tests.zoo.toys import ToySource

CONFIG = ZooConfig(held_out=("kept",), heldout_share=0.0, validation_share=0.0, seconds_per_model=30)
GOOD = (("a", "1"), ("a", "2"), ("b", "3"), ("kept", "4"), ("a", "4"))


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cards with text histograms: drawing takes seconds, and tests/data draws."""
    monkeypatch.setattr(genmad.data.card, "can_draw", lambda: False)


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Runs jobs in this process, which costs no start; the variants that ran."""
    ran: list[str] = []

    def run(jobs: Sequence[Job], sources: Any, **_: Any) -> Any:
        for job in jobs:
            ran.append(job.variant)
            yield attempt(sources[job.source], job)

    monkeypatch.setattr(genmad.zoo.build, "run_jobs", run)
    return ran


def test_a_model_that_raises_hangs_or_crashes_is_a_failed_row() -> None:
    """Guards the bug that one bad model ends a build of hours: real processes, a limit of time."""
    source = ToySource(plan=(("a", "1"), ("a", "raise"), ("a", "hang"), ("a", "crash"), ("a", "2")))
    limits = Limits(seconds=4, wall_factor=1)
    done = {a.job.variant: a for a in run_jobs(source.jobs(0), {"toys": source}, workers=2, limits=limits)}
    assert [done[v].status for v in ("1", "2", "raise", "hang", "crash")] == ["ok", "ok", *["failed"] * 3]
    assert done["raise"].reason == "ValueError: no such layer"
    assert done["hang"].reason == "did not end in 4 s"
    assert done["crash"].reason == "crashed: its process ended with exit code 7"


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="time of another process is read from /proc")
def test_time_is_that_of_the_processor() -> None:
    """Guards a build on a loaded machine: a model that waits is not one that takes long."""
    source = ToySource(plan=(("a", "wait"), ("a", "spin")))
    limits = Limits(seconds=1, wall_factor=60)
    done = [(a.status, a.reason) for a in run_jobs(source.jobs(0), {"toys": source}, workers=1, limits=limits)]
    assert done == [("ok", ""), ("failed", "took more than 1 s")]


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory of another process is read from /proc")
def test_a_model_that_eats_memory_is_a_failed_row() -> None:
    source = ToySource(plan=(("a", "hog"), ("a", "2")))
    limits = Limits(seconds=60, memory_bytes=400 * 2**20)
    done = [(a.status, a.reason) for a in run_jobs(source.jobs(0), {"toys": source}, workers=1, limits=limits)]
    assert done == [("failed", "took more than 0.391 GiB of memory"), ("ok", "")]


def test_a_held_out_family_keeps_a_graph_that_training_has_too(here: list[str], tmp_path: Path) -> None:
    summary = build((ToySource(plan=GOOD),), CONFIG, tmp_path / "c")
    records = load(tmp_path / "c")
    assert [(r.family, r.variant, r.split) for r in records] == [
        ("a", "1", "train"), ("a", "2", "train"), ("b", "3", "train"), ("kept", "4", "heldout"),
    ]  # fmt: skip
    assert len({r.hash for r in records}) == 4
    assert summary["attempts"] == {"duplicate": 1, "ok": 4}
    assert sorted(here) == ["1", "2", "3", "4", "4"]


def test_an_ended_build_goes_on_and_gives_the_same_rows(here: list[str], tmp_path: Path) -> None:
    """Ended after two models, with a line half written; the rows must equal those of a build in one go."""
    source = ToySource(plan=(*GOOD, ("b", "raise"), ("b", "skip")))
    build((source,), CONFIG, tmp_path / "whole")

    def stop(done: Attempt) -> None:
        if done.job.variant == "2":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build((source,), CONFIG, tmp_path / "c", watcher=Watcher(on_done=stop))
    assert not (tmp_path / "c").exists()
    with (partial_folder(tmp_path / "c") / "journal.jsonl").open("ab") as file:
        file.write(b'{"id": "cut off')
    here.clear()
    plans: list[tuple[int, int]] = []
    build((source,), CONFIG, tmp_path / "c", watcher=Watcher(on_plan=lambda *n: plans.append(n)))
    assert plans == [(7, 2)]
    assert here == ["3", "4", "4", "raise", "skip"]
    assert list(open_rows(tmp_path / "c")) == list(open_rows(tmp_path / "whole"))
    assert not partial_folder(tmp_path / "c").exists()


def test_the_order_of_work_does_not_change_the_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def backwards(jobs: Sequence[Job], sources: Any, **_: Any) -> Any:
        return (attempt(sources[job.source], job) for job in reversed(jobs))

    source = ToySource(plan=GOOD)
    monkeypatch.setattr(genmad.zoo.build, "run_jobs", backwards)
    build((source,), CONFIG, tmp_path / "back")
    monkeypatch.setattr(
        genmad.zoo.build, "run_jobs", lambda jobs, sources, **_: (attempt(sources[j.source], j) for j in jobs)
    )
    build((source,), CONFIG, tmp_path / "forth")
    assert list(open_rows(tmp_path / "back")) == list(open_rows(tmp_path / "forth"))


@pytest.mark.usefixtures("here")
def test_failures_are_part_of_the_result(tmp_path: Path) -> None:
    build((ToySource(plan=(("a", "1"), ("a", "raise"), ("a", "skip"))),), CONFIG, tmp_path / "c")
    failed = json.loads((tmp_path / "c" / "failures.json").read_text())
    assert [(f["family"], f["variant"], f["reason"]) for f in failed] == [("a", "raise", "ValueError: no such layer")]
    lines = [json.loads(line) for line in (tmp_path / "c" / "attempts.jsonl").read_text().splitlines()]
    assert [line["status"] for line in lines] == ["ok", "failed", "skipped"]
    card = (tmp_path / "c" / "README.md").read_text()
    assert "1 distinct graphs of 1 families" in card
    assert "1 models could not be imported" in card
    assert "BSD" in card  # the licence of the toys' package, numpy, from its metadata


@pytest.mark.usefixtures("here")
def test_a_corpus_is_replaced_only_by_force(tmp_path: Path) -> None:
    out = tmp_path / "c"
    build((ToySource(plan=GOOD[:1]),), CONFIG, out)
    with pytest.raises(BuildError, match="--force replaces it"):
        build((ToySource(plan=GOOD[:2]),), CONFIG, out)
    build((ToySource(plan=GOOD[:2]),), CONFIG, out, force=True)
    assert len(load(out)) == 2
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("all of it")
    with pytest.raises(BuildError):
        build((ToySource(plan=GOOD[:1]),), CONFIG, tmp_path / "mine", force=True)
    assert (tmp_path / "mine" / "thesis.txt").exists()


@pytest.mark.usefixtures("here")
def test_a_build_without_one_graph_leaves_no_corpus(tmp_path: Path) -> None:
    with pytest.raises(BuildError) as caught:
        build((ToySource(plan=(("a", "raise"),)),), CONFIG, tmp_path / "c")
    assert caught.value.exit_code == 5
    assert not (tmp_path / "c").exists()


def test_what_failed_is_tried_again_only_when_asked(here: list[str], tmp_path: Path) -> None:
    source = ToySource(plan=(("a", "raise"),))
    for retry in (False, False, True):
        with pytest.raises(BuildError):
            build((source,), CONFIG, tmp_path / "c", retry=retry)
    assert here == ["raise", "raise"]


@pytest.mark.usefixtures("here")
def test_an_ended_build_can_be_written_as_it_stands(tmp_path: Path) -> None:
    source = ToySource(plan=GOOD)
    with pytest.raises(ZeroDivisionError):
        build((source,), CONFIG, tmp_path / "c", watcher=Watcher(on_done=lambda a: 1 / (a.job.variant != "2")))  # type: ignore[arg-type, return-value]
    build((source,), CONFIG, tmp_path / "c", finish=True)
    assert [r.variant for r in load(tmp_path / "c")] == ["1", "2"]
    assert "the build was ended early: 3 of 5 were not tried" in (tmp_path / "c" / "README.md").read_text()


def test_a_limited_plan_is_an_even_sample_in_the_same_order() -> None:
    source = ToySource(plan=tuple((f"f{i}", "1") for i in range(200)))
    full, some = plan((source,), 3, None).jobs, plan((source,), 3, 40).jobs
    places = [full.index(job) for job in some]
    assert len(some) == 40
    assert places == sorted(places)
    assert 60 < sum(places) / 40 < 140
    assert plan((source,), 3, 40).jobs == some


def test_every_model_comes_before_a_second_size_and_full_sizes_come_last() -> None:
    (job,) = ToySource(plan=(("a", "1"),)).jobs(0)
    plan_order = [
        replace(job, name=name, variant=v) for name, v in (("a", "full"), ("a", "4"), ("a", "2"), ("b", "full"))
    ]
    assert [(j.name, j.variant) for j in by_rank(plan_order)] == [
        ("a", "2"), ("b", "full"), ("a", "4"), ("a", "full"),
    ]  # fmt: skip


def test_a_journal_gives_rows_back_as_they_were(tmp_path: Path) -> None:
    source = ToySource(plan=GOOD[:2])
    journal = Journal(tmp_path)
    done = [attempt(source, job) for job in source.jobs(0)]
    for item in done:
        journal.add(item)
    journal.close()
    with journal.path.open("ab") as file:
        file.write(b'{"id": "cut off')
    resumed = Journal(tmp_path)
    third = next(iter(source.jobs(2)))
    resumed.add(Attempt(job=third, status="failed", reason="no"))
    resumed.close()
    again = Journal(tmp_path)
    assert len(again) == 3
    assert again.head(third)["reason"] == "no"
    assert [again.row(item.job) for item in done] == [item.row for item in done]
    assert next(iter(source.jobs(1))) not in again
    again.close()


def test_processes_that_do_not_start_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards an endless loop of processes that end at once, as with a broken installation."""
    monkeypatch.setattr("genmad.zoo.workers.serve", os._exit)
    source = ToySource(plan=(("a", "1"),))
    with pytest.raises(WorkerError, match="3 in a row"):
        list(run_jobs(source.jobs(0), {"toys": source}, workers=1, limits=Limits()))
