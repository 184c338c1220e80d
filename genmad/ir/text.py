"""Graphs as text that people read and write: lossless, one line per node.

    genmad graph 1

    block Mlp(x: float32[batch,seq,8])
      c_fc: float32[batch,seq,32] = Linear(x) out_features=32 bias=true transposed=false {weight=c_fc.weight}
      act: float32[batch,seq,32] = Gelu(c_fc) approximate="tanh"
      return act

    main net(x: float32[batch,seq,8])
      h.0: float32[batch,seq,32] = @Mlp(x)
      return h.0

Strings are quoted, symbolic dimensions are bare, `-` is an absent optional input, `in PATH` gives the scope where it is
not the usual one (a call's own name; for an op, its name without the last part). Lines starting with `#` are comments.
"""

import json
import math
import re
from typing import Any

from genmad.ir.build import OpSet
from genmad.ir.check import check_types
from genmad.ir.diagnostics import Diagnostic, GraphError, ShapeError
from genmad.ir.graph import Block, Graph, Node, Value
from genmad.ir.rewrite import check_size
from genmad.ir.serial import MAX_BLOCKS, MAX_NODES
from genmad.ir.types import SymDim, TensorType, parse_dim

HEADER = "genmad graph 1"
ABSENT = "-"
_KEYWORDS = {"true": True, "false": False, "none": None, "inf": math.inf, "-inf": -math.inf, "nan": math.nan}
_WORD = re.compile(r"@?[A-Za-z_][\w.\-:]*")
_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"')
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?(?![\w*+(])(?!-\w)")
_DIM = re.compile(r"[+-]?[A-Za-z_\d][\w*+\-()/]*")
_TYPE = re.compile(r"\w+\[[^\]]*\]")
MAX_TEXT_DIM = 1_000


def to_text(graph: Graph) -> str:
    """The graph as text; `from_text` reads it back exactly."""
    parts = [HEADER]
    for block in graph.all_blocks:
        lines = [_signature(block, "main" if block is graph.main else "block")]
        lines += [f"  {node_to_text(node)}" for node in block.nodes]
        lines.append(f"  return {', '.join(_word(v) for v in block.outputs)}")
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def _signature(block: Block, kind: str) -> str:
    return f"{kind} {_word(block.name)}({', '.join(f'{_word(v.name)}: {v.type}' for v in block.inputs)})"


def node_to_text(node: Node) -> str:
    """One node as one line: `act: float32[batch,8] = Relu(fc)`."""
    inputs = ", ".join(_word(v) if v else ABSENT for v in node.inputs)
    parts = [f"{_word(node.name)}: {', '.join(map(str, node.types))} = {_word(node.op)}({inputs})"]
    parts += [f"{_word(name)}={attr_to_text(value)}" for name, value in node.attrs]
    if node.scope != _usual_scope(node.name, node.op):
        parts.append(f"in {_word(node.scope)}")
    if node.params:
        parts.append("{" + ", ".join(f"{_word(slot)}={_word(name)}" for slot, name in node.params) + "}")
    return " ".join(parts)


def _usual_scope(name: str, op: str) -> str:
    return name if op.startswith("@") else name.rpartition(".")[0]


def attr_to_text(value: Any) -> str:
    """One attribute value: `true`, `1e-05`, `"tanh"`, `batch*seq`, `[0, -1, 64]`."""
    if isinstance(value, tuple):
        return f"[{', '.join(map(attr_to_text, value))}]"
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    if isinstance(value, str):
        return json.dumps(value)
    if isinstance(value, SymDim) and (str(value) in _KEYWORDS or not _DIM.fullmatch(str(value))):
        raise GraphError(
            Diagnostic(where="attribute", got=f"dimension {value}", expected="symbols that are not keywords")
        )
    return repr(value)


def _word(text: str) -> str:
    return text if _WORD.fullmatch(text) else json.dumps(text)


def from_text(text: str, opset: OpSet | None = None) -> Graph:
    """The inverse of `to_text`; given an op set, the written types are checked against its shape rules.

    Raises `GraphError` with the line, the column and a caret under what is wrong.
    """
    lines = [_Line(n, line) for n, line in enumerate(text.split("\n"), 1)]
    lines = [line for line in lines if not line.is_empty]
    if not lines or lines[0].text.strip() != HEADER:
        raise (lines[0] if lines else _Line(1, "")).error(f'the first line "{HEADER}"')
    if len(lines) > MAX_NODES + 2 * MAX_BLOCKS:
        raise lines[-1].error(f"at most {MAX_NODES} nodes")
    blocks: list[tuple[str, Block]] = []
    at = 1
    while at < len(lines):
        kind, block, at = _block(lines, at)
        blocks.append((kind, block))
    if [kind for kind, _ in blocks] != ["block"] * (len(blocks) - 1) + ["main"]:
        raise lines[-1].error("blocks, then one main block at the end")
    graph = Graph(main=blocks[-1][1], blocks=tuple(block for _, block in blocks[:-1]))
    check_size(graph)
    if opset is not None:
        check_types(graph, opset)
    return graph


class _Line:
    """A cursor over one line."""

    def __init__(self, number: int, text: str) -> None:
        self.number, self.text, self.at = number, text, 0

    @property
    def is_empty(self) -> bool:
        return not self.text.strip() or self.text.lstrip().startswith("#")

    def error(self, expected: str, at: int | None = None) -> GraphError:
        at = self.at if at is None else at
        start = max(0, at - 80)
        shown = self.text[start : at + 40]
        got = repr(self.text[at : at + 20]) if at < len(self.text) else "the end of the line"
        mark = f"here:\n    {shown}\n    {' ' * (at - start)}^"
        return GraphError(
            Diagnostic(where=f"line {self.number}, column {at + 1}", got=got, expected=expected, fix=mark)
        )

    def skip(self) -> None:
        while self.at < len(self.text) and self.text[self.at] in " \t\r":
            self.at += 1

    def peek(self, token: str) -> bool:
        self.skip()
        return self.text.startswith(token, self.at)

    def eat(self, token: str) -> bool:
        if self.peek(token):
            self.at += len(token)
            return True
        return False

    def need(self, token: str) -> None:
        if not self.eat(token):
            raise self.error(repr(token))

    def match(self, pattern: re.Pattern[str]) -> str | None:
        self.skip()
        found = pattern.match(self.text, self.at)
        if found:
            self.at = found.end()
        return found[0] if found else None

    def quoted(self) -> str | None:
        start = self.at
        found = self.match(_QUOTED)
        if found is None:
            return None
        try:
            return str(json.loads(found))
        except ValueError:
            raise self.error("a JSON string", start) from None

    def word(self, what: str) -> str:
        found = self.quoted()
        if found is None:
            found = self.match(_WORD)
        if found is None:
            raise self.error(what)
        return found

    def name(self, what: str) -> str:
        """A word that stands before a colon."""
        found = self.word(what)
        if found.endswith(":"):
            self.at -= 1
            found = found[:-1]
        return found

    def type(self) -> TensorType:
        self.skip()
        start = self.at
        found = self.match(_TYPE)
        if found is None or len(found) > MAX_TEXT_DIM:
            raise self.error("a type such as float32[batch,3]", start)
        try:
            return TensorType.parse(found)
        except ShapeError as error:
            raise self.error(error.expected, start) from error

    def end(self) -> None:
        self.skip()
        if self.at < len(self.text):
            raise self.error("the end of the line")


def _block(lines: list[_Line], at: int) -> tuple[str, Block, int]:
    head = lines[at]
    kind = head.word("block or main")
    if kind not in ("block", "main"):
        raise head.error("block or main", 0)
    name = head.word("the block's name")
    inputs: list[Value] = []
    head.need("(")
    while not head.eat(")"):
        if inputs:
            head.need(",")
        value = head.name("an input's name")
        head.need(":")
        inputs.append(Value(value, head.type()))
    head.end()
    nodes: list[Node] = []
    for line in lines[at + 1 :]:
        at += 1
        if line.text.split(None, 1)[0] == "return":
            line.need("return")
            return kind, Block(name=name, inputs=tuple(inputs), nodes=tuple(nodes), outputs=_values(line)), at + 1
        nodes.append(_node(line))
    raise lines[-1].error(f"a return line for {kind} {name}", len(lines[-1].text))


def _values(line: _Line) -> tuple[str, ...]:
    values = [line.word("a value")]
    while line.eat(","):
        values.append(line.word("a value"))
    line.end()
    return tuple(values)


def _node(line: _Line) -> Node:
    name = line.name("a node's name")
    line.need(":")
    types = [line.type()]
    while line.eat(","):
        types.append(line.type())
    line.need("=")
    op = line.word("an op")
    line.need("(")
    inputs: list[str] = []
    while not line.eat(")"):
        if inputs:
            line.need(",")
        inputs.append("" if line.eat(ABSENT) else line.word("a value, or - for an absent one"))
    attrs, scope, params = _tail(line, _usual_scope(name, op))
    return Node(
        name=name, op=op, inputs=tuple(inputs), types=tuple(types), attrs=attrs, scope=scope, params=params
    )  # fmt: skip


def _tail(line: _Line, scope: str) -> tuple[tuple[tuple[str, Any], ...], str, tuple[tuple[str, str], ...]]:
    """What follows the inputs: attributes, scope, parameters."""
    attrs: list[tuple[str, Any]] = []
    params: list[tuple[str, str]] = []
    line.skip()
    while line.at < len(line.text) and not line.peek("{"):
        key = line.word("an attribute")
        if line.eat("="):
            attrs.append((key, _attr(line)))
        elif key == "in":
            scope = line.word("a scope")
            break
        else:
            raise line.error(f"= and the value of {key}")
        line.skip()
    if line.eat("{"):
        while not line.eat("}"):
            if params:
                line.need(",")
            slot = line.word("a parameter slot")
            line.need("=")
            params.append((slot, line.word("a parameter's name")))
    line.end()
    return tuple(attrs), scope, tuple(params)


def _attr(line: _Line) -> Any:
    if not line.eat("["):
        return _scalar(line)
    items: list[Any] = []
    while not line.eat("]"):
        if items:
            line.need(",")
        items.append(_scalar(line))
    return tuple(items)


def _scalar(line: _Line) -> Any:
    found = line.quoted()
    if found is not None:
        return found
    line.skip()
    start = line.at
    number = line.match(_NUMBER)
    if number is not None and len(number) <= MAX_TEXT_DIM:
        return float(number) if set(number) & set(".eE") else int(number)
    line.at = start
    word = line.match(_DIM)
    if word is None or len(word) > MAX_TEXT_DIM:
        raise line.error("a number, a quoted string, true, false, none or a dimension", start)
    if word in _KEYWORDS:
        return _KEYWORDS[word]
    try:
        return parse_dim(word)
    except ShapeError as error:
        raise line.error(error.expected, start) from error
