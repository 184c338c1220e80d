"""The sources that a config names."""

from collections.abc import Sequence

from genmad.zoo.catalogue_models import CatalogueSource
from genmad.zoo.config import SOURCES, ZooConfig
from genmad.zoo.jobs import Source
from genmad.zoo.transformers_models import TransformersSource


def sources_of(config: ZooConfig, extra: Sequence[Source] = ()) -> tuple[Source, ...]:
    """The sources in the config's order; those of higher rooms, such as search spaces, come in through `extra`."""
    table: dict[str, Source] = {
        "transformers": TransformersSource(
            sizes=config.scales, variants=config.variants_per_family, narrow=config.narrow_per_family,
        ),
        **{name: CatalogueSource(name=name, sizes=config.variants) for name in ("timm", "diffusers", "pyg")},
        **{source.name: source for source in extra},
    }  # fmt: skip
    return tuple(table[name] for name in config.sources if name in table)


__all__ = ["SOURCES", "sources_of"]
