"""AutoBuild: predictors that rank architectures and say which of their modules matter.

Mills et al., Building Optimal Neural Architectures using Interpretable Knowledge, CVPR 2024, arXiv 2403.13293.

Importing this package loads no torch: the public names below are looked up when first used.

>>> from genmad import autobuild
>>> "AutoBuildPredictor" in dir(autobuild)
True
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from genmad.autobuild.architecture import ArchGraph, FeatureSchema, LabelledSet
    from genmad.autobuild.autobuild_predictor import AutoBuildPredictor
    from genmad.autobuild.construction import build
    from genmad.autobuild.encodings import get_encoding
    from genmad.autobuild.labelled import load_set
    from genmad.autobuild.labels import read_labels
    from genmad.autobuild.predictor import make_predictor
    from genmad.autobuild.reduced import reduce_space
    from genmad.autobuild.score_folder import write_scores
    from genmad.autobuild.score_reading import read_scores
    from genmad.autobuild.scoring import ScoreSettings, score_labels

__all__ = [
    "ArchGraph", "AutoBuildPredictor", "FeatureSchema", "LabelledSet", "ScoreSettings", "build", "get_encoding",
    "load_set", "make_predictor", "read_labels", "read_scores", "reduce_space", "score_labels", "write_scores",
]  # fmt: skip

_HOME_OF = {
    "ArchGraph": "genmad.autobuild.architecture",
    "AutoBuildPredictor": "genmad.autobuild.autobuild_predictor",
    "FeatureSchema": "genmad.autobuild.architecture",
    "LabelledSet": "genmad.autobuild.architecture",
    "ScoreSettings": "genmad.autobuild.scoring",
    "build": "genmad.autobuild.construction",
    "get_encoding": "genmad.autobuild.encodings",
    "load_set": "genmad.autobuild.labelled",
    "make_predictor": "genmad.autobuild.predictor",
    "read_labels": "genmad.autobuild.labels",
    "read_scores": "genmad.autobuild.score_reading",
    "reduce_space": "genmad.autobuild.reduced",
    "score_labels": "genmad.autobuild.scoring",
    "write_scores": "genmad.autobuild.score_folder",
}


def __getattr__(name: str) -> object:
    """Load the module that holds a public name, on first use (PEP 562)."""
    if name not in _HOME_OF:
        raise AttributeError(
            f"module {__name__!r} has no attribute {name!r}; its public names are {', '.join(__all__)}"
        )
    value = getattr(import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Name the lazy attributes too, so that completion finds them."""
    return sorted({*globals(), *__all__})
