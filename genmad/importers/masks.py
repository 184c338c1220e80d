"""What an attention mask hides, by its values."""

import torch
from torch import Tensor

# (causal, window): the window as the op Attention counts it, None where there is none.
Rule = tuple[bool, int | None]


def mask_kind(mask: Tensor) -> str | None:
    """`full`, `causal` or None for any other mask [..., S, T]; True or 0 is visible, False or below -1e4 is hidden."""
    rule = mask_rule(mask)
    if rule is None or rule[1] is not None:
        return None
    return "causal" if rule[0] else "full"


def mask_rule(mask: Tensor) -> Rule | None:
    """(causal, window) of a mask [..., S, T], None for one that is neither full, causal nor a window."""
    keep = _visible(mask)
    if keep is None:
        return None
    if bool(keep.all()):
        return False, None
    rows, columns = keep.shape[-2:]
    distance = torch.arange(rows)[:, None] + (columns - rows) - torch.arange(columns)[None, :]
    causal = not bool(keep[..., distance < 0].any())
    reach = distance.abs()[keep.reshape(-1, rows, columns)[0]]
    if not len(reach):
        return None
    window = int(reach.max()) + 1
    widest = int((distance if causal else distance.abs()).max()) + 1
    limit = window if window < widest else None
    want = (distance >= 0) if causal else torch.ones_like(distance, dtype=torch.bool)
    want = want & (distance.abs() < window) if limit is not None else want
    return (causal, limit) if bool((keep == want).all()) else None


def _visible(mask: Tensor) -> Tensor | None:
    if mask.dim() < 2 or mask.shape[-1] < 3 or mask.shape[-2] < 3:
        return None
    if mask.dtype == torch.bool:
        return mask
    if not mask.is_floating_point():
        return None
    keep = mask == 0
    return keep if bool((keep | (mask < -1e4)).all()) else None
