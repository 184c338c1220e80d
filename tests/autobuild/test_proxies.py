"""Each proxy is its formula: on networks small enough to work it out another way."""

import copy
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genmad.autobuild.proxies import PROXIES, Batch, Probe, ProxyError, compute_proxies, random_batch
from genmad.lowering.to_torch import to_torch
from genmad.spaces import get_space


class Tiny(nn.Module):
    """conv, batch norm, relu, mean, linear: [B, 3, 4, 4] -> [B, 2]."""

    def __init__(self) -> None:
        super().__init__()
        rng = torch.Generator().manual_seed(0)
        self.conv = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 2)
        for p in self.parameters():
            p.data = torch.randn(p.shape, generator=rng)

    def features(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.conv(x)))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).mean((2, 3)))


class TwoMaps(nn.Module):
    """Two linear maps and nothing between: [B, 3, 2, 2] -> [B, 2]."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(12, 5, bias=False)
        self.last = nn.Linear(5, 2, bias=False)
        rng = torch.Generator().manual_seed(0)
        for p in self.parameters():
            p.data = torch.randn(p.shape, generator=rng) / 3

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x.flatten(1)))


@pytest.fixture
def batch() -> Batch:
    return random_batch(size=6, height=4, width=4, classes=2, seed=3)


def _loss_gradients(module: nn.Module, batch: Batch) -> list[tuple[Tensor, Tensor]]:
    own = copy.deepcopy(module).train()
    F.cross_entropy(own(batch.images), batch.labels).backward()
    return [(p.detach(), p.grad) for p in own.parameters() if p.ndim > 1 and p.grad is not None]


def test_saliencies_are_sums_over_kernels_of_batch_gradients(batch: Batch) -> None:
    pairs = _loss_gradients(Tiny().eval(), batch)
    found = compute_proxies(Tiny().eval(), batch, 0, ["snip", "plain", "grad_norm", "l2_norm"])
    assert len(pairs) == 2
    assert found["snip"] == pytest.approx(sum(float((w * g).abs().sum()) for w, g in pairs), rel=1e-5)
    assert found["plain"] == pytest.approx(sum(float((w * g).sum()) for w, g in pairs), abs=1e-5)
    assert found["grad_norm"] == pytest.approx(sum(float(g.norm()) for _, g in pairs), rel=1e-5)
    assert found["l2_norm"] == pytest.approx(sum(float(w.norm()) for w, _ in pairs), rel=1e-5)


def test_plain_of_a_kernel_before_a_batch_norm_is_zero(batch: Batch) -> None:
    module = Tiny()
    (conv, gradient), _ = _loss_gradients(module, batch)
    assert float((conv * gradient).sum()) == pytest.approx(0, abs=1e-4)
    assert float((conv * gradient).abs().sum()) > 1e-3


def test_fisher_sums_squares_of_activation_times_gradient(batch: Batch) -> None:
    module = Tiny().train()
    conv = module.conv(batch.images)
    pooled = F.relu(module.norm(conv)).mean((2, 3))
    logits = module.head(pooled)
    grads = torch.autograd.grad(F.cross_entropy(logits, batch.labels), [conv, logits])
    by_channel = [(conv * grads[0]).sum((2, 3)), logits * grads[1]]
    expected = sum(float((z.detach() ** 2).mean(0).sum()) / 2 for z in by_channel)
    assert compute_proxies(Tiny(), batch, 0, ["fisher"])["fisher"] == pytest.approx(expected, rel=1e-5)


def test_grasp_is_minus_weights_times_hessian_times_gradient() -> None:
    batch = random_batch(size=4, height=2, width=2, classes=2, seed=1)
    module = TwoMaps()
    shapes = [module.first.weight.shape, module.last.weight.shape]
    flat = torch.cat([module.first.weight.detach().flatten(), module.last.weight.detach().flatten()])

    def loss(w: Tensor) -> Tensor:
        first, last = w[: shapes[0].numel()].view(shapes[0]), w[shapes[0].numel() :].view(shapes[1])
        return F.cross_entropy(batch.images.flatten(1) @ first.T @ last.T, batch.labels)

    gradient = torch.autograd.functional.jacobian(loss, flat)
    expected = -float(flat @ (torch.autograd.functional.hessian(loss, flat) @ gradient))
    assert compute_proxies(module, batch, 0, ["grasp"])["grasp"] == pytest.approx(expected, rel=1e-4)


def test_grasp_of_a_kernel_before_a_batch_norm_is_its_squared_gradient(batch: Batch) -> None:
    class Headless(Tiny):
        def forward(self, x: Tensor) -> Tensor:
            return self.features(x).mean((2, 3))

    (_, gradient), *_ = _loss_gradients(Headless(), batch)
    found = compute_proxies(Headless(), batch, 0, ["grasp"])["grasp"]
    assert found == pytest.approx(float((gradient**2).sum()), rel=1e-3)


def test_synflow_of_every_layer_is_the_whole_flow() -> None:
    module = TwoMaps()
    flow = float((module.last.weight.abs() @ module.first.weight.abs()).detach().double().sum())
    found = compute_proxies(module, random_batch(size=2, height=2, width=2, classes=2), 0, ["synflow"])
    assert found["synflow"] == pytest.approx(math.log1p(2 * flow), rel=1e-6)


def test_synflow_lets_batch_norms_through(batch: Batch) -> None:
    scaled = Tiny()
    scaled.norm.weight.data *= 7
    names = ["synflow"]
    assert compute_proxies(scaled, batch, 0, names) == compute_proxies(Tiny(), batch, 0, names)


def test_jacob_cov_and_epe_of_gradients_that_are_all_alike() -> None:
    batch = random_batch(size=4, height=2, width=2, classes=2)
    found = compute_proxies(TwoMaps(), batch, 0, ["jacob_cov", "epe_nas"])
    # A linear map has one gradient for all images: eigenvalues 4, 0, 0, 0, all correlations 1.
    low = -3 * (math.log(1e-5) + 1e5) - math.log(4 + 1e-5) - 1 / 4
    assert found["jacob_cov"] == pytest.approx(low, rel=1e-3)
    assert found["epe_nas"] == pytest.approx(2 * 4 * math.log(1 + 1e-5), rel=1e-2)


def test_jacob_cov_counts_images_apart(batch: Batch) -> None:
    rows = Probe(Tiny(), batch, 0).jacobian
    values = torch.linalg.eigvalsh(torch.corrcoef(rows.double())) + 1e-5
    expected = -float((values.log() + 1 / values).sum())
    assert compute_proxies(Tiny(), batch, 0, ["jacob_cov"])["jacob_cov"] == pytest.approx(expected, rel=1e-4)


def test_nwot_is_the_log_determinant_of_agreements(batch: Batch) -> None:
    code = (Tiny().train().norm(Tiny().conv(batch.images)) > 0).flatten(1).double()
    agree = (code[:, None] == code[None]).double().sum(2)
    found = compute_proxies(Tiny(), batch, 0, ["nwot"])["nwot"]
    assert found == pytest.approx(float(torch.logdet(agree)), rel=1e-5)


def test_zen_ignores_the_weights_and_gives_back_what_norms_take(batch: Batch) -> None:
    class Wide(Tiny):
        def features(self, x: Tensor) -> Tensor:
            return F.relu(self.norm(3 * self.conv(x)))

    doubled = Tiny()
    doubled.conv.weight.data *= 2
    plain, again, wide = (compute_proxies(m, batch, 5, ["zen"])["zen"] for m in (Tiny(), doubled, Wide()))
    assert again == plain
    assert wide == pytest.approx(plain + math.log(3), abs=1e-3)


def test_a_lowered_cell_is_probed_with_batch_statistics_and_left_as_it_was() -> None:
    space = get_space("nb201")
    module = to_torch(space.to_graph((1, 0, 2, 1, 4, 1)), seed=0)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    batch = random_batch(size=4, seed=0)
    found = compute_proxies(module, batch, 0)
    assert found == compute_proxies(module, batch, 0)
    assert all(math.isfinite(value) for value in found.values())
    assert not module.training
    assert all(p.grad is None for p in module.parameters())
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    # With running statistics a scale of the images would show; batch statistics take it out of the first layer on.
    louder = Batch(images=batch.images * 10, labels=batch.labels)
    assert compute_proxies(module, louder, 0, ["nwot"])["nwot"] == pytest.approx(found["nwot"], rel=1e-4)


def test_params_and_macs_are_those_of_the_graph() -> None:
    space = get_space("nb201")
    word = (3, 0, 2, 1, 0, 1)
    params, macs = space.graph_costs(word)
    found = compute_proxies(to_torch(space.to_graph(word)), random_batch(size=2), 0, ["params", "macs"])
    assert found["params"] == params == 73_306 + 243_040 + 28_000
    # Of the graph's count also norms, poolings and sums are part; of ours, only convolutions and the classifier.
    assert 0.9 * macs < found["macs"] <= macs


def test_a_dead_cell_has_no_jacobian() -> None:
    space = get_space("nb201")
    names = ["jacob_cov", "zen", "epe_nas", "synflow", "grad_norm"]
    found = compute_proxies(to_torch(space.to_graph((0,) * 6)), random_batch(size=4, classes=2), 0, names)
    assert all(math.isnan(found[name]) for name in names[:3])
    assert found["synflow"] == 0


def test_drawn_images_have_the_spectrum_of_natural_ones() -> None:
    def likeness(falloff: float) -> float:
        x = random_batch(size=32, falloff=falloff, seed=1).images
        return float((x[..., 1:] * x[..., :-1]).mean())

    assert likeness(1.0) > 0.6
    assert abs(likeness(0.0)) < 0.05
    batch = random_batch(size=20, classes=10)
    assert batch.labels.bincount().tolist() == [2] * 10
    assert float(batch.images.std()) == pytest.approx(1, abs=0.01)


def test_bad_names_and_networks_are_refused(batch: Batch) -> None:
    with pytest.raises(ProxyError, match="synflop"):
        compute_proxies(Tiny(), batch, 0, ["synflop"])
    three = Batch(images=batch.images, labels=batch.labels + 1)
    with pytest.raises(ProxyError, match="at least 3 classes"):
        compute_proxies(Tiny(), three, 0)
    with pytest.raises(ValueError, match="labels"):
        Batch(images=batch.images, labels=batch.labels[:2])


def test_there_are_thirteen() -> None:
    named = "synflow jacob_cov nwot snip grad_norm grasp fisher l2_norm plain zen params macs epe_nas"
    assert list(PROXIES) == named.split()
