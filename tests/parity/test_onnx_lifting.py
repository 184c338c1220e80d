"""Patterns that exporters write out become layer-level ops, and compute the same; near misses stay as they are."""

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from genmad.evals.onnx_files import run_model
from genmad.importers.from_onnx import from_onnx
from genmad.lowering.to_onnx import to_onnx

RNG = np.random.default_rng(0)
WIDTH, HEADS = 8, 2


class Writer:
    """Writes a file operator by operator; numbers become constants."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.stored: list[onnx.TensorProto] = []

    def __call__(self, op: str, *inputs: str | float | list[int], **attrs: object) -> str:
        names = [x if isinstance(x, str) else self.number(x) for x in inputs]
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, names, [name], **attrs))
        return name

    def number(self, value: float | list[int]) -> str:
        dtype = np.int64 if isinstance(value, list) else np.float32
        return self.store(f"c{len(self.stored)}", np.asarray(value, dtype))

    def store(self, name: str, array: np.ndarray) -> str:
        self.stored.append(numpy_helper.from_array(array, name))
        return name

    def weight(self, name: str, *shape: int) -> str:
        return self.store(name, RNG.standard_normal(shape).astype(np.float32))


def gelu_erf(w: Writer) -> str:
    return w("Mul", w("Mul", "x", w("Add", w("Erf", w("Div", "x", 2**0.5)), 1.0)), 0.5)


def gelu_erf_other(w: Writer) -> str:
    return w("Mul", w("Mul", 0.5, "x"), w("Add", 1.0, w("Erf", w("Mul", "x", 2**-0.5))))


def gelu_tanh(w: Writer) -> str:
    inner = w("Add", "x", w("Mul", w("Pow", "x", 3.0), 0.044715))
    return w("Mul", w("Mul", "x", 0.5), w("Add", w("Tanh", w("Mul", inner, (2 / np.pi) ** 0.5)), 1.0))


def gelu_wrong(w: Writer) -> str:
    """The factor inside is not that of a GELU."""
    return w("Mul", w("Mul", "x", w("Add", w("Erf", w("Div", "x", 1.5)), 1.0)), 0.5)


def silu(w: Writer) -> str:
    return w("Mul", w("Sigmoid", "x"), "x")


def hard_swish(w: Writer) -> str:
    return w("Mul", "x", w("HardSigmoid", "x", alpha=1 / 6, beta=0.5))


def mish(w: Writer) -> str:
    return w("Mul", "x", w("Tanh", w("Softplus", "x")))


def layer_norm(w: Writer) -> str:
    centred = w("Sub", "x", w("ReduceMean", "x", [-1]))
    variance = w("ReduceMean", w("Pow", centred, 2.0), [-1])
    normal = w("Div", centred, w("Sqrt", w("Add", variance, 1e-5)))
    return w("Add", w("Mul", normal, w.weight("norm.weight", WIDTH)), w.weight("norm.bias", WIDTH))


def rms_norm(w: Writer) -> str:
    mean = w("ReduceMean", w("Mul", "x", "x"), [-1])
    normal = w("Mul", "x", w("Reciprocal", w("Sqrt", w("Add", mean, 1e-6))))
    return w("Mul", w.weight("norm.weight", WIDTH), normal)


def rms_norm_divided(w: Writer) -> str:
    mean = w("ReduceMean", w("Pow", "x", 2.0), [-1])
    normal = w("Div", "x", w("Pow", w("Add", mean, 1e-6), 0.5))
    return w("Mul", normal, w.weight("norm.weight", WIDTH))


def rms_norm_wrong(w: Writer) -> str:
    """The mean is over another axis."""
    mean = w("ReduceMean", w("Mul", "x", "x"), [1])
    normal = w("Mul", "x", w("Reciprocal", w("Sqrt", w("Add", mean, 1e-6))))
    return w("Mul", w.weight("norm.weight", WIDTH), normal)


def _split(w: Writer, name: str, perm: list[int]) -> str:
    heads = w("Reshape", w("MatMul", "x", w.weight(name, WIDTH, WIDTH)), [0, 0, HEADS, WIDTH // HEADS])
    return w("Transpose", heads, perm=perm)


def _join(w: Writer, value: str) -> str:
    return w("Reshape", w("Transpose", value, perm=[0, 2, 1, 3]), [0, 0, WIDTH])


def attention_divided(w: Writer) -> str:
    """Scores divided by the root of the head size, as in most models written by hand."""
    q, k, v = _split(w, "q", [0, 2, 1, 3]), _split(w, "k", [0, 2, 3, 1]), _split(w, "v", [0, 2, 1, 3])
    scores = w("Softmax", w("Div", w("MatMul", q, k), (WIDTH / HEADS) ** 0.5), axis=-1)
    return _join(w, w("MatMul", scores, v))


def attention_scaled_twice(w: Writer) -> str:
    """torch's exporter scales queries and keys by the fourth root each; a mask is added."""
    q, k, v = _split(w, "q", [0, 2, 1, 3]), _split(w, "k", [0, 2, 1, 3]), _split(w, "v", [0, 2, 1, 3])
    root = (WIDTH / HEADS) ** -0.25
    scores = w("MatMul", w("Mul", q, root), w("Mul", w("Transpose", k, perm=[0, 1, 3, 2]), root))
    mask = w.store("mask", np.triu(np.full((1, 1, 5, 5), -1e9, np.float32), 1))
    return _join(w, w("MatMul", w("Softmax", w("Add", scores, mask), axis=-1), v))


def attention_guarded(w: Writer) -> str:
    """Rows that see no key would be NaN and are set to zero."""
    q, k, v = _split(w, "q", [0, 2, 1, 3]), _split(w, "k", [0, 2, 3, 1]), _split(w, "v", [0, 2, 1, 3])
    scores = w("Softmax", w("Mul", w("MatMul", q, k), 0.7), axis=-1)
    return _join(w, w("MatMul", w("Where", w("IsNaN", scores), 0.0, scores), v))


def attention_other_axis(w: Writer) -> str:
    """A softmax over the queries is no attention."""
    q, k, v = _split(w, "q", [0, 2, 1, 3]), _split(w, "k", [0, 2, 3, 1]), _split(w, "v", [0, 2, 1, 3])
    return _join(w, w("MatMul", w("Softmax", w("MatMul", q, k), axis=-2), v))


def rotary(w: Writer) -> str:
    """x cos + rotate_half(x) sin, as transformers writes it."""
    size, half = WIDTH // HEADS, WIDTH // HEADS // 2
    x = w("Transpose", w("Reshape", "x", [0, 0, HEADS, size]), perm=[0, 2, 1, 3])
    low, high = w("Slice", x, [0], [half], [3]), w("Slice", x, [half], [2**31], [3])
    turned = w("Concat", w("Neg", high), low, axis=-1)
    tables = [w("Unsqueeze", w.weight(name, 1, 5, size), [1]) for name in ("cos", "sin")]
    return w("Add", w("Mul", x, tables[0]), w("Mul", turned, tables[1]))


def linear_on_a_matrix(w: Writer) -> str:
    flat = w("Reshape", "x", [-1, WIDTH])
    weights = w.weight("fc.weight", 3, WIDTH), w.weight("fc.bias", 3)
    shape = w("Concat", w("Shape", "x", start=0, end=2), w.number([3]), axis=0)
    return w("Reshape", w("Gemm", flat, *weights, transB=1), shape)


CASES: list[tuple[Callable[[Writer], str], set[str]]] = [
    (gelu_erf, {"Gelu"}),
    (gelu_erf_other, {"Gelu"}),
    (gelu_tanh, {"Gelu"}),
    (silu, {"Silu"}),
    (hard_swish, {"HardSwish"}),
    (mish, {"Mish"}),
    (layer_norm, {"LayerNorm"}),
    (rms_norm, {"RMSNorm"}),
    (rms_norm_divided, {"RMSNorm"}),
    (attention_divided, {"Linear", "Attention"}),
    (attention_scaled_twice, {"Linear", "Attention", "Parameter"}),
    (attention_guarded, {"Linear", "Attention"}),
    (rotary, {"Parameter", "Reshape", "Transpose", "RotaryEmbedding"}),
    (linear_on_a_matrix, {"Linear"}),
]
NEAR_MISSES = [(gelu_wrong, "Gelu"), (rms_norm_wrong, "RMSNorm"), (attention_other_axis, "Attention")]


def written(make: Callable[[Writer], str]) -> bytes:
    w = Writer()
    out = make(w)
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 5, WIDTH])
    y = helper.make_tensor_value_info(out, TensorProto.FLOAT, None)
    graph = helper.make_graph(w.nodes, "g", [x], [y], initializer=w.stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10).SerializeToString()


def ops_after_import(make: Callable[[Writer], str]) -> set[str]:
    """The ops of the imported graph, after checking that it computes what the file does."""
    data = written(make)
    graph, weights, _ = from_onnx(data)
    feeds = {"x": RNG.standard_normal((3, 5, WIDTH)).astype(np.float32)}
    expected, got = run_model(data, feeds), run_model(to_onnx(graph, weights=weights).SerializeToString(), feeds)
    assert expected is not None
    assert got is not None
    np.testing.assert_allclose(got[0], expected[0], atol=1e-5)
    return {node.op for node in graph.main.nodes}


@pytest.mark.parametrize(("make", "ops"), CASES, ids=lambda x: getattr(x, "__name__", ""))
def test_a_pattern_is_lifted_and_computes_the_same(make: Callable[[Writer], str], ops: set[str]) -> None:
    assert ops_after_import(make) == ops


@pytest.mark.parametrize(("make", "op"), NEAR_MISSES, ids=lambda x: getattr(x, "__name__", ""))
def test_what_only_looks_like_the_pattern_stays(make: Callable[[Writer], str], op: str) -> None:
    assert op not in ops_after_import(make)
