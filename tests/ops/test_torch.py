"""Every op against torch, from its own samples: types, MACs, both ways of writing it, refusals."""

import itertools

import pytest
import torch
from _pytest.mark import ParameterSet
from torch.utils.flop_counter import FlopCounterMode

from genmad.ir.build import GraphBuilder
from genmad.ir.diagnostics import GenmadError, GraphError
from genmad.ir.graph import Graph, Value
from genmad.ir.opdef import OpDef, Sample
from genmad.ir.types import TensorType, evaluate_dim
from genmad.lowering.to_torch import parameters, to_torch
from genmad.ops import FAMILIES, OPSET, join

SIZES = {"batch": 2, "seq": 5, "target": 4}
# torch's counter does not see these: the FFT of a long convolution, experts (which have no rows on meta). Nor matrix
# times vector, see below.
UNCOUNTED = {"LongConv", "SGConv", "RoutedExperts"}


def cases(refused: bool = False) -> list[ParameterSet]:
    return [
        pytest.param(op, sample, id=f"{op.name}-{index}")
        for op in OPSET.values()
        for index, sample in enumerate(op.refused if refused else op.samples)
    ]


def one_node(op: OpDef, sample: Sample, params: dict[str, str] | None = None) -> Graph:
    """A graph of one node `node`; an op without inputs gets an unused one that tells batch and seq."""
    builder = GraphBuilder(OPSET)
    values = [Value(f"x{i}", TensorType.parse(text)) for i, text in enumerate(sample.inputs) if text]
    main = builder.block("net", values or [Value("unused", TensorType.parse("float32[batch,seq]"))])
    names = [f"x{i}" if text else "" for i, text in enumerate(sample.inputs)]
    return builder.build(main.finish(main.add(op.name, *names, name="node", params=params, **sample.attrs)))


def random_inputs(op: OpDef, graph: Graph, device: str = "cpu") -> list[torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    made = []
    for index, value in enumerate(graph.main.inputs):
        shape = [evaluate_dim(dim, SIZES) for dim in value.type.shape]
        dtype = getattr(torch, str(value.type.dtype))
        if value.type.dtype.is_float:
            made.append(torch.randn(shape, generator=rng).to(device, dtype))
        else:
            lowest = int(op.name in ("Mod", "Div") and index == 1)  # nothing is divided by zero
            made.append(torch.randint(lowest, 2 + lowest, shape, generator=rng).to(device, dtype))
    return made


def run(op: OpDef, graph: Graph, device: str = "cpu") -> tuple[torch.Tensor, ...]:
    with torch.no_grad():
        result = to_torch(graph, device=device)(*random_inputs(op, graph, device))
    return result if isinstance(result, tuple) else (result,)


def test_every_op_has_samples_refusals_and_a_doc() -> None:
    lacking = [op.name for op in OPSET.values() if len(op.samples) < 2 or not op.refused or not op.doc]
    assert lacking == []


def test_op_set_is_large_enough_and_keyed_by_name() -> None:
    assert len(OPSET) >= 70
    assert all(name == op.name for name, op in OPSET.items())


def test_a_second_declaration_of_a_name_is_an_error() -> None:
    with pytest.raises(ValueError, match="second declaration"):
        join((*FAMILIES, (OPSET["Relu"],)))


@pytest.mark.parametrize(("op", "sample"), cases())
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_shape_rule_equals_torch(op: OpDef, sample: Sample, device: str) -> None:
    graph = one_node(op, sample)
    declared = graph.main.output_types
    got = run(op, graph, device)
    assert [(f"torch.{t.dtype}", [evaluate_dim(d, SIZES) for d in t.shape]) for t in declared] == [
        (str(y.dtype), list(y.shape)) for y in got
    ]
    assert all(y.device.type == device for y in got)


@pytest.mark.parametrize(("op", "sample"), cases())
def test_macs_are_half_of_torchs_flops(op: OpDef, sample: Sample) -> None:
    graph = one_node(op, sample)
    module, inputs = to_torch(graph, device="meta"), random_inputs(op, graph, "meta")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module(*inputs)
    node = graph.main.nodes[0]
    types = [graph.main.types[v] if v else None for v in node.inputs]
    macs = evaluate_dim(op.cost(types, node.types, node.attr_map).macs, SIZES)
    if op.name in UNCOUNTED or (op.name == "MatMul" and any(t is not None and t.rank == 1 for t in types)):
        assert macs > 0
    elif node.attr_map.get("window") is not None or op.name == "LSHAttention":
        assert 0 < 2 * macs <= counter.get_total_flops(), "torch computes the scores outside window or bucket too"
    else:
        assert 2 * macs == counter.get_total_flops()


@pytest.mark.parametrize(("op", "sample"), cases(refused=True))
def test_refused_samples_say_why(op: OpDef, sample: Sample) -> None:
    assert sample.message
    with pytest.raises(GraphError) as caught:
        one_node(op, sample)
    assert sample.message in str(caught.value)
    assert 'node"' in str(caught.value), "the message must name the node"


@pytest.mark.parametrize(("op", "sample"), cases())
def test_attributes_are_complete_ordered_and_stable(op: OpDef, sample: Sample) -> None:
    """Guards canonical hashes: a graph must not depend on the order, or the completeness, of what was typed."""
    once = op.complete(sample.attrs)
    assert list(once) == [attr.name for attr in op.attrs]
    assert op.complete(dict(reversed(once.items()))) == once
    assert all(isinstance(hash(value), int) for value in once.values())


@pytest.mark.parametrize(("op", "sample"), cases())
def test_unknown_attributes_are_refused(op: OpDef, sample: Sample) -> None:
    with pytest.raises(GenmadError, match="no_such_attribute"):
        op.complete({**sample.attrs, "no_such_attribute": 1})


def has_layer(op: OpDef, sample: Sample) -> bool:
    types = [None if text is None else TensorType.parse(text) for text in sample.inputs]
    return bool(op.torch_module(types, op.complete(sample.attrs)))


@pytest.mark.parametrize(("op", "sample"), [case for case in cases() if has_layer(*case.values)])
def test_torch_layer_and_function_agree(op: OpDef, sample: Sample) -> None:
    """The same parameters under names that allow the layer (`node.weight`) and under names that do not (`p.a`)."""
    native = one_node(op, sample)
    slots = [slot for slot, _ in native.main.nodes[0].params]
    loose = one_node(op, sample, {slot: f"p.{slot}_x" for slot in slots})
    layer, function = to_torch(native), to_torch(loose)
    assert ".weight" not in layer.source.rsplit("def forward", 1)[1].split("def load")[0]
    assert "p.weight_x" in function.source
    assert list(layer.state_dict()) == list(parameters(native))
    rng = torch.Generator().manual_seed(1)
    state = {name: torch.rand(t.shape, generator=rng) for name, t in layer.state_dict().items()}
    layer.load_state_dict(state)
    function.load_state_dict({f"p.{name.removeprefix('node.')}_x": value for name, value in state.items()})
    inputs = random_inputs(op, native)
    torch.testing.assert_close(layer(*inputs), function(*inputs), rtol=0, atol=0)


@pytest.mark.parametrize(("op", "sample"), cases())
def test_every_parameter_changes_the_output(op: OpDef, sample: Sample) -> None:
    """Guards a lowering that forgets a bias: no parameter may be without influence."""
    graph = one_node(op, sample)
    module = to_torch(graph)
    rng = torch.Generator().manual_seed(2)
    state = {name: torch.rand(t.shape, generator=rng) + 0.1 for name, t in module.state_dict().items()}
    inputs = random_inputs(op, graph)

    def outputs(values: dict[str, torch.Tensor]) -> list[torch.Tensor]:
        module.load_state_dict(values)
        with torch.no_grad():
            result = module(*inputs)
        return [t.clone() for t in (result if isinstance(result, tuple) else (result,))]

    before = outputs(state)
    for name, value in state.items():
        after = outputs({**state, name: value.flip(-1) * 1.5 + 0.3})
        assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True)), f"{name} has no influence"


def one_output(op: str, x: torch.Tensor, state: dict[str, torch.Tensor], **attrs: object) -> torch.Tensor:
    text = f"float32[{','.join(str(d) for d in x.shape)}]"
    module = to_torch(one_node(OPSET[op], Sample(inputs=(text,), attrs=attrs)))
    module.load_state_dict({f"node.{slot}": value for slot, value in state.items()})
    with torch.no_grad():
        result = module(x)
    assert isinstance(result, torch.Tensor)
    return result


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("kernel", [1, 2, 3, 9])
def test_long_conv_equals_a_loop(causal: bool, kernel: int) -> None:
    rng = torch.Generator().manual_seed(0)
    x, w, bias = (torch.randn(shape, generator=rng) for shape in ((2, 5, 3), (3, kernel), (3,)))
    expected = torch.zeros_like(x)
    ahead = 0 if causal else kernel // 2
    for t, j in itertools.product(range(5), range(kernel)):
        source = t + ahead - (kernel - 1) + j
        if 0 <= source < 5:
            expected[:, t] += w[:, j] * x[:, source]
    got = one_output("LongConv", x, {"weight": w, "bias": bias}, kernel_size=kernel, causal=causal)
    torch.testing.assert_close(got, expected + bias, rtol=1e-5, atol=1e-5)


def test_lora_is_the_plain_layer_until_b_is_trained() -> None:
    rng = torch.Generator().manual_seed(0)
    shapes = {"weight": (6, 4), "bias": (6,), "lora_a": (2, 4), "lora_b": (6, 2)}
    state = {slot: torch.randn(shape, generator=rng) for slot, shape in shapes.items()}
    x = torch.randn(3, 4, generator=rng)
    merged = state["weight"] + 8 / 2 * state["lora_b"] @ state["lora_a"]
    got = one_output("LoRALinear", x, state, out_features=6, rank=2, alpha=8)
    torch.testing.assert_close(got, x @ merged.T + state["bias"])
    fresh = to_torch(
        one_node(OPSET["LoRALinear"], Sample(inputs=("float32[3,4]",), attrs={"out_features": 6, "rank": 2}))
    )
    assert torch.count_nonzero(fresh.state_dict()["node.lora_b"]) == 0


def test_mamba_mixer_equals_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    from transformers.models.mamba.modeling_mamba import MambaMixer

    config = transformers.MambaConfig(hidden_size=6, state_size=4, conv_kernel=3, time_step_rank=2, expand=2)
    torch.manual_seed(0)
    reference = MambaMixer(config, layer_idx=0)
    state = {name.replace(".", "_"): torch.randn(p.shape) * 0.5 for name, p in reference.state_dict().items()}
    reference.load_state_dict({name: state[name.replace(".", "_")] for name in reference.state_dict()})
    x = torch.randn(2, 5, 6)
    sizes = {"intermediate_size": 12, "state_size": 4, "conv_kernel": 3, "time_step_rank": 2}
    with torch.no_grad():
        expected = reference.eval()(x)
    got = one_output("MambaMixer", x, state, **sizes)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


def test_kernel_size_change_keeps_the_output_size() -> None:
    conv = OPSET["Conv"]
    x = TensorType.parse("float32[batch,4,16,16]")
    old = conv.complete({"out_channels": 4, "kernel_size": (3, 3), "stride": (2, 2), "padding": (1, 1)})
    for kernel in ((1, 1), (5, 5), (7, 3), (4, 2)):
        changes = {"kernel_size": kernel}
        new = conv.complete({**old, **changes, **conv.follow(old, changes)})
        assert conv.infer((x,), new) == conv.infer((x,), old)


def test_kernel_size_change_keeps_causal_padding_causal() -> None:
    conv = OPSET["Conv"]
    old = conv.complete({"out_channels": 4, "kernel_size": (3,), "padding": (2, 0)})
    assert conv.follow(old, {"kernel_size": (5,)}) == {"padding": (4, 0)}


def test_windows_have_one_canonical_form() -> None:
    conv = OPSET["Conv"]
    short = conv.complete({"out_channels": 4, "kernel_size": [3, 3]})
    long = {"stride": (1, 1), "padding": (0, 0, 0, 0), "dilation": (1, 1)}
    assert short == conv.complete({"out_channels": 4, "kernel_size": (3, 3), **long})
    assert OPSET["MaxPool"].complete({"kernel_size": (2, 2)})["stride"] == (2, 2)


def test_batch_norm_learns_statistics_only_in_training() -> None:
    module = to_torch(one_node(OPSET["BatchNorm"], Sample(inputs=("float32[8,3,4,4]",))))
    x = torch.randn(8, 3, 4, 4, generator=torch.Generator().manual_seed(0)) + 5
    module(x)
    assert torch.count_nonzero(module.state_dict()["node.running_mean"]) == 0
    module.train()(x)
    assert torch.all(module.state_dict()["node.running_mean"] > 0.3)


def test_importing_the_op_set_loads_no_framework() -> None:
    import subprocess
    import sys

    code = "import sys, genmad.ops; print([m for m in ('torch', 'onnx', 'numpy', 'transformers') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
