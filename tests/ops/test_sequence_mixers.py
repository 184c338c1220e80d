"""What stands in for attention, against definitions written as loops: hashing, pooled keys, long and short filters."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from genmad.lowering.to_torch import to_torch
from genmad.ops import OPSET
from tests.ops.test_torch import Sample, one_node


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def run(op: str, state: dict[str, torch.Tensor], *inputs: torch.Tensor, **attrs: object) -> torch.Tensor:
    """One op in float64 as the generated module computes it."""
    texts = tuple(f"float32[{','.join(map(str, x.shape))}]" for x in inputs)
    module = to_torch(one_node(OPSET[op], Sample(inputs=texts, attrs=attrs))).double()
    module.load_state_dict({f"node.{slot}": value for slot, value in state.items()})
    with torch.no_grad():
        result = module(*inputs)
    assert isinstance(result, torch.Tensor)
    return result


def shared_attention(q: torch.Tensor, v: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
    """Attention of [S, D] over what `keep` [S, S] allows, keys at unit length, itself only if there is nothing else."""
    out = torch.zeros(q.shape[0], v.shape[1], dtype=q.dtype)
    for i in range(q.shape[0]):
        seen = [j for j in range(q.shape[0]) if keep[i, j] and j != i] or [i]
        scores = torch.stack([q[i] @ (q[j] / q[j].norm()) / q.shape[1] ** 0.5 for j in seen])
        out[i] = scores.softmax(0) @ v[seen]
    return out


@pytest.mark.parametrize("causal", [True, False])
def test_lsh_attention_with_one_bucket_is_full_shared_attention(causal: bool) -> None:
    q, v = random(2, 7, 6), random(2, 7, 6, seed=1)
    keep = torch.ones(7, 7).tril().bool() if causal else torch.ones(7, 7).bool()
    got = run("LSHAttention", {}, q, v, num_heads=2, num_buckets=1, causal=causal)
    for b, h in itertools.product(range(2), range(2)):
        part = slice(3 * h, 3 * h + 3)
        torch.testing.assert_close(got[b, :, part], shared_attention(q[b, :, part], v[b, :, part], keep))


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("rounds", [1, 3])
def test_lsh_attention_joins_positions_that_share_a_bucket_in_a_round(causal: bool, rounds: int) -> None:
    q, v, planes = random(1, 12, 4), random(1, 12, 4, seed=1), random(rounds, 4, 2, seed=2)
    got = run("LSHAttention", {"planes": planes}, q, v, num_heads=1, num_hashes=rounds, num_buckets=4, causal=causal)
    sides = [torch.cat((q[0] @ p, -(q[0] @ p)), -1).argmax(-1) for p in planes]
    keep = torch.stack([s[:, None] == s[None, :] for s in sides]).any(0)
    assert 12 < keep.sum() < 144, "a test where all or none see each other proves nothing"
    torch.testing.assert_close(
        got[0], shared_attention(q[0], v[0], keep & torch.ones(12, 12).tril().bool() if causal else keep)
    )


def test_lsh_attention_is_the_same_in_slices() -> None:
    x, planes = random(1, 1100, 4), random(2, 4, 3, seed=2)
    attrs = {"num_heads": 1, "num_hashes": 2, "num_buckets": 6, "causal": True}
    whole, part = (run("LSHAttention", {"planes": planes}, y, y, **attrs) for y in (x, x[:, :600]))
    torch.testing.assert_close(whole[:, :600], part)


@pytest.mark.parametrize("op", ["LSHAttention", "HierarchicalAttention", "SGConv", "SeparableConv1d"])
def test_causal_mixers_do_not_see_the_future(op: str) -> None:
    attrs: dict[str, dict[str, object]] = {
        "LSHAttention": {"num_heads": 2, "num_hashes": 2, "num_buckets": 4, "causal": True},
        "HierarchicalAttention": {"num_heads": 2, "levels": 4, "causal": True},
        "SGConv": {"kernel_size": 2, "num_scales": 3},
        "SeparableConv1d": {"kernel_size": 5, "out_features": 4},
    }
    count = {"LSHAttention": 2, "HierarchicalAttention": 3}.get(op, 1)
    texts = ("float32[1,13,4]",) * count
    module = to_torch(one_node(OPSET[op], Sample(inputs=texts, attrs=attrs[op]))).double()
    x = random(1, 13, 4)
    for cut in range(1, 13):
        other = torch.cat((x[:, :cut], random(1, 13 - cut, 4, seed=cut)), 1)
        before, after = (module(*[y] * count) for y in (x, other))
        torch.testing.assert_close(before[:, :cut], after[:, :cut])
        assert not torch.allclose(before[:, cut:], after[:, cut:])


@pytest.mark.parametrize("op", ["LSHAttention", "HierarchicalAttention", "SGConv", "SeparableConv1d"])
def test_a_sequence_of_8192_works(op: str) -> None:
    attrs: dict[str, dict[str, object]] = {
        "LSHAttention": {"num_heads": 1, "num_hashes": 2, "num_buckets": 64, "causal": True},
        "HierarchicalAttention": {"num_heads": 1, "levels": 6, "window": 32, "causal": True},
        "SGConv": {"kernel_size": 16, "num_scales": 10},
        "SeparableConv1d": {"kernel_size": 7, "out_features": 4},
    }
    count = {"LSHAttention": 2, "HierarchicalAttention": 3}.get(op, 1)
    module = to_torch(one_node(OPSET[op], Sample(inputs=("float32[1,8192,4]",) * count, attrs=attrs[op])))
    with torch.no_grad():
        out = module(*[random(1, 8192, 4).float()] * count)
    assert out.shape == (1, 8192, 4)
    assert torch.isfinite(out).all()


def pooled_reference(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, levels: int, pool: int, causal: bool, window: int | None
) -> torch.Tensor:
    """[S, D] each: for every query a list of the blocks that it sees, then one softmax."""
    out = torch.zeros(q.shape[0], v.shape[1], dtype=q.dtype)
    for i in range(q.shape[0]):
        keys, values = [], []
        for span in (pool**level for level in range(levels)):
            for start in range(0, k.shape[0], span):
                ended = start + span - 1 <= i
                near = window is None or abs(i // span - start // span) < window
                if near and (ended or not causal):
                    keys.append(k[start : start + span].mean(0))
                    values.append(v[start : start + span].mean(0))
        out[i] = (torch.stack(keys) @ q[i] / q.shape[1] ** 0.5).softmax(0) @ torch.stack(values)
    return out


@pytest.mark.parametrize("window", [None, 2])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("levels", "pool"), [(1, 2), (3, 2), (2, 3), (6, 2)])
def test_hierarchical_attention_is_one_softmax_over_block_means(
    levels: int, pool: int, causal: bool, window: int | None
) -> None:
    q, k, v = (random(1, 11, 6, seed=seed) for seed in range(3))
    attrs = {"levels": levels, "pool": pool, "causal": causal, "window": window}
    got = run("HierarchicalAttention", {}, q, k, v, num_heads=2, **attrs)
    for part in (slice(0, 3), slice(3, 6)):
        expected = pooled_reference(q[0, :, part], k[0, :, part], v[0, :, part], levels, pool, causal, window)
        torch.testing.assert_close(got[0, :, part], expected)
    if levels == 1:
        plain = run("Attention", {}, q, k, v, num_heads=2, causal=causal, window=window)
        torch.testing.assert_close(got, plain)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("local", [0, 1, 3, 4])
def test_mixed_heads_concatenate_local_and_full_attention(causal: bool, local: int) -> None:
    q, k, v = (random(2, 9, 8, seed=seed) for seed in range(3))
    got = run("MixedAttention", {}, q, k, v, num_heads=4, local_heads=local, window=3, causal=causal)
    near, full = (run("Attention", {}, q, k, v, num_heads=4, window=w, causal=causal) for w in (3, None))
    torch.testing.assert_close(got, torch.cat((near[..., : 2 * local], full[..., 2 * local :]), -1))


def test_hierarchical_attention_reaches_as_far_as_its_levels() -> None:
    """With a window of w blocks a query reaches back about w * pool^(levels-1) positions."""
    q, v = torch.zeros(1, 1, 64, 64, dtype=torch.float64), torch.eye(64, dtype=torch.float64)[None, None]
    out = run("HierarchicalAttention", {}, q, q, v, num_heads=1, levels=4, pool=2, causal=True, window=4)
    assert out[0, 0, 63].nonzero().min() == 63 - 8 * 4 + 1


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("size", "scales", "length"), [(1, 1, 5), (2, 3, 9), (4, 3, 6), (3, 5, 11)])
def test_sg_conv_equals_direct_convolution(causal: bool, size: int, scales: int, length: int) -> None:
    x, bias = random(2, length, 3), random(3, seed=4)
    weights = [random(3, scales, size, seed=seed) for seed in (1, 2)]
    state = {"weight": weights[0], "bias": bias, **({} if causal else {"backward_weight": weights[1]})}
    kernels = []
    for weight in weights:
        parts = [weight[:, 0]]
        for i in range(1, scales):
            wide = F.interpolate(weight[:, i][None], size=size * 2 ** (i - 1), mode="linear")[0]
            parts.append(wide * 0.7**i)
        kernels.append(torch.cat(parts, -1))
    expected = torch.zeros_like(x)
    for t, s in itertools.product(range(length), range(length)):
        kernel, distance = (kernels[0], t - s) if s <= t else (kernels[1], s - t - 1)
        if distance < kernel.shape[1] and (s <= t or not causal):
            expected[:, t] += kernel[:, distance] * x[:, s]
    got = run("SGConv", state, x, kernel_size=size, num_scales=scales, decay=0.7, causal=causal)
    torch.testing.assert_close(got, expected + bias)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("kernel", [1, 2, 3, 9])
def test_separable_conv_equals_a_loop(causal: bool, kernel: int) -> None:
    x, depth, point, bias = random(2, 5, 3), random(3, 1, kernel, seed=1), random(4, 3, seed=2), random(4, seed=3)
    filtered = torch.zeros_like(x)
    ahead = 0 if causal else kernel // 2
    for t, j in itertools.product(range(5), range(kernel)):
        if 0 <= (s := t + ahead - (kernel - 1) + j) < 5:
            filtered[:, t] += depth[:, 0, j] * x[:, s]
    state = {"depthwise_weight": depth, "pointwise_weight": point, "bias": bias}
    got = run("SeparableConv1d", state, x, out_features=4, kernel_size=kernel, causal=causal)
    torch.testing.assert_close(got, filtered @ point.T + bias)
