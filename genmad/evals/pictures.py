"""Pictures of evaluations, each one PNG. matplotlib is loaded only when one is asked for."""

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genmad.ir import Diagnostic, GenmadError

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

POOLS = ("inverted", "unguided", "guided")
Curves = Mapping[str, Mapping[str, Sequence[float]]]


class PictureError(GenmadError):
    """A picture that cannot be drawn, or a file that cannot be written."""

    exit_code = 2

    def __init__(self, diagnostic: Diagnostic) -> None:
        self.diagnostic = diagnostic
        super().__init__(str(diagnostic))


def check_picture(text: str) -> Path:
    """The file to write, looked at before the long run. Raises `PictureError`."""
    path = Path(text)
    if path.suffix != ".png":
        raise _refused(text, "a file name that ends in .png")
    if not path.parent.is_dir():
        raise _refused(f"{text}, whose folder does not exist", "a file in a folder that exists")
    if importlib.util.find_spec("matplotlib") is None:
        raise _refused("no matplotlib, which draws", "an installation that has it", "pip install matplotlib")
    return path


def save_distributions(path: Path, title: str, spread: Mapping[str, Any], means: Mapping[str, float]) -> None:
    """One panel per target: true labels of guided, unguided and inverted pools, their means as dashed lines.

    `spread` holds for each target the bins' `edges` and a histogram per pool; `means` is as in the report.
    """
    figure, panels = _panels(len(spread))
    for axes, (target, histograms) in zip(panels, spread.items(), strict=True):
        for number, pool in enumerate(POOLS):
            mean, colour = means[f"mean_{pool}_{target}"], f"C{number}"
            axes.stairs(
                histograms[pool], histograms["edges"], label=f"{pool}, mean {mean:.2f}", color=colour,
                fill=True, alpha=0.4,
            )  # fmt: skip
            axes.axvline(mean, color=colour, linestyle="--", linewidth=1)
        axes.set(title=f"{title}, {target}", xlabel="true test accuracy", ylabel="members")
        axes.legend(loc="upper left")
    _save(figure, path)


def save_curves(
    path: Path, title: str, at: Sequence[int], curves: Curves, goals: Mapping[str, tuple[str, float]]
) -> None:
    """One panel per goal: the median best label of each method by number of queries, the goal as a dashed line."""
    figure, panels = _panels(len(goals))
    for axes, (short, (column, goal)) in zip(panels, goals.items(), strict=True):
        for method, found in curves.items():
            axes.plot(at, found[short], marker=".", label=method, linewidth=2 if method == "generator" else 1)
        axes.axhline(goal, color="black", linestyle="--", linewidth=1)
        # The first queries are far below and would flatten the rest.
        late = [value for found in curves.values() for value in found[short][2:]]
        low, high = min([*late, goal]), max([*late, goal])
        axes.set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low) + 1e-9)
        axes.set(title=f"{title}, {short}", xscale="log", xlabel="queries", ylabel=f"median best {column}")
        axes.legend(loc="lower right")
    _save(figure, path)


def save_fronts(path: Path, fields: Mapping[str, Mapping[str, "NDArray[np.float64]"]]) -> None:
    """One panel per field: each search's front as steps; points are latency in ms and negated accuracy in per cent."""
    figure, panels = _panels(len(fields))
    for axes, (name, fronts) in zip(panels, fields.items(), strict=True):
        for search, points in fronts.items():
            style = ":" if search.startswith("poster") else "--" if search == "labelled_3000" else "-"
            marker = "." if len(points) == 1 else ""
            axes.step(points[:, 0], -points[:, 1], where="post", label=search, linewidth=1, linestyle=style,
                      marker=marker)  # fmt: skip
        axes.set(title=name, xscale="log", xlabel="latency, ms", ylabel="accuracy, %")
        axes.legend(loc="lower right", fontsize="x-small")
    _save(figure, path)


def _panels(count: int) -> "tuple[Figure, Sequence[Axes]]":
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6 * count, 4), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(1, count, squeeze=False)[0].tolist()


def _save(figure: "Figure", path: Path) -> None:
    try:
        figure.savefig(path, dpi=120, metadata={"Software": None})
    except OSError as error:
        raise _refused(f"{path}: {error.strerror or error}", "a file that can be written") from error


def _refused(got: str, expected: str, fix: str = "") -> PictureError:
    return PictureError(Diagnostic(where="--picture", got=got, expected=expected, fix=fix or "leave --picture out"))
