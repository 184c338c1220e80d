"""From a flat program to a hierarchical graph: members of module lists become calls of blocks.

A block is a module whose path ends in a number (`transformer.h.11`) with at least two nodes. A block inside a block
stays one only when it is a layer in its own right: at least `MIN_NESTED` nodes, and one of several members of its class
in its list (Swin's stages hold layers; the self-attention and feed-forward parts of a T5 block do not count).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from genmad.importers.flat import Flat, FlatNode
from genmad.importers.trace import ModuleCall
from genmad.ir.graph import CALL, Block, Graph, Node, Value
from genmad.ir.types import TensorType

MIN_NESTED = 6


@dataclass(slots=True)
class _Region:
    """A module call that becomes a block, or the whole model: its nodes and regions in order of execution."""

    call: ModuleCall | None
    parent: "_Region | None" = None
    items: "list[int | _Region]" = field(default_factory=list)

    @property
    def path(self) -> str:
        return self.call.path if self.call else ""

    def nodes(self) -> list[int]:
        found: list[int] = []
        for item in self.items:
            found += [item] if isinstance(item, int) else item.nodes()
        return found


def build_graph(flat: Flat, name: str) -> Graph:
    """The folded graph; leaf blocks of equal structure share one definition."""
    return _Folder(flat, name).run()


class _Folder:
    def __init__(self, flat: Flat, name: str) -> None:
        self.flat, self.name = flat, name
        self.blocks: dict[str, Block] = {}
        self.by_structure: dict[tuple[object, ...], str] = {}
        self.roles = value_roles(flat)

    def run(self) -> Graph:
        flat = self.flat
        chosen = _block_calls(flat)
        root = _Region(None)
        regions: dict[int, _Region] = {}
        for index, node in enumerate(flat.nodes):
            self._region(node.call, chosen, regions, root).items.append(index)
        self.position: dict[str, int] = {out: i for i, node in enumerate(flat.nodes) for out in node.outputs}
        main = self._main(root)
        return Graph(main=main, blocks=tuple(self.blocks.values()))

    def _region(self, call: int, chosen: set[int], regions: dict[int, _Region], root: _Region) -> _Region:
        """The innermost region around a module call, made on first use inside its parent region."""
        while call >= 0 and call not in chosen:
            call = self.flat.calls[call].parent
        if call < 0:
            return root
        if call not in regions:
            parent = self._region(self.flat.calls[call].parent, chosen, regions, root)
            regions[call] = _Region(self.flat.calls[call], parent)
            parent.items.append(regions[call])
        return regions[call]

    def _main(self, root: _Region) -> Block:
        used = {name for node in self.flat.nodes for name in node.inputs} | set(self.flat.outputs)
        inputs = [(name, type_) for name, type_ in self.flat.inputs if name in used]
        names = {name: name for name, _ in inputs}
        nodes, local = self._nodes(root, names)
        outputs = tuple(local[name] for name in self.flat.outputs)
        return Block(name=self.name, inputs=tuple(Value(n, t) for n, t in inputs), nodes=nodes, outputs=outputs)

    def _nodes(self, region: _Region, names: Mapping[str, str]) -> tuple[tuple[Node, ...], dict[str, str]]:
        """The region's nodes with local names, and the local name of each value."""
        local = dict(names)
        taken = set(names.values())
        nodes: list[Node] = []
        for item in _in_order(region, self.flat):
            if isinstance(item, int):
                node = self._op(self.flat.nodes[item], region.path, local, taken)
                outputs: Sequence[str] = self.flat.nodes[item].outputs
            else:
                node, outputs = self._call(item, region.path, local, taken)
            nodes.append(node)
            local.update(zip(outputs, node.outputs, strict=True))
        return tuple(nodes), local

    def _op(self, flat: FlatNode, prefix: str, local: Mapping[str, str], taken: set[str]) -> Node:
        scope = self.flat.calls[flat.call].path if self.flat.calls else ""
        path = flat.layer or (f"{scope}." if scope else "") + flat.op.lower()
        name = _fresh(_relative(path, prefix) or flat.op.lower(), taken)
        given = flat.param_map
        in_types = [self.flat.types[v] if v else None for v in flat.inputs]
        declared = self.flat.opset[flat.op].params(in_types, flat.attrs)
        params = tuple(
            (p.slot, _relative(given[p.slot], prefix) if p.slot in given else f"{name}.{p.slot}") for p in declared
        )
        return Node(
            name=name, op=flat.op, inputs=tuple(local[v] if v else "" for v in flat.inputs), types=flat.types,
            attrs=tuple(flat.attrs.items()), scope=_relative(scope, prefix), params=params,
        )  # fmt: skip

    def _call(self, region: _Region, prefix: str, local: Mapping[str, str], taken: set[str]) -> tuple[Node, list[str]]:
        inside = set(region.nodes())
        inputs = self._inputs(inside)
        outputs = self._outputs(inside)
        names = _input_names(inputs, self.roles, self.flat.types)
        nodes, inner = self._nodes(region, names)
        values = tuple(Value(names[v], self.flat.types[v]) for v in inputs)
        callee = self._define(region, values, nodes, tuple(inner[v] for v in outputs))
        path = _relative(region.path, prefix)
        types = tuple(self.flat.types[v] for v in outputs)
        node = Node(
            name=_fresh(path, taken), op=CALL + callee, inputs=tuple(local[v] for v in inputs), types=types, scope=path
        )
        return node, outputs

    def _define(
        self, region: _Region, inputs: tuple[Value, ...], nodes: tuple[Node, ...], outputs: tuple[str, ...]
    ) -> str:
        is_leaf = not any(node.is_call for node in nodes)
        key = (inputs, nodes, outputs)
        if is_leaf and key in self.by_structure:
            return self.by_structure[key]
        class_name = region.call.class_name if region.call else self.name
        name = _fresh(class_name, {*self.blocks, self.name})
        self.blocks[name] = Block(name=name, inputs=inputs, nodes=nodes, outputs=outputs)
        if is_leaf:
            self.by_structure[key] = name
        return name

    def _inputs(self, inside: set[int]) -> list[str]:
        """Values from outside in order of first use, the hidden stream first."""
        found: dict[str, None] = {}
        for index in sorted(inside):
            for value in self.flat.nodes[index].inputs:
                if value and self.position.get(value, -1) not in inside:
                    found.setdefault(value)
        order = list(found)
        streams = [v for v in order if self.roles.get(v, "hidden") == "hidden" and self.flat.types[v].dtype.is_float]
        return [*streams[:1], *(v for v in order if v not in streams[:1])]

    def _outputs(self, inside: set[int]) -> list[str]:
        """Values that something outside reads, in order of definition."""
        read = set(self.flat.outputs)
        for index, node in enumerate(self.flat.nodes):
            if index not in inside:
                read.update(node.inputs)
        return [out for i in sorted(inside) for out in self.flat.nodes[i].outputs if out in read]


def value_roles(flat: Flat) -> dict[str, str]:
    """A word for values that are not the hidden stream: `cos`, `sin`, `bias`, `memory`, `positions`."""
    roles: dict[str, str] = {}
    for node in flat.nodes:
        if node.op == "RotaryTable":
            roles[node.outputs[0]], roles[node.outputs[1]] = "cos", "sin"
        elif node.op == "RotaryEmbedding":
            roles.setdefault(node.inputs[1], "cos")
            roles.setdefault(node.inputs[2], "sin")
        elif node.op == "Attention" and len(node.inputs) > 3 and node.inputs[3]:
            roles[node.inputs[3]] = "bias"
        elif node.op in ("Arange", "Full", "Parameter", "Constant"):
            roles[node.outputs[0]] = "positions" if node.op == "Arange" else "constant"
    for node in flat.nodes:
        if node.op in ("Unsqueeze", "Expand", "Cast") and roles.get(node.inputs[0]) in (
            "positions",
            "bias",
            "cos",
            "sin",
        ):
            roles.setdefault(node.outputs[0], roles[node.inputs[0]])
    return roles


def _input_names(values: list[str], roles: Mapping[str, str], types: Mapping[str, TensorType]) -> dict[str, str]:
    taken: set[str] = set()
    names: dict[str, str] = {}
    for index, value in enumerate(values):
        default = "hidden" if index == 0 else ("memory" if types[value].dtype.is_float else "positions")
        names[value] = _fresh(roles.get(value, default), taken)
    return names


def _fresh(stem: str, taken: set[str]) -> str:
    """`stem`, or `stem_1` ...; the name counts as taken afterwards. A leading digit gets an underscore."""
    stem = stem if stem[:1].isalpha() or stem[:1] == "_" else f"_{stem}"
    name, count = stem, 0
    while name in taken:
        count += 1
        name = f"{stem}_{count}"
    taken.add(name)
    return name


def _relative(path: str, prefix: str) -> str:
    if path == prefix:
        return ""
    return path.removeprefix(f"{prefix}.") if prefix else path


def _block_calls(flat: Flat) -> set[int]:
    """Numbers of the module calls that become blocks."""
    sizes, params = _subtree(flat)
    calls = flat.calls
    chosen: set[int] = set()
    inner: dict[int, int] = {}
    for call in calls:
        outer = inner.get(call.parent, -1) if call.parent >= 0 else -1
        inner[call.number] = outer
        if not _is_candidate(call, sizes, params, outer, calls):
            continue
        if outer >= 0 and not _is_layer(call, sizes, calls):
            continue
        chosen.add(call.number)
        inner[call.number] = call.number
    return chosen


def _is_candidate(
    call: ModuleCall, sizes: Mapping[int, int], params: Mapping[int, list[str]], outer: int, calls: Sequence[ModuleCall]
) -> bool:
    """A member of a list with two nodes or more, all of whose parameters are its own."""
    if not call.path.rsplit(".", 1)[-1].isdigit() or sizes.get(call.number, 0) < 2:
        return False
    if outer >= 0 and not call.path.startswith(calls[outer].path + "."):
        return False
    return all(name.startswith(call.path + ".") for name in params.get(call.number, ()))


def _is_layer(call: ModuleCall, sizes: Mapping[int, int], calls: Sequence[ModuleCall]) -> bool:
    """Whether a member of a list inside a block is a layer of its own: one of several of its class."""
    owner = call.path.rsplit(".", 1)[0]
    members = {c.path for c in calls if c.class_name == call.class_name and c.path.rsplit(".", 1)[0] == owner}
    return sizes.get(call.number, 0) >= MIN_NESTED and len(members) > 1


def _subtree(flat: Flat) -> tuple[dict[int, int], dict[int, list[str]]]:
    """Nodes and parameter names inside each module call."""
    sizes: dict[int, int] = {}
    params: dict[int, list[str]] = {}
    for node in flat.nodes:
        call = node.call
        while flat.calls and call >= 0:
            sizes[call] = sizes.get(call, 0) + 1
            params.setdefault(call, []).extend(name for _, name in node.params)
            call = flat.calls[call].parent
    return sizes, params


def _in_order(region: _Region, flat: Flat) -> "list[int | _Region]":
    """The region's items, each after the items it reads from; execution order wherever that allows."""
    owner: dict[str, int] = {}
    members = [[item] if isinstance(item, int) else item.nodes() for item in region.items]
    for place, indices in enumerate(members):
        for index in indices:
            owner.update((out, place) for out in flat.nodes[index].outputs)
    needs = [
        {owner[v] for index in indices for v in flat.nodes[index].inputs if owner.get(v, place) != place}
        for place, indices in enumerate(members)
    ]
    if all(need < place for place, each in enumerate(needs) for need in each):
        return region.items
    done: dict[int, None] = {}
    for place in range(len(members)):
        _visit(place, needs, done, set())
    return [region.items[place] for place in done]


def _visit(place: int, needs: Sequence[set[int]], done: dict[int, None], above: set[int]) -> None:
    if place in done:
        return
    if place in above:
        raise ValueError("two blocks read from each other; a lifting pass moved a node out of its module")
    for need in sorted(needs[place]):
        _visit(need, needs, done, above | {place})
    done.setdefault(place)
