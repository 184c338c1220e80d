"""Level 1: what can be said of a graph without its types."""

from collections.abc import Iterator

from genmad.ir import CALL, Block, Diagnostic, Graph, GraphError, OpSet, producer, topological_sort
from genmad.ir.check import NodeNames
from genmad.ir.rewrite import called_blocks, check_size, live_nodes


def acyclic(graph: Graph) -> Iterator[Diagnostic]:
    """Cycles among nodes, and calls nested too deep or expanding to too many nodes to run."""
    for block in graph.all_blocks:
        try:
            topological_sort(block.nodes, where=f'block "{block.name}"')
        except GraphError as error:
            yield from error.diagnostics
    try:
        check_size(graph)
    except GraphError as error:
        yield from error.diagnostics


def arity(graph: Graph, opset: OpSet) -> Iterator[Diagnostic]:
    """Nodes with too few or too many inputs, or of an op that does not exist."""
    names = NodeNames(graph)
    for block in graph.all_blocks:
        for node in block.nodes:
            if node.op.startswith(CALL):
                least = most = len(graph.block_map[node.callee].inputs)
            elif node.op in opset:
                least, most = opset[node.op].min_inputs, opset[node.op].max_inputs or len(node.inputs)
            else:
                yield Diagnostic(where=names.where(block, node), got=f"op {node.op!r}", expected="an op of the op set")
                continue
            given = len(node.inputs)
            if not least <= given <= max(least, most):
                expected = f"{least}" if least == most else f"{least} to {most}"
                yield Diagnostic(where=names.where(block, node), got=f"{given} inputs", expected=expected)
            elif not all(node.inputs[:least]):
                yield Diagnostic(where=names.where(block, node), got="an absent input", expected=f"{least} inputs")


def reachable(graph: Graph) -> Iterator[Diagnostic]:
    """Model outputs that depend on no model input: they would be constants."""
    reads: dict[str, tuple[frozenset[int], ...]] = {}
    for block in graph.all_blocks:
        reads[block.name] = _reads(block, reads)
    for value, sources in zip(graph.main.outputs, reads[graph.main.name], strict=True):
        if not sources:
            where = f'output "{value}"'
            yield Diagnostic(where=where, got="a value that depends on no input", expected="a path from an input")


def _reads(block: Block, reads: dict[str, tuple[frozenset[int], ...]]) -> tuple[frozenset[int], ...]:
    """For each output of a block, positions of the inputs that it depends on."""
    table = {v.name: frozenset({i}) for i, v in enumerate(block.inputs)}
    for node in block.nodes:
        given = [table[v] if v else frozenset() for v in node.inputs]
        if node.is_call:
            per_output = [frozenset().union(*(given[i] for i in used)) for used in reads[node.callee]]
        else:
            per_output = [frozenset().union(*given)] * len(node.types)
        table.update(zip(node.outputs, per_output, strict=True))
    return tuple(table[v] for v in block.outputs)


def nothing_dangles(graph: Graph) -> Iterator[Diagnostic]:
    """Nodes whose results are never used, and blocks that are never called."""
    names = NodeNames(graph)
    called = called_blocks(graph)
    for block in graph.all_blocks:
        if block.name not in called:
            fix = "call it or remove it"
            yield Diagnostic(
                where=f'block "{block.name}"', got="a block that nothing calls", expected="a call", fix=fix
            )
            continue
        live = live_nodes(block)
        used = {producer(v) for node in block.nodes for v in node.inputs}
        for node in block.nodes:
            if node.name not in live and node.name not in used:
                got, fix = "a result that nothing uses", "connect it or remove it"
                yield Diagnostic(where=names.where(block, node), got=got, expected="a path to an output", fix=fix)
