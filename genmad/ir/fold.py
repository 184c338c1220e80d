"""Flatten a graph into one block, and fold a flat graph into blocks along its module paths.

The scope rule: in a node's path, an integer component that is not the last one ends the path of a block
(`transformer.h.11` in `transformer.h.11.attn.c_attn`; `stages.2` and, inside it, `layers.5`). Where a scope was
called twice (shared parameters, as in ALBERT), flattening marks later calls: `layer.0_1` with `layer.0`'s parameters.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from genmad.ir.canonical import canonical_order
from genmad.ir.graph import CALL, Block, Graph, Node, Value, producer
from genmad.ir.rewrite import check_size, fresh_name, topological_sort
from genmad.ir.types import TensorType

_BOUNDARY = re.compile(r"\d+(_\d+)?\Z")
_REPEATED = re.compile(r"\A(\d+)_\d+\Z")


def flatten(graph: Graph) -> Graph:
    """The same model without calls; node names, scopes and parameter names get the scope of their call in front.

    Raises `GraphError` where that would be more than a million nodes.
    """
    check_size(graph)
    if not graph.blocks:
        return graph
    flat = _Flattener(graph)
    main = graph.main
    outputs = flat.inline(main, "", "", {v.name: v.name for v in main.inputs})
    return Graph(main=Block(name=main.name, inputs=main.inputs, nodes=tuple(flat.nodes), outputs=outputs))


class _Flattener:
    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.nodes: list[Node] = []
        self.taken = {v.name for v in graph.main.inputs}
        self.prefixes: set[str] = {""}

    def inline(self, block: Block, names: str, scopes: str, values: dict[str, str]) -> tuple[str, ...]:
        """Appends the nodes of a block, whose inputs are bound in `values`; the values it gives back.

        Args:
            names: what stands before the nodes' names.
            scopes: what stands before parameter names; differs from `names` where a scope is called again.
        """
        for node in block.nodes:
            inputs = tuple(values[v] if v else "" for v in node.inputs)
            if node.is_call:
                callee = self.graph.block_map[node.callee]
                path = self._unused_prefix(_join(names, node.scope), call=bool(node.scope))
                bound = dict(zip((v.name for v in callee.inputs), inputs, strict=True))
                outputs = self.inline(callee, path, _join(scopes, node.scope), bound)
            else:
                outputs = self._add(node, inputs, names, scopes)
            values.update(zip(node.outputs, outputs, strict=True))
        return tuple(values[v] for v in block.outputs)

    def _add(self, node: Node, inputs: tuple[str, ...], names: str, scopes: str) -> tuple[str, ...]:
        name = fresh_name(_join(names, node.name), self.taken)
        self.taken.add(name)
        params = tuple((slot, _join(scopes, param)) for slot, param in node.params)
        flat = replace(node, name=name, inputs=inputs, scope=_join(scopes, node.scope), params=params)
        self.nodes.append(flat)
        return flat.outputs

    def _unused_prefix(self, prefix: str, *, call: bool) -> str:
        if not call:
            return prefix
        prefix = fresh_name(prefix, self.prefixes)
        self.prefixes.add(prefix)
        return prefix


def _join(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix and name else prefix or name


def fold(graph: Graph, *, block_name: Callable[[str], str] | None = None, min_nodes: int = 2) -> Graph:
    """The same model with a block for each path that the scope rule (see the module) makes one.

    Leaf blocks that are equal up to their place share one definition; a block that contains calls is one place and is
    never shared. A path stays unfolded where its nodes are fewer than `min_nodes`, own parameters from outside the
    path, or cannot run in one go because something outside both reads from and feeds them. Inputs of a block are in
    order of first use, outputs in order of definition. `fold(flatten(g))` is `g` again if `g`'s blocks are like that.

    Args:
        block_name: wanted block name of a path (`transformer.h.11`), such as its module's class; by default the last
            component that is no integer. Different definitions get `_1`, `_2` ...
    """
    flat = flatten(graph)
    folder = _Folder(flat, block_name or _last_word, min_nodes)
    return folder.run()


def _last_word(path: str) -> str:
    words = [part for part in path.split(".") if not _BOUNDARY.match(part)]
    return words[-1] if words else "block"


@dataclass(frozen=True, slots=True)
class _Group:
    """Nodes under one path, relative to the block being made. A node of its own has path ""."""

    path: str
    nodes: tuple[Node, ...]


class _Folder:
    """Nodes keep their full names until they are placed, so that values can be looked up globally."""

    def __init__(self, flat: Graph, block_name: Callable[[str], str], min_nodes: int) -> None:
        self.main = flat.main
        self.types = flat.main.types
        self.block_name, self.min_nodes = block_name, min_nodes
        self.blocks: dict[str, Block] = {}
        self.shared: dict[str, str] = {}
        self.users: dict[str, list[str]] = {}
        for node in self.main.nodes:
            for value in node.inputs:
                self.users.setdefault(value, []).append(node.name)

    def run(self) -> Graph:
        nodes, local = self._body(self.main.nodes, "", "", {v.name: v.name for v in self.main.inputs})
        outputs = tuple(local[v] for v in self.main.outputs)
        main = replace(self.main, nodes=nodes, outputs=outputs)
        return Graph(main=main, blocks=tuple(self.blocks.values()))

    def _body(
        self, nodes: tuple[Node, ...], path: str, scope: str, local: dict[str, str]
    ) -> tuple[tuple[Node, ...], dict[str, str]]:
        """The nodes of one block, calls included, and the local name of every value that it knows."""
        made: list[Node] = []
        taken = {producer(v) for v in local.values()}
        for group in self._groups(nodes, path, scope):
            if not group.path:
                node = self._place(group.nodes[0], path, scope, local, taken)
            else:
                node = self._call(group, path, scope, local, taken)
            made.append(node)
        return tuple(made), local

    def _place(self, node: Node, path: str, scope: str, local: dict[str, str], taken: set[str]) -> Node:
        name = fresh_name(_strip(node.name, path), taken)
        taken.add(name)
        placed = replace(
            node,
            name=name,
            inputs=tuple(local[v] if v else "" for v in node.inputs),
            scope=_strip(node.scope, scope),
            params=tuple((slot, _strip(param, scope)) for slot, param in node.params),
        )
        local.update(zip(node.outputs, placed.outputs, strict=True))
        return placed

    def _call(self, group: _Group, path: str, scope: str, local: dict[str, str], taken: set[str]) -> Node:
        members = {node.name for node in group.nodes}
        needed = dict.fromkeys(v for n in group.nodes for v in n.inputs if v and producer(v) not in members)
        given = tuple(v for n in group.nodes for v in n.outputs if self._leaves(v, members))
        inner_scope = _scope_of(group, path, scope) or ""
        callee, types = self._block(group, inner_scope, tuple(needed), given)
        name = fresh_name(_strip(group.path, path), taken)
        taken.add(name)
        call = Node(
            name=name,
            op=CALL + callee,
            inputs=tuple(local[v] for v in needed),
            types=types,
            scope=_strip(inner_scope, scope),
        )
        local.update(zip(given, call.outputs, strict=True))
        return call

    def _leaves(self, value: str, members: set[str]) -> bool:
        return value in self.main.outputs or any(user not in members for user in self.users.get(value, ()))

    def _block(
        self, group: _Group, scope: str, needed: tuple[str, ...], given: tuple[str, ...]
    ) -> tuple[str, tuple[TensorType, ...]]:
        """Name of the group's block, made unless an equal leaf block is there; and its output types."""
        locals_taken = {_strip(node.name, group.path) for node in group.nodes}
        local: dict[str, str] = {}
        for value in needed:
            local[value] = fresh_name("x", locals_taken)
            locals_taken.add(local[value])
        inputs = tuple(Value(local[v], self.types[v]) for v in needed)
        nodes, local = self._body(group.nodes, group.path, scope, local)
        outputs = tuple(local[v] for v in given)
        name = fresh_name(self.block_name(group.path), {*self.blocks, self.main.name})
        block = Block(name=name, inputs=inputs, nodes=nodes, outputs=outputs)
        if not any(node.is_call for node in nodes):
            # As text, because 1 == True == 1.0 in Python, but not as attributes.
            same = self.shared.setdefault(repr((inputs, canonical_order(block), outputs)), name)
            if same != name:
                return same, block.output_types
        self.blocks[name] = block
        return name, block.output_types

    def _groups(self, nodes: tuple[Node, ...], path: str, scope: str) -> tuple[_Group, ...]:
        """The nodes of one block, those of each inner block together, in an order in which they can run."""
        refused: set[str] = set()
        while True:
            groups: dict[str, list[Node]] = {}
            for node in nodes:
                inner = _inner_path(node.name, path, refused)
                groups.setdefault(inner or f"={node.name}", []).append(node)
            made = [_Group("" if key[0] == "=" else key, tuple(members)) for key, members in groups.items()]
            bad = [g.path for g in made if g.path and not self._foldable(g, path, scope)]
            if not bad:
                order, bad = _run_order(made)
                if not bad:
                    return order
            refused.update(bad)

    def _foldable(self, group: _Group, path: str, scope: str) -> bool:
        return len(group.nodes) >= self.min_nodes and _scope_of(group, path, scope) is not None


def _strip(name: str, prefix: str) -> str:
    if not prefix:
        return name
    return "" if name == prefix else name.removeprefix(f"{prefix}.")


def _inner_path(name: str, path: str, refused: set[str]) -> str:
    """Path of the outermost block, below `path`, that a node belongs to; "" when it belongs to none."""
    parts = name.split(".")
    start = path.count(".") + 1 if path else 0
    for end in range(start + 1, len(parts)):
        candidate = ".".join(parts[:end])
        if _BOUNDARY.match(parts[end - 1]) and candidate not in refused:
            return candidate
    return ""


def _scope_of(group: _Group, outer_path: str, outer_scope: str) -> str | None:
    """What stands before the group's parameter names; None when they have nothing in common with its path."""
    relative = _strip(group.path, outer_path)
    plain = ".".join(_REPEATED.sub(r"\1", part) for part in relative.split("."))
    scopes = [_join(outer_scope, relative), _join(outer_scope, plain)]
    names = [name for node in group.nodes for _, name in node.params]
    fitting = [scope for scope in scopes if all(name.startswith(f"{scope}.") for name in names)]
    if not fitting:
        return None
    # Without parameters to tell, the nodes' own scopes do.
    within = [s for s in fitting if all(f"{node.scope}.".startswith(f"{s}.") for node in group.nodes)]
    return (within or fitting)[0]


def _run_order(groups: list[_Group]) -> tuple[tuple[_Group, ...], list[str]]:
    """Groups with producers first; or, when they wait for each other, the paths of those on a cycle."""
    home = {node.name: i for i, group in enumerate(groups) for node in group.nodes}
    stand_ins = []
    for i, group in enumerate(groups):
        sources = dict.fromkeys(home[producer(v)] for n in group.nodes for v in n.inputs if producer(v) in home)
        inputs = tuple(f"g{j}" for j in sources if j != i)
        stand_ins.append(Node(name=f"g{i}", op="", inputs=inputs, types=group.nodes[0].types[:1]))
    waiting = set(_on_cycles(stand_ins))
    if waiting:
        return (), [groups[i].path for i in waiting if groups[i].path]
    return tuple(groups[int(node.name[1:])] for node in topological_sort(stand_ins)), []


def _on_cycles(nodes: Iterable[Node]) -> Iterator[int]:
    """Positions of the nodes on cycles, or between two: sorting removes them neither from the front nor the back."""
    nodes = list(nodes)
    before = [{int(v[1:]) for v in node.inputs} for node in nodes]
    after: list[set[int]] = [set() for _ in nodes]
    for i, sources in enumerate(before):
        for j in sources:
            after[j].add(i)
    left = set(range(len(nodes)))
    for table, other in ((before, after), (after, before)):
        ready = [i for i in left if not table[i] & left]
        while ready:
            i = ready.pop()
            left.discard(i)
            ready += [j for j in other[i] if j in left and not table[j] & left]
    yield from sorted(left)
