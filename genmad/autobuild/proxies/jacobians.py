"""How differently a network answers to different images: correlations of its gradients with respect to them."""

import math

import numpy as np
from numpy.typing import NDArray

from genmad.autobuild.proxies.probe import Probe

_FLOOR = 1e-5


def jacob_cov(probe: Probe) -> float:
    """-sum_i log(v_i + k) + 1 / (v_i + k), v the eigenvalues of the correlations of the rows of J, k = 1e-5.

    J [B, C * H * W] holds the gradient of the summed outputs for each image. Mellor et al., Neural Architecture Search
    without Training, arXiv 2006.04647 version 1, eq. 2 (`jacov` in tables). NaN where some row of J is constant.
    """
    correlations = _correlations(probe.jacobian.double().numpy())
    if correlations is None:
        return math.nan
    # Symmetric: rounding makes the smallest eigenvalues negative by about 1e-16.
    values = np.linalg.eigvalsh(correlations).clip(0) + _FLOOR
    return -float((np.log(values) + 1 / values).sum())


def epe_nas(probe: Probe) -> float:
    """sum over classes of |sum over pairs of images of the class of log(|corr| + k)|, k = 1e-5, corr as in `jacob_cov`.

    Lopes et al., EPE-NAS, ICANN 2021, arXiv 2102.08099, eq. 4 (for up to 100 classes; a class with one image counts
    nothing). With labels that are drawn, what a class has in common is only the network.
    """
    rows = probe.jacobian.double().numpy()
    total = 0.0
    for label in probe.batch.labels.unique().tolist():
        own = rows[probe.batch.labels.numpy() == label]
        if len(own) < 2:
            continue
        correlations = _correlations(own)
        if correlations is None:
            return math.nan
        total += abs(float(np.log(np.abs(correlations) + _FLOOR).sum()))
    return total


def _correlations(rows: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """float64[B, B]; None where a row has no spread."""
    centred = rows - rows.mean(1, keepdims=True)
    sizes = np.sqrt((centred**2).sum(1, keepdims=True))
    if not (sizes > 0).all() or not np.isfinite(sizes).all():
        return None
    unit = centred / sizes
    correlations: NDArray[np.float64] = unit @ unit.T
    return correlations
