"""Curves as SVG for a page: text, no library. Colours and sizes of letters are the page's own (classes)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

WIDTH, HEIGHT = 640, 250
LEFT, RIGHT, TOP, BOTTOM = 66, 12, 12, 40  # around the area that is drawn on
LETTER = 13  # height of a label
LABELLED = 16  # room to the right of curves for their labels
MOST = 500  # points of a curve; of more, means of neighbours are drawn

Point = tuple[float, float]


class Curve(NamedTuple):
    """A line through points, or with `dots` through few that are marked and tell their values."""

    style: str  # class for its colour
    points: Sequence[Point]
    dots: bool = False
    label: str = ""  # a letter or two that stand at its end


class _Scale:
    """Values to places along an axis, linear or logarithmic."""

    def __init__(self, values: Sequence[float], start: float, end: float, logarithmic: bool) -> None:
        self._log = logarithmic and min(values) > 0
        low, high = min(values), max(values)
        if low == high:
            low, high = (low / 2, high * 2) if self._log else (low - 0.5, high + 0.5)
        self.low, self.high = low, high
        self._start, self._end = start, end

    def __call__(self, value: float) -> float:
        low, high = self._map(self.low), self._map(self.high)
        share = (self._map(value) - low) / (high - low)
        return round(self._start + share * (self._end - self._start), 1)

    def _map(self, value: float) -> float:
        return math.log10(value) if self._log else value

    def ticks(self) -> list[float]:
        """Three to seven round values within."""
        if self._log and self.high / self.low >= 100:
            first, last = math.ceil(math.log10(self.low)), math.floor(math.log10(self.high))
            return [10.0**k for k in range(first, last + 1, 1 + (last - first) // 6)]
        rough = (self.high - self.low) / 5
        unit = 10 ** math.floor(math.log10(rough))
        step = next(m * unit for m in (1, 2, 2.5, 5, 10) if m * unit >= rough * 0.999)
        first, last = math.ceil(self.low / step), math.floor(self.high / step)
        return [float(f"{k * step:.6g}") for k in range(first, last + 1)]


def chart(
    title: str,
    curves: Sequence[Curve],
    x_label: str,
    *,
    logarithmic: bool = False,
    from_zero: bool = False,
    level: float | None = None,
    events: Sequence[float] = (),
) -> str:
    """An <svg> of curves over a common x; empty where there is not a finite point.

    `level` is a dashed line across, `events` are dashed lines from top to bottom.
    """
    curves = [curve._replace(points=_thinned(curve)) for curve in curves]
    drawn = [point for curve in curves for point in curve.points]
    if not drawn:
        return ""
    end = WIDTH - RIGHT - LABELLED * any(curve.label for curve in curves)
    x = _Scale([0.0, *(point[0] for point in drawn)], LEFT, end, False)
    heights = [point[1] for point in drawn] + ([] if level is None else [level]) + [0.0] * from_zero
    y = _Scale(heights, HEIGHT - BOTTOM - 6, TOP, logarithmic)
    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">']
    parts += _axes(x, y, x_label)
    parts += [
        f'<path class="event" d="M{x(e)} {TOP}V{HEIGHT - BOTTOM}"/>' for e in events if x.low <= e <= x.high
    ]
    if level is not None:
        parts.append(f'<path class="level" d="M{LEFT} {y(level)}H{WIDTH - RIGHT}"/>')
    for curve in curves:
        parts += _drawn(curve, x, y)
    parts += _labels(curves, x, y)
    return "\n".join([*parts, "</svg>"])


def _axes(x: _Scale, y: _Scale, x_label: str) -> list[str]:
    bottom = HEIGHT - BOTTOM
    parts = []
    for value in y.ticks():
        parts.append(f'<path class="grid" d="M{LEFT} {y(value)}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text class="y" x="{LEFT - 6}" y="{y(value)}">{value:g}</text>')
    for value in x.ticks():
        parts.append(f'<path class="grid" d="M{x(value)} {bottom}v4"/>')
        parts.append(f'<text class="x" x="{x(value)}" y="{bottom + 6}">{value:g}</text>')
    parts.append(f'<text class="label" x="{WIDTH - RIGHT}" y="{HEIGHT - 5}">{escape(x_label)}</text>')
    return parts


def _drawn(curve: Curve, x: _Scale, y: _Scale) -> list[str]:
    places = [f"{x(a)},{y(b)}" for a, b in curve.points]
    parts = [f'<polyline class="{curve.style}" points="{" ".join(places)}"/>']
    if curve.dots:
        parts += [
            f'<circle class="{curve.style}" cx="{x(a)}" cy="{y(b)}" r="3"><title>{b:.4f}</title></circle>'
            for a, b in curve.points
        ]
    return parts


def _labels(curves: Sequence[Curve], x: _Scale, y: _Scale) -> list[str]:
    """The labels at the ends of curves; where they would lie on each other, below each other."""
    ends = [(*curve.points[-1], curve) for curve in curves if curve.label and curve.points]
    places = sorted((y(b), x(a), curve.style, curve.label) for a, b, curve in ends)
    parts, above = [], -math.inf
    for height, place, style, label in places:
        above = max(height, above + LETTER)
        parts.append(
            f'<text class="end {style}" x="{place + 4}" y="{round(above, 1)}">{escape(label)}</text>'
        )
    return parts


def _thinned(curve: Curve) -> list[Point]:
    """Its finite points, or means of neighbours where there are too many."""
    points = [point for point in curve.points if math.isfinite(point[1])]
    size = 1 if curve.dots else math.ceil(len(points) / MOST)
    groups = [points[k : k + size] for k in range(0, len(points), max(1, size))]
    return [(sum(a for a, _ in g) / len(g), sum(b for _, b in g) / len(g)) for g in groups]
