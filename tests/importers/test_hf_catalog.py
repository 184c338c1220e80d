"""Transformers types by name: small configs by rules on field names, inputs by kind, the same outputs."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from genmad.evals.import_scan import TypeResult, metrics_of, read, scan
from genmad.evals.round_trip import compare
from genmad.importers.hf_catalog import import_type, make_config, model_types, small_that_runs
from genmad.importers.hf_model import build_skeleton
from genmad.importers.inputs import recipe_of
from genmad.importers.report import UnsupportedError


def test_the_catalogue_lists_transformers_own_types() -> None:
    assert {"gpt2", "llava", "mixtral", "qwen2_vl", "whisper"} <= set(model_types())


def test_small_configs_keep_what_holds_between_widths() -> None:
    """Guards rounding: heads times head size, and the sections of a rotary embedding, must still add up."""
    small: Any = make_config("qwen2_vl", size="small", width=4)
    text = small.text_config
    head = text.hidden_size // text.num_attention_heads
    assert text.num_hidden_layers == 2
    assert text.hidden_size * 4 == make_config("qwen2_vl").text_config.hidden_size
    assert sum(text.rope_parameters["mrope_section"]) == head // 2


def test_ids_of_special_words_stay_inside_a_short_table() -> None:
    small: Any = make_config("llava", size="small")
    assert small.image_token_index < small.text_config.vocab_size <= 128


@pytest.mark.parametrize(
    ("kind", "names", "modality"),
    [
        ("gpt2", {"input_ids"}, "text"),
        ("t5", {"input_ids", "decoder_input_ids"}, "text"),
        ("llava", {"input_ids", "pixel_values"}, "text + vision"),
        ("wav2vec2", {"input_values"}, "audio"),
        ("patchtst", {"past_values", "past_observed_mask"}, "series"),
    ],
)
def test_inputs_follow_from_the_signature(kind: str, names: set[str], modality: str) -> None:
    recipe = recipe_of(build_skeleton(make_config(kind, size="small")))
    assert set(recipe.inputs) == names
    assert recipe.modality == modality


@pytest.mark.parametrize("kind", ["mixtral", "gpt_neo", "bloom", "qwen2_vl"])
def test_small_types_compute_what_the_model_computes(kind: str) -> None:
    """Routed experts, a window in a table, merged heads with a bias, an image in a row of words."""
    config, imported = small_that_runs(kind)
    difference, largest = compare(config, imported, seed=0)
    assert difference <= 1e-5 * max(1.0, largest)
    if kind == "mixtral":
        assert any(n.op == "RoutedExperts" for block in imported.graph.all_blocks for n in block.nodes)
    else:
        assert any(n.op == "Attention" for block in imported.graph.all_blocks for n in block.nodes)


def test_small_models_of_stages_keep_their_stages() -> None:
    small: Any = make_config("swin", size="small", depth=1)
    assert (small.depths, small.num_heads) == ((1, 1, 1, 1), make_config("swin").num_heads)


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("siglip2_vision_model", {"pixel_values": (1, 16, 768)}),
        ("musicgen_decoder", {"input_ids": (4, 8)}),
        ("timesfm", {"past_values": (1, 128)}),
        ("granite_speech_encoder", {"hidden_states": (1, 16, 160)}),
    ],
)
def test_first_layers_tell_what_a_model_reads(kind: str, names: dict[str, tuple[int, ...]]) -> None:
    """Flattened patches, a row of codes for each table, a few patches of a series, as wide as the first layer."""
    recipe = recipe_of(build_skeleton(make_config(kind, size="small", width=1)))
    assert {name: tuple(tensor.shape) for name, tensor in recipe.inputs.items()} == names


def test_defaults_that_do_not_fit_each_other_are_made_to_fit() -> None:
    """Fewer patches than words for an image; patches that cannot be merged."""
    gemma, idefics = make_config("gemma3"), make_config("idefics3")
    side = gemma.vision_config.image_size // gemma.vision_config.patch_size
    assert gemma.mm_tokens_per_image <= side * side
    assert (idefics.vision_config.image_size // idefics.vision_config.patch_size) % idefics.scale_factor == 0


@pytest.mark.parametrize(
    ("kind", "words", "fix"),
    [("chameleon", "cannot be built", "config.json"), ("sam2_video", "inference_session", "--input")],
)
def test_a_type_that_cannot_be_read_says_why_and_what_to_do(kind: str, words: str, fix: str) -> None:
    with pytest.raises(UnsupportedError, match=words) as caught:
        import_type(kind)
    assert caught.value.exit_code == 3
    assert fix in caught.value.diagnostic.fix


def test_a_scan_goes_on_where_it_was(tmp_path: Path) -> None:
    """A type that is there already is read, not measured again."""
    done = TypeResult(model_type="gpt2", built=True, full=True, small=True, max_abs_diff=0.0, max_abs=1.0, num_nodes=7)
    row = {k: getattr(done, k) for k in TypeResult.__slots__}
    (tmp_path / "gpt2.json").write_text(json.dumps({**row, "ops": {"Linear": 3, "TorchCall": 1}}), encoding="utf-8")
    results = scan(["gpt2"], tmp_path)
    assert results == [read(tmp_path / "gpt2.json")]
    metrics = metrics_of(results)
    assert metrics["transformers_imported"] == metrics["parity_ok"] == 1
    assert metrics["lifted_fraction"] == 0.75


def test_random_state_is_left_alone() -> None:
    state = torch.get_rng_state()
    build_skeleton(make_config("gpt2", size="small"))
    assert torch.equal(state, torch.get_rng_state())
