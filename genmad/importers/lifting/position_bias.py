"""An embedding of bucketed distances to RelativePositionBias (T5, arXiv 1910.10683, section 2.1).

The bucket numbers are a constant that follows the sequence lengths; they are recognised by their values at lengths long
enough to reach the last bucket.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from genmad.importers.flat import Flat, FlatNode
from genmad.importers.report import UnsupportedError
from genmad.ir.types import Dim, SymDim, evaluate_dim

_LENGTH = 300
_MAX_DISTANCES = (128, 64, 256, 20, 32, 160, 512)


def lift_position_bias(flat: Flat) -> int:
    used: dict[str, tuple[str, ...]] = {}
    for node in flat.nodes:
        if node.op == "Attention" and len(node.inputs) > 3:
            bias = flat.source(node.inputs[3], "Expand")
            used.setdefault(bias.inputs[0] if bias else node.inputs[3], node.inputs[:2])
    order = {out: i for i, node in enumerate(flat.nodes) for out in node.outputs}
    rule = _Rule(used, order)
    return flat.rewrite("RelativePositionBias", rule)


@dataclass(frozen=True)
class _Rule:
    """Rooted at Unsqueeze(Transpose(Embedding(buckets)))."""

    used: Mapping[str, tuple[str, ...]]
    order: Mapping[str, int]

    def __call__(self, flat: Flat, node: FlatNode) -> list[FlatNode] | None:
        if node.op != "Unsqueeze" or node.attrs["axes"] != (0,):
            return None
        swapped = flat.source(node.inputs[0], "Transpose")
        table = flat.source(swapped.inputs[0], "Embedding") if swapped is not None else None
        if swapped is None or table is None or swapped.attrs["perm"] != (2, 0, 1):
            return None
        buckets = flat.constants.get(table.inputs[0])
        rows, columns = node.types[0].shape[2:]
        found = _settings(buckets, table.attrs["num_embeddings"], (rows, columns), flat) if buckets else None
        ends = [self._with_length(flat, node, slot, size) for slot, size in ((0, rows), (1, columns))]
        if found is None or ends[0] is None or ends[1] is None:
            return None
        attrs = {"num_heads": table.attrs["embedding_dim"], "num_buckets": table.attrs["num_embeddings"], **found}
        inputs = [end for end in ends if end is not None]
        made = flat.make(
            "RelativePositionBias",
            inputs,
            attrs,
            call=table.call,
            layer=table.layer,
            params=table.params,
            outputs=node.outputs,
        )
        return [made]

    def _with_length(self, flat: Flat, node: FlatNode, slot: int, size: Dim) -> str | None:
        """A value [B, size, ...] that is known before `node`: the attention's own q or k, else the nearest one."""
        own = self.used.get(node.outputs[0], ())[slot : slot + 1]
        here = self.order[node.outputs[0]]
        near = [n.outputs[0] for n in flat.nodes if self.order.get(n.outputs[0], here) < here][::-1]
        for name in (*own, *near):
            type_ = flat.types[name]
            if (
                type_.rank == 3
                and type_.dtype.is_float
                and type_.shape[1] == size
                and self.order.get(name, here) < here
            ):
                return name
        return None


def _settings(
    buckets: Callable[[Mapping[str, int]], Tensor], count: int, lengths: tuple[Dim, Dim], flat: Flat
) -> dict[str, int | bool] | None:
    """`max_distance` and `bidirectional` with which the formula gives these bucket numbers."""
    symbols = {s for d in lengths if isinstance(d, SymDim) for s in d.symbols} | set(flat.sizes[0])
    sizes = {symbol: 2 if symbol == "batch" else _LENGTH + i for i, symbol in enumerate(sorted(symbols))}
    try:
        given = buckets(sizes)
    except (UnsupportedError, RuntimeError):
        return None
    rows, columns = (evaluate_dim(d, sizes) for d in lengths)
    if tuple(given.shape) != (rows, columns) or given.dtype != torch.int64:
        return None
    for max_distance in _MAX_DISTANCES:
        for bidirectional in (True, False):
            if torch.equal(given, bucket_table(rows, columns, count, max_distance, bidirectional)):
                return {"max_distance": max_distance, "bidirectional": bidirectional}
    return None


def bucket_table(rows: int, columns: int, count: int, max_distance: int, bidirectional: bool) -> Tensor:
    """T5's bucket of each (query, key): exact up to half of the buckets, then logarithmic."""
    relative = torch.arange(columns)[None, :] - torch.arange(rows)[:, None]
    half = count // 2 if bidirectional else count
    exact = half // 2
    if max_distance <= exact or exact < 1:
        return torch.full((rows, columns), -1)
    distance = relative.abs() if bidirectional else (-relative).clamp(min=0)
    ratio = torch.log(distance.clamp(min=1).float() / exact) / math.log(max_distance / exact)
    far = (exact + (ratio * (half - exact)).long()).clamp(max=half - 1)
    near = torch.where(distance < exact, distance, far)
    return near + (relative > 0).long() * half if bidirectional else near
