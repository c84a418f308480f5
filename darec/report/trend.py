"""Quality and cost of the last runs, up to this release."""

from collections.abc import Callable

from darec.common.errors import DarecError
from darec.report.content import Chart, Line
from darec.report.nights import history
from darec.report.quality import greatest_cutoff
from darec.report.source import Source
from schemas.night import Night

_NIGHTS = 60  # the last ones are shown


def trend(source: Source) -> tuple[Chart, ...]:
    """Recall, coverage, tokens and minutes of the nights that met the gate; x counts them.

    Raises:
        DarecError: there are not two such nights.
    """
    judged = [night for night in history(source.store.root) if night.outcome in ("published", "refused")]
    if source.release is not None:
        judged = [night for night in judged if night.started <= source.release.created]
    judged = judged[-_NIGHTS:]
    if len(judged) < 2:
        raise DarecError("a trend needs two nights that met the gate")

    cutoff = greatest_cutoff(judged[-1].metrics)
    wanted: dict[str, Callable[[Night], float | None]] = {
        f"recall@{cutoff}": lambda night: night.metrics.get(f"recall@{cutoff}"),
        f"coverage@{cutoff}": lambda night: night.metrics.get(f"coverage@{cutoff}"),
        "LLM tokens": lambda night: night.tokens,
        "minutes": lambda night: night.minutes,
    }
    charts = (_chart(title, judged, value) for title, value in wanted.items())
    return tuple(chart for chart in charts if chart.lines)


def _chart(title: str, judged: list[Night], value: Callable[[Night], float | None]) -> Chart:
    values = [(float(number), value(night)) for number, night in enumerate(judged, start=1)]
    points = tuple((number, float(found)) for number, found in values if found is not None)
    return Chart(title, "night", (Line(title, points),) if len(points) > 1 else ())
