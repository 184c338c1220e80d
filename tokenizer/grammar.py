"""The grammar of edit scripts: which tokens may come next, so that every script that can be written runs to a valid graph.

    script  := reading section+ <eos> | refuse <eos>
    section := AT [call+ | call TO call | call ALL] DO step+
    step    := SET node setting+ END | REPLACE node op setting* END | ADD op value+ setting* END
             | ADD_CALL call (COPY|NEW) value+ END | REWIRE node slot (value|NONE) | USES value value | REMOVE node
    setting := attr ( number [TIMES int] [OVER int] | TRUE | FALSE | NONE | choice )
    number  := prompt-number | digit+ END_NUM | OLD | CHANNELS value | HEAD_DIM node | LIKE node
    value   := (node | input | new:k) [out:i]

Three costs, three types: `ScriptGrammar` (op set and vocabulary), `SourceGrammar` (plus one graph and one prompt) and
`GrammarState` (one unfinished script). `mask` never changes a state; `advance` gives a new one. Everything is checked on the typed
graph: `mask` is cheap and may keep a token that `allows` then refuses; decoding asks `allows` before it takes a token.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from genmad.ir import Block, Graph, GraphError, Node, OpDef, OpSet, ShapeError, places
from genmad.ir.diagnostics import GenmadError
from genmad.ir.script import (
    Add,
    At,
    EditState,
    Number,
    Remove,
    Replace,
    ReplaceUses,
    Rewire,
    SetAttrs,
    Setting,
    Step,
    ancestors,
    fresh_name,
)
from genmad.tokenizer.features import GraphTokens, TokenRef
from genmad.tokenizer.text import PromptTokens
from genmad.tokenizer.vocab import MAX_ADDED, MAX_SLOTS, Vocab

MAX_STEPS = 64
MAX_DIGITS = 7


class GrammarError(GenmadError):
    """A token that the grammar does not allow here."""

    exit_code = 5


@dataclass(frozen=True, slots=True)
class Token:
    """One script token: `kind` is `word` (vocabulary id), `node` (graph token) or `text` (prompt piece)."""

    kind: str
    index: int


@dataclass(frozen=True, slots=True)
class Mask:
    """What may come next: [V] vocabulary ids, [N] graph tokens, [T] prompt pieces."""

    words: np.ndarray
    nodes: np.ndarray
    texts: np.ndarray

    def __contains__(self, token: Token) -> bool:
        table = {"word": self.words, "node": self.nodes, "text": self.texts}[token.kind]
        return bool(0 <= token.index < len(table) and table[token.index])

    def tokens(self) -> list[Token]:
        kinds = (("word", self.words), ("node", self.nodes), ("text", self.texts))
        return [Token(kind, int(i)) for kind, table in kinds for i in np.flatnonzero(table)]


@dataclass(frozen=True, kw_only=True)
class ScriptGrammar:
    """The op set read through a vocabulary."""

    vocab: Vocab
    opset: OpSet

    def compile(self, graph: Graph, tokens: GraphTokens, prompt: PromptTokens, *, at: str = "", reading: str = "") -> "SourceGrammar":
        """The grammar over one graph and prompt. `at` keeps edits to nodes whose path starts with it; `reading` forces one."""
        return SourceGrammar(grammar=self, graph=graph, tokens=tokens, prompt=prompt, at=at, reading=reading)

    @cached_property
    def settable(self) -> Mapping[str, tuple[int, ...]]:
        """Op -> vocabulary ids of its attributes."""
        return {
            name: tuple(self.vocab.id(f"attr:{a.name}") for a in op.attrs if a.kind in ("int", "float", "bool", "str", "ints"))
            for name, op in self.opset.items()
        }

    @cached_property
    def replacements(self) -> Mapping[int, tuple[str, ...]]:
        """Number of inputs -> ops that take so many and no free-form attributes."""
        return {n: tuple(name for name, op in self.opset.items() if _takes(op, n)) for n in range(9)}


def _takes(op: OpDef, count: int) -> bool:
    if any(a.required and a.kind in ("dims", "dim", "any", "floats") for a in op.attrs) or not op.inputs:
        return False
    return op.min_inputs <= count and (op.max_inputs is None or count <= op.max_inputs)


@dataclass(frozen=True, kw_only=True)
class SourceGrammar:
    """The grammar over one source graph and one prompt."""

    grammar: ScriptGrammar
    graph: Graph
    tokens: GraphTokens
    prompt: PromptTokens
    at: str = ""
    reading: str = ""

    def start(self) -> "GrammarState":
        return GrammarState(source=self, edit=EditState.start(self.graph, self.grammar.opset))

    @cached_property
    def index(self) -> Mapping[TokenRef, int]:
        return {ref: i for i, ref in enumerate(self.tokens.refs)}

    @cached_property
    def by_block(self) -> Mapping[str, tuple[int, ...]]:
        table: dict[str, list[int]] = {}
        for i, ref in enumerate(self.tokens.refs):
            table.setdefault(ref.block, []).append(i)
        return {name: tuple(ids) for name, ids in table.items()}

    @cached_property
    def calls(self) -> Mapping[int, tuple[str, str]]:
        """Graph token of a call -> (its path, the block it calls), in execution order."""
        found = {}
        for place in places(self.graph):
            if place.node.is_call:
                found.setdefault(self.index[TokenRef("node", place.block.name, place.node.name)], (place.path, place.node.callee))
        return found

    @cached_property
    def number_texts(self) -> Mapping[int, int]:
        return self.prompt.number_values


@dataclass(frozen=True, kw_only=True)
class Pending:
    """The unfinished step or section.

    Attributes:
        verb: the step's first token, or "" between steps; `AT` while a section's calls are named.
        picks: graph tokens or value names chosen so far.
        op: op of REPLACE or ADD.
        settings: finished settings.
        attr: attribute whose value is being written.
        base: the number so far, digits as a string; `part`: `` (before a base), `digits`, `done`, `times`, `over`.
    """

    verb: str = ""
    picks: tuple[str, ...] = ()
    calls: tuple[int, ...] = ()
    span: str = ""
    op: str = ""
    mode: str = ""
    node: str = ""
    slot: int = -1
    half: str = ""
    settings: tuple[tuple[str, Setting], ...] = ()
    attr: str = ""
    number: Number | None = None
    digits: str = ""
    part: str = ""


@dataclass(frozen=True, kw_only=True)
class GrammarState:
    """One unfinished script over one source graph. Frozen: `advance` gives the next state, so a fork is free.

    Attributes:
        edit: the graph after the finished steps.
        steps: the finished steps.
        base: the source block whose tokens stand for the nodes of the section's block.
        added: names of the nodes added in this section, `new:0` first.
        is_terminated: after `<eos>`.
    """

    source: SourceGrammar
    edit: EditState
    steps: tuple[Step, ...] = ()
    reading: str = ""
    refusal: str = ""
    base: str = ""
    added: tuple[str, ...] = ()
    section_steps: int = 0
    pending: Pending = Pending()
    aborted: int = 0
    is_terminated: bool = False

    @property
    def vocab(self) -> Vocab:
        return self.source.grammar.vocab

    @property
    def block(self) -> Block:
        return self.edit.current

    def mask(self) -> Mask:
        """The tokens that fit the grammar here; a step's last token may still be refused by `allows`."""
        words: set[str] = set()
        nodes: set[int] = set()
        texts: set[int] = set()
        if not self.is_terminated:
            _fill(self, words, nodes, texts)
        v = np.zeros(len(self.vocab), bool)
        v[[self.vocab.id(w) for w in words]] = True
        n = np.zeros(len(self.source.tokens.refs), bool)
        n[list(nodes)] = True
        t = np.zeros(len(self.source.prompt.ids), bool)
        t[list(texts)] = True
        return Mask(v, n, t)

    def allows(self, token: Token) -> bool:
        """Whether `token` may come next, the shape rules of a step that it finishes included."""
        try:
            self.advance(token)
        except (GrammarError, GraphError):
            return False
        return True

    def advance(self, token: Token) -> "GrammarState":
        """The state after `token`. Raises `GrammarError` or, where it finishes a step that breaks a shape rule, `GraphError`."""
        if token not in self.mask() and not self._is_abort(token):
            raise GrammarError(f"token {self.describe(token)} does not fit after {self.pending.verb or 'the start of a step'}")
        return self.take(token)

    def take(self, token: Token) -> "GrammarState":
        """`advance` for a token that is known to be in the mask."""
        if self._is_abort(token):
            return replace(self, pending=Pending(), aborted=self.aborted + 1)
        return _advance(self, token)

    def _is_abort(self, token: Token) -> bool:
        return token == Token("word", self.vocab.id("ABORT")) and self.pending.verb != ""

    def describe(self, token: Token) -> str:
        """The token as a person reads it."""
        if token.kind == "word":
            return self.vocab.tokens[token.index] if token.index < len(self.vocab) else f"id {token.index}"
        if token.kind == "node" and token.index < len(self.source.tokens.refs):
            ref = self.source.tokens.refs[token.index]
            return f"{ref.block}/{ref.name or ref.kind}"
        return f"prompt number at {token.index}"


def _fill(state: GrammarState, words: set[str], nodes: set[int], texts: set[int]) -> None:
    pending = state.pending
    if state.refusal:
        words.add("<eos>")
    elif not state.reading:
        forced = state.source.reading
        words.update([f"reading:{forced}"] if forced else (state.vocab.tokens[i] for i in state.vocab.family("reading")))
        words.update(state.vocab.tokens[i] for i in state.vocab.family("refuse"))
    elif pending.verb:
        _FILL[pending.verb](state, words, nodes, texts)
    else:
        _fill_between(state, words)


def _fill_between(state: GrammarState, words: set[str]) -> None:
    if state.base and state.section_steps < MAX_STEPS:
        words.update(("SET", "REPLACE", "ADD", "REWIRE", "USES", "REMOVE"))
        if any(n.is_call for n in state.block.nodes):
            words.add("ADD_CALL")
        if len(state.added) >= MAX_ADDED:
            words.difference_update(("ADD", "ADD_CALL"))
    if not state.base or state.section_steps:
        if len(state.steps) < 4 * MAX_STEPS:
            words.add("AT")
    if state.section_steps or state.aborted:
        words.add("<eos>")


def _within(state: GrammarState, path: str) -> bool:
    at = state.source.at
    return not at or path == at or path.startswith(at + ".") or at.startswith(path + ".")


def _fill_at(state: GrammarState, words: set[str], nodes: set[int], texts: set[int]) -> None:
    pending, calls = state.pending, state.source.calls
    if pending.span:
        if pending.span == "TO":
            nodes.update(_later(state, pending.calls[-1]))
        else:
            words.add("DO")
        return
    if not pending.calls:
        words.add("DO")
        running = {place.path for place in places(state.edit.graph) if place.node.is_call}
        nodes.update(i for i, (path, _) in calls.items() if path in running and _within(state, path))
        return
    words.add("DO")
    later = _later(state, pending.calls[-1])
    nodes.update(later)
    if len(pending.calls) == 1 and later:
        words.update(("TO", "ALL"))


def _later(state: GrammarState, call: int) -> list[int]:
    """Calls of the same block that run after `call`."""
    order = list(state.source.calls)
    callee = state.source.calls[call][1]
    return [i for i in order[order.index(call) + 1 :] if state.source.calls[i][1] == callee]


def _alive(state: GrammarState) -> Iterable[tuple[int, TokenRef]]:
    """Graph tokens of the section's block whose nodes are still there."""
    block = state.block
    inputs = {v.name for v in block.inputs}
    for i in state.source.by_block.get(state.base, ()):
        ref = state.source.tokens.refs[i]
        if ref.kind == "output" or (ref.kind == "input" and ref.name in inputs) or ref.name in block.by_name:
            yield i, ref


def _fill_ops(state: GrammarState, nodes: set[int], *, calls: bool = False, attrs: bool = False) -> None:
    settable = state.source.grammar.settable
    for i, ref in _alive(state):
        if ref.kind != "node":
            continue
        node = state.block.by_name[ref.name]
        if node.is_call != calls or (attrs and not settable.get(node.op)):
            continue
        if _within(state, state.edit.prefix + ref.name) or _within_layer(state):
            nodes.add(i)


def _within_layer(state: GrammarState) -> bool:
    """Whether the open section lies wholly inside `--at`."""
    at = state.source.at
    return not at or (state.edit.prefix + "x").startswith(at + ".")


def _fill_values(state: GrammarState, words: set[str], nodes: set[int]) -> None:
    nodes.update(i for i, ref in _alive(state) if ref.kind != "output")
    words.update(f"new:{k}" for k, name in enumerate(state.added) if name in state.block.by_name)


def _fill_half(state: GrammarState, words: set[str]) -> bool:
    """A node with several outputs was named as a value: which output?"""
    if not state.pending.half:
        return False
    count = len(state.block.by_name[state.pending.half].types)
    words.update(f"out:{i}" for i in range(min(count, MAX_SLOTS)))
    return True


def _fill_set(state: GrammarState, words: set[str], nodes: set[int], texts: set[int]) -> None:
    pending = state.pending
    if not pending.node:
        _fill_ops(state, nodes, attrs=True)
    elif not _fill_setting(state, words, nodes, texts, state.block.by_name[pending.node].op) and pending.settings:
        words.add("END")


def _fill_replace(state: GrammarState, words: set[str], nodes: set[int], texts: set[int]) -> None:
    pending = state.pending
    if not pending.node:
        _fill_ops(state, nodes)
    elif not pending.op:
        node = state.block.by_name[pending.node]
        fitting = state.source.grammar.replacements.get(len(node.inputs), ())
        words.update(f"op:{name}" for name in fitting if name != node.op and f"op:{name}" in state.vocab)
    elif not _fill_setting(state, words, nodes, texts, pending.op):
        words.add("END")


def _fill_add(state: GrammarState, words: set[str], nodes: set[int], texts: set[int]) -> None:
    pending = state.pending
    if not pending.op:
        fitting = {name for n in range(1, 5) for name in state.source.grammar.replacements[n]}
        words.update(f"op:{name}" for name in fitting if f"op:{name}" in state.vocab)
        return
    if _fill_half(state, words):
        return
    opdef = state.source.grammar.opset[pending.op]
    if not pending.attr and not pending.settings:
        if opdef.max_inputs is None or len(pending.picks) < opdef.max_inputs:
            _fill_values(state, words, nodes)
    if len(pending.picks) >= max(opdef.min_inputs, 1) and not _fill_setting(state, words, nodes, texts, pending.op):
        words.add("END")


def _fill_add_call(state: GrammarState, words: set[str], nodes: set[int], texts: set[int]) -> None:
    pending = state.pending
    if not pending.node:
        _fill_ops(state, nodes, calls=True)
        for i in list(nodes):
            callee = state.source.calls[i][1] if i in state.source.calls else ""
            if callee and any(n.is_call for n in state.source.graph.block_map[callee].nodes):
                nodes.discard(i)
    elif not pending.mode:
        words.update(("COPY", "NEW"))
    elif not _fill_half(state, words):
        if len(pending.picks) < len(state.block.by_name[pending.node].inputs):
            _fill_values(state, words, nodes)
        else:
            words.add("END")


def _fill_rewire(state: GrammarState, words: set[str], nodes: set[int], texts: set[int]) -> None:
    pending = state.pending
    if not pending.node:
        nodes.update(i for i, ref in _alive(state) if ref.kind != "input")
        words.update(f"new:{k}" for k, name in enumerate(state.added) if name in state.block.by_name)
    elif pending.slot < 0:
        count = len(state.block.outputs) if pending.node == "<output>" else _slots(state, pending.node)
        words.update(f"slot:{i}" for i in range(min(count, MAX_SLOTS)))
    elif not _fill_half(state, words):
        _fill_values(state, words, nodes)
        if pending.node != "<output>":
            words.add("NONE")


def _slots(state: GrammarState, name: str) -> int:
    node = state.block.by_name[name]
    opdef = state.source.grammar.opset.get(node.op)
    most = opdef.max_inputs if opdef is not None and opdef.max_inputs is not None else len(node.inputs)
    return max(most, len(node.inputs))


def _fill_uses(state: GrammarState, words: set[str], nodes: set[int], texts: set[int]) -> None:
    if not _fill_half(state, words):
        _fill_values(state, words, nodes)


def _fill_remove(state: GrammarState, words: set[str], nodes: set[int], texts: set[int]) -> None:
    _fill_ops(state, nodes)
    _fill_ops(state, nodes, calls=True)


def _fill_setting(state: GrammarState, words: set[str], nodes: set[int], texts: set[int], op: str) -> bool:
    """Tokens of a setting; True while one is unfinished, so that the step cannot end."""
    pending = state.pending
    if not pending.attr:
        chosen = {name for name, _ in pending.settings}
        words.update(t for i in state.source.grammar.settable[op] if (t := state.vocab.tokens[i])[5:] not in chosen)
        return False
    if pending.part == "digits":
        if len(pending.digits) < MAX_DIGITS:
            words.update(f"digit:{d}" for d in range(10))
        if pending.digits:
            words.add("END_NUM")
        return True
    if pending.part in ("times", "over"):
        _fill_int(state, words, texts)
        return True
    if pending.part == "channels":
        if not _fill_half(state, words):
            _fill_values(state, words, nodes)
        return True
    if pending.part in ("head_dim", "like"):
        wanted = "num_heads" if pending.part == "head_dim" else pending.attr
        nodes.update(i for i, ref in _alive(state) if ref.kind == "node" and _has(state.block.by_name[ref.name], wanted))
        return True
    if pending.part == "done":
        if pending.number is not None and pending.number.times == 1 and pending.number.over == 1:
            words.update(("TIMES", "OVER"))
        elif pending.number is not None and pending.number.over == 1:
            words.add("OVER")
        words.update(t for i in state.source.grammar.settable[op] if (t := state.vocab.tokens[i])[5:] not in _chosen(pending))
        words.add("END")
        return True
    _fill_value(state, words, texts, op)
    return True


def _has(node: Node, attr: str) -> bool:
    return node.attr_map.get(attr) is not None


def _chosen(pending: Pending) -> set[str]:
    return {name for name, _ in pending.settings} | {pending.attr}


def _fill_int(state: GrammarState, words: set[str], texts: set[int]) -> None:
    words.update(f"digit:{d}" for d in range(1, 10))
    texts.update(i for i, n in state.source.number_texts.items() if n > 0)


def _fill_value(state: GrammarState, words: set[str], texts: set[int], op: str) -> None:
    pending = state.pending
    attr = state.source.grammar.opset[op].attr(pending.attr)
    if attr.optional or (not attr.required and attr.default is None):
        words.add("NONE")
    if attr.kind == "bool":
        words.update(("TRUE", "FALSE"))
    elif attr.kind == "str":
        words.update(f"str:{c}" for c in attr.choices if f"str:{c}" in state.vocab)
    else:
        words.update(f"digit:{d}" for d in range(10))
        words.update(("CHANNELS", "HEAD_DIM"))
    if attr.kind != "bool":
        words.add("LIKE")
    if attr.kind not in ("bool", "str"):
        if pending.verb == "SET":
            words.add("OLD")
        texts.update(i for i, n in state.source.number_texts.items() if _number_fits(state, n))
        words.update(state.vocab.tokens[i] for i in state.vocab.family("refuse"))


def _number_fits(state: GrammarState, number: int) -> bool:
    """Whether a prompt's number can be this attribute: in range, and for SET right for the whole graph."""
    pending = state.pending
    op = state.block.by_name[pending.node].op if pending.verb == "SET" else pending.op
    attr = state.source.grammar.opset[op].attr(pending.attr)
    try:
        attr.check((number,) if attr.kind == "ints" else number)
        if pending.verb == "SET":
            settings = (*pending.settings, (pending.attr, Number.of(number)))
            state.edit.step(SetAttrs(pending.node, settings))
    except (GraphError, ShapeError):
        return False
    return True


_FILL = {
    "AT": _fill_at, "SET": _fill_set, "REPLACE": _fill_replace, "ADD": _fill_add, "ADD_CALL": _fill_add_call,
    "REWIRE": _fill_rewire, "USES": _fill_uses, "REMOVE": _fill_remove,
}  # fmt: skip


def _advance(state: GrammarState, token: Token) -> GrammarState:
    word = state.vocab.tokens[token.index] if token.kind == "word" else ""
    pending = state.pending
    if word.startswith("reading:"):
        return replace(state, reading=word[8:])
    if word.startswith("refuse:"):
        return replace(state, refusal=word[7:], pending=Pending())
    if word == "<eos>":
        return replace(state, edit=state.edit.close(), is_terminated=True)
    if not pending.verb:
        return replace(state, pending=Pending(verb=word))
    if pending.verb == "AT":
        return _advance_at(state, token, word)
    if word == "END":
        return _finish(state, _step_of(state))
    return _ADVANCE[pending.verb](state, token, word)


def _with(state: GrammarState, **changes: object) -> GrammarState:
    return replace(state, pending=replace(state.pending, **changes))  # type: ignore[arg-type]


def _advance_at(state: GrammarState, token: Token, word: str) -> GrammarState:
    pending = state.pending
    if word in ("TO", "ALL"):
        return _with(state, span=word)
    if word != "DO":
        span = "closed" if pending.span == "TO" else pending.span
        return _with(state, calls=(*pending.calls, token.index), span=span)
    chosen = list(pending.calls)
    if pending.span == "ALL":
        callee = state.source.calls[chosen[0]][1]
        chosen = [i for i, (_, block) in state.source.calls.items() if block == callee]
    elif pending.span == "closed":
        run = [chosen[0], *_later(state, chosen[0])]
        chosen = run[: run.index(chosen[1]) + 1]
    step = At(tuple(state.source.calls[i][0] for i in chosen))
    base = state.source.calls[chosen[0]][1] if chosen else state.source.graph.main.name
    edit = state.edit.step(step)
    return replace(state, edit=edit, steps=(*state.steps, step), base=base, added=(), section_steps=0, pending=Pending())


def _value_name(state: GrammarState, token: Token, word: str) -> tuple[str, bool]:
    """The value or node that a token names, and whether `out:i` must follow."""
    if word.startswith("new:"):
        name = state.added[int(word[4:])]
    else:
        name = state.source.tokens.refs[token.index].name
    node = state.block.by_name.get(name)
    return name, node is not None and len(node.types) > 1


def _node_name(state: GrammarState, token: Token, word: str) -> str:
    if word.startswith("new:"):
        return state.added[int(word[4:])]
    ref = state.source.tokens.refs[token.index]
    return "<output>" if ref.kind == "output" else ref.name


def _pick(state: GrammarState, token: Token, word: str) -> tuple[GrammarState, str]:
    """Reads a value of one or two tokens; the name is "" until it is whole."""
    if word.startswith("out:"):
        return _with(state, half=""), f"{state.pending.half}:{word[4:]}"
    name, more = _value_name(state, token, word)
    return (_with(state, half=name), "") if more else (state, name)


def _advance_set(state: GrammarState, token: Token, word: str) -> GrammarState:
    if not state.pending.node:
        return _with(state, node=_node_name(state, token, word))
    return _advance_setting(state, token, word)


def _advance_replace(state: GrammarState, token: Token, word: str) -> GrammarState:
    pending = state.pending
    if not pending.node:
        return _with(state, node=_node_name(state, token, word))
    if not pending.op:
        return _with(state, op=word[3:])
    return _advance_setting(state, token, word)


def _advance_add(state: GrammarState, token: Token, word: str) -> GrammarState:
    pending = state.pending
    if not pending.op:
        return _with(state, op=word[3:])
    if pending.attr or word.startswith("attr:"):
        return _advance_setting(state, token, word)
    state, name = _pick(state, token, word)
    return _with(state, picks=(*state.pending.picks, name)) if name else state


def _advance_add_call(state: GrammarState, token: Token, word: str) -> GrammarState:
    pending = state.pending
    if not pending.node:
        return _with(state, node=_node_name(state, token, word))
    if not pending.mode:
        return _with(state, mode=word)
    state, name = _pick(state, token, word)
    return _with(state, picks=(*state.pending.picks, name)) if name else state


def _advance_rewire(state: GrammarState, token: Token, word: str) -> GrammarState:
    pending = state.pending
    if not pending.node:
        return _with(state, node=_node_name(state, token, word))
    if pending.slot < 0:
        return _with(state, slot=int(word[5:]))
    name = ""
    if word != "NONE":
        state, name = _pick(state, token, word)
        if not name:
            return state
    return _finish(state, Rewire("" if pending.node == "<output>" else pending.node, pending.slot, name))


def _advance_uses(state: GrammarState, token: Token, word: str) -> GrammarState:
    state, name = _pick(state, token, word)
    if not name:
        return state
    picks = (*state.pending.picks, name)
    if len(picks) < 2:
        return _with(state, picks=picks)
    old, new = picks
    types = state.block.types
    if types[old] != types[new] or old == new:
        raise GrammarError(f"{new} cannot stand for {old}: {types[new]} is not {types[old]}")
    if not ancestors(state.block, new) & {v.name for v in state.block.inputs}:
        raise GrammarError(f"{new} does not depend on the block's inputs")
    return _finish(state, ReplaceUses(old, new))


def _advance_remove(state: GrammarState, token: Token, word: str) -> GrammarState:
    return _finish(state, Remove(_node_name(state, token, word)))


def _advance_setting(state: GrammarState, token: Token, word: str) -> GrammarState:
    """One token of `attr value`."""
    pending = state.pending
    if word.startswith("attr:"):
        return _with(_flush(state), attr=word[5:], part="", number=None, digits="")
    if pending.part == "channels":
        state, name = _pick(state, token, word)
        return _with(state, number=Number("channels", ref=name), part="done") if name else state
    if pending.part in ("head_dim", "like"):
        return _with(state, number=Number(pending.part, ref=_node_name(state, token, word)), part="done")
    if word in ("CHANNELS", "HEAD_DIM", "LIKE", "TIMES", "OVER"):
        return _with(state, part=word.lower())
    if word == "OLD":
        return _with(state, number=Number("old"), part="done")
    if word.startswith("digit:"):
        mode = pending.mode if pending.part == "digits" else pending.part or "base"
        return _with(state, digits=pending.digits + word[6:], part="digits", mode=mode)
    if word == "END_NUM":
        return _with(_set_int(state, int(pending.digits), pending.mode), digits="", mode="")
    if token.kind == "text":
        return _set_int(state, state.source.number_texts[token.index], pending.part)
    value: Setting = {"TRUE": True, "FALSE": False, "NONE": None}.get(word, word[4:] if word.startswith("str:") else None)
    settings = (*pending.settings, (pending.attr, value))
    return _with(state, settings=settings, attr="")


def _set_int(state: GrammarState, value: int, part: str) -> GrammarState:
    """A whole integer: the base of the number, its multiplier or its divisor."""
    number = state.pending.number
    if part == "times" and number is not None:
        made = replace(number, times=value)
    elif part == "over" and number is not None:
        made = replace(number, over=max(value, 1))
    else:
        made = Number.of(value)
    return _with(state, number=made, part="done")


def _flush(state: GrammarState) -> GrammarState:
    """Moves a finished number into the settings."""
    pending = state.pending
    if not pending.attr:
        return state
    return _with(state, settings=(*pending.settings, (pending.attr, pending.number)), attr="", number=None, part="")


def _step_of(state: GrammarState) -> Step:
    state = _flush(state)
    pending = state.pending
    if pending.verb == "SET":
        return SetAttrs(pending.node, pending.settings)
    if pending.verb == "REPLACE":
        return Replace(pending.node, pending.op, pending.settings)
    if pending.verb == "ADD":
        return Add(fresh_name(state.block, pending.op, pending.picks), pending.op, pending.picks, pending.settings)
    op = state.block.by_name[pending.node].op
    name = fresh_name(state.block, op, pending.picks, like=pending.node)
    return Add(name, op, pending.picks, like=pending.node, weights="copy" if pending.mode == "COPY" else "new")


def _finish(state: GrammarState, step: Step) -> GrammarState:
    """Runs a whole step. Raises `GraphError` where it breaks a shape rule."""
    edit = state.edit.step(step)
    added = (*state.added, step.name) if isinstance(step, Add) else state.added
    count = state.section_steps + 1
    return replace(state, edit=edit, steps=(*state.steps, step), added=added, section_steps=count, pending=Pending())


_ADVANCE = {
    "SET": _advance_set, "REPLACE": _advance_replace, "ADD": _advance_add, "ADD_CALL": _advance_add_call,
    "REWIRE": _advance_rewire, "USES": _advance_uses, "REMOVE": _advance_remove,
}  # fmt: skip
