"""Shapes of results on the meta device for the functions that models call most.

Torch answers these by decomposing them in Python, which takes milliseconds a call; the answer is plain to see.
"""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor


def _like(x: Any, *_args: Any, **_kwargs: Any) -> Tensor | None:
    return x.new_empty(x.shape)  # type: ignore[no-any-return]


def _linear(x: Any, weight: Any, bias: Any = None) -> Tensor | None:  # noqa: ARG001 - the shape does not depend on it
    if weight.dim() != 2 or x.shape[-1] != weight.shape[1]:
        return None
    return x.new_empty((*x.shape[:-1], weight.shape[0]))  # type: ignore[no-any-return]


def _attention(q: Any, k: Any, v: Any, *_args: Any, **_kwargs: Any) -> Tensor | None:
    if not (q.dim() == k.dim() == v.dim() >= 3) or q.shape[-1] != k.shape[-1] or k.shape[-2] != v.shape[-2]:
        return None
    if q.shape[0] != k.shape[0] or k.shape[0] != v.shape[0]:
        return None
    return q.new_empty((*q.shape[:-1], v.shape[-1]))  # type: ignore[no-any-return]


def _softmax(x: Any, dim: Any = None, _stacklevel: int = 3, dtype: Any = None) -> Tensor | None:  # noqa: ARG001
    return _like(x) if dtype in (None, x.dtype) else None


def _cat(tensors: Any, dim: int = 0) -> Tensor | None:
    first, others = tensors[0], tensors[1:]
    axis, shape = dim % first.dim(), list(first.shape)
    for other in others:
        if other.dtype != first.dtype or other.dim() != first.dim():
            return None
        if any(a != b for i, (a, b) in enumerate(zip(other.shape, first.shape, strict=True)) if i != axis):
            return None
        shape[axis] += other.shape[axis]
    return first.new_empty(shape)  # type: ignore[no-any-return]


_RESULTS: Mapping[str, Callable[..., Tensor | None]] = {
    "linear": _linear, "scaled_dot_product_attention": _attention, "layer_norm": _like, "group_norm": _like,
    "rms_norm": _like, "softmax": _softmax, "cat": _cat,
}  # fmt: skip


def meta_result(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor | None:
    """An empty result of function `name`, or None where torch has to say: other devices, odd arguments, errors."""
    rule = _RESULTS.get(name)
    x = args[0] if args else None
    if name == "cat" and isinstance(x, (list, tuple)) and x and all(isinstance(t, Tensor) and t.is_meta for t in x):
        x = x[0]
    if rule is None or not isinstance(x, Tensor) or x.device.type != "meta" or not x.dtype.is_floating_point:
        return None
    try:
        return rule(*args, **kwargs)
    except (TypeError, AttributeError, IndexError, ZeroDivisionError):
        return None
