"""The evaluations of time and of import: processes are measured alone, failing families are rows and not crashes."""

import os
import sys
from dataclasses import replace

import pytest

from genmad.data.families import family
from genmad.evals import importers
from genmad.evals.timing import one_core, run_command

PRINT = "import json, sys; x = bytearray({size}); print(json.dumps({{'arguments': sys.argv[1:]}})); sys.exit({code})"


def python(size: int = 0, code: int = 0) -> tuple[str, ...]:
    return (sys.executable, "-S", "-c", PRINT.format(size=size, code=code))


def test_a_command_is_timed_and_its_report_read() -> None:
    done = run_command(["edit", "--json"], python(code=3))
    assert done.report == {"arguments": ["edit", "--json"]}
    assert done.exit_code == 3
    assert 0 < done.seconds < 30


@pytest.mark.skipif(not hasattr(os, "fork"), reason="peak memory of one child needs fork")
def test_peak_memory_is_that_of_the_one_child() -> None:
    """Guards two bugs: RUSAGE_CHILDREN holds the largest of all children, and a fork starts with its parent's peak."""
    large, small = run_command([], python(200_000_000)), run_command([], python())
    assert large.peak_bytes > small.peak_bytes + 150_000_000


def test_what_is_no_object_is_no_report() -> None:
    assert run_command([], (sys.executable, "-S", "-c", "print('[1]')")).report == {}


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="needs processor affinity")
def test_one_core_is_given_back() -> None:
    before = os.sched_getaffinity(0)
    with one_core():
        assert len(os.sched_getaffinity(0)) == 1
    assert os.sched_getaffinity(0) == before


def test_a_family_round_trips_and_a_broken_one_is_a_row() -> None:
    broken = replace(family("gpt2"), model_type="no_such_type")
    report = importers.run(families=[family("gpt2"), broken], full_size=False)
    rows, metrics = report["breakdown"]["family"], report["metrics"]
    assert rows["gpt2"]["max_abs_diff"] <= importers.TOLERANCE
    assert rows["gpt2"]["lifted"] == 1.0
    assert "error" in rows["no_such_type"]
    assert metrics["round_trip"] == metrics["imported"] == 0.5
    assert report["failures"][0]["family"] == "no_such_type"
