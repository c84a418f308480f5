"""The console, progress bars, and the plan as plain data."""

import logging
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.segment import Segment

from darec.common.printable import printable
from stages.execute import Result
from stages.plan import Step

_logger = logging.getLogger(__name__)


class _Console(Console):
    """Prints control characters as escapes, because titles, ids and names are untrusted."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(printable(segment.text), segment.style)


# Without a terminal (a log file, cron) lines are not wrapped to some width, and nothing is animated.
console = _Console(
    soft_wrap=not sys.stdout.isatty(), width=None if sys.stdout.isatty() else 200, markup=False, emoji=False
)


class Bars:
    """The `Progress` of one task as a bar in the terminal, with rate and time left; nothing without a terminal."""

    def __init__(self, stage: str) -> None:
        self.stage = stage
        self._bars = Progress(
            TextColumn("  {task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", style="dim", markup=False),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._bar: TaskID | None = None

    def __enter__(self) -> "Bars":
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def start(self, label: str, total: int, unit: str = "rows") -> None:
        """Opens a bar, closing the one before."""
        if self._bar is not None:
            self._bars.remove_task(self._bar)
        self._bar = self._bars.add_task(f"{self.stage}: {label}", total=total, rate="", note="", unit=unit)

    def advance(self, count: int = 1, note: str = "") -> None:
        """Moves the bar."""
        if self._bar is None:
            return
        bar = self._bars.tasks[-1]
        elapsed = bar.elapsed or 0.0
        rate = f"{(bar.completed + count) / elapsed:.1f} {bar.fields['unit']}/s" if elapsed > 0 else ""
        self._bars.update(self._bar, advance=count, rate=rate, note=note)

    @property
    def description(self) -> str:
        """The description of the open bar."""
        return self._bars.tasks[-1].description if self._bars.tasks else self.stage

    @property
    def percentage(self) -> float:
        """Progress of the open bar in percent."""
        return min(100.0, self._bars.tasks[-1].percentage) if self._bars.tasks else 0.0


@contextmanager
def harmless(what: str, but: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Turns an error in the block into a warning, so that a display, an estimate or a report cannot stop a run.

    Errors of the types in `but` are raised.
    """
    try:
        yield
    except but:
        raise
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0]
        _logger.warning("%s could not be shown (%s: %s)", what, type(error).__name__, reason)


def print_plain(text: str) -> None:
    """Prints to standard output, free of colour and wrapping, control characters as escapes."""
    print(printable(text))


def print_error(text: str) -> None:
    """Prints to standard error, control characters as escapes."""
    print(printable(text), file=sys.stderr)


def plan_rows(steps: Iterable[Step]) -> list[dict[str, Any]]:
    """The plan as plain data: for `--json` and for the table in the Prefect UI."""
    return [
        {
            "stage": step.task.name,
            "state": step.state,
            "why": "; ".join(step.why),
            "rows": step.rows,
            "rows_are_estimated": step.about,
            "tokens": step.cost.tokens,
            "minutes": None if step.cost.minutes is None else round(step.cost.minutes, 2),
            "price": None if step.cost.price is None else round(step.cost.price, 6),
            "seconds_last_time": step.seconds_last_time,
            "key": step.key,
        }
        for step in steps
    ]


def remark_lines(results: Iterable[Result]) -> list[str]:
    """The remarks of all reports, including those of cached stages."""
    return [f"{result.stage}: {remark}" for result in results for remark in result.report.remarks]
