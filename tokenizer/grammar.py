"""The grammar of edit scripts: which tokens may come next, so that every script that can be written is valid.

    script  := reading section+ <eos> | refuse <eos>
    section := AT [call+ | call TO call | call ALL] (DO step+ | SAME)
    step    := SET node setting+ END | REPLACE node op setting* END | ADD op value+ setting* END
             | ADD_CALL call (COPY|NEW) value+ END | REWIRE node slot (value|NONE) | USES value value | REMOVE node
    setting := attr ( number [TIMES int] [OVER int] | TRUE | FALSE | NONE | choice )
    number  := prompt-number | digit+ END_NUM | OLD | CHANNELS value | HEAD_DIM node | LIKE node
    value   := (node | input | new:k) [out:i]

SAME repeats the steps of the section before, by the names of their nodes, in other blocks: what is done to every layer
of a staged network is written once.

Three costs, three types: `ScriptGrammar` (op set and vocabulary), `SourceGrammar` (plus one graph and one prompt) and
`GrammarState` (one unfinished script). `mask` never changes a state; `advance` gives a new one. Everything is checked
on the typed graph: `mask` (see `grammar_choices`) is cheap and may keep a token that `allows` then refuses;
decoding tries a token (see `grammar_moves`) and takes another where it is refused.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from genmad.ir import Block, Graph, GraphError, OpDef, OpSet, call_places
from genmad.ir.script import At, EditState, Step
from genmad.tokenizer.features import GraphTokens, TokenRef
from genmad.tokenizer.grammar_choices import gather_choices
from genmad.tokenizer.grammar_moves import GrammarError, Pending, take_token
from genmad.tokenizer.text import PromptTokens
from genmad.tokenizer.vocab import Vocab

__all__ = ["GrammarError", "GrammarState", "Mask", "Pending", "ScriptGrammar", "SourceGrammar", "Token"]


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

    def compile(
        self, graph: Graph, tokens: GraphTokens, prompt: PromptTokens, *, at: str = "", reading: str = ""
    ) -> "SourceGrammar":
        """The grammar over one graph and prompt.

        Args:
            at: keeps edits to nodes whose path starts with it.
            reading: the only reading left.
        """
        return SourceGrammar(grammar=self, graph=graph, tokens=tokens, prompt=prompt, at=at, reading=reading)

    @cached_property
    def settable(self) -> Mapping[str, tuple[int, ...]]:
        """Op -> vocabulary ids of its attributes."""
        return {
            name: tuple(
                self.vocab.id(f"attr:{a.name}") for a in op.attrs if a.kind in ("int", "float", "bool", "str", "ints")
            )
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
        found: dict[int, tuple[str, str]] = {}
        for place in call_places(self.graph):
            found.setdefault(
                self.index[TokenRef("node", place.block.name, place.node.name)], (place.path, place.node.callee)
            )
        return found

    @cached_property
    def number_texts(self) -> Mapping[int, int]:
        return self.prompt.number_values


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
    pending: Pending = field(default_factory=Pending)
    aborted: int = 0
    is_terminated: bool = False

    @property
    def vocab(self) -> Vocab:
        return self.source.grammar.vocab

    @property
    def block(self) -> Block:
        return self.edit.current

    @property
    def last_section(self) -> tuple[Step, ...]:
        """The steps since the last section was opened."""
        opened = max((i for i, step in enumerate(self.steps) if isinstance(step, At)), default=len(self.steps))
        return self.steps[opened + 1 :]

    def mask(self) -> Mask:
        """The tokens that fit the grammar here; a step's last token may still be refused by `allows`."""
        choices = gather_choices(self)
        v = np.zeros(len(self.vocab), bool)
        v[[self.vocab.id(w) for w in choices.words]] = True
        n = np.zeros(len(self.source.tokens.refs), bool)
        n[list(choices.nodes)] = True
        t = np.zeros(len(self.source.prompt.ids), bool)
        t[list(choices.texts)] = True
        return Mask(v, n, t)

    def allows(self, token: Token) -> bool:
        """Whether `token` may come next, the shape rules of a step that it finishes included."""
        try:
            self.advance(token)
        except (GrammarError, GraphError):
            return False
        return True

    def advance(self, token: Token) -> "GrammarState":
        """The state after `token`.

        Raises:
            GrammarError: the token does not fit.
            GraphError: the token finishes a step that breaks a shape rule.
        """
        if token not in self.mask() and not self._is_abort(token):
            raise self.misfit(token)
        return self.take(token)

    def take(self, token: Token) -> "GrammarState":
        """`advance` for a token that is known to be in the mask."""
        if self._is_abort(token):
            return replace(self, pending=Pending(), aborted=self.aborted + 1)
        return take_token(self, token)

    def _is_abort(self, token: Token) -> bool:
        return token == Token("word", self.vocab.id("ABORT")) and self.pending.verb != ""

    def misfit(self, token: Token) -> GrammarError:
        """The error to raise for a token that is not in the mask."""
        where = self.pending.verb or "the start of a step"
        return GrammarError(f"token {self.describe(token)} does not fit after {where}")

    def describe(self, token: Token) -> str:
        """The token as a person reads it."""
        if token.kind == "word":
            return self.vocab.tokens[token.index] if token.index < len(self.vocab) else f"id {token.index}"
        if token.kind == "node" and token.index < len(self.source.tokens.refs):
            ref = self.source.tokens.refs[token.index]
            return f"{ref.block}/{ref.name or ref.kind}"
        return f"prompt number at {token.index}"
