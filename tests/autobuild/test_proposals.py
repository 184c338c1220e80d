"""Proposed equations bring to the top what lies near the wished cost; measured on a cloud with a known front."""

import numpy as np
import pytest

from genmad.autobuild.equations import EquationError, parse_equation
from genmad.autobuild.proposals import Front, propose_equations


def cloud(bulge: float, n: int = 4000) -> tuple[np.ndarray, np.ndarray]:
    """Points under the front `quality = 70 + 8*u**bulge`, u in 0..1 the cost's place between 5 and 10."""
    rng = np.random.default_rng(0)
    u = rng.random(n)
    return 70 + 8 * u**bulge - rng.exponential(1.0, n), 5 + 5 * u


@pytest.mark.parametrize("aim", [6.0, 7.5, 9.0])
def test_on_a_convex_front_every_family_reaches_the_wished_cost(aim: float) -> None:
    quality, cost = cloud(0.4)
    for found in propose_equations(quality, cost, aim=aim):
        assert found.miss < 0.03, found
        assert abs(found.cost - aim) < 0.15
        # What the text says is what was measured.
        targets = parse_equation(found.text, ("acc", "lat")).evaluate({"acc": quality, "lat": cost})
        best = np.argsort(-targets)[:40]
        assert np.median(cost[best]) == pytest.approx(found.cost)


def test_on_a_concave_front_only_the_reach_family_gets_to_the_middle() -> None:
    """Weighted sums see only the ends of such a front (which is why the family is there)."""
    quality, cost = cloud(2.5)
    found = {p.family: p for p in propose_equations(quality, cost, aim=7.5)}
    assert found["reach"].miss < 0.03
    assert found["linear"].miss > 0.2
    assert propose_equations(quality, cost, aim=7.5)[0].family == "reach"


def test_what_brings_to_the_top_can_be_the_callers() -> None:
    """A builder that always ends 1 ms faster than the labelled tops gets a number that makes up for it."""
    quality, cost = cloud(0.4)

    def achieve(targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        best = np.argsort(-targets)[:20]
        return quality[best], cost[best] - 1.0

    found = propose_equations(quality, cost, aim=7.0, achieve=achieve, families=("linear",))[0]
    assert abs(found.cost - 7.0) < 0.15


def test_quantiles_and_odd_names() -> None:
    quality, cost = cloud(0.4)
    found = propose_equations(quality, cost, names=("top-1", "lat"), quantile=0.5, families=("log",))[0]
    assert found.text.startswith("`top-1` - ")
    assert found.aim == pytest.approx(float(np.quantile(Front.of(quality, cost).cost, 0.5)))


def test_the_front_has_no_dominated_point() -> None:
    quality, cost = cloud(1.0, 300)
    front = Front.of(quality, cost)
    for q, c in zip(front.quality, front.cost, strict=True):
        better = (quality >= q) & (cost <= c) & ((quality > q) | (cost < c))
        assert not better.any()
    assert front.at(np.array([front.cost[3] + 1e-9]))[0] == front.quality[3]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"aim": 50.0}, "on the labelled front"),
        ({"aim": 7.0, "quantile": 0.5}, "one of them"),
        ({"quantile": 1.5}, "0 to 1"),
    ],
)
def test_wishes_that_cannot_be_met_are_refused(change: dict[str, float], message: str) -> None:
    with pytest.raises(EquationError, match=message):
        propose_equations(*cloud(0.4), **change)  # type: ignore[arg-type]


def test_bad_columns_name_the_row() -> None:
    quality, cost = cloud(0.4)
    quality[4] = np.nan
    with pytest.raises(EquationError, match="column acc: got no finite number in row 5"):
        propose_equations(quality, cost, quantile=0.5)
