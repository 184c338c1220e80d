"""The model types of transformers, each at several depths and widths, and the families that are known in detail."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from genmad.zoo.jobs import Job, Made, NotBuiltError

# (layers at most, what widths are divided by) of each further size, after the full one.
SIZES: tuple[tuple[int, int], ...] = (
    (4, 2), (2, 1), (6, 4), (3, 8), (12, 2), (2, 4), (4, 1), (6, 1), (8, 4), (3, 2), (24, 2), (4, 8),
)  # fmt: skip
# Ending of a model class -> what its head is for, the longest ending that fits.
_TASKS: Mapping[str, str] = {
    "ForCausalLM": "language modelling", "LMHeadModel": "language modelling",
    "ForMaskedLM": "masked language modelling",
    "ForImageClassification": "image classification", "ForObjectDetection": "object detection",
    "ForSemanticSegmentation": "semantic segmentation", "ForUniversalSegmentation": "segmentation",
    "ForInstanceSegmentation": "instance segmentation", "ForDepthEstimation": "depth estimation",
    "ForConditionalGeneration": "conditional generation", "ForSpeechSeq2Seq": "speech recognition",
    "ForCTC": "speech recognition", "ForAudioClassification": "audio classification",
    "ForVideoClassification": "video classification", "ForSequenceClassification": "text classification",
    "ForQuestionAnswering": "question answering", "ForKeypointDetection": "keypoint detection",
    "ForRetrieval": "retrieval", "ForPrediction": "forecasting", "ForPreTraining": "pretraining",
    "ForTextToWaveform": "speech synthesis", "ForImageTextToText": "text generation from images and text",
    "Backbone": "features", "Encoder": "features", "Model": "features",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class TransformersSource:
    """Every model type of transformers.

    Attributes:
        sizes: how many sizes each type is built at, the full one first.
        variants, narrow: further sizes of the families in `genmad.data.families`, and narrow ones.
        types: only these, all where None.
    """

    sizes: int = 1 + len(SIZES)
    variants: int = 6
    narrow: int = 3
    types: tuple[str, ...] | None = None
    name: str = "transformers"
    package: str = "transformers"

    def jobs(self, seed: int) -> Iterator[Job]:
        """Types in alphabetical order, each at its sizes."""
        from genmad.importers.hf_catalog import model_types

        library = f"transformers {version('transformers')}"
        for kind in sorted(k for k in model_types() if self._wanted(k)):
            yield self._job(library, kind, "full", {"size": "full"})
            for depth, width in SIZES[: self.sizes - 1]:
                settings = {"size": "small", "depth": depth, "width": width}
                yield self._job(library, kind, f"{depth} layers, width/{width}", settings)
        for kind, index, fields in _known_families(seed, self.variants, self.narrow):
            if self._wanted(kind):
                yield self._job(library, kind, f"v{index}", {"size": "full", **fields})

    def _wanted(self, kind: str) -> bool:
        return self.types is None or kind in self.types

    def _job(self, library: str, kind: str, variant: str, settings: Mapping[str, Any]) -> Job:
        return Job(
            source=self.name, library=library, family=kind, group=folder_of(kind), variant=variant, name=kind,
            settings=settings,
        )  # fmt: skip

    def make(self, job: Job) -> Made:
        """The graph of a type at one size, or with the fields that its family's table gives."""
        from genmad.importers.from_hf import import_config
        from genmad.importers.hf_catalog import build_skeleton, make_config, model_class

        try:
            config = make_config(job.family, **job.settings)
            kind = model_class(config)
        except Exception as error:
            raise NotBuiltError from error
        try:
            graph = import_config(config, source=job.family).graph
        except Exception as error:
            _build_alone(build_skeleton, config)
            raise error
        return Made(graph=graph, task=task_of(kind.__name__))


def _build_alone(build_skeleton: Callable[[Any], Any], config: Any) -> None:
    """Tells a model that cannot be imported from one that its own code cannot build. Raises `NotBuiltError`."""
    try:
        build_skeleton(config)
    except Exception as error:
        raise NotBuiltError from error


def _known_families(seed: int, variants: int, narrow: int) -> Iterator[tuple[str, int, dict[str, Any]]]:
    import random

    from genmad.data.families import FAMILIES, narrow_size

    for family in FAMILIES:
        rng = random.Random(f"narrow {family.model_type} {seed}")
        small = [dict(family.config(narrow_size(rng))) for _ in range(narrow)]
        usual = family.variants(seed, variants) if variants else []
        yield from ((family.model_type, i, fields) for i, fields in enumerate([*usual, *small]))


def folder_of(kind: str) -> str:
    """The folder of transformers that a model type stands in: kin, as `clip` and `clip_text_model`, share it."""
    from transformers.models.auto.configuration_auto import model_type_to_module_name

    return str(model_type_to_module_name(kind))


def task_of(class_name: str) -> str:
    """What the head of a transformers class is for; "" where its name does not tell.

    >>> task_of("GPT2LMHeadModel"), task_of("ViTForImageClassification"), task_of("Thing")
    ('language modelling', 'image classification', '')
    """
    fitting = [ending for ending in _TASKS if class_name.endswith(ending)]
    return _TASKS[max(fitting, key=len)] if fitting else ""
