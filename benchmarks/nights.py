"""Simulated nights on MovieLens-100K by timestamp: the data and cost of each night, and the table and plot of all
nights.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.tables import markdown
from darec.common.charts import Chart, Figure, Series, save


@dataclass(frozen=True)
class Night:
    """One night: its data, new users and items, cost, and quality."""

    number: int
    interactions: int
    users: int
    items: int
    new_users: int
    """Number of users requested from the LLM; likewise for items below."""
    new_items: int
    tokens: int
    llm_seconds: float
    seconds: float
    """Seconds of all stages together."""
    epochs: int
    train_seconds: float
    recall: float
    published: bool
    scratch_epochs: int | None = None
    """Training from scratch on the same data; None if it was not run."""
    scratch_seconds: float | None = None
    scratch_recall: float | None = None


class History:
    """MovieLens-100K in the order of time, up to a night."""

    def __init__(self, files: Mapping[str, Path]) -> None:
        """Takes the files by role: interactions, items, users."""
        self._files = files
        lines = self._files["interactions"].read_text(encoding="latin-1").splitlines(keepends=True)
        self._head = [line for line in lines[:1] if ":" in line]  # only one of the two layouts has a header
        self._rows = sorted(lines[len(self._head) :], key=lambda line: (float(line.rsplit("\t", 1)[1]), line))

    def counts(self, nights: int, growth: float) -> list[int]:
        """The number of interactions in the first night and in each of `nights` more; the last one has all."""
        return [round(len(self._rows) / (1 + growth) ** left) for left in range(nights, -1, -1)]

    def until(self, count: int, folder: Path) -> Path:
        """Writes the first `count` interactions, and all items and users, to `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        for role in ("items", "users"):
            copy = folder / self._files[role].name
            copy.write_bytes(self._files[role].read_bytes())
        interactions = "".join([*self._head, *self._rows[:count]])
        (folder / self._files["interactions"].name).write_text(interactions, encoding="latin-1")
        return folder


def finished(log: Path) -> list[Night]:
    """The finished nights, from a log with one JSON object per line."""
    return [Night(**json.loads(line)) for line in log.read_text().splitlines()] if log.is_file() else []


def note(log: Path, night: Night) -> None:
    """Appends a night to the log."""
    with log.open("a") as stream:
        stream.write(json.dumps(asdict(night)) + "\n")


def table(nights: Sequence[Night]) -> str:
    """All nights in Markdown."""
    head = ["night", "users", "items", "interactions", "prompts: users", "items", "tokens", "LLM min", "all min"]
    head += ["train s", "epochs", "Recall@20", "published", "scratch: train s", "epochs", "Recall@20"]
    return markdown(head, [_row(night) for night in nights])


def _row(night: Night) -> list[str]:
    known = [str(night.number), f"{night.users:,}", f"{night.items:,}", f"{night.interactions:,}"]
    asked = [f"{night.new_users} ({night.new_users / night.users:.1%})", str(night.new_items), f"{night.tokens:,}"]
    took = [f"{night.llm_seconds / 60:.1f}", f"{night.seconds / 60:.1f}", f"{night.train_seconds:.0f}"]
    came = [str(night.epochs), f"{night.recall:.4f}", "yes" if night.published else "refused"]
    if night.scratch_recall is None:
        return [*known, *asked, *took, *came, "", "", ""]
    scratch = [f"{night.scratch_seconds:.0f}", str(night.scratch_epochs), f"{night.scratch_recall:.4f}"]
    return [*known, *asked, *took, *came, *scratch]


def plot(nights: Sequence[Night], path: Path) -> Path:
    """Plots profiled rows, seconds of training and Recall@20 per night, with a warm start and from scratch, without the
    first night.
    """
    later = [night for night in nights if night.number]
    scratch = [night for night in later if night.scratch_recall is not None]
    users = [(night.number, night.new_users) for night in later]
    both = [(night.number, night.new_users + night.new_items) for night in later]
    rows = (
        Series("users", tuple(users), "bars", colour=1),
        Series("items", tuple(both), "bars", colour=2, base=tuple(count for _, count in users)),
    )

    seconds = (
        Series("warm start", tuple((night.number, night.train_seconds) for night in later), colour=0),
        Series(
            "from scratch", tuple((night.number, night.scratch_seconds or 0) for night in scratch), "dots", colour=3
        ),
    )
    longest = max((y for series in seconds for _, y in series.points), default=1.0)

    recall = (
        Series("warm start", tuple((night.number, night.recall) for night in later), colour=0),
        Series("from scratch", tuple((night.number, night.scratch_recall or 0) for night in scratch), "dots", colour=3),
    )
    charts = (
        Chart("rows profiled", "night", rows),
        Chart("training, seconds", "night", seconds, y_range=(0, longest)),
        Chart("test Recall@20", "night", recall),
    )
    return save(Figure("", (charts,), width=260, height=180), path)
