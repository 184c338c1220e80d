"""Pictures of the report as inline SVG: modules as rows of boxes, bars with error bars, the Pareto picture.

Everything is drawn from numbers; text is escaped. Colours follow the page's CSS variables, so that both themes work.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from genmad.autobuild.architecture import Floats

BOX, GAP, HIGH = 92, 18, 26
WIDE = 720
_LABEL = 190


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One bar: a name, a value and how far it may be off (0 for unknown)."""

    name: str
    value: float
    error: float = 0.0


def module_svg(layers: Sequence[str], heat: Sequence[float], *, in_chain: bool) -> str:
    """A module: a box per layer in the order of the data, arrows where each reads the one before.

    `heat` in [0, 1] per layer fills its box.
    """
    width = len(layers) * (BOX + GAP) - GAP + 2
    parts = []
    for i, (name, warmth) in enumerate(zip(layers, heat, strict=True)):
        x = 1 + i * (BOX + GAP)
        parts.append(f'<rect class="box" x="{x}" y="1" width="{BOX}" height="{HIGH}" rx="4"/>')
        parts.append(
            f'<rect class="heat" x="{x}" y="1" width="{BOX}" height="{HIGH}" rx="4" '
            f'fill-opacity="{min(max(warmth, 0.0), 1.0):.3f}"/>'
        )
        parts.append(f'<text x="{x + BOX / 2:g}" y="{HIGH / 2 + 5:g}" text-anchor="middle">{escape(name)}</text>')
        if in_chain and i:
            middle, start = 1 + HIGH / 2, x - GAP
            parts.append(f'<path class="line" d="M{start} {middle:g}H{x - 5}m-4 -4l5 4l-5 4"/>')
    title = escape((" → " if in_chain else ", ").join(layers))
    return _svg(width, HIGH + 2, title, parts)


def bars_svg(bars: Sequence[Bar], title: str, *, low: float | None = None, high: float | None = None) -> str:
    """Horizontal bars from 0 (or from the edge of the range, where it lies on one side of it), with error bars."""
    if not bars:
        return ""
    ends = [bar.value + side * bar.error for bar in bars for side in (-1, 1)]
    least = min(0.0, *ends) if low is None else low
    most = max(0.0, *ends) if high is None else high
    span = (most - least) or 1.0
    row, room = 22, WIDE - _LABEL - 90

    def at(value: float) -> float:
        return _LABEL + room * (min(max(value, least), most) - least) / span

    parts = []
    for i, bar in enumerate(bars):
        y = 4 + i * row
        start, end = sorted((at(0.0), at(bar.value)))
        parts.append(f'<text x="{_LABEL - 8}" y="{y + 14}" text-anchor="end">{escape(bar.name)}</text>')
        parts.append(f'<rect class="bar" x="{start:.1f}" y="{y + 3}" width="{max(end - start, 1):.1f}" height="14"/>')
        if bar.error > 0:
            a, b = at(bar.value - bar.error), at(bar.value + bar.error)
            parts.append(f'<path class="line" d="M{a:.1f} {y + 10}H{b:.1f}M{a:.1f} {y + 6}v8M{b:.1f} {y + 6}v8"/>')
        spread = f" ± {bar.error:.3g}" if bar.error > 0 else ""
        parts.append(f'<text x="{WIDE - 84}" y="{y + 14}">{bar.value:.3g}{spread}</text>')
    parts.append(f'<path class="axis" d="M{at(0.0):.1f} 2V{len(bars) * row + 4}"/>')
    return _svg(WIDE, len(bars) * row + 8, title, parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cloud:
    """A scatter: points, and which of them stand out.

    Attributes:
        x, y: float64[N].
        marked: bool[N], members of the Pareto front.
        names: one per point.
        x_name, y_name: of the axes.
    """

    x: Floats
    y: Floats
    marked: np.ndarray
    names: Sequence[str]
    x_name: str
    y_name: str


MOST_POINTS = 1500


def cloud_svg(cloud: Cloud) -> str:
    """Points and the front as a stepped line; where there are very many, every k-th point off the front."""
    width, height, left, base = WIDE, 330, 70, 40
    ticks_x, ticks_y = _ticks(cloud.x), _ticks(cloud.y)

    def across(value: float) -> float:
        return left + (width - left - 16) * (value - ticks_x[0]) / (ticks_x[-1] - ticks_x[0])

    def up(value: float) -> float:
        return height - base - (height - base - 12) * (value - ticks_y[0]) / (ticks_y[-1] - ticks_y[0])

    parts = []
    for tick in ticks_x:
        parts.append(f'<path class="grid" d="M{across(tick):.1f} 12V{height - base}"/>')
        parts.append(f'<text x="{across(tick):.1f}" y="{height - base + 16}" text-anchor="middle">{tick:.4g}</text>')
    for tick in ticks_y:
        parts.append(f'<path class="grid" d="M{left} {up(tick):.1f}H{width - 16}"/>')
        parts.append(f'<text x="{left - 6}" y="{up(tick) + 4:.1f}" text-anchor="end">{tick:.5g}</text>')
    others = np.flatnonzero(~cloud.marked)
    step = max(1, -(-len(others) // MOST_POINTS))
    for i in others[::step]:
        parts.append(f'<circle class="dot" cx="{across(cloud.x[i]):.1f}" cy="{up(cloud.y[i]):.1f}" r="2"/>')
    best = np.flatnonzero(cloud.marked)
    best = best[np.argsort(cloud.x[best], kind="stable")].tolist()
    if best:
        path = f"M{across(cloud.x[best[0]]):.1f} {up(cloud.y[best[0]]):.1f}"
        path += "".join(f"H{across(cloud.x[i]):.1f}V{up(cloud.y[i]):.1f}" for i in best[1:])
        parts.append(f'<path class="front" d="{path}"/>')
    for i in best:
        name = f"{escape(cloud.names[i])}: {cloud.x[i]:.5g}, {cloud.y[i]:.5g}"
        dot = f'<circle class="best" cx="{across(cloud.x[i]):.1f}" cy="{up(cloud.y[i]):.1f}" r="4">'
        parts.append(f"{dot}<title>{name}</title></circle>")
    parts.append(
        f'<text x="{(left + width) / 2:g}" y="{height - 6}" text-anchor="middle">{escape(cloud.x_name)}</text>'
    )
    parts.append(
        f'<text transform="translate(14 {height / 2:g}) rotate(-90)" text-anchor="middle">{escape(cloud.y_name)}</text>'
    )
    return _svg(width, height, f"{cloud.y_name} over {cloud.x_name}", parts)


def _ticks(values: Floats) -> list[float]:
    """Four to eight round numbers around the values."""
    low, high = float(values.min()), float(values.max())
    if high <= low:
        high = low + (abs(low) or 1.0)
    rough = (high - low) / 5
    power = 10.0 ** np.floor(np.log10(rough))
    step = float(next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough))
    first, last = int(np.floor(low / step)), int(np.ceil(high / step))
    return [k * step for k in range(first, last + 1)]


def _svg(width: float, height: float, title: str, parts: Sequence[str]) -> str:
    head = f'<svg viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}" role="img">'
    return f"{head}<title>{escape(title)}</title>{''.join(parts)}</svg>"
