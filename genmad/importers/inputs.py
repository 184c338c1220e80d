"""What a transformers model is called with: one rule per argument of forward, sizes from the config.

A `Recipe` is made from the signature of `forward` and the fields of the config and its parts (`text_config`,
`vision_config` ...), not from the name of the model. Arguments that carry content (ids, pixels, sound, series) are
given whenever forward takes them; any other argument is given only when forward cannot do without it.
"""

import inspect
from collections.abc import Mapping
from typing import Any

from genmad.importers import input_rules as rules
from genmad.importers.recipe import Context, Given, Recipe, Rule, first_of
from genmad.importers.report import UnsupportedError

# Given whenever forward takes them.
CONTENT: dict[str, tuple[str, Rule]] = {
    "input_ids": ("text", rules.ids()),
    "decoder_input_ids": ("text", rules.ids("target")),
    "bbox": ("layout", rules.bbox),
    "pixel_values": ("vision", rules.pixels),
    "pixel_values_videos": ("video", rules.video),
    "flattened_patches": ("vision", rules.flattened_patches),
    "input_features": ("audio", rules.sound_features),
    "input_values": ("audio", rules.waveform),
    "spectrogram": ("audio", rules.spectrogram),
    "past_values": ("series", rules.series),
    "past_time_features": ("series", rules.time_features),
    "past_observed_mask": ("series", rules.series_mask),
    "states": ("control", rules.states("state_dim", 17)),
    "actions": ("control", rules.states("act_dim", 4)),
    "returns_to_go": ("control", rules.states("", 1)),
    "timesteps": ("control", rules.timesteps),
    "image_grid_thw": ("", rules.grid),
    "image_sizes": ("", rules.image_sizes),
    "aspect_ratio_ids": ("", rules.first_choice),
    "aspect_ratio_mask": ("", rules.tiles),
    "qformer_input_ids": ("text", rules.ids()),
    "input_features_mask": ("", rules.sound_mask),
    "feature_attention_mask": ("", rules.sound_mask),
    "hidden_states": ("features", rules.features),
    "spatial_shapes": ("", rules.shapes),
    "target_sizes": ("", rules.shapes),
    "high_res_pixel_values": ("vision", rules.pixels),
}  # fmt: skip
# Given only when forward has no default for them.
NEEDED: dict[str, Rule] = {
    "grid_thw": rules.grid,
    "past_values_padding": rules.series_padding,
    "freq": rules.first_choice,
    "encoder_hidden_states": rules.memory,
    "query_embeds": rules.queries,
    "inputs_embeds": rules.hidden_stream,
    "image": rules.pixels,
    "attention_mask": rules.padding,
    "audio_mel": rules.sound_features,
    "audio_mel_mask": rules.sound_mask,
    "noise_embeds": rules.noise,
    "context_hidden_states": rules.hidden_stream,
    "image_features": rules.hidden_stream,
    "action_embeds": rules.noise,
    "input": rules.ids_alone,
    "vision_features": rules.hidden_stream,
    "text_features": rules.hidden_stream,
    "code": rules.timesteps,
    "latents": rules.latents,
    "context": rules.hidden_stream,
    "mel_spectrogram": rules.mel_first,
}


def recipe_of(module: Any) -> Recipe:
    """How to call a transformers model. Raises `UnsupportedError` naming an argument that no rule covers."""
    context = Context(module)
    given: dict[str, Given] = {}
    words: list[str] = []
    for name in context.signature:
        rule = _rule(context, name)
        if rule is None:
            continue
        word, make = rule
        given[name] = make(context)
        words += [word] if word and word not in words else []
    inputs = {n: g.tensor for n, g in given.items() if not g.constant}
    if not inputs:
        known = ", ".join(n for n in context.signature if n != "kwargs")
        raise UnsupportedError([f"no input recipe for a forward that takes {known}"])
    return Recipe(
        inputs=inputs,
        dynamic={n: g.axes for n, g in given.items() if not g.constant},
        constants={n: g.tensor for n, g in given.items() if g.constant},
        kwargs=_flags(context),
        bounds={n: g.bounds for n, g in given.items() if not g.constant and not g.tensor.is_floating_point()},
        modality=" + ".join(words) or "features",
    )


def _rule(c: Context, name: str) -> tuple[str, Rule] | None:
    if name == "pixel_values_videos" and c.takes("pixel_values"):
        return None
    if _switched_off(c, name):
        return None
    if name == "decoder_input_ids" and not (c.needs(name) or getattr(c.config, "is_encoder_decoder", True)):
        return None
    if name == "position_ids" and _has_mrope(c):
        return "", rules.mrope_positions
    if name == "pixel_attention_mask" and c.takes("spatial_shapes"):
        return "", rules.patch_mask
    if name == "target_sizes" and c.takes("image_grid_thw"):
        return None
    if name == "image_sizes" and not (hasattr(c.config, "image_grid_pinpoints") or rules.inner_takes(c, name)):
        return None
    if name == "encoder_hidden_states" and hasattr(c.config, "cross_hidden_size"):
        return "", rules.memory
    if name == "encoder_hidden_states" and c.takes("query_embeds") and hasattr(c.config, "encoder_hidden_size"):
        return "", rules.memory
    if name in CONTENT:
        return CONTENT[name]
    if not c.needs(name) or c.signature[name].kind in (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL):
        return None
    if name not in NEEDED:
        raise UnsupportedError([f"no input recipe for the argument {name} of {type(c.module).__name__}.forward"])
    return "", NEEDED[name]


# Content that a composite model has only when the config has the part for it.
_PART_OF = {"pixel_values": "vision_config", "input_features": "audio_config", "input_values": "audio_config"}


def _switched_off(c: Context, name: str) -> bool:
    part = _PART_OF.get(name)
    return part is not None and hasattr(c.config, part) and getattr(c.config, part) is None


def _has_mrope(c: Context) -> bool:
    rope = first_of(c.text, "rope_parameters", "rope_scaling", default=None)
    return c.takes("image_grid_thw") and (
        c.takes("mm_token_type_ids") or (isinstance(rope, Mapping) and "mrope_section" in rope)
    )


def _flags(c: Context) -> dict[str, Any]:
    flags: dict[str, Any] = {"use_cache": False} if c.takes("use_cache") else {}
    if c.takes("return_dict"):
        flags["return_dict"] = True
    return flags
