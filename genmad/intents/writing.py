"""Writing canonical scripts: every step is run as it is written, so names are fresh and a step that fails is known."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial

from genmad.intents.anatomy import Anatomy, Layer
from genmad.intents.roles import BlockRoles
from genmad.ir.diagnostics import GraphError
from genmad.ir.graph import Block, Graph, Node
from genmad.ir.script import (
    Add,
    At,
    EditScript,
    EditState,
    Number,
    Remove,
    Replace,
    ReplaceUses,
    Rewire,
    SetAttrs,
    Setting,
    Step,
)
from genmad.ir.script import fresh_name as fresh
from genmad.ops import OPSET

MAX_STEPS = 160
Edit = Callable[["ScriptWriter", BlockRoles], None]


class ScriptTooLong(Exception):
    """More steps than a decoder should have to write."""


class ScriptWriter:
    """Writes a script over a graph.

    Each method raises `GraphError` where its step does not fit; `steps` then ends before it and `failed` is the step.
    """

    def __init__(self, graph: Graph) -> None:
        self.state = EditState.start(graph, OPSET)
        self.steps: list[Step] = []
        self.failed: Step | None = None

    @property
    def block(self) -> Block:
        return self.state.current

    @property
    def script(self) -> EditScript:
        return EditScript(steps=tuple(self.steps))

    def node(self, name: str) -> Node:
        return self.block.by_name[name]

    def _step(self, step: Step) -> None:
        if len(self.steps) >= MAX_STEPS:
            raise ScriptTooLong
        self.failed = step
        self.state = self.state.step(step)
        self.failed = None
        self.steps.append(step)

    def write(self, step: Step) -> None:
        """Writes a step that stands already."""
        self._step(step)

    def at(self, *calls: str) -> None:
        self._step(At(tuple(calls)))

    def section(self, calls: Sequence[str], edit: Callable[["ScriptWriter"], None]) -> None:
        """Opens a section and runs `edit` in it; where that has nothing to do, no section is written."""
        state, count = self.state, len(self.steps)
        self.at(*calls)
        edit(self)
        if len(self.steps) == count + 1:
            self.state = state
            del self.steps[count:]

    def set(self, node: str, **settings: Setting) -> None:
        self._step(SetAttrs(node, tuple(settings.items())))

    def put(self, node: str, op: str, **settings: Setting) -> None:
        """Puts another op in a node's place."""
        self._step(Replace(node, op, tuple(settings.items())))

    def add(self, op: str, *inputs: str, **settings: Setting) -> str:
        """Adds an op; the name of its value. Settings are in the op's own order of attributes."""
        order = {attr.name: i for i, attr in enumerate(OPSET[op].attrs)}
        pairs = tuple(sorted(settings.items(), key=lambda item: order[item[0]]))
        name = fresh(self.block, op, inputs)
        self._step(Add(name, op, inputs, pairs))
        return name

    def call(self, like: str, inputs: tuple[str, ...], weights: str) -> str:
        """Adds another call of what the call `like` runs; the name of its first output."""
        op = self.node(like).op
        name = fresh(self.block, op, inputs, like)
        self._step(Add(name, op, inputs, (), like, weights))
        return self.node(name).outputs[0]

    def rewire(self, node: str, slot: int, value: str) -> None:
        self._step(Rewire(node, slot, value))

    def swap_uses(self, old: str, new: str) -> None:
        """Makes everything that reads `old` read `new`."""
        self._step(ReplaceUses(old, new))

    def remove(self, node: str) -> None:
        self._step(Remove(node))


def _edit_with(edit: Edit, roles: BlockRoles, writer: ScriptWriter) -> None:
    edit(writer, roles)


def sections(layers: Iterable[Layer]) -> list[tuple[str, tuple[str, ...]]]:
    """(block, paths of the calls that run it) in the order of the first call."""
    table: dict[str, list[str]] = {}
    for layer in layers:
        table.setdefault(layer.block, []).append(layer.path)
    return [(block, tuple(paths)) for block, paths in table.items()]


def edit_layers(writer: ScriptWriter, anatomy: Anatomy, layers: Sequence[Layer], edit: Edit) -> None:
    """Runs `edit` in one section per distinct block."""
    for block, paths in sections(layers):
        writer.section(paths, partial(_edit_with, edit, anatomy.roles(block)))


def edit_blocks(writer: ScriptWriter, anatomy: Anatomy, touches: Callable[[Node], bool], edit: Edit) -> None:
    """Runs `edit` in every block that holds a node that it touches, in the execution order of the first such node."""
    for block, paths in holders(anatomy, touches):
        writer.section(paths, partial(_edit_with, edit, anatomy.roles(block)))


def holders(anatomy: Anatomy, touches: Callable[[Node], bool]) -> list[tuple[str, tuple[str, ...]]]:
    """(block, paths of the calls that run it; none for the main block) of blocks with a touched node of their own."""
    order = dict.fromkeys(p.block.name for p in anatomy.places if not p.node.is_call and touches(p.node))
    table: dict[str, list[str]] = {name: [] for name in order}
    for path, block in anatomy.holders:
        if block in table and path:
            table[block].append(path)
    return [(block, tuple(paths)) for block, paths in table.items()]


__all__ = [
    "Edit", "GraphError", "Number", "ScriptTooLong", "ScriptWriter", "edit_blocks", "edit_layers", "holders",
    "sections",
]  # fmt: skip
