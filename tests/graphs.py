"""Small graphs in the shape that importing real models gives: names, scopes, calls and ties as in transformers."""

from collections.abc import Sequence
from typing import Any

from genmad.ir.build import BlockBuilder, GraphBuilder
from genmad.ir.graph import Graph
from genmad.ops import OPSET


def _positions(main: BlockBuilder, ids: str, word: str, position: str, vocab: int, width: int) -> str:
    """Word and position embeddings of `ids`, added: [batch,seq,width]."""
    words = main.add("Embedding", ids, name=word, scope=word, num_embeddings=vocab, embedding_dim=width)
    scope = word.rpartition(".")[0]
    steps = main.add("Arange", scope=scope, start=0, end=main.types[ids].shape[1])
    where = main.add("Embedding", steps, name=position, scope=position, num_embeddings=64, embedding_dim=width)
    return str(main.add("Add", words, where, scope=scope))


def _attention(
    block: BlockBuilder, x: str, memory: str, scope: str, names: Sequence[str], width: int, heads: int,
        kv_heads: int = 0,
    *, bias: bool = True, causal: bool = False, window: int | None = None,
) -> str:  # fmt: skip
    """Separate q, k and v projections, attention and the output projection; `names` are the four modules'."""
    kv_width = width // heads * (kv_heads or heads)
    paths = [f"{scope}.{name}" for name in names]
    q = block.add("Linear", x, name=paths[0], scope=paths[0], out_features=width, bias=bias)
    k = block.add("Linear", memory, name=paths[1], scope=paths[1], out_features=kv_width, bias=bias)
    v = block.add("Linear", memory, name=paths[2], scope=paths[2], out_features=kv_width, bias=bias)
    core = paths[0].rpartition(".")[0]
    mixed = block.add("Attention", q, k, v, scope=core, num_heads=heads, causal=causal, window=window)
    return str(block.add("Linear", mixed, name=paths[3], scope=paths[3], out_features=width, bias=bias))


def gpt2_like(layers: int = 4, width: int = 32, heads: int = 4, vocab: int = 50) -> Graph:
    """GPT-2: fused c_attn, tied lm_head, one shared block."""
    builder = GraphBuilder(OPSET)
    block = builder.block("GPT2Block", hidden_states=f"float32[batch,seq,{width}]")
    x = block.add("LayerNorm", "hidden_states", name="ln_1", scope="ln_1")
    fused = block.add("Linear", x, name="attn.c_attn", scope="attn.c_attn", out_features=3 * width, transposed=True)
    q, k, v = block.add("Split", fused, scope="attn", axis=-1, sizes=(width, width, width))
    x = block.add("Attention", q, k, v, scope="attn", num_heads=heads, causal=True)
    x = block.add("Linear", x, name="attn.c_proj", scope="attn.c_proj", out_features=width, transposed=True)
    middle = block.add("Add", x, "hidden_states")
    x = block.add("LayerNorm", middle, name="ln_2", scope="ln_2")
    x = block.add("Linear", x, name="mlp.c_fc", scope="mlp.c_fc", out_features=4 * width, transposed=True)
    x = block.add("Gelu", x, name="mlp.act", scope="mlp.act", approximate="tanh")
    x = block.add("Linear", x, name="mlp.c_proj", scope="mlp.c_proj", out_features=width, transposed=True)
    block.finish(block.add("Add", middle, x))
    main = builder.block("GPT2LMHeadModel", input_ids="int64[batch,seq]")
    x = _positions(main, "input_ids", "transformer.wte", "transformer.wpe", vocab, width)
    for i in range(layers):
        x = main.add("@GPT2Block", x, name=f"transformer.h.{i}")
    x = main.add("LayerNorm", x, name="transformer.ln_f", scope="transformer.ln_f")
    tied = {"weight": "transformer.wte.weight"}
    x = main.add("Linear", x, name="lm_head", scope="lm_head", out_features=vocab, bias=False, params=tied)
    return builder.build(main.finish(x))


def llama_like(
    layers: int = 4, width: int = 32, heads: int = 4, kv_heads: int = 2, window: int | None = None,
    alternate: bool = False, vocab: int = 50,
) -> Graph:  # fmt: skip
    """Llama or Mistral (`window`), or with every other layer windowed as in Gemma 2 (`alternate`)."""
    builder = GraphBuilder(OPSET)
    size = width // heads
    wide = builder.block(
        "Layer", hidden_states=f"float32[batch,seq,{width}]", cos=f"float32[1,seq,{size}]", sin=f"float32[1,seq,{size}]"
    )
    _llama_layer(wide, width, heads, kv_heads, None if alternate else window)
    names = ["Layer"]
    if alternate:
        local = builder.block("Layer_1", wide.inputs)
        _llama_layer(local, width, heads, kv_heads, window or 8)
        names = ["Layer_1", "Layer"]
    main = builder.block("LlamaForCausalLM", input_ids="int64[batch,seq]")
    x = main.add(
        "Embedding",
        "input_ids",
        name="model.embed_tokens",
        scope="model.embed_tokens",
        num_embeddings=vocab,
        embedding_dim=width,
    )
    steps = main.add("Arange", scope="model", start=0, end=main.types["input_ids"].shape[1])
    steps = main.add("Unsqueeze", steps, scope="model", axes=(0,))
    cos, sin = main.add("RotaryTable", steps, name="model.rotary_emb", scope="model.rotary_emb", dim=size)
    for i in range(layers):
        x = main.add("@" + names[i % len(names)], x, cos, sin, name=f"model.layers.{i}")
    x = main.add("RMSNorm", x, name="model.norm", scope="model.norm")
    x = main.add("Linear", x, name="lm_head", scope="lm_head", out_features=vocab, bias=False)
    return builder.build(main.finish(x))


def _llama_layer(block: BlockBuilder, width: int, heads: int, kv_heads: int, window: int | None) -> None:
    kv_width = width // heads * kv_heads
    x = block.add("RMSNorm", "hidden_states", name="input_layernorm", scope="input_layernorm")
    q, k, v = (
        block.add("Linear", x, name=f"self_attn.{n}_proj", scope=f"self_attn.{n}_proj", out_features=size, bias=False)
        for n, size in (("q", width), ("k", kv_width), ("v", kv_width))
    )
    q = block.add("RotaryEmbedding", q, "cos", "sin", scope="self_attn", num_heads=heads)
    k = block.add("RotaryEmbedding", k, "cos", "sin", scope="self_attn", num_heads=kv_heads)
    x = block.add("Attention", q, k, v, scope="self_attn", num_heads=heads, causal=True, window=window)
    x = block.add("Linear", x, name="self_attn.o_proj", scope="self_attn.o_proj", out_features=width, bias=False)
    middle = block.add("Add", "hidden_states", x)
    x = block.add("RMSNorm", middle, name="post_attention_layernorm", scope="post_attention_layernorm")
    gate = block.add("Linear", x, name="mlp.gate_proj", scope="mlp.gate_proj", out_features=2 * width, bias=False)
    gate = block.add("Silu", gate, name="mlp.act_fn", scope="mlp.act_fn")
    up = block.add("Linear", x, name="mlp.up_proj", scope="mlp.up_proj", out_features=2 * width, bias=False)
    x = block.add("Mul", gate, up, scope="mlp")
    x = block.add("Linear", x, name="mlp.down_proj", scope="mlp.down_proj", out_features=width, bias=False)
    block.finish(block.add("Add", middle, x))


def bert_like(layers: int = 4, width: int = 32, heads: int = 4, vocab: int = 50) -> Graph:
    """BERT: post-norm layers, not causal, separate projections."""
    builder = GraphBuilder(OPSET)
    block = builder.block("BertLayer", hidden_states=f"float32[batch,seq,{width}]")
    names = ("self.query", "self.key", "self.value", "output.dense")
    x = _attention(block, "hidden_states", "hidden_states", "attention", names, width, heads)
    x = block.add("Add", x, "hidden_states", scope="attention.output")
    middle = block.add("LayerNorm", x, name="attention.output.LayerNorm", scope="attention.output.LayerNorm")
    x = block.add("Linear", middle, name="intermediate.dense", scope="intermediate.dense", out_features=4 * width)
    x = block.add("Gelu", x, name="intermediate.intermediate_act_fn", scope="intermediate.intermediate_act_fn")
    x = block.add("Linear", x, name="output.dense", scope="output.dense", out_features=width)
    x = block.add("Add", x, middle, scope="output")
    block.finish(block.add("LayerNorm", x, name="output.LayerNorm", scope="output.LayerNorm"))
    main = builder.block("BertModel", input_ids="int64[batch,seq]")
    words = ("bert.embeddings.word_embeddings", "bert.embeddings.position_embeddings")
    x = _positions(main, "input_ids", *words, vocab, width)
    x = main.add("LayerNorm", x, name="bert.embeddings.LayerNorm", scope="bert.embeddings.LayerNorm")
    for i in range(layers):
        x = main.add("@BertLayer", x, name=f"bert.encoder.layer.{i}")
    return builder.build(main.finish(x))


def t5_like(layers: int = 3, width: int = 32, heads: int = 4, vocab: int = 50) -> Graph:
    """T5 in outline: an encoder, and a decoder whose layers also attend to the encoder; no position bias."""
    builder = GraphBuilder(OPSET)
    for name, decodes in (("EncoderBlock", False), ("DecoderBlock", True)):
        block = builder.block(name, x=f"float32[batch,{'target' if decodes else 'seq'},{width}]")
        if decodes:
            block = builder.block(name, block.inputs, memory=f"float32[batch,seq,{width}]")
        _t5_layer(block, width, heads, decodes)
    main = builder.block("T5", input_ids="int64[batch,seq]", decoder_input_ids="int64[batch,target]")
    memory = main.add(
        "Embedding", "input_ids", name="shared", scope="shared", num_embeddings=vocab, embedding_dim=width
    )
    for i in range(layers):
        memory = main.add("@EncoderBlock", memory, name=f"encoder.block.{i}")
    memory = main.add("RMSNorm", memory, name="encoder.final_layer_norm", scope="encoder.final_layer_norm")
    tied = {"weight": "shared.weight"}
    x = main.add("Embedding", "decoder_input_ids", name="decoder.embed_tokens", scope="decoder.embed_tokens",
        num_embeddings=vocab, embedding_dim=width, params=tied)  # fmt: skip
    for i in range(layers):
        x = main.add("@DecoderBlock", x, memory, name=f"decoder.block.{i}")
    x = main.add("RMSNorm", x, name="decoder.final_layer_norm", scope="decoder.final_layer_norm")
    return builder.build(
        main.finish(main.add("Linear", x, name="lm_head", scope="lm_head", out_features=vocab, bias=False))
    )


def _t5_layer(block: BlockBuilder, width: int, heads: int, decodes: bool) -> None:
    x = "x"
    modules = [("SelfAttention", "")] + ([("EncDecAttention", "memory")] if decodes else [])
    for i, (module, memory) in enumerate(modules):
        norm = block.add("RMSNorm", x, name=f"layer.{i}.layer_norm", scope=f"layer.{i}.layer_norm")
        mixed = _attention(
            block,
            norm,
            memory or norm,
            f"layer.{i}.{module}",
            "qkvo",
            width,
            heads,
            bias=False,
            causal=decodes and not memory,
        )
        x = block.add("Add", x, mixed, scope=f"layer.{i}")
    ff = f"layer.{len(modules)}"
    hidden = block.add("RMSNorm", x, name=f"{ff}.layer_norm", scope=f"{ff}.layer_norm")
    wi, wo = f"{ff}.DenseReluDense.wi", f"{ff}.DenseReluDense.wo"
    hidden = block.add("Linear", hidden, name=wi, scope=wi, out_features=4 * width, bias=False)
    hidden = block.add("Relu", hidden, name=f"{ff}.DenseReluDense.act", scope=f"{ff}.DenseReluDense.act")
    hidden = block.add("Linear", hidden, name=wo, scope=wo, out_features=width, bias=False)
    block.finish(block.add("Add", x, hidden, scope=ff))


def resnet_like(stages: Sequence[int] = (2, 2), width: int = 16, classes: int = 10) -> Graph:
    """ResNet with basic layers: stage blocks that call layer blocks; the first layer of a stage has a shortcut conv."""
    builder = GraphBuilder(OPSET)
    size, channels, calls = 32, width, []
    for i, depth in enumerate(stages):
        stride, out = (1, width) if i == 0 else (2, channels * 2)
        kinds = [f"Layer{i}First"] + ([f"Layer{i}"] if depth > 1 else [])
        _resnet_layer(builder.block(kinds[0], x=f"float32[batch,{channels},{size},{size}]"), out, stride, i > 0)
        if depth > 1:
            _resnet_layer(
                builder.block(kinds[1], x=f"float32[batch,{out},{size // stride},{size // stride}]"), out, 1, False
            )
        stage = builder.block(f"Stage{i}", x=f"float32[batch,{channels},{size},{size}]")
        x = "x"
        for j in range(depth):
            x = stage.add("@" + kinds[min(j, 1)], x, name=f"layers.{j}")
        stage.finish(x)
        size, channels = size // stride, out
        calls.append(f"Stage{i}")
    main = builder.block("ResNet", pixel_values="float32[batch,3,64,64]")
    x = _conv_norm(main, "pixel_values", "resnet.embedder.embedder", width, 7, 2)
    x = main.add("Relu", x, name="resnet.embedder.embedder.activation", scope="resnet.embedder.embedder.activation")
    for i, name in enumerate(calls):
        x = main.add("@" + name, x, name=f"resnet.encoder.stages.{i}")
    x = main.add("GlobalAveragePool", x, name="resnet.pooler", scope="resnet.pooler")
    x = main.add("Flatten", x, name="classifier.0", scope="classifier.0", start=1, end=-1)
    return builder.build(
        main.finish(main.add("Linear", x, name="classifier.1", scope="classifier.1", out_features=classes))
    )


def _conv_norm(block: BlockBuilder, x: str, scope: str, out: int, kernel: int, stride: int) -> str:
    attrs: dict[str, Any] = {
        "kernel_size": (kernel, kernel),
        "stride": (stride, stride),
        "padding": (kernel // 2, kernel // 2),
    }
    x = block.add(
        "Conv", x, name=f"{scope}.convolution", scope=f"{scope}.convolution", out_channels=out, bias=False, **attrs
    )
    return str(block.add("BatchNorm", x, name=f"{scope}.normalization", scope=f"{scope}.normalization"))


def _resnet_layer(block: BlockBuilder, out: int, stride: int, shortcut: bool) -> None:
    skip = _conv_norm(block, "x", "shortcut", out, 1, stride) if shortcut else "x"
    x = _conv_norm(block, "x", "layer.0", out, 3, stride)
    x = block.add("Relu", x, name="layer.0.activation", scope="layer.0.activation")
    x = _conv_norm(block, x, "layer.1", out, 3, 1)
    x = block.add("Add", x, skip)
    block.finish(block.add("Relu", x, name="activation", scope="activation"))


def mobile_like(pooled: int = 3, inverted: int = 3, width: int = 16) -> Graph:
    """A backbone with a max pool, pooling mixers, inverted residuals with gates, and an upsampled map of features."""
    builder = GraphBuilder(OPSET)
    kind = f"float32[batch,{width},8,8]"
    _pool_layer(builder.block("PoolLayer", x=kind))
    _inverted_layer(builder.block("InvertedLayer", x=kind), width)
    main = builder.block("Mobile", pixel_values="float32[batch,3,32,32]")
    x = _conv_norm(main, "pixel_values", "stem", width, 3, 2)
    x = main.add("Relu", x, name="stem.activation", scope="stem.activation")
    window = {"kernel_size": (3, 3), "stride": (2, 2), "padding": (1, 1)}
    x = main.add("MaxPool", x, name="stem.pool", scope="stem.pool", **window)
    for i in range(pooled + inverted):
        x = main.add("@PoolLayer" if i < pooled else "@InvertedLayer", x, name=f"blocks.{i}", scope=f"blocks.{i}")
    x = main.add("Resize", x, name="up.resize", scope="up", size=(16, 16), mode="bilinear")
    name = "head.convolution"
    return builder.build(
        main.finish(main.add("Conv", x, name=name, scope=name, out_channels=width, kernel_size=(1, 1)))
    )


def _pool_layer(block: BlockBuilder) -> None:
    x = block.add("GroupNorm", "x", name="norm", scope="norm", num_groups=4)
    x = block.add("AveragePool", x, name="mixer", scope="mixer", kernel_size=(3, 3), stride=(1, 1), padding=(1, 1))
    block.finish(block.add("Add", "x", x))


def _inverted_layer(block: BlockBuilder, width: int) -> None:
    x = _conv_norm(block, "x", "expand", 2 * width, 1, 1)
    x = block.add("Relu6", x, name="expand.activation", scope="expand.activation")
    name = "depthwise.convolution"
    x = block.add(
        "Conv", x, name=name, scope=name, out_channels=2 * width, kernel_size=(3, 3), padding=(1, 1), groups=2 * width
    )
    x = block.add("Silu", x, name="depthwise.activation", scope="depthwise.activation")
    x = block.add("SqueezeExcite", x, name="gate", scope="gate", reduced_channels=8)
    x = _conv_norm(block, x, "project", width, 1, 1)
    block.finish(block.add("Add", "x", x))
