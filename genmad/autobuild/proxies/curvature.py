"""What removing a weight does to the flow of gradients."""

from torch import Tensor

from genmad.autobuild.proxies.probe import Probe


def grasp(probe: Probe) -> float:
    """-sum_k sum w_k * (H g)_k with the Hessian H of the loss. Wang et al., GraSP, ICLR 2020, arXiv 2002.07376, eq. 8.

    For a kernel before a batch norm this is the square of its gradient's norm: the loss does not change with its scale,
    so H_kk w_k = -g_k and H_jk w_k = 0. Only layers without a batch norm, the classifier above all, can make it
    negative, and their part depends on the images.

    H g comes from a second differentiation of g * stop(g). The sign is that of Abdelfattah et al., arXiv 2101.08134.
    """
    kernels = probe.kernels
    gradients = probe.gradients(probe.loss, kernels, again=True)
    product = sum((g * g.detach()).sum() for g in gradients if g is not None)
    if not isinstance(product, Tensor) or not product.requires_grad:
        return 0.0
    curved = probe.gradients(product, kernels)
    return -sum(float((w.detach() * h).sum()) for w, h in zip(kernels, curved, strict=True) if h is not None)
