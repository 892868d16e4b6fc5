"""Line charts as SVG text: small enough to stand inside a page, coloured by the page's own style sheet."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 480, 300
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 14, 40  # room for the labels around the plot
MOST_MARKERS = 40  # points of a longer curve are not marked one by one


@dataclass(frozen=True)
class Curve:
    """A named sequence of points (x, y); y may be NaN where nothing was measured.

    Attributes:
        style: CSS classes: `run0`, `run1`, … choose the colour, `train` draws dashes.
    """

    name: str
    points: Sequence[tuple[float, float]]
    style: str


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) that cover [low, high] in about `count` steps."""
    span = (high - low) or abs(high) or 1.0
    power = 10.0 ** math.floor(math.log10(span / count))
    step = next(m * power for m in (1, 2, 5, 10) if m * power * count >= span * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [i * step for i in range(first, max(last, first + 1) + 1)]


def line_chart(title: str, curves: Sequence[Curve], *, percent: bool = False, x_label: str = "epoch") -> str:
    """An `<svg>` with the curves over common axes.

    Args:
        percent: the values are fractions, and the axis says per cent.
    """
    finite = [(x, y) for curve in curves for x, y in curve.points if math.isfinite(y)]
    xs = [x for x, _ in finite] or [0.0]
    ys = [y for _, y in finite] or [0.0]
    floor = 0.0 if not percent and 0 <= min(ys) < 0.5 * max(ys) else min(ys)
    y_ticks = ticks(floor, max(ys))
    x_low, x_high = min(xs), max(xs)
    y_low, y_high = y_ticks[0], y_ticks[-1]

    def across(x: float) -> float:
        share = (x - x_low) / (x_high - x_low) if x_high > x_low else 0.5
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    def down(y: float) -> float:
        return TOP + (y_high - y) / (y_high - y_low) * (HEIGHT - TOP - BOTTOM)

    digits = max(0, -math.floor(math.log10(y_ticks[1] - y_ticks[0]) + 1e-9) - (2 if percent else 0))
    parts = []
    for y in y_ticks:
        text = f"{100 * y:.{digits}f} %" if percent else f"{y:.{digits}f}"
        parts.append(f'<path class="grid" d="M{LEFT} {down(y):.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{down(y) + 4:.1f}" text-anchor="end">{text}</text>')
    for x in ticks(x_low, x_high, 6):
        if x_low <= x <= x_high and x == round(x):
            parts.append(f'<text x="{across(x):.1f}" y="{HEIGHT - 20}" text-anchor="middle">{x:.0f}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 3}" text-anchor="middle">{escape(x_label)}</text>')
    for curve in curves:
        parts.append(f'<path class="curve {curve.style}" d="{_path(curve, across, down)}"/>')
        if len(curve.points) <= MOST_MARKERS:
            for x, y in curve.points:
                if math.isfinite(y):
                    value = f"{100 * y:.1f} %" if percent else f"{y:.4f}"
                    parts.append(
                        f'<circle class="{curve.style}" cx="{across(x):.1f}" cy="{down(y):.1f}" r="3">'
                        f"<title>{escape(curve.name)}, {escape(x_label)} {x:g}: {value}</title></circle>"
                    )
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">'
        f"<title>{escape(title)}</title>{''.join(parts)}</svg>"
    )


def _path(curve: Curve, across: Callable[[float], float], down: Callable[[float], float]) -> str:
    """The curve as SVG path data; the pen is lifted over values that are not finite."""
    commands, pen = [], "M"
    for x, y in curve.points:
        if math.isfinite(y):
            commands.append(f"{pen}{across(x):.1f} {down(y):.1f}")
            pen = "L"
        else:
            pen = "M"
    return "".join(commands)
