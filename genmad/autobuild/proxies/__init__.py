"""Zero-cost proxies: numbers read off an untrained network that go along with how well it will train.

All are computed from a lowered module (`genmad.lowering.to_torch.to_torch`), with batch statistics in its batch norms,
and without a data set: the images are drawn. What that changes is said in `genmad.autobuild.proxies.batch`.

>>> from genmad.autobuild.proxies import PROXIES
>>> sorted(PROXIES)[:4]
['epe_nas', 'fisher', 'grad_norm', 'grasp']
"""

from collections.abc import Callable, Mapping, Sequence

from torch import nn

from genmad.autobuild.proxies.activations import nwot, zen
from genmad.autobuild.proxies.batch import Batch, random_batch
from genmad.autobuild.proxies.curvature import grasp
from genmad.autobuild.proxies.flow import synflow
from genmad.autobuild.proxies.jacobians import epe_nas, jacob_cov
from genmad.autobuild.proxies.probe import Probe, ProxyError
from genmad.autobuild.proxies.saliency import fisher, grad_norm, l2_norm, plain, snip
from genmad.autobuild.proxies.size import macs, params
from genmad.ir import Diagnostic

__all__ = ["PROXIES", "Batch", "Probe", "ProxyError", "compute_proxies", "random_batch"]

PROXIES: Mapping[str, Callable[[Probe], float]] = {
    "synflow": synflow,
    "jacob_cov": jacob_cov,
    "nwot": nwot,
    "snip": snip,
    "grad_norm": grad_norm,
    "grasp": grasp,
    "fisher": fisher,
    "l2_norm": l2_norm,
    "plain": plain,
    "zen": zen,
    "params": params,
    "macs": macs,
    "epe_nas": epe_nas,
}


def compute_proxies(
    module: nn.Module, batch: Batch, seed: int, names: Sequence[str] = tuple(PROXIES)
) -> Mapping[str, float]:
    """The proxies of these names; NaN where a formula has no value (a network whose output ignores its input).

    Args:
        module: a classifier, [B, ...] to [B, classes]. It is copied: neither its weights nor its statistics change.
        batch: what it is run on.
        seed: of what a proxy draws itself (`zen` draws weights and inputs).

    Raises `ProxyError` on an unknown name, or where the module does not give a score per class of the batch.
    """
    unknown = [name for name in names if name not in PROXIES]
    if unknown:
        expected = f"some of {', '.join(PROXIES)}"
        raise ProxyError(Diagnostic(where="proxies", got=", ".join(unknown), expected=expected))
    probe = Probe(module, batch, seed)
    return {name: PROXIES[name](probe) for name in names}
