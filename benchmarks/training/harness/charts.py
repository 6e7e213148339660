"""Line charts as SVG: enough to see how a cost grows.

Both axes are linear and begin at 0, so a cost in proportion to the size is a straight line through
the corner, and what bends upwards grows faster.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil
from xml.sax.saxutils import escape

from pipeline_lib.evaluation.charts import nice_ticks

_COLOURS = ("#1f5fa8", "#c2571a", "#2f7d4f", "#8a4fa3")
_DASHES = ("none", "6 3", "2 3", "8 3 2 3")
_WIDTH, _HEIGHT, _COLUMNS = 420, 300, 2
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 24, 34, 46
_LEGEND_LINE = 16


@dataclass(frozen=True)
class Line:
    """Points from left to right."""

    name: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Panel:
    """One chart."""

    title: str
    x_title: str
    y_title: str
    lines: tuple[Line, ...]


def draw(panels: Sequence[Panel]) -> str:
    """An SVG document of charts, two in a row."""
    parts = [
        f'<g transform="translate({number % _COLUMNS * _WIDTH} {number // _COLUMNS * _HEIGHT})">'
        f"{_draw_panel(panel)}</g>"
        for number, panel in enumerate(panels)
    ]
    width, height = _WIDTH * _COLUMNS, _HEIGHT * ceil(len(panels) / _COLUMNS)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="11">'
        f'<rect width="{width}" height="{height}" fill="white"/>{"".join(parts)}</svg>\n'
    )


def _draw_panel(panel: Panel) -> str:
    points = [point for line in panel.lines for point in line.points]
    x_ticks = nice_ticks(0, max(x for x, _ in points))
    y_ticks = nice_ticks(0, max(y for _, y in points))

    def x(value: float) -> float:
        return _LEFT + value / x_ticks[-1] * (_WIDTH - _LEFT - _RIGHT)

    def y(value: float) -> float:
        return _HEIGHT - _BOTTOM - value / y_ticks[-1] * (_HEIGHT - _TOP - _BOTTOM)

    parts = [_text(_WIDTH / 2, 18, panel.title, "middle", weight="bold")]
    for tick in y_ticks:
        parts.append(
            f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y(tick):.1f}" y2="{y(tick):.1f}" '
            'stroke="#ddd"/>'
        )
        parts.append(_text(_LEFT - 6, y(tick) + 4, f"{tick:g}", "end"))
    parts += [_text(x(v), _HEIGHT - _BOTTOM + 16, f"{v:g}", "middle") for v in x_ticks]
    parts.append(_text(_WIDTH / 2, _HEIGHT - 8, panel.x_title, "middle"))
    parts.append(
        f'<g transform="translate(14 {_HEIGHT / 2}) rotate(-90)">'
        f"{_text(0, 0, panel.y_title, 'middle')}</g>"
    )
    for number, line in enumerate(panel.lines):
        parts.append(_draw_line(line, number, x, y))
    return "".join(parts)


def _draw_line(
    line: Line, number: int, x: Callable[[float], float], y: Callable[[float], float]
) -> str:
    colour, dash = _COLOURS[number % len(_COLOURS)], _DASHES[number % len(_DASHES)]
    places = [(x(a), y(b)) for a, b in line.points]
    corners = " ".join(f"{a:.1f},{b:.1f}" for a, b in places)
    dots = "".join(f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3" fill="{colour}"/>' for a, b in places)
    top = _TOP + 6 + number * _LEGEND_LINE
    key = (
        f'<line x1="{_LEFT + 8}" x2="{_LEFT + 36}" y1="{top}" y2="{top}" stroke="{colour}" '
        f'stroke-width="2" stroke-dasharray="{dash}"/>{_text(_LEFT + 42, top + 4, line.name)}'
    )
    return (
        f'<polyline points="{corners}" fill="none" stroke="{colour}" stroke-width="2" '
        f'stroke-dasharray="{dash}"/>{dots}{key}'
    )


def _text(
    x: float, y: float, content: str, anchor: str = "start", *, weight: str = "normal"
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-weight="{weight}">'
        f"{escape(content)}</text>"
    )
