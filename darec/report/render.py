"""Renders a report as one HTML file that loads nothing and runs no script, whatever text the data contains."""

from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from darec.common.charts import line_chart, scatter
from darec.common.files import replace_text
from darec.common.printable import printable
from darec.report.collect import collect
from darec.report.content import Absent, Report
from darec.report.source import Source


def write(source: Source, path: Path) -> None:
    """Collects and renders; `path` is replaced in one rename.

    Raises:
        DarecError: the headline cannot be read. Any other section that cannot be read says so in the report.
    """
    replace_text(path, render(collect(source)))


def render(report: Report) -> str:
    """The page of a report."""
    return render_page("report.html.j2", report=report)


def render_page(template: str, **values: Any) -> str:
    """A page from a template of this folder. Every text in `values` is escaped."""
    environment = Environment(
        loader=PackageLoader("darec.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.tests["absent"] = lambda part: isinstance(part, Absent)
    environment.filters |= {
        "number": number,
        "amount": amount,
        "change": change,
        "moment": moment,
        "day": day,
        "share": share,
        "seconds": seconds,
    }
    page = environment.get_template(template).render(**values, line_chart=line_chart, scatter=scatter)
    return printable(page)  # control characters are not allowed in HTML; others would change the direction of text


def number(value: float | int | str | None) -> str:
    """Fractions with four digits, counts with thousands separators, a dash for None, text unchanged."""
    if value is None:
        return "–"
    if isinstance(value, str):
        return value
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4f}" if abs(value) < 10 else f"{value:,.1f}"


def amount(value: float | None) -> str:
    """A number that may be a count: whole ones without a fraction."""
    return number(int(value) if value is not None and value == int(value) else value)


def change(new: float | None, old: float | None) -> str:
    """The relative change from `old` to `new` in per cent; empty if there is nothing to compare."""
    if new is None or old is None:
        return ""
    return f"{(new - old) / abs(old):+.1%}" if old else ("±0" if new == old else f"{new:+.4f}")


def share(value: float, digits: int = 1) -> str:
    """A fraction in per cent."""
    return f"{value:.{digits}%}"


def moment(value: datetime) -> str:
    """Date and time of day, UTC."""
    return f"{value:%Y-%m-%d %H:%M}"


def day(value: datetime) -> str:
    """The date, UTC."""
    return f"{value:%Y-%m-%d}"


def seconds(value: float) -> str:
    """A duration in seconds, or minutes and seconds from two minutes on."""
    return f"{value:.1f} s" if value < 120 else f"{int(value) // 60} min {int(value) % 60} s"
