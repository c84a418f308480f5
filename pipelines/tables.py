"""Tables on standard output: aligned columns, one of which may contain long text and uses the remaining width.

On a narrow terminal the text is wrapped, or printed below its row. Without a terminal (a log file, a pipe) every row is
one line of any length.
"""

from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Any

from rich.cells import cell_len
from rich.text import Text

from darec.common.printable import printable
from pipelines.show import console
from schemas.semantic import LLMConfig
from stages.costs import cost_lines
from stages.execute import Result
from stages.plan import Step

_GAP = "  "
_LEAST_TEXT = 30  # minimum width of the text column; with less, the text is printed below its row
_INDENT = "    "

_STYLES = {
    "hit": "green",
    "cached": "green",
    "current": "green",
    "ok": "green",
    "published": "green",
    "done": "cyan",
    "stale": "yellow",
    "note": "yellow",
    "follows": "dim",
    "blocked": "red",
    "failed": "red",
    "missing": "bold red",
    "refused": "bold red",
}
"""Colours of the cells of a column `state` or `outcome`."""


def print_table(
    title: str, names: Sequence[str], rows: Iterable[Sequence[Any]], *, text: str | None = None, empty: str = ""
) -> None:
    """Prints a table.

    Args:
        title: printed above the table.
        names: of the columns.
        rows: cells by column. Columns of numbers are aligned to the right.
        text: name of the column with running text, which is printed last.
        empty: a line to print instead of a table without rows.
    """
    rows = list(rows)
    if not rows:
        console.print(Text(empty))
        return

    # The text column goes last, as all others have a fixed width.
    order = [name for name in names if name != text]
    places = [names.index(name) for name in order]
    lines, headings = _aligned(order, [[row[place] for place in places] for row in rows])
    texts = [_cell(row[names.index(text)]) if text is not None else "" for row in rows]

    taken = cell_len(headings) + len(_GAP)
    room = console.width - taken if console.is_terminal else None
    below = room is not None and room < min(_LEAST_TEXT, max(map(cell_len, texts)))

    console.print(Text(title, style="bold"))
    heading = headings if below or text is None else headings + _GAP + text
    console.print(Text(heading.rstrip(), style="dim"), soft_wrap=True)
    for line, words in zip(lines, texts, strict=True):
        first, *others = _wrapped(words, console.width - len(_INDENT) if below else room)
        if below:
            others = [first, *others] if words else []
        else:
            line.append(_GAP + first)
        line.rstrip()
        console.print(line, soft_wrap=True, highlight=False)
        for other in others:
            console.print(Text((_INDENT if below else " " * taken) + other), soft_wrap=True, highlight=False)


def _aligned(names: Sequence[str], rows: Sequence[Sequence[Any]]) -> tuple[list[Text], str]:
    """The rows as lines of equal width, with states in colour, and the line of the column names."""
    cells = [[_cell(value) for value in row] for row in rows]
    numeric = [
        all(isinstance(value, int | float | Decimal | None) for value in column) for column in zip(*rows, strict=True)
    ]
    widths = [max(map(cell_len, column)) for column in zip(names, *cells, strict=True)]

    def joined(row: Sequence[str]) -> str:
        padded = []
        for cell, width, right in zip(row, widths, numeric, strict=True):
            padding = " " * (width - cell_len(cell))
            padded.append(padding + cell if right else cell + padding)
        return _GAP.join(padded)

    lines = []
    for row in cells:
        line = Text(joined(row))
        for name, cell in zip(names, row, strict=True):
            if name in ("state", "outcome") and cell in _STYLES:
                line.highlight_words([cell], _STYLES[cell])
        lines.append(line)

    return lines, joined(names)


def print_plan(steps: Sequence[Step], llm: LLMConfig) -> None:
    """Prints what a run would do, stage by stage, and what the LLM would cost."""
    rows = [(s.task.name, s.state, _rows(s), _seconds(s.seconds_last_time), "; ".join(s.why)) for s in steps]
    print_table(
        "Plan: rows to process, seconds of the last run", ("stage", "state", "rows", "seconds", "why"), rows, text="why"
    )
    for line in cost_lines([(step.task.name, _rows(step) or 0, step.cost) for step in steps], llm):
        console.print(Text(line))


def _rows(step: Step) -> str | int | None:
    return f"about {step.rows:,}" if step.about and step.rows is not None else step.rows


def print_results(results: Iterable[Result]) -> None:
    """Prints what a run did; the last line says whether the release was published or refused, and why."""
    rows = [(r.stage, r.state, r.rows, _seconds(r.seconds or None), "; ".join(r.why)) for r in results]
    print_table("Run", ("stage", "state", "rows", "seconds", "why"), rows, text="why")


def _wrapped(words: str, room: int | None) -> list[str]:
    """`words` in lines of at most `room` columns; one line if there is no limit."""
    if room is None or not words:
        return [words]
    return [line.plain.rstrip() for line in Text(words).wrap(console, room)]


def _seconds(seconds: float | None) -> Decimal | None:
    return None if seconds is None else Decimal(f"{seconds:.1f}")


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4f}"
    return f"{value:,}" if isinstance(value, int) else printable(str(value)).replace("\n", " ")
