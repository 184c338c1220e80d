"""Modules that arrive as one layer-level op: which class, with which attributes and parameters.

A subclass counts as its parent only when it inherits the parent's `forward`. Norms and activations that a project
defines itself are recognised by running them on random numbers and comparing with the op's formula.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from genmad.importers.probes import probe_activation, probe_batch_norm, probe_norm, probe_rotary


@dataclass(frozen=True, slots=True)
class Leaf:
    """One layer: op, tensor inputs, attributes and parameters by slot; `run` replaces the module's own forward."""

    op: str
    inputs: tuple[Tensor | None, ...]
    attrs: Mapping[str, Any] = field(default_factory=dict)
    params: Mapping[str, Tensor] = field(default_factory=dict)
    run: Callable[[], Any] | None = None


# Ops whose result is like their first input: their modules need not run.
LIKE_INPUT = frozenset({
    "BatchNorm", "Celu", "ChannelLayerNorm", "Elu", "Gelu", "GroupNorm", "HardSigmoid", "HardSwish", "InstanceNorm",
    "LayerNorm", "LeakyRelu", "LogSoftmax", "Mish", "RMSNorm", "Relu", "Relu6", "Selu", "Sigmoid", "Silu", "Softmax",
    "Softplus", "Softsign", "Tanh",
})  # fmt: skip


def leaf_of(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Leaf | None:
    """The layer-level op that `module` is, or None when its inside has to be traced."""
    kind = type(module)
    bases: tuple[Any, ...] = kind.__mro__
    for base in bases:
        rule = _BY_CLASS.get(base)
        if rule is not None:
            if bases[0].forward is not base.forward or not _plain(module):
                return None
            return rule(module, _first(args, kwargs))
    rule = _BY_NAME.get(kind.__name__)
    if rule is not None:
        return rule(module, _first(args, kwargs))
    return _by_probe(module, args, kwargs)


def _first(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    return args[0] if args else next(iter(kwargs.values()), None)


def _plain(module: nn.Module) -> bool:
    """Whether nothing hangs on the module that changes what it computes."""
    return not module._forward_hooks and not module._forward_pre_hooks and not hasattr(module, "parametrizations")


def _present(module: nn.Module, *slots: str) -> dict[str, Tensor]:
    found = {slot: getattr(module, slot, None) for slot in slots}
    return {slot: tensor for slot, tensor in found.items() if tensor is not None}


def _linear(m: Any, x: Tensor) -> Leaf:
    attrs = {"out_features": m.out_features, "bias": m.bias is not None}
    made = _run_plain(x, lambda: x.new_empty((*x.shape[:-1], m.out_features)), x.shape[-1] == m.in_features)
    return Leaf("Linear", (x,), attrs, _present(m, "weight", "bias"), run=made)


def _run_plain(x: Tensor, make: Callable[[], Tensor], fits: bool) -> Callable[[], Tensor] | None:
    """`make` where x is on the meta device and fits: torch's own rules for that device take milliseconds a layer."""
    return make if fits and x.device.type == "meta" and x.dtype.is_floating_point else None


def _gpt2_conv1d(m: Any, x: Tensor) -> Leaf:
    return Leaf("Linear", (x,), {"out_features": m.nf, "transposed": True}, _present(m, "weight", "bias"))


def _embedding(m: Any, x: Tensor) -> Leaf | None:
    if m.max_norm is not None:
        return None
    attrs = {"num_embeddings": m.num_embeddings, "embedding_dim": m.embedding_dim}
    return Leaf("Embedding", (x,), attrs, _present(m, "weight"))


def _conv(m: Any, x: Tensor) -> Leaf | None:
    if m.padding_mode != "zeros" or x.dim() != len(m.kernel_size) + 2:
        return None
    attrs = {"out_channels": m.out_channels, "kernel_size": tuple(m.kernel_size), "stride": tuple(m.stride),
             "padding": same_padding(m.padding, m.kernel_size, m.dilation), "dilation": tuple(m.dilation),
             "groups": m.groups, "bias": m.bias is not None}  # fmt: skip
    fits = x.shape[1] == m.in_channels
    made = _run_plain(x, lambda: x.new_empty((x.shape[0], m.out_channels, *_conv_sizes(x, attrs))), fits)
    return Leaf("Conv", (x,), attrs, _present(m, "weight", "bias"), run=made)


def _conv_sizes(x: Tensor, attrs: Mapping[str, Any]) -> list[int]:
    """Spatial sizes behind a convolution. Raises `ValueError` where its window does not fit."""
    rank, padding = x.dim() - 2, attrs["padding"]
    sizes = []
    for axis in range(rank):
        padded = x.shape[2 + axis] + padding[axis] + padding[axis - rank]
        room = padded - attrs["dilation"][axis] * (attrs["kernel_size"][axis] - 1) - 1
        if room < 0:
            raise ValueError(f"a window of {attrs['kernel_size'][axis]} over {padded} positions")
        sizes.append(room // attrs["stride"][axis] + 1)
    return sizes


def same_padding(padding: Any, kernel: tuple[int, ...], dilation: tuple[int, ...]) -> tuple[int, ...]:
    """Torch's padding argument as begin (and end) sizes; `same` puts the odd one at the end, as torch does."""
    if padding == "valid":
        return (0,) * len(kernel)
    if padding == "same":
        total = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
        if all(t % 2 == 0 for t in total):
            return tuple(t // 2 for t in total)
        return (*(t // 2 for t in total), *(t - t // 2 for t in total))
    return tuple(padding)


def _conv_transpose(m: Any, x: Tensor) -> Leaf | None:
    if m.padding_mode != "zeros":
        return None
    attrs = {"out_channels": m.out_channels, "kernel_size": tuple(m.kernel_size), "stride": tuple(m.stride),
             "padding": tuple(m.padding), "output_padding": tuple(m.output_padding), "dilation": tuple(m.dilation),
             "groups": m.groups, "bias": m.bias is not None}  # fmt: skip
    return Leaf("ConvTranspose", (x,), attrs, _present(m, "weight", "bias"))


def _layer_norm(m: Any, x: Tensor) -> Leaf | None:
    if m.weight is None and m.bias is not None:
        return None
    attrs = {"eps": m.eps, "num_axes": len(m.normalized_shape), "affine": m.weight is not None,
             "bias": m.bias is not None}  # fmt: skip
    return Leaf("LayerNorm", (x,), attrs, _present(m, "weight", "bias"))


def _rms_norm(m: Any, x: Tensor) -> Leaf | None:
    if len(m.normalized_shape) != 1:
        return None
    attrs = {"eps": torch.finfo(x.dtype).eps if m.eps is None else m.eps, "affine": m.weight is not None}
    return Leaf("RMSNorm", (x,), attrs, _present(m, "weight"))


def _batch_norm(m: Any, x: Tensor) -> Leaf | None:
    if m.weight is None or m.running_mean is None or m.training:
        return None
    return Leaf("BatchNorm", (x,), {"eps": m.eps}, _present(m, "weight", "bias", "running_mean", "running_var"))


def _group_norm(m: Any, x: Tensor) -> Leaf:
    attrs = {"num_groups": m.num_groups, "eps": m.eps, "affine": m.weight is not None}
    return Leaf("GroupNorm", (x,), attrs, _present(m, "weight", "bias"))


def _instance_norm(m: Any, x: Tensor) -> Leaf | None:
    if m.track_running_stats:
        return None
    attrs = {"eps": m.eps, "affine": m.weight is not None}
    return Leaf("InstanceNorm", (x,), attrs, _present(m, "weight", "bias"))


def _tuple(value: Any, rank: int) -> tuple[int, ...]:
    return (value,) * rank if isinstance(value, int) else tuple(value)


def _max_pool(m: Any, x: Tensor) -> Leaf | None:
    if m.return_indices or isinstance(m.padding, str):
        return None
    rank = x.dim() - 2
    attrs = {"kernel_size": _tuple(m.kernel_size, rank), "stride": _tuple(m.stride or m.kernel_size, rank),
             "padding": _tuple(m.padding, rank), "dilation": _tuple(m.dilation, rank),
             "ceil_mode": m.ceil_mode}  # fmt: skip
    return Leaf("MaxPool", (x,), attrs)


def covers_all(sizes: Any, kernel: tuple[int, ...], padding: Any, ceil_mode: bool) -> bool:
    """Whether one window, cut at the borders, holds the whole input (EfficientNet pools so)."""
    return (
        not any(_tuple(padding, len(kernel))) and ceil_mode and all(k >= s for k, s in zip(kernel, sizes, strict=True))
    )


def _average_pool(m: Any, x: Tensor) -> Leaf | None:
    if getattr(m, "divisor_override", None):
        return None
    rank = x.dim() - 2
    if covers_all(x.shape[2:], _tuple(m.kernel_size, rank), m.padding, m.ceil_mode):
        return Leaf("GlobalAveragePool", (x,), {"keepdims": True})
    attrs = {"kernel_size": _tuple(m.kernel_size, rank), "stride": _tuple(m.stride or m.kernel_size, rank),
             "padding": _tuple(m.padding, rank), "ceil_mode": m.ceil_mode,
             "count_include_pad": m.count_include_pad}  # fmt: skip
    return Leaf("AveragePool", (x,), attrs)


def _adaptive_pool(m: Any, x: Tensor) -> Leaf | None:
    rank = x.dim() - 2
    size = _tuple(m.output_size, rank) if m.output_size is not None else ()
    if None in size or rank < 1:
        return None
    if all(s == 1 for s in size):
        return Leaf("GlobalAveragePool", (x,), {"keepdims": True})
    return Leaf("AdaptiveAveragePool", (x,), {"output_size": size})


def _simple(op: str, **from_module: str) -> Callable[[Any, Tensor], Leaf]:
    def rule(m: Any, x: Tensor) -> Leaf:
        return Leaf(op, (x,), {attr: getattr(m, name) for attr, name in from_module.items()})

    return rule


def _softmax(op: str) -> Callable[[Any, Tensor], Leaf | None]:
    def rule(m: Any, x: Tensor) -> Leaf | None:
        return Leaf(op, (x,), {"axis": m.dim}) if m.dim is not None else None

    return rule


def _dropped(_m: Any, x: Tensor) -> Leaf:
    return Leaf("Identity", (x,))


def _softplus(m: Any, x: Tensor) -> Leaf | None:
    return Leaf("Softplus", (x,)) if m.beta == 1 else None


def _mamba_mixer(m: Any, x: Tensor) -> Leaf:
    """transformers' MambaMixer: its slow path unrolls over time, so it stays one opaque op."""
    attrs = {"intermediate_size": m.intermediate_size, "state_size": m.ssm_state_size,
             "conv_kernel": m.conv_kernel_size, "time_step_rank": m.time_step_rank, "use_bias": bool(m.use_bias),
             "use_conv_bias": bool(m.use_conv_bias), "activation": m.activation}  # fmt: skip
    tensors = {"in_proj_weight": m.in_proj.weight, "in_proj_bias": m.in_proj.bias, "conv1d_weight": m.conv1d.weight,
               "conv1d_bias": m.conv1d.bias, "x_proj_weight": m.x_proj.weight, "dt_proj_weight": m.dt_proj.weight,
               "dt_proj_bias": m.dt_proj.bias, "A_log": m.A_log, "D": m.D, "out_proj_weight": m.out_proj.weight,
               "out_proj_bias": m.out_proj.bias}  # fmt: skip
    params = {slot: t for slot, t in tensors.items() if t is not None}
    return Leaf("MambaMixer", (x,), attrs, params, run=lambda: x.new_empty(x.shape))


_BY_CLASS: dict[type, Callable[[Any, Any], Leaf | None]] = {
    nn.Linear: _linear, nn.Embedding: _embedding, nn.Conv1d: _conv, nn.Conv2d: _conv, nn.Conv3d: _conv,
    nn.ConvTranspose1d: _conv_transpose, nn.ConvTranspose2d: _conv_transpose, nn.ConvTranspose3d: _conv_transpose,
    nn.LayerNorm: _layer_norm, nn.RMSNorm: _rms_norm, nn.BatchNorm1d: _batch_norm, nn.BatchNorm2d: _batch_norm,
    nn.BatchNorm3d: _batch_norm, nn.GroupNorm: _group_norm, nn.InstanceNorm1d: _instance_norm,
    nn.InstanceNorm2d: _instance_norm, nn.MaxPool1d: _max_pool, nn.MaxPool2d: _max_pool, nn.MaxPool3d: _max_pool,
    nn.AvgPool1d: _average_pool, nn.AvgPool2d: _average_pool, nn.AvgPool3d: _average_pool,
    nn.AdaptiveAvgPool1d: _adaptive_pool, nn.AdaptiveAvgPool2d: _adaptive_pool, nn.AdaptiveAvgPool3d: _adaptive_pool,
    nn.Identity: _dropped, nn.Dropout: _dropped, nn.Dropout1d: _dropped, nn.Dropout2d: _dropped,
    nn.Dropout3d: _dropped, nn.AlphaDropout: _dropped, nn.FeatureAlphaDropout: _dropped,
    nn.ReLU: _simple("Relu"), nn.ReLU6: _simple("Relu6"), nn.LeakyReLU: _simple("LeakyRelu", slope="negative_slope"),
    nn.ELU: _simple("Elu", alpha="alpha"), nn.SELU: _simple("Selu"), nn.CELU: _simple("Celu", alpha="alpha"),
    nn.GELU: _simple("Gelu", approximate="approximate"), nn.SiLU: _simple("Silu"), nn.Sigmoid: _simple("Sigmoid"),
    nn.Tanh: _simple("Tanh"), nn.Hardsigmoid: _simple("HardSigmoid"), nn.Hardswish: _simple("HardSwish"),
    nn.Mish: _simple("Mish"), nn.Softplus: _softplus, nn.Softsign: _simple("Softsign"),
    nn.Softmax: _softmax("Softmax"), nn.LogSoftmax: _softmax("LogSoftmax"),
}  # fmt: skip

_BY_NAME: dict[str, Callable[[Any, Any], Leaf | None]] = {"MambaMixer": _mamba_mixer}


def _is_gpt2_conv1d(module: nn.Module) -> bool:
    return type(module).__name__ == "Conv1D" and hasattr(module, "nf") and getattr(module, "weight", None) is not None


def _by_probe(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Leaf | None:
    """Layers known by what they compute: a project's own norms, activations and rotary tables."""
    name = type(module).__name__
    x = _first(args, kwargs)
    if not isinstance(x, Tensor) or any(True for _ in module.children()):
        return None
    if _is_gpt2_conv1d(module):
        return _gpt2_conv1d(module, x)
    if "BatchNorm" in name and len(args) + len(kwargs) == 1 and x.dim() == 4:
        eps = probe_batch_norm(module)
        slots = ("weight", "bias", "running_mean", "running_var")
        return Leaf("BatchNorm", (x,), {"eps": eps}, _present(module, *slots)) if eps is not None else None
    if "Norm" in name and len(args) + len(kwargs) == 1:
        found = probe_norm(module)
        params = _present(module, "weight")
        return Leaf("RMSNorm", (x,), found, params, run=lambda: x.new_empty(x.shape)) if found else None
    if ("gelu" in name.lower() or "Activation" in name) and not any(True for _ in module.parameters()):
        attrs = probe_activation(module)
        return Leaf(attrs[0], (x,), attrs[1], run=lambda: x.new_empty(x.shape)) if attrs else None
    if "RotaryEmbedding" in name and len(args) + len(kwargs) == 2:
        positions = kwargs.get("position_ids", args[1] if len(args) > 1 else None)
        scaling = probe_rotary(module)
        if scaling is not None and isinstance(positions, Tensor) and positions.dim() == 2:
            inv_freq: Any = module.inv_freq
            attrs2 = {"dim": 2 * inv_freq.numel(), "scaling": scaling}
            return Leaf("RotaryTable", (positions,), attrs2, {"inv_freq": inv_freq})
    return None
