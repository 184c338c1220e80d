"""The working form between a trace and a graph: typed nodes in execution order, each with the module call it ran in.

Lifting passes rewrite it; `blocks.py` turns it into a `Graph`.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from genmad.importers.trace import ModuleCall
from genmad.ir.build import OpSet
from genmad.ir.types import TensorType

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class FlatNode:
    """One op.

    Attributes:
        inputs, outputs: value names, unique in the whole trace; "" for an absent optional.
        attrs: complete attributes.
        types: one per output.
        call: number of the module call that the node belongs to.
        layer: module path when the node is a whole module, else "".
        params: (slot, full parameter name).
    """

    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attrs: Mapping[str, Any] = field(default_factory=dict)
    types: tuple[TensorType, ...]
    call: int = 0
    layer: str = ""
    params: tuple[tuple[str, str], ...] = ()

    @property
    def param_map(self) -> dict[str, str]:
        return dict(self.params)


Rule = Callable[["Flat", FlatNode], "list[FlatNode] | None"]


class Flat:
    """A flat typed program. `types` and `producer` cover every value."""

    def __init__(self, opset: OpSet, calls: Sequence[ModuleCall]) -> None:
        self.opset = opset
        self.calls = list(calls)
        self.inputs: list[tuple[str, TensorType]] = []
        self.nodes: list[FlatNode] = []
        self.outputs: list[str] = []
        self.types: dict[str, TensorType] = {}
        self.producer: dict[str, FlatNode] = {}
        self.buffers: dict[str, Callable[[], Tensor]] = {}
        self.folded: dict[str, Callable[[Callable[[str], Tensor]], Tensor]] = {}
        self.constants: dict[str, Callable[[Mapping[str, int]], Tensor]] = {}
        self.masks: dict[str, tuple[bool, int | None]] = {}
        self.reasons: dict[str, str] = {}
        self.sizes: tuple[Mapping[str, int], Mapping[str, int]] = ({}, {})
        self.lifted: dict[str, int] = {}
        self.notes: list[str] = []
        self._count = 0

    def fresh(self) -> str:
        self._count += 1
        return f"v{self._count}"

    def add_input(self, name: str, type_: TensorType) -> str:
        self.inputs.append((name, type_))
        self.types[name] = type_
        return name

    def make(
        self, op: str, inputs: Iterable[str], attrs: Mapping[str, Any], *, call: int, layer: str = "",
        params: Iterable[tuple[str, str]] = (), outputs: tuple[str, ...] = (),
    ) -> FlatNode:  # fmt: skip
        """A typed node that is not in the program yet. Raises `ShapeError`."""
        opdef = self.opset[op]
        names = tuple(inputs)
        in_types = tuple(self.types[name] if name else None for name in names)
        full = opdef.complete(attrs)
        types = opdef.infer(in_types, full)
        node = FlatNode(
            op=op, inputs=names, outputs=outputs or tuple(self.fresh() for _ in types), attrs=full, types=types,
            call=call, layer=layer, params=tuple(params),
        )  # fmt: skip
        self.types.update(zip(node.outputs, types, strict=True))
        return node

    def append(self, node: FlatNode) -> FlatNode:
        self.nodes.append(node)
        for name in node.outputs:
            self.producer[name] = node
        return node

    def source(self, value: str, op: str) -> FlatNode | None:
        """The node that gives `value` when it is an `op`."""
        node = self.producer.get(value)
        return node if node is not None and node.op == op else None

    def use_counts(self) -> dict[str, int]:
        counts: dict[str, int] = {}
        for node in self.nodes:
            for name in node.inputs:
                counts[name] = counts.get(name, 0) + 1
        for name in self.outputs:
            counts[name] = counts.get(name, 0) + 1
        return counts

    def rewrite(self, name: str, rule: Rule) -> int:
        """Replaces each node for which `rule` gives nodes; the last of them must define the same outputs.

        Nodes that nothing reads afterwards are removed. Returns how many were replaced.
        """
        count = 0
        nodes: list[FlatNode] = []
        for node in self.nodes:
            new = rule(self, node)
            if new is None:
                nodes.append(node)
                continue
            count += 1
            for item in new:
                for out in item.outputs:
                    self.producer[out] = item
                nodes.append(item)
        self.nodes = nodes
        if count:
            self.lifted[name] = self.lifted.get(name, 0) + count
            self.drop_dead()
        return count

    def forward_values(self, same: Mapping[str, str]) -> None:
        """Lets readers of each key read its value instead."""

        def last(name: str) -> str:
            while name in same:
                name = same[name]
            return name

        self.nodes = [replace(node, inputs=tuple(last(name) for name in node.inputs)) for node in self.nodes]
        self.producer = {out: node for node in self.nodes for out in node.outputs}
        self.outputs = [last(name) for name in self.outputs]
        self.drop_dead()

    def drop_dead(self) -> None:
        """Removes nodes whose results are never read."""
        live = set(self.outputs)
        kept: list[FlatNode] = []
        for node in reversed(self.nodes):
            if any(name in live for name in node.outputs):
                live.update(node.inputs)
                kept.append(node)
        self.nodes = kept[::-1]
