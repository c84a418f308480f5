"""Quality and cost of the last runs, up to this release."""

from collections.abc import Callable

from darec.common.charts import Chart, Series
from darec.common.errors import DarecError
from darec.report.nights import history
from darec.report.quality import largest_cutoff
from darec.report.source import Source
from schemas.night import Night

_NIGHTS = 60  # maximum number of runs, the latest ones


def trend(source: Source) -> tuple[Chart, ...]:
    """Recall, coverage, tokens and minutes of the runs whose bundle the gate has checked; x is their number.

    Raises:
        DarecError: there are fewer than two such runs.
    """
    gated = [night for night in history(source.store.root) if night.outcome in ("published", "refused")]
    if source.release is not None:
        gated = [night for night in gated if night.started <= source.release.created]
    gated = gated[-_NIGHTS:]
    if len(gated) < 2:
        raise DarecError("a trend requires two runs whose bundle the gate has checked")

    cutoff = largest_cutoff(gated[-1].metrics)
    wanted: dict[str, Callable[[Night], float | None]] = {
        f"recall@{cutoff}": lambda night: night.metrics.get(f"recall@{cutoff}"),
        f"coverage@{cutoff}": lambda night: night.metrics.get(f"coverage@{cutoff}"),
        "LLM tokens": lambda night: night.tokens,
        "minutes": lambda night: night.minutes,
    }
    charts = (_chart(title, gated, value) for title, value in wanted.items())
    return tuple(chart for chart in charts if chart.series)


def _chart(title: str, gated: list[Night], value: Callable[[Night], float | None]) -> Chart:
    values = [(float(number), value(night)) for number, night in enumerate(gated, start=1)]
    points = tuple((number, float(found)) for number, found in values if found is not None)
    return Chart(title, "night", (Series(title, points),) if len(points) > 1 else ())
