"""Edit scripts to grammar tokens. The way back is the grammar itself: `GrammarState.steps`."""

from collections.abc import Callable, Sequence
from fractions import Fraction
from itertools import pairwise
from typing import Any, cast

from genmad.ir.graph import producer
from genmad.ir.script import Add, At, EditScript, Number, Remove, Replace, ReplaceUses, Rewire, SetAttrs, Setting, Step
from genmad.tokenizer.features import TokenRef
from genmad.tokenizer.grammar import GrammarError, GrammarState, Mask, SourceGrammar, Token


def encode_script(
    source: SourceGrammar,
    script: EditScript | None,
    *,
    reading: str,
    refusal: str = "",
    blocked: SetAttrs | Replace | None = None,
) -> tuple[list[Token], list[GrammarState], list[Mask]]:
    """Tokens of a script, the state and its mask before each.

    Raises `GrammarError` or `GraphError` where a token is not allowed.

    Args:
        script: the steps; None when the request is refused before any step.
        refusal: reason of a refusal. With `blocked`, the script stops inside that step, at the value that cannot be.
    """
    writer = _Writer(source)
    if script is None:
        writer.word(f"refuse:{refusal}")
    else:
        writer.word(f"reading:{reading}")
        sections = _sections(script.steps)
        for i, (opening, steps) in enumerate(sections):
            _write_calls(writer, opening)
            last = i == len(sections) - 1
            if i and steps and steps == sections[i - 1][1] and not (blocked and last):
                writer.word("SAME")
                continue
            writer.word("DO")
            for step in steps:
                writer.step(step)
        if blocked is not None:
            writer.word("SET" if isinstance(blocked, SetAttrs) else "REPLACE")
            writer.node(blocked.node)
            if isinstance(blocked, Replace):
                writer.word(f"op:{blocked.op}")
            writer.word(f"attr:{blocked.settings[-1][0]}")
            writer.word(f"refuse:{refusal}")
    writer.word("<eos>")
    return writer.tokens, writer.states, writer.masks


def _sections(steps: Sequence[Step]) -> list[tuple[At, tuple[Step, ...]]]:
    """The steps of each section behind what opens it."""
    opened = [i for i, step in enumerate(steps) if isinstance(step, At)]
    if steps and not isinstance(steps[0], At):
        raise GrammarError(f"a script opens with a section; got {type(steps[0]).__name__}")
    pairs = pairwise([*opened, len(steps)])
    return [(cast("At", steps[i]), tuple(steps[i + 1 : end])) for i, end in pairs]


class _Writer:
    """Writes tokens one by one and follows them through the grammar."""

    def __init__(self, source: SourceGrammar) -> None:
        self.source = source
        self.state = source.start()
        self.tokens: list[Token] = []
        self.states: list[GrammarState] = []
        self.masks: list[Mask] = []

    def put(self, token: Token) -> None:
        mask = self.state.mask()
        if token not in mask:
            raise self.state.misfit(token)
        self.tokens.append(token)
        self.masks.append(mask)
        self.states.append(self.state)
        self.state = self.state.take(token)

    def word(self, word: str) -> None:
        self.put(Token("word", self.state.vocab.id(word)))

    def node(self, name: str) -> None:
        """A node or block input of the section's block, a node added in the section, or `` for the output list."""
        if name in self.state.added:
            self.word(f"new:{self.state.added.index(name)}")
            return
        kinds = ("node", "input") if name else ("output",)
        for kind in kinds:
            index = self.source.index.get(TokenRef(kind, self.state.base, name))
            if index is not None:
                self.put(Token("node", index))
                return
        raise GrammarError(f"{name!r} is no node of block {self.state.base!r}")

    def value(self, value: str) -> None:
        self.node(producer(value))
        if ":" in value:
            self.word(f"out:{value.split(':')[1]}")

    def integer(self, value: int, *, finish: bool = True) -> None:
        """The prompt's own number where it stands there, else digits."""
        for position, number in self.source.number_texts.items():
            token = Token("text", position)
            if number == value and token in self.state.mask():
                self.put(token)
                return
        for digit in str(value):
            self.word(f"digit:{digit}")
        if finish:
            self.word("END_NUM")

    def setting(self, name: str, setting: Setting) -> None:
        self.word(f"attr:{name}")
        if isinstance(setting, float):
            exact = Fraction(setting).limit_denominator(10_000)
            setting = Number("int", literal=exact.numerator, over=exact.denominator)
        if not isinstance(setting, Number):
            plain = {True: "TRUE", False: "FALSE", None: "NONE"}
            self.word(plain[setting] if setting is None or isinstance(setting, bool) else f"str:{setting}")
            return
        if setting.base == "int":
            self.integer(setting.literal)
        elif setting.base == "old":
            self.word("OLD")
        else:
            self.word(setting.base.upper())
            (self.value if setting.base == "channels" else self.node)(setting.ref)
        for word, factor in (("TIMES", setting.times), ("OVER", setting.over)):
            if factor != 1:
                self.word(word)
                self.integer(factor)

    def settings(self, settings: tuple[tuple[str, Setting], ...]) -> None:
        for name, setting in settings:
            self.setting(name, setting)
        self.word("END")

    def step(self, step: Step) -> None:
        _WRITE[type(step)](self, step)


def _write_calls(writer: _Writer, step: At) -> None:
    calls = {path: (index, block) for index, (path, block) in writer.source.calls.items()}
    missing = [path for path in step.calls if path not in calls]
    if missing:
        raise GrammarError(f"no call at {', '.join(missing)}")
    writer.word("AT")
    chosen = [calls[path][0] for path in step.calls]
    if chosen:
        same = [i for i, (_, block) in writer.source.calls.items() if block == calls[step.calls[0]][1]]
        start = same.index(chosen[0])
        if len(chosen) > 1 and chosen == same:
            writer.put(Token("node", chosen[0]))
            writer.word("ALL")
        elif len(chosen) > 2 and chosen == same[start : start + len(chosen)]:
            writer.put(Token("node", chosen[0]))
            writer.word("TO")
            writer.put(Token("node", chosen[-1]))
        else:
            for index in chosen:
                writer.put(Token("node", index))


def _write_set(writer: _Writer, step: SetAttrs) -> None:
    writer.word("SET")
    writer.node(step.node)
    writer.settings(step.settings)


def _write_replace(writer: _Writer, step: Replace) -> None:
    writer.word("REPLACE")
    writer.node(step.node)
    writer.word(f"op:{step.op}")
    writer.settings(step.settings)


def _write_add(writer: _Writer, step: Add) -> None:
    if step.like:
        writer.word("ADD_CALL")
        writer.node(step.like)
        writer.word("COPY" if step.weights == "copy" else "NEW")
    else:
        writer.word("ADD")
        writer.word(f"op:{step.op}")
    for value in step.inputs:
        writer.value(value)
    writer.settings(step.settings)


def _write_rewire(writer: _Writer, step: Rewire) -> None:
    writer.word("REWIRE")
    writer.node(step.node)
    writer.word(f"slot:{step.slot}")
    if step.value:
        writer.value(step.value)
    else:
        writer.word("NONE")


def _write_uses(writer: _Writer, step: ReplaceUses) -> None:
    writer.word("USES")
    writer.value(step.old)
    writer.value(step.new)


def _write_remove(writer: _Writer, step: Remove) -> None:
    writer.word("REMOVE")
    writer.node(step.node)


_WRITE: dict[type, Callable[[_Writer, Any], None]] = {
    SetAttrs: _write_set, Replace: _write_replace, Add: _write_add, Rewire: _write_rewire,
    ReplaceUses: _write_uses, Remove: _write_remove,
}  # fmt: skip
