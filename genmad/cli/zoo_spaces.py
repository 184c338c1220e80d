"""Search spaces as a source of a corpus: the one place where `genmad.zoo` meets `genmad.spaces`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from genmad import __version__
from genmad.zoo.jobs import Job, Made, Source


@dataclass(frozen=True, slots=True, kw_only=True)
class SpacesSource:
    """Architectures drawn from every search space that there is.

    Attributes:
        samples: drawn from each; repeats are dropped with the corpus's other duplicates.
    """

    samples: int = 100
    name: str = "spaces"
    package: str = "genmad"

    def jobs(self, seed: int) -> Iterator[Job]:
        """Spaces in the order of their registry; the draws of each depend on its name and the seed alone."""
        import zlib

        import numpy as np

        from genmad.spaces.registry import SPACES, get_space

        for name in SPACES:
            space = get_space(name)
            rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
            for index, word in enumerate(space.sample(rng, self.samples).tolist()):
                yield Job(
                    source=self.name, library=f"genmad {__version__}", family=f"spaces.{name}", name=space.title,
                    variant=f"sample {index}", settings={"space": name, "text": space.to_text(tuple(word))},
                )  # fmt: skip

    def make(self, job: Job) -> Made:
        """The whole network of a member."""
        from genmad.spaces.registry import get_space

        space = get_space(job.settings["space"])
        return Made(graph=space.to_graph(space.from_text(job.settings["text"])))


def space_sources(samples: int) -> tuple[Source, ...]:
    """The source `spaces`; none where no architectures are to be drawn."""
    return (SpacesSource(samples=samples),) if samples else ()
