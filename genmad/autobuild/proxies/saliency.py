"""How much the loss would change without a weight, a channel or nothing at all. Sums over kernels k of a network.

w_k are the weights of a convolution or linear layer, g_k = dL/dw_k on one batch. As compared in Abdelfattah et al.,
Zero-Cost Proxies for Lightweight NAS, ICLR 2021, arXiv 2101.08134, sections 3.2 and 3.3.
"""

from genmad.autobuild.proxies.probe import Probe


def snip(probe: Probe) -> float:
    """sum_k sum |w_k * g_k|. Lee et al., SNIP, ICLR 2019, arXiv 1810.02340, eq. 4."""
    return sum(float((w.detach() * g).abs().sum()) for w, g in zip(probe.kernels, probe.kernel_gradients, strict=True))


def plain(probe: Probe) -> float:
    """sum_k sum w_k * g_k. Mozer and Smolensky, Skeletonization, NIPS 1988.

    A batch norm behind a convolution makes the loss blind to the scale of its kernel, so by Euler's theorem that
    kernel's sum is zero: what is left comes from the layers without one.
    """
    return sum(float((w.detach() * g).sum()) for w, g in zip(probe.kernels, probe.kernel_gradients, strict=True))


def grad_norm(probe: Probe) -> float:
    """sum_k ||g_k||_2. Abdelfattah et al., arXiv 2101.08134, section 3.2."""
    return sum(float(g.norm()) for g in probe.kernel_gradients)


def l2_norm(probe: Probe) -> float:
    """sum_k ||w_k||_2: no data at all. Abdelfattah et al., arXiv 2101.08134."""
    return sum(float(w.detach().norm()) for w in probe.kernels)


def fisher(probe: Probe) -> float:
    """sum over channels c of all layers: mean over images of (sum over places of z_c * dL/dz_c)^2 / 2.

    z are the outputs of convolutions and linear layers. Theis et al., arXiv 1801.05787, eq. 4; as a network's score in
    Turner et al., BlockSwap, ICLR 2020, arXiv 1906.04113.
    """
    total = 0.0
    for output, gradient in probe.output_gradients:
        by_channel = (output * gradient).flatten(2).sum(2) if output.ndim > 2 else output * gradient
        total += float((by_channel**2).mean(0).sum()) / 2
    return total
