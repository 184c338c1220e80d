"""The graph transformer and the batches that it reads; torch is loaded when one of these names is used.

`choice_net` and `gaussian_process` are numpy only: pools are drawn without torch.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from genmad.model.batch import ScriptBatch, SourceBatch
    from genmad.model.graph_transformer import Encoded, GraphTransformer, GraphTransformerConfig

__all__ = ["Encoded", "GraphTransformer", "GraphTransformerConfig", "ScriptBatch", "SourceBatch"]


def __getattr__(name: str) -> Any:
    """Load the module that holds a public name, on first use (PEP 562)."""
    if name in ("ScriptBatch", "SourceBatch"):
        from genmad.model import batch

        return getattr(batch, name)
    if name in __all__:
        from genmad.model import graph_transformer

        return getattr(graph_transformer, name)
    raise AttributeError(f"module 'genmad.model' has no attribute {name!r}")
