"""Torch functions by name and the ops that stand for them."""

from collections.abc import Mapping

from genmad.importers.emit import Handler
from genmad.importers.functional.elementwise import ELEMENTWISE
from genmad.importers.functional.index import INDEX
from genmad.importers.functional.neural import NEURAL
from genmad.importers.functional.placing import PLACING
from genmad.importers.functional.reduce import REDUCE
from genmad.importers.functional.reshape import RESHAPE


def _join(*tables: Mapping[str, Handler]) -> Mapping[str, Handler]:
    joined: dict[str, Handler] = {}
    for table in tables:
        twice = joined.keys() & table.keys()
        if twice:
            raise ValueError(f"functions with two handlers: {', '.join(sorted(twice))}")
        joined.update(table)
    return joined


FUNCTIONAL = _join(ELEMENTWISE, INDEX, NEURAL, PLACING, REDUCE, RESHAPE)
