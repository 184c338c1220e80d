"""How predictors read the members of each space: the text of an architecture as a graph, and its stages of modules.

Graphs are those of the labelled benchmarks (`genmad.autobuild.labelled`); spaces that have no benchmark here are read
through their adjacency encoding.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from genmad.autobuild.architecture import ArchGraph, FeatureSchema
from genmad.autobuild.labelled.edge_cells import EDGES_SCHEMA, edges_graph
from genmad.autobuild.labelled.language import BERT_SCHEMA, bert_graph, hw_gpt_graph, hw_gpt_schema
from genmad.autobuild.labelled.macro import MACRO_OPS, MACRO_SCHEMA, MACRO_STAGES, macro_class, macro_graph
from genmad.autobuild.labelled.node_cells import NB101_SCHEMA, nb101_graph
from genmad.autobuild.labelled.ofa import ofa_graph, ofa_schema
from genmad.autobuild.modules import ModuleSpace, Run, Stage
from genmad.ir import Diagnostic
from genmad.spaces import SPACES, Space, SpaceError, get_space
from genmad.spaces.bert import NasBenchBert
from genmad.spaces.hw_gpt import HwGpt
from genmad.spaces.nb101 import NB101
from genmad.spaces.nb201 import EDGES, NB201, OPS
from genmad.spaces.ofa import LAYERS, OfaSpace

Layers = Sequence[tuple[tuple[str, ...], ...]]
MACRO = "nb_macro"
_MACRO_NAMES = {"nas-bench-macro": MACRO, "nas_bench_macro": MACRO, MACRO: MACRO}


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """A space as predictors see it.

    Attributes:
        name: as on the command line.
        schema: of its graphs.
        graph: the graph of a text that is a member.
        problems: why a text is no member; empty when it is one.
        keys: equal where two members compute the same.
        modules: the space as a product of stages; None where choices depend on each other.
        space: the registered space; None where it is known to predictors alone.
    """

    name: str
    schema: FeatureSchema
    graph: Callable[[str], ArchGraph]
    problems: Callable[[str], list[str]]
    keys: Callable[[Sequence[str]], list[str]]
    modules: ModuleSpace | None = None
    space: Space | None = None


@cache
def get_encoding(name: str) -> Encoding:
    """The encoding of a space by name. Raises `SpaceError` with the nearest names."""
    if name.lower() in _MACRO_NAMES:
        return _macro()
    try:
        space = get_space(name)
    except SpaceError as error:
        found = error.diagnostic
        expected = f"one of {', '.join(ENCODED)}"
        raise SpaceError(Diagnostic(where=found.where, got=found.got, expected=expected, fix=found.fix)) from error
    if isinstance(space, OfaSpace):
        return _of_space(space, ofa_schema(space), lambda text: ofa_graph(_ofa_stages(text)), _ofa_modules(space))
    if isinstance(space, NB201):
        return _of_space(space, EDGES_SCHEMA, lambda text: edges_graph(space.from_text(text)), _nb201_modules())
    if isinstance(space, NB101):
        return _of_space(space, NB101_SCHEMA, lambda text: nb101_graph(space.adjacency(space.from_text(text))[0]))
    if isinstance(space, HwGpt):
        return _of_space(space, hw_gpt_schema(space), lambda text: hw_gpt_graph(space, space.from_text(text)))
    if isinstance(space, NasBenchBert):
        return _of_space(space, BERT_SCHEMA, lambda text: bert_graph(*space.unpack(space.from_text(text))))
    return _of_space(space, *_by_adjacency(space))


ENCODED = (*SPACES, MACRO)


def _of_space(
    space: Space, schema: FeatureSchema, graph: Callable[[str], ArchGraph], modules: ModuleSpace | None = None
) -> Encoding:
    def keys(texts: Sequence[str]) -> list[str]:
        return space.keys(np.array([space.from_text(text) for text in texts], np.int16)) if texts else []

    return Encoding(
        name=space.name, schema=schema, graph=graph, problems=space.problems, keys=keys, modules=modules, space=space
    )


def _ofa_stages(text: str) -> list[list[tuple[int, int]]]:
    kinds = dict(zip(_ofa_kinds(), LAYERS, strict=True))
    return [[kinds[layer] for layer in stage.split(" ")] for stage in text.split(" | ")]


def _ofa_kinds() -> tuple[str, ...]:
    return tuple(f"k{kernel}_e{expand}" for kernel, expand in LAYERS)


def _ofa_modules(space: OfaSpace) -> ModuleSpace:
    """A stage of modules per stage of the network; the last of ProxylessNAS, of one layer, is part of the one before
    (the paper's merged stage: 7,371 x 9 modules)."""
    schema = ofa_schema(space)
    runs = []
    for number, stage in enumerate(space.supernet.stages):
        places = 1 if stage.single else 4
        features = [[ofa_graph([[]] * number + [[kind] * (p + 1)]).features[p] for kind in LAYERS]
                    for p in range(places)]  # fmt: skip
        least = 1 if stage.single else 2
        runs.append(Run(number=number, least=least, kinds=_ofa_kinds(), features=np.array(features, np.int64)))
    groups = [[run] for run in runs]
    if space.supernet.stages[-1].single:
        groups[-2:] = [[*groups[-2], *groups[-1]]]
    stages = tuple(
        Stage(name="stage " + " and ".join(str(run.number + 1) for run in group), runs=tuple(group)) for group in groups
    )

    def compose(layers: Layers) -> str:
        return " | ".join(" ".join(names) for runs in layers for names in runs)

    def split(text: str) -> tuple[tuple[tuple[str, ...], ...], ...]:
        rest = [tuple(part.split(" ")) for part in text.split(" | ")]
        out, start = [], 0
        for stage in stages:
            out.append(tuple(rest[start : start + len(stage.runs)]))
            start += len(stage.runs)
        return tuple(out)

    return ModuleSpace(name=space.name, schema=schema, stages=stages, compose=compose, split=split)


def _nb201_modules() -> ModuleSpace:
    """A stage per node of the cell: the operations on the edges into it, 5, 25 and 125 modules, side by side
    (so that their score is that of the 0-hop)."""
    graphs = [edges_graph((kind,) * len(EDGES)) for kind in range(len(OPS))]
    features = np.stack([graph.features[1:7] for graph in graphs], axis=1)
    places = [[i for i, edge in enumerate(EDGES) if edge[1] == node] for node in (1, 2, 3)]
    stages = tuple(
        Stage(
            name=f"edges into node {node}", in_chain=False,
            runs=(Run(number=0, least=len(at), kinds=OPS, features=features[at]),),
        )
        for node, at in enumerate(places, 1)
    )  # fmt: skip

    def compose(layers: Layers) -> str:
        nodes = ["|" + "".join(f"{op}~{source}|" for source, op in enumerate(runs[0])) for runs in layers]
        return "+".join(nodes)

    def split(text: str) -> tuple[tuple[tuple[str, ...], ...], ...]:
        return tuple((tuple(edge.split("~")[0] for edge in node[1:-1].split("|")),) for node in text.split("+"))

    return ModuleSpace(name="nb201", schema=EDGES_SCHEMA, stages=stages, compose=compose, split=split)


def _macro() -> Encoding:
    """NAS-Bench-Macro: eight layers in stages of two, three and three; 9, 27 and 27 modules."""
    graphs = [macro_graph(str(kind) * sum(MACRO_STAGES)) for kind in range(len(MACRO_OPS))]
    features = np.stack([graph.features for graph in graphs], axis=1)
    numbers = graphs[0].stages
    stages = tuple(
        Stage(
            name=f"stage {number + 1}",
            runs=(Run(number=number, least=size, kinds=MACRO_OPS, features=features[numbers == number]),),
        )
        for number, size in enumerate(MACRO_STAGES)
    )

    def compose(layers: Layers) -> str:
        return "".join(str(MACRO_OPS.index(name)) for runs in layers for name in runs[0])

    def split(text: str) -> tuple[tuple[tuple[str, ...], ...], ...]:
        ops = [MACRO_OPS[int(digit)] for digit in text]
        return tuple((tuple(ops[i] for i in np.flatnonzero(numbers == n)),) for n in range(len(MACRO_STAGES)))

    def problems(text: str) -> list[str]:
        try:
            macro_graph(text)
        except ValueError as error:
            return [str(error)]
        return []

    modules = ModuleSpace(name=MACRO, schema=MACRO_SCHEMA, stages=stages, compose=compose, split=split)
    return Encoding(
        name=MACRO, schema=MACRO_SCHEMA, graph=macro_graph, problems=problems, modules=modules,
        keys=lambda texts: [macro_class(text) for text in texts],
    )  # fmt: skip


_SEEN = 512


def _by_adjacency(space: Space) -> tuple[FeatureSchema, Callable[[str], ArchGraph]]:
    """Vertices by label and by the cell they stand in; labels are those of a fixed sample of the space."""
    words = space.sample(np.random.default_rng(0), _SEEN).tolist()
    cells = [space.adjacency(tuple(word)) for word in words]
    labels = tuple(sorted({label for parts in cells for part in parts for label in part.ops}))
    names = tuple(str(i + 1) for i in range(max(map(len, cells))))
    at: Mapping[str, int] = {label: i for i, label in enumerate(labels)}

    def graph(text: str) -> ArchGraph:
        features: list[tuple[int, int]] = []
        edges: list[tuple[int, int]] = []
        stages: list[int] = []
        for number, part in enumerate(space.adjacency(space.from_text(text))):
            start = len(features)
            features += [(number, _known(at, label, space)) for label in part.ops]
            edges += [(a + start, b + start) for a, b in part.edges]
            stages += [-1 if label in ("input", "output") else number for label in part.ops]
        return ArchGraph(
            features=np.array(features, np.int64), edges=np.array(sorted(edges), np.int64).reshape(-1, 2),
            stages=np.array(stages, np.int64),
        )  # fmt: skip

    return FeatureSchema(names=("part", "op"), choices=(names, labels)), graph


def _known(at: Mapping[str, int], label: str, space: Space) -> int:
    if label not in at:
        raise SpaceError(
            Diagnostic(where=f"space {space.name}", got=f"a vertex {label!r}", expected=f"one of {', '.join(at)}")
        )
    return at[label]
