"""The images that proxies are computed on: drawn, not read.

Field, J. Opt. Soc. Am. A 4(12), 1987: the amplitude of natural images falls as 1 / frequency. Images drawn with that
spectrum keep neighbouring pixels alike; white noise does not. Either has no classes, so the labels are independent of
the images. What this changes: gradients of the loss are those of a network that cannot be right, which at the first
step is nearly true of real images as well; a proxy that compares images of one class with each other (`epe_nas`) has
nothing to find. `genmad eval proxies` measures how far the ranks are from those of the published values on CIFAR-10.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

NATURAL = 1.0
"""Exponent of the spectrum of natural images; 0 is white noise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Inputs of a classifier with labels.

    Attributes:
        images: float32[B, C, H, W].
        labels: int64[B].
    """

    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        if self.labels.shape != self.images.shape[:1] or len(self.labels) < 2:
            raise ValueError(f"images {tuple(self.images.shape)} with labels {tuple(self.labels.shape)}")


def random_batch(
    *, size: int = 16, channels: int = 3, height: int = 32, width: int = 32, classes: int = 10, seed: int = 0,
    falloff: float = NATURAL,
) -> Batch:  # fmt: skip
    """Images, mean 0 and deviation 1 per channel, with amplitudes frequency ** -falloff; labels in equal shares."""
    rng = torch.Generator().manual_seed(seed)
    noise = torch.randn(size, channels, height, width, generator=rng)
    vertical, horizontal = torch.fft.fftfreq(height)[:, None], torch.fft.rfftfreq(width)[None]
    frequency = (vertical**2 + horizontal**2).sqrt()
    frequency[0, 0] = frequency[frequency > 0].min()
    images = torch.fft.irfft2(torch.fft.rfft2(noise) * frequency**-falloff, s=(height, width))
    images = (images - images.mean((0, 2, 3), keepdim=True)) / images.std((0, 2, 3), keepdim=True)
    labels = torch.arange(size)[torch.randperm(size, generator=rng)] % classes
    return Batch(images=images, labels=labels)
