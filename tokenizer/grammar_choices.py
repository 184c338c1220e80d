"""What may come next in an edit script: the tokens that fit the typed graph of an unfinished script."""

from __future__ import annotations  # GrammarState fills its masks with this file

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from genmad.ir import GraphError, Node, ShapeError, call_places
from genmad.ir.script import Number, Replace, SetAttrs, Settings
from genmad.tokenizer.vocab import MAX_ADDED, MAX_SLOTS

if TYPE_CHECKING:
    from genmad.tokenizer.features import TokenRef
    from genmad.tokenizer.grammar import GrammarState

MAX_STEPS = 64
MAX_DIGITS = 7


@dataclass(slots=True)
class Choices:
    """The tokens that may come next, gathered: vocabulary words, graph tokens, prompt pieces."""

    words: set[str] = field(default_factory=set)
    nodes: set[int] = field(default_factory=set)
    texts: set[int] = field(default_factory=set)


def gather_choices(state: GrammarState) -> Choices:
    """The tokens that fit; the last token of a step may still break a shape rule."""
    choices, vocab = Choices(), state.vocab
    if state.is_terminated:
        return choices
    if state.refusal:
        choices.words.add("<eos>")
    elif not state.reading:
        forced = state.source.reading
        readings = [f"reading:{forced}"] if forced else [vocab.tokens[i] for i in vocab.family("reading")]
        choices.words.update(readings, (vocab.tokens[i] for i in vocab.family("refuse")))
    elif state.pending.verb:
        _FILL[state.pending.verb](state, choices)
    else:
        _fill_between(state, choices)
    return choices


def _fill_between(state: GrammarState, choices: Choices) -> None:
    if state.base and state.section_steps < MAX_STEPS:
        choices.words.update(("SET", "REPLACE", "ADD", "REWIRE", "USES", "REMOVE"))
        if any(n.is_call for n in state.block.nodes):
            choices.words.add("ADD_CALL")
        if len(state.added) >= MAX_ADDED:
            choices.words.difference_update(("ADD", "ADD_CALL"))
    if (not state.base or state.section_steps) and len(state.steps) < 4 * MAX_STEPS:
        choices.words.add("AT")
    if state.section_steps or state.aborted:
        choices.words.add("<eos>")


def within(state: GrammarState, path: str) -> bool:
    """Whether `--at` lets an edit touch this path: inside it, or on the way to it."""
    at = state.source.at
    return not at or path == at or path.startswith(at + ".") or at.startswith(path + ".")


def _within_layer(state: GrammarState) -> bool:
    """Whether the open section lies wholly inside `--at`."""
    at = state.source.at
    return not at or (state.edit.prefix + "x").startswith(at + ".")


def _fill_at(state: GrammarState, choices: Choices) -> None:
    pending, calls = state.pending, state.source.calls
    if pending.span == "TO":
        choices.nodes.update(later_calls(state, pending.calls[-1]))
        return
    choices.words.update(("DO", "SAME") if state.last_section and not state.source.at else ("DO",))
    if pending.span:
        return
    if not pending.calls:
        same = state.edit.graph is state.source.graph
        running = None if same else {place.path for place in call_places(state.edit.graph)}
        choices.nodes.update(
            i for i, (path, _) in calls.items() if (running is None or path in running) and within(state, path)
        )
        return
    later = later_calls(state, pending.calls[-1])
    choices.nodes.update(later)
    if len(pending.calls) == 1 and later:
        choices.words.update(("TO", "ALL"))


def later_calls(state: GrammarState, call: int) -> list[int]:
    """Graph tokens of the calls of the same block that run after `call`, those outside `--at` left out."""
    order, calls = list(state.source.calls), state.source.calls
    callee = calls[call][1]
    return [i for i in order[order.index(call) + 1 :] if calls[i][1] == callee and within(state, calls[i][0])]


def _alive(state: GrammarState) -> Iterator[tuple[int, TokenRef]]:
    """Graph tokens of the section's block whose nodes are still there."""
    block = state.block
    inputs = {v.name for v in block.inputs}
    for i in state.source.by_block.get(state.base, ()):
        ref = state.source.tokens.refs[i]
        if ref.kind == "output" or (ref.kind == "input" and ref.name in inputs) or ref.name in block.by_name:
            yield i, ref


def _add_ops(state: GrammarState, choices: Choices, *, calls: bool = False, attrs: bool = False) -> None:
    """Nodes that a step may name: ops or calls, with `attrs` only ops with attributes to set."""
    settable = state.source.grammar.settable
    for i, ref in _alive(state):
        if ref.kind != "node":
            continue
        node = state.block.by_name[ref.name]
        if node.is_call != calls or (attrs and not settable.get(node.op)):
            continue
        if within(state, state.edit.prefix + ref.name) or _within_layer(state):
            choices.nodes.add(i)


def _add_new_nodes(state: GrammarState, choices: Choices) -> None:
    """The nodes added in this section that are still there."""
    choices.words.update(f"new:{k}" for k, name in enumerate(state.added) if name in state.block.by_name)


def _add_values(state: GrammarState, choices: Choices) -> None:
    choices.nodes.update(i for i, ref in _alive(state) if ref.kind != "output")
    _add_new_nodes(state, choices)


def _fill_half(state: GrammarState, choices: Choices) -> bool:
    """A node with several outputs was named as a value: which output?"""
    if not state.pending.half:
        return False
    count = len(state.block.by_name[state.pending.half].types)
    choices.words.update(f"out:{i}" for i in range(min(count, MAX_SLOTS)))
    return True


def _fill_value(state: GrammarState, choices: Choices) -> None:
    if not _fill_half(state, choices):
        _add_values(state, choices)


def _fill_set(state: GrammarState, choices: Choices) -> None:
    pending = state.pending
    if not pending.node:
        _add_ops(state, choices, attrs=True)
    elif not _fill_setting(state, choices, state.block.by_name[pending.node].op) and pending.settings:
        choices.words.add("END")


def _fill_replace(state: GrammarState, choices: Choices) -> None:
    pending = state.pending
    if not pending.node:
        _add_ops(state, choices)
    elif not pending.op:
        node = state.block.by_name[pending.node]
        fitting = state.source.grammar.replacements.get(len(node.inputs), ())
        choices.words.update(f"op:{name}" for name in fitting if name != node.op and f"op:{name}" in state.vocab)
    elif not _fill_setting(state, choices, pending.op):
        choices.words.add("END")


def _fill_add(state: GrammarState, choices: Choices) -> None:
    pending = state.pending
    if not pending.op:
        fitting = {name for n in range(1, 5) for name in state.source.grammar.replacements[n]}
        choices.words.update(f"op:{name}" for name in fitting if f"op:{name}" in state.vocab)
        return
    if _fill_half(state, choices):
        return
    opdef = state.source.grammar.opset[pending.op]
    room = opdef.max_inputs is None or len(pending.picks) < opdef.max_inputs
    if room and not pending.attr and not pending.settings:
        _add_values(state, choices)
    if len(pending.picks) >= max(opdef.min_inputs, 1) and not _fill_setting(state, choices, pending.op):
        choices.words.add("END")


def _fill_add_call(state: GrammarState, choices: Choices) -> None:
    pending = state.pending
    if not pending.node:
        _add_ops(state, choices, calls=True)
        choices.nodes = {i for i in choices.nodes if not _calls_on(state, i)}
    elif not pending.mode:
        choices.words.update(("COPY", "NEW"))
    elif not _fill_half(state, choices):
        if len(pending.picks) < len(state.block.by_name[pending.node].inputs):
            _add_values(state, choices)
        else:
            choices.words.add("END")


def _calls_on(state: GrammarState, call: int) -> bool:
    """Whether the block that a call runs makes calls itself."""
    callee = state.source.calls[call][1] if call in state.source.calls else ""
    return bool(callee) and any(n.is_call for n in state.source.graph.block_map[callee].nodes)


def _fill_rewire(state: GrammarState, choices: Choices) -> None:
    pending = state.pending
    if not pending.node:
        choices.nodes.update(i for i, ref in _alive(state) if ref.kind != "input")
        _add_new_nodes(state, choices)
    elif pending.slot < 0:
        count = len(state.block.outputs) if pending.node == "<output>" else _num_slots(state, pending.node)
        choices.words.update(f"slot:{i}" for i in range(min(count, MAX_SLOTS)))
    elif not _fill_half(state, choices):
        _add_values(state, choices)
        if pending.node != "<output>":
            choices.words.add("NONE")


def _num_slots(state: GrammarState, name: str) -> int:
    node = state.block.by_name[name]
    opdef = state.source.grammar.opset.get(node.op)
    most = opdef.max_inputs if opdef is not None and opdef.max_inputs is not None else len(node.inputs)
    return max(most, len(node.inputs))


def _fill_remove(state: GrammarState, choices: Choices) -> None:
    _add_ops(state, choices)
    _add_ops(state, choices, calls=True)


def _fill_setting(state: GrammarState, choices: Choices, op: str) -> bool:
    """Tokens of a setting; True while one is unfinished, so that the step cannot end."""
    pending = state.pending
    if not pending.attr:
        _add_attrs(state, choices, op)
        return False
    if pending.part == "digits":
        if len(pending.digits) < MAX_DIGITS:
            choices.words.update(f"digit:{d}" for d in range(10))
        if pending.digits:
            choices.words.add("END_NUM")
    elif pending.part in ("times", "over"):
        choices.words.update(f"digit:{d}" for d in range(1, 10))
        choices.texts.update(i for i, n in state.source.number_texts.items() if n > 0)
    elif pending.part == "channels":
        _fill_value(state, choices)
    elif pending.part in ("head_dim", "like"):
        wanted = "num_heads" if pending.part == "head_dim" else pending.attr
        by_name = state.block.by_name
        choices.nodes.update(i for i, ref in _alive(state) if ref.kind == "node" and _has(by_name[ref.name], wanted))
    elif pending.part == "done":
        if pending.number is not None and pending.number.over == 1:
            choices.words.update(("TIMES", "OVER") if pending.number.times == 1 else ("OVER",))
        _add_attrs(state, choices, op)
        choices.words.add("END")
    else:
        _fill_attr(state, choices, op)
    return True


def _has(node: Node, attr: str) -> bool:
    return node.attr_map.get(attr) is not None


def _add_attrs(state: GrammarState, choices: Choices, op: str) -> None:
    """Attributes of the op that the step does not set yet."""
    chosen = {f"attr:{name}" for name, _ in state.pending.settings} | {f"attr:{state.pending.attr}"}
    choices.words.update(t for i in state.source.grammar.settable[op] if (t := state.vocab.tokens[i]) not in chosen)


def _fill_attr(state: GrammarState, choices: Choices, op: str) -> None:
    """The first token of an attribute's value."""
    pending, words = state.pending, choices.words
    attr = state.source.grammar.opset[op].attr(pending.attr)
    if attr.optional or (not attr.required and attr.default is None):
        words.add("NONE")
    if attr.kind == "bool":
        words.update(("TRUE", "FALSE"))
        return
    words.add("LIKE")
    if attr.kind == "str":
        words.update(f"str:{c}" for c in attr.choices if f"str:{c}" in state.vocab)
        return
    words.update(f"digit:{d}" for d in range(10))
    words.update(("CHANNELS", "HEAD_DIM", "OLD") if pending.verb == "SET" else ("CHANNELS", "HEAD_DIM"))
    words.update(state.vocab.tokens[i] for i in state.vocab.family("refuse"))
    choices.texts.update(i for i, n in state.source.number_texts.items() if _number_fits(state, n))


def _number_fits(state: GrammarState, number: int) -> bool:
    """Whether a prompt's number can be this attribute: in range, and right for the graph once the step is whole."""
    pending = state.pending
    op = state.block.by_name[pending.node].op if pending.verb == "SET" else pending.op
    attr = state.source.grammar.opset[op].attr(pending.attr)
    try:
        attr.check((number,) if attr.kind == "ints" else number)
        settings = (*pending.settings, (pending.attr, Number.of(number)))
        if pending.verb == "SET":
            state.edit.step(SetAttrs(pending.node, settings))
        elif pending.verb == "REPLACE" and _is_whole(state, settings):
            state.edit.step(Replace(pending.node, op, settings))
    except (GraphError, ShapeError):
        return False
    return True


def _is_whole(state: GrammarState, settings: Settings) -> bool:
    """Whether a REPLACE has every attribute that its op requires, set or inherited."""
    given = {name for name, _ in settings} | set(state.block.by_name[state.pending.node].attr_map)
    return all(a.name in given for a in state.source.grammar.opset[state.pending.op].attrs if a.required)


_FILL: dict[str, Callable[[GrammarState, Choices], None]] = {
    "AT": _fill_at, "SET": _fill_set, "REPLACE": _fill_replace, "ADD": _fill_add, "ADD_CALL": _fill_add_call,
    "REWIRE": _fill_rewire, "USES": _fill_value, "REMOVE": _fill_remove,
}  # fmt: skip
