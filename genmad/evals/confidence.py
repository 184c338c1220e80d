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


def platt(confidence: Sequence[float], right: Sequence[bool], steps: int = 50) -> tuple[float, float]:
    """Scale and shift of the log-odds under which the answers were likeliest to be as right as they were.

    Newton steps on the logistic loss with targets pulled in from 0 and 1 (Platt, 1999, section 2.2). What a run prints
    belongs to its own requests; calibrate on development families alone.
    """
    if not confidence:
        return 1.0, 0.0
    sure = np.clip(np.asarray(confidence, float), 1e-9, 1 - 1e-6)
    good = np.asarray(right, bool)
    odds = np.stack([np.log(sure / (1 - sure)), np.ones(len(sure))], 1)
    wins, losses = good.sum(), (~good).sum()
    target = np.where(good, (wins + 1) / (wins + 2), 1 / (losses + 2))
    weights = np.array([1.0, 0.0])
    for _ in range(steps):
        said = 1 / (1 + np.exp(-odds @ weights))
        curve = (odds * (said * (1 - said))[:, None]).T @ odds + 1e-6 * np.eye(2)
        weights = weights - np.linalg.solve(curve, odds.T @ (said - target))
    return round(float(weights[0]), 4), round(float(weights[1]), 4)
