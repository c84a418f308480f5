"""Charts as SVG: inline in a page, with colours from its CSS, or as images with their own colours.

They are built as an element tree, so any text in them is escaped.
"""

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import floor, log10
from pathlib import Path
from typing import Literal
from xml.etree.ElementTree import Element, SubElement, tostring

from markupsafe import Markup

_COLOURS = ("#2f6fd0", "#e07b1f", "#2a9d6f", "#c5415d", "#8459c9", "#b08a00", "#1aa3b8", "#a7adb7")
_STYLE = """svg{font:11px sans-serif;background:#fff} text{fill:#444} .title{font-size:14px;fill:#111}
.head{font-size:12px;fill:#111} .grid{stroke:#ddd} .frame{fill:none;stroke:#bbb} .mark{stroke:#888;stroke-dasharray:4 3}
.line{fill:none;stroke-width:1.6} .error{fill:none;stroke-width:1.4} .level{stroke-dasharray:5 4}
.cloud{fill:none;stroke-width:3;stroke-linecap:round;stroke-opacity:.65}""" + "".join(
    f".line.c{number},.error.c{number},.cloud.c{number}{{stroke:{colour}}}"
    f".bar.c{number},.dot.c{number},.end.c{number},.key.c{number}{{fill:{colour}}}"
    for number, colour in enumerate(_COLOURS)
)
_LETTER = 6.0  # about the width of a letter of 11px


@dataclass(frozen=True)
class Series:
    """Values that are drawn in one colour."""

    name: str
    points: tuple[tuple[float, float], ...]
    kind: Literal["line", "marked", "dots", "bars", "level"] = "line"
    """`marked` is a line with a dot at every point, `level` a dashed horizontal line at the y of its first point."""
    x_errors: tuple[float, ...] = ()
    """Half the length of each point's horizontal error bar; empty for none."""
    y_errors: tuple[float, ...] = ()
    """The same, vertical."""
    labels: tuple[str, ...] = ()
    """Texts to the right of the points."""
    base: tuple[float, ...] = ()
    """The lower end of each bar; 0 if empty."""
    width: float = 0.8
    """Of a bar, in units of x."""
    colour: int | None = None
    """Number of the colour; by default the place of the series in its chart."""


@dataclass(frozen=True)
class Chart:
    """Series over a common x."""

    title: str
    x_label: str
    series: tuple[Series, ...]
    mark: float | None = None
    """The x of a dashed vertical line, such as the kept epoch."""
    y_label: str = ""
    """Only in images."""
    x_names: tuple[str, ...] = ()
    """Names of the values 0, 1, ... of x. They are shown instead of numbers."""
    y_names: tuple[str, ...] = ()
    """Names of the values 0, 1, ... of y, from top to bottom."""
    y_range: tuple[float, float] | None = None
    """The smallest and largest y; by default those of the series."""


@dataclass(frozen=True)
class Scatter:
    """Points of a plane without axes, such as a projection."""

    title: str
    points: tuple[tuple[float, float, int, str], ...]
    """x, y, number of the colour, and the text under the pointer; the text may be empty."""
    names: tuple[str, ...] = ()
    """What the colours stand for, in the legend of an image."""


@dataclass(frozen=True)
class Figure:
    """Charts in rows under a common title and legend."""

    title: str
    rows: tuple[tuple[Chart | Scatter, ...], ...]
    width: float = 420
    """Of each chart's plane, in units of about one pixel."""
    height: float = 260


def line_chart(chart: Chart) -> Markup:
    """The chart for a page, without its title and legend; empty without points."""
    if not _has_points(chart):
        return Markup("")

    root = _root(360, 190, chart.title)
    frame = _Frame(46, 350, 8, 168)
    _draw(root, chart, frame)
    _label(root, frame.left - 12, frame.bottom + 16, "end", chart.x_label)
    return _markup(root)


def scatter(panel: Scatter) -> Markup:
    """The points for a page; a point's text shows under the pointer. Empty without points."""
    if not _has_points(panel):
        return Markup("")

    root = _root(360, 288, panel.title)
    _draw_scatter(root, panel, _Frame(6, 354, 6, 282))
    return _markup(root)


def image_uri(chart: Chart) -> str:
    """The chart as an image of its own, with a legend, as a data URL for an <img>."""
    svg = _image(Figure("", ((chart,),), width=304, height=160))
    return f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}"


def save(figure: Figure, path: Path) -> Path:
    """Writes `figure` as an SVG file and returns its path."""
    path.write_text(_image(figure), encoding="utf-8")
    return path


@dataclass(frozen=True)
class _Frame:
    """The rectangle that the points of a chart are in, in units of the view box."""

    left: float
    right: float
    top: float
    bottom: float
    headroom: float = 0.0
    """Above the largest y."""


class _Scale:
    """Maps values to units of the view box."""

    def __init__(self, low: float, high: float, start: float, end: float) -> None:
        self.low, self.high, self.start = low, high, start
        self.factor = (end - start) / (high - low)

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) * self.factor

    def ticks(self, count: int, smallest: float = 0.0) -> list[float]:
        """Round values inside the range, about `count` of them and at least `smallest` apart."""
        raw = (self.high - self.low) / count
        unit = 10 ** floor(log10(raw))
        step = max(smallest, next(factor * unit for factor in (1, 2, 5, 10) if factor * unit >= raw * 0.999))
        first = -floor(-self.low / step)
        return [number * step for number in range(first, floor(self.high / step + 1e-9) + 1)]


def _image(figure: Figure) -> str:
    """The figure with its own colours: title, legend, and the charts row by row."""
    charts = [chart for row in figure.rows for chart in row]
    margin = max([46.0, *(16 + _LETTER * len(name) for row in figure.rows for name in _row_names(row[0]))])
    has_axes = any(isinstance(chart, Chart) for chart in charts)
    above, below = 26.0 if any(chart.title for chart in charts) else 10.0, 42.0 if has_axes else 8.0
    columns = max(len(row) for row in figure.rows)
    starts = [8 + margin + number * (figure.width + (66 if has_axes else 20)) for number in range(columns)]
    total = starts[-1] + figure.width + 20

    root = _root(total, 0, figure.title)  # the height is known after the legend
    root.set("xmlns", "http://www.w3.org/2000/svg")
    SubElement(root, "style").text = _STYLE
    top = 0.0
    if figure.title:
        _label(root, total / 2, 20, "middle", figure.title, "title")
        top = 28.0
    top = _legend(root, _legend_entries(charts), top, total)

    for row in figure.rows:
        for start, chart in zip(starts, row, strict=False):
            frame = _Frame(start, start + figure.width, top + above, top + above + figure.height, headroom=10)
            _label(root, (frame.left + frame.right) / 2, frame.top - 8, "middle", chart.title, "head")
            if not _has_points(chart):
                continue
            if isinstance(chart, Scatter):
                SubElement(root, "rect", {"class": "frame", **_rectangle(frame)})
                _draw_scatter(root, chart, _Frame(frame.left + 8, frame.right - 8, frame.top + 8, frame.bottom - 8))
            else:
                _draw(root, chart, frame)
                _label(root, (frame.left + frame.right) / 2, frame.bottom + 34, "middle", chart.x_label)
                _vertical_label(root, frame.left - 42, (frame.top + frame.bottom) / 2, chart.y_label)
        top += above + figure.height + below

    root.set("viewBox", f"0 0 {total:g} {top:g}")
    root.set("width", f"{total:g}")
    root.set("height", f"{top:g}")
    return _markup(root)


def _has_points(chart: Chart | Scatter) -> bool:
    return bool(chart.points) if isinstance(chart, Scatter) else any(series.points for series in chart.series)


def _row_names(chart: Chart | Scatter) -> tuple[str, ...]:
    return chart.y_names if isinstance(chart, Chart) else ()


def _legend_entries(charts: Iterable[Chart | Scatter]) -> dict[str, int]:
    """Name and colour of each series, once. A chart with a single series needs no legend."""
    entries = {}
    for chart in charts:
        if isinstance(chart, Scatter):
            entries |= {name: number for number, name in enumerate(chart.names)}
        elif len(chart.series) > 1:
            entries |= {series.name: _colour(series, number) for number, series in enumerate(chart.series)}
    return entries


def _legend(root: Element, entries: Mapping[str, int], top: float, total: float) -> float:
    """Draws the legend in as many lines as it needs; returns where it ends."""
    x, y = 54.0, top + 14
    for name, colour in entries.items():
        width = 24 + _LETTER * len(name)
        if x > 54 and x + width > total:
            x, y = 54.0, y + 16
        key = {"x": _text(x), "y": _text(y - 9), "width": "10", "height": "10"}
        SubElement(root, "rect", {"class": f"key c{colour}", **key})
        _label(root, x + 15, y, "start", name)
        x += width + 8
    return y + 6 if entries else top


def _draw(root: Element, chart: Chart, frame: _Frame) -> None:
    """Draws the grid, the numbers or names at the axes, and the series of a chart with points."""
    x, y = _scales(chart, frame)
    _axes(root, chart, x, y, frame)
    if chart.mark is not None:
        _line(root, "mark", x(chart.mark), x(chart.mark), frame.top, frame.bottom)

    for number, series in enumerate(chart.series):
        if series.points:
            _draw_series(root, series, _colour(series, number), x, y, frame)


def _scales(chart: Chart, frame: _Frame) -> tuple[_Scale, _Scale]:
    across, up = [], []
    for series in chart.series:
        for place, (a, b) in enumerate(series.points):
            x_error, y_error = _at(series.x_errors, place), _at(series.y_errors, place)
            half = series.width / 2 if series.kind == "bars" else 0.0
            across += [] if series.kind == "level" else [a - x_error - half, a + x_error + half]
            up += [b - y_error, b + y_error, *([_at(series.base, place)] if series.kind == "bars" else [])]

    low, high = _bounds(across)
    if any(series.labels for series in chart.series):  # the labels need room on the right
        low, high = low - 0.05 * (high - low), high + 0.2 * (high - low)
    if chart.x_names:
        low, high = -0.5, len(chart.x_names) - 0.5
    x = _Scale(low, high, frame.left, frame.right)

    if chart.y_names:
        return x, _Scale(-0.5, len(chart.y_names) - 0.5, frame.top, frame.bottom)
    return x, _Scale(*(chart.y_range or _bounds(up)), frame.bottom, frame.top + frame.headroom)


def _axes(root: Element, chart: Chart, x: _Scale, y: _Scale, frame: _Frame) -> None:
    is_whole = all(a == int(a) for series in chart.series for a, _ in series.points)
    x_ticks = x.ticks(5, 1.0 if is_whole else 0.0)
    columns = list(enumerate(chart.x_names)) or [(value, f"{value:g}") for value in x_ticks]
    rows = list(enumerate(chart.y_names)) or [(value, f"{value:.4g}") for value in y.ticks(4)]
    if chart.y_names:
        for value, _ in columns:
            _line(root, "grid", x(value), x(value), frame.top, frame.bottom)
    else:
        for value, _ in rows:
            _line(root, "grid", frame.left, frame.right, y(value), y(value))

    for value, name in columns:
        _label(root, x(value), frame.bottom + 16, "middle", name)
    for value, name in rows:
        _label(root, frame.left - 5, y(value) + 3.5, "end", name)


def _draw_series(root: Element, series: Series, colour: int, x: _Scale, y: _Scale, frame: _Frame) -> None:
    places = [(x(a), y(b)) for a, b in series.points]
    if series.kind == "level":
        _line(root, f"line level c{colour}", frame.left, frame.right, places[0][1], places[0][1])
        return
    if series.kind in {"line", "marked"}:
        path = " ".join(f"{_text(a)},{_text(b)}" for a, b in places)
        SubElement(root, "polyline", {"class": f"line c{colour}", "points": path})

    for number, ((a, b), (at_x, at_y)) in enumerate(zip(series.points, places, strict=True)):
        if series.kind == "bars":
            left, right = x(a - series.width / 2), x(a + series.width / 2)
            box = _Frame(left, right, at_y, y(_at(series.base, number)))
            bar = SubElement(root, "rect", {"class": f"bar c{colour}", **_rectangle(box)})
            SubElement(bar, "title").text = f"{series.name}: {b - _at(series.base, number):.4g}"
        elif series.kind != "line" or number == len(places) - 1:
            radius = 2.5 if series.kind == "line" else 3.5
            _dot(root, f"end c{colour}", at_x, at_y, radius, f"{series.name}: {_value(series, number):.4g}")

        for error, (dx, dy) in ((_at(series.x_errors, number), (1, 0)), (_at(series.y_errors, number), (0, 1))):
            if error:
                first, last = (x(a - dx * error), y(b - dy * error)), (x(a + dx * error), y(b + dy * error))
                SubElement(root, "path", {"class": f"error c{colour}", "d": _error_bar(first, last, 3 * dy, 3 * dx)})
        if series.labels:
            _label(root, x(a + _at(series.x_errors, number)) + 7, at_y + 3.5, "start", series.labels[number])


def _draw_scatter(root: Element, panel: Scatter, frame: _Frame) -> None:
    x = _Scale(*_bounds([point[0] for point in panel.points]), frame.left, frame.right)
    y = _Scale(*_bounds([point[1] for point in panel.points]), frame.bottom, frame.top)
    radius = 3.5 if len(panel.points) < 200 else 2.2

    clouds: dict[int, list[str]] = {}
    for a, b, group, title in panel.points:
        if title:
            _dot(root, f"dot c{group % len(_COLOURS)}", x(a), y(b), radius, title)
        else:
            clouds.setdefault(group % len(_COLOURS), []).append(f"M{_text(x(a))} {_text(y(b))}h0")
    # Points without a text are the round ends of lines of length 0: an element each would be five times as large.
    for group, moves in sorted(clouds.items()):
        SubElement(root, "path", {"class": f"cloud c{group}", "d": "".join(moves)})


def _value(series: Series, number: int) -> float:
    """The coordinate that was measured: x where it has an error or a label, otherwise y."""
    return series.points[number][0 if series.x_errors or series.labels else 1]


def _colour(series: Series, number: int) -> int:
    return (number if series.colour is None else series.colour) % len(_COLOURS)


def _at(values: Sequence[float], number: int) -> float:
    return values[number] if values else 0.0


def _bounds(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    if low == high == 0:  # counts and times have no negative values
        return 0.0, 1.0
    if high - low > 1e-9 * max(1.0, abs(high)):
        return low, high
    return low - (abs(low) * 0.1 or 0.5), high + (abs(high) * 0.1 or 0.5)


def _root(width: float, height: float, title: str) -> Element:
    return Element("svg", {"viewBox": f"0 0 {width:g} {height:g}", "role": "img", "aria-label": title})


def _line(root: Element, kind: str, x1: float, x2: float, y1: float, y2: float) -> None:
    ends = {"x1": _text(x1), "x2": _text(x2), "y1": _text(y1), "y2": _text(y2)}
    SubElement(root, "line", {"class": kind, **ends})


def _rectangle(box: _Frame) -> dict[str, str]:
    size = {"width": _text(box.right - box.left), "height": _text(box.bottom - box.top)}
    return {"x": _text(box.left), "y": _text(box.top), **size}


def _error_bar(first: tuple[float, float], last: tuple[float, float], cap_x: float, cap_y: float) -> str:
    ends = [f"M{_text(a - cap_x)} {_text(b - cap_y)}L{_text(a + cap_x)} {_text(b + cap_y)}" for a, b in (first, last)]
    return f"M{_text(first[0])} {_text(first[1])}L{_text(last[0])} {_text(last[1])}{''.join(ends)}"


def _label(root: Element, x: float, y: float, anchor: str, text: str, kind: str = "") -> None:
    attributes = {"class": kind} if kind else {}
    SubElement(root, "text", {**attributes, "x": _text(x), "y": _text(y), "text-anchor": anchor}).text = text


def _vertical_label(root: Element, x: float, y: float, text: str) -> None:
    if text:
        turn = f"translate({_text(x)} {_text(y)}) rotate(-90)"
        SubElement(root, "text", {"transform": turn, "text-anchor": "middle"}).text = text


def _dot(root: Element, kind: str, x: float, y: float, radius: float, title: str) -> None:
    dot = SubElement(root, "circle", {"class": kind, "cx": _text(x), "cy": _text(y), "r": f"{radius:g}"})
    SubElement(dot, "title").text = title


def _text(value: float) -> str:
    return f"{value:.1f}"


def _markup(root: Element) -> Markup:
    return Markup(tostring(root, encoding="unicode"))  # ElementTree escapes all texts and attributes
