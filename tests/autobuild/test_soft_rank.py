"""Soft ranks against the definition: the projection onto the permutahedron, by enumeration of its corners."""

from itertools import permutations

import numpy as np
import pytest
import torch

from genmad.autobuild.losses import published_correlation, rank_correlation
from genmad.autobuild.soft_rank import hard_rank, isotonic_blocks, soft_rank, spearman


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("strength", [0.05, 0.5, 1.0, 3.0])
@pytest.mark.parametrize("seed", range(5))
def test_soft_ranks_are_the_nearest_point_of_the_permutahedron(strength: float, seed: int) -> None:
    """r is the projection of z iff r lies in the hull and no corner p has <z - r, p> greater than <z - r, r>."""
    values = torch.randn(5, generator=generator(seed), dtype=torch.float64) * 2
    ranks = soft_rank(values, strength)
    z = values / strength
    corners = torch.tensor(list(permutations(range(1, 6))), dtype=torch.float64)
    assert float(((corners - ranks) @ (z - ranks)).max()) < 1e-9
    prefix = ranks.sort(descending=True).values.cumsum(0)
    assert (prefix <= torch.tensor([5.0, 9.0, 12.0, 14.0, 15.0]) + 1e-6).all()
    assert float(prefix[-1]) == pytest.approx(15.0)


def test_gradient_is_the_exact_jacobian() -> None:
    values = torch.randn(3, 9, generator=generator(1), dtype=torch.float64, requires_grad=True)
    for strength in (0.1, 1.0):
        assert torch.autograd.gradcheck(lambda v, s=strength: soft_rank(v, s), (values,), eps=1e-6, atol=1e-6)


def test_rows_are_ranked_apart() -> None:
    values = torch.randn(2, 4, 30, generator=generator(2), dtype=torch.float64)
    whole = soft_rank(values, 0.3)
    torch.testing.assert_close(whole[1, 2], soft_rank(values[1, 2], 0.3))


def test_small_strength_gives_hard_ranks() -> None:
    values = torch.tensor([0.3, -1.0, 7.0, 2.0], dtype=torch.float64)
    torch.testing.assert_close(soft_rank(values, 1e-3), torch.tensor([2.0, 1.0, 4.0, 3.0], dtype=torch.float64))
    torch.testing.assert_close(hard_rank(values), torch.tensor([2.0, 1.0, 4.0, 3.0], dtype=torch.float64))


def test_equal_values_share_their_rank() -> None:
    values = torch.tensor([1.0, 5.0, 1.0, 0.0])
    assert hard_rank(values).tolist() == [2.5, 4.0, 2.5, 1.0]
    assert soft_rank(values, 0.1).tolist() == pytest.approx([2.5, 4.0, 2.5, 1.0])


def test_strength_must_be_positive() -> None:
    with pytest.raises(ValueError, match="must be positive"):
        soft_rank(torch.zeros(3), 0.0)


def test_isotonic_regression_pools_adjacent_violators() -> None:
    """Against the min-max formula of isotonic regression: max over starts of min over ends of block means."""
    rng = np.random.default_rng(3)
    for _ in range(20):
        y = rng.normal(size=8)
        sizes = isotonic_blocks(y.tolist())
        fitted = np.concatenate([np.full(n, part.mean()) for n, part in zip(sizes, np.split(y, np.cumsum(sizes)[:-1]),
                                                                               strict=True)])  # fmt: skip
        wanted = [min(max(y[a : b + 1].mean() for b in range(i, 8)) for a in range(i + 1)) for i in range(8)]
        np.testing.assert_allclose(fitted, wanted)


def test_spearman_of_hard_ranks_is_the_statistic() -> None:
    stats = pytest.importorskip("scipy.stats", reason="scipy is not installed")
    rng = np.random.default_rng(4)
    a, b = rng.integers(0, 6, 40), rng.normal(size=40)
    found = spearman(hard_rank(torch.from_numpy(a).double()), hard_rank(torch.from_numpy(b)))
    assert float(found) == pytest.approx(stats.spearmanr(a, b)[0])


def test_published_loss_is_pearson_and_the_corrected_one_is_not() -> None:
    """Norms closer together than the strength are one pool, whose ranks are linear in them."""
    norms = torch.rand(40, generator=generator(5), dtype=torch.float64) * 0.3
    targets = norms.exp() ** 8
    pearson = float(np.corrcoef(norms.numpy(), targets.numpy())[0, 1])
    assert float(published_correlation(norms, targets)) == pytest.approx(pearson, abs=1e-6)
    assert float(rank_correlation(norms, targets, strength=0.1)) > 0.999 > pearson


def test_corrected_loss_does_not_depend_on_the_scale_of_norms() -> None:
    norms = torch.rand(3, 40, generator=generator(6), dtype=torch.float64)
    targets = torch.randn(40, generator=generator(7), dtype=torch.float64)
    torch.testing.assert_close(
        rank_correlation(norms, targets, strength=0.1), rank_correlation(norms * 1e3 + 5, targets, strength=0.1)
    )


def test_same_as_torchsort() -> None:
    torchsort = pytest.importorskip("torchsort", reason="torchsort is not installed")
    values = torch.randn(3, 50, generator=generator(8))
    for strength in (0.1, 1.0):
        wanted = torchsort.soft_rank(values, regularization="l2", regularization_strength=strength)
        torch.testing.assert_close(soft_rank(values, strength), wanted, rtol=1e-4, atol=1e-4)
