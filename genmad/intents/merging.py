"""Several scripts over one graph made into one, as one sentence that asks for all of it is answered.

A section edits the calls that the same scripts touch; in it the steps stand in the order of the sentence. Sections
stand in execution order, those that take calls out or put calls in last, so that all others speak of what is there.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from genmad.intents.anatomy import Anatomy
from genmad.intents.writing import ScriptTooLong, ScriptWriter
from genmad.ir.diagnostics import Diagnostic, GraphError
from genmad.ir.graph import Block, producer
from genmad.ir.script import Add, At, EditScript, Number, Remove, Replace, ReplaceUses, Rewire, SetAttrs, Setting, Step
from genmad.ir.script import fresh_name as fresh

MAX_STEPS = 90


class Clash(Exception):
    """Two scripts that undo each other's work."""


@dataclass(frozen=True, slots=True)
class Section:
    """The steps of one section; `calls` are dotted paths, none for the main block."""

    calls: tuple[str, ...]
    steps: tuple[Step, ...]

    @property
    def names(self) -> frozenset[str]:
        """What the steps change: `node:attribute`, or the node itself where it is exchanged or taken out."""
        whole = {s.node for s in self.steps if isinstance(s, Replace | Remove)}
        return frozenset(
            whole | {f"{s.node}:{k}" for s in self.steps if isinstance(s, SetAttrs) for k, _ in s.settings}
        )

    @property
    def is_structural(self) -> bool:
        """Whether it puts calls in; what takes calls out is known from the graph only."""
        return any(isinstance(s, Add) and s.like for s in self.steps)


def sections_of(script: EditScript) -> tuple[Section, ...]:
    """The sections of a script, in its order."""
    out: list[tuple[tuple[str, ...], list[Step]]] = []
    for step in script.steps:
        if isinstance(step, At):
            out.append((step.calls, []))
        else:
            out = out or [((), [])]
            out[-1][1].append(step)
    return tuple(Section(calls, tuple(steps)) for calls, steps in out)


def merge(parts: Anatomy, scripts: Sequence[EditScript]) -> EditScript:
    """One script that does what all do.

    Raises:
        Clash: two scripts change one node, or one drops what another has put there.
        GraphError: a step does not fit behind those of the others.
        ScriptTooLong: more steps than a decoder should have to write.
    """
    groups = _groups(parts, scripts)
    writer = ScriptWriter(parts.graph)
    kept: list[tuple[str, str]] = []
    for calls, sections in groups:
        writer.at(*calls)
        used: set[str] = set()
        _check_calls(parts, calls, sections)
        for section in sections:
            twice = {n for n in section.names if n in used or producer(n) in used}
            twice |= {n for n in used if producer(n) in section.names}
            if twice:
                raise Clash(f"two requests change {', '.join(sorted(twice))}")
            used |= section.names
            kept += _replay(writer, section)
        if len(writer.steps) > MAX_STEPS:
            raise ScriptTooLong
    blocks = writer.state.close().graph.block_map
    lost = [name for block, name in kept if block in blocks and name not in blocks[block].by_name]
    if lost:
        raise Clash(f"what one request needs is taken out by another: {', '.join(lost)}")
    return writer.script


def _groups(parts: Anatomy, scripts: Sequence[EditScript]) -> list[tuple[tuple[str, ...], tuple[Section, ...]]]:
    """(calls, what each script does in them), in the order in which they are written."""
    touching: dict[str, dict[int, Section]] = {}
    for index, script in enumerate(scripts):
        for section in sections_of(script):
            for call in section.calls or ("",):
                if index in touching.setdefault(call, {}):
                    raise Clash(f"one request speaks of {call or 'the model'} twice")
                touching[call][index] = section
    order = {path: i for i, path in enumerate(["", *parts.paths])}
    table: dict[tuple[str, tuple[tuple[int, int], ...]], list[str]] = {}
    for call in sorted(touching, key=order.__getitem__):
        block = parts.paths[call].node.callee if call else ""
        key = (block, tuple((i, id(s)) for i, s in sorted(touching[call].items())))
        table.setdefault(key, []).append(call)
    found = []
    for calls in table.values():
        sections = tuple(s for _, s in sorted(touching[calls[0]].items()))
        place = min((_position(parts, calls[0], s, order) for s in sections), default=0)
        last = any(s.is_structural or _takes_calls(parts, calls[0], s) for s in sections)
        found.append((last, place, tuple(c for c in calls if c), sections))
    return [(calls, sections) for _, _, calls, sections in sorted(found, key=lambda item: item[:2])]


def _check_calls(parts: Anatomy, calls: Sequence[str], sections: Sequence[Section]) -> None:
    """Raises `Clash` where one request takes out or repeats a call that another one is wired to."""
    block = _block(parts, calls[0] if calls else "")
    spoken = [{n for s in x.steps for v in _reads(s) if _is_call(block, n := producer(v))} for x in sections]
    moving = [x.is_structural or _takes_calls(parts, calls[0] if calls else "", x) for x in sections]
    for i, mine in enumerate(spoken):
        for j, other in enumerate(spoken[:i]):
            if mine & other and (moving[i] or moving[j]):
                raise Clash(f"two requests move {', '.join(sorted(mine & other))}")


def _is_call(block: Block, name: str) -> bool:
    return name in block.by_name and block.by_name[name].is_call


def _block(parts: Anatomy, call: str) -> Block:
    """The block that a call runs in the graph before the edit, the main block for ""."""
    return parts.graph.block_map[parts.paths[call].node.callee] if call else parts.graph.main


def _position(parts: Anatomy, call: str, section: Section, order: Mapping[str, int]) -> int:
    """Where in the execution order the first node stands that a section speaks of."""
    block = _block(parts, call)
    scope = f"{parts.paths[call].prefix}{parts.paths[call].node.scope}." if call else ""
    spoken = {producer(v) for s in section.steps for v in _reads(s)} & set(block.by_name)
    return min((order[scope + name] for name in spoken if scope + name in order), default=order[call])


def _reads(step: Step) -> Iterable[str]:
    """Values and nodes that a step names."""
    if isinstance(step, Add):
        return (*step.inputs, step.like)
    if isinstance(step, ReplaceUses):
        return (step.old, step.new)
    return (step.node,) if isinstance(step, SetAttrs | Replace | Remove | Rewire) else ()


def _takes_calls(parts: Anatomy, call: str, section: Section) -> bool:
    block = _block(parts, call)
    gone = [block.by_name[s.node] for s in section.steps if isinstance(s, Remove) and s.node in block.by_name]
    return any(node.is_call for node in gone)


def _replay(writer: ScriptWriter, section: Section) -> list[tuple[str, str]]:
    """Writes the steps of a section with names that are still free; (block, node) of what must be there in the end."""
    names: dict[str, str] = {}
    kept = []
    for step in section.steps:
        made = _renamed(step, names)
        if isinstance(made, Add):
            name = fresh(writer.block, made.op, made.inputs, made.like)
            names[made.name] = name
            made = _readdressed(writer, replace(made, name=name))
        writer.write(made)
        if isinstance(made, Add):
            kept.append((writer.state.block, made.name))
        elif isinstance(made, SetAttrs | Replace):
            kept.append((writer.state.block, made.node))
    return kept


def _readdressed(writer: ScriptWriter, step: Add) -> Add:
    """An added call of what `like` runs now: an earlier section may have given it a block of its own."""
    if not step.like:
        return step
    if step.like not in writer.block.by_name:
        raise GraphError(Diagnostic(where=step.like, got="no such call", expected="a call that is still there"))
    return replace(step, op=writer.node(step.like).op)


def _renamed(step: Step, names: Mapping[str, str]) -> Step:
    """The step with added nodes under their new names."""

    def value(text: str) -> str:
        node, colon, output = text.partition(":")
        return names.get(node, node) + colon + output

    if isinstance(step, Add):
        settings = tuple((k, _number(v, names)) for k, v in step.settings)
        return replace(step, inputs=tuple(value(v) for v in step.inputs), settings=settings, like=value(step.like))
    if isinstance(step, SetAttrs | Replace):
        return replace(step, node=value(step.node), settings=tuple((k, _number(v, names)) for k, v in step.settings))
    if isinstance(step, ReplaceUses):
        return ReplaceUses(value(step.old), value(step.new))
    if isinstance(step, Rewire):
        return Rewire(value(step.node), step.slot, value(step.value))
    return Remove(value(step.node)) if isinstance(step, Remove) else step


def _number(setting: Setting, names: Mapping[str, str]) -> Setting:
    if isinstance(setting, Number) and producer(setting.ref) in names:
        return replace(setting, ref=names[producer(setting.ref)])
    return setting
