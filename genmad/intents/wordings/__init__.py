"""More ways to say each request, written without sight of the held-out phrasings."""

from collections.abc import Mapping

from genmad.intents.wordings import (
    attention,
    conv,
    convnets,
    depth,
    heads,
    local_attention,
    lora,
    mixers,
    mlp,
    norm,
    paths,
    removal,
    scaling,
    settings,
    style,
)
from genmad.intents.wordings.targets import TARGETS

__all__ = ["TARGETS", "TEMPLATES"]

_FAMILIES = (
    attention,
    conv,
    convnets,
    depth,
    heads,
    local_attention,
    lora,
    mixers,
    mlp,
    norm,
    paths,
    removal,
    scaling,
    settings,
    style,
)
TEMPLATES: Mapping[str, tuple[str, ...]] = {
    intent: texts for family in _FAMILIES for intent, texts in family.TEMPLATES.items()
}
