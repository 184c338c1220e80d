"""Post-conditions of edits to attention, on results made by hand: the right one passes, wrong ones do not.

Guards the bug that makes an evaluation worthless: a condition so loose that an edit of the wrong layer counts.
"""

import pytest

from genmad.evals.postconditions import judge
from genmad.intents.types import Request
from genmad.ir.graph import Graph
from genmad.ir.script import Add, At, EditScript, Number, Replace, ReplaceUses, Rewire, SetAttrs, Step
from genmad.ops import OPSET
from tests.graphs import bert_like, gpt2_like, llama_like, t5_like

LAST, FIRST = "transformer.h.3", "transformer.h.0"


def edit(graph: Graph, *steps: Step) -> Graph:
    return EditScript(steps=steps).run(graph, OPSET).graph


def verdict(request: Request, before: Graph, *steps: Step) -> tuple[bool, bool]:
    found = judge(request, before, edit(before, *steps), OPSET)
    return found.success, found.untouched


def branch(
    layers: tuple[str, ...] = (LAST,), window: int = 128, source: str = "ln_1", merge: str = "attn.c_proj"
) -> list[Step]:
    """The steps of a local branch in a GPT-2 block."""
    width = (("out_features", Number("channels", "ln_1")),)
    heads = (("num_heads", Number.of(4)), ("causal", True), ("window", Number.of(window)))
    return [
        At(layers),
        *(Add(f"new.{n}", "Linear", (source,), width) for n in "qkv"),
        Add("new.attention", "Attention", ("new.q", "new.k", "new.v"), heads),
        Add("new.o", "Linear", ("new.attention",), width),
        Add("new.sum", "Add", (merge, "new.o")),
        ReplaceUses(merge, "new.sum"),
    ]


BRANCH = Request(intent="local_attention_branch", layers=(LAST,), values=(("window", 128),))


def test_a_local_branch_in_the_last_layer_is_a_success() -> None:
    before = gpt2_like()
    found = judge(BRANCH, before, edit(before, *branch()), OPSET)
    assert found.success, found.reasons


def test_a_branch_in_every_layer_is_a_success_when_all_are_asked_for() -> None:
    every = tuple(f"transformer.h.{i}" for i in range(4))
    request = Request(intent="local_attention_branch", layers=every)
    assert verdict(request, gpt2_like(), *branch(every)) == (True, True)


def test_a_branch_beside_self_attention_of_a_decoder_is_a_success() -> None:
    layer = "decoder.block.2"
    request = Request(intent="local_attention_branch", layers=(layer,), values=(("window", None),))
    source, merge = "layer.0.layer_norm", "layer.0.SelfAttention.o"
    steps = [
        Add(s.name, s.op, s.inputs, (("out_features", Number.of(32)),))
        if isinstance(s, Add) and s.op == "Linear"
        else s
        for s in branch((layer,), source=source, merge=merge)
    ]
    assert verdict(request, t5_like(), *steps) == (True, True)


@pytest.mark.parametrize(
    ("steps", "untouched"),
    [
        (branch((FIRST,)), False),
        (branch((LAST, FIRST)), False),
        (branch(window=64), True),
        (branch(source="ln_2", merge="mlp.c_proj"), True),
        (branch(source="attn.c_proj"), True),
        (branch()[:-1], True),
        ([*branch()[:-2], Rewire("add", 0, "new.o")], False),
        ([At((LAST,)), SetAttrs("attn.attention", (("window", Number.of(128)),))], False),
        ([*branch(), SetAttrs("attn.attention", (("window", Number.of(128)),))], False),
        ([*branch(), At((FIRST,)), SetAttrs("attn.attention", (("window", Number.of(128)),))], False),
        ([], True),
    ],
    ids=[
        "wrong_layer",
        "also_first",
        "window",
        "at_mlp",
        "source",
        "unread",
        "bypassed",
        "converted",
        "both",
        "also_converted",
        "nothing",
    ],
)
def test_wrong_local_branches_are_no_success(steps: list[Step], untouched: bool) -> None:
    assert verdict(BRANCH, gpt2_like(), *steps) == (False, untouched)


WINDOW = (("window", Number.of(64)),)
SELF = "self_attn.attention"


@pytest.mark.parametrize(
    ("steps", "success"),
    [
        ([At(("model.layers.1",)), SetAttrs(SELF, WINDOW)], True),
        ([At(("model.layers.2",)), SetAttrs(SELF, WINDOW)], False),
        ([At(("model.layers.1", "model.layers.2")), SetAttrs(SELF, WINDOW)], False),
        ([At(("model.layers.1",)), SetAttrs(SELF, (("window", Number.of(32)),))], False),
        ([At(("model.layers.1",)), SetAttrs(SELF, (*WINDOW, ("causal", False)))], False),
    ],
)
def test_a_window_must_be_set_on_the_target_alone(steps: list[Step], success: bool) -> None:
    request = Request(intent="local_attention_convert", layers=("model.layers.1",), values=(("window", 64),))
    assert verdict(request, llama_like(), *steps)[0] is success


@pytest.mark.parametrize(
    ("steps", "success"),
    [
        ([At(("model.layers.0", "model.layers.2")), SetAttrs(SELF, (("window", None),))], True),
        ([At(("model.layers.0",)), SetAttrs(SELF, (("window", None),))], False),
        ([At(("model.layers.1",)), SetAttrs(SELF, (("window", None),))], False),
    ],
)
def test_global_attention_has_no_window(steps: list[Step], success: bool) -> None:
    request = Request(intent="global_attention", layers=("model.layers.0", "model.layers.2"))
    assert verdict(request, llama_like(alternate=True), *steps)[0] is success


@pytest.mark.parametrize(
    ("layers", "cap", "success"),
    [(("0", "1"), 50.0, True), (("0",), 50.0, False), (("0", "1"), 30.0, False), (("0", "1", "2"), 50.0, False)],
)
def test_a_soft_cap_has_the_value_asked_for(layers: tuple[str, ...], cap: float, success: bool) -> None:
    request = Request(
        intent="attention_softcap", layers=("model.layers.0", "model.layers.1"), values=(("softcap", 50.0),)
    )
    steps = [At(tuple(f"model.layers.{i}" for i in layers)), SetAttrs(SELF, (("softcap", cap),))]
    assert verdict(request, llama_like(), *steps)[0] is success


@pytest.mark.parametrize(
    ("layers", "heads", "success"),
    [((LAST,), 8, True), ((FIRST,), 8, False), ((LAST,), 2, False), ((LAST, FIRST), 8, False)],
)
def test_the_number_of_heads_changes_in_the_target_alone(layers: tuple[str, ...], heads: int, success: bool) -> None:
    request = Request(intent="num_heads", layers=(LAST,), values=(("num_heads", 8),))
    steps = [At(layers), SetAttrs("attn.attention", (("num_heads", Number.of(heads)),))]
    assert verdict(request, gpt2_like(), *steps)[0] is success


def kv(layers: tuple[str, ...], heads: int) -> list[Step]:
    """The order keeps every state well typed: the rotation goes first where heads become fewer, last where more."""
    rotary = SetAttrs("self_attn.rotaryembedding_1", (("num_heads", Number.of(heads)),))
    size = (("out_features", Number("head_dim", SELF, times=heads)),)
    linears = [SetAttrs("self_attn.k_proj", size), SetAttrs("self_attn.v_proj", size)]
    return [At(layers), rotary, *linears] if heads < 2 else [At(layers), *linears, rotary]


@pytest.mark.parametrize(
    ("steps", "success"),
    [
        (kv(("model.layers.3",), 1), True),
        (kv(("model.layers.2",), 1), False),
        (kv(("model.layers.3",), 4), False),
        (kv(("model.layers.2", "model.layers.3"), 1), False),
        (kv(("model.layers.3",), 1)[:-1], False),
    ],
    ids=["right", "wrong_layer", "wrong_number", "also_another", "values_left_out"],
)
@pytest.mark.parametrize(("intent", "values"), [("kv_heads", (("kv_heads", 1),)), ("gqa_to_mqa", ())])
def test_kv_heads_are_counted_from_the_widths(
    steps: list[Step], success: bool, intent: str, values: tuple[tuple[str, int], ...]
) -> None:
    request = Request(intent=intent, layers=("model.layers.3",), values=values)
    assert verdict(request, llama_like(), *steps)[0] is success


def long_conv(layers: tuple[str, ...], kernel: int = 128, causal: bool = True) -> list[Step]:
    settings = (("kernel_size", Number.of(kernel)), ("causal", causal))
    return [At(layers), Add("new_conv", "LongConv", ("ln_1",), settings), ReplaceUses("attn.attention", "new_conv")]


@pytest.mark.parametrize(
    ("steps", "success"),
    [
        (long_conv((LAST,)), True),
        ([*long_conv((LAST,))[:2], ReplaceUses("attn.c_proj", "new_conv")], True),
        ([*long_conv((LAST,))[:2], ReplaceUses("mlp.c_proj", "new_conv")], False),
        (long_conv((FIRST,)), False),
        (long_conv((LAST,), kernel=64), False),
        (long_conv((LAST,), causal=False), False),
        (long_conv((LAST, FIRST)), False),
        ([At((LAST,)), Replace("attn.attention", "Identity")], False),
    ],
)
def test_a_long_convolution_takes_the_place_of_attention(steps: list[Step], success: bool) -> None:
    request = Request(intent="long_conv", layers=(LAST,))
    assert verdict(request, gpt2_like(), *steps)[0] is success


def conv_branch(layers: tuple[str, ...], kernel: int = 7, value: str = "ln_1") -> list[Step]:
    return [
        At(layers),
        Add("new_conv", "LongConv", (value,), (("kernel_size", Number.of(kernel)),)),
        Add("new_sum", "Add", ("attn.c_proj", "new_conv")),
        ReplaceUses("attn.c_proj", "new_sum"),
    ]


@pytest.mark.parametrize(
    ("steps", "success"),
    [
        (conv_branch((LAST,)), True),
        (conv_branch((FIRST,)), False),
        (conv_branch((LAST,), kernel=3), False),
        (conv_branch((LAST, FIRST)), False),
        (conv_branch((LAST,))[:-1], False),
        (long_conv((LAST,), kernel=7), False),
    ],
)
def test_a_convolution_stands_beside_attention(steps: list[Step], success: bool) -> None:
    request = Request(intent="conv_branch", layers=(LAST,), values=(("kernel_size", None),))
    assert verdict(request, gpt2_like(), *steps)[0] is success


def test_a_request_that_must_be_refused_is_never_a_success() -> None:
    before = bert_like()
    request = Request(intent="lora", layers=("bert.encoder.layer.9",), refusal="no_such_target")
    assert not judge(request, before, before, OPSET).success
