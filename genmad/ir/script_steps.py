"""The steps of an edit script."""

from dataclasses import dataclass

from genmad.ir.script_numbers import Settings


@dataclass(frozen=True, slots=True)
class At:
    """Opens a section: the steps that follow edit the block run by these calls, and by no others.

    Attributes:
        calls: dotted paths of calls of one block (`transformer.h.11`); empty for the main block.
    """

    calls: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SetAttrs:
    """Changes attributes of a node."""

    node: str
    settings: Settings


@dataclass(frozen=True, slots=True)
class Replace:
    """Puts another op in a node's place: same name and inputs; attributes of the same name are inherited."""

    node: str
    op: str
    settings: Settings = ()


@dataclass(frozen=True, slots=True)
class Add:
    """Adds a node that nothing reads yet.

    Attributes:
        name: its name; `fresh_name` gives the one that the generator uses.
        op: an op, or `@block` for a call.
        like: for a call, the call whose block is called again.
        weights: for a call, `copy` (of the weights of `like`) or `new`.
    """

    name: str
    op: str
    inputs: tuple[str, ...]
    settings: Settings = ()
    like: str = ""
    weights: str = "new"


@dataclass(frozen=True, slots=True)
class Rewire:
    """Makes input `slot` of `node` ("" for the block's outputs) read `value`; "" removes an optional input."""

    node: str
    slot: int
    value: str


@dataclass(frozen=True, slots=True)
class ReplaceUses:
    """Makes everything that reads `old` read `new`, except what `new` itself is computed from."""

    old: str
    new: str


@dataclass(frozen=True, slots=True)
class Remove:
    """Takes a node out; what read its first output reads its first input."""

    node: str


Step = At | SetAttrs | Replace | Add | Rewire | ReplaceUses | Remove
