"""The Gaussian process over choices of nodes, the architectures it labels, and when it is used."""

from dataclasses import replace

import numpy as np
import torch

from genmad.autobuild import choice_process
from genmad.autobuild.architecture import ArchGraph, FeatureSchema
from genmad.autobuild.choice_process import ChoiceProcess
from genmad.autobuild.recombination import recombine
from genmad.autobuild.teacher import TeacherSettings, fit_teacher, taught

SCHEMA = FeatureSchema(
    names=("stage", "layer", "kernel", "bias"),
    choices=(("1", "2"), ("1", "2", "3"), ("3", "5", "7"), ("no", "yes")),
)


def chain(rng: np.random.Generator) -> ArchGraph:
    """Two stages of one to three layers, a bias everywhere or nowhere."""
    bias = int(rng.integers(2))
    rows = [(s, j, int(rng.integers(3)), bias) for s in range(2) for j in range(int(rng.integers(1, 4)))]
    steps = np.arange(len(rows) - 1)
    features = np.array(rows)
    return ArchGraph(features=features, edges=np.stack([steps, steps + 1], axis=1), stages=features[:, 0])


def chains(count: int, seed: int = 0) -> list[ArchGraph]:
    rng = np.random.default_rng(seed)
    return [chain(rng) for _ in range(count)]


def worth(graphs: list[ArchGraph]) -> np.ndarray:
    """Layers add up; kernels count more in the second stage."""
    return np.array([float((1 + graph.features[:, 2] * (1 + graph.features[:, 0])).sum()) for graph in graphs])


def test_few_labels_of_what_adds_up_are_enough() -> None:
    known, asked = chains(40), chains(200, seed=1)
    found = ChoiceProcess.fit(SCHEMA, known, 70 + 0.1 * worth(known))
    error = found.predict(asked) - (70 + 0.1 * worth(asked))
    assert np.abs(error).max() < 0.1 * np.ptp(0.1 * worth(asked))


def test_left_out_predictions_are_those_of_a_process_without_the_label() -> None:
    """Against refitting the weights without one row, with the same kernel."""
    known = chains(15)
    targets = worth(known) + np.random.default_rng(2).normal(size=15)
    found = ChoiceProcess.fit(SCHEMA, known, targets)
    wanted = torch.from_numpy((targets - found.shift) / found.scale)
    # weights = inverse @ wanted holds for every target, so the kernel's matrix can be read off its own parts.
    equal, near = choice_process._similarities(SCHEMA, found.kinds, found.kinds)
    inner = found.counts @ choice_process._node_kernel(found.logs, equal, near) @ found.counts.T / found.unit
    kernel = choice_process._kernel(found.logs, inner, inner.diagonal(), inner.diagonal())
    noise = float(found.logs[-2].exp()) + choice_process.JITTER
    kept = [i for i in range(15) if i != 4]
    solved = torch.linalg.solve(kernel[kept][:, kept] + noise * torch.eye(14, dtype=torch.float64), wanted[kept])
    np.testing.assert_allclose(
        float(kernel[4, kept] @ solved) * found.scale + found.shift, float(found.left_out[4]), rtol=1e-6
    )


def test_nodes_never_seen_can_be_asked_for() -> None:
    known = [graph for graph in chains(60) if not (graph.features[:, :3] == (1, 2, 2)).all(1).any()]
    asked = [graph for graph in chains(300, seed=3) if (graph.features[:, :3] == (1, 2, 2)).all(1).any()]
    said = ChoiceProcess.fit(SCHEMA, known, worth(known)).predict(asked)
    assert np.corrcoef(said, worth(asked))[0, 1] > 0.9


def test_tensors_restore_the_process() -> None:
    known = chains(12)
    found = ChoiceProcess.fit(SCHEMA, known, worth(known))
    again = ChoiceProcess.of_tensors(found.tensors(), SCHEMA)
    assert again.predict(known).tolist() == found.predict(known).tolist()


def test_recombined_architectures_are_members_with_the_bias_of_one_parent() -> None:
    known = chains(10)
    slots = {(*row[:3],) for graph in known for row in graph.features.tolist()}
    lengths = {(s, int((graph.stages == s).sum())) for graph in known for s in range(2)}
    for graph in recombine(known, 50, seed=0):
        assert {(*row[:3],) for row in graph.features.tolist()} <= slots
        assert all((s, int((graph.stages == s).sum())) in lengths for s in range(2))
        assert len(set(graph.features[:, 3].tolist())) == 1
        assert graph.features[:, 0].tolist() == graph.stages.tolist()


def test_recombined_architectures_are_new_and_follow_from_the_seed() -> None:
    known = chains(10)
    a, b, c = ([g.features.tolist() for g in recombine(known, 30, seed=s)] for s in (1, 1, 2))
    assert a == b != c
    assert sum(rows not in [g.features.tolist() for g in known] for rows in a) > 20


def test_graphs_that_are_no_chains_keep_their_edges_and_ends() -> None:
    rng = np.random.default_rng(4)
    edges = np.array([(0, 1), (0, 2), (1, 3), (2, 3)])
    stages = np.array([-1, 0, 0, -1])
    cells = [ArchGraph(features=np.array([[0], *rng.integers(2, 5, (2, 1)), [1]]), edges=edges, stages=stages)
             for _ in range(6)]  # fmt: skip
    for graph in recombine(cells, 20, seed=0):
        assert graph.edges.tolist() == edges.tolist()
        assert graph.features[[0, 3], 0].tolist() == [0, 1]
        assert set(graph.features[1:3, 0].tolist()) <= {2, 3, 4}


def test_a_process_that_predicts_nothing_or_sees_no_edges_is_not_used() -> None:
    known = chains(40)
    noise = np.random.default_rng(5).normal(size=40)
    assert fit_teacher(SCHEMA, known, noise, TeacherSettings()) is None
    assert fit_teacher(SCHEMA, known, np.ones(40), TeacherSettings()) is None
    assert fit_teacher(SCHEMA, known, worth(known), TeacherSettings(most=39)) is None
    forked = [*known[1:], next(graph for graph in chains(60) if graph.num_nodes > 2)]
    forked[-1] = replace(forked[-1], edges=np.concatenate([forked[-1].edges, [[0, 2]]]))
    assert fit_teacher(SCHEMA, forked, worth(forked), TeacherSettings()) is None
    assert fit_teacher(SCHEMA, known, worth(known), TeacherSettings()) is not None


def test_the_taught_set_holds_the_labels_and_what_the_process_says() -> None:
    known = chains(20)
    process = ChoiceProcess.fit(SCHEMA, known, worth(known))
    graphs, targets = taught(process, known, worth(known), TeacherSettings(architectures=7), seed=0)
    assert len(graphs) == len(targets) == 27
    assert targets[:20].tolist() == worth(known).tolist()
    assert targets[20:].tolist() == process.predict(graphs[20:]).tolist()
    given = chains(3, seed=9)
    assert taught(process, known, worth(known), TeacherSettings(), seed=0, unlabelled=given)[0][20:] == given
