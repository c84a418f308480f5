"""What people see of a run: bars and tables in the terminal, progress and tables in the Prefect UI."""

import time
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from stages.execute import Result
from stages.plan import Step

console = Console()
_STATE_STYLE = {
    "hit": "green",
    "stale": "yellow",
    "follows": "dim",
    "blocked": "red",
    "cached": "green",
    "done": "cyan",
}
_UI_INTERVAL = 3.0  # seconds between two updates of a bar in the Prefect UI


class Bars:
    """The `Progress` of one stage: a bar with rate and time left in the terminal, and one in the Prefect UI."""

    def __init__(self, stage: str) -> None:
        self._stage = stage
        self._bars = Progress(
            TextColumn("  {task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("[dim]{task.fields[note]}"),
            console=console,
            transient=True,
        )
        self._bar: TaskID | None = None
        self._artifact: Any = None
        self._shown = 0.0

    def __enter__(self) -> "Bars":
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._show_in_ui(100.0, finished=True)
        self._bars.stop()

    def start(self, label: str, total: int, unit: str = "rows") -> None:
        """Opens a bar, closing the one before."""
        if self._bar is not None:
            self._bars.remove_task(self._bar)
        self._bar = self._bars.add_task(f"{self._stage}: {label}", total=total, rate="", note="", unit=unit)
        self._show_in_ui(0.0)

    def advance(self, count: int = 1, note: str = "") -> None:
        """Moves the bar."""
        if self._bar is None:
            return
        bar = self._bars.tasks[-1]
        elapsed = bar.elapsed or 0.0
        rate = f"{(bar.completed + count) / elapsed:.1f} {bar.fields['unit']}/s" if elapsed > 0 else ""
        self._bars.update(self._bar, advance=count, rate=rate, note=note)
        self._show_in_ui(min(100.0, bar.percentage))

    def _show_in_ui(self, percent: float, *, finished: bool = False) -> None:
        from prefect.artifacts import create_progress_artifact, update_progress_artifact

        if self._bar is None or (not finished and time.monotonic() - self._shown < _UI_INTERVAL):
            return
        self._shown = time.monotonic()
        if self._artifact is None:
            self._artifact = create_progress_artifact(
                percent, description=f"{self._stage}: {self._bars.tasks[-1].description}"
            )
        else:
            update_progress_artifact(self._artifact, percent)


def plan_table(steps: Iterable[Step]) -> Table:
    """The plan for the terminal."""
    table = Table(title="Plan", title_justify="left")
    for column in ("stage", "state", "why", "rows to do", "seconds last time"):
        table.add_column(
            column, justify="right" if column in ("rows to do", "seconds last time") else "left", overflow="fold"
        )
    for step in steps:
        style = _STATE_STYLE[step.state]
        table.add_row(
            step.stage.name,
            f"[{style}]{step.state}[/]",
            escape("\n".join(step.why)),
            _cell(step.rows),
            _cell(step.seconds_last_time),
        )
    return table


def plan_rows(steps: Iterable[Step]) -> list[dict[str, Any]]:
    """The plan as plain data: for `--json` and for the table in the Prefect UI."""
    return [
        {
            "stage": step.stage.name,
            "state": step.state,
            "why": "; ".join(step.why),
            "rows": step.rows,
            "seconds_last_time": step.seconds_last_time,
            "key": step.key,
        }
        for step in steps
    ]


def result_row(result: Result) -> dict[str, Any]:
    """What became of a stage, as a flow hands it on."""
    manifest = result.artifact.manifest if result.artifact else None
    return {
        "stage": result.stage,
        "state": "cached" if result.cached else "done",
        "why": "; ".join(result.why),
        "key": result.artifact.key if result.artifact else None,
        "rows": manifest.rows if manifest else None,
        "seconds": manifest.seconds if manifest and not result.cached else None,
    }


def results_table(results: Sequence[dict[str, Any]]) -> Table:
    """What a run did, stage by stage."""
    table = Table(title="Run", title_justify="left")
    for column in ("stage", "state", "why", "rows", "seconds"):
        table.add_column(column, justify="right" if column in ("rows", "seconds") else "left", overflow="fold")
    for result in results:
        style = _STATE_STYLE[result["state"]]
        state = f"[{style}]{result['state']}[/]"
        table.add_row(result["stage"], state, escape(result["why"]), _cell(result["rows"]), _cell(result["seconds"]))
    return table


def _cell(value: float | int | None) -> str:
    if value is None:
        return ""
    return f"{value:.1f}" if isinstance(value, float) else f"{value:,}"
