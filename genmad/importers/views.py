"""Which tensors are parts of others: what is written into a part in place is written into the whole."""

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from genmad.importers.records import tensors_in


class Views:
    """Parts that were taken by plain indices (numbers, slices, None, `...`), each with its whole and its index."""

    def __init__(self) -> None:
        self._whole: dict[int, tuple[Tensor, Tensor, Any]] = {}

    def note(self, part: Any, whole: Any, index: Any) -> None:
        """Remembers `part = whole[index]` where torch gives a view of `whole`, not a copy."""
        items = index if isinstance(index, tuple) else (index,)
        if any(item is None or isinstance(item, (bool, list, tuple)) for item in items) or tensors_in(index):
            return
        if isinstance(part, Tensor) and isinstance(whole, Tensor) and part is not whole:
            self._whole[id(part)] = part, whole, index

    def above(self, part: Tensor) -> Iterator[tuple[Tensor, Tensor, Any]]:
        """(part, whole, index) of a tensor, then of its whole, and so on."""
        found = self._whole.get(id(part))
        while found is not None and found[0] is part:
            yield found
            part = found[1]
            found = self._whole.get(id(part))
