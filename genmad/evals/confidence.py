"""Whether confidence means something: calibration, and success where the least confident answers are left out."""

from collections.abc import Sequence

import numpy as np

BINS = 10


def calibration_error(confidence: Sequence[float], right: Sequence[bool]) -> float:
    """Expected calibration error: the gap between confidence and success, over ten bins of equal width, by their size.

    Naeini, Cooper and Hauskrecht, AAAI 2015, section 3. 0 where there is nothing to count.
    """
    if not confidence:
        return 0.0
    sure, good = np.asarray(confidence, float), np.asarray(right, float)
    bins = np.minimum((sure * BINS).astype(int), BINS - 1)
    gaps = [abs(sure[bins == b].mean() - good[bins == b].mean()) * (bins == b).mean() for b in np.unique(bins)]
    return round(float(sum(gaps)), 4)


def success_at_coverage(confidence: Sequence[float], right: Sequence[bool], coverage: float) -> float:
    """Share of right answers among the most confident `coverage` of all; ties keep the order given."""
    if not confidence:
        return 0.0
    order = np.argsort(-np.asarray(confidence, float), kind="stable")
    kept = order[: max(1, round(coverage * len(order)))]
    return round(float(np.asarray(right, float)[kept].mean()), 4)
