"""A Gaussian process over the choices of nodes, for a few dozen to a few thousand labels.

Two nodes are alike as far as their choices are equal or, where choices are numbers, near:
k(u, v) = product over categories c of (1 + a_c [u_c = v_c] + b_c x(u_c) x(v_c)), x standardised. Multiplied out it has
an effect of every set of categories (of a stage, of kernels in general, of kernels in that stage ...), all shrunk by as
few as two numbers per category. Two graphs' kernel is the sum over pairs of their nodes, after taking off the mean
graph, plus a squared exponential of the distance that it makes; all numbers are those of the greatest marginal
likelihood (Rasmussen and Williams, 2006, equation 5.8) under a wide prior. Order and edges of nodes are not seen.

N labelled, B asked, T distinct nodes of the labelled, U of the asked, F categories.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from genmad.autobuild.architecture import ArchGraph, FeatureSchema, Floats
from genmad.autobuild.batching import GraphBatch, collate

MAX_NODE_KINDS = 1024
MAX_FOR_SETTINGS = 300
CHUNK = 2048
STEPS = 60
PRIOR_PRECISION = 0.1
JITTER = 1e-5
# Logarithms at the start, the middle of the prior: equality, nearness; then exponential's part, squared length, noise,
# linear part.
START_CATEGORY = (-1.0, -1.0)
START_REST = (-1.0, 1.0, -3.0, 0.0)


@dataclass(frozen=True, kw_only=True)
class ChoiceProcess:
    """A fitted process. Make one with `ChoiceProcess.fit`.

    Attributes:
        schema: of the graphs.
        kinds: int64[T, F], the distinct nodes of the labelled.
        middle: float64[T], mean count of each.
        counts: float64[N, T], counts less the mean.
        logs: float64[2 F + 4], the numbers of the kernel.
        unit: divides node kernels, so that labelled graphs have length 1 at the start.
        weights: float64[N].
        shift, scale: moments of the targets.
        left_out: float64[N], the prediction of each label from all others.
    """

    schema: FeatureSchema
    kinds: Tensor
    middle: Tensor
    counts: Tensor
    logs: Tensor
    unit: float
    weights: Tensor
    shift: float
    scale: float
    left_out: Tensor

    @classmethod
    def fit(cls, schema: FeatureSchema, graphs: Sequence[ArchGraph], targets: Floats) -> "ChoiceProcess":
        """A process through float64[N] targets.

        Raises `ValueError` on more than `MAX_NODE_KINDS` distinct nodes.
        """
        kinds, own = _kinds(collate(graphs))
        if len(kinds) > MAX_NODE_KINDS:
            raise ValueError(f"{len(kinds)} distinct nodes, more than {MAX_NODE_KINDS}")
        middle = own.mean(0)
        counts = own - middle
        shift, scale = float(targets.mean()), float(targets.std()) or 1.0
        wanted = (torch.from_numpy(np.asarray(targets, np.float64)) - shift) / scale
        start = torch.tensor([*START_CATEGORY * len(schema.names), *START_REST], dtype=torch.float64)
        equal, near = _similarities(schema, kinds, kinds)
        squares = (counts @ _node_kernel(start, equal, near) * counts).sum(1)
        unit = max(float(squares.mean()), 1e-12)

        def covariance(logs: Tensor, rows: Tensor) -> Tensor:
            inner = rows @ _node_kernel(logs, equal, near) @ rows.T / unit
            square = inner.diagonal()
            noise = (logs[-2].exp() + JITTER) * torch.eye(len(rows), dtype=torch.float64)
            return _kernel(logs, inner, square, square) + noise

        # The kernel's few numbers are known well from some hundred labels; the labels' weights need all.
        some = torch.linspace(0, len(wanted) - 1, min(len(wanted), MAX_FOR_SETTINGS)).round().long()
        logs = _likeliest(lambda logs: covariance(logs, counts[some]), wanted[some], start)
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(covariance(logs, counts)))
        weights = inverse @ wanted
        left_out = (wanted - weights / inverse.diagonal()) * scale + shift
        return cls(
            schema=schema, kinds=kinds, middle=middle, counts=counts, logs=logs, unit=unit, weights=weights,
            shift=shift, scale=scale, left_out=left_out,
        )  # fmt: skip

    @torch.no_grad()
    def predict(self, graphs: Sequence[ArchGraph] | GraphBatch) -> Floats:
        """float64[B], in the units of the targets."""
        whole = graphs if isinstance(graphs, GraphBatch) else collate(graphs)
        kinds, counts = _kinds(whole)
        across = _node_kernel(self.logs, *_similarities(self.schema, kinds, self.kinds)) / self.unit
        within = _node_kernel(self.logs, *_similarities(self.schema, kinds, kinds)) / self.unit
        known = _node_kernel(self.logs, *_similarities(self.schema, self.kinds, self.kinds)) / self.unit
        middle = known @ self.middle
        square = (counts @ within * counts).sum(1) - 2 * counts @ (across @ self.middle) + self.middle @ middle
        labelled = (self.counts @ known * self.counts).sum(1)
        means = [
            _kernel(self.logs, (own @ across - middle) @ self.counts.T, length, labelled) @ self.weights
            for own, length in zip(counts.split(CHUNK), square.split(CHUNK), strict=True)
        ]
        return np.asarray((torch.cat(means) * self.scale + self.shift).numpy(), np.float64)

    def tensors(self) -> dict[str, Tensor]:
        """All numbers, for a checkpoint."""
        moments = torch.tensor([self.unit, self.shift, self.scale], dtype=torch.float64)
        names = ("kinds", "middle", "counts", "logs", "weights", "left_out")
        return {name: getattr(self, name) for name in names} | {"moments": moments}

    @classmethod
    def of_tensors(cls, tensors: Mapping[str, Tensor], schema: FeatureSchema) -> "ChoiceProcess":
        """The process of `tensors()`. Raises `KeyError` where one is missing."""
        unit, shift, scale = tensors["moments"].tolist()
        rest = {name: tensors[name] for name in ("kinds", "middle", "counts", "logs", "weights", "left_out")}
        return cls(schema=schema, unit=unit, shift=shift, scale=scale, **rest)


def _kinds(batch: GraphBatch) -> tuple[Tensor, Tensor]:
    """Distinct nodes int64[U, F], and how many of each every graph has, float64[B, U]."""
    kinds, number = torch.unique(batch.x, dim=0, return_inverse=True)
    counts = torch.zeros(batch.num_graphs, len(kinds), dtype=torch.float64)
    counts.index_put_((batch.batch, number), torch.ones(len(number), dtype=torch.float64), accumulate=True)
    return kinds, counts


def _similarities(schema: FeatureSchema, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Per category whether choices are equal, and the product of their standardised numbers; float64[F, U, T] each."""
    equal = (a.T[:, :, None] == b.T[:, None]).double()
    values = [_numbers(choices) for choices in schema.choices]
    near = [v[a[:, c]][:, None] * v[b[:, c]][None] for c, v in enumerate(values)]
    return equal, torch.stack(near)


def _numbers(choices: Sequence[str]) -> Tensor:
    """Standardised values of choices that are numbers; zeros where one is none or all are equal."""
    try:
        values = np.array([float(choice) for choice in choices])
    except ValueError:
        return torch.zeros(len(choices), dtype=torch.float64)
    if not np.isfinite(values).all() or np.ptp(values) == 0:
        return torch.zeros(len(choices), dtype=torch.float64)
    return torch.from_numpy((values - values.mean()) / values.std())


def _node_kernel(logs: Tensor, equal: Tensor, near: Tensor) -> Tensor:
    """float64[U, T]."""
    count = len(equal)
    sizes = logs[: 2 * count].exp().view(count, 2, 1, 1)
    return (1 + sizes[:, 0] * equal + sizes[:, 1] * near).prod(0)


def _kernel(logs: Tensor, inner: Tensor, square: Tensor, other: Tensor) -> Tensor:
    """Graphs' kernel from inner products [B, N] and squares [B], [N] in the space that the node kernel makes."""
    distance = (square[:, None] + other[None] - 2 * inner).clamp_min(0)
    return logs[-1].exp() * inner + logs[-4].exp() * torch.exp(-0.5 * distance / logs[-3].exp())


def _likeliest(covariance: Callable[[Tensor], Tensor], wanted: Tensor, start: Tensor) -> Tensor:
    """The logarithms of the greatest posterior; the start where nothing better is found."""
    logs = start.clone().requires_grad_()
    optimizer = torch.optim.LBFGS([logs], max_iter=STEPS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        lower, failed = torch.linalg.cholesky_ex(covariance(logs))
        if failed:
            # Beyond what float64 holds: as bad as can be, and no way on.
            value = (logs - start).square().sum() * 1e6
        else:
            half = torch.linalg.solve_triangular(lower, wanted[:, None], upper=False)
            value = 0.5 * half.square().sum() + lower.diagonal().log().sum()
            value = value + 0.5 * PRIOR_PRECISION * (logs - start).square().sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(loss)
    return logs.detach() if logs.isfinite().all() else start
