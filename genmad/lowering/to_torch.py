"""A graph as a running `nn.Module`: executes the source that `module_source` writes."""

import hashlib
import math
from collections.abc import Iterable, Mapping
from itertools import chain

import torch
from torch import nn

from genmad.ir.build import OpSet
from genmad.ir.graph import Graph
from genmad.ir.opdef import Param
from genmad.lowering.torch_layout import Layout
from genmad.lowering.torch_source import module_source, top_class
from genmad.ops import OPSET
from genmad.ops.shape_rules import LoweringError

__all__ = ["LoweringError", "initial_values", "initialise", "module_source", "parameters", "to_torch"]


def parameters(graph: Graph, opset: OpSet = OPSET) -> dict[str, Param]:
    """Every parameter by its full name, tied ones once. Raises `LoweringError` when two nodes disagree about one."""
    flat = Layout(graph, opset).flat[graph.name]
    return {".".join(path): param for path, param in flat.items()}


def to_torch(
    graph: Graph,
    weights: Mapping[str, torch.Tensor] | None = None,
    *,
    device: str | torch.device | None = None,
    seed: int = 0,
) -> nn.Module:
    """The module that the generated source describes, in eval mode; its `source` attribute is that source.

    Args:
        weights: value of every parameter, by full name; the module takes these tensors as they are, without a copy.
        device: where the parameters live; the CPU when None. `meta` gives a module without values.
        seed: for the initial values where no weights are given.
    """
    source = module_source(graph)
    space: dict[str, object] = {"__name__": "genmad_generated"}
    # Our own text: names are sanitised, attributes are checked against their op and written by repr.
    exec(compile(source, "<genmad model.py>", "exec"), space)
    make = space[top_class(source)]
    assert isinstance(make, type)
    with torch.device("meta"):
        module = make()
    assert isinstance(module, nn.Module)
    target = torch.device("cpu" if device is None else device)
    if weights is not None:
        module.load_state_dict({name: value.to(target) for name, value in weights.items()}, assign=True)
    elif target.type != "meta":
        module.to_empty(device=target)
        initialise(module, graph, seed)
    module.source = source  # type: ignore[assignment]
    return module.eval()


def initialise(module: nn.Module, graph: Graph, seed: int) -> None:
    """Fills every parameter as its op declares; one seed gives the same bytes on every device. Leaves meta as it is."""
    tensors = dict(chain(module.named_parameters(), module.named_buffers()))
    wanted = {name: param for name, param in parameters(graph).items() if tensors[name].device.type != "meta"}
    with torch.no_grad():
        for name, value in initial_values(wanted, seed):
            tensors[name].copy_(value)


def initial_values(wanted: Mapping[str, Param], seed: int) -> Iterable[tuple[str, torch.Tensor]]:
    """(name, value) of new parameters. A value depends on the seed and its own name only, not on what else is there."""
    for name, param in wanted.items():
        digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
        rng = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
        yield name, initial_value(param, name, rng)


def initial_value(param: Param, name: str, rng: torch.Generator) -> torch.Tensor:
    """One new parameter. Raises `LoweringError` on an unknown `init`."""
    shape = tuple(int(str(dim)) for dim in param.type.shape)
    kind, _, number = param.init.partition(":")
    if kind == "zeros":
        value = torch.zeros(shape)
    elif kind == "ones":
        value = torch.ones(shape)
    elif kind == "normal":
        value = torch.empty(shape).normal_(0.0, float(number or 0.02), generator=rng)
    elif kind == "kaiming":
        # What nn.Linear and nn.Conv2d do: uniform within 1 / sqrt(fan_in).
        bound = 1 / math.sqrt(max(1, math.prod(shape[1:]) if len(shape) > 1 else math.prod(shape)))
        value = torch.empty(shape).uniform_(-bound, bound, generator=rng)
    else:
        raise LoweringError(f'parameter "{name}": got init {param.init!r}; expected zeros, ones, normal:STD or kaiming')
    return value.to(getattr(torch, str(param.type.dtype)))
