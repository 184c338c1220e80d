"""Rewrites that raise functional patterns to layer-level ops; one small pass per file, in the order below."""

from collections.abc import Callable

from genmad.importers.flat import Flat
from genmad.importers.lifting.attention_3d import fold_scale, lift_attention_3d
from genmad.importers.lifting.channel_norm import lift_channel_norm
from genmad.importers.lifting.linear import lift_linear
from genmad.importers.lifting.position_bias import lift_position_bias
from genmad.importers.lifting.rotary import lift_rotary
from genmad.importers.lifting.scale import lift_scale
from genmad.importers.lifting.sdpa import drop_zero_bias, lift_sdpa
from genmad.importers.lifting.transposes import merge_transposes

PASSES: tuple[Callable[[Flat], int], ...] = (
    lift_linear,
    lift_rotary,
    lift_sdpa,
    lift_attention_3d,
    fold_scale,
    drop_zero_bias,
    lift_position_bias,
    lift_scale,
    lift_channel_norm,
    merge_transposes,
)


def lift(flat: Flat) -> None:
    """Runs every pass once."""
    for apply in PASSES:
        apply(flat)
