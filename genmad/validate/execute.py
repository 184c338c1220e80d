"""Level 5: the graph runs, in torch and in ONNX Runtime, and both give the same numbers.

Weights are random, and not zero even where training would start at zero, so that no branch hides behind one. In ONNX
the parameters are fed as inputs: nothing is copied into the model, which may then exceed protobuf's two gigabytes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from genmad.cost import symbols_of
from genmad.ir import (
    Block,
    Diagnostic,
    DType,
    Graph,
    OpSet,
    Param,
    evaluate_dim,
    flatten,
    places,
    prune_dead,
)

if TYPE_CHECKING:
    import torch

RELATIVE_TOLERANCE = 2e-4
SMALL_BATCH, SMALL_MODEL_PARAMS = 2, 20_000_000
MAX_SEPARATE_PARAMS = 100_000_000
_WINDOW_SHIFTS = 1024
# Sequences of different lengths, so that one is not taken for the other; longer ones when a size would become zero.
_LENGTHS = ((8, 6), (16, 12), (32, 24), (64, 48), (128, 96), (512, 384), (1024, 768), (4096, 3072))
MAX_NODES_TO_LOCATE = 5_000


@dataclass(frozen=True, slots=True)
class _Feed:
    """What both runtimes are given."""

    sizes: Mapping[str, int]
    weights: Mapping[str, torch.Tensor]
    inputs: Mapping[str, torch.Tensor]


def problems(graph: Graph, opset: OpSet, seed: int, found: dict[str, float]) -> Iterator[Diagnostic]:
    """What goes wrong in one forward pass; puts `max_abs_diff` and the sizes it ran at into `found`."""
    import torch

    with torch.no_grad():
        weights = random_weights(graph, opset, seed)
        sizes = small_sizes(graph, sum(w.numel() for w in weights.values()))
        feed = _Feed(sizes, weights, random_inputs(graph, sizes, seed))
        found.update({f"size_{name}": float(size) for name, size in sizes.items()})
        problem, diff = _compare(graph, feed)
        if diff is not None:
            found["max_abs_diff"] = diff
        if problem:
            where, problem = _locate(graph, feed, problem)
            yield Diagnostic(where=where, got=problem, expected="torch and ONNX Runtime to run it and agree")


def small_sizes(graph: Graph, num_params: int) -> dict[str, int]:
    """The smallest sizes at which every tensor of the graph has at least one element."""
    symbols = symbols_of(graph)
    batch = SMALL_BATCH if num_params <= SMALL_MODEL_PARAMS else 1
    dims = {d for block in graph.all_blocks for t in block.types.values() for d in t.shape if not isinstance(d, int)}
    sizes: dict[str, int] = {}
    for seq, other in _LENGTHS:
        sizes = {name: {"batch": batch, "seq": seq}.get(name, other) for name in symbols}
        if all(d.symbols <= sizes.keys() and evaluate_dim(d, sizes) > 0 for d in dims):
            return sizes
    return sizes


def random_weights(graph: Graph, opset: OpSet, seed: int) -> dict[str, torch.Tensor]:
    """A tensor for each parameter by full name, drawn so that activations stay near one; tied ones once.

    In models too large for that, parameters of one scale are overlapping windows of one tensor, so that memory holds
    little more than the largest of them.
    """
    import torch

    rng = torch.Generator().manual_seed(seed)
    declared: dict[str, Param] = {}
    for place in places(graph):
        if place.node.is_call or not place.node.params:
            continue
        types = tuple(place.block.types[v] if v else None for v in place.node.inputs)
        names = place.node.param_map
        for param in opset[place.node.op].params(types, place.node.attr_map):
            declared.setdefault(place.prefix + names[param.slot], param)
    scales = {name: _scale(param) for name, param in declared.items()}
    if sum(math.prod(_shape(param)) for param in declared.values()) <= MAX_SEPARATE_PARAMS:
        return {name: _draw(_shape(p), scales[name], p.type.dtype, rng) for name, p in declared.items()}
    largest: dict[tuple[DType, float, float], int] = {}
    for name, param in declared.items():
        key = (param.type.dtype, *scales[name])
        largest[key] = max(largest.get(key, 0), math.prod(_shape(param)))
    pools = {key: _draw((size + _WINDOW_SHIFTS,), key[1:], key[0], rng) for key, size in largest.items()}
    made = {}
    for i, (name, param) in enumerate(declared.items()):
        shape, start = _shape(param), i * 37 % _WINDOW_SHIFTS
        pool = pools[(param.type.dtype, *scales[name])]
        made[name] = pool[start : start + math.prod(shape)].view(shape)
    return made


def _shape(param: Param) -> tuple[int, ...]:
    return tuple(evaluate_dim(d, {}) for d in param.type.shape)


def _scale(param: Param) -> tuple[float, float]:
    """(middle, spread) of the uniform distribution that a parameter is drawn from."""
    kind, _, amount = param.init.partition(":")
    if kind == "ones":
        return 1.0, 0.1
    if kind == "zeros":
        return 0.0, 0.05
    if kind == "normal":
        return 0.0, float(amount or 0.02) * math.sqrt(3)
    return 0.0, 1 / math.sqrt(max(math.prod(_shape(param)[1:]), 1))


def _draw(shape: tuple[int, ...], scale: tuple[float, float], dtype: DType, rng: torch.Generator) -> torch.Tensor:
    import torch

    if not dtype.is_float:
        return torch.zeros(shape, dtype=getattr(torch, dtype.value))
    middle, spread = scale
    values = torch.empty(shape).uniform_(middle - spread, middle + spread, generator=rng)
    return values.to(getattr(torch, dtype.value))


def random_inputs(graph: Graph, sizes: Mapping[str, int], seed: int) -> dict[str, torch.Tensor]:
    """A tensor for each model input: normal floats, ids that every embedding they reach can look up, masks of ones."""
    import torch

    rng = torch.Generator().manual_seed(seed + 1)
    limits = _id_limits(graph)
    made = {}
    for value in graph.main.inputs:
        shape = tuple(evaluate_dim(d, sizes) for d in value.type.shape)
        dtype = getattr(torch, value.type.dtype.value)
        if value.type.dtype.is_float or value.type.dtype is DType.COMPLEX64:
            made[value.name] = torch.randn(shape, generator=rng).to(dtype)
        elif value.name in limits:
            made[value.name] = torch.randint(0, limits[value.name], shape, generator=rng).to(dtype)
        else:
            made[value.name] = torch.ones(shape, dtype=dtype)
    return made


def _id_limits(graph: Graph) -> dict[str, int]:
    """For each input that reaches embeddings as integers: half the smallest table, because offsets may be added."""
    flat = flatten(graph).main
    reaches: dict[str, set[str]] = {v.name: {v.name} for v in flat.inputs}
    limits: dict[str, int] = {}
    for node in flat.nodes:
        sources = set().union(*(reaches.get(v, set()) for v in node.inputs if v))
        if node.op == "Embedding":
            for source in sources:
                limit = max(1, int(node.attr_map["num_embeddings"]) // 2)
                limits[source] = min(limit, limits.get(source, limit))
        for value, type in zip(node.outputs, node.types, strict=True):
            reaches[value] = sources if type.dtype.is_integer else set()
    return limits


def _compare(graph: Graph, feed: _Feed) -> tuple[str, float | None]:
    """What goes wrong ("" when nothing does) and the largest difference, None when a runtime failed."""
    try:
        ours = run_torch(graph, feed.weights, feed.inputs)
    except Exception as error:  # whatever generated code raises is the finding
        return f"torch fails: {_first_line(error)}", None
    shape_problem = _shape_problem(graph, ours, feed.sizes)
    if shape_problem:
        return shape_problem, None
    try:
        theirs = run_onnx(graph, feed.weights, feed.inputs)
    except Exception as error:  # onnxruntime raises many types of its own
        return f"ONNX Runtime fails: {_first_line(error)}", None
    worst, text = 0.0, ""
    for name, a, b in zip(graph.main.outputs, ours, theirs, strict=True):
        if a.numel() and not a.isfinite().any():
            return f"every value of output {name!r} is infinite or not a number", None
        diff, scale = _difference(a, b)
        worst = max(worst, diff)
        if not diff <= RELATIVE_TOLERANCE * scale:
            text = text or f"output {name!r} differs by {diff:.3g} at magnitude {scale:.3g}"
    return text, worst


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:300]


def _shape_problem(graph: Graph, outputs: tuple[torch.Tensor, ...], sizes: Mapping[str, int]) -> str:
    for name, type, tensor in zip(graph.main.outputs, graph.main.output_types, outputs, strict=True):
        expected = tuple(evaluate_dim(d, sizes) for d in type.shape)
        dtype = str(tensor.dtype).removeprefix("torch.")
        if tuple(tensor.shape) != expected or dtype != type.dtype.value:
            return f"output {name!r} is {dtype}{list(tensor.shape)} in torch, {type} = {list(expected)} in our types"
    return ""


def _difference(a: torch.Tensor, b: torch.Tensor) -> tuple[float, float]:
    """Largest difference and the magnitude it is judged by; infinite when one is a number where the other is not."""
    import torch

    if a.shape != b.shape:
        return math.inf, 1.0
    if not a.numel():
        return 0.0, 1.0
    a, b = a.to(torch.float64), b.to(torch.float64)
    finite = torch.isfinite(a)
    if not torch.equal(finite, torch.isfinite(b)) or not torch.equal(torch.isnan(a), torch.isnan(b)):
        return math.inf, 1.0
    if not finite.any():
        return 0.0, 1.0
    return float((a[finite] - b[finite]).abs().max()), max(1.0, float(a[finite].abs().max()))


def run_torch(
    graph: Graph, weights: Mapping[str, torch.Tensor], inputs: Mapping[str, torch.Tensor]
) -> tuple[torch.Tensor, ...]:
    """One forward pass of the torch module."""
    import torch

    from genmad.lowering.to_torch import to_torch

    module = to_torch(graph, device="meta")
    _adopt(module, weights)
    with torch.no_grad():
        result: Any = module(*inputs.values())
    return tuple(result) if isinstance(result, (tuple, list)) else (result,)


def _adopt(module: torch.nn.Module, weights: Mapping[str, torch.Tensor]) -> None:
    """Puts the weights themselves, not copies, in the place of a meta module's tensors; tied ones in every place."""
    import torch

    named = [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]
    found = {id(tensor): weights[name] for name, tensor in named if name in weights}
    for name, tensor in named:
        path, _, leaf = name.rpartition(".")
        owner = module.get_submodule(path)
        if leaf in owner._parameters:
            owner._parameters[leaf] = torch.nn.Parameter(found[id(tensor)], requires_grad=False)
        else:
            owner._buffers[leaf] = found[id(tensor)]


def run_onnx(
    graph: Graph, weights: Mapping[str, torch.Tensor], inputs: Mapping[str, torch.Tensor]
) -> tuple[torch.Tensor, ...]:
    """One forward pass of the weightless ONNX model in ONNX Runtime, parameters fed as inputs."""
    import onnxruntime
    import torch

    from genmad.lowering.to_onnx import to_onnx

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = torch.get_num_threads()
    model = to_onnx(graph).SerializeToString()
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    wanted = {value.name for value in session.get_inputs()}
    feed = {name: t.numpy() for name, t in {**weights, **inputs}.items() if name in wanted}
    return tuple(torch.from_numpy(array) for array in session.run(None, feed))


def _locate(graph: Graph, feed: _Feed, problem: str) -> tuple[str, str]:
    """The first node, by its path, whose own result already fails, and how; found by bisection over the flat graph."""
    flat = flatten(graph)
    nodes = flat.main.nodes
    if len(nodes) > MAX_NODES_TO_LOCATE:
        return f'graph "{graph.name}"', problem
    good, bad, text = 0, len(nodes), problem
    while bad - good > 1:
        middle = (good + bad) // 2
        found, _ = _compare(_up_to(flat, middle), feed)
        if found:
            bad, text = middle, found
        else:
            good = middle
    if bad == len(nodes):
        text = _compare(_up_to(flat, bad), feed)[0]
        if not text:
            return f'graph "{graph.name}"', problem
    return f'{nodes[bad - 1].op} "{nodes[bad - 1].name}"', text


def _up_to(flat: Graph, count: int) -> Graph:
    """The flat graph cut after its first `count` nodes, giving back the results of the last of them."""
    main = flat.main
    cut = Block(name=main.name, inputs=main.inputs, nodes=main.nodes[:count], outputs=main.nodes[count - 1].outputs)
    return prune_dead(Graph(main=cut))
