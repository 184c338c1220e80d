"""Config fields that transformers leaves unset by default and that a model cannot be built or run without.

Each rule is about a field, not about a model: it holds wherever the field is there and `None`.
"""

import functools
import inspect
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any


def _head_dim(config: Any) -> int | None:
    width, heads = _first(config, "hidden_size", "d_model"), _first(config, "num_attention_heads", "num_heads")
    return width // heads if width and heads and width % heads == 0 else None


def _first(config: Any, *names: str) -> Any:
    return next((v for n in names if isinstance(v := getattr(config, n, None), int)), None)


def _heads(config: Any) -> Any:
    return _first(config, "num_attention_heads", "num_heads", "n_heads")


def _layers(kind: str) -> Callable[[Any], Any]:
    def rule(config: Any) -> Any:
        count = _first(config, "num_hidden_layers")
        return [kind] * count if count else None

    return rule


def _if_positions(config: Any) -> int | None:
    return 1 if hasattr(config, "token_dropout") else None


def _first_language(config: Any) -> str | None:
    return next(iter(getattr(config, "languages", None) or ()), None)


def _constant(value: Any) -> Callable[[Any], Any]:
    return lambda _config: value


# field -> (value of it, why it is needed)
UNSET: dict[str, tuple[Callable[[Any], Any], str]] = {
    "prediction_length": (_constant(8), "a forecaster is built for a horizon"),
    "context_length": (_constant(16), "a forecaster reads a past of fixed length"),
    "vocab_size": (_constant(64), "a head needs to know how many words there are"),
    "head_dim": (_head_dim, "rotary frequencies are computed from it"),
    "num_key_value_heads": (_heads, "as many as there are heads"),
    "num_experts_per_tok": (_constant(2), "a router picks so many experts"),
    "n_routed_experts": (_constant(8), "a router has so many experts to pick from"),
    "moe_intermediate_size": (_constant(256), "inner width of an expert"),
    "shared_expert_intermediate_size": (_constant(256), "inner width of the expert that sees every token"),
    "image_token_index": (_constant(1), "marks the places of image features"),
    "image_token_id": (_constant(1), "marks the places of image features"),
    "audio_token_id": (_constant(2), "marks the places of sound features"),
    "audio_token_index": (_constant(2), "marks the places of sound features"),
    "default_language": (_first_language, "picks the adapters that are run"),
    "pad_token_id": (_if_positions, "positions are counted from the first word that is no padding"),
    "moe_shared_expert_intermediate_size": (_constant(256), "inner width of the expert that sees every token"),
    "n_shared_experts": (_constant(1), "experts that see every token"),
    "router_top_k": (_constant(2), "a router picks so many experts"),
    "mlp_layer_types": (_layers("dense"), "tells which layers have experts"),
}  # fmt: skip
# Fields whose default cannot be run twice with one result, and what they are set to.
REPLACED: dict[str, tuple[Any, Any, str]] = {
    "attention_type": ("block_sparse", "original_full", "sparse blocks are drawn at random"),
}


def fill_unset(config: Any) -> Any:
    """Sets the fields above where they are unset, in the config and its parts; gives the config back."""
    for key, (rule, _why) in UNSET.items():
        if key in vars(config) and vars(config)[key] is None:
            value = rule(config)
            if value is not None:
                setattr(config, key, value)
    for key, (old, new, _why) in REPLACED.items():
        if vars(config).get(key) == old:
            setattr(config, key, new)
    _fit_sections(config)
    _fit_image(config)
    _fit_projector(config)
    for part in vars(config).values():
        if hasattr(part, "model_type") and hasattr(part, "to_dict"):
            fill_unset(part)
    return config


def _fit_sections(config: Any) -> None:
    """Makes the sections of a rotary embedding of several axes add up to the frequencies of a head."""
    rope = vars(config).get("rope_parameters")
    config_class: Any = type(config)
    section = rope.get("mrope_section", _sections_in_code(config_class)) if isinstance(rope, dict) else None
    width = vars(config).get("head_dim") or _head_dim(config)
    if not section or not isinstance(width, int):
        return
    share = rope.get("partial_rotary_factor", vars(config).get("partial_rotary_factor")) or 1.0
    total = int(width * share) // 2
    if total != sum(section) and total >= len(section):
        parts = [max(1, total * part // sum(section)) for part in section[1:]]
        config.rope_parameters = {**rope, "mrope_section": [total - sum(parts), *parts]}


def _fit_image(config: Any) -> None:
    """Makes the patches of an image enough for the words that stand for it, and divisible by what is merged."""
    vision = vars(config).get("vision_config")
    size, side = getattr(vision, "image_size", None), getattr(vision, "patch_size", None)
    if not (isinstance(size, int) and isinstance(side, int) and side):
        return
    patches, words = size // side, vars(config).get("mm_tokens_per_image")
    queries = vars(config).get("projector_patch_to_query_dict")
    if isinstance(queries, dict) and queries and patches * patches not in queries:
        vision.image_size = side * math.isqrt(min(int(n) for n in queries))  # type: ignore[union-attr]
    scale = next((n for key in ("scale_factor", "pixel_shuffle_factor") if (n := vars(config).get(key))), None)
    if isinstance(words, int) and patches * patches < words:
        config.mm_tokens_per_image = patches * patches
    if isinstance(scale, int) and scale > 1 and patches % scale:
        vision.image_size = side * scale * -(-patches // scale)  # type: ignore[union-attr]


def _fit_projector(config: Any) -> None:
    """Makes a projector read vectors as wide as the encoder in front of it gives them."""
    projector, encoder = vars(config).get("projector_config"), vars(config).get("encoder_config")
    width = _first(encoder, "hidden_size", "hidden_dim")
    if width and isinstance(getattr(projector, "encoder_hidden_size", None), int):
        projector.encoder_hidden_size = width  # type: ignore[union-attr]


@functools.cache
def _sections_in_code(config_class: Any) -> tuple[int, ...]:
    """The sections that the model's code falls back to, empty where it has none."""
    path = Path(inspect.getfile(config_class))
    code = path.with_name(path.name.replace("configuration_", "modeling_"))
    found = re.search(r"mrope_section\", \[([\d, ]+)\]", code.read_text(encoding="utf-8")) if code.is_file() else None
    return tuple(int(word) for word in found[1].split(",")) if found else ()
