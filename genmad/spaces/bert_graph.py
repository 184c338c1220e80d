"""The encoders of NAS-Bench-BERT: attention, dynamic convolution beside attention, or a fixed transform in each layer.

Serianni and Kalita, ACL 2023; Tuli et al. (FlexiBERT), arXiv 2205.11656; Jiang et al. (ConvBERT), arXiv 2008.02496.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import pi

from genmad.ir import Block, BlockBuilder, Dim, Graph, GraphBuilder, SymDim, TensorType, Value
from genmad.ops import OPSET
from genmad.spaces.cells import maker
from genmad.spaces.language import IDS, layer_norm, linear, position_ids, token_embedding

VOCABULARY = 30_522
POSITIONS = 512
EMBEDDING = 128
TABLES = {"DFT": ("cos", "sin"), "DCT": ("cosine",)}
"""Transforms along the sequence that are made once and read by every layer that needs them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One layer.

    Attributes:
        op: SDP (scaled dot product) or WMA (weighted multiplicative) attention, DFT or DCT, DSC5 or DSC9 (dynamic
            convolution of that kernel).
        heads: of the operation.
        ffn: inner width of the feed-forward part.
        num_ffn: its hidden layers.
    """

    op: str
    heads: int
    ffn: int
    num_ffn: int


def make_graph(hidden: int, layers: Sequence[Layer], *, vocabulary: int = VOCABULARY) -> Graph:
    """Token ids and segment ids [batch, seq] to hidden states [batch, seq, hidden]."""
    builder = GraphBuilder(OPSET)
    main = builder.block("NASBenchBERT", input_ids=IDS, token_type_ids=IDS)
    x = token_embedding(main, "embeddings.word_embeddings", vocabulary, EMBEDDING)
    for name, ids, rows in (("token_type", "token_type_ids", 2), ("position", position_ids(main), POSITIONS)):
        name = f"embeddings.{name}_embeddings"
        more = main.add("Embedding", ids, name=name, num_embeddings=rows, embedding_dim=EMBEDDING)
        x = main.add("Add", x, more, scope="embeddings")
    x = layer_norm(main, x, "embeddings.LayerNorm")
    if hidden != EMBEDDING:
        x = linear(main, x, "embeddings_project", hidden)
    made: dict[str, tuple[str, ...]] = {}
    for i, layer in enumerate(layers):
        if layer.op in TABLES and layer.op not in made:
            made[layer.op] = transform(main, layer.op, SymDim.symbol("seq"))
        x = main.add(f"@{layer_block(builder, hidden, layer)}", x, *made.get(layer.op, ()), name=f"encoder.layer.{i}")
    return builder.build(main.finish(x))


def layer_block(builder: GraphBuilder, hidden: int, layer: Layer) -> str:
    """The name of the block of a layer, made at its first use."""
    name = f"{layer.op}_h{layer.heads}_f{layer.ffn}_n{layer.num_ffn}"
    if name in builder.blocks:
        return name
    tables = [Value(table, TensorType.parse("float32[seq,seq]")) for table in TABLES.get(layer.op, ())]
    block = builder.block(name, [Value("x", TensorType.parse(f"float32[batch,seq,{hidden}]")), *tables])
    if layer.op in TABLES:
        x = _transformed(block, layer, hidden)
    else:
        mixed = _convolved(block, layer, hidden) if layer.op.startswith("DSC") else _attended(block, layer, hidden)
        mixed = linear(block, mixed, "operation.output.dense", hidden)
        x = layer_norm(block, str(block.add("Add", mixed, "x")), "operation.output.LayerNorm")
    y = x
    for i in range(layer.num_ffn):
        y = linear(block, y, "intermediate.dense_in" if i == 0 else f"intermediate.dense_list.{i - 1}", layer.ffn)
        y = str(block.add("Gelu", y, scope="intermediate"))
    y = linear(block, y, "output.dense", hidden)
    block.finish(layer_norm(block, str(block.add("Add", y, x)), "output.LayerNorm"))
    return name


def transform(block: BlockBuilder, op: str, length: Dim) -> tuple[str, ...]:
    """[length, length] tables: cos and sin of 2 pi j k / N, or of DCT-II, 2 cos(pi (2j + 1) k / 2N) at row k.

    Angles are reduced before they become real numbers, so that long sequences lose no accuracy.
    """
    scope = f"{op.lower()}"
    row = block.add("Arange", end=length, dtype="float32", scope=scope)
    count = block.add("AddScalar", block.add("ReduceMax", row, axes=(0,), keepdims=True, scope=scope), value=1.0)
    column = row
    if op == "DCT":
        column = block.add("AddScalar", block.add("MulScalar", row, value=2.0, scope=scope), value=1.0, scope=scope)
        count = block.add("MulScalar", count, value=4.0, scope=scope)
    product = block.add(
        "Mul",
        block.add("Unsqueeze", row, axes=(1,), scope=scope),
        block.add("Unsqueeze", column, axes=(0,), scope=scope),
    )
    turn = block.add("Div", block.add("Mod", product, count, scope=scope), count, scope=scope)
    angle = block.add("MulScalar", turn, value=2 * pi, scope=scope)
    cosine = block.add("Cos", angle, scope=scope)
    if op == "DCT":
        return (str(block.add("MulScalar", cosine, value=2.0, scope=scope)),)
    return str(cosine), str(block.add("Sin", angle, scope=scope))


def _transformed(block: BlockBuilder, layer: Layer, hidden: int) -> str:
    """The transform of each head along sequence and features, real part; no residual, as in the benchmark."""
    size = hidden // layer.heads
    x = linear(block, "x", "operation.input", hidden)
    x = block.add("Reshape", x, scope="operation", shape=(0, 0, layer.heads, size))
    x = block.add("Transpose", x, scope="operation", perm=(0, 2, 1, 3))
    inner = transform(block, layer.op, size)
    if layer.op == "DCT":
        turned = block.add("Transpose", inner[0], scope="operation", perm=(1, 0))
        y = block.add("MatMul", block.add("MatMul", "cosine", x), turned)
    else:
        real, imaginary = (
            block.add("MatMul", block.add("MatMul", outer, x), table)
            for outer, table in zip(("cos", "sin"), inner, strict=True)
        )
        y = block.add("Sub", real, imaginary, scope="operation")
    y = block.add("Transpose", y, scope="operation", perm=(0, 2, 1, 3))
    return str(block.add("Reshape", y, scope="operation", shape=(0, 0, hidden)))


def _attended(block: BlockBuilder, layer: Layer, hidden: int) -> str:
    q, k, v = (linear(block, "x", f"operation.{part}", hidden) for part in ("query", "key", "value"))
    if layer.op == "WMA":
        q = linear(block, q, "operation.weight", hidden, bias=False)
    return str(block.add("Attention", q, k, v, scope="operation", num_heads=layer.heads))


def _convolved(block: BlockBuilder, layer: Layer, hidden: int) -> str:
    """Half of the heads attend; the others convolve with a kernel made at each position from what is near it."""
    kernel, heads, width = int(layer.op[3:]), layer.heads // 2, hidden // 2
    q, k, v = (linear(block, "x", f"operation.{part}", width) for part in ("query", "key", "value"))
    near = block.add(
        "SeparableConv1d", "x", name="operation.key_conv_attn_layer", scope="operation", out_features=width,
        kernel_size=kernel, causal=False,
    )  # fmt: skip
    taps = linear(
        block, str(block.add("Mul", near, q, scope="operation")), "operation.conv_kernel_layer", heads * kernel
    )
    taps = block.add("Softmax", block.add("Reshape", taps, scope="operation", shape=(0, 0, heads, kernel)), axis=-1)
    taps = block.add("Unsqueeze", taps, scope="operation", axes=(4,))
    values, pad = linear(block, "x", "operation.conv_out_layer", width), kernel // 2
    wide = block.add("Pad", values, scope="operation", pads=(0, pad, 0, 0, pad, 0))
    shifted = [
        block.add("Slice", wide, scope="operation", axis=1, start=i, end=i - kernel + 1 or None) for i in range(kernel)
    ]
    window = block.add("Stack", *shifted, scope="operation", axis=3)
    window = block.add("Reshape", window, scope="operation", shape=(0, 0, heads, width // heads, kernel))
    mixed = block.add("Reshape", block.add("MatMul", window, taps), scope="operation", shape=(0, 0, width))
    seen = block.add("Attention", q, k, v, scope="operation", num_heads=heads)
    return str(block.add("Concat", seen, mixed, scope="operation", axis=2))


def read_layers(graph: Graph) -> list[Layer]:
    """The layers of a graph made by `make_graph`."""
    return [_read_layer(graph.block_map[node.callee]) for node in graph.main.nodes if node.is_call]


def _read_layer(block: Block) -> Layer:
    last = maker(block, maker(block, block.outputs[0]).inputs[0])
    start, value, count = last.inputs[1], maker(block, last.inputs[0]).inputs[0], 0
    while value != start:
        inner = maker(block, maker(block, value).inputs[0])
        ffn, value, count = inner.attr_map["out_features"], inner.inputs[0], count + 1
    kinds = {node.op: node.attr_map for node in block.nodes}
    if "SeparableConv1d" in kinds:
        op = f"DSC{kinds['SeparableConv1d']['kernel_size']}"
        heads = 2 * kinds["Attention"]["num_heads"]
    elif "Attention" in kinds:
        heads = kinds["Attention"]["num_heads"]
        weighted = any(node.op == "Linear" and not node.attr_map["bias"] for node in block.nodes)
        op = "WMA" if weighted else "SDP"
    else:
        op = "DFT" if len(block.inputs) == 3 else "DCT"
        heads = next(node for node in block.nodes if node.op == "Reshape").attr_map["shape"][2]
    return Layer(op=op, heads=heads, ffn=ffn, num_ffn=count)
