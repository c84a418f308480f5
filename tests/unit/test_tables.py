"""Tables on standard output: aligned, within the terminal's width, and one line per row without a terminal."""

from io import StringIO

import pytest
from rich.console import Console

from pipelines import tables

NAMES = ("id", "state", "recall", "why")
ROWS = [
    ("2026-11-26T2033Z-a45ba339", "refused", 0.5, "recall@20 0.1200 < 0.1852 (current 0.1949 on the same 900 users)"),
    ("2026-11-26T2021Z-206a136f", "current", None, "all 18 checks passed"),
]


def printed(monkeypatch: pytest.MonkeyPatch, width: int | None, **options: str) -> list[str]:
    """The lines of a table on a terminal of that width; None: without a terminal."""
    output = StringIO()
    console = Console(
        file=output, width=width or 200, force_terminal=width is not None, color_system=None, soft_wrap=width is None
    )
    monkeypatch.setattr(tables, "console", console)
    tables.print_table("Releases", NAMES, ROWS, text="why", **options)
    return output.getvalue().splitlines()


def test_without_a_terminal_a_row_is_one_line_without_blanks_at_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    title, head, first, second = printed(monkeypatch, None)
    assert (title, head.split()) == ("Releases", list(NAMES))
    assert first.endswith(ROWS[0][3]) and second.endswith(ROWS[1][3])
    assert first.index("recall@20") == second.index("all 18") == head.index("why")
    assert first.index("0.5000") + len("0.5000") == head.index("recall") + len("recall")


@pytest.mark.parametrize("width", [60, 80, 100])
def test_a_terminal_s_width_is_kept_and_no_word_is_lost(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    lines = printed(monkeypatch, width)
    assert max(map(len, lines)) <= width
    assert " ".join(" ".join(lines).split()).count("on the same 900 users)") == 1


def test_where_little_room_is_left_the_text_stands_below_its_row(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = printed(monkeypatch, 70)
    assert lines[1].split() == ["id", "state", "recall"]
    assert lines[-1] == "    all 18 checks passed"


def test_control_characters_and_line_feeds_of_cells_are_not_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    output = StringIO()
    monkeypatch.setattr(tables, "console", Console(file=output, width=200, soft_wrap=True))
    tables.print_table("t", ("title",), [("a\nb\x1b[31m",)])
    assert output.getvalue() == "t\ntitle\na b\\u001b[31m\n"


def test_no_rows_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    output = StringIO()
    monkeypatch.setattr(tables, "console", Console(file=output, width=80))
    tables.print_table("t", NAMES, [], empty="nothing yet")
    assert output.getvalue() == "nothing yet\n"
