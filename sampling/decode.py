"""Decoding a script: one forward step a token, masked by the grammar; nothing is rejected or repaired afterwards."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from genmad.ir import GraphError
from genmad.model import Encoded, GraphTransformer
from genmad.model.collate import KINDS
from genmad.tokenizer import GrammarError, GrammarState, Token

MAX_TOKENS = 250


@dataclass(frozen=True, kw_only=True)
class Written:
    """A finished script.

    Attributes:
        state: the terminated grammar state.
        log_prob: log-likelihood under the grammar-masked model.
        first: probabilities of the first tokens (readings and refusals) by name.
        blocked: where a refusal came at a value, the state before it.
    """

    state: GrammarState
    log_prob: float
    first: dict[str, float]
    blocked: GrammarState | None
    num_tokens: int


def _offsets(state: GrammarState, encoded: Encoded) -> tuple[int, int]:
    words = len(state.vocab)
    return words, words + encoded.nodes_BND.shape[1]


def _token(position: int, words: int, nodes: int) -> Token:
    if position < words:
        return Token("word", position)
    return Token("node", position - words) if position < nodes else Token("text", position - nodes)


def _joint(model: GraphTransformer, encoded: Encoded, hidden: Tensor, state: GrammarState) -> Tensor:
    """Log-probabilities over words, graph tokens and prompt pieces, the grammar's mask applied; [V+N+T]."""
    mask = state.mask()
    words, nodes, texts = (scores[0, -1] for scores in model.logits(encoded, hidden))
    joint = torch.cat([words, nodes, texts]).float()
    allowed = torch.zeros_like(joint, dtype=torch.bool)
    for start, table in ((0, mask.words), (len(words), mask.nodes), (len(words) + len(nodes), mask.texts)):
        allowed[start : start + len(table)] = torch.from_numpy(table)
    return joint.masked_fill(~allowed, -math.inf)


def _choose(
    scores: Tensor, state: GrammarState, encoded: Encoded, temperature: float, rng: torch.Generator
) -> tuple[GrammarState, Token, float]:
    """The next state: the likeliest token that the typed graph allows, or one drawn from the law over such tokens.

    A token that turns out not to be allowed gets probability zero and the rest is renormalised, which is what a mask
    computed for every token in advance would give.
    """
    words, nodes = _offsets(state, encoded)
    scores = scores.clone()
    while torch.isfinite(scores).any():
        law = torch.softmax(scores / max(temperature, 1e-6), 0) if temperature > 0 else None
        position = int(torch.multinomial(law, 1, generator=rng)) if law is not None else int(scores.argmax())
        token = _token(position, words, nodes)
        try:
            after = state.take(token)
        except (GraphError, GrammarError):
            scores[position] = -math.inf
            continue
        return after, token, float(torch.log_softmax(scores, 0)[position])
    token = Token("word", state.vocab.id("ABORT"))
    return state.advance(token), token, -20.0


@torch.no_grad()
def write_script(
    model: GraphTransformer, encoded: Encoded, state: GrammarState, *, temperature: float = 0.0, rng: torch.Generator
) -> Written:
    """Writes one script from the start state; greedy at temperature 0."""
    kind, index = torch.zeros(1, 1, dtype=torch.long), torch.full((1, 1), state.vocab.id("<bos>"))
    past, total, first, blocked = None, 0.0, {}, None
    for step in range(MAX_TOKENS):
        hidden, past = model.decode(encoded, model.embed_script(encoded, kind, index, start=step), past)
        scores = _joint(model, encoded, hidden, state)
        if step == 0:
            law = torch.softmax(scores, 0)
            first = {state.vocab.tokens[i]: float(law[i]) for i in torch.nonzero(law > 0.005).flatten().tolist()}
        if step == MAX_TOKENS - 2 and not state.pending.verb:
            eos = state.vocab.id("<eos>")
            scores = torch.full_like(scores, -math.inf)
            scores[eos] = 0.0
        before = state
        state, token, log_prob = _choose(scores, state, encoded, temperature if step else 0.0, rng)
        total += log_prob
        if state.refusal and not before.refusal and before.pending.verb:
            blocked = before
        if state.is_terminated:
            return Written(state=state, log_prob=total, first=first, blocked=blocked, num_tokens=step + 1)
        kind, index = torch.tensor([[KINDS.index(token.kind)]]), torch.tensor([[token.index]])
    return Written(state=state, log_prob=-math.inf, first=first, blocked=blocked, num_tokens=MAX_TOKENS)
