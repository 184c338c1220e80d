"""Post-conditions of edits to convolutional models: right results pass, wrong ones do not."""

import pytest

from genmad.evals.postconditions import judge
from genmad.intents.types import Request
from genmad.ir.canonical import canonical_hash
from genmad.ir.graph import Graph
from genmad.ir.script import Add, At, EditScript, Number, Remove, Replace, ReplaceUses, Rewire, SetAttrs, Step
from genmad.ops import OPSET
from tests.graphs import gpt2_like, mobile_like, resnet_like

S, L = "resnet.encoder.stages.1", "resnet.encoder.stages.1.layers.1"
FIRST = "resnet.encoder.stages.1.layers.0"
P, V = "blocks.1", "blocks.4"
H, MLP = "transformer.h", "mlp.c_fc"
LAYERS = tuple(f"{H}.{i}" for i in range(4))
HALF = {"out_features": Number("old", over=2)}
CONV = ("layer.0.convolution", "layer.1.convolution")


def run(graph: Graph, *steps: Step) -> Graph:
    return EditScript(steps=steps).run(graph, OPSET).graph


def number(value: int) -> Number:
    return Number.of(value)


def both(layer: str, **settings: object) -> list[Step]:
    """The same settings of both convolutions of a basic layer."""
    return [At((layer,)), *(SetAttrs(name, tuple(settings.items())) for name in CONV)]  # type: ignore[arg-type]


def one(layer: str, node: str, **settings: object) -> list[Step]:
    return [At((layer,) if layer else ()), SetAttrs(node, tuple(settings.items()))]  # type: ignore[arg-type]


def put(layer: str, node: str, op: str, **settings: object) -> list[Step]:
    return [At((layer,) if layer else ()), Replace(node, op, tuple(settings.items()))]  # type: ignore[arg-type]


def branch(layer: str, op: str, value: str = "activation", **settings: object) -> list[Step]:
    return [
        At((layer,)),
        Add("new", op, (value,), tuple(settings.items())),  # type: ignore[arg-type]
        Add("sum", "Add", (value, "new")),
        ReplaceUses(value, "sum"),
    ]


def without_activation() -> Graph:
    """GPT-2 that lacks the activation of its MLPs."""
    return run(gpt2_like(), At(LAYERS), Remove("mlp.act"))


def stride(layer: str, value: int) -> list[Step]:
    names = ("shortcut.convolution", "layer.0.convolution")
    sets = [SetAttrs(name, (("stride", number(value)),)) for name in names]
    return [At((layer,)), Rewire("add", 1, "layer.1.normalization"), *sets, Rewire("add", 1, "shortcut.normalization")]


def head(classes: int, pool: bool = True) -> list[Step]:
    steps: list[Step] = [At(())]
    value = "head.convolution"
    if pool:
        steps.append(Add("pool", "GlobalAveragePool", (value,), (("keepdims", False),)))
        value = "pool"
    return [*steps, Add("fc", "Linear", (value,), (("out_features", number(classes)),)), Rewire("", 0, "fc")]


WIDTH = Number("channels", "activation")
POOLS = (("old", "MaxPool"), ("new", "AveragePool"))
CASES: dict[str, tuple[Graph, Request, list[Step], list[list[Step]]]] = {
    "dilation": (
        resnet_like(),
        Request(intent="dilation", layers=(L,), values=(("dilation", 2),)),
        both(L, dilation=number(2)),
        [both(L, dilation=number(3)), one(L, CONV[0], dilation=number(2)), both(FIRST, dilation=number(2))],
    ),
    "groups": (
        resnet_like(),
        Request(intent="conv_groups", layers=(L,), values=(("groups", 4),)),
        both(L, groups=number(4)),
        [both(L, groups=number(2)), one(L, CONV[1], groups=number(4)), both(L, groups=number(4), bias=True)],
    ),
    "stride": (
        resnet_like(),
        Request(intent="conv_stride", layers=(FIRST,), values=(("stride", 1),)),
        stride(FIRST, 1),
        [stride(FIRST, 3), stride(FIRST, 2)],
    ),
    "stride_of_a_node": (
        mobile_like(),
        Request(intent="conv_stride", nodes=("stem.pool",), values=(("stride", 1),)),
        one("", "stem.pool", stride=number(1)),
        [one("", "stem.pool", stride=number(3)), one("", "stem.convolution", stride=number(1))],
    ),
    "bias": (
        resnet_like(),
        Request(intent="toggle_bias", layers=(L,), values=(("op", "Conv"), ("bias", True))),
        both(L, bias=True),
        [one(L, CONV[0], bias=True), both(FIRST, bias=True)],
    ),
    "conv_width": (
        mobile_like(),
        Request(intent="conv_width", layers=(V,), values=(("times", 2), ("over", 1))),
        [
            *one(V, "expand.convolution", out_channels=number(64)),
            SetAttrs("depthwise.convolution", (("out_channels", number(64)), ("groups", number(64)))),
        ],
        [
            one(V, "expand.convolution", out_channels=number(64)),
            [
                *one(V, "expand.convolution", out_channels=number(64)),
                SetAttrs("depthwise.convolution", (("out_channels", number(64)),)),
            ],
        ],
    ),
    "swap_pooling": (
        mobile_like(),
        Request(intent="swap_pooling", nodes=("stem.pool",), values=POOLS),
        put("", "stem.pool", "AveragePool"),
        [put("", "stem.pool", "Conv", out_channels=number(16)), put(P, "mixer", "MaxPool")],
    ),
    "swap_pooling_conv": (
        mobile_like(),
        Request(intent="swap_pooling", layers=(P,), values=(("old", "AveragePool"), ("new", "Conv"))),
        put(P, "mixer", "Conv", out_channels=Number("channels", "norm")),
        [put(P, "mixer", "MaxPool"), put("blocks.2", "mixer", "Conv", out_channels=number(16))],
    ),
    "remove_pooling": (
        mobile_like(),
        Request(intent="remove_pooling", nodes=("stem.pool",)),
        [Remove("stem.pool")],
        [one("", "stem.pool", stride=number(1)), [Remove("stem.activation")]],
    ),
    "pool_size": (
        mobile_like(),
        Request(intent="pool_size", layers=(P,), values=(("kernel_size", 5),)),
        one(P, "mixer", kernel_size=number(5)),
        [one(P, "mixer", kernel_size=number(7)), one("blocks.0", "mixer", kernel_size=number(5))],
    ),
    "token_mixer": (
        mobile_like(),
        Request(intent="token_mixer", layers=(P,), values=(("mixer", "depthwise"),)),
        put(P, "mixer", "Conv", out_channels=number(16), groups=number(16)),
        [put(P, "mixer", "Conv", out_channels=number(16)), put(P, "mixer", "MaxPool")],
    ),
    "insert_conv": (
        resnet_like(),
        Request(intent="insert_conv", layers=(L,), values=(("kernel_size", 1),)),
        branch(L, "Conv", out_channels=WIDTH, kernel_size=number(1)),
        [
            branch(L, "Conv", out_channels=WIDTH, kernel_size=number(3), padding=number(1)),
            branch(L, "Conv", "add", out_channels=Number("channels", "add"), kernel_size=number(1)),
            branch(FIRST, "Conv", out_channels=WIDTH, kernel_size=number(1)),
        ],
    ),
    "conv_attention": (
        resnet_like(),
        Request(intent="conv_attention", layers=(L,), values=(("num_heads", 4),)),
        branch(L, "SpatialAttention", num_heads=number(4)),
        [branch(L, "SpatialAttention"), branch(FIRST, "SpatialAttention", num_heads=number(4))],
    ),
    "remove_squeeze_excite": (
        mobile_like(),
        Request(intent="remove_squeeze_excite", layers=(V,)),
        [At((V,)), Remove("gate")],
        [[At((V,)), Remove("depthwise.activation")], [At(("blocks.3",)), Remove("gate")]],
    ),
    "se_ratio": (
        mobile_like(),
        Request(intent="se_ratio", layers=(V,), values=(("ratio", 8),)),
        one(V, "gate", reduced_channels=Number("channels", "depthwise.activation", over=8)),
        [one(V, "gate", reduced_channels=number(2)), one("blocks.5", "gate", reduced_channels=number(4))],
    ),
    "upsampling_mode": (
        mobile_like(),
        Request(intent="upsampling_mode", nodes=("up.resize",), values=(("mode", "nearest"),)),
        one("", "up.resize", mode="nearest"),
        [one("", "up.resize", mode="bicubic"), one("", "up.resize", mode="nearest", size=number(8))],
    ),
    "remove_norm": (
        mobile_like(),
        Request(intent="remove_norm", layers=(V,), values=(("kind", None),)),
        [At((V,)), Remove("expand.normalization"), Remove("project.normalization")],
        [[At((V,)), Remove("expand.normalization")], [At((P,)), Remove("norm")]],
    ),
    "remove_activation": (
        mobile_like(),
        Request(intent="remove_activation", layers=(V,), values=(("kind", "Silu"),)),
        [At((V,)), Remove("depthwise.activation")],
        [[At((V,)), Remove("expand.activation")], [At((V,)), Remove("depthwise.activation"), Remove("gate")]],
    ),
    "norm_groups": (
        mobile_like(),
        Request(intent="norm_groups", layers=(P,), values=(("num_groups", 8),)),
        one(P, "norm", num_groups=number(8)),
        [one(P, "norm", num_groups=number(2)), one("blocks.0", "norm", num_groups=number(8))],
    ),
    "num_classes": (
        resnet_like(),
        Request(intent="num_classes", nodes=("classifier.1",), values=(("classes", 3),)),
        one("", "classifier.1", out_features=number(3)),
        [one("", "classifier.1", out_features=number(4)), one("", "classifier.1", out_features=number(3), bias=False)],
    ),
    "budget": (
        gpt2_like(),
        Request(intent="budget", layers=tuple(f"{H}.{i}" for i in range(4)), values=(("metric", "macs"), ("over", 2))),
        [Remove(f"{H}.2"), Remove(f"{H}.3")],
        [[Remove(f"{H}.3")], [Remove(f"{H}.1"), Remove(f"{H}.2"), Remove(f"{H}.3")], one(f"{H}.3", MLP, **HALF)],
    ),
    "budget_of_the_model": (
        gpt2_like(),
        Request(intent="budget", values=(("metric", "params"), ("limit", 30_000))),
        [Remove(f"{H}.2"), Remove(f"{H}.3")],
        [[Remove(f"{H}.3")], [Remove(f"{H}.1"), Remove(f"{H}.2"), Remove(f"{H}.3")]],
    ),
    "complete": (
        without_activation(),
        Request(intent="complete", values=(("structure", canonical_hash(gpt2_like())),)),
        [At(LAYERS), Add("act", "Gelu", (MLP,), (("approximate", "tanh"),)), Rewire("mlp.c_proj", 0, "act")],
        [
            [At(LAYERS), Add("act", "Relu", (MLP,)), Rewire("mlp.c_proj", 0, "act")],
            [At(LAYERS[:1]), Add("act", "Gelu", (MLP,), (("approximate", "tanh"),)), Rewire("mlp.c_proj", 0, "act")],
        ],
    ),
    "add_classifier": (
        mobile_like(),
        Request(intent="add_classifier", values=(("classes", 3),)),
        head(3),
        [head(4), [At(()), Add("act", "Relu", ("head.convolution",)), Rewire("", 0, "act")]],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_right_result_is_accepted(name: str) -> None:
    before, request, right, _ = CASES[name]
    found = judge(request, before, run(before, *right), OPSET)
    assert found.success, found.reasons


@pytest.mark.parametrize(("name", "index"), [(name, i) for name, case in CASES.items() for i in range(len(case[3]))])
def test_a_wrong_result_is_not(name: str, index: int) -> None:
    before, request, _, wrong = CASES[name]
    assert not judge(request, before, run(before, *wrong[index]), OPSET).success


@pytest.mark.parametrize("name", CASES)
def test_doing_nothing_is_not_enough(name: str) -> None:
    before, request, _, _ = CASES[name]
    assert not judge(request, before, before, OPSET).success


@pytest.mark.parametrize("which", [("dilation", "bias"), ("groups", "dilation"), ("dilation", "insert_conv")])
def test_two_edits_of_one_layer_are_judged_together(which: tuple[str, str]) -> None:
    before = resnet_like()
    request = Request(intent="both", values=(("parts", tuple(CASES[name][1] for name in which)),))
    first, second = (CASES[name][2] for name in which)
    assert judge(request, before, run(before, *first, *second), OPSET).success
    assert not judge(request, before, run(before, *first), OPSET).success
    assert not judge(request, before, run(before, *second), OPSET).success


def test_three_requests_need_all_three() -> None:
    before = gpt2_like()
    h = "transformer.h"
    parts = (
        Request(intent="resize_mlp", layers=(f"{h}.1",), values=(("width", 96),)),
        Request(intent="remove_norm", layers=(f"{h}.2",), values=(("kind", None),)),
        Request(intent="remove_layer", layers=(f"{h}.3",)),
    )
    steps: tuple[list[Step], ...] = (
        [At((f"{h}.1",)), SetAttrs("mlp.c_fc", (("out_features", number(96)),))],
        [At((f"{h}.2",)), Remove("ln_1"), Remove("ln_2")],
        [At(()), Remove(f"{h}.3")],
    )
    request = Request(intent="both", values=(("parts", parts),))
    assert judge(request, before, run(before, *(s for part in steps for s in part)), OPSET).success
    for left_out in range(3):
        rest = [s for i, part in enumerate(steps) if i != left_out for s in part]
        assert not judge(request, before, run(before, *rest), OPSET).success
