"""Mixture-of-experts layers of transformers as one record, through the library's own interface.

Experts that choose their tokens by data are loops over tensors of unknown length. A layer that asks
`ExpertsInterface` for "genmad" hands us its tokens and their experts instead: where its formula is one that the op
`RoutedExperts` has, it arrives as that op, else as gathers of weights and batched products.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from genmad.importers.probes import probe_activation
from genmad.importers.trace import Tracer

NAME = "genmad"
_INNER = {
    ("Gelu", "none"): "gelu", ("Gelu", "tanh"): "gelu_tanh", ("Silu", ""): "silu", ("Relu", ""): "relu",
    ("Sigmoid", ""): "sigmoid", ("Tanh", ""): "tanh", ("Identity", ""): "identity",
}  # fmt: skip


def genmad_experts(module: Any, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
    """tokens [T, D], experts int64[T, K] and weights [T, K] -> [T, D]."""
    tracer = Tracer.current
    attrs = _formula(module, hidden_states, top_k_index)
    if tracer is None or attrs is None:
        from transformers.integrations.moe import batched_mm_experts_forward

        return batched_mm_experts_forward(module, hidden_states, top_k_index, top_k_weights)  # type: ignore[no-any-return]
    up = "gate_up_proj" if attrs["gated"] else "up_proj"
    names = {"up_weight": up, "down_weight": "down_proj"}
    names |= {"up_bias": f"{up}_bias", "down_bias": "down_proj_bias"} if attrs["bias"] else {}
    params = {slot: getattr(module, name) for slot, name in names.items()}
    weights = top_k_weights.to(hidden_states.dtype)
    out = torch.empty(hidden_states.shape, dtype=hidden_states.dtype, device="meta")
    return tracer.record_leaf("RoutedExperts", (hidden_states, top_k_index, weights), attrs, params, out)


def _formula(module: Any, tokens: Tensor, index: Tensor) -> Mapping[str, Any] | None:
    """Attributes of the `RoutedExperts` that the layer is, or None."""
    from transformers.integrations.moe import _default_apply_gate

    plain = not module.has_gate or (type(module)._apply_gate is _default_apply_gate and module.is_concatenated)
    if not plain or module.has_post_expert_norm or module._is_expert_parallel or tokens.dim() != 2 or index.dim() != 2:
        return None
    up = getattr(module, "gate_up_proj" if module.has_gate else "up_proj", None)
    activation = _activation(getattr(module, "act_fn", None))
    if not isinstance(up, nn.Parameter) or up.dim() != 3 or activation is None or index.shape[1] > up.shape[0]:
        return None
    first = up.shape[2] if module.is_transposed else up.shape[1]
    hidden = first // 2 if module.has_gate else first
    return {
        "num_experts": up.shape[0], "hidden_features": hidden, "activation": activation, "gated": module.has_gate,
        "bias": module.has_bias, "transposed": module.is_transposed,
    }  # fmt: skip


def _activation(module: Any) -> str | None:
    found = probe_activation(module) if isinstance(module, nn.Module) else None
    return _INNER.get((found[0], found[1].get("approximate", ""))) if found else None


@contextmanager
def one_node_experts(module: nn.Module) -> Iterator[None]:
    """Every layer of experts inside `module` asks for ours while the context is open."""
    found: list[Any] = [
        m.config for m in module.modules() if hasattr(m, "_is_expert_parallel") and hasattr(m, "config")
    ]
    before = [(c, getattr(c, "_experts_implementation_internal", None)) for c in {id(c): c for c in found}.values()]
    if before:
        from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

        ALL_EXPERTS_FUNCTIONS.register(NAME, genmad_experts)
    try:
        for config, _ in before:
            config._experts_implementation_internal = NAME
        yield
    finally:
        for config, name in before:
            config._experts_implementation_internal = name
