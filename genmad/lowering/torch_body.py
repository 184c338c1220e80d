"""Writes the forward function of one block: a line per node, and the sizes it needs."""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from genmad.ir.build import OpSet
from genmad.ir.diagnostics import ShapeError
from genmad.ir.graph import Block, Graph, Node
from genmad.ir.opdef import Attrs
from genmad.ir.types import Dim, SymDim, TensorType, parse_dim
from genmad.lowering.python_names import Names, comment, snake
from genmad.lowering.torch_layout import split
from genmad.ops.shape_rules import LoweringError

if TYPE_CHECKING:
    from genmad.lowering.torch_source import SourceWriter

DEVICE = "device"
LINE_LENGTH = 112  # of a statement; methods are indented by 8
_FACTORY = re.compile(r"torch\.(arange|full|tensor|zeros|ones|empty|linspace)\(")


def indent(lines: list[str], levels: int = 1) -> list[str]:
    return ["    " * levels + line if line else "" for line in lines]


def block_symbols(block: Block) -> Iterator[str]:
    """Names of the symbols in the types and attributes of a block. Raises `LoweringError` on what is no name."""
    sizes: list[Any] = [dim for tensor in block.types.values() for dim in tensor.shape]
    for node in block.nodes:
        for _, value in node.attrs:
            sizes += value if isinstance(value, tuple) else (value,)
    for dim in sizes:
        if isinstance(dim, SymDim):
            if not _is_readable(dim):
                raise LoweringError(f'block "{block.name}": got the size {str(dim)!r}; expected a polynomial of names')
            yield from dim.symbols


def _is_readable(dim: SymDim) -> bool:
    try:
        return parse_dim(str(dim)) == dim
    except ShapeError:
        return False


def check_nodes(graph: Graph, opset: OpSet) -> None:
    """Raises `LoweringError` unless each node is what its op declares: generated code trusts attributes."""
    for block in graph.all_blocks:
        for node in block.nodes:
            where = f'{node.op} "{node.name}" in block "{block.name}"'
            if node.is_call:
                continue
            if node.op not in opset:
                raise LoweringError(f"{where}: got unknown op {node.op!r}; expected an op of the op set")
            opdef = opset[node.op]
            types = tuple(block.types[v] if v else None for v in node.inputs)
            attrs = opdef.complete(node.attr_map)
            if attrs != node.attr_map:
                raise LoweringError(f"{where}: got attributes {node.attr_map}; expected {attrs}")
            if opdef.infer(types, attrs) != node.types:
                raise LoweringError(f"{where}: got outputs {node.types}; expected {opdef.infer(types, attrs)}")


def used_kernels(graph: Graph, opset: OpSet) -> dict[str, Callable[..., Any]]:
    """The functions that the nodes of a graph copy into its source, by name."""
    kernels: dict[str, Callable[..., Any]] = {}
    for block in graph.all_blocks:
        symbols = dict.fromkeys(block_symbols(block), "1")
        for node in block.nodes:
            if not node.is_call:
                inputs = tuple("x" if value else None for value in node.inputs)
                params = dict.fromkeys(node.param_map, "x")
                opset[node.op].to_torch(context(block, node, inputs, params, symbols, set(), kernels))
    return kernels


def dim_source(dim: Dim, symbols: Mapping[str, str]) -> str:
    """Python expression of a dimension; `symbols` maps each symbol to a variable."""
    if not isinstance(dim, SymDim):
        return str(dim)
    terms = []
    for mono, factor in dim.terms:
        words = [] if factor == 1 and mono else [str(factor)]
        for symbol in mono:
            inner = re.fullmatch(r"floor\((.*)/([^/]*)\)", symbol)
            if inner:
                top, bottom = (dim_source(parse_dim(part), symbols) for part in inner.groups())
                words.append(f"(({top}) // ({bottom}))")
            else:
                words.append(symbols[symbol])
        terms.append(" * ".join(words))
    return " + ".join(terms)


def solve(dim: Dim, expression: str) -> tuple[str, str] | None:
    """The symbol that `dim` determines, and its value when `expression` is the size: `2*seq+1` gives `seq`."""
    if not isinstance(dim, SymDim):
        return None
    linear = [(mono, factor) for mono, factor in dim.terms if mono]
    if len(linear) != 1 or len(linear[0][0]) != 1 or linear[0][0][0].startswith("floor("):
        return None
    ((symbol,), factor) = linear[0]
    rest = dim - factor * SymDim.symbol(symbol)
    value = f"({expression} - {rest})" if rest else expression
    return symbol, value if factor == 1 else f"{value} // {factor}"


def on_device(expression: str) -> str:
    """An expression without input tensors, made on the device of the block's inputs."""
    if _FACTORY.match(expression) and expression.endswith(")") and expression.count("(") == 1:
        return f"{expression[:-1]}, device={DEVICE})"
    return f"{expression}.to({DEVICE})"


@dataclass(slots=True)
class Context:
    """The `TorchContext` of one node."""

    inputs: tuple[str | None, ...]
    types: tuple[TensorType | None, ...]
    results: tuple[TensorType, ...]
    attrs: Attrs
    params: Mapping[str, str]
    symbols: Mapping[str, str]
    needs: set[str]
    kernels: dict[str, Callable[..., Any]]

    def param(self, slot: str) -> str:
        return self.params[slot]

    def dim(self, dim: Dim) -> str:
        if isinstance(dim, SymDim):
            self.needs.update(dim.symbols)
        return dim_source(dim, self.symbols)

    def dims(self, dims: Sequence[Dim]) -> str:
        return ", ".join(self.dim(dim) for dim in dims)

    def kernel(self, function: Callable[..., Any]) -> str:
        name = function.__name__
        if self.kernels.setdefault(name, function) is not function:
            raise LoweringError(f"kernel {name}: got two functions of this name; rename one")
        return name


def context(
    block: Block,
    node: Node,
    inputs: tuple[str | None, ...],
    params: Mapping[str, str],
    symbols: Mapping[str, str],
    needs: set[str],
    kernels: dict[str, Callable[..., Any]],
) -> Context:
    types = tuple(block.types[value] if value else None for value in node.inputs)
    return Context(inputs, types, node.types, node.attr_map, params, symbols, needs, kernels)


@dataclass(slots=True)
class BodyWriter:
    """Writes the statements of one block."""

    owner: "SourceWriter"
    block: Block
    names: Names = field(init=False)
    variables: dict[str, str] = field(default_factory=dict)
    words: dict[str, str] = field(init=False)
    needs: set[str] = field(default_factory=set)
    needs_from_caller: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self.names = self.owner.names.copy()
        for value in self.block.inputs:
            self.variables[value.name] = self.names.argument(value.name)
        self.words = short_words([node.name for node in self.block.nodes])

    @property
    def arguments(self) -> list[str]:
        return [self.variables[value.name] for value in self.block.inputs]

    def write(self) -> list[str]:
        """The statements; fills in `needs_from_caller`."""
        lines: list[str] = []
        group = ""
        for node in self.block.nodes:
            here = group if node.is_call else node.scope.rpartition(".")[0] if node.scope == node.name else node.scope
            if here and here != group:
                lines.append(f"# {comment(here)}")
            group = here
            expression = self._call(node) if node.is_call else self._op(node)
            targets = [self._target(node, output) for output in node.outputs]
            line = f"{', '.join(targets)} = {expression}"
            shown = f"{line}  # {comment('; '.join(str(t) for t in node.types))}"
            lines.append(shown if len(shown) <= LINE_LENGTH else line)
        outputs = ", ".join(self.variables[name] for name in self.block.outputs)
        return [*self._sizes(), *lines, f"return {outputs}"]

    def _target(self, node: Node, output: str) -> str:
        word = self.words[node.name] + (f"_{output.rsplit(':', 1)[1]}" if len(node.types) > 1 else "")
        self.variables[output] = self.names.fresh(word)
        return self.variables[output]

    def _sizes(self) -> list[str]:
        """Statements that take needed sizes from the inputs; direct ones (`x.shape[0]`) win."""
        found: dict[str, str] = {}
        for value in self.block.inputs:
            for axis, dim in enumerate(value.type.shape):
                solved = solve(dim, f"{self.variables[value.name]}.shape[{axis}]")
                if solved and (solved[0] not in found or len(solved[1]) < len(found[solved[0]])):
                    found[solved[0]] = solved[1]
        if self.block.inputs:
            found[DEVICE] = f"{self.arguments[0]}.device"
        self.needs_from_caller = tuple(sorted(self.needs - found.keys()))
        return [f"{self.owner.variable(need)} = {found[need]}" for need in sorted(self.needs & found.keys())]

    def _call(self, node: Node) -> str:
        callee = self.owner.codes[node.callee]
        arguments = [self.variables[value] for value in node.inputs]
        self.needs.update(callee.needs)
        arguments += [f"{self.owner.variable(need)}={self.owner.variable(need)}" for need in callee.needs]
        layout = self.owner.layout
        if not layout.flat[node.callee]:
            return f"{callee.name}({', '.join(arguments)})"
        place = self.owner.locate(self.block, split(node.scope))
        if (self.block.name, node.name) in layout.plain:
            return f"{callee.name}.forward({', '.join([place, *arguments])})"
        return f"{place}({', '.join(arguments)})"

    def _op(self, node: Node) -> str:
        inputs = tuple(self.variables[value] if value else None for value in node.inputs)
        if node.params and (self.block.name, node.name) not in self.owner.layout.plain:
            place = self.owner.locate(self.block, split(node.params[0][1])[:-1])
            return f"{place}({', '.join(str(x) for x in inputs)})"
        params = {slot: self.owner.locate(self.block, split(name)) for slot, name in node.params}
        opdef, owner = self.owner.opset[node.op], self.owner
        ctx = context(self.block, node, inputs, params, owner.symbols, self.needs, owner.kernels)
        expression = opdef.to_torch(ctx)
        if not node.params and not any(inputs):
            self.needs.add(DEVICE)
            return on_device(expression)
        return expression


def short_words(names: Sequence[str]) -> dict[str, str]:
    """For each dotted name an identifier from its last components: as few as no other name ends in."""
    parts = {name: name.split(".") for name in names}
    ends = Counter(tuple(part[-n:]) for part in parts.values() for n in range(1, len(part) + 1))
    words = {}
    for name, part in parts.items():
        sizes = (n for n in range(1, len(part) + 1) if ends[tuple(part[-n:])] == 1 and not part[-n][:1].isdigit())
        words[name] = snake(".".join(part[-next(sizes, len(part)) :]))
    return words
