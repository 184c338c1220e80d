"""Model families that import cleanly, with configs at varied depth and width; nothing is downloaded.

One table serves the parity tests and the corpus. A family turns a `Size` into the keyword arguments of its transformers
config.
"""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

TEXT_ACTIVATIONS = ("gelu", "gelu_new", "relu", "silu")


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How large a model is.

    Attributes:
        depth: layers (of each stage for staged vision models: 1 or more per stage).
        heads, head_dim: attention; the width is their product.
        kv_heads: divides `heads`.
        ffn: inner width of the feed-forward part.
        vocab: number of tokens.
        image: side of the square input image.
        activation: of the feed-forward part.
        window: positions a local layer sees.
        labels: classes of a classifier.
    """

    depth: int = 2
    heads: int = 4
    head_dim: int = 8
    kv_heads: int = 2
    ffn: int = 64
    vocab: int = 99
    image: int = 32
    activation: str = "gelu"
    window: int = 5
    labels: int = 7

    @property
    def width(self) -> int:
        return self.heads * self.head_dim


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """A transformers model type at any size.

    Attributes:
        model_type: key of transformers' config table.
        modality: `text`, `text encoder`, `text to text`, `vision`, `speech`.
        config: size -> keyword arguments of the config.
        required: whether the parity test must hold for it (the others serve the corpus and are tested as a sample).
    """

    model_type: str
    modality: str
    config: Callable[[Size], Mapping[str, Any]]
    required: bool = False

    def small(self) -> dict[str, Any]:
        """Arguments of the smallest config, as the parity test uses it."""
        return dict(self.config(Size()))

    def variants(self, seed: int, count: int) -> list[dict[str, Any]]:
        """Arguments of `count` configs of random sizes that differ; the same for the same seed."""
        rng = random.Random(f"{self.model_type} {seed}")
        found: dict[str, dict[str, Any]] = {}
        for _ in range(20 * count):
            kwargs = dict(self.config(random_size(rng)))
            found.setdefault(repr(sorted(kwargs.items(), key=lambda item: item[0])), kwargs)
            if len(found) == count:
                break
        return list(found.values())

    def make_config(self, kwargs: Mapping[str, Any] | None = None) -> Any:
        """The transformers config object."""
        from transformers import AutoConfig

        return AutoConfig.for_model(self.model_type, **(self.small() if kwargs is None else kwargs))


def random_size(rng: random.Random) -> Size:
    """Sizes as they occur in practice, from tiny to base."""
    heads = rng.choice((2, 4, 6, 8, 12, 16))
    head_dim = rng.choice((16, 32, 64, 64, 128))
    kv_heads = rng.choice([k for k in (1, 2, 4, 8, heads) if heads % k == 0])
    return Size(
        depth=rng.choice((2, 3, 4, 6, 8, 12, 16, 24)),
        heads=heads,
        head_dim=head_dim,
        kv_heads=kv_heads,
        ffn=heads * head_dim * rng.choice((2, 3, 4)),
        vocab=rng.choice((1000, 8000, 16384, 30522, 32000, 50257)),
        image=rng.choice((128, 160, 192, 224, 256)),
        activation=rng.choice(TEXT_ACTIVATIONS),
        window=rng.choice((64, 128, 256, 512, 1024, 4096)),
        labels=rng.choice((10, 100, 1000)),
    )


def narrow_size(rng: random.Random) -> Size:
    """Narrow, so that one forward pass is quick, and of any depth, so that "layer 7" can be asked for."""
    heads = rng.choice((2, 4, 8))
    return Size(
        depth=rng.choice((2, 3, 4, 6, 8, 12)),
        heads=heads,
        head_dim=rng.choice((8, 16)),
        kv_heads=rng.choice([k for k in (1, 2, 4, heads) if heads % k == 0]),
        ffn=rng.choice((64, 96, 128)),
        image=rng.choice((32, 64)),
        activation=rng.choice(("gelu", "relu", "silu")),
        window=rng.choice((5, 16, 64)),
        labels=rng.choice((7, 10)),
    )


def _stages(size: Size, count: int = 4) -> list[int]:
    """Layers per stage, most in the third one, as ResNet and its successors have it."""
    base = max(1, min(size.depth, 6) // 2)
    return [base if i != count - 2 else base + max(0, size.depth - 3) // 3 for i in range(count)]


def _widths(size: Size, count: int = 4) -> list[int]:
    """Channels that double from stage to stage; divisible by the heads."""
    first = max(8, size.width // 4 // 8 * 8)
    return [first * 2**i for i in range(count)]


def _no_ids() -> dict[str, Any]:
    return {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}


def _gpt2(s: Size) -> dict[str, Any]:
    return {"n_layer": s.depth, "n_embd": s.width, "n_head": s.heads, "n_inner": s.ffn, "vocab_size": s.vocab,
            "activation_function": "gelu_new" if s.activation == "gelu" else s.activation, **_no_ids()}  # fmt: skip


def _opt(s: Size) -> dict[str, Any]:
    return {"num_hidden_layers": s.depth, "hidden_size": s.width, "word_embed_proj_dim": s.width, "ffn_dim": s.ffn,
            "num_attention_heads": s.heads, "vocab_size": s.vocab, "activation_function": s.activation,
            **_no_ids()}  # fmt: skip


def _bert(s: Size) -> dict[str, Any]:
    return {"num_hidden_layers": s.depth, "hidden_size": s.width, "num_attention_heads": s.heads,
            "intermediate_size": s.ffn, "vocab_size": s.vocab, "hidden_act": s.activation, **_no_ids()}  # fmt: skip


def _distilbert(s: Size) -> dict[str, Any]:
    act = s.activation if s.activation in ("gelu", "relu") else "gelu"
    return {"n_layers": s.depth, "dim": s.width, "n_heads": s.heads, "hidden_dim": s.ffn, "vocab_size": s.vocab,
            "activation": act, **_no_ids()}  # fmt: skip


def _llama(s: Size) -> dict[str, Any]:
    return {"num_hidden_layers": s.depth, "hidden_size": s.width, "num_attention_heads": s.heads, "vocab_size": s.vocab,
            "num_key_value_heads": s.kv_heads, "intermediate_size": s.ffn, **_no_ids()}  # fmt: skip


def _mistral(s: Size) -> dict[str, Any]:
    return {**_llama(s), "sliding_window": s.window}


def _gemma(s: Size) -> dict[str, Any]:
    return {**_llama(s), "head_dim": s.head_dim}


def _gemma2(s: Size) -> dict[str, Any]:
    return {**_gemma(s), "sliding_window": s.window, "query_pre_attn_scalar": s.head_dim}


def _multi_query(s: Size) -> dict[str, Any]:
    return {**_llama(s), "num_key_value_heads": s.heads}


def _t5(s: Size) -> dict[str, Any]:
    return {"num_layers": s.depth, "num_decoder_layers": s.depth, "d_model": s.width, "num_heads": s.heads,
            "d_kv": s.head_dim, "d_ff": s.ffn, "vocab_size": s.vocab,
            "feed_forward_proj": "gated-gelu" if s.activation == "gelu_new" else "relu", "decoder_start_token_id": 0,
            **_no_ids()}  # fmt: skip


def _bart(s: Size) -> dict[str, Any]:
    return {"encoder_layers": s.depth, "decoder_layers": s.depth, "d_model": s.width,
            "encoder_attention_heads": s.heads, "decoder_attention_heads": s.heads, "encoder_ffn_dim": s.ffn,
            "decoder_ffn_dim": s.ffn, "vocab_size": s.vocab, "activation_function": s.activation,
            "decoder_start_token_id": 2, "forced_eos_token_id": 2, **_no_ids()}  # fmt: skip


def _whisper(s: Size) -> dict[str, Any]:
    return {**_bart(s), "num_mel_bins": 80 if s.vocab > 1000 else 8,
            "max_source_positions": 1500 if s.vocab > 1000 else 16, "max_target_positions": 448,
            "suppress_tokens": None, "begin_suppress_tokens": None}  # fmt: skip


def _vit(s: Size) -> dict[str, Any]:
    return {"num_hidden_layers": s.depth, "hidden_size": s.width, "num_attention_heads": s.heads,
            "intermediate_size": s.ffn, "hidden_act": s.activation, "image_size": s.image,
            "patch_size": 16 if s.image > 64 else 8, "num_labels": s.labels}  # fmt: skip


def _clip(s: Size) -> dict[str, Any]:
    return {**_vit(s), "hidden_act": "quick_gelu" if s.activation == "gelu" else s.activation}


def _dinov2(s: Size) -> dict[str, Any]:
    return {
        **{k: v for k, v in _vit(s).items() if k != "intermediate_size"},
        "mlp_ratio": 2 if s.ffn < 3 * s.width else 4,
    }


def _swin(s: Size) -> dict[str, Any]:
    first = max(8, s.width // 2 // 8 * 8)
    depths = [2, 2] if s.image <= 64 else [2, 2, max(2, s.depth // 2 * 2), 2]
    return {"embed_dim": first, "depths": depths, "num_heads": [2 * 2**i for i in range(len(depths))],
            "window_size": 4 if s.image % 56 else 7, "image_size": s.image // 32 * 32,
            "patch_size": 4 if s.image > 64 else 2, "mlp_ratio": 4.0, "hidden_act": s.activation,
            "num_labels": s.labels}  # fmt: skip


def _convnext(s: Size) -> dict[str, Any]:
    return {"depths": _stages(s), "hidden_sizes": _widths(s), "hidden_act": s.activation, "num_labels": s.labels,
            "image_size": s.image}  # fmt: skip


def _resnet(s: Size) -> dict[str, Any]:
    widths = _widths(s)
    layer = "basic" if s.depth < 8 else "bottleneck"
    sizes = widths if layer == "basic" else [4 * w for w in widths]
    return {"depths": _stages(s), "hidden_sizes": sizes, "embedding_size": widths[0], "layer_type": layer,
            "num_labels": s.labels, "hidden_act": "silu" if s.activation == "silu" else "relu"}  # fmt: skip


def _bit(s: Size) -> dict[str, Any]:
    widths = [max(32, w // 32 * 32) for w in _widths(s)]
    return {"depths": _stages(s), "hidden_sizes": [4 * w for w in widths], "embedding_size": widths[0],
            "num_labels": s.labels, "layer_type": "bottleneck" if s.heads % 4 else "preactivation"}  # fmt: skip


def _regnet(s: Size) -> dict[str, Any]:
    return {"depths": _stages(s), "hidden_sizes": [max(16, w // 16 * 16) for w in _widths(s)], "embedding_size": 16,
            "groups_width": 8, "layer_type": "y" if s.heads % 4 else "x", "num_labels": s.labels}  # fmt: skip


def _mobilenet(s: Size) -> dict[str, Any]:
    multiplier = {2: 0.35, 4: 0.5, 6: 0.75, 8: 1.0, 12: 1.3, 16: 1.4}[s.heads] if s.image > 64 else 0.35
    return {"depth_multiplier": multiplier, "image_size": s.image, "num_labels": s.labels}


def _efficientnet(s: Size) -> dict[str, Any]:
    if s.image <= 64:
        return {"image_size": s.image, "num_labels": s.labels, "width_coefficient": 0.25, "depth_coefficient": 0.3,
                "hidden_dim": 320}  # fmt: skip
    width = 0.5 + s.heads / 8
    top = int(1280 * width + 4) // 8 * 8  # EfficientNet rounds channels to multiples of 8
    return {"image_size": s.image, "num_labels": s.labels, "width_coefficient": width, "hidden_dim": top,
            "depth_coefficient": 0.5 + s.depth / 12, "hidden_act": "swish"}  # fmt: skip


def _segformer(s: Size) -> dict[str, Any]:
    widths = [w // 8 * 8 for w in _widths(s)]
    return {"depths": _stages(s), "hidden_sizes": widths, "num_attention_heads": [1, 2, 4, 8],
            "hidden_act": s.activation, "image_size": s.image, "num_labels": s.labels,
            "decoder_hidden_size": s.width}  # fmt: skip


def _pvt(s: Size) -> dict[str, Any]:
    return {"depths": _stages(s), "hidden_sizes": _widths(s), "num_attention_heads": [1, 2, 4, 8],
            "hidden_act": s.activation, "image_size": max(s.image // 32 * 32, 64),
            "num_labels": s.labels}  # fmt: skip


def _poolformer(s: Size) -> dict[str, Any]:
    return {"depths": _stages(s), "hidden_sizes": _widths(s), "hidden_act": s.activation, "num_labels": s.labels}


def _mamba(s: Size) -> dict[str, Any]:
    return {"num_hidden_layers": s.depth, "hidden_size": s.width, "state_size": 4 if s.ffn < 100 else 16,
            "vocab_size": s.vocab, "intermediate_size": 2 * s.width, "time_step_rank": max(2, s.width // 16),
            **_no_ids()}  # fmt: skip


def _neox(s: Size) -> dict[str, Any]:
    return {k: v for k, v in {**_bert(s)}.items()}


def _gptj(s: Size) -> dict[str, Any]:
    return {"n_layer": s.depth, "n_embd": s.width, "n_head": s.heads, "n_inner": s.ffn, "vocab_size": s.vocab,
            "rotary_dim": s.head_dim // 2, **_no_ids()}  # fmt: skip


def _gpt_neo(s: Size) -> dict[str, Any]:
    depth = s.depth // 2 * 2
    return {"num_layers": depth, "attention_types": [[["global", "local"], depth // 2]], "hidden_size": s.width,
            "num_heads": s.heads, "intermediate_size": s.ffn, "vocab_size": s.vocab, "window_size": s.window,
            **_no_ids()}  # fmt: skip


def _bloom(s: Size) -> dict[str, Any]:
    return {"n_layer": s.depth, "hidden_size": s.width, "n_head": s.heads, "vocab_size": s.vocab, **_no_ids()}


def _falcon(s: Size) -> dict[str, Any]:
    return {"num_hidden_layers": s.depth, "hidden_size": s.width, "num_attention_heads": s.heads, "vocab_size": s.vocab,
            "new_decoder_architecture": s.kv_heads > 2, "num_kv_heads": s.kv_heads, **_no_ids()}  # fmt: skip


def _albert(s: Size) -> dict[str, Any]:
    return {**_bert(s), "embedding_size": max(16, s.width // 4)}


def _text(model_type: str, config: Callable[[Size], Mapping[str, Any]], required: bool = False) -> Family:
    return Family(model_type=model_type, modality="text", config=config, required=required)


def _encoder(model_type: str, config: Callable[[Size], Mapping[str, Any]], required: bool = False) -> Family:
    return Family(model_type=model_type, modality="text encoder", config=config, required=required)


def _pair(model_type: str, config: Callable[[Size], Mapping[str, Any]], required: bool = False) -> Family:
    return Family(model_type=model_type, modality="text to text", config=config, required=required)


def _vision(model_type: str, config: Callable[[Size], Mapping[str, Any]], required: bool = False) -> Family:
    return Family(model_type=model_type, modality="vision", config=config, required=required)


FAMILIES: tuple[Family, ...] = (
    _text("gpt2", _gpt2, required=True),
    _text("opt", _opt, required=True),
    _encoder("bert", _bert, required=True),
    _encoder("distilbert", _distilbert, required=True),
    _text("llama", _llama, required=True),
    _text("mistral", _mistral, required=True),
    _text("gemma2", _gemma2, required=True),
    _text("qwen3", _gemma, required=True),
    _pair("t5", _t5, required=True),
    _vision("vit", _vit, required=True),
    _vision("swin", _swin, required=True),
    _vision("clip_vision_model", _clip, required=True),
    Family(model_type="whisper", modality="speech", config=_whisper, required=True),
    _vision("convnext", _convnext, required=True),
    _vision("resnet", _resnet, required=True),
    _vision("mobilenet_v2", _mobilenet, required=True),
    _vision("efficientnet", _efficientnet, required=True),
    _vision("segformer", _segformer, required=True),
    _text("mamba", _mamba, required=True),
    _encoder("roberta", _bert),
    _encoder("xlm-roberta", _bert),
    _encoder("camembert", _bert),
    _encoder("electra", _albert),
    _encoder("albert", _albert),
    _encoder("mpnet", _bert),
    _encoder("ernie", _bert),
    _encoder("megatron-bert", _bert),
    _encoder("modernbert", _bert),
    _text("gpt_neo", _gpt_neo),
    _text("gptj", _gptj),
    _text("gpt_neox", _neox),
    _text("gpt_bigcode", _gpt2),
    _text("bloom", _bloom),
    _text("falcon", _falcon),
    _text("phi", _llama),
    _text("phi3", _llama),
    _text("stablelm", _llama),
    _text("olmo", _llama),
    _text("olmo2", _llama),
    _text("qwen2", _llama),
    _text("gemma", _gemma),
    _text("gemma3_text", _gemma2),
    _text("granite", _llama),
    _text("cohere", _llama),
    _text("starcoder2", _llama),
    _text("smollm3", _llama),
    _text("helium", _gemma),
    _text("glm", _gemma),
    _text("nemotron", _llama),
    _text("persimmon", _multi_query),
    _text("xglm", _bart),
    _text("biogpt", _bert),
    _pair("bart", _bart),
    _pair("mbart", _bart),
    _pair("pegasus", _bart),
    _pair("marian", _bart),
    _pair("m2m_100", _bart),
    _pair("blenderbot", _bart),
    _pair("mt5", _t5),
    _vision("deit", _vit),
    _vision("beit", _vit),
    _vision("dinov2", _dinov2),
    _vision("siglip_vision_model", _vit),
    _vision("vit_msn", _vit),
    _vision("ijepa", _vit),
    _vision("swinv2", _swin),
    _vision("convnextv2", _convnext),
    _vision("regnet", _regnet),
    _vision("mobilenet_v1", _mobilenet),
    _vision("poolformer", _poolformer),
    _vision("pvt", _pvt),
    _vision("pvt_v2", _pvt),
    _vision("bit", _bit),
)


def family(model_type: str) -> Family:
    """The family of a model type. Raises `KeyError`."""
    for item in FAMILIES:
        if item.model_type == model_type:
            return item
    raise KeyError(model_type)
