"""The graph transformer: reads a graph and a prompt, writes an edit script with pointers into both.

Encoder: per layer, message passing along edges (GATv2, Brody et al. 2022), global attention with a bias per
directed-distance relation (as in Graphormer, Ying et al. 2021, section 3.1.2), attention to the prompt, feed-forward.
Decoder: causal, with a key/value cache; each step chooses among vocabulary words, graph tokens and prompt numbers in
one softmax (pointer networks, Vinyals et al. 2015). Heads on the encoder restore masked ops and hidden links.
"""

# B examples, N graph tokens, F fields, P name pieces, E edges, T prompt pieces, L script tokens, V vocabulary, D model,
# H heads, M = N + T memory, K head size.

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch_geometric.nn import GATv2Conv
from transformers import PretrainedConfig, PreTrainedModel

from genmad.model.batch import ScriptBatch, SourceBatch

NEG_INF = -1e9


class GraphTransformerConfig(PretrainedConfig):
    """Sizes of a graph transformer; `num_*` of the tables come from the vocabulary and the tokenizer.

    `confidence_scale` and `confidence_shift` make probabilities of whole scripts into confidences (Platt scaling: they
    are applied to the log-odds); 1 and 0 leave them as they are.
    """

    model_type = "genmad-graph-transformer"

    def __init__(
        self, num_words: int = 8, num_fields: int = 8, num_values: int = 8, num_pieces: int = 8,
        num_relations: int = 8, num_edge_kinds: int = 8, hidden_size: int = 128, num_heads: int = 4,
        num_text_layers: int = 2, num_encoder_layers: int = 4, num_decoder_layers: int = 3, max_script: int = 256,
        dropout: float = 0.1, num_word_vectors: int = 1,
        word_vector_size: int = 64, num_matches: int = 13, confidence_scale: float = 1.0,
        confidence_shift: float = 0.0, **kwargs: Any,
    ) -> None:  # fmt: skip
        self.num_words, self.num_fields, self.num_values = num_words, num_fields, num_values
        self.num_pieces, self.num_relations, self.num_edge_kinds = num_pieces, num_relations, num_edge_kinds
        self.hidden_size, self.num_heads = hidden_size, num_heads
        self.num_text_layers, self.num_matches = num_text_layers, num_matches
        self.num_encoder_layers, self.num_decoder_layers = num_encoder_layers, num_decoder_layers
        self.max_script, self.dropout = max_script, dropout
        self.num_word_vectors, self.word_vector_size = num_word_vectors, word_vector_size
        self.confidence_scale, self.confidence_shift = confidence_scale, confidence_shift
        super().__init__(**kwargs)


class FeedForward(nn.Module):
    """Pre-norm GELU feed-forward of four times the width, added to its input."""

    def __init__(self, size: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(size)
        self.up = nn.Linear(size, 4 * size)
        self.down = nn.Linear(4 * size, size)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.dropout(self.down(F.gelu(self.up(self.norm(x)))))


class MultiHeadAttention(nn.Module):
    """Pre-norm attention added to its input; keys and values from the input itself or from a memory."""

    def __init__(self, size: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm = nn.LayerNorm(size)
        self.query = nn.Linear(size, size)
        self.key_value = nn.Linear(size, 2 * size)
        self.out = nn.Linear(size, size)
        self.dropout = nn.Dropout(dropout)

    def keys_values(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        key_BHMK, value_BHMK = rearrange(
            self.key_value(memory), "b m (two h k) -> two b h m k", two=2, h=self.num_heads
        )
        return key_BHMK, value_BHMK

    def attend(self, x_BLD: Tensor, key_BHMK: Tensor, value_BHMK: Tensor, bias: Tensor | None) -> Tensor:
        """`x_BLD` is the normalised input; `bias` broadcasts to [B, H, L, M]."""
        query_BHLK = rearrange(self.query(x_BLD), "b l (h k) -> b h l k", h=self.num_heads)
        bias = bias.to(query_BHLK.dtype) if bias is not None else None
        mixed = _mix(query_BHLK, key_BHMK, value_BHMK, bias)
        return self.dropout(self.out(rearrange(mixed, "b h l k -> b l (h k)")))

    def forward(self, x_BLD: Tensor, bias: Tensor | None = None, memory_BMD: Tensor | None = None) -> Tensor:
        normed = self.norm(x_BLD)
        keys, values = self.keys_values(normed if memory_BMD is None else memory_BMD)
        return x_BLD + self.attend(normed, keys, values, bias)


def _mix(query_BHLK: Tensor, key_BHMK: Tensor, value_BHMK: Tensor, bias: Tensor | None) -> Tensor:
    """Scaled dot-product attention.

    In bfloat16 on a CPU, torch 2.13's kernels take 3 to 6 times as long as plain products at our sizes (forward and
    backward at B=40, L=48 and B=27, L=108).
    """
    if query_BHLK.device.type != "cpu" or query_BHLK.dtype != torch.bfloat16:
        return F.scaled_dot_product_attention(query_BHLK, key_BHMK, value_BHMK, attn_mask=bias)
    with torch.autocast("cpu", enabled=False):
        scores = (query_BHLK @ key_BHMK.transpose(-1, -2)) * query_BHLK.shape[-1] ** -0.5
        return (scores if bias is None else scores + bias).softmax(-1) @ value_BHMK


class EncoderLayer(nn.Module):
    """Local messages, global attention, attention to the prompt, feed-forward."""

    def __init__(self, config: GraphTransformerConfig) -> None:
        super().__init__()
        size, heads = config.hidden_size, config.num_heads
        self.local_norm = nn.LayerNorm(size)
        self.local = GATv2Conv(size, size // heads, heads=heads, edge_dim=size // 4, add_self_loops=False)
        self.attention = MultiHeadAttention(size, heads, config.dropout)
        self.relation = nn.Embedding(config.num_relations, heads)
        self.to_text = MultiHeadAttention(size, heads, config.dropout)
        self.feed_forward = FeedForward(size, config.dropout)

    def forward(
        self, x_BND: Tensor, text_BTD: Tensor, edges_2E: Tensor, edge_features: Tensor, relation_BNN: Tensor,
        node_bias: Tensor, text_bias: Tensor,
    ) -> Tensor:  # fmt: skip
        batch = x_BND.shape[0]
        flat = rearrange(self.local_norm(x_BND), "b n d -> (b n) d")
        with torch.autocast(device_type=flat.device.type, enabled=False):
            messages = self.local(flat.float(), edges_2E, edge_features.float())
        x_BND = x_BND + rearrange(messages, "(b n) d -> b n d", b=batch)
        bias = rearrange(self.relation(relation_BNN), "b n m h -> b h n m") + node_bias
        x_BND = self.attention(x_BND, bias)
        x_BND = self.to_text(x_BND, text_bias, text_BTD)
        return self.feed_forward(x_BND)


class DecoderLayer(nn.Module):
    """Causal attention with a cache, attention to graph and prompt, feed-forward."""

    def __init__(self, config: GraphTransformerConfig) -> None:
        super().__init__()
        self.attention = MultiHeadAttention(config.hidden_size, config.num_heads, config.dropout)
        self.to_memory = MultiHeadAttention(config.hidden_size, config.num_heads, config.dropout)
        self.feed_forward = FeedForward(config.hidden_size, config.dropout)

    def forward(
        self, x_BLD: Tensor, past: tuple[Tensor, Tensor] | None, memory: tuple[Tensor, Tensor], memory_bias: Tensor
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        normed = self.attention.norm(x_BLD)
        keys, values = self.attention.keys_values(normed)
        bias = None
        if past is not None:
            keys, values = torch.cat([past[0], keys], 2), torch.cat([past[1], values], 2)
        else:
            length = x_BLD.shape[1]
            bias = torch.full((length, length), NEG_INF, device=x_BLD.device).triu(1)
        x_BLD = x_BLD + self.attention.attend(normed, keys, values, bias)
        x_BLD = x_BLD + self.to_memory.attend(self.to_memory.norm(x_BLD), *memory, memory_bias)
        return self.feed_forward(x_BLD), (keys, values)


@dataclass
class Encoded:
    """A read source. `memory_bias` masks padding; `memories` are the decoder layers' keys and values over it."""

    nodes_BND: Tensor
    text_BTD: Tensor
    memory_bias: Tensor
    memories: list[tuple[Tensor, Tensor]]

    def rows(self, rows: Tensor) -> "Encoded":
        """These examples alone."""
        memories = [(keys[rows], values[rows]) for keys, values in self.memories]
        return Encoded(self.nodes_BND[rows], self.text_BTD[rows], self.memory_bias[rows], memories)


class GraphTransformer(PreTrainedModel):
    """See the module's text. Built from a `GraphTransformerConfig`; loads and saves as transformers models do."""

    config_class = GraphTransformerConfig
    config: GraphTransformerConfig

    def __init__(self, config: GraphTransformerConfig) -> None:
        super().__init__(config)
        size = config.hidden_size
        self.words = nn.Embedding(config.num_words, size)
        self.fields = nn.Embedding(config.num_fields, size // 2, padding_idx=0)
        self.numbers = nn.Embedding(config.num_values + 1, size // 2)
        self.field_mix = nn.Linear(size // 2, size)
        self.pieces = nn.Embedding(config.num_pieces, size, padding_idx=0)
        self.match_in, self.match_out = nn.Linear(config.num_matches, size // 2), nn.Linear(size // 2, size)
        self.mark = nn.Embedding(4, size)
        self.number_mix = nn.Linear(size // 2, size)
        self.text_position = nn.Embedding(512, size)
        self.word_vectors = nn.Embedding(config.num_word_vectors, config.word_vector_size)
        self.word_vectors.weight.requires_grad_(False)
        self.word_mix = nn.Linear(config.word_vector_size, size, bias=False)
        nn.init.zeros_(self.word_mix.weight)
        self.text_layers = nn.ModuleList(
            nn.ModuleList(
                [MultiHeadAttention(size, config.num_heads, config.dropout), FeedForward(size, config.dropout)]
            )
            for _ in range(config.num_text_layers)
        )
        self.text_norm = nn.LayerNorm(size)
        self.edge_kinds = nn.Embedding(config.num_edge_kinds, size // 4)
        self.encoder_layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.num_encoder_layers))
        self.node_norm = nn.LayerNorm(size)
        self.script_position = nn.Embedding(config.max_script, size)
        self.node_in, self.text_in = nn.Linear(size, size), nn.Linear(size, size)
        self.decoder_layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.num_decoder_layers))
        self.script_norm = nn.LayerNorm(size)
        self.node_key, self.text_key = nn.Linear(size, size), nn.Linear(size, size)
        self.node_query, self.text_query = nn.Linear(size, size), nn.Linear(size, size)
        self.word_bias = nn.Parameter(torch.zeros(config.num_words))
        self.op_head = nn.Linear(size, config.num_words)
        self.slots = nn.Embedding(16, size)
        self.link_query, self.link_key = nn.Linear(size, size), nn.Linear(size, size)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Small normal tables; linear layers as torch makes them."""
        if isinstance(module, nn.Embedding):
            module.weight.data.normal_(0.0, 0.05)

    def encode(self, source: SourceBatch) -> Encoded:
        """Reads graphs and prompts."""
        text_bias = (source.text_BT == 0).float()[:, None, None] * NEG_INF
        text_BTD = self._encode_text(source, text_bias)
        node_bias = (source.op_BN == 0).float()[:, None, None] * NEG_INF
        x_BND = self._embed_nodes(source)
        edge_features = self.edge_kinds(source.kinds_E)
        relation = source.relation_BNN.int()
        for layer in self.encoder_layers:
            x_BND = layer(x_BND, text_BTD, source.edges_2E, edge_features, relation, node_bias, text_bias)
        nodes_BND = self.node_norm(x_BND)
        memory_BMD = torch.cat([nodes_BND, text_BTD], 1)
        decoders = cast("Iterable[DecoderLayer]", self.decoder_layers)
        memories = [layer.to_memory.keys_values(memory_BMD) for layer in decoders]
        return Encoded(nodes_BND, text_BTD, torch.cat([node_bias, text_bias], -1), memories)

    def _encode_text(self, source: SourceBatch, text_bias: Tensor) -> Tensor:
        length = source.text_BT.shape[1]
        numbers = self.number_mix(self.numbers(source.number_BT)) * (source.number_BT > 0)[..., None]
        text_BTD = self.pieces(source.text_BT) + self.mark(source.mark_BT) + numbers
        text_BTD = text_BTD + self.word_mix(self.word_vectors(source.word_BT)) + self.text_position.weight[:length]
        layers = cast("Iterable[tuple[MultiHeadAttention, FeedForward]]", self.text_layers)
        for attention, feed_forward in layers:
            text_BTD = feed_forward(attention(text_BTD, text_bias))
        return self.text_norm(text_BTD)

    def _embed_nodes(self, source: SourceBatch) -> Tensor:
        known = (source.fields_BNF > 0)[..., None]
        pairs = self.fields(source.fields_BNF) + self.numbers(source.values_BNF + 1)
        fields_BND = self.field_mix((F.gelu(pairs) * known).sum(2))
        count = (source.pieces_BNP > 0).sum(-1, keepdim=True).clamp(min=1)
        names_BND = self.pieces(source.pieces_BNP).sum(2) / count.sqrt()
        bits = torch.arange(self.config.num_matches, device=source.match_BN.device)
        matches = (source.match_BN[..., None] >> bits & 1).to(names_BND.dtype)
        matches_BND = self.match_out(F.gelu(self.match_in(matches)))
        return self.words(source.op_BN) + fields_BND + names_BND + matches_BND

    def embed_script(self, encoded: Encoded, kind_BL: Tensor, index_BL: Tensor, start: int = 0) -> Tensor:
        """Input embeddings of written tokens at positions `start` on."""
        size = encoded.nodes_BND.shape[-1]
        words = self.words(torch.where(kind_BL == 0, index_BL, 0))
        nodes = self.node_in(_pick(encoded.nodes_BND, torch.where(kind_BL == 1, index_BL, 0), size))
        texts = self.text_in(_pick(encoded.text_BTD, torch.where(kind_BL == 2, index_BL, 0), size))
        kind = kind_BL[..., None]
        x_BLD = torch.where(kind == 1, nodes, torch.where(kind == 2, texts, words))
        return x_BLD + self.script_position.weight[start : start + kind_BL.shape[1]]

    def decode(
        self, encoded: Encoded, x_BLD: Tensor, past: list[tuple[Tensor, Tensor]] | None = None
    ) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """Hidden states of script positions and the cache to go on from."""
        cache = []
        for i, layer in enumerate(self.decoder_layers):
            x_BLD, kept = layer(x_BLD, past[i] if past else None, encoded.memories[i], encoded.memory_bias)
            cache.append(kept)
        return self.script_norm(x_BLD), cache

    def logits(self, encoded: Encoded, hidden_BLD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Unmasked scores of words [B,L,V], graph tokens [B,L,N] and prompt pieces [B,L,T]."""
        scale = 1 / math.sqrt(hidden_BLD.shape[-1])
        words = hidden_BLD @ self.words.weight.T + self.word_bias
        nodes = self.node_query(hidden_BLD) @ self.node_key(encoded.nodes_BND).transpose(1, 2) * scale
        texts = self.text_query(hidden_BLD) @ self.text_key(encoded.text_BTD).transpose(1, 2) * scale
        return words, nodes, texts

    def script_loss(self, source: SourceBatch, script: ScriptBatch, bos: int) -> tuple[Tensor, Tensor]:
        """Negative log-likelihood per token [B,L] under the grammar, zero on padding; whether each is the likeliest."""
        encoded = self.encode(source)
        lengths = (script.kind_BL >= 0).sum(1)
        loss = torch.zeros(script.kind_BL.shape, device=lengths.device)
        right = torch.zeros_like(script.kind_BL, dtype=torch.bool)
        for rows in _alike(lengths):
            most = int(lengths[rows].max())
            loss[rows, :most], right[rows, :most] = self._script_loss(encoded.rows(rows), script.rows(rows, most), bos)
        return loss, right

    def _script_loss(self, encoded: Encoded, script: ScriptBatch, bos: int) -> tuple[Tensor, Tensor]:
        kind_in = torch.cat([torch.zeros_like(script.kind_BL[:, :1]), script.kind_BL[:, :-1]], 1)
        index_in = torch.cat([torch.full_like(script.index_BL[:, :1], bos), script.index_BL[:, :-1]], 1)
        hidden, _ = self.decode(encoded, self.embed_script(encoded, kind_in.clamp(min=0), index_in))
        words, nodes, texts = self.logits(encoded, hidden)
        joint = torch.cat([words, nodes, texts], -1).float()
        allowed = torch.cat([script.words_BLV, script.nodes_BLN, script.texts_BLT], -1)
        offsets = torch.tensor([0, words.shape[-1], words.shape[-1] + nodes.shape[-1]], device=joint.device)
        real = script.kind_BL >= 0
        target = torch.where(real, offsets[script.kind_BL.clamp(min=0)] + script.index_BL, 0)
        joint = joint.masked_fill(~allowed, NEG_INF)
        loss = F.cross_entropy(joint.transpose(1, 2), target, reduction="none") * real
        return loss, (joint.argmax(-1) == target) & real

    def op_logits(self, encoded: Encoded) -> Tensor:
        """Scores of each token's op, [B,N,V]."""
        return self.op_head(encoded.nodes_BND)

    def link_logits(self, encoded: Encoded, consumer_Q: Tensor, slot_Q: Tensor, example_Q: Tensor) -> Tensor:
        """Scores of each token as the producer of a hidden input, [Q,N]; Q hidden links, each in one example."""
        query = self.link_query(encoded.nodes_BND[example_Q, consumer_Q] + self.slots(slot_Q.clamp(max=15)))
        keys = self.link_key(encoded.nodes_BND)[example_Q]
        return (keys @ query[..., None]).squeeze(-1) / math.sqrt(query.shape[-1])


def _alike(lengths: Tensor) -> list[Tensor]:
    """Rows of scripts that are decoded together, shortest first: a group's longest is at most 1.6 times its shortest
    or 12 tokens longer, so that little of it is padding."""
    order = lengths.argsort()
    groups: list[list[int]] = []
    first = -1
    for row in order.tolist():
        length = int(lengths[row])
        if first < 0 or length > max(1.6 * first, first + 12):
            groups.append([])
            first = length
        groups[-1].append(row)
    return [torch.tensor(group, device=lengths.device) for group in groups]


def _pick(table_BND: Tensor, index_BL: Tensor, size: int) -> Tensor:
    return table_BND.gather(1, index_BL[..., None].expand(-1, -1, size))
