"""Collects all sections of a report. A section that cannot be made says why; the others are not affected."""

from collections.abc import Callable
from typing import TypeVar

from darec.common.errors import DarecError
from darec.report.content import Absent, Report
from darec.report.costs import costs, origin
from darec.report.data import data_notes
from darec.report.drift import drift
from darec.report.quality import curves, headline, metrics, slices, text_gains
from darec.report.semantics import generation, item_map, neighbours
from darec.report.source import Source
from darec.report.texts import texts
from darec.report.trend import trend
from darec.report.viewers import viewers

Section = TypeVar("Section")


def collect(source: Source) -> Report:
    """Reads everything a report shows."""
    return Report(
        headline=headline(source),
        metrics=_section(metrics, source),
        curves=_section(curves, source),
        text_gains=_section(text_gains, source),
        slices=_section(slices, source),
        generation=_section(generation, source),
        texts=_section(texts, source),
        neighbours=_section(neighbours, source),
        viewers=_section(viewers, source),
        map=_section(item_map, source),
        data=_section(data_notes, source),
        drift=_section(drift, source),
        trend=_section(trend, source),
        costs=_section(costs, source),
        origin=_section(origin, source),
    )


def _section(build: Callable[[Source], Section], source: Source) -> Section | Absent:
    try:
        return build(source)
    except DarecError as error:
        return Absent(str(error))
