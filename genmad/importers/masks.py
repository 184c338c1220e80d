"""What an attention mask hides, by its values."""

import torch
from torch import Tensor


def mask_kind(mask: Tensor) -> str | None:
    """`full`, `causal` or None for any other mask [..., S, T]; True or 0 is visible, False or below -1e4 is hidden."""
    if mask.dim() < 2 or mask.shape[-1] < 3 or mask.shape[-2] < 3:
        return None
    if mask.dtype == torch.bool:
        keep = mask
    elif mask.is_floating_point():
        keep = mask == 0
        if not bool((keep | (mask < -1e4)).all()):
            return None
    else:
        return None
    if bool(keep.all()):
        return "full"
    rows, columns = keep.shape[-2:]
    causal = torch.ones(rows, columns, dtype=torch.bool).tril(columns - rows)
    return "causal" if bool((keep == causal).all()) else None
