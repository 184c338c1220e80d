"""What every predictor is, and the list of those there are."""

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Protocol

from genmad.autobuild.architecture import ArchGraph, FeatureSchema, Floats


class Predictor(Protocol):
    """Learns a number per architecture; higher targets get higher predictions."""

    def fit(self, graphs: Sequence[ArchGraph], targets: Floats, *, seed: int) -> None:
        """Learns from float64[N] targets. Everything random follows from `seed`."""

    def predict(self, graphs: Sequence[ArchGraph]) -> Floats:
        """float64[N]: predictions, in the units of the targets where the loss knows them (ranking losses do not)."""


# Name -> (module, class). A class is built as `Class(schema)`; its other arguments have defaults.
PREDICTORS: Mapping[str, tuple[str, str]] = {
    "autobuild": ("genmad.autobuild.autobuild_predictor", "AutoBuildPredictor"),
    "autobuild_ensemble": ("genmad.autobuild.ensemble", "AutoBuildEnsemble"),
    "ridge": ("genmad.autobuild.ridge", "Ridge"),
    "boosting": ("genmad.autobuild.boosting", "Boosting"),
    "feature_gp": ("genmad.autobuild.feature_process", "FeatureProcess"),
    "blend": ("genmad.autobuild.blend", "Blend"),
    "wl_gp": ("genmad.autobuild.kernel_process", "WLProcess"),
    "latency": ("genmad.autobuild.latency", "LatencyPredictor"),
    "gin": ("genmad.autobuild.peers.gin", "GinPredictor"),
    "gates": ("genmad.autobuild.peers.gates", "GatesPredictor"),
    "ta_gates": ("genmad.autobuild.peers.ta_gates", "TaGatesPredictor"),
    "adjacency_attention": ("genmad.autobuild.peers.adjacency_attention", "AttentionPredictor"),
    "pretrained": ("genmad.autobuild.peers.pretrained", "PretrainedPredictor"),
    "experts": ("genmad.autobuild.peers.experts", "ExpertsPredictor"),
}


def make_predictor(name: str, schema: FeatureSchema, **settings: object) -> Predictor:
    """An untrained predictor. Raises `KeyError` on a name that is not in `PREDICTORS`."""
    module, attribute = PREDICTORS[name]
    made: Predictor = getattr(import_module(module), attribute)(schema, **settings)
    return made
