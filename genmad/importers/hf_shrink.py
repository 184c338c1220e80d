"""Small configs of any transformers type, by rules on the names of config fields; nested configs are shrunk too.

Widths are divided by one power of two, so that every relation between them holds: heads times head size, the parts of a
rotary section, the projections between an image and a text model. Depths are cut, tables of words become short, and ids
of special tokens move into the short table.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from genmad.importers.hf_unset import fill_unset
from genmad.importers.report import UnsupportedError

_LAYERS = re.compile(
    r"(num_|n_|num)?(hidden_|encoder_|decoder_|text_|mlp_|vision_|conv_|transformer_|audio_|global_|depth_decoder_|"
    r"entity_|codec_|predictor_|attention_|xlm_|wav2vec_|local_|flow_|variance_|refiner_|cross_|block_|qformer_|"
    r"perceiver_|resampler_)*(layers?|blocks?|hidden_groups)|n_layer|num_layers_.*|.*_num_layers|.*_num_hidden_layers|"
    r"depth|.*_layers|nlayers|.*_depth|layers_per_stage|num_hidden_layers.*"
)
_NOT_LAYERS = re.compile(
    r".*(fpn|skip|feature_layers|out_layers|target|_ratio|adapter).*|num_feat_extract_layers|num_adapter_layers"
)
_WIDTHS = re.compile(
    r"(.*_)?(hidden_sizes?|intermediate_sizes?|d_model|d_ff|d_inner|n_embd|n_inner|dim_head|head_dim|head_size|"
    r"embed_dims?|embedding_size|embedding_dim|projection_dim|ffn_dim|hidden_dims?|dim|dims|lora_rank|inner_dim|"
    r"ffn_hidden_size|decoder_size|channels|width|widths|embedding_width|inner_size|mlp_dim|d_kv|ssm_size|latent_size|"
    r"head_width|attention_size|bottleneck_size|expansion_size|qk_size|v_size|state_dim_ff)"
)
_NOT_WIDTHS = re.compile(
    r"(num_|in_|out_|image_|input_|audio_|latent_|sampling_)?(channels|num_channels|in_chans)|.*(patch|kernel|window|"
    r"stride|act_dim|state_dim|vocab|codebook|mel|time_step|squeeze|group|time_dim|concat_dim|axis|conv_dim_stride|"
    r"rope_dim_list|num_time|softmax_dim|normalization_dim|cat_dim|kernel_size|split_dim).*|mel_dim|model_in_dim"
)
_TOKENS = re.compile(r".*(token_id|token_index|token_ids|token_idx|_id|_index)s?")
_VOCABULARY = re.compile(r"(.*_)?(vocab_size|vocab_sizes|num_tokens|n_words)")
_EXPERTS = re.compile(r"(.*_)?(num_(local_|routed_|)experts|n_routed_experts|moe_num_experts|num_experts|n_experts)")
_DEPTHS = ("depths", "num_blocks", "layers", "depth", "encoder_depths", "decoder_depths")
_WORDS = 128
_MAX_EXPERTS = 16
# A width is never divided below this.
_LEAST = 4


@dataclass(slots=True)
class _Shrinker:
    """Rules at one depth and width; ids of special tokens move to the same places in every part of a config."""

    depth: int
    width: int
    words: int = _WORDS
    ids: dict[int, int] = field(default_factory=dict)

    def fields(self, config: Any, *, inside: bool = False) -> dict[str, Any]:
        """Changed fields of a config, parts as dicts."""
        changed: dict[str, Any] = {}
        layers = _num_layers(config)
        keeps_depth = len(getattr(config, "out_features", None) or ()) > 1  # it hands over the results of named layers
        for key, value in vars(config).items():
            if key.startswith("_") or key in ("transformers_version", "model_type", "dtype", "torch_dtype"):
                continue
            if key == "num_layers" and _has_stages(config):
                continue
            if keeps_depth and (_LAYERS.fullmatch(key) or key in _DEPTHS):
                continue
            small = self._value(key, value, 0 if keeps_depth else layers)
            if small is not value:
                changed[key] = small
        if inside:
            changed = {"model_type": config.model_type, **changed} if getattr(config, "model_type", "") else changed
        return changed

    def _value(self, key: str, value: Any, layers: int) -> Any:
        if hasattr(value, "model_type") or hasattr(value, "to_diff_dict"):
            whole = {**value.to_dict(), **self.fields(value, inside=True)}
            return {k: v for k, v in whole.items() if k != "per_layer_config"}
        if isinstance(value, bool) or value is None or isinstance(value, str):
            return value
        if isinstance(value, int):
            return self._number(key, value)
        if isinstance(value, (list, tuple)):
            return self._list(key, value, layers)
        if key in ("rope_parameters", "rope_scaling") and isinstance(value, dict):
            return self._rope(value)
        return value

    def _rope(self, rope: dict[str, Any]) -> dict[str, Any]:
        small = dict(rope)
        for key, value in rope.items():
            if key == "mrope_section" or key.endswith("_section"):
                small[key] = type(value)(max(1, v // self.width) for v in value)
            elif isinstance(value, dict):
                small[key] = self._rope(value)
        return small if small != rope else rope

    def _number(self, key: str, value: int) -> int:
        if key == "num_kv_shared_layers":
            return 0
        if key.endswith(("feature_layer", "feature_layers")):
            return value if abs(value) <= self.depth else -1
        if _LAYERS.fullmatch(key) and not _NOT_LAYERS.fullmatch(key):
            return min(value, self.depth) if value > 0 else value
        if _VOCABULARY.fullmatch(key):
            return min(value, self.words)
        if _EXPERTS.fullmatch(key):
            return _halved(value, _MAX_EXPERTS)
        if _TOKENS.fullmatch(key) and value >= self.words:
            return self.ids.setdefault(value, self.words - 1 - len(self.ids))
        if _WIDTHS.fullmatch(key) and not _NOT_WIDTHS.fullmatch(key):
            return self._divided(value)
        return value

    def _divided(self, value: int) -> int:
        if value >= _LEAST * self.width and value % self.width == 0:
            return value // self.width
        return max(_LEAST, value // self.width) if value > 8 * self.width else value

    def _list(self, key: str, value: Any, layers: int) -> Any:
        if not value:
            return value
        if key in _DEPTHS and _all_ints(value):
            return type(value)(min(v, self.depth) for v in value)
        if layers and len(value) == layers and layers > self.depth:
            return _kinds_first(value, self.depth)
        if _all_ints(value) and key.endswith(("feature_layer", "feature_layers")):
            return type(value)(self._number(key, v) for v in value)
        if _all_ints(value) and _TOKENS.fullmatch(key):
            return type(value)(self._number(key, v) for v in value)
        if _all_ints(value) and _WIDTHS.fullmatch(key) and not _NOT_WIDTHS.fullmatch(key):
            return type(value)(self._divided(v) for v in value)
        return value


def _all_ints(value: Any) -> bool:
    return all(isinstance(v, int) and not isinstance(v, bool) for v in value)


def _halved(value: int, most: int) -> int:
    while value > most and value % 2 == 0:
        value //= 2
    return value


def _kinds_first(value: Any, count: int) -> Any:
    """`count` members of a list with one entry per layer, as many kinds of them as fit."""
    kept = list(value[:count])
    missing = [v for i, v in enumerate(value) if v not in kept and v not in value[:i]]
    for place, kind in zip(range(count - 1, 0, -1), missing, strict=False):
        kept[place] = kind
    return type(value)(kept)


def _has_stages(config: Any) -> bool:
    """Whether `num_layers` counts stages, whose depths are a list; then lists of that length are about stages."""
    return isinstance(getattr(config, "depths", None), (list, tuple))


def _num_layers(config: Any) -> int:
    if _has_stages(config):
        return 0
    for key in ("num_hidden_layers", "n_layer", "num_layers", "n_layers", "encoder_layers"):
        value = getattr(config, key, None)
        if isinstance(value, int):
            return value
    return 0


def full_config(model_type: str, overrides: Mapping[str, Any] | None = None) -> Any:
    """The default config of a type, with fields that have no default filled in. Raises `UnsupportedError`."""
    return _made(model_type, dict(overrides or {}))


def small_config(model_type: str, *, depth: int = 2, width: int = 8, overrides: Mapping[str, Any] | None = None) -> Any:
    """A config of the type with `depth` layers and widths divided by `width`. Raises `UnsupportedError`."""
    full = full_config(model_type)
    fields = _Shrinker(depth=depth, width=width).fields(full)
    return _made(model_type, {**fields, **(overrides or {})})


def _made(model_type: str, fields: Mapping[str, Any]) -> Any:
    from transformers import CONFIG_MAPPING

    try:
        config = CONFIG_MAPPING[model_type](**fields)
    except Exception as error:  # checks of a config raise of every kind
        words = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
        raise UnsupportedError([f"the config of {model_type}: {type(error).__name__}: {words}"[:400]]) from error
    return fill_unset(config)
