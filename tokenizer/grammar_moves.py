"""Taking a token: how an unfinished script goes on, and the steps that finished tokens make."""

from __future__ import annotations  # GrammarState takes its tokens with this file

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from genmad.ir.diagnostics import GenmadError
from genmad.ir.script import (
    Add,
    At,
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
from genmad.tokenizer.grammar_choices import later_calls, within

if TYPE_CHECKING:
    from genmad.tokenizer.grammar import GrammarState, Token


class GrammarError(GenmadError):
    """A token that the grammar does not allow here."""

    exit_code = 5


@dataclass(frozen=True, kw_only=True)
class Pending:
    """The unfinished step or section.

    Attributes:
        verb: the step's first token, or "" between steps; `AT` while a section's calls are named.
        picks: values chosen so far.
        calls: graph tokens of the calls named so far; `span`: `TO` or `ALL` once that is said, then `closed`.
        op: op of REPLACE or ADD.
        mode: COPY or NEW of an added call; while digits are written, the part of the number that they are.
        node: what the step is about, `<output>` for the block's outputs; `slot`: its input, -1 before that is said.
        half: node with several outputs whose output is not said yet.
        settings: finished settings.
        attr: attribute whose value is being written.
        number: the number so far; `digits`: the digits of its unfinished integer.
        part: where in a value: "" before it, `digits`, `channels`, `head_dim`, `like`, `times`, `over`, or `done`.
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


def take_token(state: GrammarState, token: Token) -> GrammarState:
    """The state after a token that fits. Raises `GraphError` where it finishes a step that breaks a shape rule."""
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


def _with(state: GrammarState, **changes: Any) -> GrammarState:
    return replace(state, pending=replace(state.pending, **changes))


def _advance_at(state: GrammarState, token: Token, word: str) -> GrammarState:
    pending = state.pending
    if word in ("TO", "ALL"):
        return _with(state, span=word)
    if word not in ("DO", "SAME"):
        span = "closed" if pending.span == "TO" else pending.span
        return _with(state, calls=(*pending.calls, token.index), span=span)
    chosen = list(pending.calls)
    if pending.span == "ALL":
        callee = state.source.calls[chosen[0]][1]
        chosen = [i for i, (path, block) in state.source.calls.items() if block == callee and within(state, path)]
    elif pending.span == "closed":
        run = [chosen[0], *later_calls(state, chosen[0])]
        chosen = run[: run.index(chosen[1]) + 1]
    step = At(tuple(state.source.calls[i][0] for i in chosen))
    base = state.source.calls[chosen[0]][1] if chosen else state.source.graph.main.name
    edit = state.edit.step(step)
    again = state.last_section if word == "SAME" else ()
    state = replace(
        state, edit=edit, steps=(*state.steps, step), base=base, added=(), section_steps=0, pending=Pending()
    )
    for repeated in again:
        state = _finish(state, repeated)
    return state


def _node_name(state: GrammarState, token: Token, word: str) -> str:
    """The node or block input that a token names, `<output>` for the block's outputs."""
    if word.startswith("new:"):
        return state.added[int(word[4:])]
    ref = state.source.tokens.refs[token.index]
    return "<output>" if ref.kind == "output" else ref.name


def _pick(state: GrammarState, token: Token, word: str) -> tuple[GrammarState, str]:
    """Reads a value of one or two tokens; the name is "" until it is whole."""
    if word.startswith("out:"):
        return _with(state, half=""), f"{state.pending.half}:{word[4:]}"
    name = _node_name(state, token, word)
    node = state.block.by_name.get(name)
    return (_with(state, half=name), "") if node is not None and len(node.types) > 1 else (state, name)


def _advance_picks(state: GrammarState, token: Token, word: str) -> GrammarState:
    state, name = _pick(state, token, word)
    return _with(state, picks=(*state.pending.picks, name)) if name else state


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
    return _advance_picks(state, token, word)


def _advance_add_call(state: GrammarState, token: Token, word: str) -> GrammarState:
    pending = state.pending
    if not pending.node:
        return _with(state, node=_node_name(state, token, word))
    if not pending.mode:
        return _with(state, mode=word)
    return _advance_picks(state, token, word)


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
    state = _advance_picks(state, token, word)
    if len(state.pending.picks) < 2:
        return state
    old, new = state.pending.picks
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
    plain: dict[str, Setting] = {"TRUE": True, "FALSE": False, "NONE": None}
    value = word[4:] if word.startswith("str:") else plain[word]
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


_ADVANCE: dict[str, Callable[[GrammarState, Token, str], GrammarState]] = {
    "SET": _advance_set, "REPLACE": _advance_replace, "ADD": _advance_add, "ADD_CALL": _advance_add_call,
    "REWIRE": _advance_rewire, "USES": _advance_uses, "REMOVE": _advance_remove,
}  # fmt: skip
