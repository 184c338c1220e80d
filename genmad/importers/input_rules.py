"""Rules for the arguments of forward: sizes from the fields of a config, by kind of content."""

import inspect
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from genmad.importers.input_layers import code_channels, code_tables, patch_width, sound_width
from genmad.importers.recipe import Context, Given, first_of, meta_tensor, pair, parts_of, vocabulary

# Text.


def ids(symbol: str = "seq") -> Callable[[Context], Given]:
    def rule(c: Context) -> Given:
        count = min(vocabulary(c.text), vocabulary(c.config) if hasattr(c.config, "vocab_size") else 1 << 60)
        bounds = (min(3, count - 1), min(90, count))
        if symbol == "target" or not c.takes("decoder_input_ids"):
            tables, codes = code_tables(c), code_channels(c)
            if tables:
                return Given(meta_tensor(tables, 8, dtype=torch.int64), {1: symbol}, bounds=bounds)
            if codes:
                return Given(meta_tensor(1, 8, codes, dtype=torch.int64), {0: "batch", 1: symbol}, bounds=bounds)
        return Given(meta_tensor(1, 8, dtype=torch.int64), {0: "batch", 1: symbol}, bounds=bounds)

    return rule


def mrope_positions(_c: Context) -> Given:
    return Given(meta_tensor(3, 1, 8, dtype=torch.int64), {1: "batch", 2: "seq"}, bounds=(0, 8))


def boxes(_c: Context) -> Given:
    return Given(meta_tensor(1, 8, 4, dtype=torch.int64), {0: "batch", 1: "seq"}, bounds=(5, 6))


def boxes_float(_c: Context) -> Given:
    return Given(meta_tensor(1, 8, 4), {0: "batch", 1: "seq"})


def bbox(c: Context) -> Given:
    return boxes_float(c) if hasattr(c.config, "bbox_scale") else boxes(c)


# Vision.


def image_side(config: Any) -> tuple[int, int]:
    size = first_of(config, "image_size", "img_size", "input_size", "input_resolution", "image_resolution")
    return pair(size, 224)


def image_sides(c: Context) -> tuple[int, int]:
    """Height and width; where patches are merged and merged again, a number of them that stands it."""
    if not c.takes("target_sizes"):
        return image_side(c.vision)
    height, width = pair(first_of(c.vision, "patch_size"), 14)
    return _GRID * _GRID * height, _GRID * _GRID * width


def channels(config: Any) -> int:
    return int(first_of(config, "num_channels", "in_channels", "in_chans", "image_channels", default=3))


def has_grid(c: Context) -> bool:
    return any(c.takes(n) for n in ("image_grid_thw", "grid_thw"))


_GRID = 4


def grid(c: Context) -> Given:
    """time, height and width in patches of one image."""
    merge = int(first_of(c.vision, "spatial_merge_size", "merge_size", default=2) or 1)
    side = _GRID * (merge if isinstance(merge, int) else 2)
    return Given(torch.tensor([[1, side, side]]), constant=True)


def patches(c: Context) -> Given:
    """Patches of one image, each flattened: [time * height * width, channels * time * side * side]."""
    _, height, width = grid(c).tensor[0].tolist()
    side, _ = pair(first_of(c.vision, "patch_size", "spatial_patch_size"), 14)
    depth = int(first_of(c.vision, "temporal_patch_size", default=1))
    return Given(meta_tensor(height * width, patch_width(c) or channels(c.vision) * depth * side * side))


def pixels(c: Context) -> Given:
    if has_grid(c):
        return patches(c)
    height, width = image_sides(c)
    numbers = patch_width(c)
    if numbers:
        side = pair(first_of(c.vision, "patch_size"), 14)[0]
        count = _GRID * _GRID if c.takes("spatial_shapes") else (height // side) * (width // side)
        return Given(meta_tensor(1, count, numbers), {0: "batch"})
    if matches_pairs(c):
        return Given(meta_tensor(1, 2, channels(c.vision), height, width), {0: "batch"})
    if c.takes("aspect_ratio_ids"):
        tiles = int(first_of(c.vision, "max_num_tiles", default=4))
        return Given(meta_tensor(1, 1, tiles, channels(c.vision), height, width), {0: "batch"})
    if hasattr(c.config, "image_grid_pinpoints"):
        return Given(meta_tensor(1, 3, channels(c.vision), height, width), {0: "batch"})
    if takes_many_images(c):
        return Given(meta_tensor(1, 1, channels(c.vision), height, width), {0: "batch"})
    frames = first_of(c.config, "num_frames")
    if isinstance(frames, int) and not c.takes("input_ids") and is_video(c):
        return Given(meta_tensor(1, frames, channels(c.vision), height, width), {0: "batch"})
    return Given(meta_tensor(1, channels(c.vision), height, width), {0: "batch"})


def matches_pairs(c: Context) -> bool:
    """Whether the model looks for the same points in two images."""
    beside = vars(sys.modules[type(c.module).__module__])
    return any(name.endswith("ForKeypointMatching") for name in beside)


def shapes(c: Context) -> Given:
    """Height and width of each image in patches."""
    if c.takes("spatial_shapes"):
        return Given(torch.tensor([[_GRID, _GRID]]), constant=True)
    height, width = image_sides(c)
    side, _ = pair(first_of(c.vision, "patch_size"), 14)
    return Given(torch.tensor([[height // side, width // side]]), constant=True)


def patch_mask(_c: Context) -> Given:
    return Given(torch.ones(1, _GRID * _GRID, dtype=torch.int64), constant=True)


def image_sizes(c: Context) -> Given:
    height, width = image_side(c.vision)
    if hasattr(c.config, "image_grid_pinpoints"):
        return Given(torch.tensor([[height, 2 * width]]), constant=True)
    return Given(torch.tensor([[height, width]]), constant=True)


def tiles(c: Context) -> Given:
    return Given(
        torch.ones(1, 1, int(first_of(c.vision, "max_num_tiles", default=4)), dtype=torch.int64), constant=True
    )


def takes_many_images(c: Context) -> bool:
    """Whether images come as [1, images, channels, height, width], with a mask of the pixels that are there."""
    if c.takes("spatial_shapes"):
        return False
    return c.takes("input_ids") and (c.takes("pixel_attention_mask") or inner_takes(c, "pixel_attention_mask"))


def inner_takes(c: Context, name: str) -> bool:
    """Whether a part of the model that has a config of its own takes an argument."""
    forwards = {type(m).forward for m in c.module.modules() if m is not c.module and hasattr(m, "config")}
    return any(name in inspect.signature(f).parameters for f in forwards)


def is_video(c: Context) -> bool:
    return hasattr(c.vision, "tubelet_size") or c.config.model_type in ("timesformer", "vivit", "videomae")


def video(c: Context) -> Given:
    height, width = image_side(c.vision)
    frames = int(first_of(c.vision, "num_frames", "frames_per_clip", default=2))
    return Given(meta_tensor(1, frames, channels(c.vision), height, width), {0: "batch"})


def features(c: Context) -> Given:
    """Pixels of a backbone whose argument is called hidden_states."""
    if c.takes("grid_thw"):
        return patches(c)
    if any(isinstance(m, nn.Conv2d) for m in c.module.modules()):
        return pixels(c)
    width = int(first_of(c.config, "hidden_size", "d_model", "input_dim", "hidden_dim", default=64))
    return Given(meta_tensor(1, 16, sound_width(c, width)), {0: "batch"})


def flattened_patches(c: Context) -> Given:
    """Row and column of each patch before its pixels (Pix2Struct)."""
    side, _ = pair(first_of(c.vision, "patch_size"), 16)
    return Given(meta_tensor(1, 16, 2 + 3 * side * side), {0: "batch"})


# Sound.


def mel_bins(config: Any) -> int:
    names = (
        "num_mel_bins", "mel_bins", "n_mels", "feature_size", "input_feat_per_channel", "input_feat_size",
        "feature_projection_input_dim", "input_dim", "input_feat_dim", "num_mels", "mel_dim", "input_channels",
    )  # fmt: skip
    return int(first_of(config, *names, default=80))


def _in_windows(c: Context) -> bool:
    """Whether the sound is cut into windows of fixed length, bins before frames."""
    return hasattr(c.audio, "n_window") and c.takes("input_features_mask")


def sound_features(c: Context) -> Given:
    """Spectrogram: [1, mel bins, frames] where a convolution along time reads it, else [1, frames, mel bins]."""
    bins = sound_width(c, mel_bins(c.audio))
    if _in_windows(c):
        return Given(meta_tensor(1, bins, 2 * int(c.audio.n_window)), {0: "batch"})
    if c.takes("is_longer"):
        return Given(meta_tensor(1, 1, 1001, int(first_of(c.audio, "num_mel_bins", default=64))), {0: "batch"})
    convs = (m for m in c.module.modules() if isinstance(m, nn.Conv1d))
    conv = next(convs, None)
    frames = int(first_of(c.audio, "max_source_positions", default=64)) * (2 if conv is not None else 1)
    if conv is not None and conv.in_channels == bins:
        return Given(meta_tensor(1, bins, frames), {0: "batch"})
    return Given(meta_tensor(1, min(frames, 128), bins), {0: "batch"})


def waveform(c: Context) -> Given:
    config = c.audio
    if hasattr(c.config, "num_mel_bins") and hasattr(c.config, "max_length"):
        return Given(meta_tensor(1, c.config.max_length, c.config.num_mel_bins), {0: "batch"})
    if any("dac" in key for key in parts_of(c.config)):
        return Given(meta_tensor(1, 1, 9600), {0: "batch"})
    codec = ("upsampling_ratios", "hop_length", "codebook_size", "audio_channels", "downsampling_ratios", "channels")
    if any(hasattr(config, n) for n in codec):
        return Given(meta_tensor(1, int(first_of(config, "audio_channels", "channels", default=1)), 9600), {0: "batch"})
    return Given(meta_tensor(1, 16000), {0: "batch"})


def spectrogram(c: Context) -> Given:
    bins = int(first_of(c.config, "model_in_dim", "num_mel_bins", "mel_dim", default=80))
    return Given(meta_tensor(1, 20, bins), {0: "batch"})


# Series, states and tables.


_PATCHES = 4


def series(c: Context) -> Given:
    length = int(first_of(c.config, "context_length", default=32))
    if c.takes("past_values_padding"):  # reads any number of patches, one by one: a few show the model
        length = min(length, _PATCHES * int(first_of(c.config, "patch_length", default=32)))
    width = first_of(c.config, "num_input_channels", "input_size", default=1)
    lags = first_of(c.config, "lags_sequence", default=())
    if not c.takes("past_time_features") and (
        c.takes("past_values_padding") or not hasattr(c.config, "num_input_channels")
    ):
        return Given(meta_tensor(1, length), {0: "batch"})
    if c.takes("past_time_features"):
        length += max(lags, default=0)
        return Given(meta_tensor(1, length) if width == 1 else meta_tensor(1, length, int(width)), {0: "batch"})
    return Given(meta_tensor(1, length, int(width)), {0: "batch"})


def past_length(c: Context) -> int:
    return int(first_of(c.config, "context_length", default=32)) + max(
        first_of(c.config, "lags_sequence", default=()) or (0,)
    )


def time_features(c: Context) -> Given:
    return Given(meta_tensor(1, past_length(c), int(first_of(c.config, "num_time_features", default=0))), {0: "batch"})


def series_mask(c: Context) -> Given:
    return Given(meta_tensor(1, *series(c).tensor.shape[1:]), {0: "batch"})


def series_padding(c: Context) -> Given:
    """No step of the past is padding."""
    return Given(torch.zeros(series(c).tensor.shape, dtype=torch.int64), constant=True)


def states(field_name: str, default: int) -> Callable[[Context], Given]:
    def rule(c: Context) -> Given:
        return Given(meta_tensor(1, 8, int(first_of(c.config, field_name, default=default))), {0: "batch", 1: "seq"})

    return rule


def timesteps(_c: Context) -> Given:
    return Given(meta_tensor(1, 8, dtype=torch.int64), {0: "batch", 1: "seq"}, bounds=(0, 8))


# Values between the parts of a model.


def width_of(c: Context, *names: str) -> int:
    found = first_of(c.config, *names, "hidden_size", "d_model", "hidden_dim", default=None)
    return int(found if found is not None else first_of(c.text, "hidden_size", "d_model", default=64))


def memory(c: Context) -> Given:
    """What an encoder gives."""
    names = ("encoder_hidden_size", "cross_attention_hidden_size", "cross_hidden_size")
    return Given(meta_tensor(1, 12, width_of(c, *names)), {0: "batch"})


def hidden_stream(c: Context) -> Given:
    return Given(meta_tensor(1, 8, width_of(c)), {0: "batch", 1: "seq"})


def queries(c: Context) -> Given:
    return Given(meta_tensor(1, int(first_of(c.config, "num_query_tokens", default=8)), width_of(c)), {0: "batch"})


def first_choice(_c: Context) -> Given:
    return Given(torch.ones(1, 1, dtype=torch.int64), constant=True)


def padding(_c: Context) -> Given:
    return Given(meta_tensor(1, 8, dtype=torch.int64), {0: "batch", 1: "seq"}, bounds=(1, 2))


def noise(c: Context) -> Given:
    return Given(meta_tensor(1, 4, width_of(c)), {0: "batch"})


def ids_alone(c: Context) -> Given:
    return ids()(c)


def latents(c: Context) -> Given:
    return Given(meta_tensor(1, width_of(c), 16), {0: "batch"})


def mel_first(c: Context) -> Given:
    return Given(meta_tensor(1, mel_bins(c.config), 32), {0: "batch"})


def ones(*lengths: int, dtype: torch.dtype = torch.int64) -> Callable[[Context], Given]:
    def rule(_c: Context) -> Given:
        return Given(torch.ones(1, *lengths, dtype=dtype), constant=True)

    return rule


def sound_mask(c: Context) -> Given:
    shape = sound_features(c).tensor.shape
    by_bins = shape[1] == mel_bins(c.audio) or _in_windows(c)
    return Given(torch.ones(1, shape[2] if by_bins else shape[1], dtype=torch.bool), constant=True)
