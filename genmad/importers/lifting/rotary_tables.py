"""Tables of a rotary embedding, from how a model holds them to how RotaryEmbedding reads them: [B, S, R].

Interleaved models repeat each frequency next to itself; the op wants them one after the other.
"""

from genmad.importers.flat import Flat, FlatNode
from genmad.importers.report import UnsupportedError


class TableMaker:
    """Makes each table once; `new` are the nodes that have to be put into the program."""

    def __init__(self, flat: Flat) -> None:
        self.flat = flat
        self.new: list[FlatNode] = []
        self._made: dict[str, str] = {}

    def pairs(self, value: str, axis: int) -> str | None:
        """The table [B, S, R] behind a constant [B, 1, S, R] (axis 1) or [B, S, 1, R] (axis 2) in pairs."""
        flat = self.flat
        type_ = flat.types[value]
        if type_.rank != 4 or type_.shape[axis] != 1 or not self._is_paired(value):
            return None
        single = flat.source(value, "Unsqueeze")
        source = single.inputs[0] if single is not None and single.attrs["axes"] == (axis,) else value
        if source not in self._made:
            self._made[source] = self._halves(source, axis)
        return self._made[source]

    def _halves(self, source: str, axis: int) -> str:
        node = self.flat.producer.get(source)
        call = node.call if node is not None else 0
        if self.flat.types[source].rank == 4:
            source = self._add("Squeeze", (source,), {"axes": (axis,)}, call)
        half = self._add("Slice", (source,), {"axis": 2, "start": 0, "end": None, "step": 2}, call)
        return self._add("Concat", (half, half), {"axis": -1}, call)

    def _add(self, op: str, inputs: tuple[str, ...], attrs: dict[str, object], call: int) -> str:
        node = self.flat.make(op, inputs, attrs, call=call)
        self.new.append(node)
        self.flat.producer[node.outputs[0]] = node
        return node.outputs[0]

    def _is_paired(self, value: str) -> bool:
        values = self.flat.constants.get(value)
        if values is None:
            return False
        try:
            tables = [values(sizes) for sizes in self.flat.sizes]
        except (UnsupportedError, RuntimeError):
            return False
        return all(bool((t[..., ::2] == t[..., 1::2]).all()) for t in tables) and tables[0].shape[-1] % 2 == 0

    def taken(self) -> list[FlatNode]:
        """The new nodes, which are then no longer new."""
        made, self.new = self.new, []
        return made
