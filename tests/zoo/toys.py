"""A source for tests of builds: small graphs, and models that raise, hang, crash or eat memory."""

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass

from genmad.zoo.jobs import Job, Made, NotApplicable
from tests.graphs import gpt2_like


@dataclass(frozen=True, slots=True, kw_only=True)
class ToySource:
    """Models `family/what` for each of `plan`; `what` is a number of layers or a way to go wrong."""

    plan: tuple[tuple[str, str], ...]
    name: str = "toys"
    package: str = "numpy"

    def jobs(self, seed: int) -> Iterator[Job]:
        for family, what in self.plan:
            settings = {"what": what, "seed": seed}
            yield Job(
                source=self.name, library="toys 1.0", family=family, variant=what, name=f"{family}-{what}",
                settings=settings,
            )  # fmt: skip

    def make(self, job: Job) -> Made:
        what = job.settings["what"]
        if what == "raise":
            raise ValueError("no such layer\nsecond line")
        if what == "skip":
            raise NotApplicable("nothing to do")
        if what == "hang":
            time.sleep(60)
        if what == "wait":
            time.sleep(2)
            return Made(graph=gpt2_like(layers=9))
        while what == "spin":
            pass
        if what == "crash":
            os._exit(7)
        if what == "hog":
            hold = [b"x" * (64 * 2**20) for _ in range(32)]
            time.sleep(60)
            del hold
        return Made(graph=gpt2_like(layers=int(what)), task="language modelling")
