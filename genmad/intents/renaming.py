"""Other names for the same modules, for training only: a model is to look names up and not to remember them."""

import random
from dataclasses import replace

from genmad.intents.anatomy import SIDES
from genmad.intents.nonsense import word
from genmad.ir.graph import Block, Graph, Node, Value

_GROUPS: tuple[tuple[str, ...], ...] = (
    ("h", "layers", "layer", "blocks", "block", "stack", "units", "cells", "body", "tower"),
    ("attn", "attention", "self_attn", "self_attention", "mixer", "mha", "att", "SelfAttention", "token_mixer", "sa"),
    ("mlp", "ffn", "feed_forward", "ff", "DenseReluDense", "channel_mixer", "fc", "intermediate", "mlp_block"),
    ("c_attn", "qkv", "query_key_value", "qkv_proj", "in_proj", "Wqkv", "wqkv"),
    ("q_proj", "query", "q", "to_q", "wq", "q_lin", "query_proj"), ("k_proj", "key", "k", "to_k", "wk", "k_lin",
    "key_proj"),
    ("v_proj", "value", "v", "to_v", "wv", "v_lin", "value_proj"), ("o_proj", "out_proj", "o", "to_out", "wo",
    "out_lin", "proj", "c_proj", "dense"),
    ("c_fc", "fc1", "wi", "up_proj", "w1", "lin1", "dense_h_to_4h", "fc_in", "pwconv1"), ("fc2", "down_proj", "w2",
    "lin2", "fc_out", "pwconv2", "dense_4h_to_h"),
    ("gate_proj", "w3", "gate", "wi_0", "linear_v"), ("act", "act_fn", "activation", "activation_fn",
    "nonlinearity", "intermediate_act_fn"),
    ("ln_1", "input_layernorm", "norm1", "pre_norm", "attention_norm", "layernorm_before", "self_attn_layer_norm"),
    ("ln_2", "post_attention_layernorm", "norm2", "ffn_norm", "layernorm_after", "final_layer_norm"), ("LayerNorm",
    "layer_norm", "layernorm", "norm", "ln"),
    ("ln_f", "final_norm", "norm_f", "post_layernorm"), ("lm_head", "head", "output_head", "embed_out",
    "classifier", "cls"),
    ("wte", "embed_tokens", "word_embeddings", "tok_emb", "token_embedding", "embeddings"), ("wpe",
    "position_embeddings", "pos_emb", "embed_positions"),
    ("transformer", "model", "bert", "backbone", "net", "trunk", "base_model", "core"), ("convolution", "conv",
    "conv1", "conv2d", "cv"),
    ("normalization", "bn", "batch_norm", "bn1", "normalizer"), ("stages", "stage", "levels", "features", "groups"),
    ("shortcut", "downsample", "projection", "skip_proj"),
)  # fmt: skip
_SYNONYMS = {name: group for group in _GROUPS for name in group}
_SIDE_WORDS = tuple(word for pair in SIDES for word in pair)


def rename_modules(graph: Graph, rng: random.Random, share: float = 0.7) -> Graph:
    """The same graph with module names exchanged for others, everywhere alike: nodes, scopes, parameters, calls.

    Args:
        share: how many of the names change, about. Names with `encoder`, `decoder`, `text` or `vision` keep that word.
    """
    pieces = _pieces(graph)
    taken = set(pieces) | {v.name for b in graph.all_blocks for v in b.inputs}
    # What functions are called after stands in names of nodes alone, and must not be given to a module beside them.
    taken |= {piece for b in graph.all_blocks for n in b.nodes for piece in n.name.split(".")}
    table: dict[str, str] = {}
    for piece in pieces:
        if rng.random() < share:
            table[piece] = _other(piece, taken, rng)
            taken.add(table[piece])
    blocks = tuple(_renamed(block, table) for block in graph.blocks)
    return Graph(main=_renamed(graph.main, table), blocks=blocks)


def _pieces(graph: Graph) -> tuple[str, ...]:
    """Every module name that stands in a scope, in order; numbers are no names."""
    found = (p for b in graph.all_blocks for n in b.nodes for p in n.scope.split(".") if p and not p.isdigit())
    return tuple(dict.fromkeys(found))


def _other(piece: str, taken: set[str], rng: random.Random) -> str:
    side = next((s for s in _SIDE_WORDS if s in piece.lower()), "")
    if side:
        options = [f"{side}_{x}" for x in ("stack", "tower", "part", "net", "module")] + [
            f"{x}_{side}" for x in ("my", "the", "main")
        ]
    elif piece in _SYNONYMS and rng.random() < 0.75:
        options = list(_SYNONYMS[piece])
    else:
        options = []
    free = [x for x in options if x not in taken]
    if free:
        return rng.choice(free)
    stem, _, number = piece.rpartition("_")
    while True:
        name = (
            word(rng)
            + (rng.choice(("", "_", "s", "Net", "_x")) if rng.random() < 0.3 else "")
            + (f"_{number}" if stem and number.isdigit() else "")
        )
        name = f"{side}_{name}" if side else name
        if rng.random() < 0.2:
            name = name.capitalize()
        if name not in taken:
            return name


def _path(path: str, table: dict[str, str]) -> str:
    return ".".join(table.get(piece, piece) for piece in path.split("."))


def _name(node: Node, table: dict[str, str]) -> str:
    """Renames the module path of a node; the op's own word behind it stays (`attn.split`, `add_1`)."""
    if node.scope and (node.name == node.scope or node.name.startswith(node.scope + ".")):
        return _path(node.scope, table) + node.name[len(node.scope) :]
    head, dot, last = node.name.rpartition(".")
    return (_path(head, table) if head else "") + dot + last


def _renamed(block: Block, table: dict[str, str]) -> Block:
    names = {node.name: _name(node, table) for node in block.nodes}

    def value(name: str) -> str:
        owner, colon, index = name.partition(":")
        return names.get(owner, owner) + colon + index

    nodes = tuple(
        replace(
            node, name=names[node.name], inputs=tuple(value(v) for v in node.inputs), scope=_path(node.scope, table),
            params=tuple((slot, _path(name, table)) for slot, name in node.params),
        )
        for node in block.nodes
    )  # fmt: skip
    inputs = tuple(Value(v.name, v.type) for v in block.inputs)
    return Block(name=block.name, inputs=inputs, nodes=nodes, outputs=tuple(value(v) for v in block.outputs))
