"""What goes on inside an untrained network: which units are active, and how far a small change of the image carries."""

import math

import torch
from torch import Tensor

from genmad.autobuild.proxies.probe import Probe
from genmad.autobuild.proxies.trace import Trace

_MIX = 1e-2
_DRAWS = 2


def nwot(probe: Probe) -> float:
    """log |det K|, K_ij = in how many ReLUs images i and j agree on being active.

    Mellor et al., Neural Architecture Search without Training, ICML 2021, arXiv 2006.04647, eq. 2. Minus infinity where
    two images switch every unit alike; NaN for a network without ReLUs.
    """
    size = len(probe.batch.images)
    agree = torch.zeros(size, size, dtype=torch.float64)
    for x in probe.trace.relus:
        code = (x > 0).flatten(1).float()
        # Exact in float32: counts of one layer stay below 2^24.
        agree += (code @ code.T + (1 - code) @ (1 - code).T).double()
    return float(torch.linalg.slogdet(agree).logabsdet) if probe.trace.relus else math.nan


def zen(probe: Probe) -> float:
    """log E ||f(x) - f(x + 0.01 e)||_1 + sum over batch norms of log sqrt(mean of the channels' batch variances).

    f are the features before the classifier's pooling; weights, x and e are standard normal; the mean of 2 draws. The
    second term gives back the scale that batch norms take away. Lin et al., Zen-NAS, ICCV 2021, arXiv 2102.01063, eq. 6
    and algorithm 1. NaN for a network without feature maps, or whose features ignore the image.
    """
    rng = torch.Generator().manual_seed(probe.seed)
    return sum(_zen_once(probe, rng) for _ in range(_DRAWS)) / _DRAWS


def _zen_once(probe: Probe, rng: torch.Generator) -> float:
    weights = {
        name: torch.randn(p.shape, generator=rng) if p.ndim >= 2 else p.detach() for name, p in probe.parameters.items()
    }
    x, noise = (torch.randn(probe.batch.images.shape, generator=rng) for _ in range(2))
    maps: list[Tensor] = []
    with torch.no_grad():
        for image in (x, x + _MIX * noise):
            with Trace() as trace:
                probe.forward_with(weights, image)
            if trace.last_map is None:
                return math.nan
            maps.append(trace.last_map)
    change = float((maps[0] - maps[1]).abs().flatten(1).sum(1).mean())
    scale = sum(math.log(max(float(v.mean()), 1e-30)) / 2 for v in trace.variances)
    return math.log(change) + scale if change > 0 else math.nan
