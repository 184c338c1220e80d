"""Which new parameters must start at zero so that what was added leaves the model's outputs as they were.

The question is asked once per changed read: where a node that was there before now reads value `w` instead of `u`,
which new parameters make `w` equal `u`? A branch merged by Add is silenced by zeroing its last parameterised linear op
(as adapters, LoRA and Fixup do: Zhang et al. 2019, arXiv:1901.09321, section 3); a gate or a scale starts at one.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import zip_longest

from genmad.ir.build import OpSet
from genmad.ir.graph import Block, Graph, Node, producer
from genmad.ir.script import ancestors

# Parameters that make an op's output zero.
_SILENCE: Mapping[str, tuple[str, ...]] = {
    "Linear": ("weight", "bias"),
    "LoRALinear": ("weight", "bias", "lora_b"),
    "Conv": ("weight", "bias"),
    "ConvTranspose": ("weight", "bias"),
    "LongConv": ("weight", "bias"),
    "SGConv": ("weight", "backward_weight", "bias"),
    "SeparableConv1d": ("pointwise_weight", "bias"),
    "GatedMLP": ("down_weight", "down_bias"),
    "SpatialAttention": ("out_weight", "out_bias"),
    "MambaMixer": ("out_proj_weight", "out_proj_bias"),
    "Embedding": ("weight",),
    "Scale": ("weight",),
    "LayerNorm": ("weight", "bias"),
    "RMSNorm": ("weight",),
    "GroupNorm": ("weight", "bias"),
    "BatchNorm": ("weight", "bias"),
    "InstanceNorm": ("weight", "bias"),
    "ChannelLayerNorm": ("weight", "bias"),
}
_NORMS = frozenset({"LayerNorm", "RMSNorm", "GroupNorm", "BatchNorm", "InstanceNorm", "ChannelLayerNorm", "L2Norm"})
# Zero in (first input), zero out. Relu and its like are left out: a gradient of zero at zero would keep a branch dead.
_ZERO_TO_ZERO = frozenset(
    {
        *("Identity", "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Expand", "Slice", "Select", "Split"),
        *("Tile", "Roll", "Flip", "PixelShuffle", "PixelUnshuffle", "MulScalar", "Cast", "Neg", "AveragePool"),
        *("GlobalAveragePool", "AdaptiveAveragePool", "ReduceMean", "ReduceSum", "Resize", "RotaryEmbedding"),
        *("Gelu", "Silu", "Tanh", "HardSwish", "Mish"),
    }
)
# Attention over values of zero is zero.
_VALUE_SLOT = {"Attention": 2, "HierarchicalAttention": 2, "MixedAttention": 2, "LSHAttention": 1}
_GATE_AT_ZERO = {"sigmoid": 0.5, "hardsigmoid": 0.5, "hard_sigmoid": 0.5}


@dataclass(frozen=True, slots=True, kw_only=True)
class Preservation:
    """What function-preserving initialisation can do for one edit.

    Attributes:
        zeroed: full names of new parameters that start at zero.
        reasons: why the outputs change all the same, one line per place; empty when they are expected to stay.
    """

    zeroed: tuple[str, ...]
    reasons: tuple[str, ...]

    @property
    def exact(self) -> bool:
        return not self.reasons


@dataclass(frozen=True, slots=True)
class Instance:
    """A block as one call path runs it; `prefix` stands before its parameter names."""

    block: Block
    prefix: str


@dataclass(frozen=True, slots=True)
class _Way:
    """Parameters to zero, whether that makes two values exactly equal, and whether one is computed from the other."""

    zeros: tuple[str, ...] = ()
    exact: bool = False
    reached: bool = False


_NO_WAY = _Way()


def instances(graph: Graph) -> dict[tuple[str, ...], Instance]:
    """Every running block by its call path, the main block under `()`."""

    def walk(block: Block, prefix: str, calls: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Instance]]:
        yield calls, Instance(block, prefix)
        for node in block.nodes:
            if node.is_call:
                yield from walk(graph.block_map[node.callee], inner_prefix(prefix, node), (*calls, node.name))

    return dict(walk(graph.main, "", ()))


def inner_prefix(prefix: str, call: Node) -> str:
    """What stands before the parameter names of a called block."""
    return f"{prefix}{call.scope}." if call.scope else prefix


def preserve(before: Graph, after: Graph, opset: OpSet, old_names: frozenset[str]) -> Preservation:
    """The parameters to zero; `old_names` are the full parameter names of `before`, which are never zeroed."""
    analysis = _Analysis(after, opset, old_names)
    known = instances(before)
    zeroed: list[str] = []
    reasons: list[str] = []
    for calls, place in instances(after).items():
        source = known.get(calls)
        if source is None or source.block is place.block:
            continue
        for where, now, was in _changed_reads(source.block, place.block):
            way = analysis.equal(place.block, place.prefix, now, was) if now and was else _NO_WAY
            zeroed += way.zeros
            if not way.exact:
                reader = place.prefix + (where or "output")
                reasons.append(f"{reader} reads {now or 'nothing'} instead of {was or 'nothing'}")
        reasons += (place.prefix + text for text in _changed_ops(source.block, place.block))
    return Preservation(zeroed=tuple(dict.fromkeys(zeroed)), reasons=tuple(dict.fromkeys(reasons)))


def _changed_reads(before: Block, after: Block) -> Iterator[tuple[str, str, str]]:
    """(node or "" for the block's outputs, value now, value before) for every read of a node that was there before."""
    for node in after.nodes:
        old = before.by_name.get(node.name)
        if old is not None:
            yield from ((node.name, w, u) for w, u in zip_longest(node.inputs, old.inputs, fillvalue="") if w != u)
    yield from (("", w, u) for w, u in zip_longest(after.outputs, before.outputs, fillvalue="") if w != u)


def _changed_ops(before: Block, after: Block) -> Iterator[str]:
    for node in after.nodes:
        old = before.by_name.get(node.name)
        if old is None or node.is_call or (old.op, old.attrs) == (node.op, node.attrs):
            continue
        shared = [k for k in old.attr_map if k in node.attr_map and old.attr_map[k] != node.attr_map[k]]
        if (old.op, node.op) == ("Linear", "LoRALinear") and not shared:
            continue
        changes = ", ".join(f"{k} {old.attr_map[k]} -> {node.attr_map[k]}" for k in shared)
        yield f"{node.name}: {changes if old.op == node.op else f'{old.op} -> {node.op}'}"


@dataclass(slots=True)
class _Analysis:
    graph: Graph
    opset: OpSet
    old_names: frozenset[str]
    seen: dict[tuple[str, str, str, str], _Way] = field(default_factory=dict)

    def zero(self, block: Block, prefix: str, value: str) -> tuple[str, ...] | None:
        """New parameters that, at zero, make `value` zero; None when there are none."""
        node = block.by_name.get(producer(value))
        if node is None:
            return None
        if node.is_call:
            callee = self.graph.block_map[node.callee]
            return self.zero(callee, inner_prefix(prefix, node), callee.outputs[node.outputs.index(value)])
        if node.op in _SILENCE:
            names = self._new(node, prefix, _SILENCE[node.op])
            if names and not (node.op == "RMSNorm" and node.attr_map.get("offset")):
                return names
            return self.zero(block, prefix, node.inputs[0]) if node.op == "Scale" else None
        if node.op in _ZERO_TO_ZERO:
            return self.zero(block, prefix, node.inputs[0])
        if node.op in _VALUE_SLOT:
            return self.zero(block, prefix, node.inputs[_VALUE_SLOT[node.op]])
        if node.op in ("Mul", "MatMul"):
            ways = (self.zero(block, prefix, v) for v in node.inputs)
            return next((way for way in ways if way is not None), None)
        if node.op in ("Add", "Sub", "Concat"):
            parts = [self.zero(block, prefix, v) for v in node.inputs]
            known = [part for part in parts if part is not None]
            return tuple(name for part in known for name in part) if len(known) == len(parts) else None
        return None

    def _new(self, node: Node, prefix: str, slots: tuple[str, ...]) -> tuple[str, ...]:
        """Full names of the slots that the node has; empty when one of them is not new."""
        names = tuple(prefix + node.param_map[slot] for slot in slots if slot in node.param_map)
        return () if self.old_names.intersection(names) else names

    def equal(self, block: Block, prefix: str, value: str, target: str) -> _Way:
        """How to make `value` equal `target`, an earlier value of the same block."""
        if value == target:
            return _Way((), True, True)
        key = (block.name, prefix, value, target)
        if key not in self.seen:
            self.seen[key] = _NO_WAY
            if producer(target) in ancestors(block, value):
                self.seen[key] = self._equal(block, prefix, value, target)
        return self.seen[key]

    def _equal(self, block: Block, prefix: str, value: str, target: str) -> _Way:
        node = block.by_name[producer(value)]
        if node.is_call:
            return self._through_call(block, prefix, node, value, target)
        if node.op in ("Add", "Sub"):
            return self._through_add(block, prefix, node, target)
        first = self.equal(block, prefix, node.inputs[0], target) if node.inputs else _NO_WAY
        if node.op == "Identity" or (node.op == "Scale" and self._new(node, prefix, ("weight",))):
            return first
        if node.op == "SqueezeExcite":
            names = self._new(node, prefix, ("fc2_weight", "fc2_bias"))
            scale = node.attr_map["scale"] * _GATE_AT_ZERO.get(node.attr_map["gate"], 0.0)
            return _Way((*first.zeros, *names), first.exact and bool(names) and scale == 1.0, first.reached)
        # A norm behind a residual sum (BERT): silence the branch, although the norm itself still acts.
        return _Way(first.zeros, False, first.reached) if node.op in _NORMS else _Way(reached=first.reached)

    def _through_add(self, block: Block, prefix: str, node: Node, target: str) -> _Way:
        ways = []
        for path, branch in ((0, 1), (1, 0))[: 1 if node.op == "Sub" else 2]:
            way = self.equal(block, prefix, node.inputs[path], target)
            if way.reached:
                silent = self.zero(block, prefix, node.inputs[branch])
                ways.append(_Way((*way.zeros, *(silent or ())), way.exact and silent is not None, True))
        return _best(ways)

    def _through_call(self, block: Block, prefix: str, node: Node, value: str, target: str) -> _Way:
        callee = self.graph.block_map[node.callee]
        output = callee.outputs[node.outputs.index(value)]
        ways = []
        for given, inner in zip(node.inputs, callee.inputs, strict=True):
            outside = self.equal(block, prefix, given, target) if given else _NO_WAY
            if outside.reached:
                inside = self.equal(callee, inner_prefix(prefix, node), output, inner.name)
                exact = outside.exact and inside.exact
                ways.append(_Way((*outside.zeros, *inside.zeros), exact, inside.reached))
        return _best(ways)


def _best(ways: list[_Way]) -> _Way:
    return max(ways, key=lambda way: (way.exact, way.reached, len(way.zeros)), default=_NO_WAY)
