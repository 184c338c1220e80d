"""The graph transformer and the batches that it reads."""

from genmad.model.batch import ScriptBatch, SourceBatch
from genmad.model.graph_transformer import Encoded, GraphTransformer, GraphTransformerConfig

__all__ = ["Encoded", "GraphTransformer", "GraphTransformerConfig", "ScriptBatch", "SourceBatch"]
