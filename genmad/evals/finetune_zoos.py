"""Zoos for measuring fine-tuning, invented from real models: families that pretraining never saw, where there are such.

`mobile`: timm's GhostNets, ReXNets and RegNets, and transformers' MobileNetV2 at several sizes; the split rule of
`configs/corpus.yaml` holds all four families out. `speech`: the speech models of transformers at two small sizes; most
of these types were trained on at a small size, so this zoo is no test of novelty. `nb201`: 200 cells of NAS-Bench-201,
the best by validation accuracy where the table is there, drawn otherwise; no cell of a space was trained on.
"""

import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from genmad.data.corpus import ArchRecord, record_of
from genmad.data.splits import SplitRule
from genmad.evals.held_out import EvalConfigError
from genmad.ir import Diagnostic
from genmad.zoo.config import read_config
from genmad.zoo.jobs import Job, Made, Source, attempt

MOBILE_TIMM = ("timm.ghostnet", "timm.rexnet", "timm.regnet")
MOBILE_TYPE = "mobilenet_v2"
SPEECH = re.compile(
    r"(wav2vec2.*|hubert|sew.*|wavlm|whisper|speech_to_text|speecht5.*|unispeech.*|data2vec-audio|moonshine.*|parakeet.*"
    r"|canary.*|lasr.*|granite_speech.*_encoder|glmasr_encoder|qwen\d_?\w*_audio_encoder|qwen3_asr_encoder"
    r"|voxtral.*encoder|nemotron.*asr.*|fun_asr_nano_encoder|audio-spectrogram-transformer|clap_audio_model)\Z"
)
NB201_COUNT = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalZoo:
    """A zoo and what pretraining has seen of it.

    Attributes:
        records: distinct by canonical hash.
        seen: in words, of which families graphs may have been trained on.
    """

    name: str
    records: tuple[ArchRecord, ...]
    seen: str


def eval_zoo(
    name: str, *, limit: int | None = None, seed: int = 0, data: str | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> EvalZoo:  # fmt: skip
    """The zoo of that name, or an even sample of `limit` of its models. Raises `EvalConfigError` for another name, and
    where a library is missing."""
    if name not in ZOOS:
        raise _unusable(f"zoo {name!r}", f"one of {', '.join(ZOOS)}")
    pairs = list(_jobs(name, seed, data))
    if limit is not None and limit < len(pairs):
        pairs = [pairs[i] for i in sorted(random.Random(f"zoo-{seed}").sample(range(len(pairs)), limit))]
    found: dict[str, ArchRecord] = {}
    for source, job in pairs:
        done = attempt(source, job)
        if done.row is None:
            say(f"{job} is left out: {done.reason}")
        else:
            record = record_of({**done.row, "split": "train"})
            found.setdefault(record.hash, record)
    if not found:
        raise _unusable(f"no model of {name}", "timm and transformers installed")
    records = tuple(found.values())
    return EvalZoo(name=name, records=records, seen=_seen(name, records))


def _unusable(got: str, expected: str) -> EvalConfigError:
    fix = "pip install genmad[zoo], or choose another zoo"
    return EvalConfigError(str(Diagnostic(where="genmad eval finetune", got=got, expected=expected, fix=fix)))


def _jobs(name: str, seed: int, data: str | None) -> Iterator[tuple[Source, Job]]:
    if name == "nb201":
        source: Source = Nb201Source(data=data or "")
        yield from ((source, job) for job in source.jobs(seed))
        return
    from importlib.util import find_spec

    from genmad.zoo.catalogue_models import CatalogueSource
    from genmad.zoo.transformers_models import TransformersSource

    if name == "mobile":
        if find_spec("timm") is not None:
            timm = CatalogueSource(name="timm", sizes=1)
            yield from ((timm, job) for job in timm.jobs(seed) if job.family in MOBILE_TIMM)
        hf = TransformersSource(sizes=7, types=(MOBILE_TYPE,))
        yield from ((hf, job) for job in hf.jobs(seed) if "depth" not in job.settings)
        return
    from genmad.importers.hf_catalog import model_types

    kinds = tuple(kind for kind in model_types() if SPEECH.match(kind))
    hf = TransformersSource(sizes=5, variants=0, narrow=0, types=kinds)
    yield from ((hf, job) for job in hf.jobs(seed) if (job.settings.get("depth"), job.settings.get("width")) in SMALL)


SMALL = ((3, 8), (6, 4))
ZOOS = ("mobile", "nb201", "speech")


@dataclass(frozen=True, slots=True, kw_only=True)
class Nb201Source:
    """The networks of 200 cells."""

    data: str = ""
    name: str = "nb201"
    package: str = "genmad"

    def jobs(self, seed: int) -> Iterator[Job]:
        from genmad.spaces import get_space
        from genmad.spaces.split import representatives
        from genmad.spaces.tables import data_folder

        space = get_space("nb201")
        folder = data_folder(self.data or None)
        table = space.read_labels(folder) if folder is not None else None
        if table is not None:
            order = np.argsort(-table.column("c10_val"))
            words = representatives(space, table.words[order])[:NB201_COUNT]
        else:
            words = representatives(space, space.sample(np.random.default_rng(seed), 2 * NB201_COUNT))[:NB201_COUNT]
        for index, word in enumerate(words.tolist()):
            text = space.to_text(tuple(word))
            yield Job(
                source=self.name, library="genmad", family="spaces.nb201", variant=f"cell {index}", name="nb201",
                settings={"text": text, "best": table is not None},
            )  # fmt: skip

    def make(self, job: Job) -> Made:
        from genmad.spaces import get_space

        space = get_space("nb201")
        return Made(graph=space.to_graph(space.from_text(job.settings["text"])))


def _seen(name: str, records: tuple[ArchRecord, ...]) -> str:
    """What the split rule says of the families; it decides what any checkpoint of this project may be trained on."""
    if name == "nb201":
        best = "best" if '"best": true' in records[0].config else "drawn, for want of the table"
        return f"{best} cells; no cell of a space was trained on"
    rule: SplitRule = read_config(None).splits
    families = sorted({r.family for r in records})
    seen = [f for f in families if rule.split(f, next(r.group for r in records if r.family == f)) == "train"]
    out = f"{len(families) - len(seen)} of {len(families)} families are held out by the split rule"
    return out + (f"; may have been trained on at other sizes: {', '.join(seen)}" if seen else "")
