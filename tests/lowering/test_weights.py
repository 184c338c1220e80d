"""Weights of an edited graph: what is inherited stays the very tensor, and additions leave the outputs as they were."""

import pytest
import torch

from genmad.ir import Graph, GraphBuilder, Param, TensorType
from genmad.ir.script import Add, At, EditScript, Number, Remove, Replace, ReplaceUses, SetAttrs
from genmad.lowering.weights import PlannedWeights, WeightEntry, WeightError, WeightPlan, make_tensor, plan_weights
from genmad.ops import OPSET


def tiny(num_layers: int = 3, width: int = 8) -> Graph:
    """A pre-norm transformer with one shared layer block, as an import gives it."""
    builder = GraphBuilder(OPSET)
    kind = f"float32[batch,seq,{width}]"
    layer = builder.block("layer", x=kind)
    normed = layer.add("LayerNorm", "x", name="ln_1")
    heads = [layer.add("Linear", normed, name=f"attn.{n}", scope=f"attn.{n}", out_features=width) for n in "qkv"]
    mixed = layer.add("Attention", *heads, name="attn.attention", scope="attn", num_heads=2, causal=True)
    out = layer.add("Linear", mixed, name="attn.out", scope="attn.out", out_features=width)
    middle = layer.add("Add", "x", out, name="add")
    normed = layer.add("LayerNorm", middle, name="ln_2")
    wide = layer.add("Linear", normed, name="mlp.fc", scope="mlp.fc", out_features=4 * width)
    wide = layer.add("Gelu", wide, name="mlp.act", scope="mlp")
    narrow = layer.add("Linear", wide, name="mlp.proj", scope="mlp.proj", out_features=width)
    layer.finish(layer.add("Add", middle, narrow, name="add_1"))
    main = builder.block("tiny", ids="int64[batch,seq]")
    value = main.add("Embedding", "ids", name="wte", scope="wte", num_embeddings=11, embedding_dim=width)
    for index in range(num_layers):
        value = main.add("@layer", value, name=f"h.{index}", scope=f"h.{index}")
    return builder.build(main.finish(main.add("LayerNorm", value, name="ln_f", scope="ln_f")))


def edited(graph: Graph, *steps: object) -> tuple[Graph, WeightPlan]:
    state = EditScript(steps=steps).run(graph, OPSET)  # type: ignore[arg-type]
    return state.graph, plan_weights(graph, state.graph, OPSET, copies=state.copies)


def zero_weights(plan: WeightPlan) -> set[str]:
    return {e.name for e in plan.entries if e.origin == "new" and e.param.init == "zeros" and "bias" not in e.name}


LAST = At(("h.2",))
BRANCH = (
    LAST,
    *(Add(f"attn.new_{n}", "Linear", ("ln_1",), (("out_features", Number("channels", "ln_1")),)) for n in "qkv"),
    Add("attn.new_attention", "Attention", ("attn.new_q", "attn.new_k", "attn.new_v"),
        (("num_heads", Number.of(2)), ("causal", True), ("window", Number.of(2)))),
    Add("attn.new_linear", "Linear", ("attn.new_attention",), (("out_features", Number("channels", "x")),)),
    Add("attn.new_add", "Add", ("attn.out", "attn.new_linear")),
    ReplaceUses("attn.out", "attn.new_add"),
)  # fmt: skip


def test_a_branch_merged_by_add_starts_with_its_last_linear_at_zero() -> None:
    _, plan = edited(tiny(), *BRANCH)
    zeros = zero_weights(plan)
    assert zeros == {"h.2.attn.new_linear.weight"}
    assert plan.preserves_outputs, plan.reasons
    new = {f"h.2.attn.new_{n}.{slot}" for n in ("q", "k", "v", "linear") for slot in ("weight", "bias")}
    assert set(plan.names("new")) == new
    assert len(plan.names("inherited")) == len(plan.entries) - 8


def test_random_initialisation_can_be_asked_for() -> None:
    graph = tiny()
    after = EditScript(steps=BRANCH).run(graph, OPSET).graph
    plan = plan_weights(graph, after, OPSET, init="random")
    assert not plan.preserves_outputs
    assert {e.name: e.param.init for e in plan.entries}["h.2.attn.new_linear.weight"] != "zeros"
    with pytest.raises(ValueError, match="got 'zero', expected 'preserve' or 'random'"):
        plan_weights(graph, after, OPSET, init="zero")


def test_an_inserted_residual_layer_is_silenced_in_both_branches() -> None:
    step = Add("h.3", "@layer", ("h.2",), like="h.2", weights="new")
    _, plan = edited(tiny(), At(()), step, ReplaceUses("h.2", "h.3"))
    zeros = zero_weights(plan)
    assert zeros == {"h.3.attn.out.weight", "h.3.mlp.proj.weight"}
    assert plan.preserves_outputs, plan.reasons


def test_a_duplicated_layer_copies_its_weights_and_changes_the_outputs() -> None:
    step = Add("h.3", "@layer", ("h.2",), like="h.2", weights="copy")
    _, plan = edited(tiny(), At(()), step, ReplaceUses("h.2", "h.3"))
    copied = {e.name: e.source for e in plan.entries if e.origin == "copied"}
    assert copied["h.3.attn.out.weight"] == "h.2.attn.out.weight"
    assert not plan.names("new")
    assert not plan.preserves_outputs


def test_low_rank_adapters_preserve_outputs() -> None:
    _, plan = edited(tiny(), LAST, Replace("attn.q", "LoRALinear", (("rank", Number.of(4)),)))
    assert set(plan.names("new")) == {"h.2.attn.q.lora_a", "h.2.attn.q.lora_b"}
    assert plan.preserves_outputs, plan.reasons


def test_an_inserted_scale_starts_at_one() -> None:
    scale = Add("attn.new_scale", "Scale", ("attn.out",))
    _, plan = edited(tiny(), LAST, scale, ReplaceUses("attn.out", "attn.new_scale"))
    assert plan.preserves_outputs, plan.reasons


@pytest.mark.parametrize(
    ("steps", "reason"),
    [
        ((LAST, Remove("mlp.act")), "mlp.proj reads mlp.fc instead of mlp.act"),
        ((LAST, Replace("mlp.act", "Relu")), "mlp.act: Gelu -> Relu"),
        ((LAST, SetAttrs("attn.attention", (("window", Number.of(2)),))), "attn.attention: window None -> 2"),
        ((LAST, Add("new", "Add", ("x", "add_1")), ReplaceUses("add_1", "new")), "output reads new instead of add_1"),
        ((LAST, Add("new", "LayerNorm", ("attn.out",)), ReplaceUses("attn.out", "new")), "add reads new instead of"),
    ],
)
def test_edits_that_change_outputs_say_where(steps: tuple[object, ...], reason: str) -> None:
    _, plan = edited(tiny(), *steps)
    assert any(reason in text for text in plan.reasons), plan.reasons


def test_a_wider_mlp_keeps_the_overlap_and_adds_columns_of_zero() -> None:
    _, plan = edited(tiny(), LAST, SetAttrs("mlp.fc", (("out_features", Number("old", times=2)),)))
    entries = {e.name: e for e in plan.entries}
    assert set(plan.names("fitted")) == {"h.2.mlp.fc.weight", "h.2.mlp.fc.bias", "h.2.mlp.proj.weight"}
    source = torch.randn(8, 32)
    wide = make_tensor(entries["h.2.mlp.proj.weight"], {"h.2.mlp.proj.weight": source}, seed=0)
    assert torch.equal(wide[:, :32], source)
    assert not wide[:, 32:].any()
    rows = make_tensor(entries["h.2.mlp.fc.weight"], {"h.2.mlp.fc.weight": torch.ones(32, 8)}, seed=0)
    assert torch.equal(rows[:32], torch.ones(32, 8))
    assert rows[32:].any()


def test_a_larger_kernel_is_the_old_one_in_a_frame_of_zeros() -> None:
    entry = WeightEntry(
        name="w", origin="fitted", param=Param("weight", TensorType.parse("float32[2,2,5,5]")), source="w",
        zero_axes=(1, 2, 3), centre_from=2,
    )  # fmt: skip
    source = torch.randn(2, 2, 3, 3)
    found = make_tensor(entry, {"w": source}, seed=0)
    assert torch.equal(found[:, :, 1:4, 1:4], source)
    assert found.abs().sum() == pytest.approx(source.abs().sum())


def test_inherited_tensors_are_not_copied() -> None:
    graph = tiny()
    _, plan = edited(graph, *BRANCH)
    source = {name: torch.randn(e.shape) for name, e in ((e.name, e) for e in plan.entries) if e.origin == "inherited"}
    weights = PlannedWeights(plan, source, seed=0)
    assert all(weights[name].data_ptr() == source[name].data_ptr() for name in source)
    assert weights["h.2.attn.new_q.weight"] is weights["h.2.attn.new_q.weight"]
    assert list(weights) == [e.name for e in plan.entries]


def test_new_weights_depend_on_the_seed_and_the_name_only() -> None:
    _, plan = edited(tiny(), *BRANCH)
    entries = {e.name: e for e in plan.entries}
    q, k = entries["h.2.attn.new_q.weight"], entries["h.2.attn.new_k.weight"]
    assert torch.equal(make_tensor(q, {}, 0), make_tensor(q, {}, 0))
    assert not torch.equal(make_tensor(q, {}, 0), make_tensor(q, {}, 1))
    assert not torch.equal(make_tensor(q, {}, 0), make_tensor(k, {}, 0))


def test_missing_or_misshapen_source_weights_are_named() -> None:
    _, plan = edited(tiny(), *BRANCH)
    entry = next(e for e in plan.entries if e.name == "h.0.attn.out.weight")
    with pytest.raises(WeightError, match="got no such tensor in the source weights"):
        make_tensor(entry, {}, 0)
    with pytest.raises(WeightError, match=r"got shape \(3, 3\); expected \(8, 8\)"):
        make_tensor(entry, {"h.0.attn.out.weight": torch.zeros(3, 3)}, 0)
