"""Target equations that aim at a chosen part of the Pareto front.

The equations of the AutoBuild paper are found by trial, and whoever wants networks of 7 ms has no way to ask for them.
Here the one free number of three families is set so that what an equation brings to the top has the wished cost:

- `linear`, `acc - w*lat`: adds up over the parts of a network as accuracy and latency nearly do, so that the best
  modules of all stages make the best network; reaches only the convex part of a front.
- `log`, `acc - w*log(lat)`: the same, but a per cent of latency weighs the same everywhere.
- `reach`, the augmented achievement function of Wierzbicki (1980), a weighted Chebyshev distance to a point A of the
  front: `min((acc - A)/R, (L - lat)/S) + 0.05*((acc - A)/R + (L - lat)/S)`; reaches every part of a front, but adds up
  over nothing.

What "brings to the top" means is the caller's to say (`achieve`): by default the best labelled architectures; given a
function that fits a predictor, builds and predicts, the number is set for what is built.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from genmad.autobuild.architecture import Floats
from genmad.autobuild.equations import EquationError, Scaling, parse_equation
from genmad.ir import Diagnostic

Achieve = Callable[[Floats], tuple[Floats, Floats]]
"""Targets of the labelled rows -> (quality, cost) of what they bring to the top."""
FAMILIES = ("linear", "log", "reach")
AUGMENTATION = 0.05
_COARSE, _REFINED = 25, 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """An equation, and what it does.

    Attributes:
        text: the equation, for `parse_equation`.
        family: `linear`, `log` or `reach`.
        number: its free number: the weight of the cost, or the cost of the point that is reached for.
        aim: the wished cost, in the unit of the cost column.
        cost: the median cost of what it brings to the top.
        quality: their median quality.
        miss: |cost - aim| as a share of the span of the front's costs.
        shortfall: how far the tops lie below the labelled front at their own cost, the mean as a share of the span of
            its qualities; negative where they lie above it.
        scalings: of the two columns.
    """

    text: str
    family: str
    number: float
    aim: float
    cost: float
    quality: float
    miss: float
    shortfall: float
    scalings: tuple[Scaling, Scaling]


@dataclass(frozen=True, slots=True, kw_only=True)
class Front:
    """The two-objective front of labelled points, costs rising and qualities rising with them.

    Attributes:
        rows: int64[K], numbers of the points on it.
    """

    quality: Floats
    cost: Floats
    rows: np.ndarray

    @classmethod
    def of(cls, quality: Floats, cost: Floats) -> "Front":
        """The points that no other has both better and cheaper; of equal points the first."""
        order = np.lexsort((-quality, cost))
        best = np.maximum.accumulate(quality[order])
        first = np.r_[True, best[1:] > best[:-1]]
        rows = order[first]
        return cls(quality=quality[rows], cost=cost[rows], rows=rows)

    def at(self, cost: Floats) -> Floats:
        """The best quality for at most this cost; that of the cheapest point below all costs."""
        return self.quality[np.clip(np.searchsorted(self.cost, cost, side="right") - 1, 0, None)]

    @property
    def spans(self) -> tuple[float, float]:
        """Span of quality and of cost; 1 where there is none."""
        return float(np.ptp(self.quality)) or 1.0, float(np.ptp(self.cost)) or 1.0


def tops(quality: Floats, cost: Floats, share: float = 0.01) -> Achieve:
    """The best labelled architectures: this share of the rows, at least five."""
    count = max(5, round(share * len(quality)))

    def achieve(targets: Floats) -> tuple[Floats, Floats]:
        best = np.argsort(-targets, kind="stable")[:count]
        return quality[best], cost[best]

    return achieve


def propose_equations(
    quality: Floats, cost: Floats, *, names: tuple[str, str] = ("acc", "lat"), aim: float | None = None,
    quantile: float | None = None, achieve: Achieve | None = None, families: tuple[str, ...] = FAMILIES,
) -> tuple[Proposal, ...]:  # fmt: skip
    """One equation per family, the one that comes nearest first.

    Args:
        quality: float64[N], greater is better, such as accuracy; `names[0]` in the equations.
        cost: float64[N], positive, less is better, such as latency; `names[1]` in the equations.
        aim: the wished cost.
        quantile: the wished place on the labelled front instead, 0 its cheapest point, 1 its best.
        achieve: see `Achieve`; by default the best hundredth of the rows.

    Raises `EquationError` on an aim beyond the labelled front, on columns that are not finite and on costs of 0.
    """
    quality, cost = np.asarray(quality, np.float64), np.asarray(cost, np.float64)
    _check(quality, cost, names)
    front = Front.of(quality, cost)
    aim = _aim(front, aim, quantile, names[1])
    reach = achieve or tops(quality, cost)
    scalings = (Scaling.of(names[0], quality), Scaling.of(names[1], cost))
    found = [_tuned(family, names, quality, cost, front, aim, reach, scalings) for family in families]
    return tuple(sorted(found, key=_badness))


def _badness(proposal: Proposal) -> float:
    return proposal.miss + max(0.0, proposal.shortfall)


def _tuned(
    family: str, names: tuple[str, str], quality: Floats, cost: Floats, front: Front, aim: float, achieve: Achieve,
    scalings: tuple[Scaling, Scaling],
) -> Proposal:  # fmt: skip
    """The best of a coarse grid of the family's number, then of a fine one around it."""
    columns = {names[0]: quality, names[1]: cost}

    def judged(number: float) -> Proposal:
        text = _text(family, names, front, number)
        got_quality, got_cost = achieve(parse_equation(text, names).evaluate(columns))
        height, width = front.spans
        middle = float(np.median(got_cost))
        below = float(np.mean(front.at(got_cost) - got_quality)) / height
        return Proposal(
            text=text, family=family, number=number, aim=aim, cost=middle, quality=float(np.median(got_quality)),
            miss=abs(middle - aim) / width, shortfall=below, scalings=scalings,
        )  # fmt: skip

    grid = _numbers(family, quality, cost, front)
    coarse = [judged(number) for number in grid]
    best = int(np.argmin([_badness(p) for p in coarse]))
    near = np.geomspace if family != "reach" else np.linspace
    ends = grid[max(0, best - 1)], grid[min(len(grid) - 1, best + 1)]
    fine = [judged(float(number)) for number in near(*ends, _REFINED + 2)[1:-1]]
    return min([coarse[best], *fine], key=_badness)


def _numbers(family: str, quality: Floats, cost: Floats, front: Front) -> list[float]:
    """A grid of the family's free number."""
    if family == "reach":
        # Built networks may be cheaper than every labelled one, so the point may lie a little outside.
        low, high = float(front.cost[0]), float(front.cost[-1])
        return np.linspace(low - 0.15 * (high - low), high + 0.15 * (high - low), _COARSE).tolist()
    slope = float(np.ptp(quality) / np.ptp(cost if family == "linear" else np.log(cost)))
    return np.geomspace(slope / 100, slope * 100, 2 * _COARSE).tolist()


def _text(family: str, names: tuple[str, str], front: Front, number: float) -> str:
    acc, lat = (name if name.isidentifier() else f"`{name}`" for name in names)
    if family == "linear":
        return f"{acc} - {number:.4g}*{lat}"
    if family == "log":
        return f"{acc} - {number:.4g}*log({lat})"
    height, width = front.spans
    good = float(front.at(np.array([number]))[0])
    better, cheaper = f"({acc} - {good:.6g})/{height:.4g}", f"({number:.6g} - {lat})/{width:.4g}"
    return f"min({better}, {cheaper}) + {AUGMENTATION}*({better} + {cheaper})"


def _aim(front: Front, aim: float | None, quantile: float | None, name: str) -> float:
    low, high = float(front.cost[0]), float(front.cost[-1])
    if (aim is None) == (quantile is None):
        raise _refused("aim", "both or neither of aim and quantile", "one of them")
    if quantile is not None:
        if not 0 <= quantile <= 1:
            raise _refused("quantile", f"{quantile:g}", "0 to 1, from the cheapest to the best point of the front")
        return float(np.quantile(front.cost, quantile))
    assert aim is not None
    if not low <= aim <= high:
        raise _refused("aim", f"{aim:g}", f"a {name} on the labelled front, {low:.4g} to {high:.4g}")
    return float(aim)


def _check(quality: Floats, cost: Floats, names: tuple[str, str]) -> None:
    for name, values in zip(names, (quality, cost), strict=True):
        bad = np.flatnonzero(~np.isfinite(values))
        if len(bad):
            raise _refused(f"column {name}", f"no finite number in row {bad[0] + 1}", "a number in every row")
        if len(values) < 5 or np.ptp(values) == 0:
            raise _refused(f"column {name}", f"{len(np.unique(values))} values", "at least 5 rows that differ")
    if cost.min() <= 0:
        raise _refused(f"column {names[1]}", f"{cost.min():g} in row {int(cost.argmin()) + 1}", "positive costs")


def _refused(where: str, got: str, expected: str) -> EquationError:
    return EquationError(Diagnostic(where=where, got=got, expected=expected))
