"""The networks of Transformer++: decoders whose heads are shared by several primitives. All of them are causal.

GPT-2 layers are serial with learned positions; CodeGen layers are parallel under one norm with rotary positions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, log2

from genmad.ir import Block, BlockBuilder, Graph, GraphBuilder, TensorType, Value
from genmad.ops import OPSET
from genmad.spaces.cells import maker
from genmad.spaces.language import IDS, layer_norm, linear, position_ids, rotary_tables, token_embedding

Setting = tuple[int, ...]
"""What a primitive is told: () for full attention, a window, a kernel size, or hashes and buckets."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One layer.

    Attributes:
        ops: primitives and their settings; heads are shared equally.
        ratio: inner width of the MLP over the width of the model.
    """

    ops: tuple[tuple[str, Setting], ...]
    ratio: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoder:
    """Makes the graphs of one backbone and width.

    Attributes:
        backbone: `gpt2` or `codegen`.
        embed: width of the model; a multiple of twice the heads.
        heads: of all primitives of a layer together.
        vocabulary: number of tokens.
        positions: longest sequence that learned positions and global convolutions are made for.
    """

    backbone: str
    embed: int
    heads: int
    vocabulary: int
    positions: int

    @property
    def head_dim(self) -> int:
        return self.embed // self.heads

    @property
    def rotary_dim(self) -> int:
        return min(32, self.head_dim)

    def graph(self, layers: Sequence[Layer]) -> Graph:
        builder = GraphBuilder(OPSET)
        main = builder.block("TransformerPP", input_ids=IDS)
        x = token_embedding(main, "transformer.wte", self.vocabulary, self.embed)
        tables: tuple[str, ...] = ()
        if self.backbone == "gpt2":
            place = main.add(
                "Embedding", position_ids(main), name="transformer.wpe", num_embeddings=self.positions,
                embedding_dim=self.embed,
            )  # fmt: skip
            x = main.add("Add", x, place, scope="transformer")
        elif layers:
            tables = rotary_tables(main, self.rotary_dim)
        for i, layer in enumerate(layers):
            x = main.add(f"@{self._layer_block(builder, layer)}", x, *tables, name=f"transformer.h.{i}")
        x = layer_norm(main, x, "transformer.ln_f")
        return builder.build(main.finish(self._head(main, x)))

    def layer_graph(self, layer: Layer) -> Graph:
        """One layer alone: what it costs is counted on it."""
        builder = GraphBuilder(OPSET)
        return Graph(main=builder.blocks[self._layer_block(builder, layer)])

    def op_graph(self, op: str, setting: Setting, heads: int) -> Graph:
        """One primitive alone, with so many heads."""
        block = self._block(GraphBuilder(OPSET), "Primitive")
        return Graph(main=block.finish(self._op(block, "x", op, setting, heads)))

    def _head(self, main: BlockBuilder, x: str) -> str:
        """Logits: GPT-2 ties them to the token embedding, CodeGen does not."""
        if self.backbone == "codegen":
            return linear(main, x, "lm_head", self.vocabulary)
        return str(
            main.add(
                "Linear", x, name="lm_head", scope="lm_head", out_features=self.vocabulary, bias=False,
                params={"weight": "transformer.wte.weight"},
            )
        )  # fmt: skip

    def _block(self, builder: GraphBuilder, name: str) -> BlockBuilder:
        inputs = [Value("x", TensorType.parse(f"float32[batch,seq,{self.embed}]"))]
        if self.backbone == "codegen":
            inputs += [Value(table, TensorType.parse(f"float32[1,seq,{self.rotary_dim}]")) for table in ("cos", "sin")]
        return builder.block(name, inputs)

    def _layer_block(self, builder: GraphBuilder, layer: Layer) -> str:
        """The name of the block of a layer, made at its first use."""
        name = "_".join([*("".join([op, *map(str, setting)]) for op, setting in layer.ops), f"r{layer.ratio}"])
        if name in builder.blocks:
            return name
        block = self._block(builder, name)
        serial = self.backbone == "gpt2"
        normed = layer_norm(block, "x", "ln_1")
        share = self.heads // len(layer.ops)
        parts = [self._op(block, normed, op, setting, share) for op, setting in layer.ops]
        mixed = parts[0] if len(parts) == 1 else block.add("Concat", *parts, scope="attn", axis=2)
        x = block.add("Add", "x", linear(block, mixed, "attn.out_proj", self.embed))
        y = linear(block, layer_norm(block, x, "ln_2") if serial else normed, "mlp.fc1", layer.ratio * self.embed)
        y = block.add("Gelu", y, name="mlp.act", scope="mlp", approximate="tanh")
        block.finish(block.add("Add", x, linear(block, y, "mlp.fc2", self.embed)))
        return name

    def _op(self, block: BlockBuilder, x: str, op: str, setting: Setting, heads: int) -> str:
        """[batch, seq, heads * head_dim] of one primitive."""
        name, width = f"attn.{op}", heads * self.head_dim
        if op in ("mha", "local"):
            return self._attention(block, x, name, heads, setting[0] if setting else None)
        if op == "lsh":
            shared = linear(block, x, f"{name}.query_key", width, bias=False)
            value = linear(block, x, f"{name}.value", width, bias=False)
            (shared,) = self._rotated(block, name, heads, shared)
            return str(
                block.add(
                    "LSHAttention", shared, value, name=f"{name}.attention", scope=name, num_heads=heads,
                    num_hashes=setting[0], num_buckets=setting[1], causal=True,
                )
            )  # fmt: skip
        if op == "sepconv":
            x = block.add(
                "SeparableConv1d", x, name=f"{name}.conv", scope=name, out_features=width, kernel_size=setting[0]
            )
            return str(block.add("Relu", x, name=f"{name}.act", scope=name))
        x = self._gated(block, x, name, width)
        x = self._global(block, x, name, setting[0]) if op == "sgconv" else self._products(block, x, name, setting[0])
        x = linear(block, block.add("Gelu", x, scope=name), f"{name}.output_linear", width)
        return str(block.add("Gelu", x, scope=name))

    def _attention(self, block: BlockBuilder, x: str, name: str, heads: int, window: int | None) -> str:
        width = heads * self.head_dim
        q, k, v = block.add("Split", linear(block, x, f"{name}.qkv", 3 * width), scope=name, axis=2, sizes=(width,) * 3)
        q, k = self._rotated(block, name, heads, q, k)
        return str(block.add("Attention", q, k, v, scope=name, num_heads=heads, causal=True, window=window))

    def _rotated(self, block: BlockBuilder, name: str, heads: int, *values: str) -> tuple[str, ...]:
        """With rotary positions where the backbone has them."""
        if self.backbone == "gpt2":
            return values
        return tuple(str(block.add("RotaryEmbedding", x, "cos", "sin", scope=name, num_heads=heads)) for x in values)

    def _gated(self, block: BlockBuilder, x: str, name: str, width: int) -> str:
        """A gated linear unit."""
        value, gate = block.add(
            "Split", linear(block, x, f"{name}.in_proj", 2 * width), scope=name, axis=2, sizes=(width,) * 2
        )
        return str(block.add("Mul", value, block.add("Sigmoid", gate, scope=name), scope=name))

    def _global(self, block: BlockBuilder, x: str, name: str, kernel: int) -> str:
        """A structured global convolution as long as the longest sequence, and a skip per feature."""
        scales = 1 + max(0, ceil(log2(self.positions / kernel)))
        y = block.add("SGConv", x, name=f"{name}.conv", scope=name, kernel_size=kernel, num_scales=scales, bias=False)
        return str(block.add("Add", y, block.add("Scale", x, name=f"{name}.skip", scope=name), scope=name))

    def _products(self, block: BlockBuilder, x: str, name: str, kernel: int) -> str:
        """SGConv3: keys are convolved, multiplied by values, convolved again, multiplied by queries, by feature.

        The layer of H3 (Fu et al., arXiv 2212.14052, section 3.1, head size 1) with global convolutions for both SSMs.
        """
        width = int(str(block.types[x].shape[-1]))
        q, k, v = (linear(block, x, f"{name}.{part}_proj", width) for part in "qkv")
        keys = self._global(block, k, f"{name}.key", kernel)
        memory = self._global(block, block.add("Mul", keys, v, scope=name), f"{name}.memory", kernel)
        return str(block.add("Mul", memory, q, scope=name))


def read_layers(graph: Graph) -> list[Layer]:
    """The layers of a graph made by `Decoder.graph`."""
    return [_read_layer(graph.block_map[node.callee]) for node in graph.main.nodes if node.is_call]


def _read_layer(block: Block) -> Layer:
    last = maker(block, block.outputs[0])
    inner = maker(block, maker(block, maker(block, last.inputs[1]).inputs[0]).inputs[0])
    embed = block.input_types[0].shape[-1]
    mixed = maker(block, maker(block, last.inputs[0]).inputs[1]).inputs[0]
    parts = maker(block, mixed).inputs if maker(block, mixed).op == "Concat" else (mixed,)
    ops = tuple(_read_op(block, part) for part in parts)
    return Layer(ops=ops, ratio=inner.attr_map["out_features"] // int(str(embed)))


def _read_op(block: Block, value: str) -> tuple[str, Setting]:
    node = maker(block, value)
    if node.op == "Attention":
        window = node.attr_map["window"]
        return ("mha", ()) if window is None else ("local", (window,))
    if node.op == "LSHAttention":
        return "lsh", (node.attr_map["num_hashes"], node.attr_map["num_buckets"])
    if node.op == "Relu":
        return "sepconv", (maker(block, node.inputs[0]).attr_map["kernel_size"],)
    inner = maker(block, maker(block, node.inputs[0]).inputs[0])
    top = maker(block, inner.inputs[0])
    total = maker(block, top.inputs[0]) if top.op == "Mul" else top
    return ("sgconv3" if top.op == "Mul" else "sgconv"), (maker(block, total.inputs[0]).attr_map["kernel_size"],)
