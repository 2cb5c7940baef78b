"""Precision against hit rate as SVG, without a plotting library: what is right of what is served, over how much is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

_WIDTH, _HEIGHT = 720, 420
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 190, 40, 50
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")
"""They can be told apart by the colour-blind (Okabe and Ito)."""
_FONT = 'font-family="sans-serif" font-size="12"'
_STEPS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2)
_MOST_LINES = 6
_BESIDE = ((7, -7, "start"), (-8, 14, "end"), (7, -7, "start"))
"""Where the names of a curve's points stand, in turn, so that those of curves that cross do not overlap."""


@dataclass(frozen=True, slots=True)
class Point:
    """Shares. `interval`: of the precision; `name`: the setting that led to it."""

    hit_rate: float
    precision: float
    interval: tuple[float, float]
    name: str


@dataclass(frozen=True, slots=True)
class Curve:
    name: str
    points: Sequence[Point]


def p_chr_svg(title: str, curves: Sequence[Curve]) -> str:
    """Precision upwards, with its interval, and hit rate to the right. Points of one curve are joined as they come;
    those without hits are left out."""
    drawn = [Curve(curve.name, [point for point in curve.points if point.hit_rate > 0]) for curve in curves]
    scale = _Scale([point for curve in drawn for point in curve.points])
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" {_FONT}>',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
        f'<text x="{_LEFT}" y="22" font-size="15">{escape(title)}</text>',
        *scale.axes(),
    ]
    for number, curve in enumerate(drawn):
        parts += _drawn(number, curve, scale)
    return "\n".join([*parts, "</svg>\n"])


class _Scale:
    def __init__(self, points: Sequence[Point]) -> None:
        lowest = min((point.precision for point in points), default=0.9)
        widest = max((point.hit_rate for point in points), default=0.1)
        self._down = _step(1.0 - lowest)
        self._across = _step(widest)
        self._low = 1.0 - self._down * max(1, math.ceil((1.0 - lowest) / self._down - 1e-9))
        self._wide = self._across * max(1, math.ceil(widest / self._across - 1e-9))

    def x(self, hit_rate: float) -> float:
        return _LEFT + hit_rate / self._wide * (_WIDTH - _LEFT - _RIGHT)

    def y(self, precision: float) -> float:
        share = (max(precision, self._low) - self._low) / (1.0 - self._low)
        return _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)

    def axes(self) -> list[str]:
        parts = []
        bottom, right = self.y(self._low), self.x(self._wide)
        for number in range(round(self._wide / self._across) + 1):
            at = number * self._across
            x = self.x(at)
            parts.append(f'<line x1="{x:.1f}" y1="{_TOP}" x2="{x:.1f}" y2="{bottom:.1f}" stroke="#ddd"/>')
            parts.append(f'<text x="{x:.1f}" y="{bottom + 18:.1f}" text-anchor="middle">{100 * at:g} %</text>')
        for number in range(round((1.0 - self._low) / self._down) + 1):
            at = 1.0 - number * self._down
            y = self.y(at)
            parts.append(f'<line x1="{_LEFT}" y1="{y:.1f}" x2="{right:.1f}" y2="{y:.1f}" stroke="#ddd"/>')
            parts.append(f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{100 * at:g} %</text>')
        middle = (_LEFT + _WIDTH - _RIGHT) / 2
        parts.append(f'<text x="{middle:.0f}" y="{_HEIGHT - 10}" text-anchor="middle">hits, of all questions</text>')
        up = (_TOP + _HEIGHT - _BOTTOM) / 2
        parts.append(
            f'<text transform="translate(18 {up:.0f}) rotate(-90)" text-anchor="middle">right, of the hits</text>'
        )
        return parts


def _step(width: float) -> float:
    return next((step for step in _STEPS if width <= _MOST_LINES * step), _STEPS[-1])


def _drawn(number: int, curve: Curve, scale: _Scale) -> list[str]:
    colour = _COLOURS[number % len(_COLOURS)]
    at = [(scale.x(point.hit_rate), scale.y(point.precision)) for point in curve.points]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in at)
    parts = [f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5" stroke-opacity="0.6"/>']
    right, down, anchor = _BESIDE[number % len(_BESIDE)]
    for (x, y), point in zip(at, curve.points, strict=True):
        low, high = (scale.y(limit) for limit in point.interval)
        parts.append(f'<line x1="{x:.1f}" y1="{low:.1f}" x2="{x:.1f}" y2="{high:.1f}" stroke="{colour}"/>')
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}"/>')
        place = f'x="{x + right:.1f}" y="{y + down:.1f}" text-anchor="{anchor}"'
        parts.append(f'<text {place} fill="{colour}">{escape(point.name)}</text>')
    x, y = _WIDTH - _RIGHT + 25, _TOP + 10 + 18 * number
    parts.append(f'<circle cx="{x}" cy="{y}" r="4" fill="{colour}"/>')
    parts.append(f'<text x="{x + 12}" y="{y + 4}">{escape(curve.name)}</text>')
    return parts
