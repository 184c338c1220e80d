"""Members of language spaces in the form in which transformers calls causal language models. Loads torch."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from genmad.ir import Graph
from genmad.lowering.to_torch import to_torch

IGNORED = -100
"""Label of tokens that the loss leaves out."""


class CausalLMOutput(NamedTuple):
    """What a forward pass gives.

    Attributes:
        loss: mean cross-entropy of the next token; None without labels.
        logits: [batch, seq, vocabulary].
    """

    loss: Tensor | None
    logits: Tensor


class CausalLM(nn.Module):
    """A graph from token ids to logits, with the loss of transformers: labels are shifted here, not by the caller.

    There is no cache (`past_key_values`): global convolutions and LSH attention have no short one.
    """

    def __init__(self, graph: Graph, *, seed: int = 0) -> None:
        super().__init__()
        self.model = to_torch(graph, seed=seed)

    def forward(self, input_ids: Tensor, labels: Tensor | None = None) -> CausalLMOutput:
        """input_ids and labels int64 [batch, seq]."""
        logits = self.model(input_ids)
        if labels is None:
            return CausalLMOutput(None, logits)
        said, wanted = logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()
        return CausalLMOutput(torch.nn.functional.cross_entropy(said, wanted, ignore_index=IGNORED), logits)
