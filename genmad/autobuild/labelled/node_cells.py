"""Cells whose operations stand on the vertices: NAS-Bench-101 and NAS-Bench-Graph."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from genmad.autobuild.architecture import ArchGraph, FeatureSchema, LabelledSet
from genmad.autobuild.labelled.reading import bad_row, class_numbers, lower_is_better, table_path
from genmad.spaces.nb101 import NB101, OPS, unpack
from genmad.spaces.space import Adjacency
from genmad.spaces.tables import csv_rows, float_columns

ENDS = ("input", "output")
NB101_SCHEMA = FeatureSchema(names=("op",), choices=((*ENDS, *OPS),))
GRAPH_OPS = ("gat", "gcn", "gin", "cheb", "sage", "arma", "graph", "fc", "skip")
NB_GRAPH_SCHEMA = FeatureSchema(names=("op",), choices=((*ENDS, *GRAPH_OPS),))


def cell_graph(ops: Sequence[int], edges: Sequence[tuple[int, int]]) -> ArchGraph:
    """An input, vertices of the choices `ops`, an output; `edges` number the vertices with the input as 0."""
    size = len(ops)
    return ArchGraph(
        features=np.array([0, *(op + len(ENDS) for op in ops), 1], np.int64)[:, None],
        edges=np.array(sorted(edges), np.int64).reshape(-1, 2), stages=np.array([-1, *[0] * size, -1], np.int64),
    )  # fmt: skip


def nb101_graph(cell: Adjacency) -> ArchGraph:
    """The graph of a cell of NAS-Bench-101."""
    return cell_graph([OPS.index(op) for op in cell.ops[1:-1]], cell.edges)


def load_nb101(name: str, data: Path) -> LabelledSet:
    """Validation accuracy after 4, 12, 36 and 108 epochs, parameters, training time; a class per distinct cell.

    Rows are read here and not by `NB101.read_labels`, whose MD5 keys take a minute; classes are fingerprints.
    """
    path = table_path(data, "NAS-Bench-101 (github.com/google-research/nasbench)", "nas-bench-101/nb101_20k.csv.gz",
                      "nb101_20k.csv.gz", "nb101.csv")  # fmt: skip
    space, rows, words, texts = NB101(), csv_rows(path, ["adj", "ops"]), [], []
    for line, row in enumerate(rows, 2):
        try:
            names = [OPS[int(op)] for op in row["ops"]]
        except (LookupError, ValueError) as error:
            raise bad_row(path, line, error, "a digit 0 to 2 per inner vertex") from error
        texts.append(" ".join([row["adj"], *names]))
        words.append(space.word_of_row(path, line, texts[-1]))
    table = np.array(words, np.int16).reshape(len(words), space.grammar().length)
    classes = np.unique(space.fingerprints(table), return_inverse=True)[1].astype(np.int64)
    columns = float_columns(rows, ("hash", "adj", "ops", "n_nodes", "edges"))
    matrices, ops = unpack(table)
    graphs = [
        cell_graph(op[1 : size - 1], [(int(a), int(b)) for a, b in np.argwhere(matrix)])
        for matrix, op, size in zip(matrices, ops.tolist(), (table[:, 0] + 2).tolist(), strict=True)
    ]
    return LabelledSet(
        name=name, schema=NB101_SCHEMA, graphs=tuple(graphs), groups=classes, targets=columns, texts=tuple(texts),
        lower_is_better=lower_is_better([*columns]),
    )  # fmt: skip


def gnn_graph(link: str, ops: Sequence[str]) -> ArchGraph:
    """Four layers of a graph network: digit k of `link` is the predecessor of layer k + 1, 0 the raw input; what
    nobody reads goes to the output. Raises `ValueError` on what is none."""
    if len(link) != len(ops) or any(not digit.isdigit() or int(digit) > at for at, digit in enumerate(link)):
        raise ValueError(f"link {link[:20]!r} with {len(ops)} operations")
    edges = [(int(digit), at) for at, digit in enumerate(link, 1)]
    read = {a for a, _ in edges}
    edges += [(at, len(ops) + 1) for at in range(1, len(ops) + 1) if at not in read]
    return cell_graph([GRAPH_OPS.index(op) for op in ops], edges)


def load_nb_graph(name: str, data: Path) -> LabelledSet:
    """Accuracy on validation and test part, latency and parameters on eight data sets; each row its own class, as the
    benchmark lists every architecture once."""
    path = table_path(data, "github.com/THUMNLab/NAS-Bench-Graph", "nas-bench-graph/nas_bench_graph.csv.gz",
                      "nas_bench_graph.csv.gz")  # fmt: skip
    rows = csv_rows(path, ["link", "ops"])
    graphs = []
    for line, row in enumerate(rows, 2):
        try:
            graphs.append(gnn_graph(row["link"], row["ops"].split("-")))
        except ValueError as error:
            raise bad_row(path, line, error, "four digits and four operations joined by -") from error
    texts = tuple(f"{row['link']} {row['ops']}" for row in rows)
    columns = float_columns(rows, ("link", "ops"))
    return LabelledSet(
        name=name, schema=NB_GRAPH_SCHEMA, graphs=tuple(graphs), groups=class_numbers(texts), targets=columns,
        texts=texts, lower_is_better=lower_is_better([*columns]),
    )  # fmt: skip
