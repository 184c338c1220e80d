"""What the graph transformer reads of a graph: one row of integer fields per token, edges, and directed distances.

A token is a block input, a node or a block's output list. Blocks stand one after another, the main block first, so a
layer that is called twelve times is read once, and its twelve calls are twelve tokens of the main block.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from genmad.ir import Block, Graph, Node, OpSet, SymDim, Value, producer
from genmad.tokenizer.text import PromptTokenizer, name_parts
from genmad.tokenizer.vocab import UNKNOWN_OP, Vocab

MAX_TOKENS = 6000
MAX_FIELDS = 16
MAX_NAME_PIECES = 8
NUM_VALUES = 160
EXACT_VALUES = 96
MAX_DISTANCE = 7

# Relation of token i (reader) to token j (read): directed distances inside a block, then between blocks.
REL_SELF = 0
REL_FORWARD = 1  # + distance - 1: i is computed from j
REL_BACKWARD = REL_FORWARD + MAX_DISTANCE
REL_SAME_BLOCK = REL_BACKWARD + MAX_DISTANCE
REL_CALLEE = REL_SAME_BLOCK + 1  # j stands in the block that i calls
REL_CALLER = REL_CALLEE + 1
REL_SIBLING = REL_CALLER + 1  # two calls of one block
REL_OTHER = REL_SIBLING + 1
NUM_RELATIONS = REL_OTHER + 1

# Edge kinds for message passing; each is also used in the reverse direction.
MAX_SLOT = 4
EDGE_CALL_IN = MAX_SLOT
EDGE_CALL_OUT = MAX_SLOT + 1
NUM_EDGE_KINDS = 2 * (MAX_SLOT + 2)

_PSEUDO = (
    "index", "from_end", "siblings", "width_in", "width_out", "spatial", "rank", "users", "calls", "position", "block",
)  # fmt: skip
# Of the call that runs the token's block, where only one does: its place among its siblings (the stage of a CNN).
_CONTAINER = ("stage", "stage_from_end")
FIRST_ATTR_FIELD = len(_PSEUDO) + len(_CONTAINER) + 1


@dataclass(frozen=True, slots=True)
class TokenRef:
    """What a token stands for: `kind` is `input`, `node` or `output`; `name` is "" for the output token."""

    kind: str
    block: str
    name: str


# A token's vocabulary id, its (field, value) pairs and its path.
_Row = tuple[int, list[tuple[str, int]], str]
# One input of a node: block, node, input slot.
Link = tuple[str, str, int]


@dataclass(frozen=True, kw_only=True)
class GraphTokens:
    """Tensors of one graph. N tokens, F = MAX_FIELDS, P = MAX_NAME_PIECES, E edges.

    Attributes:
        refs: N references back to the graph.
        op: [N] vocabulary ids.
        fields, values: [N, F] field ids (0 = none) and value ids.
        pieces: [N, P] SentencePiece ids of the module path, the last parts first, 0 = none.
        names: per token the lower-case forms under which a prompt may name it.
        kinds_said: per token its op and its attributes in words, lower case and without spaces (`batchnorm`, `tanh`).
        layer_index: [N] position among the sibling calls, -1 for others.
        layer_back: [N] the same counted from the end.
        stage_index, stage_back: [N] the same of the one call that runs the token's block, -1 where there is none or
            several.
        edges: [2, E] producer, consumer; kinds: [E].
        relation: [N, N] uint8.
    """

    refs: tuple[TokenRef, ...]
    op: np.ndarray
    fields: np.ndarray
    values: np.ndarray
    pieces: np.ndarray
    names: tuple[frozenset[str], ...]
    kinds_said: tuple[frozenset[str], ...]
    layer_index: np.ndarray
    layer_back: np.ndarray
    stage_index: np.ndarray
    stage_back: np.ndarray
    edges: np.ndarray
    kinds: np.ndarray
    relation: np.ndarray

    @property
    def all_names(self) -> frozenset[str]:
        return frozenset().union(*self.names) if self.names else frozenset()


def value_id(value: Any, vocab: Vocab) -> int:
    """Bucket of an attribute value: exact up to 95, then quarter octaves; fixed buckets for strings and booleans."""
    if isinstance(value, tuple):
        value = value[0] if value else 0
    if value is None:
        return EXACT_VALUES + 62
    if isinstance(value, bool):
        return EXACT_VALUES + 60 + int(value)
    if isinstance(value, SymDim):
        return EXACT_VALUES + 63
    if isinstance(value, (int, float)):
        return _number_id(float(value))
    token = f"str:{value}"
    return EXACT_VALUES + 48 + (vocab.family("str").index(vocab.id(token)) % 12 if token in vocab else 11)


def _number_id(value: float) -> int:
    if value < 0:
        return EXACT_VALUES + 47
    if value != int(value):
        return EXACT_VALUES + 46
    if value < EXACT_VALUES:
        return int(value)
    return EXACT_VALUES + min(int(4 * (np.log2(value) - np.log2(EXACT_VALUES))), 45)


def number_id(value: int) -> int:
    """Bucket of a number that stands in a prompt: the same embedding as an attribute of that value."""
    return _number_id(float(value))


def name_forms(path: str) -> frozenset[str]:
    """Lower-case suffixes of a module path that name it: `h.3.attn` -> attn, 3.attn, h.3.attn."""
    parts = path.lower().split(".")
    forms = {".".join(parts[i:]) for i in range(len(parts))}
    return frozenset(f for f in forms if not f.isdigit())


class GraphReader:
    """Turns graphs into `GraphTokens`; holds the vocabulary, the name tokenizer and the op set."""

    def __init__(self, vocab: Vocab, text: PromptTokenizer, opset: OpSet) -> None:
        self.vocab, self.text, self.opset = vocab, text, opset
        # Attributes stand last: a vocabulary that grows keeps the ids of all fields.
        names = (*_PSEUDO, *_CONTAINER, *(vocab.tokens[i] for i in vocab.family("attr")))
        self._field_ids = {name: i + 1 for i, name in enumerate(names)}

    @property
    def num_fields(self) -> int:
        return len(self._field_ids) + 1

    def read(
        self, graph: Graph, *, masked: frozenset[TokenRef] = frozenset(), hidden: frozenset[Link] = frozenset()
    ) -> GraphTokens:
        """Raises `ValueError` for a graph of more than `MAX_TOKENS` tokens.

        Args:
            masked: nodes whose op, attributes and name are hidden; wiring and output shape stay.
            hidden: links that are left out of edges, distances and widths.
        """
        blocks = tuple(reversed(graph.all_blocks))
        refs: list[TokenRef] = []
        rows: list[_Row] = []
        layer = _layer_positions(graph)
        calls = _call_counts(graph)
        containers = _containers(graph, layer)
        for number, block in enumerate(blocks):
            common = [("block", min(number, 40)), ("calls", calls.get(block.name, 1)), *containers[block.name].fields]
            self._read_block(block, common, containers[block.name].prefix, layer, refs, rows, masked, hidden)
        if len(refs) > MAX_TOKENS:
            raise ValueError(f"a graph of {len(refs)} tokens; at most {MAX_TOKENS}")
        index = {ref: i for i, ref in enumerate(refs)}
        edges, kinds = _edges(blocks, index, hidden)
        fields, values = self._pack_fields(rows)
        nowhere = (-1, -1, 0)
        places = [layer.get((r.block, r.name), nowhere) for r in refs]
        nodes = {(b.name, n.name): n for b in blocks for n in b.nodes}
        return GraphTokens(
            refs=tuple(refs), op=np.array([row[0] for row in rows], np.int32), fields=fields, values=values,
            pieces=np.stack([self._pieces(row[2]) for row in rows]),
            names=tuple(name_forms(row[2]) if row[2] else frozenset() for row in rows),
            kinds_said=tuple(_said(nodes.get((r.block, r.name)), r in masked) for r in refs),
            layer_index=np.array([p[0] for p in places], np.int32),
            layer_back=np.array([p[1] for p in places], np.int32),
            stage_index=np.array([containers[r.block].index for r in refs], np.int32),
            stage_back=np.array([containers[r.block].from_end for r in refs], np.int32), edges=edges, kinds=kinds,
            relation=_relations(blocks, refs, index, hidden),
        )  # fmt: skip

    def _read_block(
        self, block: Block, common: list[tuple[str, int]], prefix: str,
        layer: dict[tuple[str, str], tuple[int, int, int]], refs: list[TokenRef], rows: list[_Row],
        masked: frozenset[TokenRef], hidden: frozenset[Link],
    ) -> None:  # fmt: skip
        blind = {node for name, node, _ in hidden if name == block.name}
        count = len(block.nodes)
        for value in block.inputs:
            refs.append(TokenRef("input", block.name, value.name))
            rows.append((self.vocab.id("INPUT"), [*common, *_type_fields(value)], value.name))
        for position, node in enumerate(block.nodes):
            ref = TokenRef("node", block.name, node.name)
            refs.append(ref)
            pairs = [
                *common,
                ("position", 16 * position // max(count, 1)),
                *self._node_fields(block, node, ref in masked, hidden),
            ]
            if node.name in blind:
                pairs = [pair for pair in pairs if pair[0] != "width_in"]
            if (block.name, node.name) in layer:
                first, last, siblings = layer[(block.name, node.name)]
                pairs += [("index", first), ("from_end", last), ("siblings", siblings)]
            op = self.vocab.id("<mask>") if ref in masked else self.op_id(node)
            rows.append((op, pairs, "" if ref in masked else prefix + node.name))
        refs.append(TokenRef("output", block.name, ""))
        rows.append((self.vocab.id("OUTPUT"), common, ""))

    def op_id(self, node: Node) -> int:
        """The word that stands for what a node does: of an opaque leaf its own, where the vocabulary has one."""
        words = ("CALL",) if node.is_call else (leaf_word(node), f"op:{node.op}")
        return self.vocab.id(next((word for word in words if word in self.vocab), UNKNOWN_OP))

    def _node_fields(self, block: Block, node: Node, masked: bool, hidden: frozenset[Link]) -> list[tuple[str, int]]:
        cut = {(name, slot) for owner, name, slot in hidden if owner == block.name}
        users = sum(use not in cut for out in node.outputs for use in block.users[out])
        pairs = [("users", users), ("rank", node.types[0].rank)]
        pairs.append(("width_out", value_id(_width(node.types[0].shape), self.vocab)))
        if node.inputs and node.inputs[0]:
            pairs.append(("width_in", value_id(_width(block.types[node.inputs[0]].shape), self.vocab)))
        shape = node.types[0].shape
        if len(shape) >= 4:
            pairs.append(("spatial", value_id(shape[-1], self.vocab)))
        for name, value in () if masked else node.attrs:
            pairs.append((f"attr:{name}", value_id(value, self.vocab)))
        return pairs

    def _pack_fields(self, rows: list[_Row]) -> tuple[np.ndarray, np.ndarray]:
        fields = np.zeros((len(rows), MAX_FIELDS), np.int16)
        values = np.zeros((len(rows), MAX_FIELDS), np.int16)
        for i, (_, pairs, _) in enumerate(rows):
            ranked = sorted(pairs, key=lambda p: p[0] in ("position", "block", "users", "calls"))[:MAX_FIELDS]
            for j, (name, value) in enumerate(ranked):
                fields[i, j] = self._field_ids.get(name, 0)
                values[i, j] = min(int(value), NUM_VALUES - 1)
        return fields, values

    def _pieces(self, path: str) -> np.ndarray:
        return np.array(self._piece_ids(".".join(path.split(".")[-3:])), np.int32)

    @lru_cache(maxsize=100_000)  # noqa: B019 - a reader lives as long as the process
    def _piece_ids(self, path: str) -> tuple[int, ...]:
        parts = [p for p in reversed(name_parts(path)) if not p.isdigit()]
        ids = [i for part in parts for i in self.text.pieces(part)][:MAX_NAME_PIECES]
        return (*ids, *(0 for _ in range(MAX_NAME_PIECES - len(ids))))


def leaf_word(node: Node) -> str:
    """The word of an opaque leaf: the function or foreign operator that it keeps, as code names it; "" for others."""
    if node.op == "TorchCall":
        return f"leaf:TorchCall={node.attr_map['target']}"
    if node.op == "OnnxCall":
        domain = node.attr_map.get("domain") or "onnx"
        return f"leaf:OnnxCall={domain}.{node.attr_map['op_type']}"
    return ""


def _said(node: Node | None, masked: bool) -> frozenset[str]:
    """What a prompt may call the node by its kind."""
    if node is None or masked or node.is_call:
        return frozenset()
    words = {node.op.lower(), *(str(v).lower() for _, v in node.attrs if isinstance(v, str) and len(v) < 24)}
    return frozenset(re.sub("[^a-z0-9]", "", word) for word in words)


def _width(shape: tuple[Any, ...]) -> Any:
    return (shape[1] if len(shape) >= 4 else shape[-1]) if shape else 1


def _type_fields(value: Value) -> list[tuple[str, int]]:
    width = _width(value.type.shape)
    return [
        ("rank", value.type.rank),
        ("width_out", _number_id(float(width)) if isinstance(width, int) else EXACT_VALUES + 63),
    ]


def _call_counts(graph: Graph) -> dict[str, int]:
    counts: dict[str, int] = {}
    for block in graph.all_blocks:
        for node in block.nodes:
            if node.is_call:
                counts[node.callee] = counts.get(node.callee, 0) + 1
    return counts


def _layer_positions(graph: Graph) -> dict[tuple[str, str], tuple[int, int, int]]:
    """(block, call) -> position from the front and end, and count, among calls named alike but for the last number."""
    table: dict[tuple[str, str], tuple[int, int, int]] = {}
    for block in graph.all_blocks:
        lists: dict[str, list[str]] = {}
        for node in block.nodes:
            if node.is_call:
                lists.setdefault(re.sub(r"\d+$", "#", node.name), []).append(node.name)
        for names in lists.values():
            for i, name in enumerate(names):
                table[(block.name, name)] = (i, len(names) - 1 - i, len(names))
    return table


def _token_of(block: Block, value: str, index: dict[TokenRef, int]) -> int:
    """Graph token of the node or block input that a value comes from."""
    name = producer(value)
    return index[TokenRef("node" if name in block.by_name else "input", block.name, name)]


@dataclass(frozen=True, slots=True)
class _Container:
    """Of the one call that runs a block: its path in front of the block's names, and its place among its siblings."""

    prefix: str = ""
    index: int = -1
    from_end: int = -1

    @property
    def fields(self) -> list[tuple[str, int]]:
        return [("stage", self.index), ("stage_from_end", self.from_end)] if self.index >= 0 else []


def _containers(graph: Graph, layer: dict[tuple[str, str], tuple[int, int, int]]) -> dict[str, _Container]:
    """By block; empty for the main block and for blocks that several calls run."""
    callers: dict[str, list[tuple[str, Node]]] = {}
    for block in graph.all_blocks:
        for node in block.nodes:
            if node.is_call:
                callers.setdefault(node.callee, []).append((block.name, node))
    found = {graph.main.name: _Container()}
    for block in reversed(graph.blocks):
        if len(callers.get(block.name, ())) != 1:
            found[block.name] = _Container()
            continue
        parent, call = callers[block.name][0]
        prefix = found[parent].prefix + (f"{call.scope}." if call.scope else "")
        first, last, _ = layer.get((parent, call.name), (-1, -1, 0))
        found[block.name] = _Container(prefix, first, last)
    return found


def _edges(
    blocks: Iterable[Block], index: dict[TokenRef, int], hidden: frozenset[Link]
) -> tuple[np.ndarray, np.ndarray]:
    pairs: list[tuple[int, int]] = []
    kinds: list[int] = []

    by_name = {block.name: block for block in blocks}
    for block in by_name.values():
        for node in block.nodes:
            target = index[TokenRef("node", block.name, node.name)]
            for slot, value in enumerate(node.inputs):
                if value and (block.name, node.name, slot) not in hidden:
                    pairs.append((_token_of(block, value, index), target))
                    kinds.append(min(slot, MAX_SLOT - 1))
            if node.is_call:
                callee = by_name[node.callee]
                for entry in callee.inputs[:1]:
                    pairs.append((target, index[TokenRef("input", callee.name, entry.name)]))
                    kinds.append(EDGE_CALL_IN)
                pairs.append((index[TokenRef("output", callee.name, "")], target))
                kinds.append(EDGE_CALL_OUT)
        out = index[TokenRef("output", block.name, "")]
        for slot, value in enumerate(block.outputs):
            pairs.append((_token_of(block, value, index), out))
            kinds.append(min(slot, MAX_SLOT - 1))
    if not pairs:
        return np.zeros((2, 0), np.int32), np.zeros(0, np.int16)
    return np.array(pairs, np.int32).T, np.array(kinds, np.int16)


def _relations(
    blocks: tuple[Block, ...], refs: list[TokenRef], index: dict[TokenRef, int], hidden: frozenset[Link]
) -> np.ndarray:
    """Directed distances inside each block, capped at `MAX_DISTANCE`, and call relations between blocks."""
    total = len(refs)
    relation = np.full((total, total), REL_OTHER, np.uint8)
    spans: dict[str, tuple[int, int]] = {}
    for i, ref in enumerate(refs):
        first, _ = spans.get(ref.block, (i, i))
        spans[ref.block] = (first, i + 1)
    for block in blocks:
        first, last = spans[block.name]
        relation[first:last, first:last] = _block_relations(block, first, last - first, index, hidden)
        calls: dict[str, list[int]] = {}
        for node in block.nodes:
            if node.is_call:
                at = index[TokenRef("node", block.name, node.name)]
                low, high = spans[node.callee]
                relation[at, low:high] = REL_CALLEE
                relation[low:high, at] = REL_CALLER
                calls.setdefault(node.callee, []).append(at)
        for group in calls.values():
            cells = np.ix_(group, group)
            relation[cells] = np.where(relation[cells] == REL_SAME_BLOCK, REL_SIBLING, relation[cells])
    np.fill_diagonal(relation, REL_SELF)
    return relation


def _block_relations(
    block: Block, first: int, count: int, index: dict[TokenRef, int], hidden: frozenset[Link]
) -> np.ndarray:
    adjacency = np.zeros((count, count), bool)
    for node in block.nodes:
        at = index[TokenRef("node", block.name, node.name)] - first
        for slot, value in enumerate(node.inputs):
            if value and (block.name, node.name, slot) not in hidden:
                adjacency[at, _token_of(block, value, index) - first] = True
    for value in block.outputs:
        adjacency[count - 1, _token_of(block, value, index) - first] = True
    out = np.full((count, count), REL_SAME_BLOCK, np.uint8)
    reach = adjacency
    step = adjacency.astype(np.float32)
    for distance in range(1, MAX_DISTANCE + 1):
        fresh = reach & (out == REL_SAME_BLOCK)
        out[fresh] = REL_FORWARD + distance - 1
        out[(fresh.T) & (out == REL_SAME_BLOCK)] = REL_BACKWARD + distance - 1
        if distance < MAX_DISTANCE:
            reach = (reach.astype(np.float32) @ step) > 0
    return out
