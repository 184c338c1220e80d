"""Attention and its kin of opset 23 and of ONNX Runtime's own domain: as our ops they compute the same."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from genmad.evals.onnx_files import run_model
from genmad.importers.from_onnx import from_onnx
from genmad.lowering.to_onnx import to_onnx

RNG = np.random.default_rng(0)
TOLERANCE = 1e-5


def some(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


POSITIONS = np.arange(3)[None].repeat(2, 0).astype(np.int64)
CAUSAL = np.tril(np.ones((3, 5), bool), 2)


@dataclass(frozen=True, kw_only=True)
class Case:
    """One operator: inputs, which of them are stored in the file, attributes, and the ops that must come out."""

    op: str
    inputs: tuple[np.ndarray | None, ...]
    ops: tuple[str, ...]
    attrs: dict[str, Any] = field(default_factory=dict)
    stored: tuple[int, ...] = ()
    outputs: tuple[str, ...] = ("o",)
    domain: str = "com.microsoft"


X = some(2, 3, 16)
TABLES = some(10, 4), some(10, 4)
CASES = [
    Case(op="Gelu", inputs=(X,), ops=("Gelu",)),
    Case(op="FastGelu", inputs=(X, some(16)), ops=("Add", "Gelu"), stored=(1,)),
    Case(op="QuickGelu", inputs=(X,), ops=("Gelu",)),
    Case(op="BiasGelu", inputs=(X, some(16)), ops=("Add", "Gelu"), stored=(1,)),
    Case(op="FusedMatMul", inputs=(X, some(2, 5, 16)), ops=("MatMul",), attrs={"transB": 1, "alpha": 0.5}),
    Case(
        op="SkipLayerNormalization", inputs=(X, X, some(16), some(16), some(16)), ops=("Add", "LayerNorm"),
        stored=(2, 3, 4), outputs=("o", "", "", "sum"),
    ),
    Case(op="SkipSimplifiedLayerNormalization", inputs=(X, X, some(16)), ops=("Add", "RMSNorm"), stored=(2,)),
    Case(op="SimplifiedLayerNormalization", inputs=(X, some(16)), ops=("RMSNorm",), stored=(1,), domain=""),
    Case(op="RMSNormalization", inputs=(X, some(16)), ops=("RMSNorm",), stored=(1,), domain=""),
    Case(op="MultiHeadAttention", inputs=(X, *(some(2, 5, 16),) * 2), ops=("Attention",), attrs={"num_heads": 4}),
    Case(
        op="MultiHeadAttention", inputs=(X, X, X), ops=("Attention",),
        attrs={"num_heads": 4, "unidirectional": 1, "scale": 0.3},
    ),
    Case(
        op="MultiHeadAttention", inputs=(X, some(2, 5, 16), some(2, 5, 16), None, None, some(1, 4, 3, 5)),
        ops=("Attention",), attrs={"num_heads": 4},
    ),
    Case(
        op="Attention", inputs=(X, some(16, 48), some(48)), ops=("Linear", "Split", "Attention"), stored=(1, 2),
        attrs={"num_heads": 4, "unidirectional": 1},
    ),
    Case(
        op="FusedConv", inputs=(some(1, 3, 8, 8), some(4, 3, 3, 3), some(4)), ops=("Conv", "Relu"), stored=(1, 2),
        attrs={"activation": "Relu", "pads": [1, 1, 1, 1]},
    ),
    Case(
        op="FusedGemm", inputs=(some(3, 4), some(4, 5), some(5)), ops=("Linear", "Tanh"), stored=(1, 2),
        attrs={"activation": "Tanh"},
    ),
    Case(op="Attention", inputs=(some(2, 4, 3, 8),) + (some(2, 2, 3, 8),) * 2, ops=("Attention",),
         attrs={"is_causal": 1}, domain=""),
    Case(op="Attention", inputs=(some(2, 3, 32), some(2, 5, 16), some(2, 5, 16), CAUSAL), ops=("Attention",),
         attrs={"q_num_heads": 4, "kv_num_heads": 2}, domain=""),
    Case(op="Attention", inputs=(some(2, 4, 3, 8),) * 3, ops=("Attention",), attrs={"softcap": 2.0}, domain=""),
    # A causal mask over more keys than queries starts at the other corner than ours: the operator is kept.
    Case(op="Attention", inputs=(some(2, 4, 3, 8),) + (some(2, 4, 5, 8),) * 2, ops=("OnnxCall",),
         attrs={"is_causal": 1}, domain=""),
    Case(op="GroupQueryAttention", inputs=(some(1, 3, 32), some(1, 3, 16), some(1, 3, 16), None, None,
         np.array([2], np.int32), np.array(3, np.int32)), ops=("OnnxCall",), attrs={"num_heads": 4, "kv_num_heads": 2},
         outputs=("o", "k", "v")),
    *(
        Case(op="RotaryEmbedding", inputs=inputs, ops=("RotaryEmbedding",), attrs={"interleaved": i, **attrs},
             stored=stored, domain=domain)
        for i in (0, 1)
        for inputs, attrs, stored, domain in (
            ((some(2, 4, 3, 8), POSITIONS, *TABLES), {}, (2, 3), "com.microsoft"),
            ((some(2, 3, 32), POSITIONS, *TABLES), {"num_heads": 4}, (2, 3), "com.microsoft"),
            ((some(2, 4, 3, 8), *TABLES, POSITIONS), {}, (1, 2), ""),
            ((some(2, 3, 32), some(2, 3, 2), some(2, 3, 2)), {"num_heads": 4, "rotary_embedding_dim": 4}, (), ""),
        )
    ),
]  # fmt: skip


def file_of(case: Case) -> tuple[bytes, dict[str, np.ndarray]]:
    names = [f"i{i}" if x is not None else "" for i, x in enumerate(case.inputs)]
    given = {i: x for i, x in enumerate(case.inputs) if x is not None}
    node = helper.make_node(case.op, names, list(case.outputs), domain=case.domain, name="n", **case.attrs)
    inputs = [
        helper.make_tensor_value_info(f"i{i}", helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)
        for i, x in given.items()
        if i not in case.stored
    ]
    outputs = [helper.make_tensor_value_info(o, onnx.TensorProto.FLOAT, None) for o in case.outputs if o]
    stored = [numpy_helper.from_array(given[i], f"i{i}") for i in case.stored]
    graph = helper.make_graph([node], "g", inputs, outputs, initializer=stored)
    imports = [helper.make_opsetid("", 18 if case.domain else 23), helper.make_opsetid("com.microsoft", 1)]
    data = helper.make_model(graph, opset_imports=imports, ir_version=10).SerializeToString()
    return data, {f"i{i}": x for i, x in given.items() if i not in case.stored}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.op)
def test_the_operator_lifts_and_computes_the_same(case: Case) -> None:
    data, feeds = file_of(case)
    graph, weights, _ = from_onnx(data)
    ops = {node.op for node in graph.main.nodes}
    assert set(case.ops) <= ops
    assert "OnnxCall" in case.ops or "OnnxCall" not in ops
    expected, got = run_model(data, feeds), run_model(to_onnx(graph, weights=weights).SerializeToString(), feeds)
    assert expected is not None
    assert got is not None
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=TOLERANCE)
