"""What the first layers of a model expect of its inputs, read off the layers themselves."""

import re
from typing import Any

from torch import nn

from genmad.importers.recipe import Context

_PATCHES = re.compile(r"(^|\.)(patch_embed\w*|embed_patches|vision_embed_tokens)(\.\w+)?$")
_SOUND = re.compile(r"(^|\.)(audio|speech|sound|semantic)\w*$")
_FIRST = re.compile(r"(^|\.)(input\w*|\w*proj\w*|\w*linear\w*|\w*embed\w*)$")


def patch_width(c: Context) -> int | None:
    """How many numbers a patch has where a linear layer reads flattened patches; None where a convolution cuts them."""
    for name, layer in c.module.named_modules():
        if isinstance(layer, (nn.Conv2d, nn.Conv3d)):
            return None
        if isinstance(layer, nn.Linear) and _PATCHES.search(name):
            return layer.in_features
    return None


def sound_width(c: Context, bins: int) -> int:
    """How wide the linear layer is that reads a sequence of sound features; `bins` where there is no such layer."""
    parts = (part for name, part in c.module.named_modules() if _SOUND.search(name))
    root: Any = next(parts, None) if c.takes("input_ids") else c.module
    if root is None or any(isinstance(layer, (nn.Conv1d, nn.Conv2d)) for layer in root.children()):
        return bins
    for name, layer in root.named_modules():
        if isinstance(layer, (nn.Conv1d, nn.Conv2d)):
            return bins
        if isinstance(layer, nn.Linear):
            return layer.in_features if _FIRST.search(name) else bins
    return bins


def code_tables(c: Context) -> int:
    """How many tables of codes a decoder of sound sums up, one row of ids each; 0 where there is one table."""
    for name, part in c.module.named_modules():
        if name.endswith("embed_tokens") and isinstance(part, nn.ModuleList) and len(part) > 1:
            return len(part)
    return 0


def code_channels(c: Context) -> int:
    """How many codes stand at each place of a row, [batch, seq, channels]; 0 where there is one."""
    for part in c.module.modules():
        name = type(part).__name__
        if name.endswith("MultiChannelEmbedding"):
            return int(part.num_channels)
        offsets = getattr(part, "audio_tokens_offsets", None)
        if offsets is not None and isinstance(getattr(part, "embed_tokens", None), nn.Embedding):
            return int(offsets.numel())
    return 0
