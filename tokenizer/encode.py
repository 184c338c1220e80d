"""One graph, one canonical token sequence, and back without loss.

    graph     := block* ; called blocks first, the main block last
    block     := BLOCK (INPUT text)* node* OUTPUT link+
    node      := (op:X | CALL integer) (attr:NAME value)* link* tie* END_NODE
    tie       := TIE integer integer      ; this parameter (or a call's scope) is an earlier one of the block
    link      := LINK integer            ; how many values back the producer is, 0 for an absent input
    value     := NONE | TRUE | FALSE | integer | FLOAT text | str:CHOICE | TEXT text | DIM text | LIST value* END_LIST
    integer   := MINUS? digit+ END_NUM
    text      := byte* END_NUM

The structure holds no names: isomorphic graphs give the same ids, and a repeated block the same run of ids. Names
(of blocks, values, scopes and parameters) are a second sequence, so that decoding gives back the very graph.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genmad.ir import (
    CALL,
    Block,
    Diagnostic,
    Graph,
    GraphBuilder,
    GraphError,
    Node,
    OpSet,
    SymDim,
    TensorType,
    Value,
    canonicalize,
    parse_dim,
)
from genmad.tokenizer.features import GraphReader, GraphTokens
from genmad.tokenizer.text import PromptTokenizer
from genmad.tokenizer.vocab import Vocab

MAX_IDS = 5_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenSequence:
    """Ids of one graph. `structure` is canonical; `names` may be empty, then decoding makes names up."""

    structure: tuple[int, ...]
    names: tuple[int, ...] = ()


class GraphTokenizer:
    """Graphs to ids and back, prompts to pieces, and graphs to the tensors that the model reads."""

    def __init__(self, vocab: Vocab, text: PromptTokenizer, opset: OpSet) -> None:
        self.vocab, self.text, self.opset = vocab, text, opset
        self.reader = GraphReader(vocab, text, opset)

    @staticmethod
    def from_pretrained(folder: str | Path, opset: OpSet) -> "GraphTokenizer":
        """Reads `vocab.json` and `prompt.model`; ids are those of the file, never renumbered."""
        path = Path(folder)
        return GraphTokenizer(Vocab.load(path / "vocab.json"), PromptTokenizer.load(path / "prompt.model"), opset)

    def save_pretrained(self, folder: str | Path) -> None:
        path = Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        self.vocab.save(path / "vocab.json")
        self.text.save(path / "prompt.model")

    def read(self, graph: Graph) -> GraphTokens:
        """The model's tensors of the canonical graph: fields, adjacency, directed distances."""
        return self.reader.read(canonicalize(graph))

    def encode(self, graph: Graph, *, names: bool = True) -> TokenSequence:
        """Ids of the canonical form of `graph`."""
        graph = canonicalize(graph)
        words = [word for number, _ in enumerate(graph.all_blocks) for word in _block_words(graph, number, self.opset)]
        ids = tuple(self._id(word) for word in words)
        side = json.dumps([_names(block) for block in graph.all_blocks], separators=(",", ":")) if names else ""
        return TokenSequence(structure=ids, names=tuple(self.vocab.id(f"byte:{b}") for b in side.encode()))

    def _id(self, word: str) -> int:
        return self.vocab.id(word)

    def decode(self, sequence: TokenSequence) -> Graph:
        """The graph, types inferred anew. Raises `GraphError` for ids that are no graph."""
        if len(sequence.structure) > MAX_IDS:
            got, expected = f"{len(sequence.structure)} ids", f"at most {MAX_IDS}"
            raise GraphError(Diagnostic(where="token sequence", got=got, expected=expected))
        names = None
        if sequence.names:
            try:
                names = json.loads(bytes(int(self.vocab.tokens[i][5:]) for i in sequence.names))
            except (ValueError, IndexError) as error:
                raise GraphError(
                    Diagnostic(where="token names", got=str(error), expected="bytes of a name table")
                ) from error
        return _Reader([self.vocab.tokens[i] for i in sequence.structure], names, self.opset).graph()


def _integer(value: int) -> Iterator[str]:
    if value < 0:
        yield "MINUS"
    yield from (f"digit:{d}" for d in str(abs(value)))
    yield "END_NUM"


def _text(text: str) -> Iterator[str]:
    yield from (f"byte:{b}" for b in text.encode())
    yield "END_NUM"


def _value(value: Any, choices: tuple[str, ...]) -> Iterator[str]:
    if value is None or isinstance(value, bool):
        yield {None: "NONE", True: "TRUE", False: "FALSE"}[value]
    elif isinstance(value, int):
        yield from _integer(value)
    elif isinstance(value, float):
        yield from ("FLOAT", *_text(value.hex()))
    elif isinstance(value, SymDim):
        yield from ("DIM", *_text(str(value)))
    elif isinstance(value, str):
        yield from ([f"str:{value}"] if value in choices else ["TEXT", *_text(value)])
    else:
        yield "LIST"
        for item in value:
            yield from _value(item, choices)
        yield "END_LIST"


def _block_words(graph: Graph, number: int, opset: OpSet) -> Iterator[str]:
    block = graph.all_blocks[number]
    order = {b.name: i for i, b in enumerate(graph.all_blocks)}
    yield "BLOCK"
    position: dict[str, int] = {}
    owned: dict[str, int] = {}
    for value in block.inputs:
        yield from ("INPUT", *_text(str(value.type)))
        position[value.name] = len(position)
    for node in block.nodes:
        yield from _node_words(node, position, order, opset)
        yield from _ties(node, owned)
        yield "END_NODE"
        for out in node.outputs:
            position[out] = len(position)
    yield "OUTPUT"
    for name in block.outputs:
        yield from ("LINK", *_integer(len(position) - position[name]))


def _node_words(node: Node, position: dict[str, int], order: dict[str, int], opset: OpSet) -> Iterator[str]:
    if node.is_call:
        yield from ("CALL", *_integer(order[node.callee]))
    else:
        yield f"op:{node.op}"
        for name, value in node.attrs:
            attr = opset[node.op].attr(name)
            if attr.required or value != attr.default or type(value) is not type(attr.default):
                yield from (f"attr:{name}", *_value(value, attr.choices))
    for name in node.inputs:
        yield from ("LINK", *_integer(len(position) - position[name] if name else 0))


def _ties(node: Node, owned: dict[str, int]) -> Iterator[str]:
    """Parameters that an earlier node of the block owns already, by the order in which they first came."""
    keys = [f"@{node.scope}"] if node.is_call else [name for _, name in node.params]
    for i, key in enumerate(keys):
        if key in owned:
            yield from ("TIE", *_integer(i), *_integer(owned[key]))
        owned.setdefault(key, len(owned))


def _names(block: Block) -> list[Any]:
    nodes = [[n.name, n.scope, [name for _, name in n.params]] for n in block.nodes]
    return [block.name, [v.name for v in block.inputs], nodes]


_FROM_TEXT: dict[str, Callable[[str], Any]] = {"FLOAT": float.fromhex, "TEXT": str, "DIM": parse_dim}


class _Reader:
    """Recursive descent over token strings; every refusal names the position."""

    def __init__(self, words: list[str], names: Any, opset: OpSet) -> None:
        self.words, self.names, self.opset = words, names, opset
        self.at = 0
        self.builder = GraphBuilder(opset)
        self.owned: dict[str, int] = {}

    def refuse(self, expected: str) -> GraphError:
        got = self.words[self.at] if self.at < len(self.words) else "the end"
        return GraphError(Diagnostic(where=f"token sequence, position {self.at}", got=got, expected=expected))

    @property
    def word(self) -> str:
        return self.words[self.at] if self.at < len(self.words) else ""

    def take(self, expected: str) -> str:
        if self.word != expected:
            raise self.refuse(expected)
        self.at += 1
        return expected

    def graph(self) -> Graph:
        made: list[Block] = []
        try:
            while self.at < len(self.words):
                made.append(self.block(made))
        except (LookupError, TypeError, ValueError) as error:
            raise self.refuse("a well-formed sequence with a matching name table") from error
        if not made:
            raise self.refuse("BLOCK")
        return self.builder.build(made[-1])

    def block(self, made: list[Block]) -> Block:
        self.take("BLOCK")
        number = len(made)
        name, inputs, nodes = self.names[number] if self.names else (f"block_{number}", None, None)
        values: list[Value] = []
        while self.word == "INPUT":
            self.at += 1
            label = inputs[len(values)] if inputs else f"x_{len(values)}"
            values.append(Value(label, TensorType.parse(self.text())))
        block = self.builder.block(name, values)
        known = [v.name for v in values]
        count, self.owned = 0, {}
        while self.word != "OUTPUT":
            labels = nodes[count] if nodes is not None else None
            known += self.node(block, known, made, labels)
            count += 1
        self.at += 1
        return block.finish(self.links(known))

    def node(self, block: Any, known: list[str], made: list[Block], labels: Any) -> tuple[str, ...]:
        word, attrs = self.word, {}
        self.at += 1
        if word == "CALL":
            op = CALL + made[self.integer()].name
        elif word.startswith("op:"):
            op = word[3:]
            while self.word.startswith("attr:"):
                name = self.word[5:]
                self.at += 1
                attrs[name] = self.value()
        else:
            self.at -= 1
            raise self.refuse("an op or CALL")
        inputs = self.links(known)
        ties = self.ties()
        self.take("END_NODE")
        name, scope, params = labels if labels is not None else ("", "", None)
        node = block.add_node(op, inputs, attrs, name=name, scope=scope)
        if params is None:
            owned = list(self.owned)
            params = [owned[ties[i]] if i in ties else own for i, (_, own) in enumerate(node.params)]
            if 0 in ties and node.is_call:
                node = block.rename(node, scope=owned[ties[0]][1:])
        if len(params) != len(node.params):
            raise self.refuse(f"{len(node.params)} parameter names")
        node = block.rename(node, params=tuple((slot, own) for (slot, _), own in zip(node.params, params, strict=True)))
        for key in [f"@{node.scope}"] if node.is_call else params:
            self.owned.setdefault(key, len(self.owned))
        return tuple(node.outputs)

    def ties(self) -> dict[int, int]:
        out = {}
        while self.word == "TIE":
            self.at += 1
            out[self.integer()] = self.integer()
        return out

    def links(self, known: list[str]) -> tuple[str, ...]:
        out = []
        while self.word == "LINK":
            self.at += 1
            back = self.integer()
            if back > len(known) or back < 0:
                raise self.refuse(f"a link at most {len(known)} back")
            out.append(known[-back] if back else "")
        return tuple(out)

    def integer(self) -> int:
        sign = 1
        if self.word == "MINUS":
            sign, self.at = -1, self.at + 1
        digits = ""
        while self.word.startswith("digit:"):
            digits += self.word[6:]
            self.at += 1
        if not digits or len(digits) > 19:
            raise self.refuse("one to nineteen digits")
        self.take("END_NUM")
        return sign * int(digits)

    def text(self) -> str:
        data = bytearray()
        while self.word.startswith("byte:"):
            data.append(int(self.word[5:]))
            self.at += 1
        self.take("END_NUM")
        return data.decode()

    def value(self) -> Any:
        word = self.word
        if word in ("NONE", "TRUE", "FALSE"):
            self.at += 1
            return {"NONE": None, "TRUE": True, "FALSE": False}[word]
        if word.startswith("digit:") or word == "MINUS":
            return self.integer()
        self.at += 1
        if word.startswith("str:"):
            return word[4:]
        if word == "LIST":
            items = []
            while self.word != "END_LIST":
                items.append(self.value())
            self.at += 1
            return tuple(items)
        text = self.text() if word in _FROM_TEXT else None
        if text is None:
            self.at -= 1
            raise self.refuse("a value")
        return _FROM_TEXT[word](text)
