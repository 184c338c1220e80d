"""A second held-out set of phrasings, for evaluation only.

Nobody who wrote or chose phrasings for training has read it, and it was written without sight of those and of the first
held-out set: from the names of the intents, their slots and what their post-conditions ask for. It is never to be used
in training, nor to be read by those who write for it.
"""

from collections.abc import Mapping

from genmad.intents.fresh import attention, conv, layers
from genmad.intents.fresh.targets import TARGETS as FRESH_TARGETS

__all__ = ["FRESH", "FRESH_TARGETS"]

FRESH: Mapping[str, tuple[str, ...]] = {
    intent: texts for family in (attention, conv, layers) for intent, texts in family.TEMPLATES.items()
}
"""Templates of each intent, in the notation of `phrasing`."""
