"""One network on one batch: the passes that several proxies read."""

import copy
from collections.abc import Callable, Sequence
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from genmad.autobuild.proxies.batch import Batch
from genmad.autobuild.proxies.trace import Trace
from genmad.ir import Diagnostic, GenmadError


class ProxyError(GenmadError):
    """A network or a name that proxies are not defined for."""

    exit_code = 2

    def __init__(self, *diagnostics: Diagnostic) -> None:
        self.diagnostics = diagnostics
        super().__init__("\n".join(str(item) for item in diagnostics))


class Probe:
    """A copy of a module in training mode, so that its batch norms use the statistics of the batch.

    Lowered modules come in eval mode with running means 0 and variances 1, which would normalise nothing in a network
    that was never trained. Batch norms of the generated source follow `nn.Module.training`, so `train()` is all it
    takes; a module that drops activations out in training mode draws from torch's generator, which is seeded.

    Attributes:
        module: the copy.
        batch: images [B, C, H, W] and labels [B].
        seed: of what a proxy draws.
        trace: what the one forward pass computed.
        logits: [B, classes], from that pass.
        loss: their cross entropy.
    """

    def __init__(self, module: nn.Module, batch: Batch, seed: int) -> None:
        self.module = copy.deepcopy(module).train()
        self.batch = batch
        self.seed = seed
        self._images = batch.images.clone().requires_grad_()
        with Trace() as self.trace:
            self.logits = self._seeded(lambda: self.module(self._images))
        least = int(batch.labels.max()) + 1
        if self.logits.ndim != 2 or self.logits.shape[1] < least:
            got = f"outputs {tuple(self.logits.shape)} for {len(batch.labels)} images"
            expected = f"[{len(batch.labels)}, classes] with at least {least} classes"
            raise ProxyError(Diagnostic(where=type(module).__name__, got=got, expected=expected))
        self.loss = F.cross_entropy(self.logits, batch.labels)

    @property
    def parameters(self) -> dict[str, Tensor]:
        return dict(self.module.named_parameters())

    @property
    def kernels(self) -> list[Tensor]:
        """Weights of convolutions and linear layers: the parameters with at least two axes."""
        return [p for p in self.module.parameters() if p.ndim >= 2]

    def forward_with(self, parameters: dict[str, Tensor], images: Tensor) -> Tensor:
        """float32[B, classes] with other parameters, by name; the buffers are copies in the number format of images."""
        buffers = {name: b.to(images.dtype, copy=True) for name, b in self.module.named_buffers()}
        return self._seeded(lambda: functional_call(self.module, {**parameters, **buffers}, (images,)))

    def _seeded(self, call: Callable[[], Tensor]) -> Tensor:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            return call()

    @cached_property
    def _loss_gradients(self) -> tuple[list[Tensor], list[tuple[Tensor, Tensor]]]:
        outputs = [output for _, output in self.trace.maps if output.requires_grad]
        found = self.gradients(self.loss, [*self.kernels, *outputs])
        kernels = [torch.zeros_like(k) if g is None else g for k, g in zip(self.kernels, found, strict=False)]
        rest = zip(outputs, found[len(kernels) :], strict=True)
        return kernels, [(output.detach(), gradient) for output, gradient in rest if gradient is not None]

    def gradients(self, of: Tensor, to: Sequence[Tensor], *, again: bool = False) -> Sequence[Tensor | None]:
        """d of / d to, None where there is no way; `again` makes them differentiable. The pass stays for others."""
        return torch.autograd.grad(of, to, create_graph=again, retain_graph=True, allow_unused=True)

    @property
    def kernel_gradients(self) -> list[Tensor]:
        """d loss / d kernel, in the order of `kernels`; zeros where the loss does not depend on one."""
        return self._loss_gradients[0]

    @property
    def output_gradients(self) -> list[tuple[Tensor, Tensor]]:
        """(output [B, C, ...], d loss / d output) of convolutions and linear layers that the loss depends on."""
        return self._loss_gradients[1]

    @cached_property
    def jacobian(self) -> Tensor:
        """float32[B, C * H * W]: gradient of the sum of all outputs with respect to each image."""
        (gradient,) = self.gradients(self.logits.sum(), [self._images])
        return (torch.zeros_like(self._images) if gradient is None else gradient).detach().flatten(1)
