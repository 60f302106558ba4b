"""Render line plots as plain SVG, which needs no library and displays in any browser."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

_WIDTH, _HEIGHT = 640, 360
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 150, 40, 50
_OPENING = (
    f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{_HEIGHT}" '
    'font-family="sans-serif" font-size="12">'
)
# The palette of Okabe and Ito, which colour-blind readers can distinguish.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")


@dataclass(frozen=True, slots=True)
class Line:
    """A named series of (x, y), sorted by x."""

    name: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class _Scale:
    """Converts values to pixels."""

    max_x: float
    max_y: float
    step_y: float

    def to_pixels(self, x: float, y: float) -> tuple[float, float]:
        across = _LEFT + x / self.max_x * (_WIDTH - _LEFT - _RIGHT)
        down = _HEIGHT - _BOTTOM - y / self.max_y * (_HEIGHT - _TOP - _BOTTOM)
        return round(across, 1), round(down, 1)


def render_line_plot(lines: Sequence[Line], *, title: str, x: str, y: str) -> str:
    """Render the lines as an SVG document. Both axes start at 0."""
    scale = _build_scale(lines)
    parts = [
        _OPENING,
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
        _draw_text(_LEFT, 20, title, size=15),
        _draw_text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 10, x, anchor="middle"),
        _draw_text(_LEFT, _TOP - 8, y, size=11),
        *_draw_axes(lines, scale),
    ]
    for number, line in enumerate(lines):
        parts += _draw_line(line, scale, number)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _build_scale(lines: Sequence[Line]) -> _Scale:
    points = [point for line in lines for point in line.points]
    highest = max((y for _, y in points), default=0.0) or 1.0
    step = _tick_step(highest)
    return _Scale(
        max_x=max((x for x, _ in points), default=0.0) or 1.0,
        max_y=step * math.ceil(highest / step),
        step_y=step,
    )


def _draw_axes(lines: Sequence[Line], scale: _Scale) -> list[str]:
    parts = []
    for tick in range(round(scale.max_y / scale.step_y) + 1):
        value = tick * scale.step_y
        _, down = scale.to_pixels(0, value)
        parts.append(
            f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{down}" y2="{down}" stroke="#ddd"/>'
        )
        parts.append(_draw_text(_LEFT - 6, down + 4, f"{value:g}", anchor="end"))
    ticks = sorted({x for line in lines for x, _ in line.points})
    below = _HEIGHT - _BOTTOM + 18
    return parts + [
        _draw_text(scale.to_pixels(x, 0)[0], below, f"{x:g}", anchor="middle") for x in ticks
    ]


def _draw_line(line: Line, scale: _Scale, number: int) -> list[str]:
    colour = _COLOURS[number % len(_COLOURS)]
    pixels = [scale.to_pixels(*point) for point in line.points]
    path = " ".join(f"{across},{down}" for across, down in pixels)
    return [
        f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>',
        *(f'<circle cx="{a}" cy="{d}" r="3" fill="{colour}"/>' for a, d in pixels),
        _draw_text(_WIDTH - _RIGHT + 12, _TOP + 18 * number, line.name, colour=colour),
    ]


def _tick_step(max_value: float) -> float:
    """The distance of two ticks: 1, 2 or 5 times a power of ten, at most eight fill the axis."""
    power = 10.0 ** math.floor(math.log10(max_value / 4))
    return next(power * factor for factor in (1, 2, 5, 10) if max_value / (power * factor) <= 8)


def _draw_text(
    x: float, y: float, text: str, *, anchor: str = "start", size: int = 12, colour: str = "#333"
) -> str:
    return (
        f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" font-size="{size}" fill="{colour}">'
        f"{escape(text)}</text>"
    )
