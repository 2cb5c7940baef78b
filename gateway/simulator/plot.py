"""Distributions as SVG: one curve per policy, without a plotting library."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

_WIDTH, _HEIGHT = 720, 420
_LEFT, _RIGHT, _TOP, _BOTTOM = 60, 190, 40, 50
_COLOURS = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#e69f00",
    "#56b4e9",
    "#7f7f7f",
    "#000000",
    "#8c564b",
    "#bcbd22",
)
"""The first six can be told apart by the colour-blind (Okabe and Ito)."""
_LEAST_S = 1e-3
_FONT = 'font-family="sans-serif" font-size="12"'


def cdf_svg(title: str, curves: Mapping[str, Sequence[float]]) -> str:
    """Share of requests, upwards, within so many seconds, to the right on a logarithmic scale.

    curves: by name, evenly spaced quantiles in seconds. The curves are drawn as they come.
    """
    drawn = {name: points for name, points in curves.items() if points}
    every = [max(value, _LEAST_S) for points in drawn.values() for value in points] or [1.0]
    low, high = math.floor(math.log10(min(every))), math.ceil(math.log10(max(every)))
    high = max(high, low + 1)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" {_FONT}>',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
        f'<text x="{_LEFT}" y="22" font-size="15">{escape(title)}</text>',
        *_axes(low, high),
    ]
    for number, (name, points) in enumerate(drawn.items()):
        parts += _curve(number, name, points, low, high)
    return "\n".join([*parts, "</svg>\n"])


def _x(value: float, low: int, high: int) -> float:
    share = (math.log10(max(value, _LEAST_S)) - low) / (high - low)
    return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)


def _y(share: float) -> float:
    return _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)


def _axes(low: int, high: int) -> list[str]:
    parts = []
    for power in range(low, high + 1):
        x = _x(10.0**power, low, high)
        parts.append(f'<line x1="{x:.1f}" y1="{_y(1):.1f}" x2="{x:.1f}" y2="{_y(0):.1f}" stroke="#ddd"/>')
        parts.append(f'<text x="{x:.1f}" y="{_y(0) + 18:.1f}" text-anchor="middle">{10.0**power:g}</text>')
    for percent in range(0, 101, 20):
        y = _y(percent / 100)
        parts.append(f'<line x1="{_LEFT}" y1="{y:.1f}" x2="{_WIDTH - _RIGHT}" y2="{y:.1f}" stroke="#ddd"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{percent} %</text>')
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(f'<text x="{middle:.0f}" y="{_HEIGHT - 10}" text-anchor="middle">seconds</text>')
    return parts


def _curve(number: int, name: str, points: Sequence[float], low: int, high: int) -> list[str]:
    colour = _COLOURS[number % len(_COLOURS)]
    dash = ' stroke-dasharray="5 3"' if number >= len(_COLOURS) else ""
    last = max(1, len(points) - 1)
    path = " ".join(f"{_x(value, low, high):.1f},{_y(i / last):.1f}" for i, value in enumerate(points))
    x, y = _WIDTH - _RIGHT + 15, _TOP + 10 + 18 * number
    return [
        f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.8"{dash}/>',
        f'<line x1="{x}" y1="{y}" x2="{x + 20}" y2="{y}" stroke="{colour}" stroke-width="3"{dash}/>',
        f'<text x="{x + 26}" y="{y + 4}">{escape(name)}</text>',
    ]
