"""Graph neural networks of torch-geometric by name.

Inputs are those of one graph: `x` [nodes, features] and `edge_index` [2, edges] (row 0 the sources, row 1 the targets).
Message passing is imported as what it computes: gathers along the edges and scatters back to the nodes. Layers that add
self loops choose edges by data, so they are built with `add_self_loops=False`: edges come with their self loops.
"""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from genmad.importers.catalog import Entry, check_size, import_entry, unknown_name
from genmad.importers.from_torch import InputSlot
from genmad.importers.report import Imported

LIBRARY = "pyg"
_NODES, _EDGES, _FEATURES, _CLASSES, _ATOMS = 24, 64, 16, 7, 9
_EXAMPLE = {"nodes": _NODES, "edges": _EDGES}
_LONG = torch.int64
# A tensor that forward takes: its axes, of which `nodes` and `edges` are symbolic, and its dtype.
_Input = tuple[tuple[int | str, ...], torch.dtype]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Model:
    """How one class is built and called.

    Attributes:
        full, small: arguments of the constructor; `small` changes some of `full`.
        inputs: argument of forward -> the tensor it takes.
        call: further arguments of forward.
        constants: arguments whose contents decide which code runs.
    """

    full: Mapping[str, Any]
    small: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, _Input]
    call: Mapping[str, Any] = field(default_factory=dict)
    constants: Mapping[str, Tensor] = field(default_factory=dict)


_X: _Input = (("nodes", _FEATURES), torch.float32)
_EDGE_INDEX: _Input = ((2, "edges"), _LONG)
_ON_NODES: Mapping[str, _Input] = {"x": _X, "edge_index": _EDGE_INDEX}
_ONE_GRAPH: Mapping[str, _Input] = {"x": ((_NODES, _FEATURES), torch.float32), "edge_index": _EDGE_INDEX}
_WIDE: Mapping[str, _Input] = {"x": (("nodes", "channels"), torch.float32), "edge_index": _EDGE_INDEX}
# All nodes belong to graph 0.
_BATCH = {"batch": torch.zeros(_NODES, dtype=_LONG)}
_SMALL = {"hidden_channels": 8, "num_layers": 2}


def _stack(**settings: Any) -> _Model:
    """A stack of one kind of convolution, as most of the models are."""
    full = {"in_channels": _FEATURES, "hidden_channels": 64, "num_layers": 3, "out_channels": _CLASSES} | settings
    return _Model(full=full, small=_SMALL, inputs=_ON_NODES)


def _pna(**settings: Any) -> _Model:
    degrees = torch.tensor([0, 4, 8, 6, 4, 2])
    aggregators = ["mean", "min", "max", "std"]
    return _stack(
        aggregators=aggregators, scalers=["identity", "amplification", "attenuation"], deg=degrees, **settings
    )


def _no_loops(**settings: Any) -> _Model:
    return _stack(add_self_loops=False, **settings)


_MODELS: Mapping[str, _Model] = {
    "GCN": _no_loops(),
    "GCN-jk": _no_loops(jk="cat", norm="batch_norm"),
    "GraphSAGE": _stack(),
    "GraphSAGE-max": _stack(aggr="max", norm="layer_norm"),
    "GIN": _stack(),
    "GIN-jk": _stack(jk="max", norm="batch_norm"),
    "GAT": _no_loops(heads=4, out_channels=8),
    "GATv2": _no_loops(heads=4, out_channels=8, v2=True),
    "PNA": _pna(),
    "EdgeCNN": _stack(),
    "MLP": _Model(
        full={"in_channels": _FEATURES, "hidden_channels": 64, "num_layers": 3, "out_channels": _CLASSES},
        small=_SMALL, inputs={"x": _X},
    ),
    "PMLP": _Model(
        full={"in_channels": _FEATURES, "hidden_channels": 64, "num_layers": 3, "out_channels": _CLASSES},
        small=_SMALL, inputs=_ON_NODES,
    ),
    "LINKX": _Model(
        full={"num_nodes": _NODES, "in_channels": _FEATURES, "hidden_channels": 64, "num_layers": 3,
              "out_channels": _CLASSES},
        small=_SMALL, inputs={"x": ((_NODES, _FEATURES), torch.float32), "edge_index": _EDGE_INDEX},
    ),
    "LightGCN": _Model(
        full={"num_nodes": 1000, "embedding_dim": 64, "num_layers": 3}, small={"num_nodes": _NODES, "embedding_dim": 8},
        inputs={"edge_index": _EDGE_INDEX, "edge_label_index": ((2, "edges"), _LONG)},
    ),
    "AttentiveFP": _Model(
        full={"in_channels": _FEATURES, "hidden_channels": 64, "out_channels": _CLASSES, "edge_dim": 10,
              "num_layers": 3, "num_timesteps": 2},
        small=_SMALL, inputs={**_ONE_GRAPH, "edge_attr": (("edges", 10), torch.float32)}, constants=_BATCH,
    ),
    "SignedGCN": _Model(
        full={"in_channels": _FEATURES, "hidden_channels": 64, "num_layers": 3}, small=_SMALL,
        inputs={"x": _X, "pos_edge_index": _EDGE_INDEX, "neg_edge_index": _EDGE_INDEX},
    ),
    "ARLinkPredictor": _Model(
        full={"in_channels": _FEATURES, "hidden_channels": 64, "num_layers": 3}, small=_SMALL, inputs=_ON_NODES,
    ),
    "GAE": _Model(full={"channels": 64}, small={"channels": 8}, inputs={"x": _X, "edge_index": _EDGE_INDEX}),
    "DeepGCNLayer": _Model(full={"channels": 64}, small={"channels": 8}, inputs=_WIDE),
    "GroupAddRev": _Model(full={"channels": 64}, small={"channels": 8}, inputs=_WIDE),
    "JumpingKnowledge": _Model(
        full={"mode": "lstm", "channels": 64, "num_layers": 3}, small={"mode": "max", "channels": 8},
        inputs={f"x{i}": (("nodes", "channels"), torch.float32) for i in range(3)}, call={"xs": ["$x0", "$x1", "$x2"]},
    ),
    "InnerProductDecoder": _Model(
        full={}, inputs={"z": (("nodes", 64), torch.float32), "edge_index": _EDGE_INDEX},
    ),
    "GPSENodeEncoder": _Model(
        full={"dim_emb": 64, "dim_pe_in": 32, "dim_pe_out": 16, "dim_in": _FEATURES}, small={"dim_emb": 32},
        inputs={"x": _X, "pos_enc": (("nodes", 32), torch.float32)},
    ),
    "SchNet": _Model(
        full={"hidden_channels": 128, "num_filters": 128, "num_interactions": 6, "num_gaussians": 50},
        small={"hidden_channels": 16, "num_filters": 16, "num_interactions": 2, "num_gaussians": 8},
        inputs={"z": ((_ATOMS,), _LONG), "pos": ((_ATOMS, 3), torch.float32)},
    ),
}  # fmt: skip


def _models() -> Any:
    return importlib.import_module("torch_geometric.nn.models")


def model_names() -> tuple[str, ...]:
    """Every model there is a recipe for; a name behind a hyphen is a variant (`GCN-jk`)."""
    return tuple(_MODELS)


def entry(name: str, *, size: str = "full", **overrides: Any) -> Entry:
    """A model by class name.

    Args:
        name: class of `torch_geometric.nn.models`, or a variant of it.
        size: `full` or `small`.
        overrides: arguments of its constructor.

    Raises:
        SourceError: there is no such model here.
    """
    check_size(size)
    if name not in _MODELS:
        raise unknown_name(LIBRARY, name, model_names())
    model = _MODELS[name]
    settings = {**model.full, **(model.small if size == "small" else {}), **overrides}
    return Entry(
        name=name, library=LIBRARY, build=lambda: _build(name, settings),
        inputs=lambda _module: _inputs(model, settings),
        dynamic={key: axes for key, (sizes, _) in model.inputs.items() if (axes := _axes(sizes))},
        call_kwargs={**_call(model.call), **model.constants},
    )  # fmt: skip


def _build(name: str, settings: Mapping[str, Any]) -> nn.Module:
    kind = {"GATv2": "GAT"}.get(name, name.partition("-")[0])
    found = getattr(_models(), kind)
    made: nn.Module = _COMPOSED[kind](found, settings) if kind in _COMPOSED else found(**settings)
    return made


class _OnGraph(nn.Module):
    """A layer that takes its arguments by place, with names for them."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor, edge_index: Tensor) -> Any:
        return self.layer(x, edge_index)


def _autoencoder(kind: Any, settings: Mapping[str, Any]) -> Any:
    return kind(_models().GraphSAGE(_FEATURES, settings["channels"], 2))


def _deep_layer(kind: Any, settings: Mapping[str, Any]) -> Any:
    from torch_geometric.nn import SAGEConv

    width = settings["channels"]
    return _OnGraph(kind(SAGEConv(width, width), nn.LayerNorm(width), nn.ReLU()))


def _reversible(kind: Any, settings: Mapping[str, Any]) -> Any:
    from torch_geometric.nn import SAGEConv

    return _OnGraph(kind(SAGEConv(settings["channels"] // 2, settings["channels"] // 2), num_groups=2))


def _molecule(kind: Any, settings: Mapping[str, Any]) -> Any:
    """SchNet on a molecule in which every atom is near every other one: a search for neighbours chooses by data."""
    near = torch.ones(_ATOMS, _ATOMS).fill_diagonal_(0).nonzero().T

    def neighbours(pos: Tensor, batch: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ARG001 - one molecule
        return near, (pos[near[0]] - pos[near[1]]).norm(dim=-1)

    return kind(**settings, interaction_graph=neighbours)


# Models that are made of others.
_COMPOSED: Mapping[str, Callable[[Any, Mapping[str, Any]], Any]] = {
    "GAE": _autoencoder, "DeepGCNLayer": _deep_layer, "GroupAddRev": _reversible, "SchNet": _molecule,
}  # fmt: skip


def _axes(sizes: tuple[int | str, ...]) -> dict[int, str]:
    return {axis: size for axis, size in enumerate(sizes) if isinstance(size, str) and size in _EXAMPLE}


def _inputs(model: _Model, settings: Mapping[str, Any]) -> dict[str, Tensor]:
    made = {}
    for key, (sizes, dtype) in model.inputs.items():
        shape = [_EXAMPLE.get(s, settings.get(s, 0)) if isinstance(s, str) else s for s in sizes]
        made[key] = torch.empty(shape, dtype=dtype, device="meta")
    return made


def _call(tree: Any) -> Any:
    """Further arguments with "$name" as `InputSlot`."""
    if isinstance(tree, str) and tree.startswith("$"):
        return InputSlot(tree[1:])
    if isinstance(tree, list):
        return [_call(item) for item in tree]
    return {key: _call(item) for key, item in tree.items()} if isinstance(tree, Mapping) else tree


def import_name(name: str, *, size: str = "full", **overrides: Any) -> Imported:
    """The graph of a model; see `entry`. Raises `SourceError` or `UnsupportedError`."""
    return import_entry(entry(name, size=size, **overrides))
