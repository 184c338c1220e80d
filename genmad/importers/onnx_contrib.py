"""Attention and its kin: operators of opset 23 and of ONNX Runtime's own domain, to our ops."""

from typing import Any

from genmad.importers.onnx_rules import LAYER_RULES, Rule
from genmad.importers.onnx_values import NodeReader, Ref, Refused

MICROSOFT = "com.microsoft"


def _absent(n: NodeReader, *indices: int) -> None:
    """Raises `Refused` when one of these inputs is there."""
    given = [i for i in indices if n.optional(i) is not None]
    if given:
        raise Refused(f"inputs {given}")


def _attention(n: NodeReader) -> Ref:
    """Opset 23: [B, S, H*D] or [B, H, S, D]; its causal mask starts at the upper left, ours at the lower right."""
    n.only_first("key and value caches or scores")
    n.only("is_causal", "q_num_heads", "kv_num_heads", "scale", "softcap", "softmax_precision", "qk_matmul_output_mode")
    _absent(n, 4, 5, 6)
    q, k, v, mask = n.input(0), n.input(1), n.input(2), n.optional(3)
    causal, softcap = bool(n.attr("is_causal", 0)), n.attr("softcap", 0.0)
    heads = n.attr("q_num_heads") if q.type.rank == 3 else q.type.shape[1]
    if q.type.rank == 3 and k.type.shape[2] * heads != q.type.shape[2] * n.attr("kv_num_heads"):
        raise Refused("keys whose heads are not as wide as those of the queries")
    if causal and q.type.shape[-2] != k.type.shape[-2]:
        raise Refused("a causal mask over unequal lengths")
    if softcap and (mask is not None or causal):
        raise Refused("softcap over a mask")
    if mask is not None and mask.type.dtype.value != "bool" and mask.type.dtype != q.type.dtype:
        raise Refused(f"a mask of dtype {mask.type.dtype}")
    return n.emit(
        "Attention", q, k, v, *([mask] if mask is not None else []), num_heads=heads, causal=causal,
        softcap=softcap or None, scale=n.attr("scale"),
    )  # fmt: skip


def _tables(n: NodeReader, cos: Ref, sin: Ref, positions: Ref | None) -> tuple[Ref, Ref]:
    """cos and sin [1 or B, S, R] from caches [T, R / 2] and positions, or [B, S, R / 2] without."""
    made = []
    for table in (cos, sin):
        rows = table if positions is None else n.emit("Gather", table, positions, axis=0)
        made.append(n.emit("Concat", rows, rows, axis=-1))
    return made[0], made[1]


def _rotary(n: NodeReader, x: Ref, cos: Ref, sin: Ref, positions: Ref | None) -> Ref:
    width, heads = n.attr("rotary_embedding_dim", 0), n.attr("num_heads", 0)
    if width and cos.type.shape[-1] * 2 != width:
        raise Refused(f"rotary_embedding_dim={width} with tables of {cos.type.shape[-1]}")
    if x.type.rank == 3 and not heads:
        raise Refused("an input of three axes without num_heads")
    if positions is not None and positions.type.rank != 2:
        raise Refused(f"positions of shape {list(positions.type.shape)}")
    tables = _tables(n, cos, sin, positions)
    attrs: dict[str, Any] = {
        "interleaved": bool(n.attr("interleaved", 0)),
        "num_heads": heads if x.type.rank == 3 else None,
    }
    return n.emit("RotaryEmbedding", x, *tables, **attrs)


def _rotary_23(n: NodeReader) -> Ref:
    return _rotary(n, n.input(0), n.input(1), n.input(2), n.optional(3))


def _rotary_runtime(n: NodeReader) -> Ref:
    n.require(scale=1.0, is_packed_batching=0)
    return _rotary(n, n.input(0), n.input(2), n.input(3), n.input(1))


def _multi_head(n: NodeReader) -> Ref:
    n.only_first("key and value caches")
    _absent(n, 3, 4, 6, 7, 8, 9)
    q, k, v, bias = n.input(0), n.input(1), n.input(2), n.optional(5)
    if not q.type.rank == k.type.rank == v.type.rank == 3:
        raise Refused("packed or split queries")
    causal, scale = bool(n.attr("unidirectional", 0)), n.attr("scale", 0.0)
    if causal and q.type.shape[1] != k.type.shape[1]:
        raise Refused("a causal mask over unequal lengths")
    return n.emit(
        "Attention", q, k, v, *([bias] if bias is not None else []), num_heads=n.attr("num_heads"), causal=causal,
        scale=scale or None,
    )  # fmt: skip


def _packed(n: NodeReader) -> Ref:
    """Projection and attention in one: Linear to queries, keys and values side by side, Split, Attention."""
    n.only_first("key and value caches")
    n.require(do_rotary=0, past_present_share_buffer=0)
    _absent(n, 3, 4, 5, 6)
    x, weight, bias = n.input(0), n.input(1), n.optional(2)
    if not weight.is_param or (bias is not None and not bias.is_param):
        raise Refused("a weight that is computed")
    width = int(str(weight.type.shape[1]))
    sizes = n.attr("qkv_hidden_sizes") or (width // 3,) * 3
    params = {"weight": weight} if bias is None else {"weight": weight, "bias": bias}
    linear = n.emit("Linear", x, params=params, out_features=width, bias=bias is not None, transposed=True)
    q, k, v = n.emit_all("Split", linear, axis=-1, sizes=sizes)
    causal, scale = bool(n.attr("unidirectional", 0)), n.attr("scale", 0.0)
    return n.emit("Attention", q, k, v, num_heads=n.attr("num_heads"), causal=causal, scale=scale or None)


def _simplified_norm(n: NodeReader) -> Ref:
    n.only_first("the deviation of a norm")
    if n.attr("axis", -1) not in (-1, n.input(0).type.rank - 1):
        raise Refused(f"axis={n.attr('axis')}")
    return n.emit("RMSNorm", n.input(0), params={"weight": n.input(1)}, eps=n.attr("epsilon", 1e-5))


def _skip_norm(op: str, bias_index: int) -> Rule:
    """The norm of input + skip (+ bias); the sum is the fourth output."""

    def rule(n: NodeReader) -> list[Ref | None]:
        if any(list(out.uses()) or out.is_graph_output() for out in n.node.outputs[1:3]):
            raise Refused("the mean or deviation of a norm")
        if n.input(0).type != n.input(1).type:
            raise Refused("a skip of another shape")
        total, bias = n.emit("Add", n.input(0), n.input(1)), n.optional(bias_index)
        total = total if bias is None else n.emit("Add", total, bias)
        shift = n.optional(3) if op == "LayerNorm" else None
        params = {"weight": n.input(2)} | ({"bias": shift} if shift is not None else {})
        more = {"bias": shift is not None} if op == "LayerNorm" else {}
        made = n.emit(op, total, params=params, eps=n.attr("epsilon", 1e-12 if op == "LayerNorm" else 1e-5), **more)
        return [made, None, None, total]

    return rule


def _fast_gelu(n: NodeReader) -> Ref:
    bias = n.optional(1)
    x = n.input(0) if bias is None else n.emit("Add", n.input(0), bias)
    return n.emit("Gelu", x, approximate="tanh")


def _quick_gelu(n: NodeReader) -> Ref:
    if abs(n.attr("alpha", 1.702) - 1.702) > 1e-6:
        raise Refused(f"alpha={n.attr('alpha')}")
    return n.emit("Gelu", n.input(0), approximate="sigmoid")


def _fused_matmul(n: NodeReader) -> Ref:
    n.require(transBatchA=0, transBatchB=0)
    sides = []
    for i, key in ((0, "transA"), (1, "transB")):
        side, rank = n.input(i), n.input(i).type.rank
        perm = (*range(rank - 2), rank - 1, rank - 2)
        sides.append(n.emit("Transpose", side, perm=perm) if n.attr(key, 0) else side)
    made = n.emit("MatMul", *sides)
    alpha = n.attr("alpha", 1.0)
    return made if alpha == 1.0 else n.emit("MulScalar", made, value=alpha)


_ACTIVATIONS = {"Relu": "Relu", "Tanh": "Tanh", "Sigmoid": "Sigmoid"}


def _fused(op_type: str, last: int) -> Rule:
    """A Conv or Gemm with its activation."""

    def rule(n: NodeReader) -> Any:
        if n.attr("activation") not in _ACTIVATIONS:
            raise Refused(f"activation={n.attr('activation')}")
        _absent(n, last)
        return n.emit(_ACTIVATIONS[n.attr("activation")], LAYER_RULES[op_type](n))

    return rule


def _bias_gelu(n: NodeReader) -> Ref:
    return n.emit("Gelu", n.emit("Add", n.input(0), n.input(1)))


ATTENTION_RULES: dict[str, Rule] = {
    "Attention": _attention,
    "RotaryEmbedding": _rotary_23,
    "SimplifiedLayerNormalization": _simplified_norm,
}
CONTRIB_RULES: dict[tuple[str, str], Rule] = {
    (MICROSOFT, name): rule
    for name, rule in {
        "Attention": _packed,
        "BiasGelu": _bias_gelu,
        "FastGelu": _fast_gelu,
        "FusedConv": _fused("Conv", 3),
        "FusedGemm": _fused("Gemm", 3),
        "FusedMatMul": _fused_matmul,
        "Gelu": lambda n: n.emit("Gelu", n.input(0)),
        "MultiHeadAttention": _multi_head,
        "QuickGelu": _quick_gelu,
        "RotaryEmbedding": _rotary_runtime,
        "SimplifiedLayerNormalization": _simplified_norm,
        "SkipLayerNormalization": _skip_norm("LayerNorm", 4),
        "SkipSimplifiedLayerNormalization": _skip_norm("RMSNorm", 3),
    }.items()
}
