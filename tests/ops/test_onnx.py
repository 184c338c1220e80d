"""Every op of the op set, on every sample: ONNX Runtime gives what torch gives, with batch and length left symbolic."""

import inspect
import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from genmad.importers.from_onnx import from_onnx
from genmad.ir.build import GraphBuilder
from genmad.ir.canonical import same_structure
from genmad.ir.diagnostics import ShapeError
from genmad.ir.graph import Graph, Value
from genmad.ir.opdef import Attrs, OpDef, Sample
from genmad.ir.types import Dim, TensorType, evaluate_dim
from genmad.lowering.errors import LoweringError
from genmad.lowering.onnx_check import check_onnx
from genmad.lowering.to_onnx import to_onnx
from genmad.ops import OPSET

SIZES = {"batch": 2, "seq": 6, "target": 4}
TOLERANCE = 1e-5
# Ops whose second operand are indices into an axis of the first.
INDEX_LIMIT = {"Gather": 3, "GatherElements": 2}

CASES = [(op, sample) for op in OPSET.values() for sample in op.samples]
IDS = [f"{op.name}-{i}" for op in OPSET.values() for i, _ in enumerate(op.samples)]
REFUSED = [(op, sample) for op in OPSET.values() for sample in op.refused]


class Direct:
    """A TorchContext whose expressions run at once: inputs are x0, x1 ... and parameters p["slot"]."""

    def __init__(self, types: Sequence[TensorType | None], results: tuple[TensorType, ...], attrs: Attrs) -> None:
        self.inputs = tuple(None if t is None else f"x{i}" for i, t in enumerate(types))
        self.types, self.results, self.attrs = tuple(types), results, attrs
        self.names: dict[str, Any] = {"torch": torch, "F": F, "math": math, "nn": nn, "Tensor": torch.Tensor}

    def param(self, slot: str) -> str:
        return f'p["{slot}"]'

    def dim(self, dim: Dim) -> str:
        return str(evaluate_dim(dim, SIZES))

    def dims(self, dims: Sequence[Dim]) -> str:
        return ", ".join(map(self.dim, dims))

    def kernel(self, function: Callable[..., Any]) -> str:
        exec(inspect.getsource(function), self.names)  # as model.py would hold it: only torch, F and math in reach
        return function.__name__


def graph_of(op: OpDef, sample: Sample) -> Graph:
    builder = GraphBuilder(OPSET)
    values = [Value(f"x{i}", TensorType.parse(t)) for i, t in enumerate(sample.inputs) if t is not None]
    main = builder.block("main", values)
    inputs = [f"x{i}" if t is not None else "" for i, t in enumerate(sample.inputs)]
    node = main.add_node(op.name, inputs, sample.attrs, name="stem.node")
    return builder.build(main.finish(node.outputs))


def tensor(type_: TensorType, rng: np.random.Generator, high: int = 3) -> np.ndarray:
    shape = tuple(evaluate_dim(d, SIZES) for d in type_.shape)
    if type_.dtype.value == "bool":
        return rng.random(shape) < 0.6
    if type_.dtype.is_integer:
        return rng.integers(1, high, shape).astype(type_.dtype.value)
    return np.asarray((rng.random(shape) * 1.6 + 0.1) * rng.choice([-1, 1], shape), type_.dtype.value)


def run_torch(
    op: OpDef, graph: Graph, inputs: Mapping[str, np.ndarray], params: Mapping[str, torch.Tensor]
) -> list[np.ndarray]:
    node = graph.main.nodes[0]
    context = Direct([graph.main.types[v] if v else None for v in node.inputs], node.types, node.attr_map)
    source = op.to_torch(context)
    fields = {"self": nn.Module().eval(), "p": params, **{k: torch.from_numpy(v) for k, v in inputs.items()}}
    out = eval(source, {**context.names, **fields})
    return [t.numpy() for t in (out if isinstance(out, tuple | list) else (out,))]


def run_onnx(model: onnx.ModelProto, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, dict(inputs))


@pytest.mark.parametrize(("op", "sample"), CASES, ids=IDS)
def test_onnxruntime_agrees_with_torch_on_every_sample(op: OpDef, sample: Sample) -> None:
    """A wrong ONNX lowering would hand the user a model.onnx that computes something other than model.py."""
    graph = graph_of(op, sample)
    rng = np.random.default_rng(zlib.crc32(f"{op.name}{sample}".encode()))
    node = graph.main.nodes[0]
    types = [graph.main.types[v] if v else None for v in node.inputs]
    declared = {p.slot: tensor(p.type, rng) for p in op.params(types, node.attr_map)}
    if "running_var" in declared:
        declared["running_var"] = np.abs(declared["running_var"])
    inputs = {v.name: tensor(v.type, rng, INDEX_LIMIT.get(op.name, 3)) for v in graph.main.inputs}
    with torch.no_grad():
        expected = run_torch(op, graph, inputs, {k: torch.from_numpy(v) for k, v in declared.items()})
    try:
        model = to_onnx(graph, weights={node.param_map[slot]: value for slot, value in declared.items()})
    except LoweringError:
        assert op.name == "TorchCall", "only the op of last resort may lack an ONNX form"
        return
    assert check_onnx(graph) == []
    got = run_onnx(model, inputs)
    for want, have, type_ in zip(expected, got, node.types, strict=True):
        assert have.shape == tuple(evaluate_dim(d, SIZES) for d in type_.shape) == want.shape
        assert str(have.dtype) == str(want.dtype) == type_.dtype.value
        scale = max(1.0, float(np.abs(want).max())) if type_.dtype.is_float and np.isfinite(want).all() else 1.0
        np.testing.assert_allclose(have, want, rtol=TOLERANCE, atol=TOLERANCE * scale)


@pytest.mark.parametrize(("op", "sample"), CASES, ids=IDS)
def test_every_sample_comes_back_from_its_onnx_form(op: OpDef, sample: Sample) -> None:
    """What is handed over as model.onnx can be edited again: read back, it computes the same to the last bit."""
    if op.name == "TorchCall":
        pytest.skip("has no ONNX form")
    graph = graph_of(op, sample)
    rng = np.random.default_rng(0)
    node = graph.main.nodes[0]
    types = [graph.main.types[v] if v else None for v in node.inputs]
    weights = {node.param_map[p.slot]: tensor(p.type, rng) for p in op.params(types, node.attr_map)}
    model = to_onnx(graph, weights=weights)
    back, loaded, _ = from_onnx(model.SerializeToString())
    if op.is_function:
        assert same_structure(graph, back)
    inputs = {v.name: tensor(v.type, rng, INDEX_LIMIT.get(op.name, 3)) for v in graph.main.inputs}
    for a, b in zip(run_onnx(model, inputs), run_onnx(to_onnx(back, weights=loaded), inputs), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(("op", "sample"), REFUSED, ids=[f"{op.name}-{s.message[:30]}" for op, s in REFUSED])
def test_refused_samples_are_refused_with_their_message(op: OpDef, sample: Sample) -> None:
    types = [None if t is None else TensorType.parse(t) for t in sample.inputs]
    with pytest.raises(ShapeError) as caught:
        op.infer(types, op.complete(sample.attrs))
    assert sample.message in str(caught.value)
