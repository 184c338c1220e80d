"""Post-conditions of edits to layers, projections, norms and convolutions: right results pass, wrong ones do not."""

from dataclasses import replace

import pytest

from genmad.evals.postconditions import POSTCONDITIONS, judge
from genmad.intents.types import Request
from genmad.ir.build import retype
from genmad.ir.graph import Graph
from genmad.ir.script import Add, At, EditScript, Number, Remove, Replace, ReplaceUses, Rewire, SetAttrs, Step
from genmad.ops import OPSET
from tests.evals.test_postconditions_conv import CASES as CONV_CASES
from tests.graphs import bert_like, gpt2_like, llama_like, resnet_like
from tests.intents.test_sequence_intents import INTENTS as SEQUENCE_INTENTS

H = "transformer.h"
MLP = "mlp.c_fc"


def run(graph: Graph, *steps: Step) -> Graph:
    return EditScript(steps=steps).run(graph, OPSET).graph


def call(name: str, source: str, like: str = "h.1", op: str = "@GPT2Block", weights: str = "copy") -> Add:
    return Add(f"transformer.{name}", op, (source,), like=f"transformer.{like}", weights=weights)


def wide(layer: str, width: Number, node: str = MLP) -> list[Step]:
    return [At((layer,)), SetAttrs(node, (("out_features", width),))]


def lora(layer: str, node: str, rank: int = 4) -> list[Step]:
    return [At((layer,)), Replace(node, "LoRALinear", (("rank", Number.of(rank)),))]


def adapter(layer: str, size: int = 64, base: str = "mlp.c_proj") -> list[Step]:
    return [
        At((layer,)),
        Add("a.down", "Linear", (base,), (("out_features", Number.of(size)),)),
        Add("a.act", "Gelu", ("a.down",)),
        Add("a.up", "Linear", ("a.act",), (("out_features", Number("channels", base)),)),
        Add("a.sum", "Add", (base, "a.up")),
        ReplaceUses(base, "a.sum"),
    ]


def norms(layer: str) -> list[Step]:
    return [At((layer,)), Replace("ln_1", "RMSNorm"), Replace("ln_2", "RMSNorm")]


def behind(layer: str, value: str, op: str) -> list[Step]:
    return [At((layer,)), Add("new", op, (value,)), ReplaceUses(value, "new")]


def excite(layer: str, value: str, over: int = 4) -> list[Step]:
    settings = (("reduced_channels", Number("channels", value, over=over)), ("scale", 2.0))
    return [At((layer,)), Add("se", "SqueezeExcite", (value,), settings), ReplaceUses(value, "se")]


def kernel(layer: str, size: int, node: str = "layer.0.convolution") -> list[Step]:
    return [At((layer,)), SetAttrs(node, (("kernel_size", Number.of(size)),))]


def separable(layer: str, groups: int = 16, name: str = "layer.1") -> list[Step]:
    conv, norm = f"{name}.convolution", f"{name}.normalization"
    width = (("groups", Number.of(groups)), ("out_channels", Number("channels", "layer.0.activation")))
    point = (("out_channels", Number("channels", norm)), ("kernel_size", Number.of(1)), ("stride", (1, 1)))
    return [At((layer,)), SetAttrs(conv, width), Add("point", "Conv", (conv,), point), ReplaceUses(conv, "point")]


RMS_AFTER = (("norm", "RMSNorm"), ("where", "after attention"))
BN = "layer.1.normalization"
FIVE = (("kernel_size", 5),)
B, OUT = "bert.encoder.layer.0", "attention.output.dense"
S, R = "resnet.encoder.stages.0", "resnet.encoder.stages.0.layers.1"
CASES: dict[str, tuple[Graph, Request, list[Step], list[list[Step]]]] = {
    "remove": (
        gpt2_like(),
        Request(intent="remove_layer", layers=(f"{H}.1", f"{H}.2")),
        [Remove(f"{H}.1"), Remove(f"{H}.2")],
        [
            [Remove(f"{H}.1")],
            [Remove(f"{H}.1"), Remove(f"{H}.3")],
            [Remove(f"{H}.1"), Remove(f"{H}.2"), Remove(f"{H}.3")],
        ],
    ),
    "duplicate": (
        gpt2_like(),
        Request(intent="duplicate_layer", layers=(f"{H}.1",)),
        [call("h.4", f"{H}.1"), ReplaceUses(f"{H}.1", f"{H}.4")],
        [
            [call("h.4", f"{H}.1")],
            [call("h.4", f"{H}.2"), ReplaceUses(f"{H}.2", f"{H}.4")],
            [call("h.4", f"{H}.1"), call("h.5", f"{H}.4"), ReplaceUses(f"{H}.1", f"{H}.5")],
            [call("h.4", f"{H}.1"), ReplaceUses(f"{H}.1", f"{H}.4"), Remove(f"{H}.3")],
        ],
    ),
    "insert": (
        gpt2_like(),
        Request(intent="insert_layer", layers=(f"{H}.2",), values=(("count", 1), ("before", False))),
        [call("h.4", f"{H}.2", weights="new"), ReplaceUses(f"{H}.2", f"{H}.4")],
        [
            [call("h.4", f"{H}.1", weights="new"), ReplaceUses(f"{H}.1", f"{H}.4")],
            [call("h.4", f"{H}.2", weights="new")],
            [],
        ],
    ),
    "insert_before": (
        gpt2_like(),
        Request(intent="insert_layer", layers=(f"{H}.2",), values=(("count", 1), ("before", True))),
        [call("h.4", f"{H}.1", weights="new"), Rewire(f"{H}.2", 0, f"{H}.4")],
        [[call("h.4", f"{H}.2", weights="new"), ReplaceUses(f"{H}.2", f"{H}.4")], []],
    ),
    "skip_around_layer": (
        gpt2_like(),
        Request(intent="skip_connection", layers=(f"{H}.1",)),
        [Add("skip", "Add", (f"{H}.0", f"{H}.1")), ReplaceUses(f"{H}.1", "skip")],
        [
            [Add("skip", "Add", (f"{H}.1", f"{H}.2")), ReplaceUses(f"{H}.2", "skip")],
            [Add("skip", "Add", (f"{H}.1", f"{H}.1")), ReplaceUses(f"{H}.1", "skip")],
            [Add("skip", "Add", (f"{H}.0", f"{H}.1"))],
        ],
    ),
    "skip_around_mlp": (
        gpt2_like(),
        Request(intent="skip_connection", layers=(f"{H}.1",), values=(("around", "mlp"),)),
        [At((f"{H}.1",)), Add("skip", "Add", ("ln_2", "mlp.c_proj")), ReplaceUses("mlp.c_proj", "skip")],
        [
            [At((f"{H}.1",)), Add("skip", "Add", ("ln_1", "attn.c_proj")), ReplaceUses("attn.c_proj", "skip")],
            [At((f"{H}.2",)), Add("skip", "Add", ("ln_2", "mlp.c_proj")), ReplaceUses("mlp.c_proj", "skip")],
            [Add("skip", "Add", (f"{H}.0", f"{H}.1")), ReplaceUses(f"{H}.1", "skip")],
        ],
    ),
    "skip_around_attention": (
        bert_like(),
        Request(intent="skip_connection", layers=(B,), values=(("around", "attention"),)),
        [At((B,)), Add("skip", "Add", ("hidden_states", OUT)), ReplaceUses(OUT, "skip")],
        [[At((B,)), Add("skip", "Add", ("hidden_states", "output.dense")), ReplaceUses("output.dense", "skip")], []],
    ),
    "remove_attention": (
        gpt2_like(),
        Request(intent="remove_module", layers=(f"{H}.1",), values=(("part", "attention"),)),
        [At((f"{H}.1",)), ReplaceUses("add", "hidden_states")],
        [
            [At((f"{H}.0",)), ReplaceUses("add", "hidden_states")],
            [At((f"{H}.1",)), ReplaceUses("add_1", "add")],
            [At((f"{H}.1",)), ReplaceUses("add", "attn.c_proj")],
            [Remove(f"{H}.1")],
        ],
    ),
    "remove_mlp": (
        bert_like(),
        Request(intent="remove_module", layers=(B,), values=(("part", "mlp"),)),
        [At((B,)), ReplaceUses("output.add", "attention.output.LayerNorm")],
        [
            [At((B,)), ReplaceUses("attention.output.add", "hidden_states")],
            [At((B, "bert.encoder.layer.1")), ReplaceUses("output.add", "attention.output.LayerNorm")],
        ],
    ),
    "norm_before_mlp": (
        bert_like(),
        Request(intent="insert_norm", layers=(B,), values=(("norm", "RMSNorm"), ("where", "before mlp"))),
        [At((B,)), Add("new", "RMSNorm", ("attention.output.LayerNorm",)), Rewire("intermediate.dense", 0, "new")],
        [
            behind(B, "attention.output.LayerNorm", "RMSNorm"),
            [At((B,)), Add("new", "RMSNorm", ("hidden_states",)), Rewire("attention.self.query", 0, "new")],
        ],
    ),
    "norm_at_the_end": (
        gpt2_like(),
        Request(intent="insert_norm", layers=(f"{H}.1",), values=(("norm", "RMSNorm"), ("where", "at the end"))),
        behind(f"{H}.1", "add_1", "RMSNorm"),
        [behind(f"{H}.1", "mlp.c_proj", "RMSNorm"), behind(f"{H}.2", "add_1", "RMSNorm")],
    ),
    "scale_both_branches": (
        gpt2_like(),
        Request(intent="layer_scale", layers=(f"{H}.3",), values=(("where", None),)),
        [
            *behind(f"{H}.3", "mlp.c_proj", "Scale"),
            Add("other", "Scale", ("attn.c_proj",)),
            ReplaceUses("attn.c_proj", "other"),
        ],
        [behind(f"{H}.3", "mlp.c_proj", "Scale"), behind(f"{H}.3", "add_1", "Scale")],
    ),
    "lora": (
        bert_like(),
        Request(
            intent="lora", layers=("bert.encoder.layer.0",), nodes=("bert.encoder.layer.0.attention.self.query",),
            values=(("rank", 4),),
        ),
        lora("bert.encoder.layer.0", "attention.self.query"),
        [
            lora("bert.encoder.layer.1", "attention.self.query"),
            lora("bert.encoder.layer.0", "attention.self.key"),
            lora("bert.encoder.layer.0", "attention.self.query", rank=8),
            lora("bert.encoder.layer.0", "attention.self.query") + lora("bert.encoder.layer.2", "attention.self.query"),
        ],
    ),
    "activation": (
        gpt2_like(),
        Request(intent="change_activation", layers=(f"{H}.0",), values=(("activation", "Relu"),)),
        [At((f"{H}.0",)), Replace("mlp.act", "Relu")],
        [
            [At((f"{H}.1",)), Replace("mlp.act", "Relu")],
            [At((f"{H}.0",)), Replace("mlp.act", "Silu")],
            [At((f"{H}.0", f"{H}.1")), Replace("mlp.act", "Relu")],
        ],
    ),
    "norm": (
        gpt2_like(),
        Request(intent="swap_norm", layers=(f"{H}.0",), values=(("old", "LayerNorm"), ("new", "RMSNorm"))),
        norms(f"{H}.0"),
        [
            [At((f"{H}.0",)), Replace("ln_1", "RMSNorm")],
            norms(f"{H}.1"),
            [*norms(f"{H}.0"), At(()), Replace("transformer.ln_f", "RMSNorm")],
        ],
    ),
    "mlp": (
        gpt2_like(),
        Request(intent="resize_mlp", layers=(f"{H}.3",), values=(("factor", 2),)),
        wide(f"{H}.3", Number("old", times=2)),
        [
            wide(f"{H}.2", Number("old", times=2)),
            wide(f"{H}.3", Number("old", times=4)),
            wide(f"{H}.3", Number("old", times=2)) + wide(f"{H}.0", Number("old", times=2)),
        ],
    ),
    "adapter": (
        gpt2_like(),
        Request(intent="adapter", layers=(f"{H}.3",), values=(("size", None),)),
        adapter(f"{H}.3"),
        [
            adapter(f"{H}.2"),
            adapter(f"{H}.3", 32),
            adapter(f"{H}.3")[:-1],
            adapter(f"{H}.3", base="ln_2"),
            adapter(f"{H}.3", base="mlp.act"),
        ],
    ),
    "insert_norm": (
        gpt2_like(),
        Request(intent="insert_norm", layers=(f"{H}.3",), values=RMS_AFTER),
        behind(f"{H}.3", "attn.c_proj", "RMSNorm"),
        [
            behind(f"{H}.2", "attn.c_proj", "RMSNorm"),
            behind(f"{H}.3", "attn.c_proj", "LayerNorm"),
            behind(f"{H}.3", "mlp.c_proj", "RMSNorm"),
        ],
    ),
    "layer_scale": (
        gpt2_like(),
        Request(intent="layer_scale", layers=(f"{H}.3",), values=(("where", "mlp"),)),
        behind(f"{H}.3", "mlp.c_proj", "Scale"),
        [behind(f"{H}.3", "attn.c_proj", "Scale"), behind(f"{H}.0", "mlp.c_proj", "Scale"), []],
    ),
    "squeeze_excite": (
        resnet_like(),
        Request(intent="squeeze_excite", layers=(R,)),
        excite(R, BN),
        [excite(f"{S}.layers.0", BN), excite(R, BN, 8), excite(R, BN)[:-1]],
    ),
    "kernel_size": (
        resnet_like(),
        Request(intent="kernel_size", layers=(R,), nodes=(f"{R}.layer.0.convolution",), values=FIVE),
        kernel(R, 5),
        [
            kernel(R, 7),
            kernel(f"{S}.layers.0", 5),
            kernel(R, 5) + kernel(f"{S}.layers.0", 5),
            kernel(R, 5, "layer.1.convolution"),
        ],
    ),
    "depthwise": (
        resnet_like(),
        Request(intent="depthwise_separable", layers=(R,), nodes=(f"{R}.layer.1.convolution",)),
        separable(R),
        [
            separable(f"{S}.layers.0"),
            separable(R, groups=8),
            separable(R)[:2],
            separable(R) + separable(f"{S}.layers.0"),
        ],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_right_result_is_a_success(name: str) -> None:
    before, request, right, _ = CASES[name]
    found = judge(request, before, run(before, *right), OPSET)
    assert found.success, found.reasons
    assert found.untouched


@pytest.mark.parametrize(("name", "index"), [(name, i) for name, case in CASES.items() for i in range(len(case[3]))])
def test_a_wrong_result_is_no_success(name: str, index: int) -> None:
    before, request, _, wrong = CASES[name]
    assert not judge(request, before, run(before, *wrong[index]), OPSET).success


@pytest.mark.parametrize("name", CASES)
def test_doing_nothing_is_no_success_but_touches_nothing(name: str) -> None:
    before, request, _, _ = CASES[name]
    found = judge(request, before, before, OPSET)
    assert (found.success, found.untouched) == (False, True)


def gated(width: int) -> Graph:
    """A llama-like graph with gate and up of layer 1 alone set: no single step can do that."""
    before = llama_like()
    split = run(before, At(("model.layers.1",)), SetAttrs("mlp.act_fn", ()))
    name = next(n.callee for n in split.main.nodes if n.name == "model.layers.1")
    nodes = tuple(
        replace(n, attrs=tuple({**n.attr_map, "out_features": width}.items())) if n.name in GATES else n
        for n in split.block_map[name].nodes
    )
    draft = replace(split.block_map[name], nodes=nodes)
    blocks = tuple(draft if b.name == name else b for b in split.blocks)
    return retype(Graph(main=split.main, blocks=blocks), OPSET)


GATES = ("mlp.gate_proj", "mlp.up_proj")


@pytest.mark.parametrize(("layer", "width", "success"), [(1, 96, True), (1, 128, False), (2, 96, False)])
def test_a_gated_mlp_is_widened_in_gate_and_value(layer: int, width: int, success: bool) -> None:
    request = Request(intent="resize_mlp", layers=(f"model.layers.{layer}",), values=(("width", 96),))
    assert judge(request, llama_like(), gated(width), OPSET).success is success


def test_a_sentence_of_two_requests_needs_both() -> None:
    before = gpt2_like()
    parts = (CASES["mlp"][1], CASES["activation"][1])
    both = Request(intent="both", values=(("parts", parts),))
    steps = (CASES["mlp"][2], CASES["activation"][2])
    assert judge(both, before, run(before, *steps[0], *steps[1]), OPSET).success
    assert not judge(both, before, run(before, *steps[0]), OPSET).success
    assert not judge(both, before, run(before, *steps[1]), OPSET).success


def test_an_edit_of_the_main_block_does_not_open_the_layers() -> None:
    """Removing a layer gives no leave to rewire inside another one."""
    before, request, right, _ = CASES["remove"]
    after = run(before, *right, At((f"{H}.0",)), Rewire("add", 1, "attn.c_proj"))
    assert not judge(request, before, after, OPSET).untouched


def test_every_intent_with_a_post_condition_has_a_result_made_by_hand() -> None:
    elsewhere = {
        "local_attention_branch",
        "local_attention_convert",
        "global_attention",
        "attention_softcap",
        "num_heads",
    }
    elsewhere |= {"kv_heads", "gqa_to_mqa", "long_conv", "conv_branch"}
    elsewhere |= {request.intent for _, request, _, _ in CONV_CASES.values()} | set(SEQUENCE_INTENTS)
    assert {request.intent for _, request, _, _ in CASES.values()} | elsewhere == set(POSTCONDITIONS)
