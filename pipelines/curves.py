"""Line charts as SVG, small enough to sit in a data: URI."""

import base64
from collections.abc import Mapping, Sequence
from html import escape

Points = Sequence[tuple[float, float]]

_WIDTH, _HEIGHT, _MARGIN = 640, 240, 40
_COLOURS = ("#2f6fde", "#d9822b", "#2b9a66", "#a448c8", "#c23030", "#5c7080")


def data_uri(svg: str) -> str:
    """`svg` as an address that an <img> shows."""
    return f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}"


def line_chart(title: str, lines: Mapping[str, Points]) -> str:
    """A chart of (x, y) lines over common axes; lines without points are left out."""
    lines = {name: points for name, points in lines.items() if points}
    xs = [x for points in lines.values() for x, _ in points] or [0.0]
    ys = [y for points in lines.values() for _, y in points] or [0.0]
    shapes = [
        _line(number, name, [(_across(x, xs), _up(y, ys)) for x, y in points])
        for number, (name, points) in enumerate(lines.items())
    ]
    text = f'<text x="{_MARGIN}" y="18" font-size="14">{escape(title)}</text>'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{_HEIGHT}" font-family="sans-serif">'
        f'<rect width="100%" height="100%" fill="white"/>{text}{_axes(xs, ys)}{"".join(shapes)}</svg>'
    )


def _line(number: int, name: str, points: Points) -> str:
    colour = _COLOURS[number % len(_COLOURS)]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    label = f'<text x="{_WIDTH - 190}" y="{_MARGIN + 14 * number}" font-size="11" fill="{colour}">{escape(name)}</text>'
    dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2" fill="{colour}"/>' for x, y in points)
    return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>{dots}{label}'


def _axes(xs: Sequence[float], ys: Sequence[float]) -> str:
    bottom, right = _HEIGHT - _MARGIN, _WIDTH - _MARGIN
    frame = f'<path d="M{_MARGIN},{_MARGIN} V{bottom} H{right}" fill="none" stroke="#888"/>'
    marks = (
        (_MARGIN - 4, bottom, "end", min(ys)),
        (_MARGIN - 4, _MARGIN + 8, "end", max(ys)),
        (_MARGIN, bottom + 16, "middle", min(xs)),
        (right, bottom + 16, "middle", max(xs)),
    )
    labels = "".join(
        f'<text x="{x}" y="{y}" font-size="10" text-anchor="{anchor}">{value:.4g}</text>'
        for x, y, anchor, value in marks
    )
    return frame + labels


def _across(x: float, xs: Sequence[float]) -> float:
    return _MARGIN + (x - min(xs)) / (max(xs) - min(xs) or 1) * (_WIDTH - 2 * _MARGIN)


def _up(y: float, ys: Sequence[float]) -> float:
    return _HEIGHT - _MARGIN - (y - min(ys)) / (max(ys) - min(ys) or 1) * (_HEIGHT - 2 * _MARGIN)
