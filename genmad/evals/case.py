"""One judged edit: the request, the flat graphs before and after, and what post-conditions ask of them."""

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from genmad.evals.flat import LINEAR, FlatCall, FlatGraph, FlatNode, Key, Source, flatten
from genmad.evals.untouched import Scope
from genmad.intents.types import Request
from genmad.ir.graph import Graph


class Excess(str):
    """A problem of the kind "more than that was done"; it does not count against one of several requests."""

    __slots__ = ()


@dataclass(frozen=True, kw_only=True)
class Case:
    """A request with the graph it was made on and the graph that came of it.

    Attributes:
        joint: whether it is one request of a sentence with two or three, so that the others are in the graph too.
        waived: nodes that the others have taken out with leave, which this one can do nothing about.
    """

    request: Request
    before: FlatGraph
    after: FlatGraph
    joint: bool = False
    waived: frozenset[Key] = frozenset()

    @staticmethod
    def of(request: Request, before: Graph, after: Graph) -> "Case":
        return Case(request=request, before=flatten(before), after=flatten(after))

    def value(self, *names: str, default: Any = None) -> Any:
        """The first of the named values that the request states, else `default`."""
        stated = dict(self.request.values)
        return next((stated[name] for name in names if stated.get(name) is not None), default)

    @cached_property
    def layers(self) -> tuple[Key, ...]:
        """Keys of the targeted calls, those left out that another request of the sentence has taken out.

        Raises `ValueError` when the request names none of the graph's.
        """
        found = self._keys(self.request.layers, self.before.calls)
        return tuple(key for key in found if not self._is_waived(key))

    def _is_waived(self, unit: Key) -> bool:
        """Whether everything below a call went with another request's leave."""
        inside = {node.key for node in self.before.inside(unit)}
        return bool(inside) and inside <= self.waived

    @cached_property
    def nodes(self) -> tuple[Key, ...]:
        """Keys of the targeted nodes; a dotted path that is a module stands for every node below it."""
        return self._keys(self.request.nodes, self.before.nodes)

    def _keys(self, paths: Iterable[str], table: Any) -> tuple[Key, ...]:
        by_path: dict[str, list[Key]] = {}
        for key, item in table.items():
            by_path.setdefault(item.path, []).append(key)
        missing = [path for path in paths if path not in by_path]
        if missing:
            raise ValueError(
                f"request {self.request.intent}: no place {', '.join(missing)} in the graph before the edit"
            )
        return tuple(key for path in paths for key in by_path[path])

    @cached_property
    def units(self) -> tuple[Key, ...]:
        """Call paths that the request is about: the layers, else the blocks of the nodes, else the main block."""
        if self.layers:
            return self.layers
        return tuple(dict.fromkeys(key[:-1] for key in self.nodes)) or ((),)

    def targets(self, ops: Collection[str], keep: Callable[[FlatNode], bool] | None = None) -> tuple[FlatNode, ...]:
        """Targeted nodes with one of `ops`, as they were: the named ones, else those that `keep` accepts."""
        if self.nodes:
            found = [self.before.nodes[key] for key in self.nodes]
        else:
            below = (n for unit in self.units for n in self.before.inside(unit) if n.op in ops)
            found = [n for n in below if keep is None or keep(n)]
        return tuple({n.key: n for n in found if n.op in ops and n.key not in self.waived}.values())

    def unit_of(self, key: Key) -> Key:
        """The innermost targeted unit that a node stands in, or its own block."""
        inside = [unit for unit in self.units if key[: len(unit)] == unit]
        return max(inside, key=len, default=key[:-1])

    def added(self, unit: Key = ()) -> tuple[FlatNode, ...]:
        """Nodes below a call path that were not there before."""
        return tuple(node for node in self.after.inside(unit) if node.key not in self.before.nodes)

    def open_units(self) -> frozenset[Key]:
        """The units and every call below them."""
        if self.units == ((),):
            return frozenset({(), *self.before.calls})
        return frozenset(self.units) | {k for k in self.before.calls for u in self.units if k[: len(u)] == u}

    def open_blocks(self, keys: Iterable[Key]) -> frozenset[Key]:
        """The call paths of the blocks that hold the given nodes or calls."""
        return frozenset(key[:-1] for key in keys)

    def scope(self, changing: Iterable[FlatNode] = (), leaving: Iterable[Key] = ()) -> Scope:
        """Leave to edit the units, change the given nodes and take others out."""
        return Scope(open=self.open_units(), changing=frozenset(n.key for n in changing), leaving=frozenset(leaving))

    def sibling_calls(self, unit: Key) -> tuple[FlatCall, ...]:
        """Calls added in the block that holds a targeted call."""
        return tuple(
            call for key, call in self.after.calls.items() if key[:-1] == unit[:-1] and key not in self.before.calls
        )

    def stands_for(self, value: Source) -> frozenset[Source]:
        """The value itself; in a double request also the old values that a new one is computed from by new nodes alone.

        So an adapter may stand behind the norm that the other half of the sentence has put there.
        """
        if not self.joint:
            return frozenset({value})
        found: set[Source] = set()
        stack = [value]
        while stack:
            top = stack.pop()
            if top[0] not in self.after.nodes or top[0] in self.before.nodes:
                found.add(top)
            else:
                stack += [s for s in self.after.nodes[top[0]].inputs if s is not None]
        return frozenset(found)

    def moved_readers(self, was: Source, now: Source) -> Iterator[str]:
        """What read `was` before, is still there and does not read `now` after; new nodes may read what they like."""
        for key, slot in self.before.users.get(was, ()):
            if key not in self.after.nodes and key in self.before.nodes:
                continue
            reads = self.after.outputs if key not in self.after.nodes else self.after.nodes[key].inputs
            if slot >= len(reads) or not self.comes_from(reads[slot], now):
                yield f"{'.'.join(key)} does not read {'.'.join(now[0])}"

    def comes_from(self, value: Source | None, now: Source) -> bool:
        """Whether a value is `now`, or in a double request made of it by a new node."""
        if value == now or value is None or not self.joint or value[0] in self.before.nodes:
            return value == now
        return now[0] in self.after.above(value)


def linears_between(flat: FlatGraph, start: Source, end: Source) -> int:
    """How many linear layers lie on the ways from one value to another."""
    return sum(k in flat.nodes and flat.nodes[k].op in LINEAR for k in flat.below(start) & flat.above(end))
