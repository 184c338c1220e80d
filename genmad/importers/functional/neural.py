"""Layers called as functions, matrix products and attention."""

from typing import Any

from genmad.importers.emit import Emitter, Handler, NoOp, T
from genmad.importers.functional.elementwise import add
from genmad.importers.leaves import covers_all, same_padding
from genmad.importers.masks import mask_kind


def _params(**slots: Any) -> dict[str, T]:
    """Slots whose tensors are parameters or buffers of the model. Raises `NoOp` when one is computed."""
    given = {slot: t for slot, t in slots.items() if t is not None}
    if not all(isinstance(t, T) and t.has_name for t in given.values()):
        raise NoOp("weights that are computed")
    return given


def linear(e: Emitter, input: Any, weight: Any, bias: Any = None) -> Any:
    try:
        params = _params(weight=weight, bias=bias)
    except NoOp:
        product = e.add("MatMul", input, e.add("Transpose", weight, perm=(1, 0)))
        return product if bias is None else e.add("Add", product, bias)
    return e.add("Linear", input, out_features=weight.shape[0], bias=bias is not None, params=params)


def addmm(e: Emitter, input: Any, mat1: Any, mat2: Any, beta: Any = 1, alpha: Any = 1) -> Any:
    if (beta, alpha) != (1, 1):
        raise NoOp("addmm with factors")
    try:
        params = _params(weight=mat2, bias=input)
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
    return e.add("LayerNorm", input, **attrs, params=_params(weight=weight, bias=bias))


def rms_norm(e: Emitter, input: Any, normalized_shape: Any, weight: Any = None, eps: Any = None) -> Any:
    if len(normalized_shape) != 1 or eps is None:
        raise NoOp("rms_norm over several axes or with the default eps")
    return e.add("RMSNorm", input, eps=eps, affine=weight is not None, params=_params(weight=weight))


def group_norm(e: Emitter, input: Any, num_groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Any:
    attrs = {"num_groups": num_groups, "eps": eps, "affine": weight is not None}
    return e.add("GroupNorm", input, **attrs, params=_params(weight=weight, bias=bias))


def batch_norm(
    e: Emitter, input: Any, running_mean: Any, running_var: Any, weight: Any = None, bias: Any = None,
    training: bool = False, momentum: float = 0.1, eps: float = 1e-5,  # noqa: ARG001
) -> Any:  # fmt: skip
    if training or weight is None or running_mean is None:
        raise NoOp("batch norm on batch statistics")
    params = _params(weight=weight, bias=bias, running_mean=running_mean, running_var=running_var)
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
    return e.add("Conv", input, **attrs, params=_params(weight=weight, bias=bias))


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
    if query.rank != 4:
        raise NoOp("attention on tensors that are not [batch, heads, positions, features]")
    biases = () if attn_mask is None else (attn_mask,)
    return attention(e, query, key, value, *biases, scale=scale, causal=is_causal)


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
            params = _params(weight=in_proj_weight, bias=in_proj_bias)
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
    params = _params(weight=out_proj_weight, bias=out_proj_bias)
    out = e.add("Linear", out, out_features=embed_dim_to_check, bias=out_proj_bias is not None, params=params)
    out = e.add("Transpose", out, perm=(1, 0, 2))
    return out if len(e.want) == 1 else (out, None)  # nobody may read the attention weights


NEURAL: dict[str, Handler] = {
    "linear": linear, "addmm": addmm, "matmul": matmul, "__matmul__": matmul, "bmm": matmul, "mm": matmul,
    "baddbmm": baddbmm, "einsum": einsum, "embedding": embedding, "layer_norm": layer_norm, "rms_norm": rms_norm,
    "group_norm": group_norm, "batch_norm": batch_norm, "conv1d": conv, "conv2d": conv, "conv3d": conv,
    "max_pool1d": max_pool, "max_pool2d": max_pool, "max_pool3d": max_pool, "avg_pool1d": average_pool,
    "avg_pool2d": average_pool, "avg_pool3d": average_pool, "adaptive_avg_pool1d": adaptive_pool,
    "adaptive_avg_pool2d": adaptive_pool, "adaptive_avg_pool3d": adaptive_pool, "interpolate": interpolate,
    "attention": attention, "scaled_dot_product_attention": scaled_dot_product_attention,
    "multi_head_attention_forward": multi_head_attention,
}  # fmt: skip
