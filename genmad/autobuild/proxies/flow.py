"""The strength of all paths from input to output."""

import math

import torch

from genmad.autobuild.proxies.probe import Probe
from genmad.autobuild.proxies.trace import Trace


def synflow(probe: Probe) -> float:
    """log(1 + sum_k sum |w_k * dR/dw_k|), R = sum of the outputs for an image of ones, all parameters made positive.

    Tanaka et al., NeurIPS 2020, arXiv 2006.05467, eq. 3. Batch norms hand their input through and numbers have 64 bits,
    as R is a product over layers that reaches 1e50; the logarithm, which tables give too, keeps it a usable feature.
    """
    positive = {name: p.detach().double().abs().requires_grad_() for name, p in probe.parameters.items()}
    kernels = [p for p in positive.values() if p.ndim >= 2]
    ones = torch.ones_like(probe.batch.images[:1], dtype=torch.float64)
    with Trace(without_norms=True):
        total = probe.forward_with(positive, ones).sum()
    gradients = torch.autograd.grad(total, kernels, allow_unused=True)
    return math.log1p(
        sum(float((w.detach() * g).abs().sum()) for w, g in zip(kernels, gradients, strict=True) if g is not None)
    )
