"""Rewrites that raise functional patterns to layer-level ops; one small pass per file, in the order below."""

from collections.abc import Callable

from genmad.importers.flat import Flat
from genmad.importers.lifting.activations import lift_activations
from genmad.importers.lifting.attention_3d import fold_scale, lift_attention_3d
from genmad.importers.lifting.channel_norm import lift_channel_norm
from genmad.importers.lifting.channel_rms import lift_channel_rms
from genmad.importers.lifting.gated_mlp import lift_gated_mlp
from genmad.importers.lifting.linear import lift_linear
from genmad.importers.lifting.norms import lift_norms
from genmad.importers.lifting.position_bias import lift_position_bias
from genmad.importers.lifting.repeats import share_repeats
from genmad.importers.lifting.rotary import lift_rotary
from genmad.importers.lifting.scale import lift_scale
from genmad.importers.lifting.sdpa import drop_zero_bias, lift_sdpa
from genmad.importers.lifting.squeeze_excite import lift_squeeze_excite
from genmad.importers.lifting.transposes import drop_reshapes, merge_transposes

PASSES: tuple[Callable[[Flat], int], ...] = (
    lift_linear,
    lift_rotary,
    drop_reshapes,
    lift_sdpa,
    drop_reshapes,
    lift_attention_3d,
    fold_scale,
    drop_zero_bias,
    lift_position_bias,
    lift_scale,
    lift_norms,
    lift_channel_rms,
    lift_activations,
    lift_channel_norm,
    lift_squeeze_excite,
    merge_transposes,
    share_repeats,
)


# Passes that put layers together which people edit one by one; they run when asked for.
COARSE: tuple[Callable[[Flat], int], ...] = (lift_gated_mlp,)


def lift(flat: Flat, *, coarse: bool = False) -> None:
    """Runs every pass once; `coarse` also those that put whole sublayers into one op."""
    for apply in (*PASSES, *(COARSE if coarse else ())):
        apply(flat)
