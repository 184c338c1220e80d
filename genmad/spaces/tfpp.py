"""Transformer++: causal language models whose layers share their heads among several primitives.

The primitives: multi-head attention, local attention, structured global convolution alone (SGConv, Li et al., arXiv
2210.09298) and in H3's form (SGConv3), separable convolution, LSH attention (Kitaev et al., arXiv 2001.04451). A layer
gives its heads in equal shares to the primitives it has; each has its own window, kernel, or hashes and buckets.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from math import prod

from genmad.ir import Diagnostic, Graph
from genmad.spaces import tfpp_rules
from genmad.spaces.completion import completed_neighbours
from genmad.spaces.grammar import Costs, Grammar, SpaceError, Step
from genmad.spaces.language import sequence_costs
from genmad.spaces.space import Adjacency, Space, Word
from genmad.spaces.tfpp_graph import Decoder, Layer, Setting, read_layers

BACKBONES = ("gpt2", "codegen")
OPS = ("mha", "local", "sgconv", "sgconv3", "sepconv", "lsh")
TUNED = OPS[1:]
"""Primitives that have a setting, in the order of their steps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """What may be chosen, and what is fixed.

    Attributes:
        embeds: widths of the model, multiples of twice the heads.
        layers: numbers of layers, rising.
        ratios: inner width of the MLP over the width.
        settings: of each primitive that has one.
        heads: of a layer; primitives share them equally.
        vocabulary, positions: number of tokens, longest sequence.
    """

    embeds: tuple[int, ...] = (384, 768)
    layers: tuple[int, ...] = (4, 6, 8, 10, 12)
    ratios: tuple[int, ...] = (2, 3, 4)
    windows: tuple[int, ...] = (64, 128, 256)
    global_kernels: tuple[int, ...] = (64, 128, 256)
    separable_kernels: tuple[int, ...] = (4, 16, 64)
    hashes: tuple[int, ...] = (4, 8)
    buckets: tuple[int, ...] = (16, 32, 64)
    heads: int = 12
    vocabulary: int = 50_257
    positions: int = 8_192

    def settings(self) -> dict[str, tuple[Setting, ...]]:
        """The settings of every primitive; () alone where there is nothing to set."""
        globals_ = tuple((k,) for k in self.global_kernels)
        return {
            "mha": ((),), "local": tuple((w,) for w in self.windows), "sgconv": globals_, "sgconv3": globals_,
            "sepconv": tuple((k,) for k in self.separable_kernels),
            "lsh": tuple((h, b) for h in self.hashes for b in self.buckets),
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class _State:
    """What a prefix leaves behind: backbone and width where costs need them, and what the layer at hand still asks for.

    Attributes:
        decoder: index of backbone and width.
        times: layers that a step stands for (of a homogeneous member).
        share: heads of each primitive, where costs need it.
        todo: primitives without a setting yet.
        ended: whether there are no more layers.
    """

    decoder: int = 0
    times: int = 1
    share: int = 0
    todo: tuple[str, ...] = ()
    ended: bool = False


class Tfpp(Space):
    """Mixed heads, every layer for itself.

    Attributes:
        choices: what may be chosen.
        mixed: whether a layer may have several primitives.
        homogeneous: whether all layers are alike.
    """

    name = "tfpp"
    title = "Transformer++"
    depth_is = "layers"
    source = "Archai, Transformer++ search space; primitives as in the module's text"
    mixed = True
    homogeneous = False

    def __init__(self, choices: Choices | None = None) -> None:
        self.choices = Choices() if choices is None else choices
        self.settings = self.choices.settings()

    @cached_property
    def allocations(self) -> tuple[tuple[str, ...], ...]:
        """The sets of primitives of a layer, the simplest first."""
        most = len(OPS) if self.mixed else 1
        return tuple(ops for n in range(1, most + 1) if self.choices.heads % n == 0 for ops in combinations(OPS, n))

    @property
    def num_layer_choices(self) -> int:
        """Distinct layers."""
        ways = (prod(len(self.settings[op]) for op in ops) for ops in self.allocations)
        return sum(ways) * len(self.choices.ratios)

    @property
    def size(self) -> int:
        kinds, counts = self.num_layer_choices, self.choices.layers
        networks = kinds * len(counts) if self.homogeneous else sum(kinds**n for n in counts)
        return len(BACKBONES) * len(self.choices.embeds) * networks

    @cached_property
    def _layout(self) -> tuple[tuple[Step, int], ...]:
        """Every step and the layer it belongs to; layer 0 for what concerns the whole network."""
        c = self.choices
        steps = [
            (Step(name="backbone", kind="backbone", choices=BACKBONES), 0),
            (Step(name="embed", kind="embed", choices=tuple(map(str, c.embeds))), 0),
        ]
        if self.homogeneous:
            steps.append((Step(name="layers", kind="layers", choices=tuple(map(str, c.layers))), 0))
        names = tuple("+".join(ops) for ops in self.allocations)
        for n in range(1, 2 if self.homogeneous else c.layers[-1] + 1):
            none = () if self.homogeneous or n <= c.layers[0] else ("-",)
            steps.append((Step(name=f"layer {n}", kind="op", choices=(*names, *none)), n))
            for op in TUNED:
                labels = tuple(_label(s) for s in self.settings[op])
                steps.append((Step(name=f"layer {n} {op}", kind=op, choices=(*labels, "-")), n))
            ratios = tuple(f"r{r}" for r in c.ratios)
            steps.append((Step(name=f"layer {n} mlp", kind="mlp", choices=(*ratios, *none)), n))
        return tuple(steps)

    def grammar_for(self, metrics: tuple[str, ...]) -> Grammar:
        walker = _Walker(space=self, counted=bool(set(metrics) - {"depth"}), metrics=metrics)
        return Grammar.build([step for step, _ in self._layout], _State(), walker.next, metrics=metrics)

    def decoder(self, backbone: str, embed: int) -> Decoder:
        c = self.choices
        return Decoder(
            backbone=backbone, embed=embed, heads=c.heads, vocabulary=c.vocabulary, positions=c.positions
        )  # fmt: skip

    @cached_property
    def decoders(self) -> tuple[Decoder, ...]:
        """One per backbone and width."""
        return tuple(self.decoder(b, e) for b in BACKBONES for e in self.choices.embeds)

    def unpack(self, word: Word) -> tuple[str, int, list[Layer]]:
        """Backbone, width, layers."""
        first = 3 if self.homogeneous else 2
        rows = [word[i : i + 7] for i in range(first, len(word), 7)]
        layers = [self._layer_of(row) for row in rows if row[0] < len(self.allocations)]
        if self.homogeneous:
            layers *= self.choices.layers[word[2]]
        return BACKBONES[word[0]], self.choices.embeds[word[1]], layers

    def _layer_of(self, row: Sequence[int]) -> Layer:
        places = {op: row[1 + i] for i, op in enumerate(TUNED)}
        ops = tuple((op, self.settings[op][places.get(op, 0)]) for op in self.allocations[row[0]])
        return Layer(ops=ops, ratio=self.choices.ratios[row[6]])

    def word_of(self, backbone: str, embed: int, layers: Sequence[Layer]) -> Word:
        """The word of a member. Raises `ValueError` on what is none."""
        head = [BACKBONES.index(backbone), self.choices.embeds.index(embed)]
        place = self.choices.layers.index(len(layers))
        if self.homogeneous:
            if len(set(layers)) > 1:
                raise ValueError("layers that differ in a homogeneous space")
            return (*head, place, *self._row_of(layers[0]))
        none = [len(self.allocations), *(len(self.settings[op]) for op in TUNED), len(self.choices.ratios)]
        rows = [self._row_of(layer) for layer in layers] + [none] * (self.choices.layers[-1] - len(layers))
        return (*head, *(x for row in rows for x in row))

    def _row_of(self, layer: Layer) -> list[int]:
        given = dict(layer.ops)
        codes = [
            self.settings[op].index(given[op]) if op in given else len(self.settings[op]) for op in TUNED
        ]  # fmt: skip
        return [self.allocations.index(tuple(given)), *codes, self.choices.ratios.index(layer.ratio)]

    def to_text(self, word: Word) -> str:
        backbone, embed, layers = self.unpack(word)
        parts = [
            "+".join(f"{op}:{_label(setting)}" if setting else op for op, setting in layer.ops) + f" r{layer.ratio}"
            for layer in layers
        ]
        return " | ".join([f"{backbone} embed{embed}", *parts])

    def from_text(self, text: str) -> Word:
        found = self.problems(text)
        if found:
            expected = "gpt2 embed768 | mha+local:256 r4 | ..."
            raise SpaceError(Diagnostic(where=f"network {text[:200]!r}", got="; ".join(found), expected=expected))
        head, *parts = text.split(" | ")
        backbone, embed = head.split(" embed")
        return self.word_of(backbone, int(embed), [_parse_layer(part) for part in parts])

    def problems(self, text: str) -> list[str]:
        c = self.choices
        settings = {op: [_label(s) for s in self.settings[op]] for op in TUNED}
        return tfpp_rules.problems(
            text, embeds=c.embeds, layers=c.layers, ratios=c.ratios, heads=c.heads, settings=settings,
            mixed=self.mixed, homogeneous=self.homogeneous,
        )  # fmt: skip

    def adjacency(self, word: Word) -> tuple[Adjacency, ...]:
        """Primitives as vertices; those of one layer read all of the layer before it."""
        ops, edges, before = ["input"], [], [0]
        for layer in [*self.unpack(word)[2], None]:
            names = [op for op, _ in layer.ops] if layer else ["output"]
            here = list(range(len(ops), len(ops) + len(names)))
            edges += [(a, b) for a in before for b in here]
            ops, before = ops + names, here
        return (Adjacency(ops=tuple(ops), edges=tuple(sorted(edges))),)

    def neighbours(self, word: Word) -> Iterator[Word]:
        """Every member that one other choice leads to; where that asks for new settings or layers, the first ones."""
        return completed_neighbours(self.grammar(), word)

    def graph_costs(self, word: Word) -> tuple[int, int]:
        """Params and MACs of one sequence of 1,024 tokens; global convolutions count as direct ones."""
        return sequence_costs(self.to_graph(word))

    def to_graph(self, word: Word) -> Graph:
        backbone, embed, layers = self.unpack(word)
        return self.decoder(backbone, embed).graph(layers)

    def read_graph(self, graph: Graph) -> Word:
        first = next(node for node in graph.main.nodes if node.is_call)
        backbone = BACKBONES[len(first.inputs) > 1]
        return self.word_of(backbone, int(str(first.types[0].shape[-1])), read_layers(graph))


@dataclass(frozen=True, kw_only=True)
class _Walker:
    """The transitions of the grammar of a space.

    Attributes:
        counted: whether parameters or MACs are asked for.
        metrics: what is asked for.
    """

    space: Tfpp
    counted: bool
    metrics: tuple[str, ...]

    def next(self, t: int, state: object, choice: int) -> tuple[object, Costs] | None:
        """As `grammar.Transition`."""
        assert isinstance(state, _State)
        step, layer = self.space._layout[t]
        if layer == 0:
            return self._whole(step.kind, state, choice)
        last = step.choices[choice] == "-"
        if step.kind == "op":
            return self._allocation(state, choice, layer, last=last)
        if step.kind == "mlp":
            if last != state.ended:
                return None
            cost = (0, 0) if last else self._rest(state.decoder, choice)
            return _State(decoder=state.decoder, times=state.times, ended=state.ended), self._pay(cost, state.times)
        if last != (step.kind not in state.todo):
            return None
        if last:
            return state, self._pay((0, 0))
        cost = self._op(state, step.kind, choice)
        left = tuple(op for op in state.todo if op != step.kind)
        after = _State(decoder=state.decoder, times=state.times, share=state.share if left else 0, todo=left)
        return after, self._pay(cost, state.times)

    def _whole(self, kind: str, state: _State, choice: int) -> tuple[object, Costs]:
        widths = len(self.space.choices.embeds)
        if kind == "backbone":
            return _State(decoder=choice * widths if self.counted else 0), self._pay((0, 0))
        if kind == "embed":
            decoder = state.decoder + choice if self.counted else 0
            return _State(decoder=decoder), self._pay(self._outside[decoder] if self.counted else (0, 0))
        times = self.space.choices.layers[choice]
        return _State(decoder=state.decoder, times=times if self.metrics else 1), self._pay((0, 0))

    def _allocation(self, state: _State, choice: int, layer: int, *, last: bool) -> tuple[object, Costs] | None:
        space = self.space
        if last:
            if not state.ended and layer - 1 not in space.choices.layers:
                return None
            return _State(decoder=state.decoder, ended=True), self._pay((0, 0))
        if state.ended:
            return None
        ops = space.allocations[choice]
        share = space.choices.heads // len(ops) if self.counted else 0
        todo = tuple(op for op in ops if op in TUNED)
        after = _State(decoder=state.decoder, times=state.times, share=share if todo else 0, todo=todo)
        full = _State(decoder=state.decoder, share=share)
        return after, self._pay(self._op(full, "mha", 0) if "mha" in ops else (0, 0), state.times, depth=1)

    def _pay(self, cost: tuple[int, int], times: int = 1, depth: int = 0) -> Costs:
        known = {"params": cost[0] * times, "macs": cost[1] * times, "depth": depth * times}
        return tuple(known[m] for m in self.metrics)

    def _op(self, state: _State, op: str, choice: int) -> tuple[int, int]:
        """(params, MACs) of a primitive with the share and width of a state."""
        if not self.counted:
            return 0, 0
        key = (state.decoder, op, choice, state.share)
        if key not in self._ops:
            graph = self.space.decoders[state.decoder].op_graph(op, self.space.settings[op][choice], state.share)
            self._ops[key] = sequence_costs(graph)
        return self._ops[key]

    def _rest(self, decoder: int, choice: int) -> tuple[int, int]:
        """(params, MACs) of a layer without its primitives."""
        if not self.counted:
            return 0, 0
        key = (decoder, "rest", choice, 0)
        if key not in self._ops:
            made = self.space.decoders[decoder]
            whole = sequence_costs(made.layer_graph(Layer(ops=(("mha", ()),), ratio=self.space.choices.ratios[choice])))
            inner = sequence_costs(made.op_graph("mha", (), made.heads))
            self._ops[key] = whole[0] - inner[0], whole[1] - inner[1]
        return self._ops[key]

    @cached_property
    def _ops(self) -> dict[tuple[int, str, int, int], tuple[int, int]]:
        return {}

    @cached_property
    def _outside(self) -> Mapping[int, tuple[int, int]]:
        return {i: sequence_costs(decoder.graph([])) for i, decoder in enumerate(self.space.decoders)}


class TfppHomogeneous(Tfpp):
    """Mixed heads, all layers alike."""

    name = "tfpp_homogeneous"
    title = "Transformer++, all layers alike"
    homogeneous = True


class TfppSingle(Tfpp):
    """One primitive per layer, every layer for itself."""

    name = "tfpp_single"
    title = "Transformer++, one primitive per layer"
    mixed = False


def _label(setting: Setting) -> str:
    return "x".join(map(str, setting))


def _parse_layer(part: str) -> Layer:
    ops, ratio = part.split(" r")
    found = []
    for op in ops.split("+"):
        name, _, setting = op.partition(":")
        found.append((name, tuple(int(x) for x in setting.split("x")) if setting else ()))
    return Layer(ops=tuple(found), ratio=int(ratio))
