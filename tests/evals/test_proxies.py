"""The evaluation of proxies reads both tables, joins them by cell and correlates; and rank correlations are right."""

import gzip
import math
from pathlib import Path

import numpy as np
import pytest

from genmad.autobuild.proxies import PROXIES
from genmad.evals import proxies
from genmad.evals.rank_correlation import kendall, ranks, spearman
from genmad.spaces import SpaceError, get_space

# Small cells: skips and 1x1 convolutions only.
WORDS = [(1, 0, 0, 1, 0, 0), (1, 2, 0, 0, 0, 1), (2, 0, 2, 0, 0, 2), (2, 2, 2, 1, 2, 2)]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    space = get_space("nb201")
    folder = tmp_path / "nas-bench-201"
    folder.mkdir()
    cells = [f"{i},{space.to_text(word)},{80 + 3 * i}" for i, word in enumerate(WORDS)]
    _write(folder / "nb201.csv.gz", ["idx,arch,c10_test", *cells])
    names = [proxies.IN_TABLE.get(name, name) for name in PROXIES]
    rows = ["idx,dataset," + ",".join(names)]
    for i, word in enumerate(WORDS):
        params = 73_306 + 28_000 * word.count(2)
        values = [params / 1e6 if name == "params_M" else -i if name == "snip" else i for name in names]
        rows += [f"{i},cifar10," + ",".join(map(str, values)), f"{i},other," + ",".join(["9"] * len(names))]
    _write(folder / "nb201_zero_cost.csv.gz", rows)
    return tmp_path


def _write(path: Path, lines: list[str]) -> None:
    with gzip.open(path, "wt") as file:
        file.write("\n".join(lines))


def test_ours_are_ranked_against_the_table(data: Path) -> None:
    found = proxies.run(n=4, seed=0, data=str(data))
    assert found["n"] == 4
    assert found["metrics"]["params_equal"] == 1
    assert found["metrics"]["spearman_params"] == pytest.approx(1)
    assert found["metrics"]["spearman_synflow"] == pytest.approx(1)
    assert found["baselines"]["accuracy_published"]["snip"] == pytest.approx(-1)
    assert found["baselines"]["accuracy_ours"]["params"] > 0.9


def test_without_tables_it_says_which(tmp_path: Path) -> None:
    with pytest.raises(SpaceError, match=r"nb201_zero_cost\.csv\.gz"):
        proxies.run(quick=True, data=str(tmp_path))


def test_ranks_share_the_mean_of_ties() -> None:
    assert ranks(np.array([3.0, 1.0, 3.0, 9.0])).tolist() == [1.5, 0.0, 1.5, 3.0]
    assert ranks(np.array([-math.inf, 2.0])).tolist() == [0.0, 1.0]


def test_correlations_are_those_of_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(0)
    for _ in range(5):
        left = rng.integers(0, 8, 600).astype(float)
        right = left + rng.integers(0, 12, 600)
        assert kendall(left, right) == pytest.approx(stats.kendalltau(left, right).statistic)
        assert spearman(left, right) == pytest.approx(stats.spearmanr(left, right).statistic)
    assert math.isnan(kendall(left, np.zeros(600)))
    assert math.isnan(spearman(left, np.zeros(600)))
