"""The Python API on a small model, with a stand-in for the generator: outputs stay, files load, recipes replay."""

import importlib.util
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from genmad.importers.report import ImportReport
from genmad.ir import Graph, GraphBuilder, parameter_names
from genmad.ir.script import Add, At, EditScript, EditState, Number, Replace, ReplaceUses, SetAttrs, Step
from genmad.lowering.to_torch import initial_values, parameters
from genmad.ops import OPSET
from genmad.recipe import Recipe
from genmad.report import AmbiguousError, NoValidResultError, RefusedError, UsageError
from genmad.session import Architecture, Edited


def tiny(num_layers: int = 3, width: int = 8) -> Graph:
    """A pre-norm transformer with one shared layer block, as an import gives it."""
    builder = GraphBuilder(OPSET)
    layer = builder.block("layer", x=f"float32[batch,seq,{width}]")
    normed = layer.add("LayerNorm", "x", name="ln")
    heads = [layer.add("Linear", normed, name=f"attn.{n}", scope=f"attn.{n}", out_features=width) for n in "qkv"]
    mixed = layer.add("Attention", *heads, name="attn.attention", scope="attn", num_heads=2, causal=True)
    out = layer.add("Linear", mixed, name="attn.out", scope="attn.out", out_features=width)
    layer.finish(layer.add("Add", "x", out, name="add"))
    main = builder.block("tiny", ids="int64[batch,seq]")
    value = main.add("Embedding", "ids", name="wte", scope="wte", num_embeddings=11, embedding_dim=width)
    for index in range(num_layers):
        value = main.add("@layer", value, name=f"h.{index}", scope=f"h.{index}")
    return builder.build(main.finish(main.add("Linear", value, name="head", scope="head", out_features=11)))


def branch(path: str = "h.2") -> tuple[Step, ...]:
    """Local attention beside a layer's own."""
    return (
        At((path,)),
        *(Add(f"attn.new_{n}", "Linear", ("ln",), (("out_features", Number("channels", "ln")),)) for n in "qkv"),
        Add("attn.new_attention", "Attention", ("attn.new_q", "attn.new_k", "attn.new_v"),
            (("num_heads", Number.of(2)), ("causal", True), ("window", Number.of(2)))),
        Add("attn.new_linear", "Linear", ("attn.new_attention",), (("out_features", Number("channels", "x")),)),
        Add("attn.new_add", "Add", ("attn.out", "attn.new_linear")),
        ReplaceUses("attn.out", "attn.new_add"),
    )  # fmt: skip


NO_STEPS = EditScript()


@dataclass(frozen=True)
class FakeReading:
    name: str
    probability: float


@dataclass(frozen=True)
class FakeProposal:
    status: str = "ok"
    script: EditScript = NO_STEPS
    state: EditState | None = None
    confidence: float = 0.9
    reading: str = "branch"
    readings: tuple[FakeReading, ...] = (FakeReading("branch", 0.8), FakeReading("convert", 0.2))
    reason: str = ""
    blocked: str = ""


@dataclass(frozen=True)
class FakeEditor:
    """Answers every prompt with the same steps, or with the same refusal."""

    steps: tuple[Step, ...] = ()
    status: str = "ok"
    reason: str = ""
    blocked: str = ""

    def edit(
        self, graph: Graph, prompt: str, *, at: str | None, reading: str | None, samples: int, seed: int
    ) -> tuple[FakeProposal, ...]:
        del prompt, at, reading, seed
        if self.status != "ok":
            return (FakeProposal(status=self.status, reason=self.reason, blocked=self.blocked),)
        script = EditScript(steps=self.steps)
        return (FakeProposal(script=script, state=script.run(graph, OPSET)),) * samples


def architecture(graph: Graph | None = None, *, weights: str = "loaded") -> Architecture:
    graph = graph or tiny()
    values: Mapping[str, torch.Tensor] = dict(initial_values(parameters(graph), 1)) if weights != "none" else {}
    return Architecture(
        graph=graph, imported=ImportReport(source="tiny", kind="module", weights=weights), parameters=values
    )


def edited(steps: tuple[Step, ...] | None = None, **options: Any) -> Edited:
    return architecture().edit(
        "add local attention", editor=FakeEditor(branch() if steps is None else steps), **options
    )


def load_module(folder: Path) -> Any:
    spec = importlib.util.spec_from_file_location("handed_over", folder / "model.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_an_added_branch_leaves_the_outputs_as_they_were_to_the_bit() -> None:
    model = edited()
    assert model.comparison is not None
    assert model.comparison.difference == 0.0
    assert model.comparison.scale > 0.0
    assert any(line.startswith("outputs: unchanged (largest difference 0") for line in model.plan)


def test_random_initialisation_changes_the_outputs_and_says_so() -> None:
    model = edited(init="random")
    assert model.comparison is not None
    assert model.comparison.difference > 1e-3
    assert any(line.startswith("outputs: changed by up to") for line in model.plan)


def test_an_edit_that_changes_outputs_says_by_how_much() -> None:
    model = edited((At(("h.1",)), SetAttrs("attn.attention", (("window", Number.of(2)),))))
    assert model.comparison is not None
    assert model.comparison.difference > 0.0


def test_the_plan_names_the_layer_the_ops_and_the_cost() -> None:
    text = "\n".join(edited().plan)
    assert "h.2 (1 of 3 calls of layer): adds" in text
    assert "Attention(num_heads=2, causal, window=2)" in text
    assert "add reads attn.new_add instead of attn.out" in text
    old, new = 11 * 8 + 3 * (16 + 4 * 72) + 8 * 11 + 11, 4 * 72
    assert f"parameters: {old:,} -> {old + new:,} (+{new}" in text


def test_the_diff_is_told_as_text_as_a_tree_and_as_ids() -> None:
    diff = edited().diff
    assert "+ attn.new_attention  Attention(num_heads=2, causal, window=2) -> float32[batch,seq,8]" in str(diff)
    assert diff.ids("rewired") == ("h.2.add",)
    assert "h.2.attn.new_q" in diff.to_json()["added"]
    assert str(diff.tree().children[0].label) == "h.2 (1 of 3 calls of layer)"


def test_layers_changed_alike_are_one_section() -> None:
    steps = (At(("h.0", "h.1", "h.2")), SetAttrs("attn.attention", (("window", Number.of(2)),)))
    diff = edited(steps).diff
    assert [section.title for section in diff.sections] == ["h.0, h.1, h.2 (3 calls of layer)"]
    assert diff.ids("changed") == ("h.0.attn.attention", "h.1.attn.attention", "h.2.attn.attention")


def test_a_hand_over_folder_loads_with_torch_alone_and_gives_the_same_outputs(tmp_path: Path) -> None:
    model = edited()
    model.save_pretrained(tmp_path / "out")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"model.onnx", "model.py", "model.safetensors", "report.json", "recipe.yaml", "README.md"}
    ids = torch.randint(0, 11, (2, 5))
    loaded = load_module(tmp_path / "out").load(tmp_path / "out")
    with torch.no_grad():
        assert torch.equal(loaded(ids), model.to_torch()(ids))
    assert set(loaded.state_dict()) == set(parameter_names(model.graph))


def test_the_onnx_file_runs_and_agrees(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    model = edited()
    model.to_onnx(tmp_path / "x.onnx")
    assert {path.name for path in tmp_path.iterdir()} == {"x.onnx", "x.report.json"}
    session = onnxruntime.InferenceSession(str(tmp_path / "x.onnx"), providers=["CPUExecutionProvider"])
    ids = torch.randint(0, 11, (2, 5))
    with torch.no_grad():
        ours = model.to_torch()(ids)
    theirs = torch.from_numpy(session.run(None, {"ids": ids.numpy()})[0])
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_the_report_holds_every_promised_field() -> None:
    report = edited().report.to_json()
    assert {
        "status", "prompt", "source", "plan", "readings", "confidence", "delta", "validity", "cost", "weights",
        "max_abs_output_diff", "seed", "time_s", "version",
    } <= set(report)  # fmt: skip
    assert json.loads(json.dumps(report)) == report
    assert report["status"] == "ok"
    assert report["source"] == {"id": "tiny", "kind": "module", "weights": "loaded"}
    assert report["validity"]["level"] == 5
    assert report["max_abs_output_diff"] == 0.0
    assert set(report["delta"]) == {"removed", "added", "rewired", "changed"}
    assert report["cost"]["after"]["params"] - report["cost"]["before"]["params"] == 4 * 72
    assert len(report["weights"]["new"]) == 8


def test_without_weights_levels_one_to_four_are_checked_and_nothing_is_measured(tmp_path: Path) -> None:
    model = architecture(weights="none").edit("x", editor=FakeEditor(branch()))
    model.save_pretrained(tmp_path / "out")
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert (report["source"]["weights"], report["validity"]["level"]) == ("none", 4)
    assert report["max_abs_output_diff"] is None
    assert not (tmp_path / "out" / "model.safetensors").exists()
    assert "No weights are included" in (tmp_path / "out" / "README.md").read_text()


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        edited(seed=3).save_pretrained(tmp_path / name)
    for name in ("model.onnx", "model.py", "model.safetensors", "recipe.yaml"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


def test_a_recipe_replays_on_a_wider_model() -> None:
    recipe = Recipe.from_yaml(edited().recipe.to_yaml())
    assert (recipe.source, recipe.edits[0].prompt) == ("tiny", "add local attention")
    wide = architecture(tiny(num_layers=4, width=16)).replay(recipe)
    assert wide.diff.ids("rewired") == ("h.2.add",)
    assert wide.comparison is not None
    assert wide.comparison.difference == 0.0
    assert wide.graph.block_map["layer_1"].by_name["attn.new_q"].attr_map["out_features"] == 16


def test_a_recipe_that_does_not_fit_names_the_missing_place() -> None:
    recipe = edited(branch("h.2")).recipe
    with pytest.raises(RefusedError, match=r"recipe, edit 1, on tiny: got no call at h\.2"):
        architecture(tiny(num_layers=2)).replay(recipe)


def test_edits_chain_and_their_recipe_holds_both() -> None:
    second = edited().edit("now the first layer", editor=FakeEditor(branch("h.0")))
    assert [step.prompt for step in second.recipe.edits] == ["add local attention", "now the first layer"]
    assert second.diff.ids("rewired") == ("h.0.add", "h.2.add")
    assert second.comparison is not None
    assert second.comparison.difference == 0.0
    replayed = architecture().replay(second.recipe)
    assert replayed.graph == second.graph


def test_more_samples_are_kept_as_alternatives() -> None:
    report = edited(samples=3).report
    assert len(report.alternatives) == 2
    assert report.alternatives[0]["delta"]["rewired"] == ["h.2.add"]


@pytest.mark.parametrize(
    ("status", "reason", "error", "message"),
    [
        ("refused", "no_such_target", RefusedError, r"expected one of wte, h\.0 \.\.\. h\.2, head; name one of these"),
        ("refused", "not_divisible", RefusedError, r"does not divide evenly \(7 heads\)"),
        ("refused", "not_understood", RefusedError, "could not be read as a change"),
        ("refused", "a_code_of_the_future", RefusedError, "could not be read as a change"),
        ("ambiguous", "", AmbiguousError, r"change what is there, in place \(20%\): --reading convert"),
        ("failed", "", NoValidResultError, "no valid change"),
    ],
)
def test_no_result_is_an_error_that_says_what_to_type(
    status: str, reason: str, error: type[Exception], message: str
) -> None:
    editor = FakeEditor(status=status, reason=reason, blocked="7 heads")
    with pytest.raises(error, match=message):
        architecture().edit("set the heads to 7", editor=editor)


@pytest.mark.parametrize(("prompt", "message"), [("  ", "an empty text"), ("x" * 2001, "2,001 characters")])
def test_prompts_that_are_no_sentences_are_refused_before_the_model_reads_them(prompt: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        architecture().edit(prompt, editor=FakeEditor(branch()))


def test_a_place_that_does_not_exist_lists_what_does() -> None:
    with pytest.raises(RefusedError, match=r"wte, h\.0 \.\.\. h\.2, head; did you mean h\.2\.attn\.out"):
        architecture().edit("x", at="h.2.atn.out", editor=FakeEditor(branch()))


def test_inspection_counts_and_shortens_repeated_layers() -> None:
    found = architecture().inspect()
    assert [row.name for row in found.rows] == ["wte", "h.0 ... h.2", "head"]
    assert sum(row.params for row in found.rows) == found.params
    assert sum(row.macs for row in found.rows) == found.macs
    assert [row.name for row in found.rows[1].children][:2] == ["ln", "attn.q"]
    assert not architecture().inspect(depth=0).rows[1].children
    assert json.loads(json.dumps(found.to_json()))["nodes"][1]["nodes"][0]["name"] == "ln"


def test_a_check_reports_its_level() -> None:
    assert edited().check(3).level == 3


def convnet() -> Graph:
    """Two convolutions, so that gates, kernels and channel branches have something to act on."""
    builder = GraphBuilder(OPSET)
    main = builder.block("net", x="float32[batch,3,8,8]")
    conv = {"kernel_size": (3, 3), "stride": (1, 1), "padding": (1, 1), "dilation": (1, 1), "bias": True}
    value = main.add("Conv", "x", name="conv1", scope="conv1", out_channels=8, **conv)
    value = main.add("Relu", value, name="relu")
    value = main.add("Conv", value, name="conv2", scope="conv2", out_channels=8, **conv)
    value = main.add("GlobalAveragePool", value, name="pool", keepdims=False)
    return builder.build(main.finish(main.add("Linear", value, name="fc", scope="fc", out_features=5)))


GATE = Add(
    "new_gate", "SqueezeExcite", ("conv2",), (("reduced_channels", Number("channels", "conv2", over=4)), ("scale", 2.0))
)
WEAK_GATE = Add("new_gate", "SqueezeExcite", ("conv2",), (("reduced_channels", Number.of(2)),))
LORA = (("rank", Number.of(2)),)


@pytest.mark.parametrize(
    ("steps", "unchanged"),
    [
        ((At(()), GATE, ReplaceUses("conv2", "new_gate")), True),
        ((At(()), WEAK_GATE, ReplaceUses("conv2", "new_gate")), False),
        ((At(()), SetAttrs("conv1", (("kernel_size", Number.of(5)),))), True),
        ((At(()), SetAttrs("conv1", (("out_channels", Number("old", times=2)),))), True),
        ((At(()), SetAttrs("conv1", (("out_channels", Number("old", over=2)),))), False),
        ((At(()), Replace("fc", "LoRALinear", LORA)), True),
        ((At(()), Replace("relu", "Gelu")), False),
    ],
    ids=["gate", "gate that halves", "larger kernel", "wider", "narrower", "low rank", "activation"],
)
def test_additions_to_a_convnet_keep_its_outputs_and_other_changes_do_not(
    steps: tuple[Step, ...], unchanged: bool
) -> None:
    model = architecture(convnet()).edit("x", editor=FakeEditor(steps))
    assert model.comparison is not None
    found = model.comparison
    assert (found.difference <= 1e-5 * found.scale) is unchanged, found


def test_an_inserted_layer_is_silent_and_a_repeated_one_is_not() -> None:
    for weights, unchanged in (("new", True), ("copy", False)):
        add = Add("h.3", "@layer", ("h.2",), like="h.2", weights=weights)
        model = edited((At(()), add, ReplaceUses("h.2", "h.3")))
        assert model.comparison is not None
        assert (model.comparison.difference == 0.0) is unchanged, weights


def test_the_card_is_short_and_tells_how_to_load(tmp_path: Path) -> None:
    edited().save_pretrained(tmp_path / "out")
    text = (tmp_path / "out" / "README.md").read_text()
    assert text.startswith("# tiny, edited\n")
    assert "> add local attention" in text
    assert "module = model.load('.')" in text
    assert len(text.splitlines()) < 45
    assert "\n\n- read as branch" in text  # a list right under a quotation would be drawn into it
    assert "|\n\n```python\n" in text


def test_a_window_is_compared_on_a_sequence_that_is_longer_than_it() -> None:
    """Guards against "unchanged" said of a window that the eight tokens of the comparison never reached."""
    model = edited((At(("h.2",)), SetAttrs("attn.attention", (("window", Number.of(20)),))))
    assert model.comparison is not None
    assert model.comparison.sizes["seq"] == 28
    assert model.comparison.difference > 0.0
    assert "outputs: changed by up to" in model.report.plan[-1]
    wide = edited((At(("h.2",)), SetAttrs("attn.attention", (("window", Number.of(4000)),))))
    assert wide.comparison is not None
    assert "though they may change: h.2.attn.attention: window None -> 4000" in wide.report.plan[-1]


def test_outputs_of_another_shape_are_told_as_such() -> None:
    model = architecture(convnet()).edit(
        "x", editor=FakeEditor((At(()), SetAttrs("fc", (("out_features", Number.of(7)),))))
    )
    assert model.comparison is None
    assert "cannot be compared" in model.report.plan[-1]
