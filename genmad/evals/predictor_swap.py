"""Do module scores mean anything? One operation is swapped; does the score change as the accuracy does?

On complete tables: an edge of NAS-Bench-201, a layer of NAS-Bench-Macro. Everything is learned from 100 or 300
labels; no member of a labelled isomorphism class takes part in a swap. Scores of the swapped node or of the module
that holds it stand beside the change of whole predictions, of sizes, and beside attributions. No figure was published
before; these are the first.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from genmad.autobuild.architecture import ArchGraph, Floats, LabelledSet
from genmad.evals.report import CpuClock, EvalReport, commit, use_one_thread
from genmad.evals.swaps import Swaps, agreement, draw_swaps, spread, twin_changes

LABELS = (100, 300)
NUM_SEEDS = 5
NUM_SWAPS = 400
# Architectures over which a partial dependence is averaged.
NUM_CONTEXTS = 48
DEFAULT = "autobuild_module"
"""What is shipped as the score of a module (`genmad score`)."""
WHOLE = ("ridge", "boosting", "wl_gp")
"""Predictors whose change of prediction is asked for beside AutoBuild's, where they are registered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """A space whose labels are all known.

    Attributes:
        title: in the names of figures.
        set_name: form with a node per place, so that a swap is one node.
        modules: the encoding whose stages are scored as modules.
        target, params, macs: columns.
        form: name of another form of the same rows for whole predictions; "" where there is none.
        repeats: columns of single trainings, the first of which is the ceiling for the mean of the others; without any,
            isomorphic twins are.
    """

    title: str
    set_name: str
    modules: str
    target: str
    params: str
    macs: str
    form: str = ""
    repeats: tuple[str, ...] = ()


GROUNDS = (
    Ground(title="nb201", set_name="nb201_edges", modules="nb201", target="c10_test", params="params_M",
           macs="flops_M", form="nb201"),
    Ground(title="macro", set_name="nb_macro", modules="nb_macro", target="acc_pct_mean", params="params",
           macs="flops", repeats=("acc_pct_run1", "acc_pct_run2", "acc_pct_run3")),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One draw of labels and swaps.

    Attributes:
        ground: the space.
        labelled: all its rows.
        other: the same rows in the other form, or None.
        rows: of the labels.
        swaps: between rows of other classes.
        seed: of everything random.
        quick: fewer epochs, no teacher.
    """

    ground: Ground
    labelled: LabelledSet
    other: LabelledSet | None
    rows: np.ndarray
    swaps: Swaps
    seed: int
    quick: bool

    @property
    def graphs(self) -> list[ArchGraph]:
        return [self.labelled.graphs[row] for row in self.rows]

    @property
    def targets(self) -> Floats:
        return self.labelled.targets[self.ground.target][self.rows]

    @cached_property
    def autobuild(self) -> Any:
        """The trained predictor whose nodes are scored."""
        from genmad.autobuild.autobuild_predictor import AutoBuildPredictor
        from genmad.autobuild.fitting import FitSettings
        from genmad.autobuild.teacher import TeacherSettings

        short: dict[str, Any] = {}
        if self.quick:
            short = {"fitting": FitSettings(epochs=60), "teaching": TeacherSettings(labels=0)}
        made = AutoBuildPredictor(self.labelled.schema, **short)
        made.fit(self.graphs, self.targets, seed=self.seed)
        return made


Changes = Iterator[tuple[str, Floats]]


def run_swap(*, quick: bool = False, seed: int = 0, n: int | None = None, data: str | None = None) -> dict[str, Any]:
    """`genmad eval predictor --protocol swap`: sign accuracy and Kendall tau per method; `n` is the number of seeds.

    Raises `SpaceError` where a table is not there.
    """
    from genmad.autobuild.labelled import load_set

    threads, clock = use_one_thread(), CpuClock()
    grounds = GROUNDS[1:] if quick else GROUNDS
    seeds = range(seed, seed + (n or (1 if quick else NUM_SEEDS)))
    labels, count = ((50,), 100) if quick else (LABELS, NUM_SWAPS)
    found: dict[str, dict[str, list[float]]] = {}
    ceilings: dict[str, list[float]] = {}
    for ground in grounds:
        labelled = load_set(ground.set_name, data)
        other = load_set(ground.form, data) if ground.form else None
        for number in seeds:
            for size in labels:
                trial = make_trial(ground, labelled, other, size, count, number, quick)
                _measure(trial, size, found, ceilings)
    table = {method: _summary(figures) for method, figures in found.items()}
    metrics = table.pop(DEFAULT) | _summary(ceilings)
    return EvalReport(
        name="predictor swap", commit=commit(), seed=seed, n=len(seeds) * count, threads=threads,
        cpu_seconds=clock.seconds(), split="swaps between unlabelled isomorphism classes", metrics=metrics,
        baselines=table, breakdown={"seeds": len(seeds), "swaps_per_seed": count, "default": DEFAULT}, quick=quick,
    ).to_json()  # fmt: skip


def make_trial(
    ground: Ground, labelled: LabelledSet, other: LabelledSet | None, size: int, count: int, seed: int, quick: bool
) -> Trial:
    """`size` labels drawn at random, one per isomorphism class, and `count` swaps between the other classes."""
    order = np.random.default_rng([seed, size]).permutation(len(labelled.graphs))
    _, first = np.unique(labelled.groups[order], return_index=True)
    rows = order[np.sort(first)[:size]]
    allowed = ~np.isin(labelled.groups, labelled.groups[rows])
    swaps = draw_swaps(labelled, allowed, count, seed)
    return Trial(ground=ground, labelled=labelled, other=other, rows=rows, swaps=swaps, seed=seed, quick=quick)


def _measure(
    trial: Trial, size: int, found: dict[str, dict[str, list[float]]], ceilings: dict[str, list[float]]
) -> None:
    column = trial.labelled.targets[trial.ground.target]
    true = trial.swaps.change(column)
    for method, change in every_change(trial):
        for figure, value in agreement(change, true, trial.swaps).items():
            found.setdefault(method, {}).setdefault(f"{trial.ground.title}_{figure}_{size}", []).append(value)
    for figure, value in _ceiling(trial).items():
        ceilings.setdefault(f"{trial.ground.title}_ceiling_{figure}", []).append(value)


def _ceiling(trial: Trial) -> dict[str, float]:
    """How the change goes with itself when the networks are trained once more."""
    targets, swaps = trial.labelled.targets, trial.swaps
    repeats = [swaps.change(targets[name]) for name in trial.ground.repeats if name in targets]
    if len(repeats) > 1:
        return agreement(repeats[0], np.mean(repeats[1:], axis=0))
    column = targets[trial.ground.target]
    twins, known = twin_changes(swaps, column, trial.seed)
    return agreement(twins[known], swaps.change(column)[known])


def every_change(trial: Trial) -> Changes:
    """(method, float64[S]): how much the score of each method changes with each swap."""
    parts: Sequence[Callable[[Trial], Changes]] = (
        _random, _sizes, _node_norms, _module_scores, _attributions, _partial_dependence, _subtrees,
        _predictions,
    )  # fmt: skip
    for part in parts:
        yield from part(trial)


def _random(trial: Trial) -> Changes:
    yield "random", np.random.default_rng([trial.seed, 1]).normal(size=len(trial.swaps.node))


def _sizes(trial: Trial) -> Changes:
    for name, column in (("params", trial.ground.params), ("macs", trial.ground.macs)):
        yield name, trial.swaps.change(trial.labelled.targets[column])


def _node_norms(trial: Trial) -> Changes:
    """AutoBuild's scores hop by hop: norms of the swapped node's embedding, and of the whole graph's."""
    graphs = trial.swaps.graphs
    nodes, wholes = trial.autobuild.node_norms(graphs), trial.autobuild.hop_norms(graphs)
    for hop in range(nodes.shape[1]):
        yield f"autobuild_node_hop{hop}", trial.swaps.change_of_nodes(nodes[:, hop])
        yield f"autobuild_graph_hop{hop}", trial.swaps.change_of_graphs(wholes[:, hop])


def _module_scores(trial: Trial) -> Changes:
    """AutoBuild's score of the module that holds the swapped node, moved to the labels' scale (equation 5)."""
    from genmad.autobuild.encodings import get_encoding
    from genmad.autobuild.scores import Moments, score_modules

    space = get_encoding(trial.ground.modules).modules
    assert space is not None
    moments = Moments.of(trial.autobuild, trial.graphs, trial.targets, space)
    scores: list[Mapping[str, float]] = []
    for stage in score_modules(space, [trial.autobuild], [moments]):
        texts = (stage.stage.text(codes) for codes in stage.codes.tolist())
        scores.append(dict(zip(texts, stage.score.tolist(), strict=True)))
    change = []
    for before, after in zip(trial.swaps.before, trial.swaps.after, strict=True):
        pair = [space.modules_in(trial.labelled.texts[row]) for row in (before, after)]
        change.append(sum(own[b] - own[a] for own, a, b in zip(scores, *pair, strict=True)))
    yield "autobuild_module", np.array(change)


def _attributions(trial: Trial) -> Changes:
    """Explanations of the same trained network."""
    from genmad.autobuild.attribution import gnn_explainer, integrated_gradients, mean_embedding
    from genmad.autobuild.batching import collate

    network, batch = trial.autobuild.network, collate(trial.swaps.graphs)
    start = mean_embedding(network, trial.graphs)
    yield "integrated_gradients", trial.swaps.change_of_nodes(integrated_gradients(network, batch, start, steps=16))
    mask = gnn_explainer(network, batch, epochs=10 if trial.quick else 60, seed=trial.seed)
    yield "gnn_explainer", trial.swaps.change_of_nodes(mask)


def _partial_dependence(trial: Trial) -> Changes:
    """What the predictor says of a choice at a place on average over architectures: a score of modules without norms.

    Friedman, Greedy Function Approximation, Annals of Statistics 29, 2001, section 8.2. All methods see the same
    labels; the contexts are members of the space, without labels.
    """
    op = trial.labelled.schema.column("op")
    contexts = np.random.default_rng([trial.seed, 2]).permutation(len(trial.labelled.graphs))[:NUM_CONTEXTS]
    wanted = sorted({(int(v), int(trial.labelled.graphs[row].features[v, op]))
                     for rows in (trial.swaps.before, trial.swaps.after)
                     for row, v in zip(rows, trial.swaps.node, strict=True)})  # fmt: skip
    forced = []
    for node, choice in wanted:
        for row in contexts:
            features = trial.labelled.graphs[row].features.copy()
            features[node, op] = choice
            forced.append(replace(trial.labelled.graphs[row], features=features))
    means = trial.autobuild.predict(forced).reshape(len(wanted), -1).mean(1)
    found = dict(zip(wanted, means.tolist(), strict=True))
    graphs = trial.swaps.graphs
    values = [found[int(v), int(g.features[v, op])] for g, v in zip(graphs, np.tile(trial.swaps.node, 2), strict=True)]
    yield "partial_dependence", trial.swaps.change_of_graphs(np.array(values))


def _subtrees(trial: Trial) -> Changes:
    """Linear weights of Weisfeiler-Lehman subtrees, of the swapped node and of the whole graph; means per choice."""
    from genmad.autobuild.attribution import SubtreeWeights, choice_means

    weights = SubtreeWeights.fit(trial.graphs, trial.targets)
    yield "wl_node", trial.swaps.change_of_nodes(weights.nodes(trial.swaps.graphs))
    yield "prediction_wl", trial.swaps.change_of_graphs(weights.predict(trial.swaps.graphs))
    means = choice_means(trial.graphs, trial.targets)
    average = float(trial.targets.mean())
    rows = np.concatenate([graph.features for graph in trial.swaps.graphs]).tolist()
    yield "choice_mean", trial.swaps.change_of_nodes(np.array([means.get(tuple(row), average) for row in rows]))


def _predictions(trial: Trial) -> Changes:
    """The change of what predictors say of the whole architecture, in the form that suits predictions best."""
    from genmad.autobuild.predictor import PREDICTORS, make_predictor

    yield "prediction_autobuild", trial.swaps.change_of_graphs(trial.autobuild.predict(trial.swaps.graphs))
    form = trial.other or trial.labelled
    graphs = [form.graphs[row] for row in trial.rows]
    asked = [form.graphs[row] for row in (*trial.swaps.before, *trial.swaps.after)]
    names = [name for name in WHOLE if name in PREDICTORS]
    if trial.other is not None:
        names.append("autobuild")
    for name in () if trial.quick else names:
        predictor = make_predictor(name, form.schema)
        predictor.fit(graphs, trial.targets, seed=trial.seed)
        shown = "autobuild_merged" if name == "autobuild" else name
        yield f"prediction_{shown}", trial.swaps.change_of_graphs(predictor.predict(asked))


def _summary(figures: Mapping[str, Sequence[float]]) -> dict[str, float]:
    out: dict[str, float] = {}
    for name, values in figures.items():
        out[name], out[f"{name}_std"] = spread(values)
    return out
