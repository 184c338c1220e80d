"""What can be said of an architecture from its graph alone: modality, task, depth, width, heads, kinds of layers."""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from genmad.cost import cost_of
from genmad.cost.sizes import DEFAULT_SIZES, symbols_of
from genmad.ir import GenmadError, Graph, Node, Place, TensorType, num_running_nodes, places
from genmad.ops import OPSET

# What a kind of layer is called -> whether a node is one. A graph has the kinds of which one node is found.
_KINDS: tuple[tuple[str, Callable[[Node], bool]], ...] = (
    ("attention", lambda n: "Attention" in n.op),
    ("windowed attention", lambda n: "Attention" in n.op and n.attr_map.get("window") is not None),
    ("convolutions", lambda n: n.op == "Conv" and n.attr_map.get("groups", 1) == 1),
    ("grouped convolutions", lambda n: n.op == "Conv" and n.attr_map.get("groups", 1) > 1),
    ("transposed convolutions", lambda n: n.op == "ConvTranspose"),
    ("state-space mixers", lambda n: "Mamba" in n.op or "SSM" in n.op or "Scan" in n.op),
    ("long convolutions", lambda n: n.op == "LongConv"),
    ("graph convolutions", lambda n: OPSET[n.op].family == "graph" if n.op in OPSET else False),
    ("squeeze-and-excite", lambda n: n.op == "SqueezeExcite"),
    ("rotary positions", lambda n: n.op == "RotaryEmbedding"),
    ("relative position bias", lambda n: "PositionBias" in n.op),
    ("embeddings", lambda n: n.op == "Embedding"),
    ("linear layers", lambda n: n.op in ("Linear", "LoRALinear", "GatedMLP")),
)
_NORMS = {
    "BatchNorm": "batch norm", "LayerNorm": "layer norm", "RMSNorm": "RMS norm", "GroupNorm": "group norm",
    "InstanceNorm": "instance norm", "ChannelLayerNorm": "layer norm",
}  # fmt: skip
_ACTIVATIONS = {"Relu": "ReLU", "Relu6": "ReLU6", "Gelu": "GELU", "Silu": "SiLU", "HardSwish": "hard swish",
                "LeakyRelu": "leaky ReLU", "Elu": "ELU", "Mish": "Mish", "Selu": "SELU"}  # fmt: skip
_INDEX = re.compile(r"(?<![A-Za-z0-9])\d+(?:_\d+)?(?![A-Za-z0-9])")


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Facts of one graph.

    Attributes:
        modality: what goes in, `text`, `image`, `text+image` ...; "" where the inputs do not tell.
        depth: repeated layers, 0 where none repeat.
        width: the channel count that most residual additions have, 0 where there is none.
        num_heads: the head count that most attention nodes have, 0 without attention.
        kinds: kinds of layers, in a fixed order.
        norm, activation: the most frequent ones, "" without.
        num_params, num_macs: as `ArchRecord` has them.
        num_nodes, num_nodes_flat, num_blocks, num_primitive: as `ArchRecord` has them.
    """

    modality: str
    depth: int
    width: int
    num_heads: int
    kinds: tuple[str, ...]
    norm: str
    activation: str
    num_params: int | None
    num_macs: int | None
    num_nodes: int
    num_nodes_flat: int
    num_blocks: int
    num_primitive: int


def facts_of(graph: Graph) -> Facts:
    """The facts of a graph; costs are None where an op's cost cannot be told."""
    weights = _block_counts(graph)
    nodes = [(node, weights[block.name]) for block in graph.all_blocks for node in block.nodes if not node.is_call]
    plain = [node for node, _ in nodes]
    params, macs = _costs(graph)
    heads = Counter({0: 0})
    for node, count in nodes:
        if "Attention" in node.op and isinstance(node.attr_map.get("num_heads"), int):
            heads[node.attr_map["num_heads"]] += count
    return Facts(
        modality=modality_of(graph), depth=depth_of(graph), width=_width(nodes), num_heads=_most(heads),
        kinds=tuple(name for name, test in _KINDS if any(map(test, plain))),
        norm=_most_named(nodes, _NORMS), activation=_most_named(nodes, _ACTIVATIONS), num_params=params, num_macs=macs,
        num_nodes=graph.num_nodes, num_nodes_flat=num_running_nodes(graph), num_blocks=len(graph.all_blocks),
        num_primitive=sum(node.op in ("TorchCall", "OnnxCall") for node in plain),
    )  # fmt: skip


def _block_counts(graph: Graph) -> dict[str, int]:
    """How often each block runs."""
    counts = dict.fromkeys((b.name for b in graph.all_blocks), 0)
    counts[graph.main.name] = 1
    for block in reversed(graph.all_blocks):  # callers come after the blocks they call
        for node in block.nodes:
            if node.is_call:
                counts[node.callee] += counts[block.name]
    return counts


def _costs(graph: Graph) -> tuple[int | None, int | None]:
    sizes = {name: DEFAULT_SIZES.get(name, 128) for name in symbols_of(graph)}
    try:
        report = cost_of(graph, OPSET, sizes)
    except (GenmadError, ArithmeticError, KeyError, TypeError, ValueError):
        return None, None
    # Arrow holds 64-bit integers; a model beyond that has no cost worth storing.
    return tuple(n if 0 <= n < 2**63 else None for n in (report.num_params, report.num_macs))  # type: ignore[return-value]


def depth_of(graph: Graph) -> int:
    """Layers: the largest number of calls, none inside another's callee, whose paths differ in their indices only."""
    leaves = {b.name for b in graph.all_blocks if not any(n.is_call for n in b.nodes)}
    groups: Counter[str] = Counter()
    for place in places(graph):
        if place.node.is_call and place.node.callee in leaves:
            pattern, indices = _INDEX.subn("#", _full_path(place))
            groups[pattern] += bool(indices)
    return max(groups.values(), default=0)


def _full_path(place: Place) -> str:
    return f"{place.prefix}{place.node.scope or place.node.name}"


def _width(nodes: list[tuple[Node, int]]) -> int:
    """The most frequent channel count of additions: of images axis 1, of sequences the last axis."""
    widths: Counter[int] = Counter()
    for node, count in nodes:
        if node.op == "Add" and node.types[0].dtype.value.startswith(("float", "bfloat")):
            channels = _channels(node.types[0])
            if channels > 1:
                widths[channels] += count
    return _most(widths)


def _channels(type: TensorType) -> int:
    shape = type.shape
    if len(shape) == 4 and isinstance(shape[1], int):
        return shape[1]
    return shape[-1] if len(shape) in (2, 3) and isinstance(shape[-1], int) else 0


def _most(counts: Counter[int]) -> int:
    """The most frequent value, the largest of several; 0 of none."""
    return max(counts, key=lambda v: (counts[v], v), default=0)


def _most_named(nodes: list[tuple[Node, int]], names: Mapping[str, str]) -> str:
    counts: Counter[str] = Counter()
    for node, count in nodes:
        if node.op in names:
            counts[names[node.op]] += count
    return max(sorted(counts), key=lambda name: counts[name], default="")


def modality_of(graph: Graph) -> str:
    """What goes into the model, from the names and types of its inputs: `text`, `text+image`; "" where unknown."""
    found = {kind for value in graph.main.inputs for kind in _modality(value.name.lower(), value.type)}
    order = ("text", "image", "video", "audio", "layout", "graph", "time series", "latent")
    return "+".join(kind for kind in order if kind in found)


def _modality(name: str, type: TensorType) -> Iterator[str]:
    """The kind of one input; none for masks, times and other inputs on the side."""
    rank, whole = len(type.shape), type.dtype.value.startswith(("int", "uint"))
    if "edge" in name or name in ("adj", "adj_t"):
        yield "graph"
    elif "bbox" in name or name == "boxes":
        yield "layout"
    elif "mask" in name or "position" in name or "token_type" in name or "timestep" in name:
        return
    elif name.startswith(("past_", "future_")) and not whole:
        yield "time series"
    elif "input_features" in name or "input_values" in name or "audio" in name or "mel" in name or "wave" in name:
        yield "audio"
    elif "video" in name or ("pixel" in name and rank == 5):
        yield "video"
    elif "pixel" in name or "image" in name:
        yield "image"
    elif whole and "ids" in name and rank == 2:
        yield "text"
    elif name in ("sample", "hidden_states", "latents", "z") and rank >= 3:
        yield "latent"
    elif name in ("x", "input", "inputs") and rank == 4 and type.shape[1] in (1, 3):
        yield "image"
