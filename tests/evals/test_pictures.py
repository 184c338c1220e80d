"""Pictures of evaluations: one PNG with what was asked for, and a clear word where there can be none."""

import importlib.util
from pathlib import Path

import pytest

from genmad.evals.pictures import POOLS, PictureError, check_picture, save_curves, save_distributions

PNG = b"\x89PNG\r\n\x1a\n"


def test_distributions_and_curves_are_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    pools = {name: [1, 2, 3] for name in POOLS}
    spread = {"c10": {"edges": [0, 1, 2, 3], **pools}, "c100": {"edges": [4, 5, 6, 7], **pools}}
    means = {f"mean_{pool}_{target}": 1.5 for pool in POOLS for target in spread}
    save_distributions(tmp_path / "a.png", "NAS-Bench-201", spread, means)
    curves = {name: {"c10": [80.0, 90.0, 94.0], "c100": [40.0, 60.0, 73.0]} for name in ("generator", "random")}
    save_curves(tmp_path / "b.png", "NAS-Bench-201", (1, 10, 100), curves, {"c10": ("c10_test", 94.37)})
    for name in ("a.png", "b.png"):
        assert (tmp_path / name).read_bytes().startswith(PNG)


def test_what_cannot_be_drawn_is_told_before_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from genmad.evals import pools, search

    with pytest.raises(PictureError, match=r"ends in \.png"):
        search.run(picture="curves.svg")
    with pytest.raises(PictureError, match="does not exist"):
        check_picture(str(tmp_path / "nowhere" / "a.png"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(PictureError, match="pip install matplotlib"):
        check_picture(str(tmp_path / "a.png"))
    monkeypatch.undo()
    pytest.importorskip("matplotlib")
    with pytest.raises(PictureError, match="--quick"):
        pools.run(quick=True, picture=str(tmp_path / "a.png"))
    with pytest.raises(PictureError, match="every member of enas"):
        pools.run(space="enas", picture=str(tmp_path / "a.png"))
    assert list(tmp_path.iterdir()) == []
