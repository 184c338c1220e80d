"""Where the parameters of a block live in its generated class, so that state-dict keys are the graph's own names.

Every node and call of a block *claims* a place in the module tree of the block's class: a native layer
(`nn.Linear` at `attn.c_attn`), an instance of the called block's class (`Layer` at `h.0`), or single tensors. Claims
that get in each other's way (tied weights, two blocks called with one scope) are settled by giving up the nicer form:
the node is written with a function (`F.linear`) or the call with another `self` (`Layer.forward(self.h, x)`), and
its tensors become part of the surrounding tree.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from genmad.ir.build import OpSet
from genmad.ir.graph import Block, Graph, Node
from genmad.ir.opdef import Param
from genmad.ir.types import DType
from genmad.ops.shape_rules import LoweringError

Path = tuple[str, ...]
Owner = tuple[str, str]  # block name, node name


@dataclass(frozen=True, slots=True)
class Claim:
    """A place in a module tree that a node or call wants.

    Attributes:
        path: components of the name, relative to the block.
        kind: `instance`, `layer` or `tensor`.
        text: name of the called block, or constructor of the layer.
        tensors: the parameters at and below the path, by relative path.
        owners: the nodes that this place was made for.
    """

    path: Path
    kind: str
    text: str
    tensors: Mapping[Path, Param]
    owners: tuple[Owner, ...] = ()


@dataclass(slots=True)
class Tree:
    """A module under construction: children by component, each a tree of its own or a claim."""

    children: dict[str, "Tree | Claim"] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """`list` for modules 0 to n-1, `dict` for modules with other numbers, else `scope`."""
        numbers = [name for name in self.children if name.isascii() and name.isdigit()]
        tensors = any(isinstance(c, Claim) and c.kind == "tensor" for c in self.children.values())
        if tensors or len(numbers) < len(self.children):
            return "scope"
        return "list" if set(numbers) == {str(i) for i in range(len(numbers))} else "dict"


def node_params(node: Node, block: Block, opset: OpSet) -> dict[str, Param]:
    """The parameters of one op by name relative to the block. Raises `LoweringError` when node and op differ."""
    types = tuple(block.types[v] if v else None for v in node.inputs)
    declared = {param.slot: param for param in opset[node.op].params(types, node.attr_map)}
    if set(declared) != set(node.param_map):
        raise LoweringError(
            f'node "{node.name}" in block "{block.name}": got parameters {sorted(node.param_map)}; '
            f"expected {sorted(declared)}, which {node.op} has"
        )
    return {name: declared[slot] for slot, name in node.params}


def merge_param(table: dict[Path, Param], path: Path, param: Param) -> None:
    """Adds a parameter; the second user of a name must want the same tensor."""
    old = table.setdefault(path, param)
    if old.type != param.type:
        raise LoweringError(
            f'parameter "{".".join(path)}": got {old.type} and {param.type} at two nodes; expected one type'
        )


class Layout:
    """The claims of every block of a graph, settled.

    Attributes:
        flat: for each block, every parameter of it and of what it calls, by relative path.
        plain: nodes that are written as functions, and calls written with another `self`.
        foreign: blocks that such calls reach; their code cannot know which containers it meets.
        trees: for each block, the module tree of its class.
    """

    def __init__(self, graph: Graph, opset: OpSet) -> None:
        self.graph = graph
        self.opset = opset
        self.flat: dict[str, dict[Path, Param]] = {}
        for block in graph.all_blocks:
            self.flat[block.name] = self._flat(block)
        self.plain: set[Owner] = set()
        self.claims: dict[str, list[Claim]] = {}
        while True:
            known = len(self.plain)
            for block in graph.all_blocks:
                self.claims[block.name] = self._settle(block)
            if len(self.plain) == known:
                break
        calls = [(block.name, node) for block in graph.all_blocks for node in block.nodes if node.is_call]
        self.foreign = {node.callee for caller, node in calls if (caller, node.name) in self.plain}
        self.trees = {name: plant(claims) for name, claims in self.claims.items()}

    def _flat(self, block: Block) -> dict[Path, Param]:
        table: dict[Path, Param] = {}
        for node in block.nodes:
            if node.is_call:
                scope = split(node.scope)
                for path, param in self.flat[node.callee].items():
                    merge_param(table, scope + path, param)
            else:
                for name, param in node_params(node, block, self.opset).items():
                    merge_param(table, split(name), param)
        return table

    def _wanted(self, block: Block) -> Iterator[Claim]:
        for node in block.nodes:
            owner = (block.name, node.name)
            if not node.is_call:
                yield from self._op_claims(block, node, owner)
            elif self.flat[node.callee]:
                scope = split(node.scope)
                if owner in self.plain or not scope:
                    self.plain.add(owner)
                    for claim in self.claims[node.callee]:
                        yield Claim(scope + claim.path, claim.kind, claim.text, claim.tensors, claim.owners)
                else:
                    yield Claim(scope, "instance", node.callee, self.flat[node.callee], (owner,))

    def _op_claims(self, block: Block, node: Node, owner: Owner) -> Iterator[Claim]:
        params = {split(name): param for name, param in node_params(node, block, self.opset).items()}
        layer = "" if owner in self.plain else self.native_layer(block, node)
        if layer:
            path = next(iter(params))[:-1]
            yield Claim(path, "layer", layer, {name[-1:]: param for name, param in params.items()}, (owner,))
        else:
            self.plain.add(owner)
            for path, param in params.items():
                yield Claim(path, "tensor", "", {(): param})

    def native_layer(self, block: Block, node: Node) -> str:
        """Constructor of the torch layer that can hold this node's parameters under their names, or ""."""
        split_names = [(slot, split(name)) for slot, name in node.params]
        paths = {path[:-1] for _, path in split_names}
        if len(paths) != 1 or () in paths or any(path[-1] != slot for slot, path in split_names):
            return ""
        types = tuple(block.types[v] if v else None for v in node.inputs)
        if any(p.type.dtype is not DType.FLOAT32 for p in node_params(node, block, self.opset).values()):
            return ""
        return self.opset[node.op].torch_module(types, node.attr_map)

    def _settle(self, block: Block) -> list[Claim]:
        """Claims that do not overlap; those that lose are marked in `plain`, for the next round."""
        order = {"instance": 0, "layer": 1, "tensor": 2}
        taken: dict[Path, Claim] = {}
        wanted = list(self._wanted(block))
        for claim in sorted(wanted, key=lambda c: (len(c.path), order[c.kind])):
            host = next((taken[claim.path[:n]] for n in range(len(claim.path) + 1) if claim.path[:n] in taken), None)
            if host is None:
                taken[claim.path] = claim
            elif host.path == claim.path and (host.kind, host.text) == (claim.kind, claim.text) != ("tensor", ""):
                taken[host.path] = Claim(
                    host.path, host.kind, host.text, host.tensors, tuple(dict.fromkeys(host.owners + claim.owners))
                )
            else:
                self._collide(host, claim)
        return [taken.pop(claim.path) for claim in wanted if claim.path in taken]

    def _collide(self, host: Claim, claim: Claim) -> None:
        if host.kind == "tensor":
            if claim.kind != "tensor" or claim.path != host.path:
                raise LoweringError(f'parameter "{".".join(host.path)}": got a parameter below it too; rename one')
            return
        below = claim.path[len(host.path) :]
        if not all(below + path in host.tensors for path in claim.tensors):
            self.plain.update(host.owners)
        self.plain.update(claim.owners)


def split(name: str) -> Path:
    """Components of a dotted name. Raises `LoweringError` where no torch module can have such a child."""
    parts = tuple(name.split(".")) if name else ()
    if "" in parts:
        raise LoweringError(f"name {name!r}: got an empty component; expected names joined by single dots")
    if "training" in parts:
        raise LoweringError(f"name {name!r}: got the component training, a flag of every torch module; rename it")
    return parts


def plant(claims: list[Claim]) -> Tree:
    """The module tree that holds the claims at their paths."""
    root = Tree()
    for claim in claims:
        here = root
        for part in claim.path[:-1]:
            below = here.children.setdefault(part, Tree())
            if isinstance(below, Claim):
                raise AssertionError(f"claim {below.path} hides {claim.path}")
            here = below
        here.children[claim.path[-1]] = claim
    return root
