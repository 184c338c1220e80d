"""HW-GPT-Bench: GPT decoders at three scales. Sukthanker et al., arXiv 2405.10299.

A member chooses its embedding width, whether projections have a bias, the number of layers, and heads and MLP ratio of
each layer. Heads have 64 features whatever the width, so attention is as wide as its heads. Layers are parallel:
x + attention(norm(x)) + mlp(norm(x)), with rotary positions and a gated MLP. The published parameter counts are those
of this network to the last one (gating and the untied head follow from them).
"""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import cast

import numpy as np

from genmad.ir import Diagnostic, Graph, GraphBuilder
from genmad.ops import OPSET
from genmad.spaces import hw_gpt_rules
from genmad.spaces.grammar import Costs, Grammar, SpaceError, Step
from genmad.spaces.language import IDS, layer_norm, linear, rotary_tables, sequence_costs, token_embedding
from genmad.spaces.space import Adjacency, LabelTable, Space, Word
from genmad.spaces.tables import csv_rows, find_table, float_columns

VOCABULARY = 50_254
HEAD_DIM = 64
ROTARY_DIM = 32
RATIOS = (2, 3, 4)
BIASES = (False, True)


class HwGpt(Space):
    """One scale.

    Attributes:
        embeds, heads, layers: what may be chosen, in rising order.
        vocabulary: rows of the token embedding.
    """

    depth_is = "layers"
    source = "Sukthanker et al., HW-GPT-Bench, NeurIPS 2024"
    embeds: tuple[int, ...]
    heads: tuple[int, ...]
    layers: tuple[int, ...]

    def __init__(self, *, vocabulary: int = VOCABULARY) -> None:
        self.vocabulary = vocabulary

    @cached_property
    def choices(self) -> tuple[tuple[int, int], ...]:
        """Heads and MLP ratio of one layer."""
        return tuple((h, r) for h in self.heads for r in RATIOS)

    @property
    def size(self) -> int:
        return len(self.embeds) * len(BIASES) * sum(len(self.choices) ** n for n in self.layers)

    def grammar_for(self, metrics: tuple[str, ...]) -> Grammar:
        names = tuple(f"h{h}_r{r}" for h, r in self.choices)
        steps = [
            Step(name="embed", kind="embed", choices=tuple(map(str, self.embeds))),
            Step(name="bias", kind="bias", choices=("0", "1")),
        ]
        for n in range(1, self.layers[-1] + 1):
            steps.append(Step(name=f"layer {n}", kind="op", choices=names if n <= self.layers[0] else (*names, "-")))
        counted = bool(set(metrics) - {"depth"})
        outside, table = self._costs if counted else ({}, {})

        def transition(t: int, state: object, choice: int) -> tuple[object, Costs] | None:
            embed, bias, ended = cast("tuple[int, int, bool]", state)
            cost = {"params": 0, "macs": 0, "depth": int(t > 1)}
            if t == 0:
                cost["params"], cost["macs"] = outside[choice] if counted else (0, 0)
                after = (choice if counted else 0, 0, False)
            elif t == 1:
                after = (embed, choice if counted else 0, False)
            elif choice == len(names):
                return (embed, bias, True), (0,) * len(metrics)
            elif ended:
                return None
            else:
                cost["params"], cost["macs"] = table[embed, bias, choice] if counted else (0, 0)
                after = (embed, bias, False)
            return after, tuple(cost[m] for m in metrics)

        return Grammar.build(steps, (0, 0, False), transition, metrics=metrics)

    @cached_property
    def _costs(self) -> tuple[Mapping[int, tuple[int, int]], Mapping[tuple[int, int, int], tuple[int, int]]]:
        """(params, MACs) without layers by width, and of one layer by width, bias and choice; counted on graphs."""
        outside, table = {}, {}
        for i, embed in enumerate(self.embeds):
            builder = GraphBuilder(OPSET)
            outside[i] = sequence_costs(self._graph(builder, embed, False, []))
            for j, bias in enumerate(BIASES):
                for k, (heads, ratio) in enumerate(self.choices):
                    name = _layer(builder, embed, heads, ratio, bias=bias)
                    table[i, j, k] = sequence_costs(Graph(main=builder.blocks[name]))
        return outside, table

    def unpack(self, word: Word) -> tuple[int, bool, list[tuple[int, int]]]:
        """Width, bias, and heads and ratio of each layer."""
        embed, bias, *layers = word
        rows = [self.choices[c] for c in layers if c < len(self.choices)]
        return self.embeds[embed], BIASES[bias], rows

    def word_of(self, embed: int, bias: bool, rows: list[tuple[int, int]]) -> Word:
        """The word of a member. Raises `ValueError` on what is none."""
        if len(rows) not in self.layers:
            raise ValueError(f"{len(rows)} layers")
        codes = [self.choices.index(row) for row in rows]
        codes += [len(self.choices)] * (self.layers[-1] - len(rows))
        return (self.embeds.index(embed), BIASES.index(bias), *codes)

    def to_text(self, word: Word) -> str:
        embed, bias, rows = self.unpack(word)
        return f"embed{embed} bias{int(bias)} | " + " ".join(f"h{h}_r{r}" for h, r in rows)

    def from_text(self, text: str) -> Word:
        found = self.problems(text)
        if found:
            expected = f"embed{self.embeds[0]} bias1 | h{self.heads[0]}_r2 h{self.heads[0]}_r3 ..."
            raise SpaceError(Diagnostic(where=f"network {text[:200]!r}", got="; ".join(found), expected=expected))
        head, body = text.split(" | ")
        embed, bias = head.removeprefix("embed").split(" bias")
        pairs = (row.removeprefix("h").split("_r") for row in body.split(" "))
        return self.word_of(int(embed), bias == "1", [(int(h), int(r)) for h, r in pairs])

    def problems(self, text: str) -> list[str]:
        return hw_gpt_rules.problems(text, embeds=self.embeds, heads=self.heads, layers=self.layers)

    def adjacency(self, word: Word) -> tuple[Adjacency, ...]:
        """A chain: every layer reads the one before it."""
        ops = [f"h{h}_r{r}" for h, r in self.unpack(word)[2]]
        return (Adjacency(ops=("input", *ops, "output"), edges=tuple((i, i + 1) for i in range(len(ops) + 1))),)

    def graph_costs(self, word: Word) -> tuple[int, int]:
        """Params and MACs of one sequence of 1,024 tokens."""
        return sequence_costs(self.to_graph(word))

    def to_graph(self, word: Word) -> Graph:
        embed, bias, rows = self.unpack(word)
        return self._graph(GraphBuilder(OPSET), embed, bias, rows)

    def _graph(self, builder: GraphBuilder, embed: int, bias: bool, rows: list[tuple[int, int]]) -> Graph:
        main = builder.block("HWGPT", input_ids=IDS)
        x = token_embedding(main, "transformer.wte", self.vocabulary, embed)
        tables = rotary_tables(main, ROTARY_DIM) if rows else ()
        for i, (heads, ratio) in enumerate(rows):
            block = _layer(builder, embed, heads, ratio, bias=bias)
            x = main.add(f"@{block}", x, *tables, name=f"transformer.h.{i}")
        x = layer_norm(main, x, "transformer.ln_f")
        return builder.build(main.finish(linear(main, x, "lm_head", self.vocabulary, bias=False)))

    def read_graph(self, graph: Graph) -> Word:
        calls = [node for node in graph.main.nodes if node.is_call]
        rows, biases = [], set()
        embed = int(str(calls[0].types[0].shape[-1]))
        for call in calls:
            attrs = {node.op: node.attr_map for node in graph.block_map[call.callee].nodes}
            rows.append((attrs["Attention"]["num_heads"], attrs["GatedMLP"]["hidden_features"] // embed))
            biases.add(bool(attrs["GatedMLP"]["bias"]))
        (bias,) = biases
        return self.word_of(embed, bias, rows)

    def read_labels(self, data: Path) -> LabelTable | None:
        scale = self.name[-1]
        path = find_table(data, f"hw-gpt-bench/gpt_{scale}.csv.gz", f"gpt_{scale}.csv.gz")
        if path is None:
            return None
        needed = ("embed_dim", "n_layer", "n_head", "mlp_ratio", "bias")
        rows = csv_rows(path, needed)
        words = np.array([self._word_of_row(path, i, row) for i, row in enumerate(rows, 2)], np.int16)
        columns = float_columns(rows, needed)
        return LabelTable(path=path, keys=tuple(self.keys(words)), words=words, columns=columns)

    def _word_of_row(self, path: Path, line: int, row: Mapping[str, str]) -> Word:
        try:
            heads, ratios = ([int(x) for x in row[name].split("-")] for name in ("n_head", "mlp_ratio"))
            if not len(heads) == len(ratios) == int(row["n_layer"]):
                raise ValueError(f"{row['n_layer']} layers with {len(heads)} heads and {len(ratios)} ratios")
            return self.word_of(int(row["embed_dim"]), row["bias"] == "1", list(zip(heads, ratios, strict=True)))
        except ValueError as error:
            raise SpaceError(
                Diagnostic(where=f"{path} line {line}", got=str(error), expected=f"a member of {self.name}")
            ) from error


def _layer(builder: GraphBuilder, embed: int, heads: int, ratio: int, *, bias: bool) -> str:
    """The name of the block of a layer, made at its first use. Parallel attention and MLP, each with its norm."""
    name = f"Layer{embed}_h{heads}_r{ratio}{'_bias' if bias else ''}"
    if name in builder.blocks:
        return name
    table = f"float32[1,seq,{ROTARY_DIM}]"
    block = builder.block(name, x=f"float32[batch,seq,{embed}]", cos=table, sin=table)
    width = heads * HEAD_DIM
    joined = linear(block, layer_norm(block, "x", "norm_1"), "attn.attn", 3 * width, bias=bias)
    q, k, v = block.add("Split", joined, scope="attn", axis=2, sizes=(width,) * 3)
    q, k = (block.add("RotaryEmbedding", y, "cos", "sin", scope="attn", num_heads=heads) for y in (q, k))
    mixed = block.add("Attention", q, k, v, scope="attn", num_heads=heads, causal=True)
    mixed = linear(block, mixed, "attn.proj", embed, bias=bias)
    mlp = block.add(
        "GatedMLP", layer_norm(block, "x", "norm_2"), name="mlp", scope="mlp", hidden_features=ratio * embed,
        out_features=embed, activation="silu", bias=bias,
    )  # fmt: skip
    block.finish(block.add("Add", block.add("Add", "x", mixed), mlp))
    return name


class HwGptS(HwGpt):
    name = "hw_gpt_s"
    title = "HW-GPT-Bench S"
    embeds = (192, 384, 768)
    heads = (4, 8, 12)
    layers = (10, 11, 12)


class HwGptM(HwGpt):
    name = "hw_gpt_m"
    title = "HW-GPT-Bench M"
    embeds = (256, 512, 1024)
    heads = (8, 12, 16)
    layers = (22, 23, 24)


class HwGptL(HwGpt):
    name = "hw_gpt_l"
    title = "HW-GPT-Bench L"
    embeds = (320, 640, 1280)
    heads = (8, 16, 20)
    layers = (34, 35, 36)
