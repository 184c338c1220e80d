"""Are the types that a graph stores the ones that its ops' shape rules give? Reports every problem, not the first."""

from collections.abc import Iterator, Mapping

from genmad.ir.build import OpSet
from genmad.ir.diagnostics import Diagnostic, GraphError, ShapeError
from genmad.ir.graph import Block, Graph, Node, places
from genmad.ir.rewrite import check_size


class NodeNames:
    """Names nodes for messages: where they run, as the user knows it, and the block that defines them."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._paths: Mapping[tuple[str, str], list[str]] | None = None

    def paths(self, block: Block, node: Node) -> list[str]:
        """Every place where the node runs; empty in a block that is never called."""
        if self._paths is None:
            check_size(self._graph)
            table: dict[tuple[str, str], list[str]] = {}
            for place in places(self._graph):
                table.setdefault((place.block.name, place.node.name), []).append(place.path)
            self._paths = table
        return self._paths.get((block.name, node.name), [])

    def where(self, block: Block, node: Node) -> str:
        """`Linear "transformer.h.0.mlp.c_fc" and 11 more places, in block "GPT2Block"`."""
        paths = self.paths(block, node)
        text = f'{node.op} "{paths[0] if paths else node.name}"'
        if len(paths) > 1:
            text += f" and {len(paths) - 1} more place{'s' if len(paths) > 2 else ''}"
        return text if block is self._graph.main else f'{text}, in block "{block.name}"'


def type_problems(graph: Graph, opset: OpSet) -> Iterator[Diagnostic]:
    """Every node whose op, attributes, inputs, types or parameters are not what its declaration says.

    Each node is judged given the stored types of its inputs, so one mistake is reported once, where it was made.
    """
    names = NodeNames(graph)
    for block in graph.all_blocks:
        for node in block.nodes:
            if not node.is_call:  # a Graph cannot be made with calls of the wrong types
                for got, expected, fix in _problems(block, node, opset):
                    yield Diagnostic(where=names.where(block, node), got=got, expected=expected, fix=fix)


def _problems(block: Block, node: Node, opset: OpSet) -> Iterator[tuple[str, str, str]]:
    """(got, expected, fix) of what is wrong with one op, given the stored types of its inputs."""
    opdef = opset.get(node.op)
    if opdef is None:
        yield f"unknown op {node.op!r}", "an op of the op set", ""
        return
    in_types = tuple(block.types[v] if v else None for v in node.inputs)
    try:
        attrs = opdef.complete(node.attr_map)
        types = opdef.infer(in_types, attrs)
        slots = tuple(p.slot for p in opdef.params(in_types, attrs))
    except ShapeError as error:
        yield error.got, error.expected, error.fix
        return
    if types != node.types:
        yield f"output types {node.types}", f"{types}, as its shape rule gives", ""
    if tuple(attrs.items()) != node.attrs:
        yield f"attributes {', '.join(node.attr_map) or 'none'}", f"all of {', '.join(attrs)}, in this order", ""
    if slots != tuple(slot for slot, _ in node.params):
        yield f"parameters {', '.join(node.param_map) or 'none'}", ", ".join(slots) or "none", ""


def check_types(graph: Graph, opset: OpSet) -> None:
    """Raises `GraphError` with every problem that `type_problems` finds."""
    problems = tuple(type_problems(graph, opset))
    if problems:
        raise GraphError(*problems)
