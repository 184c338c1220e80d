"""Layers called as functions, matrix products and attention."""

from typing import Any

import torch

from genmad.importers.emit import Emitter, Handler, NoOp, T
from genmad.importers.functional.elementwise import add, to_dtype
from genmad.importers.leaves import covers_all, same_padding
from genmad.importers.masks import mask_kind


def _params(e: Emitter, **slots: Any) -> dict[str, T]:
    """Slots whose tensors are parameters or buffers of the model, or computed from these alone. Raises `NoOp`."""
    given = {slot: e.folded(t, slot) for slot, t in slots.items() if t is not None}
    if any(t is None for t in given.values()):
        raise NoOp("weights that are computed")
    return {slot: t for slot, t in given.items() if t is not None}


def linear(e: Emitter, input: Any, weight: Any, bias: Any = None) -> Any:
    try:
        params = _params(e, weight=weight, bias=bias)
    except NoOp:
        product = e.add("MatMul", input, e.add("Transpose", weight, perm=(1, 0)))
        return product if bias is None else e.add("Add", product, bias)
    return e.add("Linear", input, out_features=weight.shape[0], bias=bias is not None, params=params)


def addmm(e: Emitter, input: Any, mat1: Any, mat2: Any, beta: Any = 1, alpha: Any = 1) -> Any:
    if (beta, alpha) != (1, 1):
        raise NoOp("addmm with factors")
    try:
        params = _params(e, weight=mat2, bias=input)
    except NoOp:
        return e.add("Add", e.add("MatMul", mat1, mat2), input)
    return e.add("Linear", mat1, out_features=mat2.shape[1], transposed=True, params=params)


def matmul(e: Emitter, input: Any, other: Any) -> Any:
    return e.add("MatMul", input, other)


def baddbmm(e: Emitter, input: Any, batch1: Any, batch2: Any, beta: Any = 1, alpha: Any = 1) -> Any:
    product = e.add("MatMul", batch1, batch2)
    product = product if alpha == 1 else e.add("MulScalar", product, value=float(alpha))
    if beta == 0:
        return product
    return e.add("Add", input if beta == 1 else e.add("MulScalar", input, value=float(beta)), product)


def einsum(e: Emitter, equation: str, *operands: Any) -> Any:
    tensors = operands[0] if len(operands) == 1 and isinstance(operands[0], (tuple, list)) else operands
    return e.add("Einsum", *tensors, equation=equation.replace(" ", ""))


def embedding(e: Emitter, input: Any, weight: Any, padding_idx: Any = None, max_norm: Any = None, **_: Any) -> Any:  # noqa: ARG001
    if max_norm is not None:
        raise NoOp("embedding with max_norm")
    if not weight.is_parameter:
        return e.add("Gather", weight, input, axis=0)
    sizes = {"num_embeddings": weight.shape[0], "embedding_dim": weight.shape[1]}
    return e.add("Embedding", input, **sizes, params={"weight": weight})


def layer_norm(
    e: Emitter, input: Any, normalized_shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5
) -> Any:
    if weight is not None and not (weight.is_parameter and (bias is None or bias.is_parameter)):
        x = e.add("LayerNorm", input, eps=eps, num_axes=len(normalized_shape), affine=False, bias=False)
        x = e.add("Mul", x, weight)
        return x if bias is None else e.add("Add", x, bias)
    attrs = {"eps": eps, "num_axes": len(normalized_shape), "affine": weight is not None, "bias": bias is not None}
    return e.add("LayerNorm", input, **attrs, params=_params(e, weight=weight, bias=bias))


def rms_norm(e: Emitter, input: Any, normalized_shape: Any, weight: Any = None, eps: Any = None) -> Any:
    if len(normalized_shape) != 1:
        raise NoOp("rms_norm over several axes")
    eps = torch.finfo(getattr(torch, str(e.type_of(input).dtype))).eps if eps is None else eps
    return e.add("RMSNorm", input, eps=eps, affine=weight is not None, params=_params(e, weight=weight))


def group_norm(e: Emitter, input: Any, num_groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Any:
    attrs = {"num_groups": num_groups, "eps": eps, "affine": weight is not None}
    return e.add("GroupNorm", input, **attrs, params=_params(e, weight=weight, bias=bias))


def batch_norm(
    e: Emitter, input: Any, running_mean: Any, running_var: Any, weight: Any = None, bias: Any = None,
    training: bool = False, momentum: float = 0.1, eps: float = 1e-5,  # noqa: ARG001
) -> Any:  # fmt: skip
    if training or weight is None or running_mean is None:
        raise NoOp("batch norm on batch statistics")
    params = _params(e, weight=weight, bias=bias, running_mean=running_mean, running_var=running_var)
    return e.add("BatchNorm", input, eps=eps, params=params)


def _tuple(value: Any, rank: int) -> tuple[int, ...]:
    return (value,) * rank if isinstance(value, int) else tuple(value)


def conv(
    e: Emitter,
    input: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Any:
    rank = weight.rank - 2
    kernel, dilations = weight.shape[2:], _tuple(dilation, rank)
    pads = same_padding(padding, kernel, dilations) if isinstance(padding, str) else _tuple(padding, rank)
    attrs = {"out_channels": weight.shape[0], "kernel_size": kernel, "stride": _tuple(stride, rank), "padding": pads,
             "dilation": dilations, "groups": groups, "bias": bias is not None}  # fmt: skip
    return e.add("Conv", input, **attrs, params=_params(e, weight=weight, bias=bias))


def conv_transpose(
    e: Emitter, input: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0, output_padding: Any = 0,
    groups: int = 1, dilation: Any = 1,
) -> Any:  # fmt: skip
    rank = weight.rank - 2
    attrs = {"out_channels": weight.shape[1] * groups, "kernel_size": weight.shape[2:], "stride": _tuple(stride, rank),
             "padding": _tuple(padding, rank), "output_padding": _tuple(output_padding, rank),
             "dilation": _tuple(dilation, rank), "groups": groups, "bias": bias is not None}  # fmt: skip
    return e.add("ConvTranspose", input, **attrs, params=_params(e, weight=weight, bias=bias))


def cdist(e: Emitter, x1: Any, x2: Any, p: float = 2.0, **_: Any) -> Any:
    """Distances of every row of x1 from every row of x2."""
    if p != 2:
        raise NoOp("distances that are not Euclidean")
    rank = x1.rank
    difference = e.add("Sub", e.add("Unsqueeze", x1, axes=(rank - 1,)), e.add("Unsqueeze", x2, axes=(rank - 2,)))
    return e.add("Sqrt", e.add("ReduceSum", e.add("Square", difference), axes=(-1,), keepdims=False))


def outer(e: Emitter, input: Any, vec2: Any) -> Any:
    dtype = str(e.want[0].dtype)
    column, row = e.add("Unsqueeze", to_dtype(e, input, dtype), axes=(1,)), to_dtype(e, vec2, dtype)
    return e.add("Mul", column, row)


def _rank(e: Emitter, x: Any) -> int:
    return e.type_of(x).rank - 2


def max_pool(
    e: Emitter, input: Any, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1,
    ceil_mode: bool = False, return_indices: bool = False,
) -> Any:  # fmt: skip
    if return_indices:
        raise NoOp("max pooling with indices")
    rank = _rank(e, input)
    attrs: dict[str, Any] = {"kernel_size": _tuple(kernel_size, rank), "stride": _tuple(stride or kernel_size, rank),
             "padding": _tuple(padding, rank), "dilation": _tuple(dilation, rank), "ceil_mode": ceil_mode}  # fmt: skip
    return e.add("MaxPool", input, **attrs)


def average_pool(
    e: Emitter, input: Any, kernel_size: Any, stride: Any = None, padding: Any = 0, ceil_mode: bool = False,
    count_include_pad: bool = True, divisor_override: Any = None,
) -> Any:  # fmt: skip
    if divisor_override is not None:
        raise NoOp("average pooling with a divisor")
    rank = _rank(e, input)
    if covers_all(e.type_of(input).shape[2:], _tuple(kernel_size, rank), padding, ceil_mode):
        return e.add("GlobalAveragePool", input, keepdims=True)
    attrs: dict[str, Any] = {"kernel_size": _tuple(kernel_size, rank), "stride": _tuple(stride or kernel_size, rank),
             "padding": _tuple(padding, rank), "ceil_mode": ceil_mode,
             "count_include_pad": count_include_pad}  # fmt: skip
    return e.add("AveragePool", input, **attrs)


def adaptive_pool(e: Emitter, input: Any, output_size: Any) -> Any:
    size = _tuple(output_size, _rank(e, input))
    if all(s == 1 for s in size):
        return e.add("GlobalAveragePool", input, keepdims=True)
    return e.add("AdaptiveAveragePool", input, output_size=size)


def interpolate(
    e: Emitter, input: Any, size: Any = None, scale_factor: Any = None, mode: str = "nearest",
    align_corners: Any = None, recompute_scale_factor: Any = None, antialias: bool = False, # noqa: ARG001
) -> Any:  # fmt: skip
    if antialias or (size is None and scale_factor is None):
        raise NoOp("interpolation with antialiasing")
    source, target = e.type_of(input).shape[2:], e.want[0].shape[2:]
    if source == target:
        return input
    whole = all(isinstance(b, int) and isinstance(a, int) and b % a == 0 for a, b in zip(source, target, strict=True))
    mode = "nearest" if mode == "nearest-exact" and whole else mode  # the same when each element is repeated
    return e.add("Resize", input, size=target, mode=mode, align_corners=bool(align_corners))


def attention(
    e: Emitter, query: Any, key: Any, value: Any, *biases: Any, scale: Any = None, softcap: Any = None,
    window: Any = None, causal: bool = False,
) -> Any:  # fmt: skip
    """query [B, H, S, D]; a bias that is one of our masks becomes `causal` and `window`."""
    bias = None
    for item in biases:
        rule = mask_rule(e, item)
        if rule is None:
            bias = item if bias is None else add(e, bias, item)
            continue
        causal = causal or rule[0]
        window = rule[1] if rule[1] is not None else None
    if not causal and window is not None and all(mask_rule(e, b) is None for b in biases):
        window = None
    heads, width = query.shape[1], query.shape[-1]
    if scale is not None and isinstance(width, int) and abs(scale - width**-0.5) < 1e-9:
        scale = None
    attrs = {"num_heads": heads, "causal": causal, "window": window, "softcap": softcap, "scale": scale}
    return e.add("Attention", query, key, value, *([bias] if bias is not None else []), **attrs)


def mask_rule(e: Emitter, mask: Any) -> tuple[bool, Any] | None:
    """(causal, window) of a mask that `hf_attention` made, or of a constant with the values of a causal mask."""
    return _made_mask(e, mask) or (_constant_mask(e, mask) if isinstance(mask, T) and mask.kind == "constant" else None)


def _constant_mask(e: Emitter, mask: T) -> tuple[bool, Any] | None:
    found = {mask_kind(e.constant_at(mask.number, sizes)) for sizes in (e.symbolic.sizes, e.symbolic.other_sizes)}
    kind = found.pop() if len(found) == 1 else None
    return None if kind is None else (kind == "causal", None)


def _made_mask(e: Emitter, mask: Any) -> tuple[bool, Any] | None:
    """Behind slices that keep all of it, too."""
    while isinstance(mask, T) and mask.kind == "constant":
        record = e.maker(mask)
        if record is None:
            return None
        if record.target == "genmad_mask":
            return bool(record.kwargs["causal"]), record.kwargs["window"]
        if record.target not in ("__getitem__", "cast"):
            return None
        source = e.tensor(record.args[0])
        if source.shape != mask.shape:
            return None
        mask = source
    return None


def scaled_dot_product_attention(
    e: Emitter, query: Any, key: Any, value: Any, attn_mask: Any = None, dropout_p: float = 0.0,
    is_causal: bool = False, scale: Any = None, enable_gqa: bool = False,
) -> Any:  # fmt: skip
    """torch's attention in eval mode: no dropout; groups follow from the shapes."""
    del dropout_p, enable_gqa
    biases = () if attn_mask is None else (attn_mask,)
    if query.rank != 4:
        return _attention_of_rank(e, (query, key, value), biases, scale, is_causal)
    return attention(e, query, key, value, *biases, scale=scale, causal=is_causal)


def _attention_of_rank(e: Emitter, qkv: tuple[Any, Any, Any], biases: tuple[Any, ...], scale: Any, causal: bool) -> Any:
    """Attention on [B, S, D], and on [B, H, W, S, D] with windows W that count as heads."""
    rank = qkv[0].rank
    if rank not in (3, 5) or any(b.rank > 2 for b in biases) or any(x.rank != rank for x in qkv):
        raise NoOp(f"attention on tensors with {rank} axes")
    if len({x.shape[:-2] for x in qkv}) > 1:
        raise NoOp("attention with groups of windows")
    rows = [e.add("Unsqueeze", x, axes=(1,)) if rank == 3 else e.add("Flatten", x, start=1, end=2) for x in qkv]
    width = qkv[0].shape[-1]
    usual = scale is None or (isinstance(width, int) and abs(scale - width**-0.5) < 1e-9)
    heads = e.type_of(rows[0]).shape[1]
    attrs: dict[str, Any] = {"num_heads": heads, "causal": causal, "scale": None if usual else scale}
    out = e.add("Attention", *rows, *biases, **attrs)
    return e.add("Squeeze", out, axes=(1,)) if rank == 3 else e.add("Reshape", out, shape=(0, *e.want[0].shape[1:]))


def multi_head_attention(
    e: Emitter, query: Any, key: Any, value: Any, embed_dim_to_check: int, num_heads: int, in_proj_weight: Any,
    in_proj_bias: Any, bias_k: Any, bias_v: Any, add_zero_attn: bool, dropout_p: float, out_proj_weight: Any,
    out_proj_bias: Any, key_padding_mask: Any = None, attn_mask: Any = None, use_separate_proj_weight: bool = False,
    **others: Any,
) -> Any:  # fmt: skip
    """torch's fused attention on [S, B, D]; one matrix projects queries, keys and values."""
    del dropout_p, bias_v, others  # eval mode; what is left only says whether weights are returned
    if use_separate_proj_weight or key_padding_mask is not None or bias_k is not None or add_zero_attn:
        raise NoOp("attention with padding masks, extra keys or separate widths")
    parts: dict[Any, Any] = {}
    rows = []
    for index, x in enumerate((query, key, value)):
        if x not in parts:
            first = e.add("Transpose", x, perm=(1, 0, 2))
            params = _params(e, weight=in_proj_weight, bias=in_proj_bias)
            all_three = e.add(
                "Linear", first, out_features=3 * embed_dim_to_check, bias=in_proj_bias is not None, params=params
            )
            parts[x] = e.add("Split", all_three, axis=-1, sizes=(embed_dim_to_check,) * 3)
        rows.append(parts[x][index])
    rule = mask_rule(e, attn_mask)
    bias = [] if attn_mask is None or rule else [e.add("Unsqueeze", attn_mask, axes=(0, 1))]
    if attn_mask is not None and attn_mask.type.dtype.value == "bool" and not rule:
        raise NoOp("a mask that hides where it is true")
    out = e.add("Attention", *rows, *bias, num_heads=num_heads, causal=bool(rule and rule[0]))
    params = _params(e, weight=out_proj_weight, bias=out_proj_bias)
    out = e.add("Linear", out, out_features=embed_dim_to_check, bias=out_proj_bias is not None, params=params)
    out = e.add("Transpose", out, perm=(1, 0, 2))
    return out if len(e.want) == 1 else (out, None)  # nobody may read the attention weights


NEURAL: dict[str, Handler] = {
    "linear": linear, "addmm": addmm, "matmul": matmul, "__matmul__": matmul, "bmm": matmul, "mm": matmul,
    "baddbmm": baddbmm, "einsum": einsum, "embedding": embedding, "layer_norm": layer_norm, "rms_norm": rms_norm,
    "group_norm": group_norm, "batch_norm": batch_norm, "conv1d": conv, "conv2d": conv, "conv3d": conv,
    "conv_transpose1d": conv_transpose, "conv_transpose2d": conv_transpose, "conv_transpose3d": conv_transpose,
    "outer": outer, "cdist": cdist,
    "max_pool1d": max_pool, "max_pool2d": max_pool, "max_pool3d": max_pool, "avg_pool1d": average_pool,
    "avg_pool2d": average_pool, "avg_pool3d": average_pool, "adaptive_avg_pool1d": adaptive_pool,
    "adaptive_avg_pool2d": adaptive_pool, "adaptive_avg_pool3d": adaptive_pool, "interpolate": interpolate,
    "attention": attention, "scaled_dot_product_attention": scaled_dot_product_attention,
    "multi_head_attention_forward": multi_head_attention,
}  # fmt: skip
