"""Ridge regression on one-hot choices: the baseline that predictors of chains of layers have to beat."""

from collections.abc import Sequence

import numpy as np

from genmad.autobuild.architecture import ArchGraph, FeatureSchema, Floats
from genmad.autobuild.graph_features import one_hot

STRENGTHS = tuple(float(x) for x in np.logspace(-3, 4, 29))


class Ridge:
    """Linear in the choices at each place (of cells, in counts of operation sequences too).

    The strength of the penalty is the one of `STRENGTHS` whose leave-one-out error is least, found in closed form from
    one eigendecomposition (Golub, Heath and Wahba, 1979).
    """

    def __init__(self, schema: FeatureSchema, *, strengths: Sequence[float] = STRENGTHS) -> None:
        self.schema = schema
        self.strengths = tuple(strengths)
        self.strength = float("nan")
        self._fitted: tuple[Floats, Floats, float] | None = None

    def fit(self, graphs: Sequence[ArchGraph], targets: Floats, *, seed: int = 0) -> None:
        """Learns from float64[N] targets; nothing here is random."""
        del seed
        x = one_hot(self.schema, graphs)
        shift, middle = x.mean(0), float(targets.mean())
        x, y = x - shift, targets - middle
        values, vectors = np.linalg.eigh(x @ x.T)
        values, projected = np.maximum(values, 0), vectors.T @ y
        errors = [_left_out(values, vectors, projected, strength) for strength in self.strengths]
        self.strength = self.strengths[int(np.argmin(errors))]
        # Of the numbers of the dual problem only those of the one strength are needed.
        weights = x.T @ (vectors @ (projected / (values + self.strength)))
        self._fitted = weights, shift, middle

    def predict(self, graphs: Sequence[ArchGraph]) -> Floats:
        """float64[N] in the units of the targets. Raises `RuntimeError` before `fit`."""
        if self._fitted is None:
            raise RuntimeError("predict before fit")
        weights, shift, middle = self._fitted
        out: Floats = (one_hot(self.schema, graphs) - shift) @ weights + middle
        return out


def _left_out(values: Floats, vectors: Floats, projected: Floats, strength: float) -> float:
    """Mean squared leave-one-out error: (residual / (1 - leverage))^2, the mean counted as one more leverage."""
    kept = strength / (values + strength)
    residual = vectors @ (kept * projected)
    free = (vectors**2) @ kept - 1.0 / len(residual)
    return float(np.mean((residual / np.maximum(free, 1e-9)) ** 2))
