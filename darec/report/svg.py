"""Charts as SVG: inline in the report, with colours from its CSS, or as images with their own colours.

They are built as an element tree, so any text in them is escaped.
"""

import base64
from collections.abc import Sequence
from math import floor, log10
from xml.etree.ElementTree import Element, SubElement, tostring

from markupsafe import Markup

from darec.report.content import Chart, Panel

_WIDTH, _HEIGHT = 360, 190  # units of the view box, about one pixel each on a phone
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 10, 8, 22
_COLOURS = ("#2f6fde", "#d9822b", "#2b9a66", "#a448c8", "#c23030", "#5c7080")
_STYLE = """svg{font:9px sans-serif;background:#fff} text{fill:#555} .grid{stroke:#ddd} .mark{stroke:#888;
stroke-dasharray:3 3} .line{fill:none;stroke-width:1.5}""" + "".join(
    f".line.c{number}{{stroke:{colour}}} .c{number}{{fill:{colour}}}" for number, colour in enumerate(_COLOURS)
)


def line_chart(chart: Chart) -> Markup:
    """Lines over a common x, the kept epoch as a dashed vertical line; empty without points."""
    root = _line_chart(chart)
    return Markup("") if root is None else _markup(root)


def line_chart_uri(chart: Chart) -> str:
    """The same chart with its own colours and legend, as a data URL for an <img>."""
    root = _line_chart(chart)
    if root is None:
        root = _root(_HEIGHT, chart.title)
    root.set("xmlns", "http://www.w3.org/2000/svg")
    style = Element("style")
    style.text = _STYLE
    root.insert(0, style)
    for number, line in enumerate(line for line in chart.lines if line.points):
        legend = SubElement(root, "text", {"class": f"c{number}", "x": str(_WIDTH - 130), "y": str(18 + 11 * number)})
        legend.text = line.name

    return f"data:image/svg+xml;base64,{base64.b64encode(_markup(root).encode()).decode()}"


def _line_chart(chart: Chart) -> Element | None:
    lines = [line for line in chart.lines if line.points]
    points = [point for line in lines for point in line.points]
    if not points:
        return None

    x, y = (_Scale.of([point[side] for point in points], *room) for side, room in enumerate(_rooms(_HEIGHT)))
    root = _root(_HEIGHT, chart.title)
    _grid(root, x, y, chart.x_label)
    if chart.mark is not None:
        at = _text(x(chart.mark))
        SubElement(root, "line", {"class": "mark", "x1": at, "x2": at, "y1": str(_TOP), "y2": str(_HEIGHT - _BOTTOM)})

    for number, line in enumerate(lines):
        path = " ".join(f"{_text(x(a))},{_text(y(b))}" for a, b in line.points)
        SubElement(root, "polyline", {"class": f"line c{number}", "points": path})
        last_x, last_y = line.points[-1]
        _dot(root, f"end c{number}", x(last_x), y(last_y), 2.5, f"{line.name}: {last_y:.4g}")

    return root


def scatter(panel: Panel) -> Markup:
    """Dots in the colours of their groups; a dot's title shows under the pointer."""
    if not panel.points:
        return Markup("")

    x = _Scale(*_bounds([point[0] for point in panel.points]), 6, _WIDTH - 6)
    y = _Scale(*_bounds([point[1] for point in panel.points]), _WIDTH * 0.8 - 6, 6)
    root = _root(_WIDTH * 0.8, panel.title)
    radius = 3.5 if len(panel.points) < 200 else 2.2
    for a, b, group, title in panel.points:
        _dot(root, f"dot c{group}", x(a), y(b), radius, title)

    return _markup(root)


class _Scale:
    """Maps values to units of the view box."""

    def __init__(self, low: float, high: float, start: float, end: float) -> None:
        self.low, self.high, self.start = low, high, start
        self.factor = (end - start) / (high - low)

    @classmethod
    def of(cls, values: Sequence[float], start: float, end: float) -> "_Scale":
        return cls(*_bounds(values), start, end)

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) * self.factor

    def ticks(self, count: int = 4) -> list[float]:
        """Round values inside the range, about `count` of them."""
        raw = (self.high - self.low) / count
        unit = 10 ** floor(log10(raw))
        step = next(factor * unit for factor in (1, 2, 5, 10) if factor * unit >= raw * 0.999)
        first = -floor(-self.low / step)
        return [number * step for number in range(first, floor(self.high / step + 1e-9) + 1)]


def _bounds(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    if high - low > 1e-9 * max(1.0, abs(high)):
        return low, high
    return low - (abs(low) * 0.1 or 0.5), high + (abs(high) * 0.1 or 0.5)


def _rooms(height: float) -> tuple[tuple[float, float], tuple[float, float]]:
    return (_LEFT, _WIDTH - _RIGHT), (height - _BOTTOM, _TOP)


def _root(height: float, title: str) -> Element:
    return Element("svg", {"viewBox": f"0 0 {_WIDTH} {height:g}", "role": "img", "aria-label": title})


def _grid(root: Element, x: _Scale, y: _Scale, x_label: str) -> None:
    for value in y.ticks():
        at = _text(y(value))
        SubElement(root, "line", {"class": "grid", "x1": str(_LEFT), "x2": str(_WIDTH - _RIGHT), "y1": at, "y2": at})
        _label(root, _LEFT - 5, y(value) + 3.5, "end", f"{value:.4g}")
    for value in x.ticks(5):
        _label(root, x(value), _HEIGHT - 6, "middle", f"{value:g}")
    _label(root, _LEFT - 12, _HEIGHT - 6, "end", x_label)


def _label(root: Element, x: float, y: float, anchor: str, text: str) -> None:
    SubElement(root, "text", {"x": _text(x), "y": _text(y), "text-anchor": anchor}).text = text


def _dot(root: Element, kind: str, x: float, y: float, radius: float, title: str) -> None:
    dot = SubElement(root, "circle", {"class": kind, "cx": _text(x), "cy": _text(y), "r": f"{radius:g}"})
    SubElement(dot, "title").text = title


def _text(value: float) -> str:
    return f"{value:.1f}"


def _markup(root: Element) -> Markup:
    return Markup(tostring(root, encoding="unicode"))  # ElementTree escapes all texts and attributes
