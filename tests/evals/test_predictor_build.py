"""The protocol `build` on a space whose labels are made up, so that the truth is known."""

import json
from functools import cache

import numpy as np
import pytest

from genmad.autobuild.architecture import LabelledSet
from genmad.autobuild.encodings import get_encoding
from genmad.evals import predictor_build
from genmad.evals.predictor_build import Arena, run_build
from tests.autobuild.scorers import AdditiveScorer


@cache
def _arena(*, noise: float = 0.0) -> Arena:
    """NAS-Bench-Macro in which layers of higher kinds are better, and late stages count more."""
    encoding = get_encoding("nb_macro")
    assert encoding.modules is not None
    texts = tuple(encoding.modules.every_text())
    graphs = tuple(encoding.graph(text) for text in texts)
    scorer = AdditiveScorer(encoding.schema)
    values = scorer.predict(graphs) + noise * np.random.default_rng(0).normal(size=len(texts))
    groups = np.unique(np.asarray(encoding.keys(texts)), return_inverse=True)[1].astype(np.int64)
    data = LabelledSet(
        name="nb_macro", schema=encoding.schema, graphs=graphs, groups=groups, targets={"acc": values}, texts=texts
    )
    return Arena(encoding=encoding, data=data, values=values)


def test_ranks_count_the_better_ones() -> None:
    arena = _arena()
    best = int(np.argmax(arena.values))
    assert arena.data.texts[best] == "22222222"
    assert arena.ranks[best] == 1
    assert arena.ranks.max() == len(arena.values) == len(arena.combined[1])


def test_combinations_are_the_members_that_their_modules_make() -> None:
    arena = _arena()
    space = arena.encoding.modules
    assert space is not None
    numbers, rows = arena.combined
    for at in (0, 17, 3210, 6560):
        choice = [codes[i].tolist() for codes, i in zip(space.codes, numbers[at], strict=True)]
        assert space.text(choice) == arena.data.texts[rows[at]]


def test_a_perfect_predictor_builds_the_best_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """And a predictor that is wrong in everything builds the worst: ranks are of true labels, not of predictions."""
    monkeypatch.setattr(Arena, "load", staticmethod(lambda *_: _arena(noise=1e-3)))
    monkeypatch.setattr(predictor_build, "autobuild_scorer", lambda *_, **__: lambda schema, *_: AdditiveScorer(schema))
    found = run_build(quick=True, seed=3)
    json.dumps(found)
    assert found["metrics"]["nb_macro_rank_50"] == 1
    assert found["metrics"]["sd_best_rank"] == 1
    assert set(found["baselines"]) == {"built_by_sum", "built_in_context", "exhaustive", "labelled", "random"}
    assert found["baselines"]["exhaustive"]["nb_macro_rank_50"] == 1
    assert found["baselines"]["labelled"]["nb_macro_rank_50"] > 20
    assert found["metrics"]["nb_macro_module_srcc_50"] > 0.9

    class Contrary(AdditiveScorer):
        def predict(self, graphs: object) -> np.ndarray:
            return -AdditiveScorer.predict(self, graphs)  # type: ignore[arg-type]

        def node_norms(self, graphs: object) -> np.ndarray:
            return 100 - super().node_norms(graphs)

    monkeypatch.setattr(predictor_build, "autobuild_scorer", lambda *_, **__: lambda schema, *_: Contrary(schema))
    found = run_build(quick=True, seed=3)
    assert found["metrics"]["nb_macro_rank_50"] > 6000
    assert found["metrics"]["nb_macro_module_srcc_50"] < -0.9
