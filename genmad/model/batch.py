"""The tensors that the graph transformer reads. It sees these, never a graph."""

# B examples, N graph tokens, F fields, P name pieces, E edges, T prompt pieces, L script tokens, V vocabulary.

from dataclasses import dataclass, fields

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class SourceBatch:
    """Graphs and prompts, padded.

    Attributes:
        op_BN, fields_BNF, values_BNF, pieces_BNP: ids as in `GraphTokens`; padding has op 0.
        match_BN: a bit for each way in which the prompt may name the token (`genmad.model.collate.MATCHES`).
        edges_2E, kinds_E: over the flattened B*N tokens, both directions.
        relation_BNN: relation ids.
        text_BT, number_BT, mark_BT, word_BT: SentencePiece ids (0 = padding), number buckets + 1 (0 = no number),
            marks, rows of the table of word vectors (0 = unknown).
    """

    op_BN: Tensor
    fields_BNF: Tensor
    values_BNF: Tensor
    pieces_BNP: Tensor
    match_BN: Tensor
    edges_2E: Tensor
    kinds_E: Tensor
    relation_BNN: Tensor
    text_BT: Tensor
    number_BT: Tensor
    mark_BT: Tensor
    word_BT: Tensor

    def to(self, device: object) -> "SourceBatch":
        return SourceBatch(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})


@dataclass(frozen=True, kw_only=True)
class ScriptBatch:
    """Scripts, padded; position l holds the token that is to be written at l.

    Attributes:
        kind_BL: 0 word, 1 graph token, 2 prompt piece, -1 padding.
        index_BL: vocabulary id, token number or piece number.
        words_BLV, nodes_BLN, texts_BLT: grammar masks, True where allowed.
    """

    kind_BL: Tensor
    index_BL: Tensor
    words_BLV: Tensor
    nodes_BLN: Tensor
    texts_BLT: Tensor

    def rows(self, rows: Tensor, most: int) -> "ScriptBatch":
        """These scripts alone, the first `most` positions of each."""
        return ScriptBatch(**{f.name: getattr(self, f.name)[rows, :most] for f in fields(self)})

    def to(self, device: object) -> "ScriptBatch":
        return ScriptBatch(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})
