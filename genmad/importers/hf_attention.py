"""Attention of transformers models as one record, through the library's own interfaces.

A model that asks `AttentionInterface` for "genmad" hands us query, key and value; one that asks
`AttentionMaskInterface` hands us the rule of the mask, which we turn into causal and window.
"""

import inspect
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from genmad.importers.report import UnsupportedError
from genmad.importers.trace import Tracer

NAME = "genmad"
_FAR = 1 << 17
# Arguments of an attention function that `genmad_attention` honours, or that change nothing outside of training.
_KNOWN = frozenset({
    "module", "query", "key", "value", "attention_mask", "scaling", "position_bias", "softcap", "is_causal",
    "head_mask", "s_aux", "sinks", "sliding_window", "dropout", "output_attentions", "kwargs",
})  # fmt: skip
# A method of transformers models that looks at the ids only to give advice.
_WARNING = "warn_if_padding_and_no_attention_mask"
# Set, it turns off transformers' checks of values (as many image tokens as image features), which a trace has none of.
_CHECKS = "TRANSFORMERS_DISABLE_TORCH_CHECK"


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
    padding = None if attention_mask is None or _is_all_ones(tracer, attention_mask) else attention_mask
    rule = _mask_of_rule(tracer, mask_function, (batch_size, int(q_length), int(kv_length)))
    if padding is None:
        return rule
    if padding.dim() != 2 or padding.shape[1] != int(kv_length):
        raise UnsupportedError(["an attention mask that depends on an input and has not one entry for each key"])
    lowest = torch.finfo(torch.float32).min
    hidden = torch.where(padding.bool()[:, None, None, :], 0.0, lowest)
    return hidden if rule is None else rule + hidden


def _mask_of_rule(tracer: Tracer, mask_function: Callable[..., Any], sizes: tuple[int, int, int]) -> Tensor | None:
    """The mask [B, 1, S, T] of a rule, recorded; None when everything is visible."""
    batch_size, q_length, kv_length = sizes
    try:
        causal, window = classify_mask(mask_function)
    except (UnsupportedError, IndexError, RuntimeError):
        return _mask_of_any_rule(mask_function, sizes)
    if not causal and window is None:
        return None
    result = torch.empty(batch_size, 1, q_length, kv_length, device="meta")
    attrs = {"causal": causal, "window": window}
    tracer.record("genmad_mask", "genmad.mask", mask_tensor, (batch_size, q_length, kv_length), attrs, [result])
    return result


def _mask_of_any_rule(mask_function: Callable[..., Any], sizes: tuple[int, int, int]) -> Tensor:
    """The mask of a rule that reads tensors (blocks of an image, packed sequences), as the functions it calls."""
    batch, queries, keys = (torch.arange(size) for size in sizes)
    offset = sizes[2] - sizes[1]
    places = batch[:, None, None, None], torch.zeros(1, 1, 1, 1, dtype=torch.int64)
    keep = mask_function(*places, queries[None, None, :, None] + offset, keys[None, None, None, :])
    lowest = torch.finfo(torch.float32).min
    return torch.where(keep, 0.0, lowest).expand(sizes[0], 1, sizes[1], sizes[2])


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
    if kwargs.get("head_mask") is not None:
        raise UnsupportedError(["head masks"])
    _refuse_extras(module, kwargs)
    biases = [b for b in (attention_mask, position_bias) if b is not None]
    if kwargs.get("s_aux") is not None:
        sinks = kwargs["s_aux"].reshape(1, -1, 1, 1).expand(query.shape[0], -1, query.shape[2], 1)
        return _with_sinks(query, key, value, biases, scaling, sinks)
    if kwargs.get("sinks") is not None:
        return _with_sinks(query, key, value, biases, scaling, kwargs["sinks"])
    if is_causal is None:
        is_causal = bool(getattr(module, "is_causal", False))
    sliding = kwargs.get("sliding_window")
    attrs = {
        "scale": scaling, "softcap": softcap, "window": sliding,
        "causal": attention_mask is None and is_causal and query.shape[2] > 1,
    }  # fmt: skip
    out = torch.empty(*query.shape[:3], value.shape[-1], device="meta", dtype=query.dtype)
    tracer.record("attention", "genmad.attention", None, (query, key, value, *biases), attrs, [out])
    return out.transpose(1, 2).contiguous(), None


def _refuse_extras(module: nn.Module, kwargs: Mapping[str, Any]) -> None:
    """Raises `UnsupportedError` for an argument that the model's own eager attention reads and that we do not know."""
    own = getattr(sys.modules.get(type(module).__module__), "eager_attention_forward", None)
    for name in inspect.signature(own).parameters if own is not None else ():
        if name not in _KNOWN and kwargs.get(name) is not None:
            raise UnsupportedError([f"the argument {name} of the attention in {type(module).__name__}"])


def _with_sinks(
    query: Tensor, key: Tensor, value: Tensor, biases: list[Tensor], scaling: float | None, sinks: Tensor
) -> tuple[Tensor, None]:
    """Attention whose softmax has one more logit per head, written out (arXiv 2309.17453, section 3.2).

    sinks: [B, H, S, 1].
    """
    groups = query.shape[1] // key.shape[1]
    key, value = (t.repeat_interleave(groups, dim=1) if groups > 1 else t for t in (key, value))
    scores = torch.matmul(query, key.transpose(2, 3)) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    for bias in biases:
        scores = scores + bias
    weights = torch.softmax(torch.cat([scores, sinks], dim=-1), dim=-1)[..., :-1]
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), None


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
    before = [(c, c._attn_implementation_internal, getattr(c, "use_cache", None)) for c in configs.values()]
    if before:
        _register()
    silenced = [m for m in module.modules() if hasattr(m, _WARNING)] if before else []
    for sub in silenced:
        sub.__dict__[_WARNING] = lambda *_args, **_kwargs: None
    checks = os.environ.get(_CHECKS)
    try:
        os.environ[_CHECKS] = "1"
        for config, *_ in before:
            config._attn_implementation_internal = NAME
            config.use_cache = False
        yield bool(before)
    finally:
        os.environ.pop(_CHECKS, None)
        if checks is not None:
            os.environ[_CHECKS] = checks
        for sub in silenced:
            del sub.__dict__[_WARNING]
        for config, name, caches in before:
            config._attn_implementation_internal = name
            if caches is None:
                del config.use_cache
            else:
                config.use_cache = caches


def _has_attention(config: Any) -> bool:
    return hasattr(config, "_attn_implementation_internal")


def _register() -> None:
    from transformers.masking_utils import AttentionMaskInterface
    from transformers.modeling_utils import AttentionInterface

    AttentionInterface.register(NAME, genmad_attention)
    AttentionMaskInterface.register(NAME, genmad_mask)
