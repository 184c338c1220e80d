"""Attention of transformers models as one record, through the library's own interfaces.

A model that asks `AttentionInterface` for "genmad" hands us query, key and value; one that asks
`AttentionMaskInterface` hands us the rule of the mask, which we turn into causal and window.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from genmad.importers.report import UnsupportedError
from genmad.importers.trace import Tracer

NAME = "genmad"
_FAR = 1 << 17
# A method of transformers models that looks at the ids only to give advice.
_WARNING = "warn_if_padding_and_no_attention_mask"


def mask_tensor(batch: int, queries: int, keys: int, causal: bool, window: int | None) -> Tensor:
    """float32[batch, 1, queries, keys]: 0 where a key is visible, the lowest number elsewhere."""
    q = torch.arange(queries)[:, None] + (keys - queries)
    k = torch.arange(keys)[None, :]
    keep = q >= k if causal else torch.ones(queries, keys, dtype=torch.bool)
    if window is not None:
        keep = keep & ((q - k).abs() < window)
    lowest = torch.finfo(torch.float32).min
    return torch.where(keep, 0.0, lowest)[None, None].expand(batch, 1, queries, keys)


def classify_mask(rule: Callable[..., Any]) -> tuple[bool, int | None]:
    """(causal, window) of a rule (batch, head, query, key) -> visible, tried on a long row of keys.

    Raises `UnsupportedError` for a rule that is neither full, causal nor a window.
    """
    query = _FAR
    with torch._C.DisableTorchFunction():
        visible = _visible(rule, query, torch.arange(2 * query)).nonzero().flatten()
        if not len(visible):
            raise UnsupportedError(["an attention mask that hides everything"])
        low, high = int(visible[0]), int(visible[-1])
        causal = high == query
        window = None if low == 0 else query - low + 1
        near = _visible(rule, 3, torch.arange(8))
        want = mask_tensor(1, 8, 8, causal, window)[0, 0, 3] == 0
        solid = high - low + 1 == len(visible) and torch.equal(near, want)
    symmetric = causal or (high == 2 * query - 1 if window is None else high - query == query - low)
    if not (solid and symmetric):
        raise UnsupportedError(["an attention mask that is neither full, causal nor a window"])
    return causal, window


def _visible(rule: Callable[..., Any], query: int, keys: Tensor) -> Tensor:
    seen = rule(0, 0, torch.tensor(query), keys)
    return seen.expand(keys.shape) if isinstance(seen, Tensor) else torch.full(keys.shape, bool(seen))


def genmad_mask(
    batch_size: int, q_length: int, kv_length: int, *,
    mask_function: Callable[..., Any] | None = None, attention_mask: Tensor | None = None, **_: Any,
) -> Tensor | None:  # fmt: skip
    """What transformers calls instead of building a mask; the result is recorded as a constant."""
    tracer = Tracer.current
    if tracer is None or mask_function is None:
        raise UnsupportedError(["the genmad attention mask outside of a trace"])
    if attention_mask is not None and not _is_all_ones(tracer, attention_mask):
        raise UnsupportedError(["an attention mask that depends on an input"])
    causal, window = classify_mask(mask_function)
    if not causal and window is None:
        return None
    result = torch.empty(batch_size, 1, int(q_length), int(kv_length), device="meta")
    attrs = {"causal": causal, "window": window}
    tracer.record("genmad_mask", "genmad.mask", mask_tensor, (batch_size, q_length, kv_length), attrs, [result])
    return result


def _is_all_ones(tracer: Tracer, mask: Tensor) -> bool:
    from genmad.importers.trace import ConstantEvaluator

    number = tracer.number(mask)
    if tracer.trace.values[number].kind != "constant":
        return False
    with torch._C.DisableTorchFunction():
        return bool(ConstantEvaluator(tracer.trace)(number).bool().all())


def genmad_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None,
    scaling: float | None = None, position_bias: Tensor | None = None,
    softcap: float | None = None, is_causal: bool | None = None, **kwargs: Any,
) -> tuple[Tensor, None]:  # fmt: skip
    """query [B, H, S, D], key and value [B, KVH, T, D] -> [B, S, H, D], as one `attention` record.

    Raises `UnsupportedError` for a setting that would change the result and that the op does not have.
    """
    tracer = Tracer.current
    if tracer is None:
        raise UnsupportedError(["the genmad attention outside of a trace"])
    if kwargs.get("s_aux") is not None or kwargs.get("head_mask") is not None:
        raise UnsupportedError(["attention sinks or head masks"])
    if is_causal is None:
        is_causal = bool(getattr(module, "is_causal", False))
    sliding = kwargs.get("sliding_window")
    attrs = {
        "scale": scaling, "softcap": softcap, "window": sliding,
        "causal": attention_mask is None and is_causal and query.shape[2] > 1,
    }  # fmt: skip
    out = torch.empty(*query.shape[:3], value.shape[-1], device="meta", dtype=query.dtype)
    biases = [b for b in (attention_mask, position_bias) if b is not None]
    tracer.record("attention", "genmad.attention", None, (query, key, value, *biases), attrs, [out])
    return out.transpose(1, 2).contiguous(), None


@contextmanager
def one_node_attention(module: nn.Module) -> Iterator[bool]:
    """Every transformers config inside `module` asks for our attention while the context is open.

    Yields whether there was any such config.
    """
    configs = {
        id(c): c for m in module.modules() if (c := getattr(m, "config", None)) is not None and _has_attention(c)
    }
    for config in list(configs.values()):
        for key in getattr(config, "sub_configs", None) or ():
            sub = getattr(config, key, None)
            if sub is not None and _has_attention(sub):
                configs[id(sub)] = sub
    before = [(c, c._attn_implementation_internal) for c in configs.values()]
    if before:
        _register()
    silenced = [m for m in module.modules() if hasattr(m, _WARNING)] if before else []
    for sub in silenced:
        sub.__dict__[_WARNING] = lambda *_args, **_kwargs: None
    try:
        for config, _ in before:
            config._attn_implementation_internal = NAME
        yield bool(before)
    finally:
        for sub in silenced:
            del sub.__dict__[_WARNING]
        for config, name in before:
            config._attn_implementation_internal = name


def _has_attention(config: Any) -> bool:
    return hasattr(config, "_attn_implementation_internal")


def _register() -> None:
    from transformers.masking_utils import AttentionMaskInterface
    from transformers.modeling_utils import AttentionInterface

    AttentionInterface.register(NAME, genmad_attention)
    AttentionMaskInterface.register(NAME, genmad_mask)
