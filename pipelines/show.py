"""What people see of a run in the terminal: bars, the plan, the results."""

import logging
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from rich import box
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
from rich.table import Table
from rich.text import Text

from darec.common.printable import printable
from schemas.semantic import LLMConfig
from stages.costs import cost_lines
from stages.execute import Result
from stages.plan import Step

_logger = logging.getLogger(__name__)


class _Console(Console):
    """Shows control characters of what it prints as escapes: titles, ids and names come from outside."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(printable(segment.text), segment.style)


# Without a terminal (a log file, cron) lines are not wrapped to some width, and nothing is animated.
console = _Console(
    soft_wrap=not sys.stdout.isatty(), width=None if sys.stdout.isatty() else 200, markup=False, emoji=False
)

_STATE_STYLE = {
    "hit": "green",
    "cached": "green",
    "published": "green",
    "done": "cyan",
    "stale": "yellow",
    "follows": "dim",
    "blocked": "red",
    "refused": "bold red",
}
_NUMBERS = ("rows", "rows to do", "seconds", "seconds last time")


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
        """What the open bar is about."""
        return self._bars.tasks[-1].description if self._bars.tasks else self.stage

    @property
    def percentage(self) -> float:
        """How far the open bar is, 0 to 100."""
        return min(100.0, self._bars.tasks[-1].percentage) if self._bars.tasks else 0.0


@contextmanager
def harmless(what: str) -> Iterator[None]:
    """Turns a failure to show something into a warning: no display, estimate or report may stop a run."""
    try:
        yield
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0]
        _logger.warning("%s could not be shown (%s: %s)", what, type(error).__name__, reason)


def print_plain(text: str) -> None:
    """Prints to standard output, free of colour and wrapping, control characters as escapes."""
    print(printable(text))


def print_error(text: str) -> None:
    """Prints to standard error, control characters as escapes."""
    print(printable(text), file=sys.stderr)


def plan_table(steps: Iterable[Step]) -> Table:
    """The plan for the terminal."""
    table = _table("Plan", "stage", "state", "why", "rows to do", "seconds last time")
    for step in steps:
        seconds = _cell(step.seconds_last_time)
        table.add_row(step.task.name, _styled(step.state), "; ".join(step.why), _cell(step.rows), seconds)
    return table


def print_plan(steps: Sequence[Step], llm: LLMConfig) -> None:
    """The plan in the terminal, and what asking the LLM would cost."""
    console.print(plan_table(steps))
    for line in cost_lines([(step.task.name, step.rows or 0, step.cost) for step in steps], llm):
        console.print(Text(line))


def plan_rows(steps: Iterable[Step]) -> list[dict[str, Any]]:
    """The plan as plain data: for `--json` and for the table in the Prefect UI."""
    return [
        {
            "stage": step.task.name,
            "state": step.state,
            "why": "; ".join(step.why),
            "rows": step.rows,
            "tokens": step.cost.tokens,
            "minutes": None if step.cost.minutes is None else round(step.cost.minutes, 2),
            "price": None if step.cost.price is None else round(step.cost.price, 6),
            "seconds_last_time": step.seconds_last_time,
            "key": step.key,
        }
        for step in steps
    ]


def results_table(results: Sequence[Result]) -> Table:
    """What a run did, task by task; the last line says whether the release was published or refused, and why."""
    table = _table("Run", "stage", "state", "why", "rows", "seconds")
    for result in results:
        why = "; ".join(result.why)
        table.add_row(result.stage, _styled(result.state), why, _cell(result.rows), _cell(result.seconds or None))
    return table


def remark_lines(results: Iterable[Result]) -> list[str]:
    """What people should know of the data and the texts behind a run; said on every night, of cached stages too."""
    return [f"{result.stage}: {remark}" for result in results for remark in result.report.remarks]


def _table(title: str, *columns: str) -> Table:
    """A table without borders, so that 80 columns are enough for what matters."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD if console.is_terminal else None)
    for column in columns:
        table.add_column(
            column,
            justify="right" if column in _NUMBERS else "left",
            overflow="fold",
            no_wrap=column in ("stage", "state"),
        )
    return table


def _styled(state: str) -> Text:
    return Text(state, style=_STATE_STYLE.get(state, "default"))


def _cell(value: float | int | None) -> str:
    if value is None:
        return ""
    return f"{value:.1f}" if isinstance(value, float) else f"{value:,}"


def print_rows(title: str, names: Sequence[str], rows: Iterable[Sequence[Any]], empty: str = "") -> None:
    """A table, or the line `empty` if there are no rows."""
    rows = list(rows)
    if not rows:
        console.print(Text(empty))
        return
    table = Table(title=Text(title), title_justify="left", box=box.SIMPLE_HEAD if console.is_terminal else None)
    for name in names:
        table.add_column(Text(name), overflow="fold", no_wrap=name in ("id", "state", "changed"))
    for row in rows:
        table.add_row(*(Text(_value(value)) for value in row))
    console.print(table)


def _value(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" if isinstance(value, float) else str(value)
