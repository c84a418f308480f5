"""Incremental reads, whatever is added to a table and when."""

import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import polars as pl
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from darec.dataset.connections import Since, TableConnection
from darec.dataset.incremental import read_new, read_whole, since_of
from schemas.places import DeltaTable


class InMemory(TableConnection):
    """A table of whole numbers: `at`, and `value`."""

    def __init__(self) -> None:
        self.table: list[tuple[int, int | None]] = []

    def state(self) -> None:
        return None

    @contextmanager
    def rows(self, since: Since | None = None) -> Iterator[pa.RecordBatchReader]:
        rows = [row for row in self.table if since is None or row[0] >= since.value]
        frame = pl.DataFrame(rows, schema={"at": pl.Int64, "value": pl.Int64}, orient="row")
        yield frame.to_arrow().to_reader(max_chunksize=3)


def append(source: InMemory, section: DeltaTable, folder: Path) -> list[Path]:
    """One night; returns the parts of the copy."""
    before = sorted(folder.glob("*/part-*.parquet"))[-100:]
    newest = max((path.parent for path in before), default=None)
    parts = sorted(newest.glob("part-*.parquet")) if newest else []
    draft = folder / f"{len(list(folder.iterdir())):03d}"
    draft.mkdir()
    since = since_of(section, parts)
    done = (
        read_whole(source, section, draft, parts, "test")
        if since is None
        else read_new(source, section, since, draft, parts, "test")
    )
    if not done.changed:
        for path in draft.iterdir():
            path.unlink()
        draft.rmdir()
        return parts
    return sorted(draft.glob("part-*.parquet"))


value = st.integers(0, 2) | st.none()
arrivals = st.lists(st.lists(st.tuples(st.integers(-3, 4), value), max_size=5), min_size=1, max_size=4)


@settings(max_examples=40, deadline=None)
@given(nights=arrivals)
def test_rows_that_arrive_within_the_lag_are_all_there_and_none_twice(nights):
    """Each row comes at most 3 before the newest of the nights before, which the lag covers."""
    source, section = InMemory(), DeltaTable(kind="delta", table="x", watermark="at", lag=3)
    with tempfile.TemporaryDirectory() as folder:
        newest = 0
        for night in nights:
            source.table += [(newest + offset, content) for offset, content in night]
            newest = max([newest, *(at for at, _ in source.table)])
            source.table.sort(key=str)  # a database promises no order
            parts = append(source, section, Path(folder))
            found = pl.concat([pl.read_parquet(part) for part in parts]).rows() if parts else []
            assert Counter(found) == Counter(source.table)


@settings(max_examples=20, deadline=None)
@given(nights=arrivals)
def test_with_a_key_the_newest_row_of_each_is_there(nights):
    source, section = InMemory(), DeltaTable(kind="delta", table="x", watermark="at", key=("value",))
    with tempfile.TemporaryDirectory() as folder:
        clock, latest = 0, {}
        for night in nights:
            for _, content in night:
                clock += 1
                source.table.append((clock, content))
                latest[content] = clock
            parts = append(source, section, Path(folder))
            found = pl.concat([pl.read_parquet(part) for part in parts]).rows() if parts else []
            assert sorted(found, key=str) == sorted(((at, content) for content, at in latest.items()), key=str)


def test_many_small_parts_become_one_file(tmp_path, monkeypatch):
    monkeypatch.setattr("darec.dataset.incremental._MOST_PARTS", 3)
    source, section = InMemory(), DeltaTable(kind="delta", table="x", watermark="at")
    counts = []
    for night in range(6):
        source.table.append((night, night))
        counts.append(len(append(source, section, tmp_path)))
    assert counts == [1, 2, 3, 1, 2, 3]
    assert source.table == sorted(pl.read_parquet(sorted(tmp_path.glob("005/*.parquet"))).rows())
