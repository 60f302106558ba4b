"""Line plots as plain SVG: no library, readable in any browser and in the repository's own viewer."""

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
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")  # told apart by the colour-blind too


@dataclass(frozen=True, slots=True)
class Line:
    """One named series of (x, y), in order of x."""

    name: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class _Scale:
    """Where a value lies on the picture."""

    most_x: float
    most_y: float
    step_y: float

    def place(self, x: float, y: float) -> tuple[float, float]:
        across = _LEFT + x / self.most_x * (_WIDTH - _LEFT - _RIGHT)
        down = _HEIGHT - _BOTTOM - y / self.most_y * (_HEIGHT - _TOP - _BOTTOM)
        return round(across, 1), round(down, 1)


def line_plot(lines: Sequence[Line], *, title: str, x: str, y: str) -> str:
    """The plot as an SVG document. Both axes start at 0."""
    scale = _scale_for(lines)
    parts = [
        _OPENING,
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
        _text(_LEFT, 20, title, size=15),
        _text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 10, x, anchor="middle"),
        _text(_LEFT, _TOP - 8, y, size=11),
        *_axes(lines, scale),
    ]
    for number, line in enumerate(lines):
        parts += _series(line, scale, number)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _scale_for(lines: Sequence[Line]) -> _Scale:
    points = [point for line in lines for point in line.points]
    highest = max((y for _, y in points), default=0.0) or 1.0
    step = _step(highest)
    return _Scale(
        most_x=max((x for x, _ in points), default=0.0) or 1.0,
        most_y=step * math.ceil(highest / step),
        step_y=step,
    )


def _axes(lines: Sequence[Line], scale: _Scale) -> list[str]:
    parts = []
    for tick in range(round(scale.most_y / scale.step_y) + 1):
        value = tick * scale.step_y
        _, down = scale.place(0, value)
        parts.append(
            f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{down}" y2="{down}" stroke="#ddd"/>'
        )
        parts.append(_text(_LEFT - 6, down + 4, f"{value:g}", anchor="end"))
    ticks = sorted({x for line in lines for x, _ in line.points})
    below = _HEIGHT - _BOTTOM + 18
    return parts + [_text(scale.place(x, 0)[0], below, f"{x:g}", anchor="middle") for x in ticks]


def _series(line: Line, scale: _Scale, number: int) -> list[str]:
    colour = _COLOURS[number % len(_COLOURS)]
    spots = [scale.place(*point) for point in line.points]
    path = " ".join(f"{across},{down}" for across, down in spots)
    return [
        f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>',
        *(f'<circle cx="{a}" cy="{d}" r="3" fill="{colour}"/>' for a, d in spots),
        _text(_WIDTH - _RIGHT + 12, _TOP + 18 * number, line.name, colour=colour),
    ]


def _step(most: float) -> float:
    """A round number that divides the axis into four to ten."""
    power = 10.0 ** math.floor(math.log10(most / 4))
    return next(power * factor for factor in (1, 2, 5, 10) if most / (power * factor) <= 8)


def _text(
    x: float, y: float, text: str, *, anchor: str = "start", size: int = 12, colour: str = "#333"
) -> str:
    return (
        f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" font-size="{size}" fill="{colour}">'
        f"{escape(text)}</text>"
    )
