"""A graph as a user talks about it: its layers in order, encoder and decoder, stages, and every node by path."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from genmad.intents.roles import BlockRoles
from genmad.ir.graph import Graph, Node, Place, places

SIDES = (("encoder", "decoder"), ("text", "vision"))
_OWN_MIXERS = ("Attention", "MambaMixer", "LongConv", "TorchCall")


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One call of a repeated block.

    Attributes:
        path: dotted path of the call, `transformer.h.11`.
        container: path of the call that it stands in, "" for the main block.
        call: name of the call node in its block.
        block: name of the block that it runs.
        stem, index: `transformer.h` and 11.
        side: `encoder`, `decoder`, `text`, `vision`, or "" where there is one list only.
        stage: number of the stage, -1 where there are none.
    """

    path: str
    container: str
    call: str
    block: str
    stem: str
    index: int
    side: str = ""
    stage: int = -1


class Anatomy:
    """A graph with the roles of its parts, each found once."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.cache: dict[Any, Any] = {}
        self.others: dict[Any, Any] = {}
        self._roles: dict[str, BlockRoles] = {}

    def roles(self, block: str) -> BlockRoles:
        if block not in self._roles:
            self._roles[block] = BlockRoles(self.graph.block_map[block])
        return self._roles[block]

    @cached_property
    def places(self) -> tuple[Place, ...]:
        return tuple(places(self.graph))

    @cached_property
    def paths(self) -> dict[str, Place]:
        return {place.path: place for place in self.places}

    @cached_property
    def holders(self) -> tuple[tuple[str, str], ...]:
        """(path of the call, block) of all that runs a block, in execution order; the main block is `("", name)`."""
        found = [("", self.graph.main.name)]
        return (*found, *((p.path, p.node.callee) for p in self.places if p.node.is_call))

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        """Innermost numbered calls in execution order; in a transformer those with a mixer.

        None where one path runs several times (ALBERT): there no layer can be edited without the others.
        """
        numbered = [p for p in self.places if p.node.is_call and p.path.rpartition(".")[2].isdigit()]
        leaves = [p for p in numbered if not any(o is not p and o.path.startswith(p.path + ".") for o in numbered)]
        mixing = [p for p in leaves if self.roles(p.node.callee).nodes(*_OWN_MIXERS)]
        if len({p.path for p in leaves}) < len(leaves):
            return ()
        chosen = mixing or [p for p in leaves if len(self.graph.block_map[p.node.callee].nodes) > 2]
        return self._sided([self._layer(p) for p in chosen])

    def _layer(self, place: Place) -> Layer:
        stem, _, last = place.path.rpartition(".")
        container = place.prefix.rstrip(".")
        return Layer(
            path=place.path,
            container=container,
            call=place.node.name,
            block=place.node.callee,
            stem=stem,
            index=int(last),
        )

    def _sided(self, layers: list[Layer]) -> tuple[Layer, ...]:
        stems = list(dict.fromkeys(layer.stem for layer in layers))
        sides = {stem: "" for stem in stems}
        for pair in SIDES:
            words = {stem: next((w for w in pair if w in stem.lower()), "") for stem in stems}
            if len(set(words.values()) - {""}) == 2 and all(words.values()):
                sides = words
                break
        stages: dict[str, int] = {}
        for side in set(sides.values()):
            mine = [s for s in stems if sides[s] == side]
            numbers = [next((int(c) for c in reversed(s.split(".")) if c.isdigit()), -1) for s in mine]
            if len(mine) > 1 and len(set(numbers)) == len(mine) and -1 not in numbers:
                stages.update(zip(mine, numbers, strict=True))
        return tuple(
            Layer(path=x.path, container=x.container, call=x.call, block=x.block, stem=x.stem, index=x.index,
                  side=sides[x.stem], stage=stages.get(x.stem, -1))
            for x in layers
        )  # fmt: skip

    @cached_property
    def sides(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(layer.side for layer in self.layers if layer.side))

    @cached_property
    def is_conv(self) -> bool:
        """Whether there are convolutions inside the layers, in whatever form."""
        nodes = [n for layer in self.layers for n in self.graph.block_map[layer.block].nodes]
        return any(n.op == "Conv" or _calls(n, "conv") for n in nodes)

    @cached_property
    def has_attention(self) -> bool:
        """Whether there is attention, also in primitive ops."""
        nodes = [n for b in self.graph.all_blocks for n in b.nodes]
        return any(n.op in ("Attention", "Softmax") or _calls(n, "attention", "softmax") for n in nodes)

    @cached_property
    def is_text(self) -> bool:
        return any(v.type.dtype.is_integer for v in self.graph.main.inputs)


def _calls(node: Node, *words: str) -> bool:
    """Whether a TorchCall's function has one of the words in its name."""
    return node.op == "TorchCall" and any(word in str(node.attr_map.get("target")) for word in words)


_CACHE: dict[int, Anatomy] = {}


def anatomy(graph: Graph) -> Anatomy:
    """The anatomy of a graph; the last few are kept."""
    found = _CACHE.get(id(graph))
    if found is None or found.graph is not graph:
        found = Anatomy(graph)
        if len(_CACHE) >= 4096:
            _CACHE.pop(next(iter(_CACHE)))
        _CACHE[id(graph)] = found
    return found
