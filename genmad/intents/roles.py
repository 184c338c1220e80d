"""What the nodes of a graph are for: attentions with their projections, MLPs, convolutions, residual adds, layer calls.

Everything is found from the structure; module names serve only to talk about nodes and to tell encoder from decoder.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from genmad.ir.graph import Block, Node, producer

# Ops that a projected value may pass through on its way into attention.
_PASSING = frozenset(
    ["Reshape", "Transpose", "RotaryEmbedding", "Split", "Slice", "Select", "Squeeze", "Unsqueeze", "Expand",
    "MulScalar", "RMSNorm", "LayerNorm", "L2Norm", "Scale", "Flatten", "Cast", "Identity", "Concat", "Mul", "Div",
    "Add", "Clip"]
)  # fmt: skip
_AFTER_ATTENTION = frozenset(["Reshape", "Transpose", "Flatten", "RMSNorm", "LayerNorm", "Identity", "Mul"])
_AFTER_ACTIVATION = frozenset(["Square", "PowScalar", "MulScalar", "Identity", "Cast"])
ACTIVATIONS = ("Relu", "Relu6", "LeakyRelu", "Elu", "Selu", "Celu", "Gelu", "Silu", "HardSwish", "Mish", "Softplus")
NORMS = ("LayerNorm", "RMSNorm", "BatchNorm", "GroupNorm", "InstanceNorm", "ChannelLayerNorm")
LINEAR = ("Linear", "LoRALinear")


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionRole:
    """One attention: what it reads, how it projects, where it ends.

    Attributes:
        node: the Attention node.
        q, k, v: names of the projection nodes, "" where there is none; all the same when `fused`.
        source: value that the query projection reads.
        rotary: names of rotary embeddings of the query and of the key, "" for none.
        out: value in which it ends: the output projection's, or its own.
        cross: whether keys come from elsewhere than queries.
    """

    node: str
    q: str
    k: str
    v: str
    source: str
    rotary: tuple[str, str]
    out: str
    cross: bool

    @property
    def fused(self) -> bool:
        return bool(self.q) and self.q == self.k


@dataclass(frozen=True, slots=True, kw_only=True)
class MlpRole:
    """A feed-forward part: linears that widen it, the activation, the linear that ends it.

    Attributes:
        source: value that it reads.
        up: widening linears, two when gated; a GatedMLP node stands alone here.
        act: activation node, or the GatedMLP.
        product: the product of a gated one, else "".
        down: the last linear, or the GatedMLP.
    """

    source: str
    up: tuple[str, ...]
    act: str
    product: str
    down: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ResidualRole:
    """An addition of a branch to what it started from."""

    node: str
    branch: str
    skip: str


class BlockRoles:
    """The roles of one block's nodes."""

    def __init__(self, block: Block) -> None:
        self.block = block

    def nodes(self, *ops: str) -> tuple[Node, ...]:
        return tuple(n for n in self.block.nodes if n.op in ops)

    @cached_property
    def attentions(self) -> tuple[AttentionRole, ...]:
        return tuple(_attention(self.block, n) for n in self.block.nodes if n.op == "Attention")

    @cached_property
    def own(self) -> AttentionRole | None:
        """The self-attention, if there is one that can be told."""
        found = [a for a in self.attentions if not a.cross and a.q]
        return found[0] if found else None

    @cached_property
    def mlps(self) -> tuple[MlpRole, ...]:
        return tuple(_mlps(self.block))

    @cached_property
    def activations(self) -> tuple[Node, ...]:
        """Activation nodes, and nodes with an activation inside."""
        return self.nodes(*ACTIVATIONS, "GatedMLP")

    @cached_property
    def norms(self) -> tuple[Node, ...]:
        return self.nodes(*NORMS)

    @cached_property
    def linears(self) -> tuple[Node, ...]:
        return self.nodes("Linear")

    @cached_property
    def convs(self) -> tuple[Node, ...]:
        return self.nodes("Conv")

    @cached_property
    def residuals(self) -> tuple[ResidualRole, ...]:
        adds = [n for n in self.block.nodes if n.op == "Add"]
        return tuple(r for n in adds if (r := _residual(self.block, n, self._depths)))

    @cached_property
    def _depths(self) -> dict[str, int]:
        """For each value, the number of nodes on the longest way from a block input."""
        table = {v.name: 0 for v in self.block.inputs}
        for node in self.block.nodes:
            level = 1 + max((table[v] for v in node.inputs if v), default=0)
            table.update(dict.fromkeys(node.outputs, level))
        return table

    def residual_of(self, value: str) -> ResidualRole | None:
        """The addition that `value` ends in, through norms and scales at most."""
        for _ in range(4):
            readers = self.block.users.get(value, ())
            for name, _slot in readers:
                for role in self.residuals:
                    if role.node == name and role.branch == value:
                        return role
            onward = [
                n for n, _ in readers if self.block.by_name[n].op in (*NORMS, "Scale", "Identity", "MulScalar", "Mul")
            ]
            if len(onward) != 1:
                return None
            value = self.block.by_name[onward[0]].outputs[0]
        return None


def _back(block: Block, value: str, stop: tuple[str, ...]) -> tuple[str, str]:
    """(projection, rotary) node names on the way back from `value` through passing ops; "" for none."""
    rotary = ""
    for _ in range(16):
        node = block.by_name.get(producer(value))
        if node is None:
            return "", rotary
        if node.op in stop:
            return node.name, rotary
        if node.op not in _PASSING or not node.inputs:
            return "", rotary
        rotary = node.name if node.op == "RotaryEmbedding" else rotary
        value = node.inputs[0]
    return "", rotary


def _attention(block: Block, node: Node) -> AttentionRole:
    (q, q_rotary), (k, k_rotary), (v, _) = (_back(block, value, LINEAR) for value in node.inputs[:3])
    sources = [
        block.by_name[name].inputs[0] if name else value for name, value in zip((q, k), node.inputs[:2], strict=True)
    ]
    out = node.outputs[0]
    for _ in range(6):
        readers = block.users[out]
        if len(readers) != 1:
            break
        reader = block.by_name[readers[0][0]]
        if reader.op in LINEAR:
            out = reader.name
            break
        if reader.op not in _AFTER_ATTENTION:
            break
        out = reader.outputs[0]
    if block.by_name[producer(out)].op not in LINEAR:
        out = node.outputs[0]
    return AttentionRole(
        node=node.name, q=q, k=k, v=v, source=sources[0], rotary=(q_rotary, k_rotary), out=out,
            cross=sources[0] != sources[1]
    )  # fmt: skip


def _mlps(block: Block) -> Iterator[MlpRole]:
    for node in block.nodes:
        if node.op == "GatedMLP":
            yield MlpRole(source=node.inputs[0], up=(node.name,), act=node.name, product="", down=node.name)
            continue
        up = (
            block.by_name.get(producer(node.inputs[0])) if node.op in (*ACTIVATIONS, "Square") and node.inputs else None
        )
        if up is None or up.op not in LINEAR:
            continue
        reader = _only_reader(block, node)
        while reader is not None and reader.op in _AFTER_ACTIVATION:
            reader = _only_reader(block, reader)
        if reader is None:
            continue
        if reader.op in LINEAR:
            yield MlpRole(source=up.inputs[0], up=(up.name,), act=node.name, product="", down=reader.name)
        elif reader.op == "Mul":
            yield from _gated(block, up, node, reader)


def _only_reader(block: Block, node: Node) -> Node | None:
    users = block.users[node.outputs[0]]
    return block.by_name[users[0][0]] if len(users) == 1 else None


def _gated(block: Block, gate: Node, act: Node, product: Node) -> Iterator[MlpRole]:
    other = [block.by_name.get(producer(v)) for v in product.inputs if producer(v) != act.name]
    users = block.users[product.name]
    down = block.by_name[users[0][0]] if len(users) == 1 else None
    if len(other) == 1 and other[0] is not None and other[0].op in LINEAR and down is not None and down.op in LINEAR:
        yield MlpRole(
            source=gate.inputs[0], up=(gate.name, other[0].name), act=act.name, product=product.name, down=down.name
        )


def _residual(block: Block, node: Node, depth: dict[str, int]) -> ResidualRole | None:
    """An Add of two equal shapes; the branch is the side that takes more nodes to compute."""
    a, b = node.inputs
    if block.types[a] != block.types[b]:
        return None
    branch, skip = (a, b) if depth[a] > depth[b] else (b, a)
    return ResidualRole(node=node.name, branch=branch, skip=skip) if depth[branch] > depth[skip] else None
