"""Counts: no weights, no data."""

from genmad.autobuild.proxies.probe import Probe


def params(probe: Probe) -> float:
    """Number of trainable parameters."""
    return float(sum(p.numel() for p in probe.module.parameters()))


def macs(probe: Probe) -> float:
    """Multiply-accumulates of convolutions and linear layers for one image: outputs times weights per output."""
    return float(sum(out[0].numel() * weight[0].numel() for weight, out in probe.trace.maps))
